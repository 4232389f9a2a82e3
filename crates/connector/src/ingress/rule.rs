//! The rules, in their order: the first that matches a request's host and path names its service (contract, 6.2).

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::bare_host;
use super::connect::TlsSetupError;
use super::origin::Origin as HttpOrigin;
use super::service::{Service, ServiceError};
use crate::config::{ConfigError, ConfigFile, Origin, OriginOptions, OriginSettings, TypedRule};

/// The rules of one configuration: at least one, and the last matches everything.
#[derive(Debug)]
pub struct Rules {
    rules: Vec<Rule>,
    defaults: OriginSettings,
}

/// One rule.
#[derive(Debug)]
pub(crate) struct Rule {
    hostname: String,
    service: Service,
    settings: OriginSettings,
    /// Where the service is, if it is reached over HTTP.
    origin: Option<HttpOrigin>,
}

/// The rules cannot be used. The words are cloudflared's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RulesError {
    /// A service is none.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// A service's certificates cannot be used.
    #[error("{}", crate::error_chain(.0))]
    Tls(#[from] TlsSetupError),
}

impl Rules {
    /// No rules were given: every request is answered 503.
    pub(crate) fn none() -> Self {
        let settings = OriginSettings::new(&OriginOptions::default());
        let rule = Rule {
            hostname: String::new(),
            service: Service::Status(StatusCode::SERVICE_UNAVAILABLE),
            settings: settings.clone(),
            origin: None,
        };
        Self { rules: vec![rule], defaults: settings }
    }

    /// The rules of a file; an error says where.
    ///
    /// # Errors
    /// The rules cannot be used.
    pub fn of_file(file: &ConfigFile) -> Result<Self, ConfigError> {
        let (rules, defaults) = file.ingress();
        Self::new(rules, defaults).map_err(|(number, error)| {
            let origin = rules.get(number).map_or(Origin::Nowhere, |rule| rule.origin.clone());
            ConfigError::new(origin, error.to_string())
        })
    }

    /// The rules that an edge pushed.
    pub(crate) fn pushed(rules: &[TypedRule], defaults: &OriginOptions) -> Result<Self, RulesError> {
        Self::new(rules, defaults).map_err(|(_, error)| error)
    }

    /// An error comes with the number of its rule.
    fn new(rules: &[TypedRule], defaults: &OriginOptions) -> Result<Self, (usize, RulesError)> {
        if rules.is_empty() {
            return Ok(Self::none());
        }
        let checked = rules
            .iter()
            .enumerate()
            .map(|(number, rule)| Rule::new(rule, defaults).map_err(|error| (number, error)));
        Ok(Self { rules: checked.collect::<Result<_, _>>()?, defaults: OriginSettings::new(defaults) })
    }

    /// The rule for a request, and its number from 0.
    pub(crate) fn matching(&self, host: &str, _path: &str) -> (usize, &Rule) {
        let last = self.rules.len() - 1;
        let host = bare_host(host);
        let matches = |rule: &Rule| rule.hostname.is_empty() || rule.hostname == host;
        let number = self.rules.iter().position(matches).unwrap_or(last);
        (number, &self.rules[number])
    }

    /// Every rule with every setting.
    pub(crate) fn json(&self) -> Value {
        Value::Array(self.rules.iter().map(Rule::json).collect())
    }

    /// Every rule as it is reported to the edge: only what was set.
    pub(crate) fn json_of_what_was_set(&self) -> Value {
        Value::Array(self.rules.iter().map(Rule::json_of_what_was_set).collect())
    }

    /// The top-level settings.
    pub(crate) fn defaults_json(&self) -> Value {
        self.defaults.json()
    }
}

impl Rule {
    fn new(typed: &TypedRule, defaults: &OriginOptions) -> Result<Self, RulesError> {
        let service = Service::parse(&typed.service)?;
        let settings = OriginSettings::new(&typed.origin_request.over(defaults));
        let origin = HttpOrigin::of(&service, &settings)?;
        Ok(Self { hostname: typed.hostname.clone(), service, settings, origin })
    }

    pub(super) fn service(&self) -> &Service {
        &self.service
    }

    pub(super) fn settings(&self) -> &OriginSettings {
        &self.settings
    }

    pub(super) fn origin(&self) -> Option<&HttpOrigin> {
        self.origin.as_ref()
    }

    fn json(&self) -> Value {
        json!({
            "hostname": self.hostname,
            "path": null,
            "service": self.service.to_string(),
            "originRequest": self.settings.json(),
        })
    }

    fn json_of_what_was_set(&self) -> Value {
        let mut json = Map::new();
        if !self.hostname.is_empty() {
            json.insert("hostname".into(), self.hostname.clone().into());
        }
        json.insert("service".into(), self.service.to_string().into());
        json.insert("originRequest".into(), self.settings.json_of_what_was_set());
        Value::Object(json)
    }
}

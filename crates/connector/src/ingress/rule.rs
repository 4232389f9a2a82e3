//! The rules, in their order: the first that matches a request's host and path names its service (contract, 6.2).
//!
//! A value that exists is usable: there is a last rule, it matches everything, and it is the only one that does.

use std::fmt;

use http::StatusCode;
use regex::bytes::{Regex, RegexBuilder};
use serde_json::{Map, Value, json};

use super::bare_host;
use super::connect::{Limits, TlsSetupError};
use super::go_url::{GoUrl, UrlError};
use super::origin::Origin as HttpOrigin;
use super::service::{Service, ServiceError};
use crate::config::{
    AllowNetworks, ConfigError, ConfigFile, IpRule, IpRuleError, Origin, OriginOptions, OriginSettings,
    TypedRule,
};

/// The rules of one configuration.
#[derive(Debug)]
pub struct Rules {
    list: Vec<Rule>,
    defaults: OriginSettings,
    /// Nobody gave any: what there is, is ours.
    are_none: bool,
}

/// One rule.
#[derive(Debug)]
pub struct Rule {
    hostname: String,
    /// The host name in the spelling of DNS, if it differs.
    punycode: Option<String>,
    path: Option<Regex>,
    service: Service,
    settings: OriginSettings,
    ip_rules: Vec<IpRule>,
    limits: Limits,
    /// Where the service is, if it is reached over HTTP.
    origin: Option<HttpOrigin>,
}

/// The rules cannot be used. The words are cloudflared's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RulesError {
    /// A service is none.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// One of `ipRules` is none.
    #[error("unable to create ip rule for {service}: {error}")]
    IpRule { service: String, error: IpRuleError },
    /// A host name with a port.
    #[error("Hostname cannot contain a port")]
    Port,
    /// A wildcard elsewhere than at the beginning.
    #[error(
        "Hostname patterns can have at most one wildcard character (\"*\") and it can only be used for subdomains, e.g. \"*.example.com\""
    )]
    Wildcard,
    /// The last rule does not match everything.
    #[error("The last ingress rule must match all URLs (i.e. it should not have a hostname or path filter)")]
    LastRule,
    /// Another rule does.
    #[error(
        "Rule #{number} is matching the hostname '{hostname}', but this will match every hostname, meaning the rules which follow it will never be triggered."
    )]
    CatchAll { number: usize, hostname: String },
    /// A path that is no regular expression.
    #[error("Rule #{number} has an invalid regex: {problem}")]
    Path { number: usize, problem: String },
    /// A service's certificates cannot be used.
    #[error("{}", crate::error_chain(.0))]
    Tls(#[from] TlsSetupError),
    /// A socket is in no network.
    #[error("{0} is not in allow-networks, which this connector was started with")]
    NotAllowed(String),
}

/// A URL cannot be tried against rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAUrl {
    /// It cannot be read.
    #[error("{0} is not a valid URL")]
    Malformed(String),
    /// It has no host.
    #[error("{0} doesn't have a hostname, consider adding a scheme")]
    NoHost(String),
}

impl Rules {
    /// No rules were given: every request is answered 503.
    pub(crate) fn none() -> Self {
        let settings = OriginSettings::new(&OriginOptions::default());
        let service = Service::Status(StatusCode::SERVICE_UNAVAILABLE);
        let rule = Rule::catch_all(service, settings.clone(), None);
        Self { list: vec![rule], defaults: settings, are_none: true }
    }

    /// The one rule of `--url`, `--hello-world` and the like.
    pub(crate) fn single(service: Service, options: &OriginOptions) -> Result<Self, RulesError> {
        let settings = OriginSettings::new(options);
        let origin = HttpOrigin::of(&service, &settings, &Limits::default())?;
        let rule = Rule::catch_all(service, settings.clone(), origin);
        Ok(Self { list: vec![rule], defaults: settings, are_none: false })
    }

    /// The rules of a file; an error says where.
    ///
    /// # Errors
    /// The rules cannot be used.
    pub fn of_file(file: &ConfigFile) -> Result<Self, ConfigError> {
        let (rules, defaults) = file.ingress();
        // What stands in the connector's own file is its owner's word.
        Self::new(rules, defaults, &Limits::default()).map_err(|(number, error)| {
            let origin = rules.get(number).map_or(Origin::Nowhere, |rule| rule.origin.clone());
            ConfigError::new(origin, error.to_string())
        })
    }

    /// The rules that an edge pushed. They name services, but not beyond what this connector may dial at all.
    pub(crate) fn pushed(
        rules: &[TypedRule],
        defaults: &OriginOptions,
        allowed: &AllowNetworks,
    ) -> Result<Self, RulesError> {
        Self::new(rules, defaults, &Limits::of(allowed)).map_err(|(_, error)| error)
    }

    /// An error comes with the number of its rule.
    fn new(
        rules: &[TypedRule],
        defaults: &OriginOptions,
        limits: &Limits,
    ) -> Result<Self, (usize, RulesError)> {
        if rules.is_empty() {
            return Ok(Self { defaults: OriginSettings::new(defaults), ..Self::none() });
        }
        let checked = rules.iter().enumerate().map(|(index, rule)| {
            let place = Place { index, is_last: index + 1 == rules.len() };
            Rule::new(rule, defaults, place, limits).map_err(|error| (index, error))
        });
        Ok(Self {
            list: checked.collect::<Result<_, _>>()?,
            defaults: OriginSettings::new(defaults),
            are_none: false,
        })
    }

    /// Whether nobody gave any.
    pub fn are_none(&self) -> bool {
        self.are_none
    }

    /// The rule for a request, and its number from 0.
    pub(crate) fn matching(&self, host: &str, path: &str) -> (usize, &Rule) {
        let host = bare_host(host).to_lowercase();
        let last = self.list.len() - 1;
        let number = self.list.iter().position(|rule| rule.matches(&host, path)).unwrap_or(last);
        (number, &self.list[number])
    }

    /// The rule for a URL, and its number from 0: `ingress rule URL`.
    ///
    /// # Errors
    /// The text is no URL.
    pub fn matching_url(&self, text: &str) -> Result<(usize, &Rule), NotAUrl> {
        let url = url(text)?;
        Ok(self.matching(&url.authority, &decoded(&url.path)))
    }

    /// Whether a text is a URL that [`Rules::matching_url`] can try.
    ///
    /// # Errors
    /// It is not.
    pub fn check_url(text: &str) -> Result<(), NotAUrl> {
        url(text).map(drop)
    }

    /// Every rule with every setting.
    pub(crate) fn json(&self) -> Value {
        Value::Array(self.list.iter().map(Rule::json).collect())
    }

    /// Every rule as it is reported to the edge: only what was set.
    pub(crate) fn json_of_what_was_set(&self) -> Value {
        Value::Array(self.list.iter().map(Rule::json_of_what_was_set).collect())
    }

    /// The top-level settings.
    pub(crate) fn defaults_json(&self) -> Value {
        self.defaults.json()
    }
}

fn url(text: &str) -> Result<GoUrl, NotAUrl> {
    let url = GoUrl::parse(text).map_err(|_: UrlError| NotAUrl::Malformed(text.to_owned()))?;
    if url.host().is_empty() && url.scheme.is_empty() {
        return Err(NotAUrl::NoHost(text.to_owned()));
    }
    Ok(url)
}

/// Where a rule stands.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// From 0.
    index: usize,
    is_last: bool,
}

impl Rule {
    fn catch_all(service: Service, settings: OriginSettings, origin: Option<HttpOrigin>) -> Self {
        Self {
            hostname: String::new(),
            punycode: None,
            path: None,
            service,
            settings,
            ip_rules: Vec::new(),
            limits: Limits::default(),
            origin,
        }
    }

    fn new(
        typed: &TypedRule,
        defaults: &OriginOptions,
        place: Place,
        limits: &Limits,
    ) -> Result<Self, RulesError> {
        let options = typed.origin_request.over(defaults);
        let settings = OriginSettings::new(&options);
        let service = Service::parse(&typed.service, settings.bastion_mode)?;
        let ip_rules = settings.ip_rules.iter().map(IpRule::new).collect::<Result<Vec<_>, _>>();
        let ip_rules =
            ip_rules.map_err(|error| RulesError::IpRule { service: service.to_string(), error })?;
        let is_catch_all = matches!(typed.hostname.as_str(), "" | "*") && typed.path.is_empty();
        check_hostname(&typed.hostname, is_catch_all, place)?;
        let punycode = if is_catch_all { None } else { punycode(&typed.hostname) };
        let path = match typed.path.as_str() {
            "" => None,
            path => Some(expression(path).map_err(|error| RulesError::Path {
                number: place.index + 1,
                problem: error.to_string().split_whitespace().collect::<Vec<_>>().join(" "),
            })?),
        };
        if matches!(service, Service::Unix { .. }) && !limits.are_none() {
            return Err(RulesError::NotAllowed(service.to_string()));
        }
        let origin = HttpOrigin::of(&service, &settings, limits)?;
        Ok(Self {
            hostname: typed.hostname.clone(),
            punycode,
            path,
            service,
            settings,
            ip_rules,
            limits: limits.clone(),
            origin,
        })
    }

    fn matches(&self, host: &str, path: &str) -> bool {
        let host_matches = matches!(self.hostname.as_str(), "" | "*")
            || host_matches(&self.hostname.to_lowercase(), host)
            || self.punycode.as_deref().is_some_and(|name| host_matches(name, host));
        host_matches && self.path.as_ref().is_none_or(|regex| regex.is_match(path.as_bytes()))
    }

    pub(super) fn service(&self) -> &Service {
        &self.service
    }

    pub(super) fn settings(&self) -> &OriginSettings {
        &self.settings
    }

    pub(super) fn ip_rules(&self) -> &[IpRule] {
        &self.ip_rules
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn origin(&self) -> Option<&HttpOrigin> {
        self.origin.as_ref()
    }

    fn json(&self) -> Value {
        json!({
            "hostname": self.hostname,
            "path": self.path.as_ref().map(Regex::as_str),
            "service": self.service.to_string(),
            "Handlers": null,
            "originRequest": self.settings.json(),
        })
    }

    fn json_of_what_was_set(&self) -> Value {
        let mut json = Map::new();
        if !self.hostname.is_empty() {
            json.insert("hostname".into(), self.hostname.clone().into());
        }
        if let Some(path) = &self.path {
            json.insert("path".into(), path.as_str().into());
        }
        json.insert("service".into(), self.service.to_string().into());
        json.insert("originRequest".into(), self.settings.json_of_what_was_set());
        Value::Object(json)
    }
}

impl fmt::Display for Rule {
    /// Some lines for a person, each with a tab before it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.hostname.is_empty() {
            writeln!(f, "\thostname: {}", self.hostname)?;
        }
        if let Some(path) = &self.path {
            writeln!(f, "\tpath: {}", path.as_str())?;
        }
        write!(f, "\tservice: {}", self.service)
    }
}

fn check_hostname(hostname: &str, is_catch_all: bool, place: Place) -> Result<(), RulesError> {
    if has_port(hostname) {
        return Err(RulesError::Port);
    }
    if hostname.rfind('*').is_some_and(|position| position > 0) {
        return Err(RulesError::Wildcard);
    }
    match (place.is_last, is_catch_all) {
        (true, false) => Err(RulesError::LastRule),
        (false, true) => Err(RulesError::CatchAll { number: place.index + 1, hostname: hostname.to_owned() }),
        _ => Ok(()),
    }
}

/// Whether Go would split a port off.
fn has_port(hostname: &str) -> bool {
    match hostname.strip_prefix('[') {
        Some(rest) => rest
            .split_once(']')
            .and_then(|(_, behind)| behind.strip_prefix(':'))
            .is_some_and(|port| !port.contains(':')),
        None => hostname.matches(':').count() == 1,
    }
}

/// As Go means it: `\w` and `\d` are ASCII.
fn expression(path: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(path).unicode(false).build()
}

/// `*.x` matches whatever ends in `.x`.
fn host_matches(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) if suffix.starts_with('.') => host.ends_with(suffix),
        _ => pattern == host,
    }
}

fn punycode(hostname: &str) -> Option<String> {
    let (wildcard, name) = hostname.strip_prefix("*.").map_or(("", hostname), |name| ("*.", name));
    let ascii = idna::domain_to_ascii_strict(name).ok()?;
    (ascii != name).then(|| format!("{wildcard}{ascii}"))
}

/// A path without its percent signs, as rules match it.
pub(super) fn decoded(path: &str) -> String {
    let hex = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let (bytes, mut out) = (path.as_bytes(), Vec::with_capacity(path.len()));
    let mut index = 0;
    while let Some(byte) = bytes.get(index) {
        let pair =
            (*byte == b'%').then(|| hex(bytes.get(index + 1)).zip(hex(bytes.get(index + 2)))).flatten();
        if let Some(value) = pair.and_then(|(high, low)| u8::try_from(high * 16 + low).ok()) {
            out.push(value);
            index += 3;
        } else {
            out.push(*byte);
            index += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

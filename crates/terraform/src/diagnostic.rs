//! What a person is told when something fails: which object, what was expected, and where in the configuration.

use std::error::Error;

use crate::calls::CallsError;
use crate::client::CallError;
use crate::protocol::{AttributePath, Diagnostic, Selector, Severity, Step};
use crate::schema::{Attribute, Kind, Resource};

/// An error and its causes, as one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// An error that is about no attribute.
pub(crate) fn error(summary: impl Into<String>, detail: impl Into<String>) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error.into(),
        summary: summary.into(),
        detail: detail.into(),
        attribute: None,
    }
}

/// An error that is about one attribute.
pub(crate) fn error_at(name: &str, summary: impl Into<String>, detail: impl Into<String>) -> Diagnostic {
    Diagnostic { attribute: Some(path(vec![named(name)])), ..error(summary, detail) }
}

/// What calls that failed say: each of the API's errors where it points.
pub(crate) fn failed(resource: &'static Resource, what: &str, failure: &CallsError) -> Vec<Diagnostic> {
    let summary = format!("Cannot {what} {}", resource.names[0]);
    match failure {
        CallsError::Call(CallError::Refused { errors, .. }) if !errors.is_empty() => errors
            .iter()
            .map(|refusal| Diagnostic {
                attribute: refusal
                    .pointer
                    .as_deref()
                    .and_then(|pointer| located(resource.attributes, pointer)),
                ..error(summary.clone(), format!("{} (code {})", refusal.message, refusal.code))
            })
            .collect(),
        CallsError::Call(_) | CallsError::Unknown(_) | CallsError::Answer(_) => {
            vec![error(summary, chain(failure))]
        }
    }
}

/// Where a JSON pointer into a body points in a configuration, as far as that can be said.
fn located(attributes: &'static [Attribute], pointer: &str) -> Option<AttributePath> {
    let mut steps = Vec::new();
    let mut attributes = attributes;
    let mut segments = pointer.split('/').skip(1);
    while let Some(segment) = segments.next() {
        let Some(attribute) = attributes.iter().find(|attribute| attribute.field == segment) else { break };
        steps.push(named(attribute.name));
        attributes = match attribute.kind {
            Kind::Object(nested) => nested,
            Kind::Block(nested) => {
                steps.push(Step { selector: Some(Selector::ElementKeyInt(0)) });
                nested
            }
            Kind::Objects(nested) => {
                let Some(at) = segments.next().and_then(|at| at.parse().ok()) else { break };
                steps.push(Step { selector: Some(Selector::ElementKeyInt(at)) });
                nested
            }
            // An element of a set has no place.
            Kind::Text
            | Kind::Flag
            | Kind::Number
            | Kind::Texts
            | Kind::TextSet
            | Kind::TextMap
            | Kind::TextsMap
            | Kind::ObjectSet(_) => break,
        };
    }
    (!steps.is_empty()).then(|| path(steps))
}

pub(crate) fn path(steps: Vec<Step>) -> AttributePath {
    AttributePath { steps }
}

pub(crate) fn named(name: &str) -> Step {
    Step { selector: Some(Selector::AttributeName(name.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::resource;

    fn shown(kind: &str, pointer: &str) -> String {
        let path = located(resource(kind).unwrap().attributes, pointer).unwrap_or_default();
        let step = |step: Step| match step.selector.unwrap() {
            Selector::AttributeName(name) | Selector::ElementKeyString(name) => name,
            Selector::ElementKeyInt(at) => at.to_string(),
        };
        path.steps.into_iter().map(step).collect::<Vec<_>>().join(".")
    }

    #[test]
    fn a_pointer_into_a_body_leads_to_the_attribute() {
        assert_eq!(shown("cloudflare_argo_tunnel", "/tunnel_secret"), "secret");
        assert_eq!(shown("cloudflare_zero_trust_list", "/items/3/value"), "items");
        let rule = "cloudflare_zero_trust_gateway_policy";
        assert_eq!(shown(rule, "/rule_settings/redirect/target_uri"), "rule_settings.redirect.target_uri");
        let resolver = "/rule_settings/dns_resolvers/ipv4/1/port";
        assert_eq!(shown(rule, resolver), "rule_settings.dns_resolvers.ipv4.1.port");
        let old = shown("cloudflare_teams_rule", "/rule_settings/block_reason");
        assert_eq!(old, "rule_settings.0.block_page_reason");
        assert_eq!(shown(rule, "/nothing/like/it"), "");
    }
}

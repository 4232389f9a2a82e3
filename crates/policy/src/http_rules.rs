//! The passes over the rules of the `http` filter (Gateway semantics, 3): first whether TLS is opened at all, then what
//! becomes of each request.
//!
//! What holds: an `off` rule is asked before anything is decrypted, and before every other rule; a rule that needs what is
//! not known yet is never passed over. What a page looks like, and how bytes are opened, is not said here.

use adit_model::{
    Action, Filter, FirstBytes, FlowFacts, GatewaySettings, InspectionMode, NonHttpTls, RequestFacts, Rule,
    RuleId,
};

use crate::facts::{Room, of_http, phase_of};
use crate::network_rules::Walk;
use crate::rule::CompiledRule;
use crate::scheme::http_phase;
use crate::snapshot::Snapshot;

/// What is done with a flow that was permitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// Its bytes pass as they are.
    Pass(PassReason),
    /// Its TLS is opened, and what is inside is judged.
    OpenTls,
    /// It is HTTP, and judged as it is.
    ReadHttp,
    /// It is refused: it would have to be opened and cannot be, as its TLS carries something else than HTTP, or is QUIC's.
    Refuse,
}

/// Why a flow's bytes are not looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassReason {
    /// Nothing asks for it.
    NotAsked,
    /// It is neither TLS nor HTTP, or not on a port where that is looked for.
    NotRecognised,
    /// Its TLS carries something else than HTTP, and the account lets that pass.
    NotHttp,
    /// A rule says so.
    Rule(RuleId),
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy)]
pub enum HttpVerdict<'s> {
    /// It passes, by this rule if one matches.
    Allow(Option<&'s Rule>),
    /// It is refused.
    Block(&'s Rule),
    /// Its client is sent elsewhere.
    Redirect(&'s Rule),
    /// The response decides.
    Later,
}

impl Snapshot {
    /// The account's settings.
    pub fn gateway_settings(&self, account: adit_model::AccountId) -> GatewaySettings {
        self.gateway_settings.get(&account).copied().unwrap_or_else(|| GatewaySettings::of(account))
    }

    /// Whether anything of the account asks what its flows say.
    pub fn looks_into_flows(&self, account: adit_model::AccountId) -> bool {
        self.gateway_settings(account).tls_decrypt
            || self
                .rules(account, Filter::Http)
                .iter()
                .any(|rule| rule.rule.enabled && !decides_opening(&rule.rule))
    }

    /// What is done with a permitted flow whose client said this first.
    pub fn treatment(&self, flow: &FlowFacts, first: &FirstBytes) -> Treatment {
        let settings = self.gateway_settings(flow.account);
        let here = |port| settings.inspection == InspectionMode::Dynamic || flow.destination.port() == port;
        match first.protocol {
            Some("tls" | "quic") if !settings.tls_decrypt => Treatment::Pass(PassReason::NotAsked),
            // It cannot be opened: what would be is refused, so that clients take TCP (Gateway semantics, 3.2).
            Some("quic") if here(443) => match self.off_rule(flow, first) {
                Some(rule) => Treatment::Pass(PassReason::Rule(rule.id)),
                None => Treatment::Refuse,
            },
            Some("tls") if here(443) => match self.off_rule(flow, first) {
                Some(rule) => Treatment::Pass(PassReason::Rule(rule.id)),
                None => opened(&settings, first),
            },
            Some("http" | "http2") if here(80) => {
                if self.looks_into_flows(flow.account) {
                    Treatment::ReadHttp
                } else {
                    Treatment::Pass(PassReason::NotAsked)
                }
            }
            Some(_) | None => Treatment::Pass(PassReason::NotRecognised),
        }
    }

    /// The `off` rule that lets this flow's TLS pass unopened. An `on` rule ends the search; a rule that cannot be read
    /// opens no way round the others.
    fn off_rule(&self, flow: &FlowFacts, first: &FirstBytes) -> Option<&Rule> {
        let room = Room::with_name(flow, first.server_name.as_deref());
        let facts = of_http(&room, None);
        let rules = self.rules(flow.account, Filter::Http).iter().filter(|rule| decides_opening(&rule.rule));
        match self.walk(rules.map(|rule| &**rule), http_phase::HELLO, &facts) {
            Walk::Matched(rule) if rule.rule.action == Action::Off => Some(&rule.rule),
            Walk::Matched(_) | Walk::Unmatched | Walk::Later | Walk::Unreadable(_) => None,
        }
    }

    /// What becomes of a request, with what is known of it so far.
    pub fn http_verdict(&self, flow: &FlowFacts, request: &RequestFacts<'_>) -> HttpVerdict<'_> {
        let room = Room::with_name(flow, request.host);
        let facts = of_http(&room, Some(request));
        let rules = self.rules(flow.account, Filter::Http).iter().filter(|rule| !decides_opening(&rule.rule));
        match self.walk(rules.map(|rule| &**rule), phase_of(request), &facts) {
            Walk::Unmatched => HttpVerdict::Allow(None),
            Walk::Later => HttpVerdict::Later,
            Walk::Unreadable(rule) => HttpVerdict::Block(&rule.rule),
            Walk::Matched(rule) => carried_out(rule),
        }
    }
}

/// TLS is opened unless what it offers is known to be something else than HTTP.
fn opened(settings: &GatewaySettings, first: &FirstBytes) -> Treatment {
    let may_be_http =
        first.application_protocols.is_empty() || ["h2", "http/1.1"].iter().any(|http| first.offers(http));
    match settings.non_http_tls {
        _ if may_be_http => Treatment::OpenTls,
        NonHttpTls::Error => Treatment::Refuse,
        NonHttpTls::Passthrough => Treatment::Pass(PassReason::NotHttp),
    }
}

fn carried_out(rule: &CompiledRule) -> HttpVerdict<'_> {
    let rule = &rule.rule;
    let asks_for_session =
        rule.settings.check_session.as_ref().is_some_and(|check| check.enforce == Some(true));
    match rule.action {
        // Nobody has signed in yet (Gateway semantics, 5.1).
        Action::Allow if asks_for_session => HttpVerdict::Block(rule),
        Action::Allow | Action::Noscan => HttpVerdict::Allow(Some(rule)),
        Action::Redirect => HttpVerdict::Redirect(rule),
        Action::Block
        | Action::Override
        | Action::Safesearch
        | Action::Ytrestricted
        | Action::Off
        | Action::On
        | Action::L4Override
        | Action::Egress
        | Action::Resolve => HttpVerdict::Block(rule),
    }
}

/// Whether a rule decides about opening, and nothing else.
pub(crate) fn decides_opening(rule: &Rule) -> bool {
    matches!(rule.action, Action::Off | Action::On)
}

//! The decision on one flow: steps 4 and 6 of the design's life of a flow.

use std::net::SocketAddr;

use adit_model::{Action, FlowFacts, Refusal, RouteId, Rule, RuleId, TunnelId, never_dialled};

use crate::facts::{Known, Room, of_flow};
use crate::network_rules::Walk;
use crate::snapshot::Snapshot;

/// What was decided of a flow, and by what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The flow may go through this tunnel.
    Permitted(Permit),
    /// It may not, and is not dialled.
    Refused {
        /// Why.
        refusal: Refusal,
        /// The rule that decided, if one did.
        rule: Option<RuleId>,
    },
    /// A rule asks what the client's first bytes say: to be decided again when they came, or when they do not come.
    AwaitsFirstBytes,
}

/// Where a permitted flow goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit {
    /// The rule that decided, if one did.
    pub rule: Option<RuleId>,
    /// The route: the longest prefix that holds the destination, or that of the name for which the destination stands.
    pub route: RouteId,
    /// The route's tunnel, of the same account.
    pub tunnel: TunnelId,
    /// What is dialled: the flow's destination, or what a rule puts in its place.
    pub destination: SocketAddr,
}

impl Snapshot {
    /// Decides one flow. Every path answers. Rules are asked without allocating; what they are asked about is made once
    /// for each call, and only for an account that has rules.
    ///
    /// Only [`Known::Opening`] can be answered with [`Decision::AwaitsFirstBytes`], and only if the flow has a route: what
    /// cannot be carried anyhow is refused at once.
    pub fn decide(&self, facts: &FlowFacts, known: Known<'_>) -> Decision {
        if never_dialled(facts.destination.ip()).is_some() {
            return refused(Refusal::NeverDialled);
        }
        if self.registration(facts.registration).is_none_or(|registration| registration.revoked) {
            return refused(Refusal::Revoked);
        }
        match self.ask_rules(facts, known) {
            Walk::Unmatched => self.routed(facts, facts.destination, None),
            Walk::Matched(compiled) => self.carry_out(facts, &compiled.rule),
            Walk::Unreadable(compiled) => blocked(&compiled.rule),
            Walk::Later => match self.routed(facts, facts.destination, None) {
                Decision::Permitted(_) => Decision::AwaitsFirstBytes,
                refused @ (Decision::Refused { .. } | Decision::AwaitsFirstBytes) => refused,
            },
        }
    }

    fn ask_rules(&self, facts: &FlowFacts, known: Known<'_>) -> Walk<'_> {
        if self.rules(facts.account, adit_model::Filter::L4).is_empty() {
            return Walk::Unmatched;
        }
        let room = Room::new(facts, known, self.gateway_settings(facts.account).inspection);
        self.network_rules(facts.account, known.phase(), &of_flow(facts, known, &room))
    }

    /// Does what the rule says that has matched. An action that means nothing here is refused where rules are written; if
    /// one is here all the same, nothing passes by it.
    fn carry_out(&self, facts: &FlowFacts, rule: &Rule) -> Decision {
        match rule.action {
            // Nobody has signed in yet: a flow without identity never satisfies it (Gateway semantics, 5.1).
            Action::Allow if asks_for_session(rule) => blocked(rule),
            Action::Allow => self.routed(facts, facts.destination, Some(rule.id)),
            Action::L4Override => {
                let destination = overridden(facts, rule);
                match never_dialled(destination.ip()) {
                    Some(_) => Decision::Refused { refusal: Refusal::NeverDialled, rule: Some(rule.id) },
                    None => self.routed(facts, destination, Some(rule.id)),
                }
            }
            Action::Block
            | Action::Override
            | Action::Safesearch
            | Action::Ytrestricted
            | Action::Off
            | Action::On
            | Action::Noscan
            | Action::Redirect
            | Action::Egress
            | Action::Resolve => blocked(rule),
        }
    }

    fn routed(&self, facts: &FlowFacts, destination: SocketAddr, rule: Option<RuleId>) -> Decision {
        // A name leads where its route says, and not where another has the same address. What a rule puts in the place of
        // the address is no longer the name's.
        if let Some(named) = &facts.named
            && destination.ip() == facts.destination.ip()
        {
            return match self.hostname_route(facts.account, &named.name) {
                Some(route) => {
                    Decision::Permitted(Permit { rule, route: route.id, tunnel: route.tunnel, destination })
                }
                None => Decision::Refused { refusal: Refusal::Unroutable, rule },
            };
        }
        match self.route(facts.virtual_network, destination.ip().to_canonical()) {
            // A tunnel serves only flows of its own account, whatever its routes say (design, section 4).
            Some(route) if route.account == facts.account && self.serves(route.tunnel, facts.account) => {
                Decision::Permitted(Permit { rule, route: route.id, tunnel: route.tunnel, destination })
            }
            Some(_) | None => Decision::Refused { refusal: Refusal::Unroutable, rule },
        }
    }
}

fn refused(refusal: Refusal) -> Decision {
    Decision::Refused { refusal, rule: None }
}

fn blocked(rule: &Rule) -> Decision {
    Decision::Refused { refusal: Refusal::Blocked, rule: Some(rule.id) }
}

fn asks_for_session(rule: &Rule) -> bool {
    rule.settings.check_session.as_ref().is_some_and(|check| check.enforce == Some(true))
}

/// What is dialled instead: a part that the rule does not name stays the flow's own.
fn overridden(facts: &FlowFacts, rule: &Rule) -> SocketAddr {
    let target = rule.settings.l4override.as_ref();
    let address = target.and_then(|target| target.ip).unwrap_or(facts.destination.ip());
    let port = target.and_then(|target| target.port).filter(|_| facts.protocol.has_ports());
    SocketAddr::new(address, port.unwrap_or(facts.destination.port()))
}

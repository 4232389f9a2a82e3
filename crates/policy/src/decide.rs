//! The decision on one flow: steps 4 and 6 of the design's life of a flow.

use adit_model::{FlowFacts, Refusal, RouteId, RuleId, TunnelId, never_dialled};

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
}

/// Where a permitted flow goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit {
    /// The rule that decided, if one did.
    pub rule: Option<RuleId>,
    /// The route: the longest prefix that holds the destination.
    pub route: RouteId,
    /// The route's tunnel, of the same account.
    pub tunnel: TunnelId,
}

impl Snapshot {
    /// Decides one flow. Every path answers, and nothing is allocated.
    pub fn decide(&self, facts: &FlowFacts) -> Decision {
        let refused = |refusal| Decision::Refused { refusal, rule: None };
        if never_dialled(facts.destination.ip()).is_some() {
            return refused(Refusal::NeverDialled);
        }
        if self.registration(facts.registration).is_none_or(|registration| registration.revoked) {
            return refused(Refusal::Revoked);
        }
        let address = facts.destination.ip().to_canonical();
        match self.route(facts.virtual_network, address) {
            // A tunnel serves only flows of its own account, whatever its routes say (design, section 4).
            Some(route) if route.account == facts.account && self.serves(route.tunnel, facts.account) => {
                Decision::Permitted(Permit { rule: None, route: route.id, tunnel: route.tunnel })
            }
            Some(_) | None => refused(Refusal::Unroutable),
        }
    }
}

//! The walk over the rules of the `l4` filter: the first that matches decides (Gateway semantics, 2 and 5).
//!
//! What holds: a rule that needs what is not known yet is never passed over, since what stands below it may not be applied
//! before it is decided; and a rule that this program cannot read is never passed over either. What follows from a match
//! is said by [`Snapshot::decide`].

use adit_expr::{Facts, Phase};
use adit_model::{AccountId, Filter};

use crate::rule::{CompiledRule, Condition};
use crate::snapshot::Snapshot;

/// What the rules say of a flow.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Walk<'s> {
    /// None of them matches.
    Unmatched,
    /// This one matches.
    Matched(&'s CompiledRule),
    /// What is not known yet decides whether this one matches.
    Later,
    /// Whether this one matches cannot be known: it is not readable.
    Unreadable(&'s CompiledRule),
}

/// Whether a condition is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Met {
    No,
    Later,
    Unreadable,
    Yes,
}

impl Snapshot {
    /// Asks the rules in their order, with what is known by `phase`.
    pub(crate) fn network_rules(&self, account: AccountId, phase: Phase, facts: &Facts<'_>) -> Walk<'_> {
        self.walk(self.rules(account, Filter::L4).iter().map(|rule| &**rule), phase, facts)
    }

    /// The first of these rules that matches. What is not enabled is passed over.
    pub(crate) fn walk<'s>(
        &'s self,
        rules: impl Iterator<Item = &'s CompiledRule>,
        phase: Phase,
        facts: &Facts<'_>,
    ) -> Walk<'s> {
        for rule in rules {
            if !rule.rule.enabled {
                continue;
            }
            match self.meets(rule, phase, facts) {
                Met::No => {}
                Met::Later => return Walk::Later,
                Met::Unreadable => return Walk::Unreadable(rule),
                Met::Yes => return Walk::Matched(rule),
            }
        }
        Walk::Unmatched
    }

    /// A rule matches when all three of its conditions are met (policy language, 1); one that is not met decides, whatever
    /// is unknown of the others.
    pub(crate) fn meets(&self, rule: &CompiledRule, phase: Phase, facts: &Facts<'_>) -> Met {
        let mut met = Met::Yes;
        for condition in [&rule.traffic, &rule.identity, &rule.device_posture] {
            let this = match condition {
                Condition::Always => Met::Yes,
                Condition::Unreadable(_) => Met::Unreadable,
                Condition::Program(program) => match program.matches_by(phase, facts, self) {
                    Some(true) => Met::Yes,
                    Some(false) => return Met::No,
                    None => Met::Later,
                },
            };
            met = worse(met, this);
        }
        met
    }
}

/// What is unreadable stays so, whatever is still to come.
fn worse(a: Met, b: Met) -> Met {
    match (a, b) {
        (Met::Unreadable, _) | (_, Met::Unreadable) => Met::Unreadable,
        (Met::Later, _) | (_, Met::Later) => Met::Later,
        (Met::No, _) | (_, Met::No) => Met::No,
        (Met::Yes, Met::Yes) => Met::Yes,
    }
}

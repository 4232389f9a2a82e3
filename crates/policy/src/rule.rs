//! Rules and lists, compiled.
//!
//! What holds: a rule whose texts cannot be compiled is there all the same and says so ([`Condition::Unreadable`]), so that
//! whoever decides by it refuses instead of passing it over. What follows from a match is not said here.

use adit_expr::{Expression, ItemError, List, ListKinds, Phase, Program};
use adit_model::{AccountId, ListId, ListKind, Rule};

use crate::in_force::InForce;
use crate::scheme::{self, Part};

/// One of a rule's three conditions.
#[derive(Debug, Clone)]
pub enum Condition {
    /// None: everything meets it.
    Always,
    /// An expression.
    Program(Program),
    /// A text that is no expression for this program, and why: the control plane that checked it knows more than this
    /// edge. Nothing is known of what meets it.
    Unreadable(String),
}

/// A rule, ready to be asked.
#[derive(Debug, Clone)]
pub struct CompiledRule {
    /// The rule.
    pub rule: Rule,
    /// What is filtered.
    pub traffic: Condition,
    /// Whose it is.
    pub identity: Condition,
    /// From what device.
    pub device_posture: Condition,
    /// The phase from which on all that it asks is known.
    pub phase: Phase,
    in_force: Option<InForce>,
}

impl CompiledRule {
    pub(crate) fn new(rule: Rule, lists: &dyn ListKinds) -> Self {
        let part = |part, text: &str| condition(&rule, part, text, lists);
        let (traffic, identity, device_posture) = (
            part(Part::Traffic, &rule.traffic),
            part(Part::Identity, &rule.identity),
            part(Part::DevicePosture, &rule.device_posture),
        );
        let (traffic, in_force) = match InForce::new(&rule) {
            Ok(in_force) => (traffic, Some(in_force)),
            Err(error) => (Condition::Unreadable(error.to_string()), None),
        };
        let phase = [&traffic, &identity, &device_posture].into_iter().map(Condition::phase).max();
        Self { phase: phase.unwrap_or_default(), traffic, identity, device_posture, in_force, rule }
    }

    /// Whether it is in force at this time, in microseconds since 1970: neither expired nor out of its schedule. A rule of
    /// which that is not known is.
    pub fn is_in_force(&self, micros: i64) -> bool {
        self.in_force.as_ref().is_none_or(|in_force| in_force.at(micros))
    }

    /// Whether all of it was understood.
    pub fn is_readable(&self) -> bool {
        [&self.traffic, &self.identity, &self.device_posture]
            .into_iter()
            .all(|condition| !matches!(condition, Condition::Unreadable(_)))
    }
}

impl Condition {
    fn phase(&self) -> Phase {
        match self {
            Self::Program(program) => program.phase(),
            Self::Always | Self::Unreadable(_) => 0,
        }
    }
}

fn condition(rule: &Rule, part: Part, text: &str, lists: &dyn ListKinds) -> Condition {
    if text.is_empty() {
        return Condition::Always;
    }
    let Some(scheme) = scheme::rule(rule.filter, part, rule.action.as_str()) else {
        return Condition::Unreadable(format!("{} has no {} expression", rule.filter, part.as_str()));
    };
    match Expression::new(text, scheme, lists) {
        Ok(None) => Condition::Always,
        Ok(Some(expression)) => Condition::Program(expression.compile()),
        Err(error) => Condition::Unreadable(error.to_string()),
    }
}

/// A list, ready to be asked.
#[derive(Debug)]
pub struct CompiledList {
    /// Its account.
    pub account: AccountId,
    /// What its items are.
    pub kind: ListKind,
    /// How many items it has.
    pub len: usize,
    values: List,
}

impl CompiledList {
    pub(crate) fn new<'i>(
        account: AccountId,
        kind: ListKind,
        items: impl ExactSizeIterator<Item = &'i str> + Clone,
    ) -> Self {
        let len = items.len();
        let values = match List::new(list_kind(kind), items.clone()) {
            Ok(values) => values,
            // An item that this program does not understand takes no other with it.
            Err(ItemError { .. }) => only_good(kind, items),
        };
        Self { account, kind, len, values }
    }

    /// Its values.
    pub fn values(&self) -> &List {
        &self.values
    }
}

fn only_good<'i>(kind: ListKind, items: impl Iterator<Item = &'i str>) -> List {
    let good = items.filter(|item| List::new(list_kind(kind), [*item]).is_ok());
    List::new(list_kind(kind), good).expect("each item is one by itself")
}

/// A list's id, as expressions name it.
pub fn list_id(id: ListId) -> adit_expr::ListId {
    adit_expr::ListId::from_bytes(*id.uuid().as_bytes())
}

/// A list's kind, as expressions are checked by.
pub const fn list_kind(kind: ListKind) -> adit_expr::ListKind {
    match kind {
        ListKind::Serial => adit_expr::ListKind::Serial,
        ListKind::Url => adit_expr::ListKind::Url,
        ListKind::Domain => adit_expr::ListKind::Domain,
        ListKind::Email => adit_expr::ListKind::Email,
        ListKind::Ip => adit_expr::ListKind::Ip,
        ListKind::Category => adit_expr::ListKind::Category,
        ListKind::Location => adit_expr::ListKind::Location,
        ListKind::Device => adit_expr::ListKind::Device,
        ListKind::Aaguid => adit_expr::ListKind::Aaguid,
    }
}

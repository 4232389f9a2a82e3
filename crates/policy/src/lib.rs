//! Routes and rules compiled into an immutable snapshot, and the decision on one flow.
//!
//! [`State`] takes changes and keeps the objects; [`State::snapshot`] compiles them into a [`Snapshot`], which never
//! changes and knows all that a decision needs. [`Snapshot::decide`] is total, and its answer carries
//! the reason, so that records, `adit explain` and tests go one code path. The fields that expressions of rules may name are in
//! [`scheme`]. No sockets, no clock, no database.

mod decide;
mod dns_facts;
mod dns_rules;
mod explain;
mod facts;
mod http_rules;
mod in_force;
mod network_rules;
mod origin_roots;
mod rule;
mod safe_search;
pub mod scheme;
mod shared_map;
mod snapshot;
mod state;
mod trie;

pub use decide::{Decision, Permit};
pub use dns_rules::{AnswerVerdict, QueryVerdict, Resolver};
pub use explain::Asked;
pub use facts::{Known, never_supplied};
pub use http_rules::{HttpVerdict, PassReason, Treatment};
pub use rule::{CompiledList, CompiledRule, Condition, list_id, list_kind};
pub use snapshot::{Snapshot, TunnelRefusal};
pub use state::State;

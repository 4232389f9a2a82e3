//! The tests on PostgreSQL.

use crate::place::PostgresPlace as Place;

#[path = "lost.rs"]
mod lost;
#[path = "node_roles.rs"]
mod node_roles;
#[path = "records.rs"]
mod records;
#[path = "suite.rs"]
mod suite;

//! The tests on PostgreSQL.

use crate::place::PostgresPlace as Place;

#[path = "lost.rs"]
mod lost;
#[path = "suite.rs"]
mod suite;

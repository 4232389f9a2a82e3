//! The tests on SQLite.

use crate::place::SqlitePlace as Place;

#[path = "backups.rs"]
mod backups;
#[path = "suite.rs"]
mod suite;

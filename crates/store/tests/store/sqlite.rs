//! The tests on SQLite.

use crate::place::SqlitePlace as Place;

#[path = "backups.rs"]
mod backups;
#[path = "records.rs"]
mod records;
#[path = "suite.rs"]
mod suite;

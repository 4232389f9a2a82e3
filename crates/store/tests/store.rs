//! The store as its callers see it, with either database: the same tests run on both.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::duplicate_mod, reason = "each test is written once, for both databases")]

#[path = "store/place.rs"]
mod place;
#[path = "../../../testbed/src/postgres.rs"]
#[allow(dead_code, unreachable_pub, reason = "other tests include it too, each what it needs")]
mod postgres_server;

#[path = "store/postgres.rs"]
mod postgres;
#[path = "store/sqlite.rs"]
mod sqlite;

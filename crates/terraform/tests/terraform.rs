//! The provider as an engine uses it, against an API that records what it is asked, and against the real one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "terraform/api.rs"]
mod api;
#[path = "terraform/calls.rs"]
mod calls;
#[path = "terraform/engine.rs"]
mod engine;
#[path = "terraform/generated.rs"]
mod generated;
#[path = "terraform/real.rs"]
mod real;

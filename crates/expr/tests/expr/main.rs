//! What expressions mean: the contract's vectors, the errors, the remarks, the properties.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

mod allocations;
mod constant;
mod errors;
mod properties;
mod rewrites;
mod scheme;
mod vectors;

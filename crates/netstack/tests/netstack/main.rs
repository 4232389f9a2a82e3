//! [`adit_netstack::Stack`] against a TCP client in memory, on a virtual clock.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod datagrams;
mod flows;
mod pair;
mod requests;

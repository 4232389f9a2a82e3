//! The Terraform provider of adit: the program that Terraform starts to manage tunnels, routes, virtual networks, lists, rules
//! and service tokens through the v4 API.
//!
//! A resource is a row of tables ([`resources`]): its attributes, and the calls that make, read, change and delete it. What
//! the plugin protocol asks is read from them by [`provider`]; [`plugin`] speaks the protocol with the engine that started us,
//! [`client`] the API.
//!
//! What holds: each resource is there under 2022's names and attributes and under today's, and makes the calls that the
//! provider of its time made. A plan after an apply is empty. What it does not do: it knows nothing of the edge or of the store,
//! keeps nothing of its own, and prints one line, the engine's handshake.

pub mod client;
pub mod plugin;
pub mod protocol;
pub mod provider;
pub mod resources;
pub mod schema;
pub mod value;

mod calls;
mod convert;
mod diagnostic;
mod memory;
mod plan;

//! Whole paths, as hosts in network namespaces.
//!
//! Every test runs in a process of its own (nextest) and makes its own world. Needs root and what `testbed/setup.sh`
//! installs; `make test` sees to both.

#![expect(clippy::unwrap_used, reason = "what fails in a test's helper fails the test")]
#![expect(clippy::print_stderr, reason = "a test names the kubectl and the API server that it ran")]

mod accounts;
mod apiserver;
mod apply;
mod carriers;
mod clients;
mod cloudflared;
mod connector;
mod crashes;
mod database;
mod datagrams;
mod dns;
mod dns_locations;
mod explain;
mod flows;
mod gateway;
mod hostname_routes;
mod hostnames;
mod ingress;
mod inspection;
mod kubectl;
mod lifecycle;
mod lost_database;
mod management;
mod net;
mod nodes;
mod openapi;
mod policy_plan;
mod proxy;
mod quic;
mod records;
mod recovery;
mod refusals;
mod worked_cases;

#[path = "../../src/postgres.rs"]
#[allow(dead_code, unreachable_pub, reason = "other tests include it too, each what it needs")]
mod postgres_server;

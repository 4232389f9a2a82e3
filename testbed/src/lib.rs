//! Hosts as network namespaces: what the end-to-end tests, the whole-path benchmarks and the demo stand on.
//!
//! A [`net::World`] is three hosts, `laptop`, `edge` and `cluster`, of which the first has no path to the last but
//! through a program that runs on the one between. [`chain::Chain`] starts the real `adit` programs there and
//! [`cluster::Cluster`] an API server behind them. Everything is gone when its value is dropped, and what a killed
//! process left behind is swept when the next world is made.
//!
//! What this is not: a simulator. It needs root, Linux, `iproute2` and `/dev/net/tun`; `testbed/setup.sh` provides the
//! rest.

pub mod api;
pub mod apiserver;
pub mod capture;
pub mod chain;
pub mod cluster;
pub mod dns_over_tls;
pub mod https;
pub mod kubectl;
pub mod kubelet;
pub mod nameserver;
pub mod net;
pub mod origin;
pub mod pki;
pub mod postgres;
pub mod process;
pub mod spdy;
pub mod website;

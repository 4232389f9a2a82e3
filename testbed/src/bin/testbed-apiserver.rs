//! The testbed's small Kubernetes API server as a program.
//!
//! ```text
//! testbed-apiserver --certificates DIR [--clients token] --listen ADDRESS:PORT [--listen ADDRESS:PORT ...]
//! ```
//!
//! Makes the certificates of DIR when they are not there. Prints `serving on ADDRESS:PORT` when it does.

use std::net::SocketAddr;
use std::path::PathBuf;

use adit_testbed::apiserver::{Clients, Server};
use adit_testbed::pki::Pki;
use anyhow::{Context as _, Result, bail, ensure};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    let (mut addresses, mut certificates) = (Vec::<SocketAddr>::new(), None::<PathBuf>);
    let mut clients = Clients::Certificate;
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().with_context(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--listen" => {
                addresses.push(value.parse().with_context(|| format!("--listen {value}: not ADDRESS:PORT"))?);
            }
            "--certificates" => certificates = Some(value.into()),
            "--clients" if value == "token" => clients = Clients::Token,
            _ => bail!(
                "unknown flag {flag}; there are --listen ADDRESS:PORT, --certificates DIR and --clients token"
            ),
        }
    }
    ensure!(!addresses.is_empty(), "--listen ADDRESS:PORT is missing");
    let pki = Pki::open(&certificates.context("--certificates DIR is missing")?)?;
    let server = Server::new(&pki, clients)?;
    let mut serving = JoinSet::new();
    for address in addresses {
        let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
        tracing::info!("serving on {}", listener.local_addr()?);
        serving.spawn(server.clone().serve(listener));
    }
    serving.join_all().await;
    Ok(())
}

//! The path under test: agent, edge and one connector, each in its default configuration. The connector is adit's, or an
//! unmodified cloudflared on the same kind of edge.
//!
//! The connector runs on the cluster's own host, not in a pod, so that its path has as many links as the peers' have.

use std::fs;
use std::path::Path;

use adit_testbed::chain::{CONNECTIONS, Chain, Tunnel};
use adit_testbed::net::{EDGE_INNER_V4, PRIVATE_V4, World};
use adit_testbed::process::Process;
use anyhow::{Context, Result};

use crate::path::Daemon;

/// The running chain. The connector is declared first, so that it ends before its host is removed.
#[derive(Debug)]
pub(crate) struct Laid {
    connector: Process,
    chain: Chain,
}

impl Laid {
    /// Returns once the agent is connected and the edge has all of the connector's connections.
    pub(crate) async fn start(connector: &Connector<'_>, logs: &Path) -> Result<Self> {
        let mut chain = Chain::new()?;
        chain.start_edge().await?;
        let tunnel = chain.create_tunnel("bench").await?;
        chain.create_route(&tunnel, PRIVATE_V4).await?;
        let connector = start_connector(connector, &chain, &tunnel, logs)?;
        chain.wait_for_connections(&tunnel, CONNECTIONS).await?;
        chain.start_agent().await?;
        chain.enroll().await?;
        chain.wait_for_agent("connected").await?;
        Ok(Self { connector, chain })
    }

    pub(crate) fn world(&self) -> &World {
        &self.chain.world
    }

    pub(crate) fn daemons(&self) -> Result<Vec<Daemon>> {
        let agent = self.chain.agent.as_ref().context("the agent was started")?;
        let edge = self.chain.edge.as_ref().context("the edge was started")?;
        Ok(vec![
            Daemon { role: "agent", pid: agent.id() },
            Daemon { role: "edge", pid: edge.id() },
            Daemon { role: "connector", pid: self.connector.id() },
        ])
    }
}

/// The program that is the connector.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Connector<'a> {
    /// An unmodified cloudflared; without one it is adit.
    pub(crate) cloudflared: Option<&'a Path>,
    /// Its `protocol`: how it reaches the edge.
    pub(crate) protocol: &'a str,
}

fn start_connector(
    connector: &Connector<'_>,
    chain: &Chain,
    tunnel: &Tunnel,
    logs: &Path,
) -> Result<Process> {
    let text = format!(
        "tunnel: {}\nprotocol: {}\nmetrics: 127.0.0.1:8081\nwarp-routing:\n    enabled: true\n",
        tunnel.id, connector.protocol
    );
    let cluster = &chain.world.cluster;
    if let Some(cloudflared) = connector.cloudflared {
        let command = chain.cloudflared(cluster, "connector", cloudflared, &text, &tunnel.credentials)?;
        return Process::spawn("connector", logs, command);
    }
    let credentials = logs.join("creds.json");
    fs::write(&credentials, tunnel.credentials.to_string())?;
    let config = logs.join("config.yaml");
    fs::write(&config, format!("credentials-file: {}\n{text}", credentials.display()))?;
    let mut command = chain.adit(cluster);
    command.args(["tunnel", "--config"]).arg(&config).arg("--edge").arg(format!("{EDGE_INNER_V4}:7844"));
    command.arg("--cacert").arg(chain.data().join("ca.pem")).arg("run");
    Process::spawn("connector", logs, command)
}

//! An `adit up` on loopback, and what its metrics say.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use adit_testbed::process::{Process, built};
use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Longest wait for a start.
const START_LIMIT: Duration = Duration::from_mins(2);

/// A running `adit up`.
#[derive(Debug)]
pub(crate) struct Installation {
    process: Process,
    pub(crate) https: SocketAddr,
    metrics: SocketAddr,
    pub(crate) data: PathBuf,
    /// From the start of the program to the first `/ready` that says yes.
    pub(crate) ready_after: Duration,
}

impl Installation {
    pub(crate) async fn start(data: &Path, logs: &Path) -> Result<Self> {
        let [https, tunnel, metrics] = [free_port()?, free_port()?, free_port()?];
        let mut command = Command::new(built("adit")?);
        command.arg("up").arg("--data").arg(data).env("ADIT_LOGLEVEL", "error");
        for (flag, address) in [("--https", https), ("--tunnel", tunnel), ("--metrics", metrics)] {
            command.arg(flag).arg(address.to_string());
        }
        let begun = Instant::now();
        let process = Process::spawn("up", logs, command)?;
        while !ready(metrics).await {
            anyhow::ensure!(
                begun.elapsed() < START_LIMIT,
                "not ready within {START_LIMIT:?}: {:?}",
                process.output()
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(Self { process, https, metrics, data: data.to_owned(), ready_after: begun.elapsed() })
    }

    /// The number of the snapshot by which the edge decides.
    pub(crate) async fn snapshot(&self) -> Result<u64> {
        let text = get(self.metrics, "/metrics").await?;
        let line = text.lines().find(|line| line.starts_with("adit_edge_snapshot_number"));
        let number =
            line.and_then(|line| line.split_whitespace().last()).context("no adit_edge_snapshot_number")?;
        Ok(number.parse()?)
    }

    pub(crate) async fn stop(mut self) -> Result<()> {
        self.process.stop().await.map(drop)
    }
}

async fn ready(metrics: SocketAddr) -> bool {
    get(metrics, "/ready").await.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

async fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn free_port() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

//! The control plane, measured: starts, reads, writes, a first page, and how long a change takes to reach the edge.
//!
//! Each figure stands beside a baseline of the same run: an answer that reads no object, a synchronous write of the same
//! disk, an empty installation. The client is on the same cores and speaks HTTP/1.1 over TLS with connections that stay,
//! as API clients do.

#![expect(clippy::print_stdout, reason = "a program whose purpose is to print what it measured")]

mod client;
mod fill;
mod installation;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use http::Method;

use crate::client::{Client, Load};
use crate::installation::Installation;

/// Measures the control plane of `adit up` on SQLite.
#[derive(Debug, Parser)]
struct Flags {
    /// Where the databases lie: the disk that is measured
    #[arg(long, default_value = "target/bench-control", value_name = "DIR")]
    dir: PathBuf,
    /// Routes of the large installation
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    routes: u32,
    /// Rules of the large installation
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    rules: u32,
    /// Keeps the large installation here as it was filled, and takes it from here if it is there: with other numbers of routes
    /// and rules it is another
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Connections that ask at once
    #[arg(long, default_value_t = 16, value_name = "N")]
    connections: usize,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 5, value_name = "N")]
    seconds: u64,
    /// Changes whose way to the edge is measured
    #[arg(long, default_value_t = 200, value_name = "N")]
    changes: u32,
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(bench(&flags))
}

async fn bench(flags: &Flags) -> Result<()> {
    std::fs::create_dir_all(&flags.dir)?;
    let work = tempfile::Builder::new().prefix("run-").tempdir_in(&flags.dir)?;
    let (empty, large) = (work.path().join("empty"), work.path().join("large"));

    let start = Installation::start(&empty, work.path()).await?;
    println!("ready, empty directory                  {:>10.0} ms", millis(start.ready_after));
    start.stop().await?;
    let again = Installation::start(&empty, work.path()).await?;
    println!("ready, second start                     {:>10.0} ms", millis(again.ready_after));
    again.stop().await?;

    let tunnel = installed(flags, &large).await.context("fill the large installation")?;
    let up = Installation::start(&large, work.path()).await?;
    let name = format!("ready, {} routes, {} rules", flags.routes, flags.rules);
    println!("{name:<39} {:>10.0} ms", millis(up.ready_after));

    pages(&up).await?;
    throughput(&up, flags, &tunnel, work.path()).await?;
    propagation(&up, flags, &tunnel).await?;
    up.stop().await
}

/// The large installation in this directory, filled or copied: its tunnel's id.
async fn installed(flags: &Flags, large: &Path) -> Result<String> {
    let Some(keep) = &flags.keep else { return filled(flags, large).await };
    let kept = keep.join(format!("{}-{}", flags.routes, flags.rules));
    let id = kept.join(TUNNEL_FILE);
    if !id.is_file() {
        let tunnel = filled(flags, &kept).await?;
        std::fs::write(&id, tunnel)?;
    }
    fill::copy(&kept, large)?;
    Ok(std::fs::read_to_string(&id)?)
}

async fn filled(flags: &Flags, data: &Path) -> Result<String> {
    let begun = Instant::now();
    let tunnel = fill::fill(data, flags.routes, flags.rules).await?;
    let took = begun.elapsed().as_secs_f64();
    println!("(filled with {} routes and {} rules in {took:.1} s)", flags.routes, flags.rules);
    Ok(tunnel)
}

async fn pages(up: &Installation) -> Result<()> {
    let mut client = Client::connect(up).await?;
    for (name, path) in [
        ("first page of routes, 20 rows", "teamnet/routes?is_deleted=false"),
        ("first page of routes, 1000 rows", "teamnet/routes?is_deleted=false&per_page=1000"),
        ("baseline: tokens/verify", "tokens/verify"),
    ] {
        let mut times = Vec::new();
        for _ in 0..PAGES {
            let begun = Instant::now();
            client.call(Method::GET, path, None).await?;
            times.push(begun.elapsed());
        }
        let (middle, late) = (percentile(&mut times, 50), percentile(&mut times, 99));
        println!("{name:<39} {:>10.1} ms  p99 {:.1} ms", millis(middle), millis(late));
    }
    Ok(())
}

async fn throughput(up: &Installation, flags: &Flags, tunnel: &str, dir: &Path) -> Result<()> {
    let load = Load { connections: flags.connections, lasts: Duration::from_secs(flags.seconds) };
    let get = |path: String| move |_, _| (Method::GET, path.clone(), None);
    for (name, path) in [
        ("reads of one tunnel", format!("cfd_tunnel/{tunnel}")),
        ("reads of the route to an address", "teamnet/routes/ip/10.1.2.3".to_owned()),
        ("baseline: tokens/verify", "tokens/verify".to_owned()),
    ] {
        println!("{name:<39} {:>10.0} /s", load.run(up, get(path)).await?);
    }
    let network = |connection: usize, call: u32| {
        let [_, high, middle, low] = call.to_be_bytes();
        format!("fd00:{connection:x}:{high:x}:{middle:02x}{low:02x}::/64")
    };
    let tunnel = tunnel.to_owned();
    let write = move |connection: usize, call: u32| {
        let body = serde_json::json!({ "network": network(connection, call), "tunnel_id": tunnel });
        (Method::POST, "teamnet/routes".to_owned(), Some(body))
    };
    println!("{:<39} {:>10.0} /s", "writes of a route", load.run(up, write).await?);
    println!("{:<39} {:>10.0} /s", "baseline: 4 KiB written and synced", synced_writes(dir, load.lasts)?);
    Ok(())
}

/// How often a second the disk takes a page and says that it has it.
fn synced_writes(dir: &Path, lasts: Duration) -> Result<f64> {
    let mut file = std::fs::File::create(dir.join("synced"))?;
    let (begun, mut count) = (Instant::now(), 0_u32);
    while begun.elapsed() < lasts {
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / begun.elapsed().as_secs_f64())
}

async fn propagation(up: &Installation, flags: &Flags, tunnel: &str) -> Result<()> {
    let mut client = Client::connect(up).await?;
    let mut times = Vec::new();
    for change in 0..flags.changes {
        let before = up.snapshot().await?;
        let body = serde_json::json!({ "network": format!("fd01:0:0:{change:x}::/64"), "tunnel_id": tunnel });
        let begun = Instant::now();
        client.call(Method::POST, "teamnet/routes", Some(&body)).await?;
        while up.snapshot().await? <= before {}
        times.push(begun.elapsed());
    }
    let (middle, late) = (percentile(&mut times, 50), percentile(&mut times, 99));
    println!(
        "{:<39} {:>10.1} ms  p99 {:.1} ms",
        "from a change to the edge's snapshot",
        millis(middle),
        millis(late)
    );
    Ok(())
}

/// How often a page is asked for: enough for a 99th percentile that is not the one slowest.
const PAGES: usize = 300;
/// The file beside a kept installation that says its tunnel's id.
const TUNNEL_FILE: &str = "bench-tunnel";

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times.get((times.len() * percent / 100).min(times.len() - 1)).copied().unwrap_or_default()
}

//! The measurements themselves, each of one path at a time.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use adit_testbed::net::Host;
use adit_testbed::process::Process;
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::iperf::{self, Direction};
use crate::path::{ECHO, FLOWS, IPERF_READY, Path, TARGET};
use crate::procfs::{CpuClock, Memory, retransmitted_segments};
use crate::stats::Percentiles;
use crate::worker::{FlowRate, Held};

/// What a measurement may take beyond its own length before it is given up.
const SLACK: Duration = Duration::from_secs(30);

/// The key of the whole machine's processor time beside those of the daemons.
pub(crate) const MACHINE: &str = "machine";

/// One bulk run.
#[derive(Debug, Clone)]
pub(crate) struct BulkRun {
    pub(crate) gbit_per_second: f64,
    /// TCP segments that the kernels of all three hosts sent again, per 10^9 bytes of payload.
    pub(crate) retransmits_per_gb: f64,
    /// Per cent of one core, by daemon, and [`MACHINE`] for everything.
    pub(crate) cpu_percent: BTreeMap<&'static str, f64>,
}

/// Bulk TCP for `seconds`.
pub(crate) async fn bulk(
    path: &Path,
    logs: &std::path::Path,
    streams: u32,
    direction: Direction,
    seconds: u32,
) -> Result<BulkRun> {
    let mut command = path.on_laptop("iperf3");
    command.args(iperf::client_arguments(TARGET, seconds, streams, direction));
    let cpu = CpuMeter::start(path)?;
    let retransmitted = retransmissions(path)?;
    let limit = Duration::from_secs(seconds.into()) + SLACK;
    let before = path.iperf.mark();
    let output = run("iperf3-client", logs, command, limit).await?;
    let cpu_percent = cpu.stop()?;
    // It takes one client at a time, and what is still on its way keeps it busy when the client has left.
    path.iperf.wait_for_line_after(before, IPERF_READY, SLACK).await?;
    let again = retransmissions(path)?.saturating_sub(retransmitted);
    let bulk = iperf::parse(output.as_bytes())
        .with_context(|| format!("{} streams {direction:?} over {:?}", streams, path.name))?;
    ensure!(bulk.bytes > 0.0, "iperf3 moved nothing over {:?}", path.name);
    Ok(BulkRun {
        gbit_per_second: bulk.bits_per_second / 1e9,
        retransmits_per_gb: f64::from(u32::try_from(again)?) / (bulk.bytes / 1e9),
        cpu_percent,
    })
}

/// A one-byte echo, `samples` times.
pub(crate) async fn echo(path: &Path, logs: &std::path::Path, samples: usize) -> Result<Percentiles> {
    let arguments = ["worker", "echo", &ECHO.to_string(), &samples.to_string()].map(str::to_owned);
    worker(path, logs, &arguments, SLACK).await
}

/// New flows for `seconds`, `concurrent` of them at a time.
pub(crate) async fn flows(
    path: &Path,
    logs: &std::path::Path,
    seconds: f64,
    concurrent: usize,
) -> Result<FlowRate> {
    let arguments = ["worker", "flows", &FLOWS.to_string(), &seconds.to_string(), &concurrent.to_string()]
        .map(str::to_owned);
    worker(path, logs, &arguments, Duration::try_from_secs_f64(seconds)? + SLACK).await
}

/// Memory that idle flows take in one daemon.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct IdleMemory {
    /// The daemon before the flows were opened.
    pub(crate) before: Memory,
    /// While they are all open and idle.
    pub(crate) during: Memory,
    /// Growth of the proportional set size per flow, in KiB.
    pub(crate) kib_per_flow: f64,
}

/// Opens `count` flows, and compares each daemon's memory before with that while they are idle.
pub(crate) async fn idle_memory(
    path: &Path,
    logs: &std::path::Path,
    count: usize,
) -> Result<BTreeMap<&'static str, IdleMemory>> {
    // A first flow, so that what is allocated once is not counted as per flow.
    flows(path, logs, 0.1, 1).await?;
    let before = memory(path)?;
    let mut command = path.on_laptop(std::env::current_exe()?);
    command.args(["worker", "hold", &FLOWS.to_string(), &count.to_string()]);
    let mut holder = Process::spawn("hold", logs, command)?;
    let held: Held = serde_json::from_str(&holder.wait_for_line("open", SLACK).await?)?;
    ensure!(held.open == count, "{} flows of {count} are open over {:?}", held.open, path.name);
    let during = memory(path)?;
    holder.close_stdin();
    holder.wait(SLACK).await?;
    let flows = f64::from(u32::try_from(count)?);
    Ok(before
        .into_iter()
        .zip(during)
        .map(|((role, before), (_, during))| {
            let grown = kib(during.pss_kib) - kib(before.pss_kib);
            (role, IdleMemory { before, during, kib_per_flow: grown / flows })
        })
        .collect())
}

fn kib(value: u64) -> f64 {
    f64::from(u32::try_from(value).unwrap_or(u32::MAX))
}

fn memory(path: &Path) -> Result<Vec<(&'static str, Memory)>> {
    path.daemons.iter().map(|daemon| Ok((daemon.role, Memory::of_process(daemon.pid)?))).collect()
}

fn retransmissions(path: &Path) -> Result<u64> {
    let of_host = |host: &Host| -> Result<u64> {
        // Not /proc/net: that is the namespace of the process, not of the thread.
        let snmp = host.within(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))?;
        retransmitted_segments(&snmp).with_context(|| format!("{}: no RetransSegs", host.role()))
    };
    path.hosts().into_iter().map(of_host).sum()
}

/// Processor time of a path's daemons and of the machine, from `start` to `stop`.
struct CpuMeter {
    daemons: Vec<(&'static str, u32, CpuClock)>,
    machine: CpuClock,
}

impl CpuMeter {
    fn start(path: &Path) -> Result<Self> {
        let clock =
            |daemon: &crate::path::Daemon| Ok((daemon.role, daemon.pid, CpuClock::of_process(daemon.pid)?));
        let daemons = path.daemons.iter().map(clock).collect::<Result<_>>()?;
        Ok(Self { daemons, machine: CpuClock::of_machine()? })
    }

    fn stop(self) -> Result<BTreeMap<&'static str, f64>> {
        let mut percent = BTreeMap::new();
        for (role, pid, earlier) in &self.daemons {
            *percent.entry(*role).or_default() += CpuClock::of_process(*pid)?.percent_since(earlier);
        }
        percent.insert(MACHINE, CpuClock::of_machine()?.percent_since(&self.machine));
        Ok(percent)
    }
}

async fn worker<T: DeserializeOwned>(
    path: &Path,
    logs: &std::path::Path,
    arguments: &[String],
    limit: Duration,
) -> Result<T> {
    let mut command = path.on_laptop(std::env::current_exe()?);
    command.args(arguments);
    let output =
        run("worker", logs, command, limit).await.with_context(|| format!("over {:?}", path.name))?;
    serde_json::from_str(&output)
        .with_context(|| format!("{arguments:?} over {:?} printed {output}", path.name))
}

async fn run(name: &str, logs: &std::path::Path, command: Command, limit: Duration) -> Result<String> {
    let mut process = Process::spawn(name, logs, command)?;
    let status = process.wait(limit).await?;
    let output = process.output().join("\n");
    // iperf3 tells in its JSON what went wrong.
    ensure!(status.success() || output.starts_with('{'), "{name} failed: {output}");
    Ok(output)
}

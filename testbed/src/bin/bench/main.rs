//! `make bench`: the whole path, measured beside the bare one and beside what a user would pick instead.
//!
//! One run makes a set of hosts per path, goes round the paths several times, and prints a table and JSON in which each
//! figure of adit stands beside its baseline of the same minutes. A figure without its baseline says little: on a shared
//! machine they move together.
//!
//! It measures programs as a user would run them, release builds on default settings, and changes nothing but the ports
//! that its own client may use. What it cannot say: how a real network with loss and delay would do. Veth pairs hand over
//! large segments whole, and have neither.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program whose purpose is to print what it measured"
)]

mod chain;
mod connectors;
mod iperf;
mod machine;
mod measure;
mod options;
mod path;
mod procfs;
mod report;
mod stats;
mod wireguard;
mod worker;

use std::path::Path as FilePath;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::machine::Machine;
use crate::options::{CONCURRENT_FLOWS, Cli, Hidden, IDLE_FLOWS, Measure, Plan};
use crate::path::Path;
use crate::report::{Report, Runs};

fn main() -> Result<()> {
    let cli = Cli::parse();
    if let Some(Hidden::Worker(worker)) = &cli.worker {
        return worker::run(worker);
    }
    let plan = Plan::from(cli.flags);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(bench(&plan))
}

async fn bench(plan: &Plan) -> Result<()> {
    let machine = Machine::describe(&plan.programs)?;
    let logs = tempfile::Builder::new().prefix("adit-bench-").tempdir()?;
    let measured = measure_all(plan, machine, logs.path()).await;
    if measured.is_err() {
        eprintln!("bench: the programs' output is in {}", logs.keep().display());
    }
    measured
}

async fn measure_all(plan: &Plan, machine: Machine, logs: &FilePath) -> Result<()> {
    let mut paths = Vec::new();
    for &name in &plan.paths {
        eprintln!("bench: laying {}", name.label());
        let path = Path::lay(name, &plan.programs, logs).await;
        paths.push((path.with_context(|| format!("cannot lay {}", name.label()))?, Runs::default()));
    }
    let mut failures = Vec::new();
    for measure in [Measure::Memory, Measure::Throughput, Measure::Latency, Measure::Flows] {
        if plan.measures.contains(&measure) {
            failures.extend(rounds(plan, measure, logs, &mut paths).await);
        }
    }
    let (paths, runs) = paths
        .into_iter()
        .map(|(path, runs)| {
            let name = path.name;
            (path, (name, runs))
        })
        .unzip::<_, _, Vec<_>, Vec<_>>();
    let report = Report::new(machine, plan, runs);
    println!("{}", report.table(plan));
    if !plan.paths.contains(&options::PathName::Cloudflared) {
        eprintln!("bench: SKIPPED: connectors side by side, since CLOUDFLARED names no cloudflared");
    }
    let json = serde_json::to_string_pretty(&report)?;
    if let Some(file) = &plan.json {
        std::fs::write(file, json + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    } else {
        println!("{json}");
    }
    if plan.keep {
        wait_for_enter(&paths)?;
    }
    ensure!(failures.is_empty(), "{} measurements failed, see above", failures.len());
    Ok(())
}

/// Takes one kind of figure, path after path, as often as the plan says. A path that fails is reported and leaves a gap:
/// the others' figures are still worth having.
async fn rounds(
    plan: &Plan,
    measure: Measure,
    logs: &FilePath,
    paths: &mut [(Path, Runs)],
) -> Vec<anyhow::Error> {
    // Memory is compared with that of a process that has not yet carried much, and so is taken once.
    let rounds = if measure == Measure::Memory { 1 } else { plan.rounds };
    let mut failures = Vec::new();
    for round in 1..=rounds {
        for (path, runs) in &mut *paths {
            eprintln!("bench: {measure:?} of {}, round {round} of {rounds}", path.name.label());
            if let Err(error) = take(plan, measure, logs, path, runs).await {
                eprintln!("bench: FAILED: {error:#}");
                failures.push(error);
            }
        }
    }
    failures
}

async fn take(plan: &Plan, measure: Measure, logs: &FilePath, path: &Path, runs: &mut Runs) -> Result<()> {
    match measure {
        Measure::Memory => runs.idle = measure::idle_memory(path, logs, IDLE_FLOWS).await?,
        Measure::Throughput => {
            for &(streams, direction) in &plan.cells {
                let run = measure::bulk(path, logs, streams, direction, plan.bulk_seconds).await?;
                runs.bulk.entry((streams, direction)).or_default().push(run);
            }
        }
        Measure::Latency => runs.echo.push(measure::echo(path, logs, plan.echo_samples).await?),
        Measure::Flows => {
            runs.flows_sequential.push(measure::flows(path, logs, plan.flow_seconds, 1).await?);
            runs.flows_concurrent
                .push(measure::flows(path, logs, plan.flow_seconds, CONCURRENT_FLOWS).await?);
        }
    }
    Ok(())
}

fn wait_for_enter(paths: &[Path]) -> Result<()> {
    for path in paths {
        println!("{}:", path.name.label());
        for host in path.hosts() {
            println!("  ip netns exec {} bash    # {}", host.name(), host.role());
        }
        for daemon in &path.daemons {
            println!("  {} is process {}", daemon.role, daemon.pid);
        }
        println!("  iperf3 -c {} on the laptop", path::TARGET);
    }
    println!("Enter ends it.");
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

//! The bench's flags, and the one checked plan that they come to.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::iperf::Direction;
use crate::worker::Worker;

/// Flows that are held idle for the memory figure, as the budget speaks of 1,000.
pub(crate) const IDLE_FLOWS: usize = 1_000;
/// Flows in flight for the concurrent flow rate.
pub(crate) const CONCURRENT_FLOWS: usize = 64;

/// Measures the whole path beside the bare one and beside user-space WireGuard, in one run.
#[derive(Debug, Parser)]
#[command(name = "bench")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) worker: Option<Hidden>,
    #[command(flatten)]
    pub(crate) flags: Flags,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Hidden {
    /// What the bench starts inside a host.
    #[command(subcommand, hide = true)]
    Worker(Worker),
}

#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// About two minutes instead of about seven: fewer and shorter runs, wider spreads
    #[arg(long)]
    quick: bool,
    /// Writes the figures to FILE as JSON too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measures only this; may be given several times
    #[arg(long, value_enum, value_name = "WHAT")]
    only: Vec<Measure>,
    /// Measures only this path; may be given several times
    #[arg(long, value_enum, value_name = "PATH")]
    path: Vec<PathName>,
    /// Only this many TCP streams at once, instead of 1 and 4
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=128))]
    streams: Option<u32>,
    /// Only this direction, instead of both
    #[arg(long, value_enum)]
    direction: Option<Direction>,
    /// Length of each bulk run
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: Option<u32>,
    /// Bulk runs per cell
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// When done, keeps the hosts and programs, prints how to enter them, and waits for Enter
    #[arg(long)]
    keep: bool,
    /// Binary of boringtun-cli
    #[arg(long, value_name = "FILE", default_value = "boringtun-cli")]
    boringtun: PathBuf,
    /// Binary of gotatun
    #[arg(long, value_name = "FILE", default_value = "gotatun")]
    gotatun: PathBuf,
    /// Binary of cloudflared, as a connector of the same edge; without it that path is left out
    #[arg(long, env = "CLOUDFLARED", value_name = "FILE")]
    cloudflared: Option<PathBuf>,
    /// How the connectors reach the edge: quic or http2. A cloudflared that is left to choose takes http2 where it cannot ask
    /// its maker's name servers
    #[arg(long, value_name = "PROTOCOL", default_value = "quic")]
    protocol: String,
}

/// A kind of figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Measure {
    /// Bulk TCP with its retransmissions and processor time.
    Throughput,
    /// A one-byte TCP echo.
    Latency,
    /// New flows per second, one after the other and many at once.
    Flows,
    /// Memory of 1,000 idle flows.
    Memory,
}

/// A way from the laptop into the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PathName {
    /// Routed veth pairs, no tunnel.
    Bare,
    /// boringtun-cli with one thread.
    Boringtun1,
    /// boringtun-cli as it comes, with four threads.
    Boringtun4,
    /// gotatun as it comes.
    Gotatun,
    /// Agent, edge and connector.
    Adit,
    /// The same agent and edge, with an unmodified cloudflared as the connector.
    Cloudflared,
}

impl PathName {
    /// Its name in the table and in the JSON.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Boringtun1 => "boringtun -t1",
            Self::Boringtun4 => "boringtun",
            Self::Gotatun => "gotatun",
            Self::Adit => "adit",
            Self::Cloudflared => "adit, cloudflared",
        }
    }

    /// Whether it is one of those that adit is measured against.
    pub(crate) const fn is_peer(self) -> bool {
        matches!(self, Self::Boringtun1 | Self::Boringtun4 | Self::Gotatun)
    }
}

/// What is measured, and how long. Made once from the flags; nothing in it is optional.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) measures: Vec<Measure>,
    pub(crate) paths: Vec<PathName>,
    /// Streams and directions of the bulk runs.
    pub(crate) cells: Vec<(u32, Direction)>,
    pub(crate) rounds: u32,
    pub(crate) bulk_seconds: u32,
    pub(crate) echo_samples: usize,
    pub(crate) flow_seconds: f64,
    pub(crate) keep: bool,
    pub(crate) json: Option<PathBuf>,
    pub(crate) programs: Programs,
}

/// The binaries that adit is measured against; adit itself is the one built beside the bench.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) boringtun: PathBuf,
    pub(crate) gotatun: PathBuf,
    pub(crate) cloudflared: Option<PathBuf>,
    /// How connectors reach the edge.
    pub(crate) protocol: String,
}

impl From<Flags> for Plan {
    fn from(flags: Flags) -> Self {
        let all_if_none =
            |given: Vec<Measure>| if given.is_empty() { Measure::value_variants().to_vec() } else { given };
        let streams = flags.streams.map_or_else(|| vec![1, 4], |only| vec![only]);
        let directions =
            flags.direction.map_or_else(|| vec![Direction::Up, Direction::Down], |only| vec![only]);
        let cells =
            streams.iter().flat_map(|&streams| directions.iter().map(move |&direction| (streams, direction)));
        let mut paths = if flags.path.is_empty() { PathName::value_variants().to_vec() } else { flags.path };
        // The flag or the variable names one, or there is none to compare with.
        paths.retain(|path| *path != PathName::Cloudflared || flags.cloudflared.is_some());
        Self {
            measures: all_if_none(flags.only),
            paths,
            cells: cells.collect(),
            rounds: flags.rounds.unwrap_or(if flags.quick { 2 } else { 3 }),
            bulk_seconds: flags.seconds.unwrap_or(if flags.quick { 2 } else { 4 }),
            echo_samples: if flags.quick { 3_000 } else { 10_000 },
            flow_seconds: if flags.quick { 1.0 } else { 3.0 },
            keep: flags.keep,
            json: flags.json,
            programs: Programs {
                boringtun: flags.boringtun,
                gotatun: flags.gotatun,
                cloudflared: flags.cloudflared,
                protocol: flags.protocol,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(arguments: &str) -> Plan {
        let cli = Cli::try_parse_from(std::iter::once("bench").chain(arguments.split_whitespace())).unwrap();
        Plan::from(cli.flags)
    }

    #[test]
    fn without_flags_everything_is_measured() {
        let plan = plan("");
        let paths = 5 + usize::from(plan.programs.cloudflared.is_some());
        assert_eq!((plan.measures.len(), plan.paths.len(), plan.cells.len()), (4, paths, 4));
        let bulk_runs = u64::from(plan.rounds * plan.bulk_seconds) * 6 * 4;
        assert!(bulk_runs < 6 * 60, "bulk runs alone take {bulk_runs} s");
    }

    #[test]
    fn one_cell_of_one_path() {
        let plan =
            plan("--only throughput --path adit --streams 1 --direction up --seconds 10 --rounds 1 --keep");
        assert_eq!((plan.measures, plan.paths), (vec![Measure::Throughput], vec![PathName::Adit]));
        assert_eq!(plan.cells, [(1, Direction::Up)]);
        assert_eq!((plan.rounds, plan.bulk_seconds, plan.keep), (1, 10, true));
    }
}

//! What was found, as a table for people and as JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use crate::connectors::{self, Compared};
use crate::iperf::Direction;
use crate::machine::Machine;
use crate::measure::{BulkRun, IdleMemory, MACHINE};
use crate::options::{CONCURRENT_FLOWS, IDLE_FLOWS, PathName, Plan};
use crate::stats::{Percentiles, Spread};
use crate::worker::FlowRate;

/// Everything that one path's runs gave, as it came.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    pub(crate) bulk: BTreeMap<(u32, Direction), Vec<BulkRun>>,
    pub(crate) echo: Vec<Percentiles>,
    pub(crate) flows_sequential: Vec<FlowRate>,
    pub(crate) flows_concurrent: Vec<FlowRate>,
    pub(crate) idle: BTreeMap<&'static str, IdleMemory>,
}

/// The whole result.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    machine: Machine,
    rounds: u32,
    bulk_seconds: u32,
    paths: Vec<PathReport>,
    ratios: Vec<Ratio>,
    /// adit's connector beside cloudflared, on edges of the same kind.
    connectors: Vec<Compared>,
}

#[derive(Debug, Serialize)]
pub(crate) struct PathReport {
    name: &'static str,
    #[serde(skip)]
    path: PathName,
    bulk: Vec<Bulk>,
    pub(crate) echo_p50_us: Option<Spread>,
    pub(crate) echo_p99_us: Option<Spread>,
    pub(crate) flows_sequential_per_s: Option<Spread>,
    pub(crate) flows_concurrent_per_s: Option<Spread>,
    flow_first_byte_p50_us: Option<Spread>,
    flows_failed: usize,
    pub(crate) idle_flow_memory: BTreeMap<&'static str, IdleMemory>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Bulk {
    streams: u32,
    direction: Direction,
    pub(crate) gbit_per_s: Spread,
    retransmits_per_gb: Spread,
    pub(crate) cpu_percent: BTreeMap<&'static str, Spread>,
    /// Processor time of all daemons together; moves less than the rates when other programs are busy.
    core_seconds_per_gb: Option<Spread>,
}

/// adit beside the best of its peers.
#[derive(Debug, Serialize)]
struct Ratio {
    figure: String,
    adit: f64,
    best_peer: &'static str,
    best_peer_value: f64,
    /// adit divided by the peer: above 1 is better for a rate, below 1 for a delay.
    quotient: f64,
}

impl PathReport {
    fn of(path: PathName, runs: Runs) -> Self {
        let echo =
            |figure: fn(&Percentiles) -> f64| Spread::of(&runs.echo.iter().map(figure).collect::<Vec<_>>());
        let rate = |runs: &[FlowRate]| Spread::of(&runs.iter().map(|run| run.per_second).collect::<Vec<_>>());
        let first_byte: Vec<f64> =
            runs.flows_sequential.iter().filter_map(|run| run.first_byte.map(|byte| byte.p50_us)).collect();
        Self {
            name: path.label(),
            path,
            echo_p50_us: echo(|found| found.p50_us),
            echo_p99_us: echo(|found| found.p99_us),
            flows_sequential_per_s: rate(&runs.flows_sequential),
            flows_concurrent_per_s: rate(&runs.flows_concurrent),
            flow_first_byte_p50_us: Spread::of(&first_byte),
            flows_failed: runs
                .flows_sequential
                .iter()
                .chain(&runs.flows_concurrent)
                .map(|run| run.failed)
                .sum(),
            bulk: runs.bulk.into_iter().filter_map(|(cell, runs)| Bulk::of(cell, &runs)).collect(),
            idle_flow_memory: runs.idle,
        }
    }

    pub(crate) fn bulk(&self, cell: (u32, Direction)) -> Option<&Bulk> {
        self.bulk.iter().find(|bulk| (bulk.streams, bulk.direction) == cell)
    }
}

impl Bulk {
    fn of((streams, direction): (u32, Direction), runs: &[BulkRun]) -> Option<Self> {
        let spread = |figure: fn(&BulkRun) -> f64| Spread::of(&runs.iter().map(figure).collect::<Vec<_>>());
        let mut cpu: BTreeMap<_, Vec<f64>> = BTreeMap::new();
        for run in runs {
            for (&role, &percent) in &run.cpu_percent {
                cpu.entry(role).or_default().push(percent);
            }
        }
        let core_seconds: Vec<f64> = runs.iter().filter_map(core_seconds_per_gb).collect();
        Some(Self {
            streams,
            direction,
            core_seconds_per_gb: Spread::of(&core_seconds),
            gbit_per_s: spread(|run| run.gbit_per_second)?,
            retransmits_per_gb: spread(|run| run.retransmits_per_gb)?,
            cpu_percent: cpu
                .into_iter()
                .filter_map(|(role, runs)| Some((role, Spread::of(&runs)?)))
                .collect(),
        })
    }
}

/// Processor time of the daemons per 10^9 bytes; `None` where there are none.
fn core_seconds_per_gb(run: &BulkRun) -> Option<f64> {
    let daemons = run.cpu_percent.iter().filter(|(role, _)| **role != MACHINE);
    let percent = daemons.map(|(_, percent)| percent).copied().reduce(|sum, percent| sum + percent)?;
    Some(percent / 100.0 / (run.gbit_per_second / 8.0))
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    More,
    Less,
}

impl Report {
    pub(crate) fn new(machine: Machine, plan: &Plan, runs: Vec<(PathName, Runs)>) -> Self {
        let paths: Vec<_> = runs.into_iter().map(|(path, runs)| PathReport::of(path, runs)).collect();
        let mut report = Self {
            machine,
            rounds: plan.rounds,
            bulk_seconds: plan.bulk_seconds,
            paths,
            ratios: Vec::new(),
            connectors: Vec::new(),
        };
        report.ratios = report.find_ratios(plan);
        if let (Some(adit), Some(cloudflared)) =
            (report.path(PathName::Adit), report.path(PathName::Cloudflared))
        {
            report.connectors = connectors::compare(plan, adit, cloudflared, report.path(PathName::Bare));
        }
        report
    }

    fn find_ratios(&self, plan: &Plan) -> Vec<Ratio> {
        let mut ratios = Vec::new();
        for &cell in &plan.cells {
            let rate = |path: &PathReport| Some(path.bulk(cell)?.gbit_per_s.median);
            ratios.extend(self.ratio(bulk_label(cell), Better::More, rate));
        }
        for &cell in &plan.cells {
            let cost = |path: &PathReport| Some(path.bulk(cell)?.core_seconds_per_gb.as_ref()?.median);
            ratios.extend(self.ratio(cost_label(cell), Better::Less, cost));
        }
        let added = |figure: fn(&PathReport) -> Option<&Spread>| {
            let bare = self.path(PathName::Bare).and_then(figure).map(|spread| spread.median);
            move |path: &PathReport| Some(figure(path)?.median - bare?)
        };
        ratios.extend(self.ratio(
            "added latency p50, us".to_owned(),
            Better::Less,
            added(|path| path.echo_p50_us.as_ref()),
        ));
        ratios.extend(self.ratio(
            "added latency p99, us".to_owned(),
            Better::Less,
            added(|path| path.echo_p99_us.as_ref()),
        ));
        let median = |spread: Option<&Spread>| spread.map(|spread| spread.median);
        ratios.extend(self.ratio("flows/s, one by one".to_owned(), Better::More, |path| {
            median(path.flows_sequential_per_s.as_ref())
        }));
        ratios.extend(
            self.ratio(concurrent_label(), Better::More, |path| median(path.flows_concurrent_per_s.as_ref())),
        );
        ratios
    }

    fn path(&self, wanted: PathName) -> Option<&PathReport> {
        self.paths.iter().find(|path| path.path == wanted)
    }

    fn ratio(
        &self,
        figure: String,
        better: Better,
        value: impl Fn(&PathReport) -> Option<f64>,
    ) -> Option<Ratio> {
        let adit = value(self.path(PathName::Adit)?)?;
        let peers = self.paths.iter().filter(|path| path.path.is_peer());
        let peers = peers.filter_map(|path| Some((path.name, value(path)?)));
        let (best_peer, best_peer_value) = match better {
            Better::More => peers.max_by(|a, b| a.1.total_cmp(&b.1))?,
            Better::Less => peers.min_by(|a, b| a.1.total_cmp(&b.1))?,
        };
        Some(Ratio { figure, adit, best_peer, best_peer_value, quotient: adit / best_peer_value })
    }

    /// The table that the bench prints.
    pub(crate) fn table(&self, plan: &Plan) -> String {
        let mut text = format!(
            "{}\nmedian (least..greatest) of {} runs of {} s each; up is from the laptop into the cluster\n\n",
            self.machine, self.rounds, self.bulk_seconds
        );
        let mut rows = vec![self.heading()];
        for &cell in &plan.cells {
            rows.extend(self.row(&format!("{} Gbit/s", bulk_label(cell)), &bulk_label(cell), |path| {
                path.bulk(cell).map(|bulk| with_spread(&bulk.gbit_per_s, 2))
            }));
        }
        for &cell in &plan.cells {
            rows.extend(self.row(&format!("{} retransmits/GB", bulk_label(cell)), "", |path| {
                path.bulk(cell).map(|bulk| format!("{:.0}", bulk.retransmits_per_gb.median))
            }));
        }
        for &cell in &plan.cells {
            rows.extend(
                self.row(&format!("{} cpu %", bulk_label(cell)), "", |path| path.bulk(cell).map(cpu)),
            );
        }
        for &cell in &plan.cells {
            rows.extend(self.row(&cost_label(cell), &cost_label(cell), |path| {
                path.bulk(cell)?.core_seconds_per_gb.as_ref().map(|cost| format!("{:.2}", cost.median))
            }));
        }
        self.latency_rows(&mut rows);
        rows.extend(self.row("flows/s, one by one", "flows/s, one by one", |path| {
            path.flows_sequential_per_s.as_ref().map(|spread| with_spread(spread, 0))
        }));
        rows.extend(self.row(&concurrent_label(), &concurrent_label(), |path| {
            path.flows_concurrent_per_s.as_ref().map(|spread| with_spread(spread, 0))
        }));
        rows.extend(self.row("connect to first byte p50, us", "", |path| {
            path.flow_first_byte_p50_us.as_ref().map(|spread| with_spread(spread, 0))
        }));
        rows.extend(self.row("flows failed", "", |path| Some(path.flows_failed.to_string())));
        rows.extend(self.row(&format!("KiB per idle flow, {IDLE_FLOWS} open"), "", memory));
        let _ = write!(text, "{}", columns(&rows));
        if !self.connectors.is_empty() {
            let _ = write!(
                text,
                "\nconnectors on the same edge\n{}",
                columns(&connectors::rows(&self.connectors))
            );
        }
        text
    }

    fn heading(&self) -> Vec<String> {
        let names = self.paths.iter().map(|path| path.name.to_owned());
        std::iter::once(String::new()).chain(names).chain(["adit / best peer".to_owned()]).collect()
    }

    fn latency_rows(&self, rows: &mut Vec<Vec<String>>) {
        type Figure = fn(&PathReport) -> Option<&Spread>;
        let figures: [(&str, Figure); 2] =
            [("p50", |path| path.echo_p50_us.as_ref()), ("p99", |path| path.echo_p99_us.as_ref())];
        for (percentile, figure) in figures {
            rows.extend(self.row(&format!("echo {percentile}, us"), "", |path| {
                figure(path).map(|spread| with_spread(spread, 0))
            }));
        }
        for (percentile, figure) in figures {
            let label = format!("added latency {percentile}, us");
            let bare = self.path(PathName::Bare).and_then(figure).map(|spread| spread.median);
            rows.extend(self.row(&label, &label, |path| {
                (path.path != PathName::Bare).then_some(())?;
                Some(format!("{:.0}", figure(path)?.median - bare?))
            }));
        }
    }

    /// One row, or nothing when no path has this figure.
    fn row(
        &self,
        label: &str,
        ratio: &str,
        cell: impl Fn(&PathReport) -> Option<String>,
    ) -> Option<Vec<String>> {
        let cells: Vec<_> = self.paths.iter().map(cell).collect();
        cells.iter().any(Option::is_some).then_some(())?;
        let ratio = self.ratios.iter().find(|found| found.figure == ratio);
        let mut row = vec![label.to_owned()];
        row.extend(cells.into_iter().map(|cell| cell.unwrap_or_else(|| "-".to_owned())));
        row.push(
            ratio.map_or_else(String::new, |found| format!("{:.2}x ({})", found.quotient, found.best_peer)),
        );
        Some(row)
    }
}

pub(crate) fn bulk_label((streams, direction): (u32, Direction)) -> String {
    let direction = match direction {
        Direction::Up => "up",
        Direction::Down => "down",
    };
    format!("TCP x{streams} {direction}")
}

fn cost_label(cell: (u32, Direction)) -> String {
    format!("{} core-s/GB", bulk_label(cell))
}

pub(crate) fn concurrent_label() -> String {
    format!("flows/s, {CONCURRENT_FLOWS} at a time")
}

fn with_spread(spread: &Spread, digits: usize) -> String {
    if spread.runs.len() == 1 {
        return format!("{:.digits$}", spread.median);
    }
    format!("{:.digits$} ({:.digits$}..{:.digits$})", spread.median, spread.min, spread.max)
}

fn cpu(bulk: &Bulk) -> String {
    let daemons: Vec<_> = bulk
        .cpu_percent
        .iter()
        .filter(|(role, _)| **role != MACHINE)
        .map(|(role, spread)| format!("{role} {:.0}", spread.median))
        .collect();
    let machine = bulk.cpu_percent.get(MACHINE).map_or(0.0, |spread| spread.median);
    format!("{} all {machine:.0}", daemons.join(" ")).trim_start().to_owned()
}

fn memory(path: &PathReport) -> Option<String> {
    (!path.idle_flow_memory.is_empty()).then_some(())?;
    let daemons =
        path.idle_flow_memory.iter().map(|(role, memory)| format!("{role} {:.1}", memory.kib_per_flow));
    Some(daemons.collect::<Vec<_>>().join(" "))
}

/// Rows as columns of equal width, a heading first.
fn columns(rows: &[Vec<String>]) -> String {
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = width(column).unwrap_or_default();
            let _ = write!(line, "{cell:<width$}  ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn bulk(gbit: f64) -> BulkRun {
        BulkRun {
            gbit_per_second: gbit,
            retransmits_per_gb: 7.0,
            cpu_percent: BTreeMap::from([("edge", 40.0), (MACHINE, 190.0)]),
        }
    }

    fn runs(gbit: &[f64], p50_us: f64) -> Runs {
        Runs {
            bulk: BTreeMap::from([((1, Direction::Up), gbit.iter().copied().map(bulk).collect())]),
            echo: vec![Percentiles { samples: 1, p50_us, p99_us: p50_us * 2.0 }],
            ..Runs::default()
        }
    }

    fn report() -> (Report, Plan) {
        let cli = crate::options::Cli::parse_from(["bench", "--streams", "1", "--direction", "up"]);
        let plan = Plan::from(cli.flags);
        let runs = vec![
            (PathName::Bare, runs(&[20.0], 20.0)),
            (PathName::Boringtun1, runs(&[0.9, 1.1, 1.0], 120.0)),
            (PathName::Gotatun, runs(&[2.0], 170.0)),
            (PathName::Adit, runs(&[6.0, 8.0, 7.0], 70.0)),
            (PathName::Cloudflared, runs(&[3.5], 120.0)),
        ];
        (Report::new(Machine::default(), &plan, runs), plan)
    }

    #[test]
    fn ratio_is_to_the_best_peer_of_each_figure() {
        let (report, _) = report();
        let found: Vec<_> = report
            .ratios
            .iter()
            .map(|ratio| (ratio.figure.as_str(), ratio.best_peer, ratio.quotient))
            .collect();
        assert_eq!(found[0], ("TCP x1 up", "gotatun", 3.5));
        assert_eq!(found[2], ("added latency p50, us", "boringtun -t1", 0.5));
    }

    #[test]
    fn processor_time_leaves_the_rest_of_the_machine_out() {
        // 40 % of a core at 8 Gbit/s, which is 1 GB/s.
        assert_eq!(core_seconds_per_gb(&bulk(8.0)), Some(0.4));
        let bare = BulkRun { cpu_percent: BTreeMap::from([(MACHINE, 100.0)]), ..bulk(8.0) };
        assert_eq!(core_seconds_per_gb(&bare), None);
    }

    #[test]
    fn table_shows_medians_spreads_and_ratios() {
        let (report, plan) = report();
        let table = report.table(&plan);
        let row = table.lines().find(|line| line.starts_with("TCP x1 up Gbit/s")).unwrap();
        assert!(row.contains("1.00 (0.90..1.10)") && row.contains("7.00 (6.00..8.00)"), "{row}");
        assert!(row.ends_with("3.50x (gotatun)"), "{row}");
        assert!(!table.contains("flows/s"), "{table}");
    }

    #[test]
    fn connectors_stand_side_by_side() {
        let (report, plan) = report();
        let table = report.table(&plan);
        let row = table.lines().rfind(|line| line.starts_with("TCP x1 up Gbit/s")).unwrap();
        assert_eq!(row.split_whitespace().skip(4).collect::<Vec<_>>(), ["7.00", "3.50", "2.00x", "ahead"]);
        let row = table.lines().rfind(|line| line.starts_with("added latency p50, us")).unwrap();
        assert!(row.contains("50.00") && row.contains("100.00") && row.contains("0.50x"), "{row}");
    }

    #[test]
    fn json_has_every_run() {
        let (report, _) = report();
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["paths"][3]["bulk"][0]["gbit_per_s"]["runs"], serde_json::json!([6.0, 8.0, 7.0]));
        assert_eq!(json["paths"][3]["bulk"][0]["direction"], "up");
    }
}

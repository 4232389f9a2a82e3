//! adit's connector beside an unmodified cloudflared: the same agent, the same edge, the same minutes.
//!
//! Both paths carry everything else alike, on the same cores, so that a difference of rates is less than that of the
//! connectors alone; their processor time and memory are their own.

use serde::Serialize;

use crate::measure::IdleMemory;
use crate::options::{IDLE_FLOWS, Plan};
use crate::report::{Better, PathReport, bulk_label, concurrent_label};
use crate::stats::Spread;

/// What a connector is called among the daemons of its path.
const CONNECTOR: &str = "connector";

/// One figure of both.
#[derive(Debug, Serialize)]
pub(crate) struct Compared {
    figure: String,
    adit: f64,
    cloudflared: f64,
    /// adit divided by cloudflared.
    quotient: f64,
    /// Whether adit is ahead: by more for a rate, by less for a cost.
    ahead: bool,
}

/// A figure of a path, if it has it.
type Figure = fn(&PathReport) -> Option<&Spread>;

/// Every figure that both paths have.
pub(crate) fn compare(
    plan: &Plan,
    adit: &PathReport,
    cloudflared: &PathReport,
    bare: Option<&PathReport>,
) -> Vec<Compared> {
    let mut compared = Vec::new();
    let mut add = |figure: String, better, value: &dyn Fn(&PathReport) -> Option<f64>| {
        if let (Some(adit), Some(cloudflared)) = (value(adit), value(cloudflared)) {
            let ahead = if better == Better::More { adit > cloudflared } else { adit < cloudflared };
            compared.push(Compared { figure, adit, cloudflared, quotient: adit / cloudflared, ahead });
        }
    };
    for &cell in &plan.cells {
        let rate = |path: &PathReport| Some(path.bulk(cell)?.gbit_per_s.median);
        add(format!("{} Gbit/s", bulk_label(cell)), Better::More, &rate);
    }
    for &cell in &plan.cells {
        let cost = |path: &PathReport| {
            let bulk = path.bulk(cell)?;
            // Per cent of a core, by GB a second: core-seconds per GB.
            Some(bulk.cpu_percent.get(CONNECTOR)?.median / 100.0 / (bulk.gbit_per_s.median / 8.0))
        };
        add(format!("{} core-s/GB of the connector", bulk_label(cell)), Better::Less, &cost);
    }
    let percentiles: [(&str, Figure); 2] =
        [("p50", |path| path.echo_p50_us.as_ref()), ("p99", |path| path.echo_p99_us.as_ref())];
    for (percentile, figure) in percentiles {
        let added = |path: &PathReport| Some(figure(path)?.median - figure(bare?)?.median);
        add(format!("added latency {percentile}, us"), Better::Less, &added);
    }
    let median = |spread: Option<&Spread>| spread.map(|spread| spread.median);
    add("flows/s, one by one".to_owned(), Better::More, &|path| median(path.flows_sequential_per_s.as_ref()));
    add(concurrent_label(), Better::More, &|path| median(path.flows_concurrent_per_s.as_ref()));
    let memory = |figure: fn(&IdleMemory) -> u64| {
        move |path: &PathReport| Some(mebibytes(figure(path.idle_flow_memory.get(CONNECTOR)?)))
    };
    add("MiB at rest".to_owned(), Better::Less, &memory(|memory| memory.before.rss_kib));
    add(format!("MiB with {IDLE_FLOWS} flows"), Better::Less, &memory(|memory| memory.during.rss_kib));
    compared
}

fn mebibytes(kib: u64) -> f64 {
    f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / 1024.0
}

/// The rows of the table, a heading first.
pub(crate) fn rows(compared: &[Compared]) -> Vec<Vec<String>> {
    let heading = ["", "adit", "cloudflared", "adit / cloudflared", ""].map(str::to_owned).to_vec();
    let rows = compared.iter().map(|row| {
        let verdict = if row.ahead { "ahead" } else { "BEHIND" };
        vec![
            row.figure.clone(),
            format!("{:.2}", row.adit),
            format!("{:.2}", row.cloudflared),
            format!("{:.2}x", row.quotient),
            verdict.to_owned(),
        ]
    });
    std::iter::once(heading).chain(rows).collect()
}

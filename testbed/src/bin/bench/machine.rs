//! What the figures were taken on: without it they say nothing.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use adit_testbed::process::built;
use anyhow::Result;
use serde::Serialize;

use crate::options::Programs;
use crate::procfs::CpuClock;

/// How long the machine is watched before the first run.
const IDLE_CHECK: Duration = Duration::from_secs(2);

/// The machine and the versions of the programs that were compared.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Machine {
    kernel: String,
    processor: String,
    cores: usize,
    congestion_control: String,
    /// Per cent of one core that other programs used just before the first run.
    busy_percent: f64,
    versions: Vec<String>,
}

impl Machine {
    pub(crate) fn describe(programs: &Programs) -> Result<Self> {
        let before = CpuClock::of_machine()?;
        std::thread::sleep(IDLE_CHECK);
        let busy_percent = CpuClock::of_machine()?.percent_since(&before);
        let versions =
            [&built("adit")?, &programs.boringtun, &programs.gotatun].map(|program| version(program));
        Ok(Self {
            kernel: first_line("/proc/sys/kernel/osrelease"),
            processor: processor(),
            cores: std::thread::available_parallelism().map_or(0, Into::into),
            congestion_control: first_line("/proc/sys/net/ipv4/tcp_congestion_control"),
            versions: versions.into_iter().chain([version(Path::new("iperf3"))]).collect(),
            busy_percent,
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, processor, cores, congestion_control, busy_percent, versions } = self;
        writeln!(f, "Linux {kernel}, {cores} cores of {processor}, congestion control {congestion_control}")?;
        writeln!(f, "other programs used {busy_percent:.0} % of a core just before the first run")?;
        write!(f, "{}", versions.join(", "))
    }
}

fn first_line(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name"));
    model.map_or_else(|| "unknown".to_owned(), |model| model.trim_start_matches(['\t', ' ', ':']).to_owned())
}

/// The first line that `program --version` prints.
fn version(program: &Path) -> String {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let output =
        Command::new(program).arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&output);
    text.lines().next().map_or_else(|| format!("{name} (unknown)"), |line| line.trim().to_owned())
}

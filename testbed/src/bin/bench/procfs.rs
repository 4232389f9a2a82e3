//! What the kernel says of processes and hosts: processor time, memory, TCP retransmissions.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;

/// Clock ticks per second in `/proc/PID/stat`: fixed at 100 in the kernel's interface to user space.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time used so far by one process, or by the machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CpuClock {
    at: Instant,
    ticks: u64,
}

impl CpuClock {
    /// User and system time of a process and all its threads.
    pub(crate) fn of_process(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        Self::from_fields(&process_fields(&stat), &[11, 12]).with_context(|| format!("{path} is odd: {stat}"))
    }

    /// All time in which some processor of the machine was not idle.
    pub(crate) fn of_machine() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let first = stat.lines().next().unwrap_or_default();
        let fields: Vec<&str> = first.split_ascii_whitespace().skip(1).collect();
        // user, nice, system, irq, softirq; idle and iowait are fields 3 and 4
        Self::from_fields(&fields, &[0, 1, 2, 5, 6]).context("/proc/stat is odd")
    }

    fn from_fields(fields: &[&str], wanted: &[usize]) -> Result<Self> {
        let mut ticks = 0;
        for &index in wanted {
            let text = fields.get(index).context("too few fields")?;
            ticks += text.parse::<u64>().with_context(|| format!("not a number: {text}"))?;
        }
        Ok(Self { at: Instant::now(), ticks })
    }

    /// Per cent of one core, on average, between an earlier reading and this one.
    pub(crate) fn percent_since(&self, earlier: &Self) -> f64 {
        let elapsed = self.at.duration_since(earlier.at).as_secs_f64();
        if elapsed <= 0.0 {
            return 0.0;
        }
        let used = u32::try_from(self.ticks.saturating_sub(earlier.ticks)).unwrap_or(u32::MAX);
        f64::from(used) / TICKS_PER_SECOND / elapsed * 100.0
    }
}

/// The fields of `/proc/PID/stat` behind the program's name, which may hold spaces and brackets.
fn process_fields(stat: &str) -> Vec<&str> {
    let behind_name = stat.rfind(')').map_or("", |end| &stat[end + 1..]);
    behind_name.split_ascii_whitespace().collect()
}

/// Memory of one process, in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    /// Resident set size.
    pub(crate) rss_kib: u64,
    /// Resident set, shared pages divided among those who share them.
    pub(crate) pss_kib: u64,
}

impl Memory {
    pub(crate) fn of_process(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        Self::parse(&text).with_context(|| format!("{path} is odd"))
    }

    fn parse(text: &str) -> Result<Self> {
        let find = |name: &str| -> Result<u64> {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .with_context(|| format!("no {name}"))?;
            let number = line.trim().trim_end_matches("kB").trim();
            number.parse().with_context(|| format!("{name} is not a number of kB: {line}"))
        };
        Ok(Self { rss_kib: find("Rss:")?, pss_kib: find("Pss:")? })
    }
}

/// `RetransSegs` of `/proc/net/snmp`: segments that the TCP of one host sent again since it began.
pub(crate) fn retransmitted_segments(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Tcp:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let position = names.split_ascii_whitespace().position(|name| name == "RetransSegs")?;
    values.split_ascii_whitespace().nth(position)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_name_with_spaces_and_brackets_shifts_no_field() {
        let fields = process_fields("12 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 11 12 13");
        assert_eq!((fields[0], fields[11], fields[12]), ("S", "11", "12"));
    }

    #[test]
    fn memory_is_read_from_a_rollup() {
        let text = "55d0-7fff ---p 00000000 00:00 0   [rollup]\nRss:      10448 kB\nPss:       1200 kB\nPss_Dirty: 9 kB\n";
        assert_eq!(Memory::parse(text).unwrap(), Memory { rss_kib: 10448, pss_kib: 1200 });
        assert!(Memory::parse("Rss: 1 kB\n").is_err());
    }

    #[test]
    fn retransmissions_are_found_by_their_column() {
        let text = "Ip: A B\nIp: 1 2\nTcp: RtoMin InSegs RetransSegs InErrs\nTcp: 200 50 7 0\n";
        assert_eq!(retransmitted_segments(text), Some(7));
        assert_eq!(retransmitted_segments("Udp: A\nUdp: 1\n"), None);
    }

    #[test]
    fn own_clock_and_memory_can_be_read() {
        let pid = std::process::id();
        let before = CpuClock::of_process(pid).unwrap();
        assert!(before.percent_since(&before) == 0.0);
        assert!(Memory::of_process(pid).unwrap().rss_kib > 0);
        assert!(CpuClock::of_machine().unwrap().ticks > 0);
    }
}

//! Bulk TCP through `iperf3`, which everyone can run again beside our figures.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// Which end sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Direction {
    /// From the laptop into the cluster.
    Up,
    /// From the cluster to the laptop.
    Down,
}

/// What one run moved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bulk {
    /// Bits per second as the receiver counted them.
    pub(crate) bits_per_second: f64,
    /// Bytes as the receiver counted them.
    pub(crate) bytes: f64,
}

/// The arguments of a client that prints JSON.
pub(crate) fn client_arguments(
    target: std::net::IpAddr,
    seconds: u32,
    streams: u32,
    direction: Direction,
) -> Vec<String> {
    let mut arguments: Vec<String> =
        ["-J", "-c", &target.to_string(), "-t", &seconds.to_string(), "-P", &streams.to_string()]
            .map(str::to_owned)
            .into();
    if direction == Direction::Down {
        arguments.push("-R".to_owned());
    }
    arguments
}

/// Reads what a client printed with `-J`; an error that `iperf3` reports is an error here.
pub(crate) fn parse(output: &[u8]) -> Result<Bulk> {
    #[derive(Deserialize)]
    struct Output {
        error: Option<String>,
        end: Option<End>,
    }
    #[derive(Deserialize)]
    struct End {
        sum_received: Option<Sum>,
    }
    #[derive(Deserialize)]
    struct Sum {
        bytes: f64,
        bits_per_second: f64,
    }
    let output: Output = serde_json::from_slice(output).context("iperf3 printed no JSON")?;
    if let Some(error) = output.error {
        bail!("iperf3: {error}");
    }
    let sum =
        output.end.and_then(|end| end.sum_received).context("iperf3 printed no sum of what was received")?;
    Ok(Bulk { bits_per_second: sum.bits_per_second, bytes: sum.bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receiver_counts() {
        let text = br#"{"end":{"sum_sent":{"bytes":9,"bits_per_second":90.0,"retransmits":1},"sum_received":{"bytes":8,"bits_per_second":80.5}}}"#;
        assert_eq!(parse(text).unwrap(), Bulk { bits_per_second: 80.5, bytes: 8.0 });
    }

    #[test]
    fn reported_error_is_an_error() {
        let text = br#"{"start":{},"end":{},"error":"unable to connect to server: Connection refused"}"#;
        assert!(parse(text).unwrap_err().to_string().contains("Connection refused"));
        assert!(parse(b"").is_err());
    }

    #[test]
    fn down_is_reversed() {
        let target = "198.51.100.101".parse().unwrap();
        let up = client_arguments(target, 3, 4, Direction::Up).join(" ");
        assert_eq!(up, "-J -c 198.51.100.101 -t 3 -P 4");
        assert_eq!(client_arguments(target, 3, 4, Direction::Down).join(" "), format!("{up} -R"));
    }
}

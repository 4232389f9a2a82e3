//! Medians, spreads and percentiles of what was measured.
//!
//! Every figure that the bench prints is one of these two: a `Spread` of a few runs, or a `Percentiles` of thousands of
//! samples. Nothing here averages: one slow run on a shared machine would move a mean and tell nobody why.

use serde::{Deserialize, Serialize};

/// The runs of one cell, with their median, least and greatest.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Spread {
    /// The middle run, or the mean of the two middle ones.
    pub(crate) median: f64,
    /// The least run.
    pub(crate) min: f64,
    /// The greatest run.
    pub(crate) max: f64,
    /// All runs, in the order in which they were made.
    pub(crate) runs: Vec<f64>,
}

impl Spread {
    /// `None` without runs.
    pub(crate) fn of(runs: &[f64]) -> Option<Self> {
        let mut sorted = runs.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Self { median, min, max, runs: runs.to_vec() })
    }
}

/// What thousands of samples come down to, in microseconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Percentiles {
    /// How many samples there were.
    pub(crate) samples: usize,
    /// Half of the samples were no slower than this, in microseconds.
    pub(crate) p50_us: f64,
    /// 99 of 100 samples were no slower than this, in microseconds.
    pub(crate) p99_us: f64,
}

impl Percentiles {
    /// `None` without samples. The samples are in nanoseconds and are sorted in place.
    pub(crate) fn of_nanos(samples: &mut [u64]) -> Option<Self> {
        if samples.is_empty() {
            return None;
        }
        samples.sort_unstable();
        Some(Self {
            samples: samples.len(),
            p50_us: nearest_rank_us(samples, 50),
            p99_us: nearest_rank_us(samples, 99),
        })
    }
}

/// The nearest-rank percentile of a sorted, non-empty slice of nanoseconds, in microseconds.
fn nearest_rank_us(sorted: &[u64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    micros(sorted[rank - 1])
}

/// Nanoseconds as microseconds.
fn micros(nanos: u64) -> f64 {
    std::time::Duration::from_nanos(nanos).as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_and_even_runs() {
        let odd = Spread::of(&[3.0, 1.0, 2.0]).unwrap();
        assert_eq!((odd.median, odd.min, odd.max), (2.0, 1.0, 3.0));
        assert_eq!(odd.runs, [3.0, 1.0, 2.0]);
        let even = Spread::of(&[4.0, 1.0]).unwrap();
        assert_eq!((even.median, even.min, even.max), (2.5, 1.0, 4.0));
        assert!(Spread::of(&[]).is_none());
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let mut samples: Vec<u64> = (1..=200).rev().map(|n| n * 1000).collect();
        let found = Percentiles::of_nanos(&mut samples).unwrap();
        assert_eq!((found.samples, found.p50_us, found.p99_us), (200, 100.0, 198.0));
        assert!(Percentiles::of_nanos(&mut []).is_none());
        let one = Percentiles::of_nanos(&mut [7000]).unwrap();
        assert_eq!((one.p50_us, one.p99_us), (7.0, 7.0));
    }
}

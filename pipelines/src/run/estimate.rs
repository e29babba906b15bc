//! What a run will cost, from a few sampled splits.
//!
//! Splits spread evenly over the source are read (up to a number of rows each) and sent through the real chain, without
//! writing. Rates per stored byte are taken from each sample; the estimate is their mean, and the spread is the lowest and
//! the highest of them.

use serde::Serialize;

use crate::error::Result;
use crate::run::mill::{Mill, Taste};
use crate::run::spec::WorkItem;
use gristmill_datasets::run::RunPlan;

/// Rows of a split that are read for an estimate.
const ROWS: u64 = 2000;

/// A value with its spread over the samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Lowest sample.
    pub low: f64,
    /// Highest sample.
    pub high: f64,
}

/// What a run will probably be.
#[derive(Clone, Debug, Serialize)]
pub struct Estimate {
    /// Splits that were sampled.
    pub samples: usize,
    /// Rows read for it.
    pub rows_sampled: u64,
    /// Rows of the source; exact where the files say so.
    pub rows_in: Spread,
    /// Rows out of the chain.
    pub rows_out: Spread,
    /// Bytes of text, uncompressed.
    pub text_bytes: Spread,
    /// Seconds of one worker, without writing.
    pub worker_seconds: Spread,
}

/// Samples up to `samples` splits of a plan.
pub async fn estimate(mill: &Mill, plan: &RunPlan, samples: usize) -> Result<Estimate> {
    let total: u64 = plan.splits.iter().map(|split| split.bytes).sum();
    let known_rows: Option<u64> = plan.splits.iter().map(|split| split.rows).sum();
    let mut tastes = Vec::new();
    for index in spread_over(plan.splits.len(), samples) {
        let split = plan.splits[index].clone();
        let item = WorkItem { file: plan.files[split.file as usize].clone(), split };
        let taste = mill.taste(&item, ROWS).await?;
        tastes.push((share(&item, &taste), taste));
    }
    let rows_sampled = tastes.iter().map(|(_, taste)| taste.rows_in).sum();
    tastes.retain(|(bytes, taste)| *bytes > 0.0 && taste.rows_in > 0);
    let scaled = |of: fn(&Taste) -> f64| {
        let values = tastes.iter().map(|(bytes, taste)| match known_rows {
            // The rows are known, so rates are per row; otherwise they are per stored byte.
            Some(rows) => of(taste) / taste.rows_in as f64 * rows as f64,
            None => of(taste) / bytes * total as f64,
        });
        spread(values.collect())
    };
    let rows_in = match known_rows {
        Some(rows) => Spread { mean: rows as f64, low: rows as f64, high: rows as f64 },
        None => scaled(|taste| taste.rows_in as f64),
    };
    Ok(Estimate {
        samples: tastes.len(),
        rows_sampled,
        rows_in,
        rows_out: scaled(|taste| taste.rows_out as f64),
        text_bytes: scaled(|taste| taste.text_bytes as f64),
        worker_seconds: scaled(|taste| taste.seconds),
    })
}

/// Stored bytes that a sample stands for.
fn share(item: &WorkItem, taste: &Taste) -> f64 {
    let bytes = item.split.bytes as f64;
    match item.split.rows {
        _ if taste.whole => bytes,
        Some(rows) if rows > 0 => bytes * taste.rows_in as f64 / rows as f64,
        // Without a count, text is taken to be stored as it is.
        _ => (taste.text_bytes as f64).min(bytes),
    }
}

/// `samples` positions out of `count`, evenly spread.
fn spread_over(count: usize, samples: usize) -> Vec<usize> {
    let samples = samples.min(count);
    (0..samples).map(|index| (2 * index + 1) * count / (2 * samples)).collect()
}

fn spread(values: Vec<f64>) -> Spread {
    if values.is_empty() {
        return Spread::default();
    }
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    Spread { mean: values.iter().sum::<f64>() / values.len() as f64, low, high }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_spread_and_inside() {
        assert_eq!(spread_over(10, 3), [1, 5, 8]);
        assert_eq!(spread_over(2, 3), [0, 1]);
        assert_eq!(spread_over(0, 3), [] as [usize; 0]);
        assert_eq!(spread_over(100_000, 1), [50_000]);
    }

    #[test]
    fn spreads() {
        assert_eq!(spread(vec![1.0, 3.0]), Spread { mean: 2.0, low: 1.0, high: 3.0 });
        assert_eq!(spread(vec![]), Spread::default());
    }
}

//! Do scores credit the rows that a model was trained on?
//!
//! Rows carry whether they were trained on. If scores meant nothing, the highest half of the rows would hold as large a share of trained rows as the whole;
//! the analysis says how much larger it is, and how the scores of trained and untrained rows differ. "Magnitude" is the absolute value of a
//! score.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Summary, descending, error};
use crate::Result;

/// Per cent of the rows, from the top, at which precision and recall are told.
pub const TOP_PERCENT: [usize; 5] = [10, 25, 50, 75, 100];

/// A scored row and what is known of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct InfluenceRow {
    /// Position of the row in its data set.
    pub index: u64,
    /// Its score, finite.
    pub score: f64,
    /// Whether it was trained on, where that is known.
    pub trained: Option<bool>,
    /// Its `split_group`, such as `train_half`.
    pub group: Option<String>,
    /// Its `experiment_type`.
    pub experiment: Option<String>,
}

/// How good a share is, compared with what chance gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// Not above chance.
    Poor,
    /// Above chance.
    Fair,
    /// More than 0.1 above chance; of the whole also: above chance, and trained rows have the higher mean.
    Good,
    /// Of the whole: more than 0.1 above chance, and trained rows have the higher mean.
    Excellent,
}

impl Verdict {
    /// GOOD above `expected + 0.1`, FAIR above `expected`, else POOR.
    #[must_use]
    pub fn of_share(share: f64, expected: f64) -> Self {
        if share > expected + 0.1 {
            Self::Good
        } else if share > expected {
            Self::Fair
        } else {
            Self::Poor
        }
    }

    /// A verdict by score, raised by one where trained rows have the higher mean, unless it is POOR.
    #[must_use]
    pub fn of_all(self, trained_higher: bool) -> Self {
        match (self, trained_higher) {
            (Self::Good, true) => Self::Excellent,
            (Self::Fair, true) => Self::Good,
            (other, _) => other,
        }
    }

    /// As people read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Poor => "POOR",
            Self::Fair => "FAIR",
            Self::Good => "GOOD",
            Self::Excellent => "EXCELLENT",
        }
    }
}

/// Trained rows among the highest ones.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TopRows {
    /// Per cent of the rows that were taken.
    pub percent: usize,
    /// How many rows that are, rounded down.
    pub rows: usize,
    /// Trained rows among them.
    pub trained: usize,
    /// Trained rows over rows taken; 0 where none was taken.
    pub precision: f64,
    /// Trained rows taken over all trained rows; 0 where there are none.
    pub recall: f64,
    /// Harmonic mean of precision and recall; 0 where both are 0.
    pub f1: f64,
}

/// Trained against untrained rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TrainedUntrained {
    /// Trained rows.
    pub trained: Summary,
    /// Untrained rows.
    pub untrained: Summary,
    /// What is told of trained rows minus the same of untrained ones.
    pub difference: Difference,
}

/// Trained minus untrained.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Of means.
    pub mean: Option<f64>,
    /// Of standard deviations.
    pub std: Option<f64>,
    /// Of medians.
    pub median: Option<f64>,
    /// Of the smallest.
    pub min: Option<f64>,
    /// Of the largest.
    pub max: Option<f64>,
}

/// One way of ordering rows: by score, or by magnitude.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OrderAnalysis {
    /// Trained rows among the upper half, rounded down: precision is their share.
    pub top_half: TopRows,
    /// The share of the upper half against that of all rows.
    pub verdict: Verdict,
    /// Trained against untrained rows.
    pub statistics: TrainedUntrained,
    /// Precision and recall at each of [`TOP_PERCENT`].
    pub at: Vec<TopRows>,
}

/// Scores and magnitudes of the rows of a `split_group`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GroupStatistics {
    /// Scores.
    pub score: Summary,
    /// Magnitudes.
    pub magnitude: Summary,
}

/// What [`influence`] finds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InfluenceAnalysis {
    /// Rows whose status is known, which are those that everything below is about.
    pub rows: usize,
    /// Rows of each status: `trained`, `untrained`, and `unknown`, which is left out.
    pub by_status: BTreeMap<&'static str, usize>,
    /// Rows of each group.
    pub by_group: BTreeMap<String, usize>,
    /// Rows of each experiment.
    pub by_experiment: BTreeMap<String, usize>,
    /// Share of trained rows: what chance puts into any top.
    pub expected: f64,
    /// Ordered by score, highest first.
    pub by_score: OrderAnalysis,
    /// Ordered by magnitude, highest first.
    pub by_magnitude: OrderAnalysis,
    /// Each group's scores.
    pub groups: BTreeMap<String, GroupStatistics>,
    /// Whether trained rows have the higher mean score.
    pub trained_mean_higher: bool,
    /// The verdict on all: that by score, raised where trained rows have the higher mean.
    pub verdict: Verdict,
}

/// Analyzes scored rows. Ties are ordered by `index`.
///
/// # Errors
/// A score that is not finite, and rows none of which has a status.
///
/// ```
/// use gristmill_operators::analysis::{InfluenceRow, Verdict, influence};
///
/// let row = |index, score, trained| InfluenceRow { index, score, trained: Some(trained), ..InfluenceRow::default() };
/// let rows = [row(0, 3.0, true), row(1, 2.0, true), row(2, 1.0, false), row(3, 0.5, false)];
/// let found = influence(&rows)?;
/// assert_eq!((found.by_score.top_half.precision, found.verdict), (1.0, Verdict::Excellent));
/// # Ok::<(), gristmill_operators::OperatorError>(())
/// ```
pub fn influence(rows: &[InfluenceRow]) -> Result<InfluenceAnalysis> {
    if let Some(row) = rows.iter().find(|row| !row.score.is_finite()) {
        return Err(super::row_error(row.index, format!("score {}; finite numbers are allowed", row.score)));
    }
    let mut known: Vec<(&InfluenceRow, bool)> =
        rows.iter().filter_map(|row| row.trained.map(|trained| (row, trained))).collect();
    if known.is_empty() {
        return Err(error("status", "no row says whether it was trained on; 'trained' and 'untrained' are allowed"));
    }
    known.sort_by_key(|(row, _)| row.index);
    let trained_rows = known.iter().filter(|(_, trained)| *trained).count();
    let expected = trained_rows as f64 / known.len() as f64;
    let order = |value: fn(f64) -> f64| -> OrderAnalysis {
        let values: Vec<f64> = known.iter().map(|(row, _)| value(row.score)).collect();
        let ranked: Vec<bool> = descending(&values).into_iter().map(|position| known[position].1).collect();
        let of = |status: bool| -> Vec<f64> {
            known.iter().zip(&values).filter(|((_, trained), _)| *trained == status).map(|(_, value)| *value).collect()
        };
        let top_half = top(&ranked, 50, trained_rows);
        OrderAnalysis {
            top_half,
            verdict: Verdict::of_share(top_half.precision, expected),
            statistics: compare(Summary::of(&of(true)), Summary::of(&of(false))),
            at: TOP_PERCENT.iter().map(|&percent| top(&ranked, percent, trained_rows)).collect(),
        }
    };
    let (by_score, by_magnitude) = (order(|score| score), order(f64::abs));
    let counts = |of: fn(&InfluenceRow) -> Option<&String>| {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        known.iter().filter_map(|(row, _)| of(row)).for_each(|name| *counts.entry(name.clone()).or_default() += 1);
        counts
    };
    let by_group = counts(|row| row.group.as_ref());
    let groups = by_group.keys().map(|group| {
        let scores: Vec<f64> =
            known.iter().filter(|(row, _)| row.group.as_ref() == Some(group)).map(|(row, _)| row.score).collect();
        let magnitudes: Vec<f64> = scores.iter().map(|score| score.abs()).collect();
        (group.clone(), GroupStatistics { score: Summary::of(&scores), magnitude: Summary::of(&magnitudes) })
    });
    let means = (by_score.statistics.trained.mean, by_score.statistics.untrained.mean);
    let trained_mean_higher = matches!(means, (Some(trained), Some(untrained)) if trained > untrained);
    let unknown = rows.len() - known.len();
    Ok(InfluenceAnalysis {
        rows: known.len(),
        by_status: [("trained", trained_rows), ("untrained", known.len() - trained_rows), ("unknown", unknown)].into(),
        groups: groups.collect(),
        by_group,
        by_experiment: counts(|row| row.experiment.as_ref()),
        expected,
        trained_mean_higher,
        verdict: by_score.verdict.of_all(trained_mean_higher),
        by_score,
        by_magnitude,
    })
}

fn top(ranked: &[bool], percent: usize, all_trained: usize) -> TopRows {
    let rows = ranked.len() * percent / 100;
    let trained = ranked[..rows].iter().filter(|trained| **trained).count();
    let share = |whole: usize| if whole == 0 { 0.0 } else { trained as f64 / whole as f64 };
    let (precision, recall) = (share(rows), share(all_trained));
    let f1 = if trained == 0 { 0.0 } else { 2.0 * precision * recall / (precision + recall) };
    TopRows { percent, rows, trained, precision, recall, f1 }
}

fn compare(trained: Summary, untrained: Summary) -> TrainedUntrained {
    let minus = |of: fn(&Summary) -> Option<f64>| Some(of(&trained)? - of(&untrained)?);
    let difference = Difference {
        mean: minus(|summary| summary.mean),
        std: minus(|summary| summary.std),
        median: minus(|summary| summary.median),
        min: minus(|summary| summary.min),
        max: minus(|summary| summary.max),
    };
    TrainedUntrained { trained, untrained, difference }
}

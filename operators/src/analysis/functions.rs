//! What each function's scores say of the documents of each function.
//!
//! A ranked file has a score for each function that was asked about, and documents that are about functions themselves. If scores are right, those of a
//! function are high for documents of that function and of its pair.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{average_ranks, descending, mean, pearson, spearman};
use crate::Result;

/// How many of the highest and lowest scores means are told of.
pub const ENDS: [usize; 3] = [5, 10, 20];

/// Endings of the names of columns that hold the scores of one function.
pub const ENDINGS: [&str; 3] = ["_influence_score", "_bm25_score", "_similarity_score"];

/// Whether a column's name is that of the scores of one function: one of [`ENDINGS`] after anything but `combined`.
#[must_use]
pub fn is_function_score(name: &str) -> bool {
    ENDINGS.iter().any(|ending| name.strip_suffix(ending).is_some_and(|function| !function.is_empty() && function != "combined"))
}

/// A column of scores: one for each row, or none.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreColumn {
    /// The column's name.
    pub name: String,
    /// Finite scores.
    pub values: Vec<Option<f64>>,
}

/// What a column's scores say of the documents of one function.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FunctionStatistics {
    /// Documents that have a score.
    pub count: usize,
    /// Mean score.
    pub mean: f64,
    /// Mean of absolute values.
    pub mean_magnitude: f64,
    /// Lowest score.
    pub min: f64,
    /// Highest score.
    pub max: f64,
    /// Mean rank among all documents that have a score, 1 for the highest; documents of equal scores share the mean of their ranks.
    pub average_rank: f64,
    /// Mean of the highest scores, of as many as [`ENDS`] says or of all there are.
    pub mean_of_top: BTreeMap<usize, f64>,
    /// Mean of the lowest scores.
    pub mean_of_bottom: BTreeMap<usize, f64>,
}

/// The statistics of one column of scores.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScoreStatistics {
    /// The column.
    pub score: String,
    /// Rows without a score.
    pub without: usize,
    /// All documents.
    pub all: Option<FunctionStatistics>,
    /// Documents of each function, from the highest mean to the lowest; documents of no function are not among them.
    pub functions: Vec<(String, FunctionStatistics)>,
}

/// How much two columns of scores agree.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ColumnCorrelation {
    /// The columns.
    pub scores: [String; 2],
    /// Rows that have both scores.
    pub rows: usize,
    /// Pearson's correlation, where it exists.
    pub pearson: Option<f64>,
    /// Spearman's, where it exists.
    pub spearman: Option<f64>,
    /// Whether every row has the same score in both columns: then one was taken for the other, or they were asked the same.
    pub identical: bool,
}

/// What [`ranked_statistics`] finds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RankedStatistics {
    /// Rows.
    pub rows: usize,
    /// Each column of scores.
    pub scores: Vec<ScoreStatistics>,
    /// Each pair of columns.
    pub correlations: Vec<ColumnCorrelation>,
}

/// Statistics of each column of scores for the documents of each function. `functions` has each row's function; columns are as long.
///
/// # Errors
/// A score that is not finite, and columns that are not as long as `functions`.
///
/// ```
/// use gristmill_operators::analysis::{ScoreColumn, ranked_statistics};
///
/// let functions = ["<GN>", "<FN>", "<GN>"].map(|name| Some(name.to_owned()));
/// let scores = ScoreColumn { name: "f_influence_score".to_owned(), values: vec![Some(3.0), Some(1.0), Some(2.0)] };
/// let found = ranked_statistics(&functions, &[scores])?;
/// let (function, statistics) = &found.scores[0].functions[0];
/// assert_eq!((function.as_str(), statistics.mean, statistics.average_rank), ("<GN>", 2.5, 1.5));
/// # Ok::<(), gristmill_operators::OperatorError>(())
/// ```
pub fn ranked_statistics(functions: &[Option<String>], columns: &[ScoreColumn]) -> Result<RankedStatistics> {
    for column in columns {
        if column.values.len() != functions.len() {
            let message = format!("{} scores for {} rows", column.values.len(), functions.len());
            return Err(super::error(&column.name, message));
        }
        let bad = (0..).zip(&column.values).find_map(|(row, value)| Some((row, value.filter(|value| !value.is_finite())?)));
        if let Some((row, value)) = bad {
            let message = format!("column '{}': score {value}; finite numbers are allowed", column.name);
            return Err(super::row_error(row, message));
        }
    }
    let scores = columns.iter().map(|column| statistics(functions, column)).collect();
    let pairs = (0..columns.len()).flat_map(|second| (0..second).map(move |first| (first, second)));
    let mut correlations: Vec<ColumnCorrelation> =
        pairs.map(|(first, second)| correlation(&columns[first], &columns[second])).collect();
    correlations.sort_by_key(|pair| {
        let place = |name: &String| columns.iter().position(|column| column.name == *name);
        (place(&pair.scores[0]), place(&pair.scores[1]))
    });
    Ok(RankedStatistics { rows: functions.len(), scores, correlations })
}

fn statistics(functions: &[Option<String>], column: &ScoreColumn) -> ScoreStatistics {
    let scored: Vec<(usize, f64)> =
        column.values.iter().enumerate().filter_map(|(row, value)| Some((row, (*value)?))).collect();
    let values: Vec<f64> = scored.iter().map(|(_, value)| *value).collect();
    // Ranks from the highest.
    let ranks: Vec<f64> = average_ranks(&values).into_iter().map(|rank| values.len() as f64 + 1.0 - rank).collect();
    let mut members: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (position, (row, _)) in scored.iter().enumerate() {
        if let Some(function) = &functions[*row] {
            members.entry(function).or_default().push(position);
        }
    }
    let all: Vec<usize> = (0..values.len()).collect();
    let mut functions: Vec<(String, FunctionStatistics)> = members
        .into_iter()
        .filter_map(|(function, members)| Some((function.to_owned(), of_members(&values, &ranks, &members)?)))
        .collect();
    functions.sort_by(|a, b| b.1.mean.total_cmp(&a.1.mean));
    ScoreStatistics {
        score: column.name.clone(),
        without: column.values.len() - values.len(),
        all: of_members(&values, &ranks, &all),
        functions,
    }
}

fn of_members(values: &[f64], ranks: &[f64], members: &[usize]) -> Option<FunctionStatistics> {
    let of: Vec<f64> = members.iter().map(|&member| values[member]).collect();
    let magnitudes: Vec<f64> = of.iter().map(|value| value.abs()).collect();
    let ranks: Vec<f64> = members.iter().map(|&member| ranks[member]).collect();
    let sorted: Vec<f64> = descending(&of).into_iter().map(|position| of[position]).collect();
    let ends = |of: &dyn Fn(usize) -> Option<f64>| ENDS.iter().filter_map(|&end| Some((end, of(end)?))).collect();
    Some(FunctionStatistics {
        count: of.len(),
        mean: mean(&of)?,
        mean_magnitude: mean(&magnitudes)?,
        min: *sorted.last()?,
        max: *sorted.first()?,
        average_rank: mean(&ranks)?,
        mean_of_top: ends(&|end| mean(&sorted[..end.min(sorted.len())])),
        mean_of_bottom: ends(&|end| mean(&sorted[sorted.len().saturating_sub(end)..])),
    })
}

fn correlation(a: &ScoreColumn, b: &ScoreColumn) -> ColumnCorrelation {
    let (first, second): (Vec<f64>, Vec<f64>) = a.values.iter().zip(&b.values).filter_map(|(a, b)| Some(((*a)?, (*b)?))).unzip();
    ColumnCorrelation {
        scores: [a.name.clone(), b.name.clone()],
        rows: first.len(),
        pearson: pearson(&first, &second),
        spearman: spearman(&first, &second),
        identical: !first.is_empty() && a.values == b.values,
    }
}

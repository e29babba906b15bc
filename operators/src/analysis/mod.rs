//! What is done with ranked and scored output: no model is needed, and everything is a pure function of rows.
//!
//! * [`influence`]: do scores credit the rows that a model was trained on?
//! * [`ranked_statistics`]: what each function's scores say of the documents of each function;
//! * [`retrieval`]: recall, precision, reciprocal rank, average precision and nDCG of rankings against a truth;
//! * [`lds`]: do scores foretell what models become that are trained on subsets of the rows?
//! * [`agreement`]: how much two sets of scores agree;
//! * [`HopsRanking`]: ranked rows in the form that the benchmark with hop functions exchanges;
//! * [`chart`]: pictures of all that, as SVG.
//!
//! Scores are columns as in [`scores`](crate::scores), or plain numbers. What does not exist, such as the correlation with a constant, is `None` and
//! never NaN.

mod agreement;
pub mod chart;
pub mod columns;
mod functions;
mod hops;
mod influence;
mod lds;
pub mod pairs;
mod rank;
mod retrieval;
mod statistics;
#[cfg(test)]
mod tests;

pub use agreement::{Agreement, agreement};
pub use functions::{
    ColumnCorrelation, ENDINGS, ENDS, FunctionStatistics, RankedStatistics, ScoreColumn, ScoreStatistics,
    is_function_score, ranked_statistics,
};
pub use hops::{HopsForm, HopsRanking, function_prefix};
pub use influence::{
    Difference, GroupStatistics, InfluenceAnalysis, InfluenceRow, OrderAnalysis, TOP_PERCENT, TopRows,
    TrainedUntrained, Verdict, influence,
};
pub use lds::{Lds, SubsetSums, lds, lds_difference};
pub use rank::{average_ranks, descending, kendall_tau_b, pearson, spearman};
pub use retrieval::{QueryRetrieval, Rankings, Retrieval, RetrievalAt, Truth, retrieval};
pub use statistics::{Bootstrap, MeanEstimate, Summary, mean, quantile, standard_error};

use crate::OperatorError;

/// What messages about tables call this.
const KIND: &str = "analysis";

fn error(key: &str, message: impl Into<String>) -> OperatorError {
    crate::config::invalid(KIND, key, message)
}

fn row_error(row: u64, message: impl Into<String>) -> OperatorError {
    OperatorError::Row { kind: KIND.to_owned(), row, message: message.into() }
}

//! `gradient_statistics`: what of the gradients of a corpus other steps need.
//!
//! It reads rows and gives none of them: what comes out are partial sums of a stream, and those of all streams are put together in one file. Columns are `module`
//! (the layer), `statistic`, `rows` and `columns` (the shape), `bias` (whether the last column of gradients is that of the bias), `count` (tokens or documents that
//! are summed), `values` (Float64, row by row; sums are not divided), and `origin` (JSON: model, loss and what else they were made with).
//!
//! | `statistics` | rows for each layer |
//! |---|---|
//! | `kfac` | `activation_covariance`, `gradient_covariance`, and in the file their eigenvalues and eigenvectors |
//! | `ekfac_lambda` | `lambda`; it needs a file of `kfac` first |
//! | `diagonal` | `second_moment` |
//! | `adafactor` | `row_second_moment`, `column_second_moment` |
//! | `gram` | `gram` |
//! | `data_inf` | `normalized_gram`; it needs a file of `gram` first |
//!
//! Losses are those of `gradient`: of all tokens of a text, of an answer, or of a span. Texts that are null or have no token to predict are left out; those whose loss is not
//! finite are quarantined.

mod config;
mod file;
mod operator;
mod pass;

#[cfg(test)]
mod tests;

pub(crate) use config::before;
pub use config::{GradientStatisticsConfig, Labels, Learned, StatisticsReduction, next_fit};
pub use file::{Origin, read_factors};
pub use operator::GradientStatisticsKind;

const KIND: &str = "gradient_statistics";

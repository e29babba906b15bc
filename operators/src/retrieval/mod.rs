//! Documents and queries compared by the terms that they share: the text baselines of influence ranking.
//!
//! [`Terms`] says how texts become terms, [`CorpusStatistics`] how often those occur. A [`QueryIndex`] compares by Okapi
//! [`Bm25`] or by the cosine of [`TermVectors`], document by document through a [`Scorer`]; [`candidates`] lists the best
//! documents of a small corpus. Scores are computed in f64. The operators `bm25` and `term_cosine` add columns of scores;
//! what they need to know of the corpus, `term_statistics` counts.

mod bm25;
mod candidates;
mod fit;
mod index;
mod lexicon;
mod operator;
mod queries;
mod statistics;
mod table;
mod terms;
#[cfg(test)]
mod tests;
mod vectors;
mod words;

pub use bm25::Bm25;
pub use candidates::{Candidate, candidates};
pub use fit::{TermStatisticsConfig, TermStatisticsKind};
pub use index::{QueryIndex, Scorer};
pub use operator::{Bm25Config, Bm25Kind, TermCosineConfig, TermCosineKind, Weighting};
pub use queries::{Aggregate, Queries, QueryTable};
pub use statistics::CorpusStatistics;
pub use terms::{NamedTerms, TermScratch, Terms, TermsConfig, TokensConfig};
pub use vectors::TermVectors;

fn default_column() -> String {
    "text".to_owned()
}

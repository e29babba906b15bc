//! Documents and queries compared by the terms that they share: the text baselines of influence ranking.
//!
//! [`Terms`] says how texts become terms, [`CorpusStatistics`] how often those occur. A [`QueryIndex`] compares by Okapi
//! [`Bm25`] or by the cosine of [`TermVectors`], document by document through a [`Scorer`]; [`candidates`] lists the best
//! documents of a small corpus. Scores are computed in f64.

mod bm25;
mod candidates;
mod index;
mod lexicon;
mod queries;
mod statistics;
mod terms;
mod vectors;
mod words;

pub use bm25::Bm25;
pub use candidates::{Candidate, candidates};
pub use index::{QueryIndex, Scorer};
pub use queries::{Aggregate, Queries, QueryTable};
pub use statistics::CorpusStatistics;
pub use terms::{NamedTerms, TermScratch, Terms, TermsConfig, TokensConfig};
pub use vectors::TermVectors;

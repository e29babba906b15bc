//! Which rows are worth an exact score: the best of each query by a cheaper method, and some by chance.
//!
//! An exact method reads each row with a model and compares whole gradients. Where the best rows are wanted, a projected method finds nearly all of them at a fraction of the
//! cost for each query; only they need the exact score. What the cheaper method missed cannot be seen among its own best rows, so others are scored by chance, and
//! each row that is scored says how many rows of the corpus it stands for: its weight, the inverse of the probability that it was scored (Horvitz and
//! Thompson, *A generalization of sampling without replacement from a finite universe*, 1952). Among the k best rows of a query there are Σ (weight - 1) more in the corpus that
//! were not scored, in expectation; with weights of 1 alone none is known to be missing.
//!
//! Chance is a hash of the row's tokens: it is the same for equal rows, in any split and any run. Three groups have probabilities of their own:
//!
//! | rows | probability |
//! |---|---|
//! | the `keep` best of a query | 1 |
//! | the next `keep` of a query | `margin` |
//! | all others | that of being among the `sample` rows with the smallest hashes |
//!
//! A row of several groups has the largest.

mod operator;
mod pass;
mod table;
#[cfg(test)]
mod tests;

pub(super) use operator::ChoosingConfig;
pub use operator::InfluenceCandidatesKind;
pub(super) use table::Chosen;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::config::{InfluenceConfig, Method, MixingRule, Pooling};
use super::documents::Document;
use crate::config::invalid;
use crate::influence::curvature::{Damping, Labels};
use crate::influence::sketch::{SignSource, default_dimension};
use crate::{OperatorError, Result};

const KIND: &str = "influence_candidates";

/// Which rows are scored, where not all are. Keys that stand beside it hold for both methods: model, columns, loss, queries and layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CandidatesConfig {
    /// The cheaper method: `dot`, `cosine`, `trackstar`, `kfac` or `representation`.
    #[serde(default = "default_method")]
    pub method: Method,
    /// How many of its best rows of each query are scored.
    #[serde(default = "default_keep")]
    pub keep: u32,
    /// The share of as many rows behind them that are scored, by chance: 0 to 1.
    #[serde(default = "default_margin")]
    pub margin: f64,
    /// How many rows of the whole corpus are scored by chance.
    #[serde(default = "default_sample")]
    pub sample: u32,
    /// A column that `gradient` made, from which the cheaper method scores.
    #[serde(default)]
    pub gradients: Option<String>,
    /// As of `influence`, for the cheaper method.
    #[serde(default = "default_dimension")]
    pub dimension: usize,
    /// As of `influence`, for the cheaper method.
    #[serde(default)]
    pub seed: u64,
    /// As of `influence`, for the cheaper method.
    #[serde(default)]
    pub signs: SignSource,
    /// As of `influence`, for the cheaper method.
    #[serde(default)]
    pub normalize: Option<bool>,
    /// As of `influence`, for the cheaper method.
    #[serde(default)]
    pub labels: Option<Labels>,
    /// As of `influence`, for the cheaper method.
    #[serde(default)]
    pub fit_rows: Option<u64>,
    /// As of `influence`, for the cheaper method.
    #[serde(default)]
    pub damping: Option<Damping>,
    /// As of `influence`, for the cheaper method.
    #[serde(default)]
    pub mixing: Option<MixingRule>,
    /// As of `influence`, for the cheaper method.
    #[serde(default)]
    pub layer: Option<usize>,
    /// As of `influence`, for the cheaper method.
    #[serde(default)]
    pub pooling: Option<Pooling>,
}

const fn default_method() -> Method {
    Method::Trackstar
}

const fn default_keep() -> u32 {
    1000
}

const fn default_margin() -> f64 {
    0.1
}

const fn default_sample() -> u32 {
    1000
}

impl CandidatesConfig {
    /// The complete configuration of the cheaper method, given the one that this is part of.
    ///
    /// # Errors
    /// Methods that are not cheaper, and what [`InfluenceConfig`] refuses.
    pub(super) fn first(&self, whole: &InfluenceConfig) -> Result<InfluenceConfig> {
        let wrong = |key: &str, message: String| invalid(super::KIND, &format!("candidates.{key}"), message);
        // DataInf learns two things, one after another, and LESS costs a gradient of each document, whole.
        if (!self.method.projects() || matches!(self.method, Method::DataInf | Method::Less))
            && self.method != Method::Representation
        {
            let message = format!(
                "'{}' is no cheaper method; allowed: dot, cosine, trackstar, kfac, representation",
                self.method.name()
            );
            return Err(wrong("method", message));
        }
        if self.keep == 0 {
            return Err(wrong("keep", "0; at least 1 is allowed".to_owned()));
        }
        if !(0.0..=1.0).contains(&self.margin) {
            return Err(wrong("margin", format!("{}; 0 to 1 is allowed", self.margin)));
        }
        let own = self.clone();
        let differentiates = self.method != Method::Representation;
        let first = InfluenceConfig {
            method: own.method,
            gradients: own.gradients,
            dimension: own.dimension,
            seed: own.seed,
            signs: own.signs,
            normalize: own.normalize,
            statistics: whole.candidate_statistics.clone(),
            factors: None,
            optimizer: None,
            betas: None,
            epsilon: None,
            weight: 1.0,
            checkpoints: Vec::new(),
            normalizer: None,
            second_moments: None,
            labels: own.labels,
            fit_rows: own.fit_rows,
            damping: own.damping,
            mixing: own.mixing,
            rank: None,
            bias: false,
            layer: own.layer,
            pooling: own.pooling,
            candidates: None,
            candidate_statistics: None,
            candidate_rows: None,
            // Hidden states are those of the whole text.
            answer: whole.answer.clone().filter(|_| differentiates),
            span: whole.span.clone().filter(|_| differentiates),
            reduction: if differentiates { whole.reduction } else { Default::default() },
            modules: if differentiates { whole.modules.clone() } else { Default::default() },
            ..whole.clone()
        };
        first.complete().map_err(|error| match error {
            OperatorError::InvalidValue { key, message, .. } => wrong(&key, message),
            other => other,
        })
    }
}

/// What a row is known by: 128 bits of its tokens and of which of them count.
pub(super) type Key = [u8; 16];

/// The key of a document. Documents of one key have the same scores.
pub(super) fn key(document: &Document) -> Key {
    let mut hasher = blake3::Hasher::new();
    for (id, weight) in document.ids.iter().zip(&document.weights) {
        hasher.update(&id.to_le_bytes()).update(&[u8::from(*weight != 0.0)]);
    }
    let mut key = Key::default();
    key.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    key
}

/// A number from 0 to below 1 that a key stands for.
fn chance(key: &Key) -> f64 {
    let high = key[..8].iter().fold(0, |number: u64, &byte| number << 8 | u64::from(byte));
    // The 53 bits that a double has.
    (high >> 11) as f64 / (1_u64 << 53) as f64
}

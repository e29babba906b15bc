//! Which training documents does a model owe an output to?
//!
//! Per-document gradients of language models come from [`models::gradients`](crate::models::gradients) while a corpus streams by; here they are
//! projected, preconditioned, compared with those of queries, or kept.

mod batches;
pub mod curvature;
pub mod gradient;
mod modules;
pub mod pairs;
mod queries;
mod score;
pub mod sketch;

pub use modules::Modules;
pub use queries::{Aggregate, LossOn, QueriesConfig};
pub use score::{
    CandidatesConfig, CheckpointConfig, InfluenceCandidatesKind, InfluenceConfig, InfluenceKind, Method, MixingRule,
    Normalizer, Pooling,
};

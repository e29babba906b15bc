//! Which training documents does a model owe an output to?
//!
//! Per-document gradients of language models come from [`models::gradients`](crate::models::gradients) while a corpus streams by; here they are
//! projected, preconditioned, compared with those of queries, or kept.

mod modules;
pub mod pairs;

pub use modules::Modules;

//! `influence`: how much the rows of a corpus contribute to what a model says, by the gradients of their losses.
//!
//! Each row is compared with queries ([`QueriesConfig`](crate::influence::QueriesConfig)). Added are column `<name>`, a [column of scores](crate::scores)
//! with a Float32 for each query or group of queries, and `<name>_metadata`, a struct of
//!
//! | field | type | meaning |
//! |---|---|---|
//! | `loss` | Float64 | the loss whose gradient was compared; null for `representation` |
//! | `tokens` | UInt32 | how many tokens the loss is of; all of the text for `representation` |
//! | `norm` | Float64 | length of the projected gradient, before it is transformed; that of the pooled states for `representation`; null for whole gradients |
//!
//! | `weight` | Float64 | with `candidates` alone: how many rows of the corpus the row stands for |
//!
//! With `gradients` the first two are those of the column's own metadata, and null where that is not there.
//!
//! A row whose text or answer is null has no scores. One without a token to predict (fewer than two tokens) has scores of 0 and 0 tokens. One whose loss or gradient is not finite
//! is quarantined. The others have the same bits in any batch, beside any other rows, and in any split.
//!
//! # Methods
//!
//! For each linear layer that `modules` takes, with weights `[O, I]`, g = Σ δₜxₜᵀ is the gradient of a text's loss and q that of a query, both projected to L·g·Rᵀ of
//! `[p, p]` ([`sketch`](crate::influence::sketch)) unless it says *whole*. Products are sums over all elements of all layers.
//!
//! | `method` | score | statistics |
//! |---|---|---|
//! | `dot` | ⟨q, g⟩ | |
//! | `cosine` | ⟨q, g⟩ / (‖q‖ ‖g‖) | |
//! | `trackstar` | cosine of H^-½q and H^-½g; with `normalize: false` ⟨H⁻¹q, g⟩ | Gram matrix |
//! | `kfac` | ⟨L (S^-½ q A^-½) Rᵀ, L (S^-½ g A^-½) Rᵀ⟩, the cosine with `normalize: true` | S, A |
//! | `datainf` | ⟨H⁻¹q, g⟩ with H⁻¹ = E\[(λI + g gᵀ)⁻¹\] layer by layer | Gram matrix, E\[g gᵀ / (λ + ‖g‖²)\] |
//! | `less` | ⟨q, a⟩ / (‖q‖ ‖a‖), where a is what Adam makes of g: (β₁m + (1 - β₁)g) / √(β₂v + (1 - β₂)g² + ε) | |
//! | `identity` | ⟨q, g⟩, *whole* | |
//! | `diagonal` | ⟨H⁻¹q, g⟩ with H = E\[g²\] element by element, *whole* | E\[g²\] |
//! | `kfac_exact` | ⟨(S ⊗ A)⁻¹ q, g⟩, *whole* | S, A |
//! | `ekfac` | ⟨Q_S ((Q_Sᵀ q Q_A) ⊘ Λ) Q_Aᵀ, g⟩, *whole* | S, A, Λ |
//! | `representation` | cosine of pooled hidden states | |
//!
//! With `normalizer: adafactor` gradients are divided by the root of their second moments before they are projected (Adafactor's, Shazeer and Stern 2018, as TrackStar has it);
//! those are learned first.
//!
//! `dot` and `cosine` are those of TracIn (Pruthi and others, 2020), and `less` is that of Xia and others, *LESS: selecting influential data for targeted instruction tuning*, 2024,
//! with m and v of each parameter from `optimizer`, and with gradients of layers' weights where LESS has those of an adapter's. With `checkpoints` scores of several checkpoints
//! are added up, each times its `weight`.
//! `trackstar` is that of Chang and others, *Scalable influence and fact tracing for large language
//! model pretraining*, 2024: H = λ·H_queries + (1 - λ)·H_corpus of E\[vec(P) vec(P)ᵀ\] for each layer, with `mixing` for λ. K-FAC and EK-FAC are those of Grosse and
//! others, *Studying large language model generalization with influence functions*, 2023, with S = E\[δδᵀ\], A = E\[xxᵀ\] and Λ = E\[(Q_Sᵀ g Q_A)²\]; inverses are damped as
//! `damping` says ([`Damping`](crate::influence::curvature::Damping)); where K-FAC is folded into a projection that is always `factored_tikhonov`.
//! DataInf is that of Kwon and others, *DataInf: efficiently estimating data influence in LoRA-tuned LLMs and diffusion models*, 2024, with λ a tenth of the mean eigenvalue
//! unless `damping.factor` says otherwise.
//!
//! Statistics are learned from those of the first `fit_rows` rows of the source that reach the step, by the losses whose gradients are scored, before it begins, or come from files that
//! [`gradient_statistics`](crate::influence::curvature::GradientStatisticsKind) made: `statistics`, and with `ekfac` `factors`.
//!
//! # Candidates
//!
//! An exact method costs a pass over whole gradients for each row. With `candidates` the rows first go through a cheaper method, in a run of its own that is resumed like any other; its `keep` best rows of
//! each query are scored exactly, and no others but some that are drawn by chance. Rows that are not scored are null, and do not rank;
//! one that the cheaper method cannot score is quarantined in the run that chooses. `weight` in the metadata is the inverse
//! of the probability that the row was scored: of the k best rows of a query about Σ (weight - 1) more are in the corpus, unscored, so that an estimate of the recall is
//! k / (k + Σ (weight - 1)).
//!
//! # Groups of queries
//!
//! With `aggregate: mean` the score of a group is the mean of its queries' scores. That is the score of the mean of what queries become in the end, so a group costs no more than
//! a query. With `nearest` it is the largest of them.

mod adam;
mod candidates;
mod config;
mod documents;
mod engine;
mod methods;
mod operator;
mod prepared;
mod products;
mod source;

#[cfg(test)]
mod tests;

pub use candidates::{CandidatesConfig, InfluenceCandidatesKind};
pub use config::{CheckpointConfig, InfluenceConfig, Method, MixingRule, Normalizer, Pooling};

use std::sync::Arc;

use arrow_schema::{DataType, Field, SchemaRef};
use serde_json::Value;

use crate::operator::{Fit, Operator, OperatorKind, OperatorSpec, extend_schema};
use crate::resources::Resources;
use crate::scoring::device;
use crate::{Result, config as configuration, scores};
use operator::Influence;
use prepared::Prepared;
use source::Source;

const KIND: &str = "influence";

/// The kind `influence`.
#[derive(Clone, Copy, Debug)]
pub struct InfluenceKind;

impl OperatorKind for InfluenceKind {
    fn name(&self) -> &'static str {
        KIND
    }

    fn summary(&self) -> &'static str {
        "score texts by how much their gradients agree with those of queries"
    }

    fn example(&self) -> &'static str {
        "influence: {model: EleutherAI/pythia-160m, queries: {path: queries.jsonl}, method: cosine}"
    }

    fn config_schema(&self) -> Value {
        configuration::schema::<InfluenceConfig>()
    }

    fn complete(&self, config: &Value) -> Result<Value> {
        let config = InfluenceConfig::read(config)?;
        serde_json::to_value(config).map_err(|error| configuration::invalid(KIND, "", error.to_string()))
    }

    fn fit(&self, config: &Value) -> Result<Option<Fit>> {
        InfluenceConfig::read(config)?.next_fit()
    }

    fn identity(&self, config: &Value) -> Value {
        device::identity(config)
    }

    fn bind(&self, spec: &OperatorSpec, input: &SchemaRef, resources: &Resources) -> Result<Arc<dyn Operator>> {
        let config = InfluenceConfig::read(&spec.config)?;
        let (prepared, identities) = Prepared::of(&config, resources)?;
        let source = Source::of(&prepared, input)?;
        let added = vec![
            scores::field(&spec.name, &prepared.names)?,
            Field::new(format!("{}_metadata", spec.name), DataType::Struct(operator::metadata_fields(&prepared)), true),
        ];
        let schema = extend_schema(spec, input, added)?;
        Ok(Arc::new(Influence::new(spec.clone(), schema, source, prepared, identities)))
    }
}

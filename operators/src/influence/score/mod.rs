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
//! | `identity` | ⟨q, g⟩, *whole* | |
//! | `diagonal` | ⟨H⁻¹q, g⟩ with H = E\[g²\] element by element, *whole* | E\[g²\] |
//! | `kfac_exact` | ⟨(S ⊗ A)⁻¹ q, g⟩, *whole* | S, A |
//! | `ekfac` | ⟨Q_S ((Q_Sᵀ q Q_A) ⊘ Λ) Q_Aᵀ, g⟩, *whole* | S, A, Λ |
//! | `representation` | cosine of pooled hidden states | |
//!
//! `dot` and `cosine` are those of TracIn (Pruthi and others, 2020). `trackstar` is that of Chang and others, *Scalable influence and fact tracing for large language
//! model pretraining*, 2024: H = λ·H_queries + (1 - λ)·H_corpus of E\[vec(P) vec(P)ᵀ\] for each layer, with `mixing` for λ. K-FAC and EK-FAC are those of Grosse and
//! others, *Studying large language model generalization with influence functions*, 2023, with S = E\[δδᵀ\], A = E\[xxᵀ\] and Λ = E\[(Q_Sᵀ g Q_A)²\]; inverses are damped as
//! `damping` says ([`Damping`](crate::influence::curvature::Damping)); where K-FAC is folded into a projection that is always `factored_tikhonov`.
//!
//! Statistics are learned from the first `fit_rows` rows that reach the step, by the loss on all tokens of `column`, before it begins, or come from files that
//! [`gradient_statistics`](crate::influence::curvature::GradientStatisticsKind) made: `statistics`, and with `ekfac` `factors`.
//!
//! # Groups of queries
//!
//! With `aggregate: mean` the score of a group is the mean of its queries' scores. That is the score of the mean of what queries become in the end, so a group costs no more than
//! a query. With `nearest` it is the largest of them.

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

pub use config::{InfluenceConfig, Method, MixingRule, Pooling};

use std::sync::Arc;

use arrow_schema::{DataType, Field, SchemaRef};
use serde_json::Value;

use crate::influence::curvature::next_fit;
use crate::operator::{Fit, Operator, OperatorKind, OperatorSpec, extend_schema};
use crate::resources::Resources;
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
        let config = InfluenceConfig::read(config)?;
        let Some(goal) = config.learned() else { return Ok(None) };
        next_fit(&goal, config.factors.as_deref(), config.statistics.as_deref(), config.fit_rows)
    }

    fn bind(&self, spec: &OperatorSpec, input: &SchemaRef, resources: &Resources) -> Result<Arc<dyn Operator>> {
        let config = InfluenceConfig::read(&spec.config)?;
        let (prepared, identities) = Prepared::of(&config, resources)?;
        let source = Source::of(&prepared, input)?;
        let added = vec![
            scores::field(&spec.name, &prepared.names)?,
            Field::new(format!("{}_metadata", spec.name), DataType::Struct(operator::metadata_fields()), true),
        ];
        let schema = extend_schema(spec, input, added)?;
        Ok(Arc::new(Influence::new(spec.clone(), schema, source, prepared, identities)))
    }
}

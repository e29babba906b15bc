//! The operator that chooses candidates, and how what streams have of them becomes one table.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::pass::{CandidatesPass, Shared};
use super::table::{self, Merge};
use super::{CandidatesConfig, KIND};
use crate::config::{self, invalid};
use crate::influence::gradient::{GradientConfig, Span, documents};
use crate::influence::score::config::InfluenceConfig;
use crate::influence::score::prepared::Prepared;
use crate::influence::score::source::Source;
use crate::operator::{Operator, OperatorKind, OperatorSpec, Pass, RowEffect};
use crate::scoring::device;
use crate::{ResourceIdentity, Resources, Result};

/// The kind `influence_candidates`.
#[derive(Clone, Copy, Debug)]
pub struct InfluenceCandidatesKind;

/// Configuration of `influence_candidates`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::influence::score) struct ChoosingConfig {
    /// A complete configuration of `influence` with the cheaper method.
    pub(super) influence: Value,
    /// A column of answers, of which rows are known as well.
    #[serde(default)]
    pub(super) answer: Option<String>,
    /// Tokens whose loss counts, by which rows are known as well.
    #[serde(default)]
    pub(super) span: Option<Span>,
    /// How many of the best rows of each query are chosen.
    pub(super) keep: u32,
    /// The share of as many rows behind them that are chosen, by chance.
    pub(super) margin: f64,
    /// How many rows of all are chosen by chance.
    pub(super) sample: u32,
}

impl ChoosingConfig {
    /// What chooses the candidates of a step.
    pub(in crate::influence::score) fn of(whole: &InfluenceConfig, candidates: &CandidatesConfig) -> Result<Self> {
        let first = candidates.first(whole)?;
        Ok(Self {
            influence: serde_json::to_value(first).map_err(|error| invalid(KIND, "influence", error.to_string()))?,
            answer: whole.answer.clone(),
            span: whole.span.clone(),
            keep: candidates.keep,
            margin: candidates.margin,
            sample: candidates.sample,
        })
    }

    pub(in crate::influence::score) fn spec(&self) -> Result<OperatorSpec> {
        let config = serde_json::to_value(self).map_err(|error| invalid(KIND, "", error.to_string()))?;
        Ok(OperatorSpec::new(KIND, config))
    }

    /// What a table of candidates says that it was chosen with, given a hash of model, tokenizer and queries: all that they depend on, wherever files are.
    pub(in crate::influence::score) fn origin(&self, files: &str) -> Result<String> {
        let mut value = serde_json::to_value(self).map_err(|error| invalid(KIND, "", error.to_string()))?;
        if let Some(influence) = value["influence"].as_object_mut() {
            for place in ["model", "adapter", "tokenizer", "statistics"] {
                influence.remove(place);
            }
            if let Some(queries) = influence.get_mut("queries").and_then(Value::as_object_mut) {
                queries.remove("path");
            }
        }
        value["files"] = files.into();
        Ok(value.to_string())
    }

    fn read(config: &Value) -> Result<(Self, InfluenceConfig)> {
        let config: Self = config::parse(KIND, config)?;
        let influence = InfluenceConfig::read(&config.influence)?;
        Ok((config, influence))
    }
}

impl OperatorKind for InfluenceCandidatesKind {
    fn name(&self) -> &'static str {
        KIND
    }

    fn is_step(&self) -> bool {
        false
    }

    fn summary(&self) -> &'static str {
        "choose the rows that an exact method of influence shall score, by a cheaper method and by chance"
    }

    fn example(&self) -> &'static str {
        "influence_candidates: {influence: {model: EleutherAI/pythia-160m, queries: {path: queries.jsonl}, method: cosine}, keep: 1000, margin: 0.1, sample: 1000}"
    }

    fn config_schema(&self) -> Value {
        config::schema::<ChoosingConfig>()
    }

    fn complete(&self, config: &Value) -> Result<Value> {
        let (config, influence) = ChoosingConfig::read(config)?;
        let influence = serde_json::to_value(influence).map_err(|error| invalid(KIND, "", error.to_string()))?;
        serde_json::to_value(ChoosingConfig { influence, ..config })
            .map_err(|error| invalid(KIND, "", error.to_string()))
    }

    fn combine(
        &self,
        spec: &OperatorSpec,
        parts: &mut dyn Iterator<Item = Result<RecordBatch>>,
    ) -> Result<Vec<RecordBatch>> {
        let (config, _) = ChoosingConfig::read(&spec.config)?;
        let mut merge = Merge::new(config.keep, config.margin, config.sample);
        for part in parts {
            merge.add(&part?).map_err(|message| invalid(KIND, "", message))?;
        }
        Ok(vec![merge.chosen().to_batch()?])
    }

    fn identity(&self, config: &Value) -> Value {
        device::identity(config)
    }

    fn bind(&self, spec: &OperatorSpec, input: &SchemaRef, resources: &Resources) -> Result<Arc<dyn Operator>> {
        let (config, influence) = ChoosingConfig::read(&spec.config)?;
        let (prepared, identities) = Prepared::of(&influence, resources)?;
        let known_by =
            GradientConfig { answer: config.answer.clone(), span: config.span.clone(), ..influence.gradient() };
        documents::check(KIND, &known_by, input)?;
        let source = Source::of(&prepared, input)?;
        let origin = config.origin(&prepared.files)?;
        let shared = Shared { known_by, source, origin, prepared, keep: config.keep, sample: config.sample };
        Ok(Arc::new(InfluenceCandidates { spec: spec.clone(), identities, shared: Arc::new(shared) }))
    }
}

#[derive(Debug)]
struct InfluenceCandidates {
    spec: OperatorSpec,
    identities: Vec<ResourceIdentity>,
    shared: Arc<Shared>,
}

impl Operator for InfluenceCandidates {
    fn spec(&self) -> &OperatorSpec {
        &self.spec
    }

    fn output_schema(&self) -> &SchemaRef {
        table::part_schema()
    }

    fn inputs(&self) -> Vec<String> {
        let mut inputs = self.shared.source.inputs();
        for column in Source::Texts(self.shared.known_by.clone()).inputs() {
            if !inputs.contains(&column) {
                inputs.push(column);
            }
        }
        inputs
    }

    fn row_effect(&self) -> RowEffect {
        RowEffect::Any
    }

    fn resources(&self) -> Vec<ResourceIdentity> {
        self.identities.clone()
    }

    fn start(&self) -> Result<Box<dyn Pass>> {
        Ok(Box::new(CandidatesPass::new(Arc::clone(&self.shared))))
    }
}

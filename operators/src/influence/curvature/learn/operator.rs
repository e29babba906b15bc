//! The operator, and how the sums of streams become one file.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use serde_json::Value;

use super::super::{Factors, Layers, Rotations, mean_eigenvalue, scale_by_second_moments};
use super::KIND;
use super::config::{GradientStatisticsConfig, Learned, before, of_factors, own_fit, read};
use super::file::{Origin, from_batch, read_factors, schema, to_batch};
use super::pass::{LearningPass, Shared};
use crate::config::{self, invalid};
use crate::influence::gradient::documents;
use crate::influence::sketch::Sketch;
use crate::operator::{Fit, Operator, OperatorKind, OperatorSpec, Pass, RowEffect};
use crate::scoring::device;
use crate::scoring::reader::{Reader, Reading};
use crate::{ResourceIdentity, Resources, Result};

/// The kind `gradient_statistics`.
#[derive(Clone, Copy, Debug)]
pub struct GradientStatisticsKind;

impl OperatorKind for GradientStatisticsKind {
    fn name(&self) -> &'static str {
        KIND
    }

    fn is_step(&self) -> bool {
        false
    }

    fn summary(&self) -> &'static str {
        "learn covariances and second moments of a language model's gradients from texts"
    }

    fn example(&self) -> &'static str {
        "gradient_statistics: {model: EleutherAI/pythia-160m, context_length: 1024, statistics: {kfac: {labels: sampled}}}"
    }

    fn config_schema(&self) -> Value {
        config::schema::<GradientStatisticsConfig>()
    }

    fn complete(&self, config: &Value) -> Result<Value> {
        serde_json::to_value(read(config)?).map_err(|error| invalid(KIND, "", error.to_string()))
    }

    fn fit(&self, config: &Value) -> Result<Option<Fit>> {
        own_fit(&read(config)?)
    }

    fn combine(
        &self,
        spec: &OperatorSpec,
        parts: &mut dyn Iterator<Item = Result<RecordBatch>>,
    ) -> Result<Vec<RecordBatch>> {
        let config = read(&spec.config)?;
        let failed = |message: String| invalid(KIND, "", message);
        let (mut factors, mut origin) = (Factors::default(), None);
        for part in parts {
            for (factor, found) in from_batch(&part?).map_err(failed)? {
                let expected = origin.get_or_insert_with(|| found.clone());
                if *expected != found {
                    return Err(failed(format!("parts were made with different things: {expected} and {found}")));
                }
                factors.add_factor(factor).map_err(|error| failed(error.to_string()))?;
            }
        }
        let Some(origin) = origin else {
            return Err(failed(
                "no text of these rows has a token to predict, so that nothing can be learned".to_owned(),
            ));
        };
        if let Learned::Kfac { .. } = config.statistics {
            factors = factors.with_eigenvectors().map_err(|error| failed(error.to_string()))?;
        }
        factors.into_iter().map(|factor| to_batch(factor, &origin)).collect()
    }

    fn identity(&self, config: &Value) -> Value {
        device::identity(config)
    }

    fn bind(&self, spec: &OperatorSpec, input: &SchemaRef, resources: &Resources) -> Result<Arc<dyn Operator>> {
        let config = read(&spec.config)?;
        let losses = config.gradient();
        documents::check(KIND, &losses, input)?;
        let reading = Reading {
            model: &config.model,
            adapter: config.adapter.as_deref(),
            tokenizer: config.tokenizer.as_deref(),
            column: &config.column,
            precision: config.precision,
            device: config.device,
            context_length: config.context_length,
            preferred_length: None,
        };
        let reader = Reader::for_gradients(KIND, reading, resources)?;
        reader.expect_language_model(&config.model)?;
        let mut identities = reader.resources();
        let of_modules = |message: String| invalid(KIND, "modules", message);
        let layers = Layers::of(&reader.model, &config.modules, config.bias).map_err(of_modules)?;
        let sketch = config.sketch().map(|sketch| Sketch::new(&reader.model, &sketch));
        let name = config.statistics.name();
        let mut sketch = sketch.transpose().map_err(|message| invalid(KIND, &format!("statistics.{name}"), message))?;
        if let (Some(before), None) = (before(&config), &config.factors) {
            let message = format!("'{name}' needs the file that was learned with '{}' first", before.statistics.name());
            return Err(invalid(KIND, "factors", message));
        }
        let mut known = None;
        if let (Some(of_file), Some(location)) = (of_factors(&config), &config.factors) {
            let (factors, identity) = read_factors(location, resources, &Origin::of(&of_file, &reader, None))?;
            known = Some((Arc::new(factors), identity.hash.clone()));
            identities.push(identity);
        }
        let (factors, factors_hash) = known.unzip();
        if let (Learned::Gram { .. }, Some(sketch), Some(factors)) = (&config.statistics, &mut sketch, &factors) {
            scale_by_second_moments(sketch, factors).map_err(|message| invalid(KIND, "factors", message))?;
        }
        let origin = serde_json::to_string(&Origin::of(&config, &reader, factors_hash));
        let origin = origin.map_err(|error| invalid(KIND, "", error.to_string()))?;
        let dampings = match (&config.statistics, &sketch, &factors) {
            (Learned::DataInf { damping, .. }, Some(sketch), Some(factors)) => {
                let each = sketch.modules().iter().map(|module| {
                    mean_eigenvalue(factors, &module.name).map(|mean| (module.name.clone(), damping * mean))
                });
                each.collect::<std::result::Result<_, _>>()
                    .map_err(|error| invalid(KIND, "factors", error.to_string()))?
            }
            _ => BTreeMap::new(),
        };
        let rotations = Arc::new(Rotations::new(factors.unwrap_or_default()));
        let shared = Shared { config, losses, reader, layers, rotations, sketch, dampings, origin };
        Ok(Arc::new(GradientStatistics { spec: spec.clone(), schema: schema(), identities, shared: Arc::new(shared) }))
    }
}

#[derive(Debug)]
struct GradientStatistics {
    spec: OperatorSpec,
    schema: SchemaRef,
    identities: Vec<ResourceIdentity>,
    shared: Arc<Shared>,
}

impl Operator for GradientStatistics {
    fn spec(&self) -> &OperatorSpec {
        &self.spec
    }

    fn output_schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn inputs(&self) -> Vec<String> {
        documents::inputs(&self.shared.losses)
    }

    fn row_effect(&self) -> RowEffect {
        RowEffect::Any
    }

    fn resources(&self) -> Vec<ResourceIdentity> {
        self.identities.clone()
    }

    fn start(&self) -> Result<Box<dyn Pass>> {
        Ok(Box::new(LearningPass::new(Arc::clone(&self.shared))))
    }
}

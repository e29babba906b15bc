//! The operator.

use std::sync::Arc;

use arrow_array::builder::{BooleanBuilder, Float64Builder, StringBuilder};
use arrow_array::{ArrayRef, ListArray, RecordBatch, StructArray};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{DataType, Field, Fields, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::dictionary::LABEL;
use super::model::{FastText, Prediction, Scratch};
use crate::columns::TextColumn;
use crate::config::invalid;
use crate::loaded::{FileState, Loaded, local_files};
use crate::operator::{Operator, OperatorKind, OperatorSpec, Output, Pass, RowEffect, extend_batch, extend_schema};
use crate::resources::{ResourceIdentity, Resources};
use crate::{OperatorError, Result, config, nearest};

const KIND: &str = "fasttext";

/// Labels of which an error names so many.
const NAMED: usize = 20;

/// Models by location and the state of the file.
static LOADED: Loaded<(String, Vec<FileState>), FastText> = Loaded::new();

/// The kind `fasttext`.
#[derive(Clone, Copy, Debug)]
pub struct FastTextKind;

/// Configuration of `fasttext`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FastTextConfig {
    /// A supervised model of fastText: a path or a URL of a `.bin` or a quantised `.ftz` file.
    pub model: String,
    /// The text column.
    #[serde(default = "default_column")]
    pub column: String,
    /// The label whose probability is compared with the threshold, with or without `__label__`. If left out, the column is the most probable label.
    #[serde(default)]
    pub label: Option<String>,
    /// The verdict is true where the label's probability is strictly greater; 0.5 if left out. Only together with `label`.
    #[serde(default)]
    pub threshold: Option<f64>,
    /// How many labels the metadata lists; no more than there are.
    #[serde(default = "default_top")]
    pub top: usize,
}

fn default_column() -> String {
    "text".to_owned()
}

fn default_top() -> usize {
    1
}

impl FastTextConfig {
    fn read(config: &Value) -> Result<Self> {
        let mut parsed: Self = config::parse(KIND, config)?;
        if parsed.label.is_none() && parsed.threshold.is_some() {
            return Err(invalid(KIND, "threshold", "without 'label' there is no probability to compare with it"));
        }
        if parsed.threshold.is_some_and(f64::is_nan) {
            return Err(invalid(KIND, "threshold", "NaN is not a number"));
        }
        if parsed.top == 0 {
            return Err(invalid(KIND, "top", "0; at least 1 label is listed"));
        }
        if parsed.label.is_some() {
            parsed.threshold.get_or_insert(0.5);
        }
        Ok(parsed)
    }
}

impl OperatorKind for FastTextKind {
    fn name(&self) -> &'static str {
        KIND
    }

    fn summary(&self) -> &'static str {
        "label a text with a fastText classifier, or say whether a label is probable"
    }

    fn example(&self) -> &'static str {
        "fasttext: {name: english, model: lid.176.ftz, label: en, threshold: 0.65}"
    }

    fn config_schema(&self) -> Value {
        config::schema::<FastTextConfig>()
    }

    fn complete(&self, config: &Value) -> Result<Value> {
        serde_json::to_value(FastTextConfig::read(config)?).map_err(|error| invalid(KIND, "", error.to_string()))
    }

    fn bind(&self, spec: &OperatorSpec, input: &SchemaRef, resources: &Resources) -> Result<Arc<dyn Operator>> {
        let config = FastTextConfig::read(&spec.config)?;
        TextColumn::check(KIND, input, &config.column)?;
        let first = match &config.label {
            Some(_) => Field::new(&spec.name, DataType::Boolean, false),
            None => Field::new(&spec.name, DataType::Utf8, true),
        };
        let metadata = Field::new(format!("{}_metadata", spec.name), DataType::Struct(metadata_fields()), false);
        let schema = extend_schema(spec, input, vec![first, metadata])?;
        let (model, identities) = LOADED.get((config.model.clone(), local_files(&config.model)), || {
            FastText::load(&config.model, resources).map(|(model, identity)| (model, vec![identity]))
        })?;
        let label = config.label.as_deref().map(|name| find_label(name, model.labels())).transpose()?;
        let verdict = label.map(|label| (label, config.threshold.unwrap_or(0.5)));
        let top = config.top.min(model.labels().len());
        let shared = Shared { schema, column: config.column, model, identities, verdict, top };
        Ok(Arc::new(FastTextOperator { spec: spec.clone(), shared: Arc::new(shared) }))
    }
}

fn find_label(name: &str, labels: &[String]) -> Result<usize> {
    let bare = name.strip_prefix(LABEL).unwrap_or(name);
    labels.iter().position(|label| label == bare).ok_or_else(|| {
        let near = nearest(bare, labels.iter().map(String::as_str));
        let near = near.map(|near| format!(", did you mean '{near}'?")).unwrap_or_default();
        let more = labels.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let known = labels[..labels.len().min(NAMED)].join(", ");
        invalid(KIND, "label", format!("the model has no label '{name}'{near}; its labels: {known}{more}"))
    })
}

fn top_fields() -> Fields {
    vec![Field::new("label", DataType::Utf8, false), Field::new("probability", DataType::Float64, false)].into()
}

fn top_item() -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Struct(top_fields()), false))
}

fn metadata_fields() -> Fields {
    vec![Field::new("highest_score", DataType::Float64, false), Field::new("top", DataType::List(top_item()), false)]
        .into()
}

#[derive(Debug)]
struct FastTextOperator {
    spec: OperatorSpec,
    shared: Arc<Shared>,
}

/// What all passes share.
#[derive(Debug)]
struct Shared {
    schema: SchemaRef,
    column: String,
    model: Arc<FastText>,
    identities: Vec<ResourceIdentity>,
    /// The label that is compared, and the threshold.
    verdict: Option<(usize, f64)>,
    top: usize,
}

impl Operator for FastTextOperator {
    fn spec(&self) -> &OperatorSpec {
        &self.spec
    }

    fn output_schema(&self) -> &SchemaRef {
        &self.shared.schema
    }

    fn inputs(&self) -> Vec<String> {
        vec![self.shared.column.clone()]
    }

    fn row_effect(&self) -> RowEffect {
        RowEffect::Same
    }

    fn resources(&self) -> Vec<ResourceIdentity> {
        self.shared.identities.clone()
    }

    fn start(&self) -> Result<Box<dyn Pass>> {
        Ok(Box::new(FastTextPass { shared: Arc::clone(&self.shared), scratch: Scratch::default(), rows: 0 }))
    }
}

struct FastTextPass {
    shared: Arc<Shared>,
    scratch: Scratch,
    /// Rows of earlier batches.
    rows: u64,
}

impl Pass for FastTextPass {
    fn push(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()> {
        let Shared { schema, column, model, verdict, top, .. } = &*self.shared;
        let texts = TextColumn::of(KIND, batch, column)?;
        let rows = batch.num_rows();
        let mut verdicts = BooleanBuilder::with_capacity(rows);
        let mut labels = StringBuilder::new();
        let mut scores = Float64Builder::with_capacity(rows);
        let (mut names, mut probabilities, mut counts) =
            (StringBuilder::new(), Float64Builder::new(), Vec::with_capacity(rows));
        let label = verdict.map(|(label, _)| label);
        for (row, text) in (self.rows..).zip(texts.iter()) {
            let found = text.and_then(|text| model.predict(text, *top, label, &mut self.scratch));
            let (best, own) = found.unwrap_or_default();
            let finite = |probability: f32| {
                let message = || format!("a probability is {probability}, not a number");
                let wrong = || OperatorError::Row { kind: KIND.to_owned(), row, message: message() };
                if probability.is_finite() { Ok(f64::from(probability)) } else { Err(wrong()) }
            };
            let score = own.or(best.first().map(|first| first.probability)).map_or(Ok(0.0), finite)?;
            match verdict {
                Some((_, threshold)) => verdicts.append_value(own.is_some() && score > *threshold),
                None => labels.append_option(best.first().map(|first| model.labels()[first.label].as_str())),
            }
            scores.append_value(score);
            counts.push(best.len());
            for Prediction { label, probability } in best {
                names.append_value(&model.labels()[label]);
                probabilities.append_value(finite(probability)?);
            }
        }
        self.rows += rows as u64;
        let first: ArrayRef = match verdict {
            Some(_) => Arc::new(verdicts.finish()),
            None => Arc::new(labels.finish()),
        };
        let listed: [ArrayRef; 2] = [Arc::new(names.finish()), Arc::new(probabilities.finish())];
        let listed = StructArray::try_new(top_fields(), listed.to_vec(), None)?;
        let lists = ListArray::try_new(top_item(), OffsetBuffer::from_lengths(counts), Arc::new(listed), None)?;
        let metadata: [ArrayRef; 2] = [Arc::new(scores.finish()), Arc::new(lists)];
        let metadata = StructArray::try_new(metadata_fields(), metadata.to_vec(), None)?;
        output.keep(extend_batch(batch, schema, vec![first, Arc::new(metadata)])?);
        Ok(())
    }
}

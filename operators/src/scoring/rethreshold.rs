//! `rethreshold`: another verdict from scores that `classify` left, without the model.
//!
//! The verdict is `<scores>_metadata.highest_score > threshold`, which is what `classify` itself says with that threshold. It is added as column
//! `<name>` (Boolean, null where the metadata are).

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type};
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow_schema::{DataType, Field, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::invalid;
use crate::operator::{Operator, OperatorKind, OperatorSpec, Output, Pass, RowEffect, extend_batch, extend_schema};
use crate::resources::Resources;
use crate::{OperatorError, Result, config, require_column};

const KIND: &str = "rethreshold";

/// The field of the metadata that is compared.
const FIELD: &str = "highest_score";

/// The kind `rethreshold`.
#[derive(Clone, Copy, Debug)]
pub struct RethresholdKind;

/// Configuration of `rethreshold`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RethresholdConfig {
    /// The step that left the scores: its column `<scores>_metadata` is read.
    pub scores: String,
    /// The verdict is true where the highest score is strictly greater.
    pub threshold: f64,
}

impl RethresholdConfig {
    fn read(config: &Value) -> Result<Self> {
        let parsed: Self = config::parse(KIND, config)?;
        if parsed.threshold.is_nan() {
            return Err(invalid(KIND, "threshold", "NaN is not a number"));
        }
        Ok(parsed)
    }
}

impl OperatorKind for RethresholdKind {
    fn name(&self) -> &'static str {
        KIND
    }

    fn summary(&self) -> &'static str {
        "compare the scores that classify left with another threshold, without the model"
    }

    fn example(&self) -> &'static str {
        "rethreshold: {name: strict, scores: quality, threshold: 0.9}"
    }

    fn config_schema(&self) -> Value {
        config::schema::<RethresholdConfig>()
    }

    fn complete(&self, config: &Value) -> Result<Value> {
        serde_json::to_value(RethresholdConfig::read(config)?).map_err(|error| invalid(KIND, "", error.to_string()))
    }

    fn bind(&self, spec: &OperatorSpec, input: &SchemaRef, _: &Resources) -> Result<Arc<dyn Operator>> {
        let config = RethresholdConfig::read(&spec.config)?;
        let column = format!("{}_metadata", config.scores);
        let (index, found) = require_column(KIND, input, &column)?;
        let field = match found {
            DataType::Struct(fields) => fields.iter().find(|field| field.name() == FIELD),
            _ => None,
        };
        if !field.is_some_and(|field| matches!(field.data_type(), DataType::Float32 | DataType::Float64)) {
            return Err(OperatorError::ColumnType {
                kind: KIND.to_owned(),
                column,
                found: found.to_string(),
                expected: format!("a struct with a number '{FIELD}', as classify leaves it"),
            });
        }
        let schema = extend_schema(spec, input, vec![Field::new(&spec.name, DataType::Boolean, true)])?;
        Ok(Arc::new(Rethreshold { spec: spec.clone(), schema, column, index, threshold: config.threshold }))
    }
}

#[derive(Clone, Debug)]
struct Rethreshold {
    spec: OperatorSpec,
    schema: SchemaRef,
    column: String,
    index: usize,
    threshold: f64,
}

impl Operator for Rethreshold {
    fn spec(&self) -> &OperatorSpec {
        &self.spec
    }

    fn output_schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn inputs(&self) -> Vec<String> {
        vec![self.column.clone()]
    }

    fn row_effect(&self) -> RowEffect {
        RowEffect::Same
    }

    fn start(&self) -> Result<Box<dyn Pass>> {
        Ok(Box::new(self.clone()))
    }
}

impl Pass for Rethreshold {
    fn push(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()> {
        let metadata = batch.column(self.index).as_struct();
        let missing = || OperatorError::MissingColumn {
            kind: KIND.to_owned(),
            column: format!("{}.{FIELD}", self.column),
            nearest: None,
            available: metadata.column_names().into_iter().map(str::to_owned).collect(),
        };
        let scores = metadata.column_by_name(FIELD).ok_or_else(missing)?;
        let value = |row: usize| -> Option<f64> {
            if metadata.is_null(row) || scores.is_null(row) {
                return None;
            }
            match scores.data_type() {
                DataType::Float32 => Some(f64::from(scores.as_primitive::<Float32Type>().value(row))),
                _ => Some(scores.as_primitive::<Float64Type>().value(row)),
            }
        };
        let verdicts: BooleanArray =
            (0..batch.num_rows()).map(|row| value(row).map(|score| score > self.threshold)).collect();
        let added: Vec<ArrayRef> = vec![Arc::new(verdicts)];
        output.keep(extend_batch(batch, &self.schema, added)?);
        Ok(())
    }
}

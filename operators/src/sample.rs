//! `sample`: keeps a fraction of the rows, chosen by a hash of one column.
//!
//! The choice depends on the seed and the value alone, so it is the same for any split, batch or worker count, in any
//! other corpus that has the same ids, and a larger fraction always contains a smaller one. The hash is BLAKE3 keyed by the seed;
//! its first 64 bits are compared with `fraction · 2⁶⁴`.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow_schema::{DataType, SchemaRef};
use arrow_select::filter::filter_record_batch;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{self, invalid};
use crate::operator::{Operator, OperatorKind, OperatorSpec, Output, Pass, RowEffect};
use crate::resources::Resources;
use crate::{OperatorError, Result, require_column};

const KIND: &str = "sample";

/// The kind `sample`.
#[derive(Clone, Copy, Debug)]
pub struct SampleKind;

/// Configuration of `sample`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SampleConfig {
    /// Share of the rows to keep, from 0 to 1.
    pub fraction: f64,
    /// Seed of the choice.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// Column whose value decides: text, binary or integer. Rows with equal values are kept or left out together.
    #[serde(default = "default_by")]
    pub by: String,
}

fn default_seed() -> u64 {
    42
}

fn default_by() -> String {
    "id".to_owned()
}

impl OperatorKind for SampleKind {
    fn name(&self) -> &'static str {
        KIND
    }

    fn summary(&self) -> &'static str {
        "keep a fraction of the rows, chosen by a hash of one column"
    }

    fn example(&self) -> &'static str {
        "sample: {fraction: 0.1, seed: 42, by: id}"
    }

    fn config_schema(&self) -> Value {
        config::schema::<SampleConfig>()
    }

    fn complete(&self, config: &Value) -> Result<Value> {
        let parsed: SampleConfig = config::parse(KIND, config)?;
        if !(0.0..=1.0).contains(&parsed.fraction) {
            return Err(invalid(KIND, "fraction", format!("{} is not between 0 and 1", parsed.fraction)));
        }
        config::complete::<SampleConfig>(KIND, config)
    }

    fn bind(&self, spec: &OperatorSpec, input: &SchemaRef, _resources: &Resources) -> Result<Arc<dyn Operator>> {
        let config: SampleConfig = config::parse(KIND, &spec.config)?;
        let (_, data_type) = require_column(KIND, input, &config.by)?;
        check_type(&config.by, data_type)?;
        Ok(Arc::new(Sample { spec: spec.clone(), config, schema: Arc::clone(input) }))
    }
}

#[derive(Debug)]
struct Sample {
    spec: OperatorSpec,
    config: SampleConfig,
    schema: SchemaRef,
}

impl Operator for Sample {
    fn spec(&self) -> &OperatorSpec {
        &self.spec
    }

    fn output_schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn inputs(&self) -> Vec<String> {
        vec![self.config.by.clone()]
    }

    fn row_effect(&self) -> RowEffect {
        RowEffect::Fewer
    }

    fn start(&self) -> Result<Box<dyn Pass>> {
        // Both ends are exact: 1.0 keeps everything, 0.0 nothing; between them the bound is rounded to 53 bits.
        let bound = (self.config.fraction < 1.0).then_some((self.config.fraction * 2f64.powi(64)) as u64);
        let mut key = [0u8; 32];
        key[..8].copy_from_slice(&self.config.seed.to_le_bytes());
        Ok(Box::new(SamplePass { by: self.config.by.clone(), key, bound }))
    }
}

struct SamplePass {
    by: String,
    key: [u8; 32],
    /// `None` keeps every row.
    bound: Option<u64>,
}

impl Pass for SamplePass {
    fn push(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()> {
        let Some(bound) = self.bound else {
            output.keep(batch.clone());
            return Ok(());
        };
        let (index, _) = require_column(KIND, batch.schema_ref(), &self.by)?;
        let mut keep = Vec::with_capacity(batch.num_rows());
        for_each_value(&self.by, batch.column(index), |value| {
            let hash = blake3::keyed_hash(&self.key, value);
            let mut head = [0u8; 8];
            head.copy_from_slice(&hash.as_bytes()[..8]);
            keep.push(u64::from_le_bytes(head) < bound);
        })?;
        let keep = BooleanArray::from(keep);
        let dropped = arrow_array::BooleanArray::new(!keep.values(), None);
        output.keep(filter_record_batch(batch, &keep)?);
        output.reject(filter_record_batch(batch, &dropped)?, "not sampled");
        Ok(())
    }
}

fn check_type(column: &str, data_type: &DataType) -> Result<()> {
    let readable = data_type.is_integer()
        || matches!(
            data_type,
            DataType::Utf8
                | DataType::LargeUtf8
                | DataType::Utf8View
                | DataType::Binary
                | DataType::LargeBinary
                | DataType::BinaryView
        );
    if readable {
        return Ok(());
    }
    Err(OperatorError::ColumnType {
        kind: KIND.to_owned(),
        column: column.to_owned(),
        found: data_type.to_string(),
        expected: "text, binary or integer".to_owned(),
    })
}

/// Calls `visit` with the bytes of each value: UTF-8 for text, eight little-endian bytes for integers, so that the choice
/// does not depend on the column's width; null counts as empty.
fn for_each_value(column: &str, array: &ArrayRef, mut visit: impl FnMut(&[u8])) -> Result<()> {
    use arrow_array::types::{
        Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
    };

    macro_rules! integers {
        ($type:ty) => {
            for value in array.as_primitive::<$type>() {
                match value {
                    Some(value) => visit(&(value as i128 as i64).to_le_bytes()),
                    None => visit(&[]),
                }
            }
        };
    }
    macro_rules! bytes {
        ($array:expr) => {
            for value in $array {
                visit(value.map_or(&[][..], |value| AsRef::<[u8]>::as_ref(value)));
            }
        };
    }
    match array.data_type() {
        DataType::Int8 => integers!(Int8Type),
        DataType::Int16 => integers!(Int16Type),
        DataType::Int32 => integers!(Int32Type),
        DataType::Int64 => integers!(Int64Type),
        DataType::UInt8 => integers!(UInt8Type),
        DataType::UInt16 => integers!(UInt16Type),
        DataType::UInt32 => integers!(UInt32Type),
        DataType::UInt64 => integers!(UInt64Type),
        DataType::Utf8 => bytes!(array.as_string::<i32>()),
        DataType::LargeUtf8 => bytes!(array.as_string::<i64>()),
        DataType::Utf8View => bytes!(array.as_string_view()),
        DataType::Binary => bytes!(array.as_binary::<i32>()),
        DataType::LargeBinary => bytes!(array.as_binary::<i64>()),
        DataType::BinaryView => bytes!(array.as_binary_view()),
        other => check_type(column, other)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::conformance;

    #[test]
    fn conforms() {
        conformance::check(&SampleKind, &json!({"fraction": 0.5, "by": "text"}));
    }

    #[test]
    fn a_larger_fraction_contains_a_smaller_one() {
        let batch = conformance::text_batch();
        let kept = |fraction: f64| -> Vec<String> {
            let spec = OperatorSpec::new(KIND, json!({"fraction": fraction, "by": "text"}));
            let operator =
                crate::Registry::standard().bind(&spec, &batch.schema(), &Resources::local()).expect("binds");
            let output = crate::apply(operator.as_ref(), [batch.clone()]).expect("runs");
            assert_eq!(output.accounted(), batch.num_rows() as u64);
            conformance::rows_as_json(&output.batches)
        };
        let (none, some, all) = (kept(0.0), kept(0.4), kept(1.0));
        assert!(none.is_empty());
        assert_eq!(all.len(), batch.num_rows());
        assert!(some.iter().all(|row| kept(0.8).contains(row)));
    }

    #[test]
    fn a_fraction_outside_of_0_to_1_is_refused() {
        let error = SampleKind.complete(&json!({"fraction": 1.5})).expect_err("refused");
        assert!(error.to_string().contains("1.5 is not between 0 and 1"), "{error}");
    }
}

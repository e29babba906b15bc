//! Statistics as rows of a table, and what they were made with.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, UInt64Type};
use arrow_array::{Array, ArrayRef, BooleanArray, Float64Array, LargeListArray, RecordBatch, StringArray, UInt64Array};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use super::super::{Factor, Factors, Statistic};
use super::config::{GradientStatisticsConfig, Learned, StatisticsReduction};
use crate::influence::Modules;
use crate::influence::gradient::TEXT;
use crate::scoring::Precision;
use crate::scoring::reader::Reader;
use crate::tables::read_arrow;
use crate::{OperatorError, ResourceIdentity, Resources, Result};

/// What statistics were made with: those of one model are of no use with another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// Where the model was.
    pub model: String,
    /// BLAKE3 over the hashes of all of its files, and those of its adapter.
    pub model_hash: String,
    /// BLAKE3 of the tokenizer.
    pub tokenizer_hash: String,
    /// What its weights were rounded to.
    pub precision: Precision,
    /// How the losses of a text's tokens were put together.
    pub reduction: StatisticsReduction,
    /// Which tokens had a loss.
    #[serde(default = "all_tokens")]
    pub targets: String,
    /// The most tokens of a text.
    pub context_length: usize,
    /// Patterns of the layers.
    pub modules: Modules,
    /// What was learned.
    pub statistics: Learned,
    /// Whether gradients of biases are columns.
    pub bias: bool,
    /// BLAKE3 of the file of covariances in whose basis eigenvalues were learned.
    #[serde(default)]
    pub factors_hash: Option<String>,
}

fn all_tokens() -> String {
    TEXT.to_owned()
}

impl Origin {
    /// Of what a configuration learns with a model.
    pub(crate) fn of(config: &GradientStatisticsConfig, reader: &Reader, factors_hash: Option<String>) -> Self {
        let mut identities = reader.identities.clone();
        let tokenizer_hash = identities.pop().map_or_else(String::new, |tokenizer| tokenizer.hash);
        let mut hasher = blake3::Hasher::new();
        identities.iter().for_each(|identity| {
            hasher.update(identity.hash.as_bytes());
        });
        Self {
            model: config.model.clone(),
            model_hash: hasher.finalize().to_hex().to_string(),
            tokenizer_hash,
            precision: config.precision,
            reduction: config.reduction,
            targets: config.gradient().targets(),
            context_length: reader.context_length,
            modules: config.modules.clone(),
            statistics: config.statistics.clone(),
            bias: config.bias,
            factors_hash,
        }
    }

    /// Refuses statistics that cannot stand for those that are expected, and says why. Labels, patterns of layers and lengths of texts may differ; layers
    /// that are asked for and not there are named when they are asked for.
    fn expect(&self, expected: &Self) -> Result<(), String> {
        let short = |hash: &str| hash.chars().take(12).collect::<String>();
        let differ = |what: &str, found: &str, expected: &str| {
            Err(format!("the statistics were learned with {what} {found}, and {expected} is expected"))
        };
        if self.statistics.name() != expected.statistics.name() {
            let (found, expected) = (self.statistics.name(), expected.statistics.name());
            return Err(format!("the file has '{found}', and '{expected}' is expected"));
        }
        if self.model_hash != expected.model_hash {
            let name = |origin: &Self| format!("{} ({})", origin.model, short(&origin.model_hash));
            return differ("the model", &name(self), &name(expected));
        }
        if self.tokenizer_hash != expected.tokenizer_hash {
            return differ("the tokenizer", &short(&self.tokenizer_hash), &short(&expected.tokenizer_hash));
        }
        for (what, found, expected) in [
            ("the precision", word(&self.precision), word(&expected.precision)),
            ("losses put together as the", word(&self.reduction), word(&expected.reduction)),
            ("losses of the tokens of the", self.targets.clone(), expected.targets.clone()),
            ("gradients of biases", self.bias.to_string(), expected.bias.to_string()),
        ] {
            if found != expected {
                return differ(what, &found, &expected);
            }
        }
        if matches!(self.statistics, Learned::Gram { .. } | Learned::DataInf { .. }) {
            if self.statistics != expected.statistics {
                return differ("the projection", &word(&self.statistics), &word(&expected.statistics));
            }
            let scaled = |origin: &Self| match &origin.factors_hash {
                Some(hash) => format!("a file {}", short(hash)),
                None => "no file".to_owned(),
            };
            if self.factors_hash != expected.factors_hash {
                return differ("other statistics,", &scaled(self), &scaled(expected));
            }
        }
        match (&self.factors_hash, &expected.factors_hash) {
            (Some(found), Some(expected)) if found != expected => {
                differ("covariances", &short(found), &short(expected))
            }
            _ => Ok(()),
        }
    }
}

/// A value as a configuration spells it.
fn word(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default().trim_matches('"').to_owned()
}

/// The columns of a table of statistics.
pub(super) fn schema() -> SchemaRef {
    let field = |name, data_type| Field::new(name, data_type, false);
    Arc::new(Schema::new(vec![
        field("module", DataType::Utf8),
        field("statistic", DataType::Utf8),
        field("rows", DataType::UInt64),
        field("columns", DataType::UInt64),
        field("bias", DataType::Boolean),
        field("count", DataType::UInt64),
        field("values", DataType::LargeList(item())),
        field("origin", DataType::Utf8),
    ]))
}

fn item() -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Float64, false))
}

/// One row for a statistic.
pub(super) fn to_batch(factor: Factor, origin: &str) -> Result<RecordBatch> {
    let offsets = OffsetBuffer::from_lengths([factor.values.len()]);
    let values = LargeListArray::try_new(item(), offsets, Arc::new(Float64Array::from(factor.values)), None)?;
    let number = |number: usize| -> ArrayRef { Arc::new(UInt64Array::from(vec![number as u64])) };
    let text = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text])) };
    let columns = vec![
        text(&factor.module),
        text(factor.statistic.name()),
        number(factor.rows),
        number(factor.columns),
        Arc::new(BooleanArray::from(vec![factor.bias])) as ArrayRef,
        Arc::new(UInt64Array::from(vec![factor.count])) as ArrayRef,
        Arc::new(values) as ArrayRef,
        text(origin),
    ];
    Ok(RecordBatch::try_new(schema(), columns)?)
}

/// The statistics of the rows of a table, with what each was made with; an error is a message.
pub(super) fn from_batch(batch: &RecordBatch) -> Result<Vec<(Factor, String)>, String> {
    let column = |name: &str| {
        let expected = schema();
        let expected = expected.field_with_name(name).map_err(|error| error.to_string())?.data_type().clone();
        let column = batch.column_by_name(name).ok_or_else(|| format!("there is no column '{name}'"))?;
        let column = match (column.data_type(), &expected) {
            (DataType::Utf8View, DataType::Utf8) => {
                let texts = column.as_string_view();
                Arc::new(texts.iter().collect::<StringArray>()) as ArrayRef
            }
            _ => Arc::clone(column),
        };
        if !column.data_type().equals_datatype(&expected) || column.null_count() > 0 {
            let found = column.data_type();
            return Err(format!(
                "column '{name}' is {found} with {} nulls; {expected} without nulls is expected",
                column.null_count()
            ));
        }
        Ok(column)
    };
    let (modules, statistics, origins) = (column("module")?, column("statistic")?, column("origin")?);
    let (rows, columns, counts) = (column("rows")?, column("columns")?, column("count")?);
    let (bias, values) = (column("bias")?, column("values")?);
    let number = |column: &ArrayRef, row: usize| column.as_primitive::<UInt64Type>().value(row);
    let size = |column: &ArrayRef, row| {
        usize::try_from(number(column, row))
            .map_err(|_| format!("row {row} has {} rows or columns", number(column, row)))
    };
    let mut factors = Vec::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        let name = statistics.as_string::<i32>().value(row);
        let statistic =
            Statistic::of(name).ok_or_else(|| format!("row {row} has the statistic '{name}', which is not known"))?;
        let values = values.as_list::<i64>().value(row);
        let values = values.as_primitive::<Float64Type>().values().to_vec();
        let (height, width) = (size(&rows, row)?, size(&columns, row)?);
        if height.checked_mul(width) != Some(values.len()) {
            return Err(format!("row {row} has {} values, and {height} rows of {width} columns", values.len()));
        }
        let factor = Factor {
            module: modules.as_string::<i32>().value(row).to_owned(),
            statistic,
            rows: height,
            columns: width,
            bias: bias.as_boolean().value(row),
            count: number(&counts, row),
            values,
        };
        factors.push((factor, origins.as_string::<i32>().value(row).to_owned()));
    }
    Ok(factors)
}

/// Reads a file that `gradient_statistics` made, and refuses one that was made with another model, tokenizer, precision, loss or projection, or with other
/// covariances, than is expected. Values are finite.
///
/// # Errors
/// A file that cannot be read or is something else, one of another origin, and values that are not finite.
pub fn read_factors(location: &str, resources: &Resources, expected: &Origin) -> Result<(Factors, ResourceIdentity)> {
    let unusable = |message: String| OperatorError::Resource { location: location.to_owned(), message };
    let (bytes, identity) = resources.read(location)?;
    let mut factors = Vec::new();
    let mut known: Option<String> = None;
    for batch in read_arrow(location, bytes)? {
        for (factor, origin) in from_batch(&batch).map_err(unusable)? {
            if known.as_ref() != Some(&origin) {
                let found: Origin = serde_json::from_str(&origin)
                    .map_err(|error| unusable(format!("what statistics were made with cannot be read: {error}")))?;
                found.expect(expected).map_err(unusable)?;
                known = Some(origin);
            }
            let shape = [factor.rows, factor.columns];
            super::super::factors::expect_shape(&factor, shape).map_err(|error| unusable(error.to_string()))?;
            factors.push(factor);
        }
    }
    if factors.is_empty() {
        return Err(unusable("the file has no statistics".to_owned()));
    }
    Ok((factors.into_iter().collect(), identity))
}

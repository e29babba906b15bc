//! `rank`: the k best rows of each query, while rows stream by.
//!
//! A column of scores has a number for each query and row; storing it costs rows times queries. This keeps only the k best rows of each query of a
//! stream, with the columns that shall travel along: memory is that of queries times k rows (twice that, between two clean-ups) and one batch, whatever the
//! length of the stream. The better score comes first, of equal scores the row that came first. Scores that are not numbers never rank; they are
//! counted. Rows without scores are rejected.
//!
//! What one stream gives is a part: one row for each row that is among the best of a query, with the queries and scores that it is so for, in the order
//! of the stream. So a row is stored once, however many queries it answers. [`RankMerge`] takes the parts of several streams in their order and gives
//! the ranking of all, exactly as if they had been one stream: what is among the k best of all streams is among the k best of its own.
//!
//! ```
//! use std::sync::Arc;
//! use arrow_array::cast::AsArray;
//! use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
//! use gristmill_operators::rank::{RankConfig, RankKind, RankMerge, RankShape};
//! use gristmill_operators::{OperatorKind, OperatorSpec, Resources, apply};
//!
//! let batch = RecordBatch::try_from_iter([
//!     ("id", Arc::new(StringArray::from(vec!["a", "b", "c"])) as ArrayRef),
//!     ("length", Arc::new(Int64Array::from(vec![3, 9, 9])) as ArrayRef),
//! ])?;
//! let spec = OperatorSpec::new("rank", RankKind.complete(&serde_json::json!({"by": "length", "k": 2, "columns": ["id"]}))?);
//! let operator = RankKind.bind(&spec, &batch.schema(), &Resources::local())?;
//! let part = apply(operator.as_ref(), [batch.clone()])?;
//!
//! let config: RankConfig = serde_json::from_value(spec.config)?;
//! let mut merge = RankMerge::new(&RankShape::of(&config, &batch.schema())?);
//! part.batches.iter().try_for_each(|batch| merge.push(batch))?;
//! let ranking = merge.finish()?.collect::<Result<Vec<_>, _>>()?;
//! assert_eq!(ranking[0]["id"].as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["b", "c"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod candidates;
mod keys;
mod merge;
mod pool;
mod shape;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_array::{
    Array, ArrayRef, BooleanArray, ListArray, RecordBatch, StructArray, UInt32Array, UInt64Array, new_null_array,
};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{DataType, Field, SchemaRef};
use arrow_select::filter::filter_record_batch;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{self, invalid};
use crate::operator::{Operator, OperatorKind, OperatorSpec, Output, Pass, RowEffect};
use crate::resources::Resources;
use crate::{OperatorError, Result};
use candidates::Screen;
pub(crate) use candidates::{Candidates, Entry, Hit};
#[cfg(feature = "influence")]
pub(crate) use keys::{Keys, ScoreType};
pub use merge::{RankMerge, RankedBatches, RankedQuery};
use pool::{Chunk, Pool};
pub use shape::RankShape;

const KIND: &str = "rank";

/// The kind `rank`.
///
/// It gives one row for each row of the stream that is among the best of a query, in the order of the stream: `_position` (among the rows that came,
/// from 0), `_hits` (list of `query`, its number, and `score`), and the columns that travel along. A last row with nothing but `_not_numbers` counts
/// the scores that are not numbers, if there are any. Kept are the rows that have scores, whether or not they are among the best.
#[derive(Clone, Copy, Debug)]
pub struct RankKind;

/// Which end of the scores is the best.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RankOrder {
    /// The highest score is the best.
    #[default]
    Descending,
    /// The lowest score is the best.
    Ascending,
}

/// Configuration of `rank`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RankConfig {
    /// Column to rank by: a column of scores, which has several queries, or a column of numbers, which is one.
    pub by: String,
    /// Rows to keep for each query, 1 to 4294967295.
    #[serde(default = "default_k")]
    pub k: u32,
    /// Which end of the scores is the best: descending (the highest) or ascending (the lowest).
    #[serde(default)]
    pub order: RankOrder,
    /// Columns of the rows that travel along.
    #[serde(default)]
    pub columns: Vec<String>,
}

fn default_k() -> u32 {
    100
}

impl OperatorKind for RankKind {
    fn name(&self) -> &'static str {
        KIND
    }

    fn summary(&self) -> &'static str {
        "keep the k best rows of each query of a column of scores"
    }

    fn example(&self) -> &'static str {
        "rank: {by: length, k: 100, columns: [id]}"
    }

    fn is_step(&self) -> bool {
        false
    }

    fn config_schema(&self) -> Value {
        config::schema::<RankConfig>()
    }

    fn complete(&self, config: &Value) -> Result<Value> {
        let parsed: RankConfig = config::parse(KIND, config)?;
        if parsed.k == 0 {
            return Err(invalid(KIND, "k", format!("0 rows make no ranking; allowed: 1 to {}", u32::MAX)));
        }
        config::complete::<RankConfig>(KIND, config)
    }

    fn bind(&self, spec: &OperatorSpec, input: &SchemaRef, _resources: &Resources) -> Result<Arc<dyn Operator>> {
        let config: RankConfig = config::parse(KIND, &spec.config)?;
        let shape = Arc::new(RankShape::of(&config, input)?);
        let columns = std::iter::once(shape.by).chain(shape.carried.iter().copied());
        let columns = columns.map(|column| input.field(column).name().clone());
        let mut inputs: Vec<String> = Vec::new();
        for column in columns {
            if !inputs.contains(&column) {
                inputs.push(column);
            }
        }
        Ok(Arc::new(Rank { spec: spec.clone(), shape, inputs }))
    }
}

#[derive(Debug)]
struct Rank {
    spec: OperatorSpec,
    shape: Arc<RankShape>,
    inputs: Vec<String>,
}

impl Operator for Rank {
    fn spec(&self) -> &OperatorSpec {
        &self.spec
    }

    fn output_schema(&self) -> &SchemaRef {
        self.shape.part_schema()
    }

    fn inputs(&self) -> Vec<String> {
        self.inputs.clone()
    }

    fn row_effect(&self) -> RowEffect {
        RowEffect::Any
    }

    fn start(&self) -> Result<Box<dyn Pass>> {
        let queries = self.shape.queries.len();
        Ok(Box::new(RankPass {
            candidates: Candidates::new(queries, self.shape.k),
            screen: Screen::new(queries, self.shape.keys.order),
            pool: Pool::new(Arc::clone(&self.shape.carried_schema)),
            shape: Arc::clone(&self.shape),
            next: 0,
            not_numbers: 0,
        }))
    }
}

struct RankPass {
    shape: Arc<RankShape>,
    candidates: Candidates,
    screen: Screen,
    pool: Pool,
    /// Number of the next row.
    next: u64,
    not_numbers: u64,
}

impl Pass for RankPass {
    fn push(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()> {
        let scores = batch.column(self.shape.by);
        let entered = if self.shape.is_list { self.offer_lists(scores)? } else { self.offer_numbers(scores)? };
        let places = entered.iter().map(|&row| self.next + u64::from(row)).collect();
        let columns: Vec<&ArrayRef> = self.shape.carried.iter().map(|&column| batch.column(column)).collect();
        self.pool.take(&columns, entered, places)?;
        if self.pool.is_full() {
            self.pool.keep(&self.candidates.places())?;
        }
        self.next += batch.num_rows() as u64;
        output.kept += (batch.num_rows() - scores.null_count()) as u64;
        if scores.null_count() > 0 {
            let without: BooleanArray = (0..scores.len()).map(|row| Some(scores.is_null(row))).collect();
            output.reject(filter_record_batch(batch, &without)?, "no score");
        }
        Ok(())
    }

    fn finish(&mut self, output: &mut Output) -> Result<()> {
        let hits = self.candidates.hits();
        let mut places: Vec<u64> = hits.iter().map(|hit| hit.place).collect();
        places.dedup();
        self.pool.keep(&places)?;
        let pool = std::mem::replace(&mut self.pool, Pool::new(Arc::clone(&self.shape.carried_schema)));
        let mut left = hits.as_slice();
        for chunk in pool.into_chunks() {
            let Some(&last) = chunk.places.last() else { continue };
            let (of_chunk, others) = left.split_at(left.partition_point(|hit| hit.place <= last));
            left = others;
            output.batches.push(part_of(&self.shape, chunk, of_chunk)?);
        }
        if self.not_numbers > 0 {
            output.batches.push(counting_row(&self.shape, self.not_numbers)?);
        }
        Ok(())
    }
}

impl RankPass {
    /// Takes in rows with a list of scores each, and gives those that may be among the best.
    fn offer_lists(&mut self, column: &ArrayRef) -> Result<Vec<u32>> {
        let queries = self.shape.queries.len();
        let lists = column.as_fixed_size_list_opt().filter(|lists| lists.value_length() as usize == queries);
        let Some((lists, values)) =
            lists.and_then(|lists| Some((lists, lists.values().as_primitive_opt::<Float32Type>()?)))
        else {
            return Err(invalid(KIND, "by", format!("a batch has scores of type {}", column.data_type())));
        };
        // Programs of others may leave out single scores.
        let missing = values.nulls().filter(|nulls| nulls.null_count() > 0);
        let mut filled = vec![0.0; if missing.is_some() { queries } else { 0 }];
        let mut entered = Vec::new();
        for row in 0..lists.len() {
            if lists.is_null(row) {
                continue;
            }
            let first = row * queries;
            let mut scores = &values.values()[first..first + queries];
            if let Some(nulls) = missing {
                for (query, filled) in filled.iter_mut().enumerate() {
                    *filled = if nulls.is_null(first + query) { f32::NAN } else { scores[query] };
                }
                scores = &filled;
            }
            let place = self.next + row as u64;
            let (has_entered, not_numbers) = self.screen.offer(&mut self.candidates, self.shape.keys, scores, place);
            self.not_numbers += not_numbers;
            if has_entered {
                entered.push(number_of(row)?);
            }
        }
        Ok(entered)
    }

    /// The same of rows with one number each.
    fn offer_numbers(&mut self, column: &ArrayRef) -> Result<Vec<u32>> {
        let mut entered = Vec::new();
        for (row, key) in self.shape.keys.of_array(column)?.into_iter().enumerate() {
            let Some(key) = key else {
                self.not_numbers += u64::from(column.is_valid(row));
                continue;
            };
            if self.candidates.offer(0, Entry { key, place: self.next + row as u64 }) {
                entered.push(number_of(row)?);
            }
        }
        Ok(entered)
    }
}

fn number_of(row: usize) -> Result<u32> {
    u32::try_from(row).map_err(|_| OperatorError::Row {
        kind: KIND.to_owned(),
        row: row as u64,
        message: format!("a batch has at most {} rows", u32::MAX),
    })
}

/// Rows of a part: a chunk of rows and their hits, both in the order of the stream.
fn part_of(shape: &RankShape, chunk: Chunk, hits: &[Hit]) -> Result<RecordBatch> {
    let queries = UInt32Array::from_iter_values(hits.iter().map(|hit| hit.query));
    let scores = shape.keys.scores(hits.iter().map(|hit| hit.key));
    let lengths = hits.chunk_by(|one, other| one.place == other.place).map(<[Hit]>::len);
    let fields = shape::hit_fields(shape.keys.scores);
    let structs = StructArray::try_new(fields.clone(), vec![Arc::new(queries), scores], None)?;
    let item = Arc::new(Field::new_list_field(DataType::Struct(fields), false));
    let lists = ListArray::try_new(item, OffsetBuffer::from_lengths(lengths), Arc::new(structs), None)?;
    let rows = chunk.places.len();
    let mut columns: Vec<ArrayRef> =
        vec![Arc::new(UInt64Array::from(chunk.places)), Arc::new(lists), new_null_array(&DataType::UInt64, rows)];
    columns.extend(chunk.rows.columns().iter().map(Arc::clone));
    Ok(RecordBatch::try_new(Arc::clone(shape.part_schema()), columns)?)
}

/// The row that counts the scores that are not numbers.
fn counting_row(shape: &RankShape, not_numbers: u64) -> Result<RecordBatch> {
    let schema = shape.part_schema();
    let columns = schema.fields().iter().map(|field| match field.name().as_str() {
        shape::NOT_NUMBERS => Arc::new(UInt64Array::from(vec![not_numbers])) as ArrayRef,
        _ => new_null_array(field.data_type(), 1),
    });
    Ok(RecordBatch::try_new(Arc::clone(schema), columns.collect())?)
}

//! Parts of several streams become one ranking.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, UInt32Type, UInt64Type};
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray, UInt32Array};
use arrow_schema::DataType;

use super::candidates::{Candidates, Entry};
use super::pool::Pool;
use super::shape::{HITS, NOT_NUMBERS, POSITION, RankShape};
use super::{KIND, number_of};
use crate::config::invalid;
use crate::{OperatorError, Result};

/// Rows and bytes of a batch of the ranking at most; a single row may be larger.
const BATCH_ROWS: usize = 1024;
const BATCH_BYTES: usize = 8 << 20;

/// Puts parts together. It holds what a pass holds: queries times k rows, and the batch that is pushed.
#[derive(Debug)]
pub struct RankMerge {
    shape: RankShape,
    candidates: Candidates,
    pool: Pool,
    next: u64,
    not_numbers: u64,
}

/// What a ranking says about one query.
#[derive(Clone, Debug, PartialEq)]
pub struct RankedQuery {
    /// Name of the query.
    pub query: String,
    /// Rows in its ranking.
    pub rows: u64,
    /// The score of its first row, absent where there is none.
    pub best: Option<f64>,
    /// The score of its last row.
    pub last: Option<f64>,
}

impl RankMerge {
    /// Nothing yet.
    #[must_use]
    pub fn new(shape: &RankShape) -> Self {
        Self {
            candidates: Candidates::new(shape.queries.len(), shape.k),
            pool: Pool::new(Arc::clone(&shape.carried_schema)),
            shape: shape.clone(),
            next: 0,
            not_numbers: 0,
        }
    }

    /// Takes in rows of a part. Parts come in the order of their streams, and the rows of a part in its order.
    ///
    /// # Errors
    /// A batch without the columns of parts.
    pub fn push(&mut self, part: &RecordBatch) -> Result<()> {
        let column = |name: &str| {
            part.column_by_name(name).ok_or_else(|| OperatorError::MissingColumn {
                kind: KIND.to_owned(),
                column: name.to_owned(),
                nearest: None,
                available: part.schema().fields().iter().map(|field| field.name().clone()).collect(),
            })
        };
        let wrong = |name: &str| invalid(KIND, "", format!("column '{name}' is not what a ranking writes there"));
        let positions = column(POSITION)?;
        let counts = column(NOT_NUMBERS)?.as_primitive_opt::<UInt64Type>().ok_or_else(|| wrong(NOT_NUMBERS))?;
        let lists = column(HITS)?.as_list_opt::<i32>().ok_or_else(|| wrong(HITS))?;
        let hits = lists.values().as_struct_opt().filter(|hits| hits.num_columns() == 2).ok_or_else(|| wrong(HITS))?;
        let queries = hits.column(0).as_primitive_opt::<UInt32Type>().ok_or_else(|| wrong(HITS))?;
        let keys = self.shape.keys.of_array(hits.column(1))?;
        let mut entered = Vec::new();
        for row in 0..part.num_rows() {
            if positions.is_null(row) {
                self.not_numbers += if counts.is_valid(row) { counts.value(row) } else { 0 };
                continue;
            }
            let place = self.next + row as u64;
            let (begin, end) = (lists.value_offsets()[row], lists.value_offsets()[row + 1]);
            let mut has_entered = false;
            let of_row = begin as usize..end as usize;
            for (query, key) in queries.values()[of_row.clone()].iter().zip(&keys[of_row]) {
                let query = *query as usize;
                let key = key.filter(|_| query < self.shape.queries.len()).ok_or_else(|| wrong(HITS))?;
                has_entered |= self.candidates.offer(query, Entry { key, place });
            }
            if has_entered {
                entered.push(number_of(row)?);
            }
        }
        let names = self.shape.carried_schema.fields().iter().map(|field| column(field.name()));
        let columns = names.collect::<Result<Vec<&ArrayRef>>>()?;
        let places = entered.iter().map(|&row| self.next + u64::from(row)).collect();
        self.pool.take(&columns, entered, places)?;
        self.next += part.num_rows() as u64;
        if self.pool.is_full() {
            self.pool.keep(&self.candidates.places())?;
        }
        Ok(())
    }

    /// The ranking of all parts, query after query.
    ///
    /// # Errors
    /// None that data could cause.
    pub fn finish(mut self) -> Result<RankedBatches> {
        self.pool.keep(&self.candidates.places())?;
        self.candidates.sort();
        Ok(RankedBatches { merge: self, query: 0, rank: 0 })
    }
}

/// The batches of a ranking, as they are made.
#[derive(Debug)]
pub struct RankedBatches {
    merge: RankMerge,
    /// Where the next row is taken from.
    query: usize,
    rank: usize,
}

impl RankedBatches {
    /// Scores of all parts that are not numbers.
    #[must_use]
    pub fn not_numbers(&self) -> u64 {
        self.merge.not_numbers
    }

    /// What there is of a query; `None` for one that there is not.
    ///
    /// # Errors
    /// None that data could cause.
    pub fn query(&self, number: usize) -> Result<Option<RankedQuery>> {
        let Some(name) = self.merge.shape.queries.get(number) else { return Ok(None) };
        let entries = self.merge.candidates.of_query(number);
        let ends = entries.first().into_iter().chain(entries.last()).map(|entry| entry.key);
        let scores = arrow_cast::cast(&self.merge.shape.keys.scores(ends), &DataType::Float64)?;
        let scores = scores.as_primitive::<Float64Type>();
        let score = |place: usize| (!entries.is_empty()).then(|| scores.value(place));
        Ok(Some(RankedQuery { query: name.clone(), rows: entries.len() as u64, best: score(0), last: score(1) }))
    }

    /// Rows of all queries.
    #[must_use]
    pub fn rows(&self) -> u64 {
        (0..self.merge.shape.queries.len()).map(|query| self.merge.candidates.of_query(query).len() as u64).sum()
    }

    fn batch(&mut self) -> Result<Option<RecordBatch>> {
        let RankMerge { shape, candidates, pool, .. } = &self.merge;
        let (mut names, mut ranks, mut keys, mut rows) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut bytes = 0;
        while self.query < shape.queries.len() && rows.len() < BATCH_ROWS && bytes < BATCH_BYTES {
            let entries = candidates.of_query(self.query);
            let Some(entry) = entries.get(self.rank) else {
                (self.query, self.rank) = (self.query + 1, 0);
                continue;
            };
            let row = pool
                .find(entry.place)
                .ok_or_else(|| invalid(KIND, "", format!("row {} is among the best, but was not kept", entry.place)))?;
            bytes += pool.bytes_of(row);
            self.rank += 1;
            names.push(shape.queries[self.query].as_str());
            ranks.push(u32::try_from(self.rank).unwrap_or(u32::MAX));
            keys.push(entry.key);
            rows.push(row);
        }
        if rows.is_empty() {
            return Ok(None);
        }
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(names)),
            Arc::new(UInt32Array::from(ranks)),
            shape.keys.scores(keys.into_iter()),
        ];
        columns.extend(pool.gather(&rows)?);
        Ok(Some(RecordBatch::try_new(Arc::clone(shape.ranking_schema()), columns)?))
    }
}

impl Iterator for RankedBatches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        self.batch().transpose()
    }
}

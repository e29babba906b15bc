//! The columns that travel along, of rows that may be among the best.
//!
//! A row is held once, however many queries it is among the best of. Rows are copied out of the batches that they came in, so that no batch is kept
//! alive by one of its rows, and those that were outdone are dropped whenever the pool has doubled.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow_schema::SchemaRef;
use arrow_select::concat::concat_batches;
use arrow_select::filter::filter_record_batch;
use arrow_select::interleave::interleave;
use arrow_select::take::take;

use crate::Result;

/// Bytes of rows that are held together.
const CHUNK_BYTES: usize = 1 << 20;
/// What a pool may grow by before rows are dropped, beyond doubling.
const SLACK_ROWS: usize = 1024;
const SLACK_BYTES: usize = 8 << 20;

/// Rows in the order in which they came.
#[derive(Debug)]
pub(super) struct Pool {
    schema: SchemaRef,
    chunks: Vec<Chunk>,
    rows: usize,
    bytes: usize,
    most_rows: usize,
    most_bytes: usize,
}

#[derive(Debug)]
pub(super) struct Chunk {
    /// Numbers of the rows, rising.
    pub(super) places: Vec<u64>,
    pub(super) rows: RecordBatch,
}

impl Pool {
    /// A pool of rows with these columns. Columns that come in are brought to their types.
    pub(super) fn new(schema: SchemaRef) -> Self {
        Self { schema, chunks: Vec::new(), rows: 0, bytes: 0, most_rows: SLACK_ROWS, most_bytes: SLACK_BYTES }
    }

    /// Copies rows, whose numbers are above all that are here, out of columns.
    pub(super) fn take(&mut self, columns: &[&ArrayRef], rows: Vec<u32>, places: Vec<u64>) -> Result<()> {
        if places.is_empty() {
            return Ok(());
        }
        let rows = UInt32Array::from(rows);
        let copied = columns
            .iter()
            .zip(self.schema.fields())
            .map(|(column, field)| {
                // A view or a dictionary still holds all of its column; what it is cast to does not.
                let taken = take(column.as_ref(), &rows, None)?;
                Ok(arrow_cast::cast(&taken, field.data_type())?)
            })
            .collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(places.len()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.schema), copied, &options)?;
        self.add(Chunk { places, rows });
        Ok(())
    }

    /// Whether it is time to drop rows.
    pub(super) fn is_full(&self) -> bool {
        self.rows > self.most_rows || self.bytes > self.most_bytes
    }

    /// Drops all rows but these, whose numbers rise. Small chunks are joined on the way.
    pub(super) fn keep(&mut self, places: &[u64]) -> Result<()> {
        let old = std::mem::take(&mut self.chunks);
        (self.rows, self.bytes) = (0, 0);
        let mut left = places;
        let mut joined: Vec<Chunk> = Vec::new();
        let mut bytes = 0;
        for chunk in old {
            let Some(chunk) = chunk.keep(&mut left)? else { continue };
            bytes += chunk.bytes();
            joined.push(chunk);
            if bytes >= CHUNK_BYTES {
                self.join(std::mem::take(&mut joined))?;
                bytes = 0;
            }
        }
        self.join(joined)?;
        self.most_rows = 2 * self.rows + SLACK_ROWS;
        self.most_bytes = 2 * self.bytes + SLACK_BYTES;
        Ok(())
    }

    /// The rows, in order.
    pub(super) fn into_chunks(self) -> Vec<Chunk> {
        self.chunks
    }

    /// Which row of which chunk the row with this number is.
    pub(super) fn find(&self, place: u64) -> Option<(usize, usize)> {
        let chunk = self.chunks.partition_point(|chunk| chunk.places.last().is_some_and(|last| *last < place));
        let row = self.chunks.get(chunk)?.places.binary_search(&place).ok()?;
        Some((chunk, row))
    }

    /// Bytes of a row.
    pub(super) fn bytes_of(&self, (chunk, row): (usize, usize)) -> usize {
        let rows = self.chunks[chunk].rows.slice(row, 1);
        let columns = rows.columns().iter();
        columns.map(|column| column.to_data().get_slice_memory_size().unwrap_or(0)).sum()
    }

    /// Rows in any order, as columns.
    pub(super) fn gather(&self, rows: &[(usize, usize)]) -> Result<Vec<ArrayRef>> {
        (0..self.schema.fields().len())
            .map(|column| {
                let arrays: Vec<&dyn Array> =
                    self.chunks.iter().map(|chunk| chunk.rows.column(column).as_ref()).collect();
                Ok(interleave(&arrays, rows)?)
            })
            .collect()
    }

    fn join(&mut self, mut chunks: Vec<Chunk>) -> Result<()> {
        if chunks.len() > 1 {
            let rows = concat_batches(&self.schema, chunks.iter().map(|chunk| &chunk.rows))?;
            let places = chunks.iter().flat_map(|chunk| chunk.places.iter().copied()).collect();
            chunks = vec![Chunk { places, rows }];
        }
        chunks.into_iter().for_each(|chunk| self.add(chunk));
        Ok(())
    }

    fn add(&mut self, chunk: Chunk) {
        self.rows += chunk.places.len();
        self.bytes += chunk.bytes();
        self.chunks.push(chunk);
    }
}

impl Chunk {
    fn bytes(&self) -> usize {
        self.rows.get_array_memory_size() + self.places.capacity() * size_of::<u64>()
    }

    /// The rows whose numbers are among the first of `left`, which go from there; `None` where there is none.
    fn keep(self, left: &mut &[u64]) -> Result<Option<Self>> {
        let stays: Vec<bool> = self
            .places
            .iter()
            .map(|place| {
                let found = left.first() == Some(place);
                if found {
                    *left = &left[1..];
                }
                found
            })
            .collect();
        let number = stays.iter().filter(|stays| **stays).count();
        if number == 0 {
            return Ok(None);
        }
        if number == stays.len() {
            return Ok(Some(self));
        }
        let places = self.places.iter().zip(&stays).filter(|(_, stays)| **stays).map(|(place, _)| *place).collect();
        let rows = filter_record_batch(&self.rows, &BooleanArray::from(stays))?;
        Ok(Some(Self { places, rows }))
    }
}

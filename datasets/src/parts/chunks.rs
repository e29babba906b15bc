//! Cutting a stream of rows into the same pieces whatever batches it arrives in.
//!
//! Encoders decide at the end of each write whether a page or a group is full, so their files depend on how rows were
//! batched. Here rows are cut again by a rule that looks at the rows alone: a chunk ends with the row that brings it to
//! its limit of rows or bytes, or that ends a row group. Chunks inside one batch are slices; only what crosses a batch
//! boundary is copied, at once and into buffers of its own, so a few rows left over never keep a large batch alive.

use arrow_array::cast::AsArray;
use arrow_array::{Array, OffsetSizeTrait, RecordBatch};
use arrow_buffer::OffsetBuffer;
use arrow_schema::{ArrowError, DataType, SchemaRef};
use arrow_select::concat::concat_batches;

use super::schema::{compact, plain_layout};

/// Rows of a chunk at most.
pub(super) const CHUNK_ROWS: usize = 1024;
/// Bytes at which a chunk ends.
pub(super) const CHUNK_BYTES: u64 = 1024 * 1024;

/// When a chunk and a group end.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChunkLimits {
    pub(super) rows: usize,
    pub(super) bytes: u64,
    pub(super) group_rows: u64,
    pub(super) group_bytes: u64,
}

/// Some rows to encode with one call.
#[derive(Debug)]
pub(super) struct Chunk {
    /// The rows, in their written layout but for views at the top level.
    pub(super) rows: RecordBatch,
    /// Whether the row group ends with these rows.
    pub(super) ends_group: bool,
}

/// Cuts batches into chunks.
#[derive(Debug)]
pub(super) struct Chunker {
    written: SchemaRef,
    limits: ChunkLimits,
    pending: Vec<RecordBatch>,
    chunk_rows: usize,
    chunk_bytes: u64,
    group_rows: u64,
    group_bytes: u64,
}

impl Chunker {
    /// # Errors
    /// For column types whose values have no size that could be told.
    pub(super) fn new(written: SchemaRef, limits: ChunkLimits) -> Result<Self, ArrowError> {
        row_sizes(&RecordBatch::new_empty(SchemaRef::clone(&written)))?;
        Ok(Self { written, limits, pending: Vec::new(), chunk_rows: 0, chunk_bytes: 0, group_rows: 0, group_bytes: 0 })
    }

    /// The chunks that `batch` completes.
    pub(super) fn push(&mut self, batch: RecordBatch) -> Result<Vec<Chunk>, ArrowError> {
        let batch = plain_layout(batch, &self.written)?;
        let mut chunks = Vec::new();
        let mut start = 0;
        for (row, bytes) in row_sizes(&batch)?.into_iter().enumerate() {
            self.chunk_rows += 1;
            self.chunk_bytes += bytes;
            self.group_rows += 1;
            self.group_bytes += bytes;
            let ends_group = self.group_rows >= self.limits.group_rows || self.group_bytes >= self.limits.group_bytes;
            if !ends_group && self.chunk_rows < self.limits.rows && self.chunk_bytes < self.limits.bytes {
                continue;
            }
            let end = row + 1;
            chunks.push(Chunk { rows: self.complete(batch.slice(start, end - start))?, ends_group });
            start = end;
            (self.chunk_rows, self.chunk_bytes) = (0, 0);
            if ends_group {
                (self.group_rows, self.group_bytes) = (0, 0);
            }
        }
        if start < batch.num_rows() {
            let rest = batch.slice(start, batch.num_rows() - start);
            self.pending.push(compact(&rest, &self.written)?);
        }
        Ok(chunks)
    }

    /// The last, incomplete chunk.
    pub(super) fn finish(&mut self) -> Result<Option<Chunk>, ArrowError> {
        let pending = std::mem::take(&mut self.pending);
        if pending.is_empty() {
            return Ok(None);
        }
        Ok(Some(Chunk { rows: concat_batches(&self.written, &pending)?, ends_group: true }))
    }

    fn complete(&mut self, last: RecordBatch) -> Result<RecordBatch, ArrowError> {
        if self.pending.is_empty() {
            return Ok(last);
        }
        let mut pieces = std::mem::take(&mut self.pending);
        pieces.push(compact(&last, &self.written)?);
        concat_batches(&self.written, &pieces)
    }
}

/// Bytes of each row before encoding. It depends on values only, not on how arrays hold them.
fn row_sizes(batch: &RecordBatch) -> Result<Vec<u64>, ArrowError> {
    let mut sizes = vec![0; batch.num_rows()];
    for column in batch.columns() {
        add_sizes(column.as_ref(), &mut sizes)?;
    }
    Ok(sizes)
}

fn add_sizes(array: &dyn Array, sizes: &mut [u64]) -> Result<(), ArrowError> {
    match array.data_type() {
        DataType::Null => {}
        DataType::Boolean => add_each(sizes, |_| 1),
        DataType::FixedSizeBinary(width) => {
            let width = u64::try_from(*width).unwrap_or_default();
            add_each(sizes, |_| width);
        }
        DataType::Utf8 => add_offsets(array, array.as_string::<i32>().offsets(), sizes),
        DataType::LargeUtf8 => add_offsets(array, array.as_string::<i64>().offsets(), sizes),
        DataType::Binary => add_offsets(array, array.as_binary::<i32>().offsets(), sizes),
        DataType::LargeBinary => add_offsets(array, array.as_binary::<i64>().offsets(), sizes),
        DataType::Utf8View => add_views(array, array.as_string_view().views(), sizes),
        DataType::BinaryView => add_views(array, array.as_binary_view().views(), sizes),
        DataType::Struct(_) => {
            for column in array.as_struct().columns() {
                add_sizes(column.as_ref(), sizes)?;
            }
        }
        DataType::List(_) => add_list(array, array.as_list::<i32>().offsets(), array.as_list::<i32>().values(), sizes)?,
        DataType::LargeList(_) => {
            add_list(array, array.as_list::<i64>().offsets(), array.as_list::<i64>().values(), sizes)?
        }
        DataType::Map(_, _) => add_list(array, array.as_map().offsets(), array.as_map().entries(), sizes)?,
        DataType::FixedSizeList(_, length) => {
            let values = array.as_fixed_size_list().values();
            let mut inner = vec![0; values.len()];
            add_sizes(values.as_ref(), &mut inner)?;
            let length = usize::try_from(*length).unwrap_or_default();
            add_each(sizes, |row| match array.is_null(row) {
                true => 0,
                false => inner[row * length..(row + 1) * length].iter().sum(),
            });
        }
        other => {
            let width = other
                .primitive_width()
                .ok_or_else(|| ArrowError::NotYetImplemented(format!("a column of type {other} cannot be written")))?;
            add_each(sizes, |_| width as u64);
        }
    }
    Ok(())
}

fn add_each(sizes: &mut [u64], size: impl Fn(usize) -> u64) {
    for (row, total) in sizes.iter_mut().enumerate() {
        *total += size(row);
    }
}

/// Each value counts four bytes for its length, as in the plain encoding of Parquet.
const LENGTH_BYTES: u64 = 4;

fn add_offsets<O: OffsetSizeTrait>(array: &dyn Array, offsets: &OffsetBuffer<O>, sizes: &mut [u64]) {
    add_each(sizes, |row| match array.is_null(row) {
        true => LENGTH_BYTES,
        false => LENGTH_BYTES + (offsets[row + 1] - offsets[row]).as_usize() as u64,
    });
}

fn add_views(array: &dyn Array, views: &[u128], sizes: &mut [u64]) {
    add_each(sizes, |row| match array.is_null(row) {
        true => LENGTH_BYTES,
        // The low 32 bits of a view are the length of its value.
        false => LENGTH_BYTES + (views[row] & u128::from(u32::MAX)) as u64,
    });
}

fn add_list<O: OffsetSizeTrait>(
    array: &dyn Array,
    offsets: &OffsetBuffer<O>,
    values: &dyn Array,
    sizes: &mut [u64],
) -> Result<(), ArrowError> {
    let (first, last) = (offsets[0].as_usize(), offsets[offsets.len() - 1].as_usize());
    let mut inner = vec![0; last - first];
    add_sizes(values.slice(first, last - first).as_ref(), &mut inner)?;
    add_each(sizes, |row| match array.is_null(row) {
        true => LENGTH_BYTES,
        false => {
            let range = offsets[row].as_usize() - first..offsets[row + 1].as_usize() - first;
            LENGTH_BYTES + inner[range].iter().sum::<u64>()
        }
    });
    Ok(())
}

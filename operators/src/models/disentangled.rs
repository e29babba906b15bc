//! Disentangled attention (DeBERTa: He, Liu, Gao and Chen, 2021): scores of contents, and of contents with relative positions.
//!
//! With r the row of the tables that the distance i - j has, the score of query i and key j is
//!
//! s · (q_i·k_j + q_i·a_r + b_r·k_j),
//!
//! where a and b are the keys and the queries that the layer makes of the embeddings of distances. These depend on weights alone, so they are
//! made when the model is loaded. Either may be absent.
//!
//! Queries are taken in blocks, so that scores take memory for a block and not for a document squared. The products of a head's keys with b
//! are made once for a document: their columns are the rows of b that its distances reach, never more than the table has. Both kinds of
//! products are then looked up by distance. What a document has depends on nothing beside it, so its bits are the same in every batch.

use gristmill_kernels::gemm::{GemmOptions, Layout, Matrix, MatrixMut, Values, gemm};
use gristmill_kernels::softmax::Softmax;

use super::error::Result;
use super::layers::{Compute, Heads};

/// Scores of a block, unless a single query has more: it bounds memory, and keeps a block in a processor's second cache.
const BLOCK_SCORES: usize = 1 << 15;

/// Queries of a block are at least so many, since each block of them packs all keys again.
const LEAST_QUERIES: usize = 32;

/// Which rows of the tables distances have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Distances {
    /// Half of the rows: distance 0 has this one.
    pub(crate) span: usize,
    /// Distances beyond the middle share rows, the more the farther they are.
    pub(crate) shared: Option<Shared>,
}

/// Distances that share rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shared {
    /// Up to here each distance has its own row.
    pub(crate) middle: usize,
    /// From one less on, all distances have the last row. It is above the middle by more than one.
    pub(crate) farthest: usize,
}

impl Distances {
    /// Rows of a table.
    pub(crate) const fn rows(&self) -> usize {
        2 * self.span
    }

    /// The row of a distance, the query's position less the key's.
    pub(crate) fn row(&self, distance: i64) -> usize {
        let bucket = match self.shared {
            Some(shared) if distance.unsigned_abs() > shared.middle as u64 => {
                distance.signum() * shared.bucket(distance)
            }
            _ => distance,
        };
        (bucket + self.span as i64).clamp(0, self.rows() as i64 - 1) as usize
    }
}

impl Shared {
    /// In the order of operations of the models' own program, in single precision: at the edges of buckets another order gives another bucket.
    fn bucket(&self, distance: i64) -> i64 {
        let middle = self.middle as f32;
        // The logarithm to the last bit, which that of the standard library need not be.
        let ln = |x: f32| f64::from(x).ln() as f32;
        let share =
            ln(distance.unsigned_abs() as f32 / middle) / ln(((self.farthest - 1) as f64 / self.middle as f64) as f32);
        (share * (self.middle as f32 - 1.0)).ceil() as i64 + self.middle as i64
    }
}

/// What relative positions add to the scores of a layer.
#[derive(Debug)]
pub(crate) struct Disentangled {
    distances: Distances,
    /// a, which queries are multiplied by: `[heads, rows, width]`.
    keys: Option<Vec<f32>>,
    /// b, which keys are multiplied by: `[heads, rows, width]`.
    queries: Option<Vec<f32>>,
}

/// Intermediate results.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Rows of distances, from the greatest to the least.
    rows: Vec<u32>,
    /// b·k of a head of a document, `[keys, rows reached]`.
    from_keys: Vec<f32>,
    /// q·a of a block, `[queries, rows reached]`.
    from_queries: Vec<f32>,
    /// `[queries, keys]`.
    scores: Vec<f32>,
    weights: Vec<f32>,
}

impl Disentangled {
    /// Of projected embeddings of distances, `[rows, heads * width]` each.
    pub(crate) fn new(distances: Distances, heads: Heads, keys: Option<&[f32]>, queries: Option<&[f32]>) -> Self {
        let by_heads = |table: &[f32]| -> Vec<f32> {
            let width = heads.width;
            let rows = || table.chunks_exact(heads.queries * width);
            (0..heads.queries)
                .flat_map(|head| rows().flat_map(move |row| &row[head * width..][..width]))
                .copied()
                .collect()
        };
        Self { distances, keys: keys.map(by_heads), queries: queries.map(by_heads) }
    }

    /// Attention of packed documents: queries, keys, values and the result are `[tokens, heads * width]`, `offsets` `[documents + 1]`.
    pub(crate) fn forward(
        &self,
        compute: Compute<'_>,
        heads: Heads,
        offsets: &[i64],
        [queries, keys, values]: [&[f32]; 3],
        context: &mut [f32],
        memory: &mut Memory,
    ) -> Result<()> {
        let documents = || offsets.windows(2).map(|pair| (pair[0] as usize, (pair[1] - pair[0]) as usize));
        let longest = documents().map(|(_, length)| length).max().unwrap_or(0);
        memory.rows.clear();
        let row = |distance: i64| self.distances.row(distance) as u32;
        memory.rows.extend((1 - longest as i64..longest as i64).rev().map(row));
        let stride = heads.queries * heads.width;
        for (start, length) in documents().filter(|&(_, length)| length > 0) {
            let rows = longest - length..longest + length - 1;
            for head in 0..heads.queries {
                let from = start * stride + head * heads.width;
                let part = |buffer: &'_ [f32]| from.min(buffer.len())..buffer.len();
                let head = Head {
                    scale: heads.scale,
                    width: heads.width,
                    stride,
                    queries: &queries[part(queries)],
                    keys: &keys[part(keys)],
                    values: &values[part(values)],
                    positions: [&self.keys, &self.queries].map(|table| {
                        let size = self.distances.rows() * heads.width;
                        table.as_deref().map(|table| &table[head * size..][..size])
                    }),
                    rows: rows.clone(),
                    length,
                };
                let to = part(context);
                head.forward(compute, &mut context[to], memory)?;
            }
        }
        Ok(())
    }
}

/// A head of a document. Buffers begin at its first element.
struct Head<'a> {
    scale: f32,
    width: usize,
    stride: usize,
    queries: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    /// Keys and queries of distances, `[rows, width]`.
    positions: [Option<&'a [f32]>; 2],
    /// Where the rows of its distances are.
    rows: std::ops::Range<usize>,
    length: usize,
}

impl Head<'_> {
    fn forward(&self, compute: Compute<'_>, context: &mut [f32], memory: &mut Memory) -> Result<()> {
        let Memory { rows, from_keys, from_queries, scores, weights } = memory;
        let (length, [to_keys, to_queries]) = (self.length, self.positions);
        let rows = &rows[self.rows.clone()];
        let options = GemmOptions { threads: compute.threads, ..GemmOptions::default() };
        let whole = reached(rows);
        if let Some(table) = to_queries {
            let right = self.table(table, &whole)?;
            product(self.part(self.keys, 0..length)?, right, from_keys, &options)?;
        }
        let block = (BLOCK_SCORES / length.max(1)).max(LEAST_QUERIES);
        for first in (0..length).step_by(block) {
            let queries = first..(first + block).min(length);
            let rows = &rows[length - queries.end..2 * length - 1 - first];
            let left = self.part(self.queries, queries.clone())?;
            product(left, self.part(self.keys, 0..length)?.transposed(), scores, &options)?;
            if let Some(table) = to_keys {
                let near = reached(rows);
                product(left, self.table(table, &near)?, from_queries, &options)?;
                let lines = scores.chunks_exact_mut(length).zip(from_queries.chunks_exact(near.len()));
                for (number, (scores, own)) in lines.enumerate() {
                    let rows = &rows[queries.len() - 1 - number..];
                    for (score, &row) in scores.iter_mut().zip(rows) {
                        *score += own[row as usize - near.start];
                    }
                }
            }
            if to_queries.is_some() {
                for (number, scores) in scores.chunks_exact_mut(length).enumerate() {
                    let rows = &rows[queries.len() - 1 - number..];
                    for ((score, &row), products) in
                        scores.iter_mut().zip(rows).zip(from_keys.chunks_exact(whole.len()))
                    {
                        *score += products[row as usize - whole.start];
                    }
                }
            }
            weights.resize(scores.len(), 0.0);
            Softmax { width: length, scale: self.scale }.forward(compute.workers, scores, weights)?;
            let weights = Matrix::row_major(Values::F32(weights), queries.len(), length)?;
            let to = &mut context[first * self.stride..];
            let to = MatrixMut::strided(to, queries.len(), self.width, self.stride)?;
            gemm(weights, self.part(self.values, 0..length)?, to, &options)?;
        }
        Ok(())
    }

    /// Rows of queries, keys or values.
    fn part<'a>(&self, buffer: &'a [f32], rows: std::ops::Range<usize>) -> Result<Matrix<'a>> {
        let layout = Layout { rows: rows.len(), columns: self.width, row_stride: self.stride, column_stride: 1 };
        Ok(Matrix::strided(Values::F32(&buffer[rows.start * self.stride..]), layout)?)
    }

    /// Rows of a table, as columns.
    fn table<'a>(&self, table: &'a [f32], rows: &std::ops::Range<usize>) -> Result<Matrix<'a>> {
        let part = &table[rows.start * self.width..rows.end * self.width];
        Ok(Matrix::row_major(Values::F32(part), rows.len(), self.width)?.transposed())
    }
}

/// The least and the greatest of some rows, and all between.
fn reached(rows: &[u32]) -> std::ops::Range<usize> {
    let least = rows.iter().min().map_or(0, |&row| row as usize);
    least..rows.iter().max().map_or(0, |&row| row as usize + 1)
}

/// Overwrites c.
fn product(a: Matrix<'_>, b: Matrix<'_>, c: &mut Vec<f32>, options: &GemmOptions) -> Result<()> {
    let (rows, columns) = (a.layout().rows, b.layout().columns);
    c.resize(rows * columns, 0.0);
    Ok(gemm(a, b, MatrixMut::row_major(c, rows, columns)?, options)?)
}

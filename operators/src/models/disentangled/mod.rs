//! Disentangled attention (DeBERTa: He, Liu, Gao and Chen, 2021): scores of contents, and of contents with relative positions.
//!
//! With r the row of the tables that the distance i - j has, the score of query i and key j is
//!
//! s · (q_i·k_j + q_i·a_r + b_r·k_j),
//!
//! where a and b are the keys and the queries that the layer makes of the embeddings of distances. These depend on weights alone, so they are
//! made when the model is loaded. Either may be absent. The way back is in [`backward`].
//!
//! Queries are taken in blocks, so that scores take memory for a block and not for a document squared. The products of a head's keys with b
//! are made once for a document: their columns are the rows of b that its distances reach, never more than the table has. Both kinds of
//! products are then looked up by distance. What a document has depends on nothing beside it, so its bits are the same in every batch.

mod backward;

use std::ops::Range;
use std::sync::Arc;

use gristmill_kernels::gemm::{GemmOptions, Layout, Matrix, MatrixMut, Values, gemm};
use gristmill_kernels::softmax::Softmax;

pub(crate) use backward::{Back, Gradients};

use super::error::Result;
use super::layers::{Compute, Heads, Norm};
use super::linear::Linear;
use super::parameters;

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

    /// The rows of a document's distances, with those between that none of them has. Rows grow with the distance.
    pub(crate) fn reached(&self, length: usize) -> Range<usize> {
        let farthest = length as i64 - 1;
        if farthest < 0 { 0..0 } else { self.row(-farthest)..self.row(farthest) + 1 }
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

/// The embeddings of distances, which all layers share.
#[derive(Debug)]
pub(crate) struct Embedded {
    /// `[rows, hidden]`.
    pub(crate) table: parameters::Values,
    pub(crate) norm: Option<Norm>,
    /// The table after the norm, where there is one.
    normed: Vec<f32>,
}

impl Embedded {
    pub(crate) fn new(compute: Compute<'_>, table: parameters::Values, norm: Option<Norm>) -> Result<Self> {
        let mut normed = Vec::new();
        if let Some(norm) = &norm {
            norm.forward(compute, &table, &mut normed)?;
        }
        Ok(Self { table, norm, normed })
    }

    /// What layers read, `[rows, hidden]`.
    pub(crate) fn values(&self) -> &[f32] {
        if self.norm.is_some() { &self.normed } else { &self.table }
    }
}

/// Keys or queries that a layer makes of the embeddings of distances.
#[derive(Debug)]
pub(crate) struct Made {
    /// `[heads, rows, width]`.
    values: Vec<f32>,
    /// What made them, for gradients, where that is not the layer of contents.
    own: Option<Linear>,
}

impl Made {
    /// Of `[rows, heads * width]`.
    pub(crate) fn new(heads: Heads, made: &[f32], own: Option<Linear>) -> Self {
        let width = heads.width;
        let rows = || made.chunks_exact(heads.queries * width);
        let values = (0..heads.queries)
            .flat_map(|head| rows().flat_map(move |row| &row[head * width..][..width]))
            .copied()
            .collect();
        Self { values, own }
    }
}

/// What relative positions add to the scores of a layer.
#[derive(Debug)]
pub(crate) struct Disentangled {
    pub(crate) distances: Distances,
    /// a, which queries are multiplied by.
    pub(crate) keys: Option<Made>,
    /// b, which keys are multiplied by.
    pub(crate) queries: Option<Made>,
    /// What they are made of, for gradients.
    pub(crate) embedded: Option<Arc<Embedded>>,
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
    /// The layers that make keys and queries of the embeddings of distances and of nothing else.
    pub(crate) fn own(&self) -> [Option<&Linear>; 2] {
        [&self.keys, &self.queries].map(|made| made.as_ref()?.own.as_ref())
    }

    /// Attention of packed documents: queries, keys, values and the result are `[tokens, heads * width]`, `offsets` `[documents + 1]`.
    pub(crate) fn forward(
        &self,
        compute: Compute<'_>,
        heads: Heads,
        offsets: &[i64],
        read: [&[f32]; 3],
        context: &mut [f32],
        memory: &mut Memory,
    ) -> Result<()> {
        let longest = self.list(offsets, &mut memory.rows);
        for (_, start, length) in documents(offsets) {
            for number in 0..heads.queries {
                let head = self.head(heads, number, start, length, longest, read);
                let first = start * head.stride + number * heads.width;
                head.forward(compute, &mut context[first..], memory)?;
            }
        }
        Ok(())
    }

    /// Lists the rows of the distances of the longest document, and gives its length.
    fn list(&self, offsets: &[i64], rows: &mut Vec<u32>) -> usize {
        let longest = documents(offsets).map(|(.., length)| length).max().unwrap_or(0);
        rows.clear();
        rows.extend((1 - longest as i64..longest as i64).rev().map(|distance| self.distances.row(distance) as u32));
        longest
    }

    /// A head of the document of `length` tokens from `start` on.
    fn head<'a>(
        &'a self,
        heads: Heads,
        number: usize,
        start: usize,
        length: usize,
        longest: usize,
        read: [&'a [f32]; 3],
    ) -> Head<'a> {
        let Heads { width, scale, .. } = heads;
        let stride = heads.queries * width;
        let [queries, keys, values] = read.map(|buffer| &buffer[start * stride + number * width..]);
        let size = self.distances.rows() * width;
        let positions =
            [&self.keys, &self.queries].map(|made| made.as_ref().map(|made| &made.values[number * size..][..size]));
        let rows = longest - length..longest + length - 1;
        Head { scale, width, stride, queries, keys, values, positions, rows, length }
    }
}

/// Numbers of the documents that have tokens, their first tokens, and their lengths.
fn documents(offsets: &[i64]) -> impl Iterator<Item = (usize, usize, usize)> {
    let each = offsets.windows(2).enumerate();
    let each = each.map(|(number, pair)| (number, pair[0] as usize, (pair[1] - pair[0]) as usize));
    each.filter(|&(.., length)| length > 0)
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
    /// Where the rows of its distances are listed.
    rows: Range<usize>,
    length: usize,
}

/// A block of queries of a head.
struct Block {
    queries: Range<usize>,
    /// Where the rows of the distances between them and all keys are listed.
    rows: Range<usize>,
    /// These, with those between.
    near: Range<usize>,
}

impl Head<'_> {
    fn forward(&self, compute: Compute<'_>, context: &mut [f32], memory: &mut Memory) -> Result<()> {
        let options = GemmOptions { threads: compute.threads, ..GemmOptions::default() };
        let whole = self.begin(&options, memory)?;
        for queries in self.blocks() {
            let block = self.weigh(compute, queries, &whole, memory)?;
            let weights = Matrix::row_major(Values::F32(&memory.weights), block.queries.len(), self.length)?;
            let to = self.part_mut(context, &block.queries)?;
            gemm(weights, self.part(self.values, 0..self.length)?, to, &options)?;
        }
        Ok(())
    }

    /// Which queries are taken together.
    fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let length = self.length;
        let block = (BLOCK_SCORES / length.max(1)).max(LEAST_QUERIES);
        (0..length).step_by(block).map(move |first| first..(first + block).min(length))
    }

    /// Makes the products of keys with queries of distances, and gives the rows that distances reach.
    fn begin(&self, options: &GemmOptions, memory: &mut Memory) -> Result<Range<usize>> {
        let whole = reached(&memory.rows[self.rows.clone()]);
        if let [_, Some(table)] = self.positions {
            let right = self.table(table, &whole)?.transposed();
            product(self.part(self.keys, 0..self.length)?, right, &mut memory.from_keys, options)?;
        }
        Ok(whole)
    }

    /// The weights of keys for a block of queries.
    fn weigh(
        &self,
        compute: Compute<'_>,
        queries: Range<usize>,
        whole: &Range<usize>,
        memory: &mut Memory,
    ) -> Result<Block> {
        let Memory { rows, from_keys, from_queries, scores, weights } = memory;
        let (length, [to_keys, to_queries]) = (self.length, self.positions);
        let options = GemmOptions { threads: compute.threads, ..GemmOptions::default() };
        let first = self.rows.start;
        let listed = first + length - queries.end..first + 2 * length - 1 - queries.start;
        let rows = &rows[listed.clone()];
        let near = reached(rows);
        let left = self.part(self.queries, queries.clone())?;
        product(left, self.part(self.keys, 0..length)?.transposed(), scores, &options)?;
        if let Some(table) = to_keys {
            product(left, self.table(table, &near)?.transposed(), from_queries, &options)?;
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
                for ((score, &row), products) in scores.iter_mut().zip(rows).zip(from_keys.chunks_exact(whole.len())) {
                    *score += products[row as usize - whole.start];
                }
            }
        }
        weights.resize(scores.len(), 0.0);
        Softmax { width: length, scale: self.scale }.forward(compute.workers, scores, weights)?;
        Ok(Block { queries, rows: listed, near })
    }

    /// Rows of queries, keys or values.
    fn part<'a>(&self, buffer: &'a [f32], rows: Range<usize>) -> Result<Matrix<'a>> {
        let layout = Layout { rows: rows.len(), columns: self.width, row_stride: self.stride, column_stride: 1 };
        Ok(Matrix::strided(Values::F32(&buffer[rows.start * self.stride..]), layout)?)
    }

    /// The same to be written.
    fn part_mut<'a>(&self, buffer: &'a mut [f32], rows: &Range<usize>) -> Result<MatrixMut<'a>> {
        Ok(MatrixMut::strided(&mut buffer[rows.start * self.stride..], rows.len(), self.width, self.stride)?)
    }

    /// Rows of a table.
    fn table<'a>(&self, table: &'a [f32], rows: &Range<usize>) -> Result<Matrix<'a>> {
        let part = &table[rows.start * self.width..rows.end * self.width];
        Ok(Matrix::row_major(Values::F32(part), rows.len(), self.width)?)
    }
}

/// The least and the greatest of some rows, and all between.
fn reached(rows: &[u32]) -> Range<usize> {
    let least = rows.iter().min().map_or(0, |&row| row as usize);
    least..rows.iter().max().map_or(0, |&row| row as usize + 1)
}

/// Overwrites c.
fn product(a: Matrix<'_>, b: Matrix<'_>, c: &mut Vec<f32>, options: &GemmOptions) -> Result<()> {
    let (rows, columns) = (a.layout().rows, b.layout().columns);
    c.resize(rows * columns, 0.0);
    Ok(gemm(a, b, MatrixMut::row_major(c, rows, columns)?, options)?)
}

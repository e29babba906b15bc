//! The way back through disentangled attention.
//!
//! With P the weights of keys, δ the gradient of what a head gives, and r the row of the distance i - j, the gradients are
//!
//! - of a score, E = s · P ∘ (δVᵀ - Σⱼ P ∘ δVᵀ),
//! - of values, Pᵀδ,
//! - of queries, E·K + C·a with Cᵢᵣ = Σⱼ Eᵢⱼ over the keys at distances of row r, and of a, Cᵀ·Q,
//! - of keys, Eᵀ·Q + D·b with Dⱼᵣ = Σᵢ Eᵢⱼ over the queries at distances of row r, and of b, Dᵀ·K.
//!
//! Scores are made again, in the same blocks as on the way there.

use gristmill_kernels::gemm::{GemmOptions, Matrix, Values, gemm};
use gristmill_kernels::softmax::Softmax;

use super::{Block, Disentangled, Head, Memory, documents, product};
use crate::models::error::Result;
use crate::models::layers::{Compute, Heads};

/// Intermediate results.
#[derive(Debug, Default)]
pub(crate) struct Back {
    /// Of weights of keys and of scores, `[queries, keys]`.
    of_weights: Vec<f32>,
    of_scores: Vec<f32>,
    /// C of a block, `[queries, rows reached]`.
    by_query: Vec<f32>,
    /// D of a head of a document, `[keys, rows reached]`.
    by_key: Vec<f32>,
}

/// What is given and what is wanted.
#[derive(Debug)]
pub(crate) struct Gradients<'a> {
    /// Of what attention gives, `[tokens, heads * width]`.
    pub(crate) context: &'a [f32],
    /// Queries, keys and values, which are overwritten, `[tokens, heads * width]`.
    pub(crate) read: [&'a mut [f32]; 3],
    /// Keys and queries of distances, which are added to where they are wanted: for each document the rows that its distances
    /// reach ([`Distances::reached`](super::Distances::reached)), `[rows, heads * width]`.
    pub(crate) made: [Option<&'a mut [f32]>; 2],
    /// Where documents begin in these, `[documents + 1]`.
    pub(crate) rows: &'a [i64],
}

impl Disentangled {
    /// From the gradient of what attention gives to those of what it reads.
    pub(crate) fn backward(
        &self,
        compute: Compute<'_>,
        heads: Heads,
        offsets: &[i64],
        read: [&[f32]; 3],
        gradients: Gradients<'_>,
        memory: (&mut Memory, &mut Back),
    ) -> Result<()> {
        let Gradients { context, read: mut of_read, mut made, rows } = gradients;
        let (memory, back) = memory;
        let longest = self.list(offsets, &mut memory.rows);
        for (document, start, length) in documents(offsets) {
            for number in 0..heads.queries {
                let head = self.head(heads, number, start, length, longest, read);
                let column = number * heads.width;
                let first = start * head.stride + column;
                let first_row = rows[document] as usize * head.stride + column;
                let gradients = Gradients {
                    context: &context[first..],
                    read: of_read.each_mut().map(|buffer| &mut buffer[first..]),
                    made: made.each_mut().map(|buffer| buffer.as_mut().map(|buffer| &mut buffer[first_row..])),
                    rows,
                };
                head.backward(compute, gradients, memory, back)?;
            }
        }
        Ok(())
    }
}

impl Head<'_> {
    /// The same of a head of a document. Buffers begin at its first element.
    fn backward(
        &self,
        compute: Compute<'_>,
        gradients: Gradients<'_>,
        memory: &mut Memory,
        back: &mut Back,
    ) -> Result<()> {
        let Gradients { context, read: [queries, keys, values], made: [mut of_keys, of_queries], .. } = gradients;
        let (length, all) = (self.length, 0..self.length);
        let overwrite = GemmOptions { threads: compute.threads, ..GemmOptions::default() };
        let accumulate = GemmOptions { accumulate: true, ..overwrite };
        let whole = self.begin(&overwrite, memory)?;
        let [to_keys, to_queries] = self.positions;
        if to_queries.is_some() {
            back.by_key.clear();
            back.by_key.resize(length * whole.len(), 0.0);
        }
        for block in self.blocks() {
            let Block { queries: block, rows, near } = self.weigh(compute, block, &whole, memory)?;
            let number = block.len();
            let sum = if block.start == 0 { overwrite } else { accumulate };
            let Back { of_weights, of_scores, by_query, by_key } = &mut *back;
            let delta = self.part(context, block.clone())?;
            product(delta, self.part(self.values, all.clone())?.transposed(), of_weights, &overwrite)?;
            let weights = Matrix::row_major(Values::F32(&memory.weights), number, length)?;
            gemm(weights.transposed(), delta, self.part_mut(values, &all)?, &sum)?;
            of_scores.resize(of_weights.len(), 0.0);
            let softmax = Softmax { width: length, scale: self.scale };
            softmax.backward(compute.workers, &memory.weights, of_weights, of_scores)?;
            let scores = Matrix::row_major(Values::F32(of_scores), number, length)?;
            gemm(scores, self.part(self.keys, all.clone())?, self.part_mut(queries, &block)?, &overwrite)?;
            let own = self.part(self.queries, block.clone())?;
            gemm(scores.transposed(), own, self.part_mut(keys, &all)?, &sum)?;

            let rows = &memory.rows[rows];
            if let Some(table) = to_keys {
                by_query.clear();
                by_query.resize(number * near.len(), 0.0);
                let lines = of_scores.chunks_exact(length).zip(by_query.chunks_exact_mut(near.len()));
                for (query, (scores, sums)) in lines.enumerate() {
                    for (score, &row) in scores.iter().zip(&rows[number - 1 - query..]) {
                        sums[row as usize - near.start] += score;
                    }
                }
                let sums = Matrix::row_major(Values::F32(by_query), number, near.len())?;
                gemm(sums, self.table(table, &near)?, self.part_mut(queries, &block)?, &accumulate)?;
                if let Some(made) = &mut of_keys {
                    let near = near.start - whole.start..near.end - whole.start;
                    gemm(sums.transposed(), own, self.part_mut(made, &near)?, &accumulate)?;
                }
            }
            if to_queries.is_some() {
                for (query, scores) in of_scores.chunks_exact(length).enumerate() {
                    let rows = &rows[number - 1 - query..];
                    for ((score, &row), sums) in scores.iter().zip(rows).zip(by_key.chunks_exact_mut(whole.len())) {
                        sums[row as usize - whole.start] += score;
                    }
                }
            }
        }
        if let Some(table) = to_queries {
            let sums = Matrix::row_major(Values::F32(&back.by_key), length, whole.len())?;
            gemm(sums, self.table(table, &whole)?, self.part_mut(keys, &all)?, &accumulate)?;
            if let Some(made) = of_queries {
                let own = self.part(self.keys, all)?;
                gemm(sums.transposed(), own, self.part_mut(made, &(0..whole.len()))?, &accumulate)?;
            }
        }
        Ok(())
    }
}

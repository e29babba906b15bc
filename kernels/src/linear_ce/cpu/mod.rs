//! The twin on the CPU.
//!
//! Some rows at a time go past the whole vocabulary, which is divided into segments by its size alone: a worker takes a segment,
//! and computes its logits a piece at a time in memory that stays in the second cache. So the head is read once for
//! each [`ROWS`] tokens, whoever works, and a single token keeps all workers busy, too. Segments are put together in their order.

mod backward;
mod forward;

use super::head::shape;
use super::rows::{Ranked, State};
use super::{Head, LinearCe, Tokens};
use crate::gemm::{Matrix, PackedWeights, Values};
use crate::launch::{ShapeError, expect_len};
use std::ops::Range;
use std::sync::OnceLock;

/// Rows that go past the vocabulary together.
const ROWS: usize = 192;
/// Fewer where they are wide, since each segment has a sum for each element of them.
const WIDE_ROWS: usize = 96;
/// From this width on.
const WIDE: usize = 1025;
/// Columns of a piece of logits: with [`ROWS`] rows 192 KiB, which leaves room for the operands in a cache of half a MiB.
const COLUMNS: usize = 256;
/// Segments of the vocabulary, at most.
const SEGMENTS: usize = 32;
/// Rows of a task that is done for each row apart.
const TASK_ROWS: usize = 16;
/// Bytes of the lists that a product makes beside its packed operands.
const LISTS: usize = 4096;

/// What a forward pass writes.
#[derive(Debug)]
pub struct Scores<'a> {
    /// For each given token, 0 where it is ignored.
    pub loss: &'a mut [f32],
    /// `[rows]`. Its length says how many rows there are.
    pub log_sum_exp: &'a mut [f32],
    /// `[rows]`: the token with the largest logit.
    pub best: Option<&'a mut [i32]>,
    /// `[rows]`: log-probability of that token.
    pub best_log_probability: Option<&'a mut [f32]>,
    /// `[rows]`: rank of the given token; only where there is one for each row.
    pub rank: Option<&'a mut [i32]>,
}

impl<'a> Scores<'a> {
    /// Nothing but losses.
    pub const fn new(loss: &'a mut [f32], log_sum_exp: &'a mut [f32]) -> Self {
        Self { loss, log_sum_exp, best: None, best_log_probability: None, rank: None }
    }

    /// Whether these are for so many rows with these tokens.
    fn expect(&self, tokens: Tokens<'_>, rows: usize) -> Result<(), ShapeError> {
        expect_len("loss", self.loss.len(), tokens.ids.len())?;
        expect_len("best", self.best.as_ref().map_or(rows, |best| best.len()), rows)?;
        expect_len("best_log_probability", self.best_log_probability.as_ref().map_or(rows, |best| best.len()), rows)?;
        expect_len("rank", self.rank.as_ref().map_or(rows, |rank| rank.len()), rows)?;
        if self.rank.is_some() && tokens.offsets.is_some() {
            let allowed = "one for each row";
            return Err(ShapeError::Dimension { name: "tokens to rank", allowed, actual: tokens.ids.len() });
        }
        Ok(())
    }
}

/// What a backward pass writes.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// Of hidden states, `[rows, width]`.
    pub hidden: Option<&'a mut [f32]>,
    /// Of the head.
    pub head: Option<HeadGradients<'a>>,
}

/// Gradients of a head, which are added to what is there.
#[derive(Debug)]
pub struct HeadGradients<'a> {
    /// `[vocabulary, width]`.
    pub weights: &'a mut [f32],
    /// `[vocabulary]`.
    pub bias: Option<&'a mut [f32]>,
}

impl LinearCe {
    /// Bytes of memory that a forward pass takes, at most, with so many workers.
    pub const fn forward_memory(&self, workers: usize) -> usize {
        let rows = SEGMENTS * ROWS * size_of::<State>() + ROWS * size_of::<Ranked>();
        rows + workers
            * (ROWS * COLUMNS * size_of::<f32>() + PackedWeights::packed_rows_memory(ROWS, self.width) + LISTS)
    }

    /// Bytes of memory that both passes in one take, at most, with so many workers.
    pub const fn forward_backward_memory(&self, workers: usize) -> usize {
        // Where labels are smoothed one pass comes after the other.
        let sums = SEGMENTS * self.backward_rows() * self.width * size_of::<f32>();
        let each = PackedWeights::packed_rows_memory(ROWS, COLUMNS) + ROWS * size_of::<f32>() + LISTS;
        let together = self.forward_memory(workers) + ROWS * size_of::<State>() + sums + workers * each;
        let apart = self.backward_memory(workers);
        if together > apart { together } else { apart }
    }

    /// Bytes of memory that a backward pass takes, at most, with so many workers.
    pub const fn backward_memory(&self, workers: usize) -> usize {
        let rows = self.backward_rows();
        let sums = (SEGMENTS + 1) * rows * self.width * size_of::<f32>();
        let packed = self.width.next_multiple_of(PackedWeights::COLUMNS)
            * rows.next_multiple_of(PackedWeights::DEPTH)
            * size_of::<f32>();
        let each = rows * COLUMNS * size_of::<f32>()
            + PackedWeights::packed_rows_memory(rows, self.width)
            + PackedWeights::packed_rows_memory(rows, COLUMNS)
            + PackedWeights::packed_rows_memory(COLUMNS, rows)
            + 2 * LISTS;
        sums + packed + rows * 16 + LISTS + workers * each
    }

    fn expect_head(&self, head: &Head) -> Result<(), ShapeError> {
        if i32::try_from(self.vocabulary).is_err() {
            let allowed = "at most 2,147,483,647";
            return Err(ShapeError::Dimension { name: "vocabulary", allowed, actual: self.vocabulary });
        }
        expect_len("outputs of the head", head.weights.outputs(), self.vocabulary)?;
        expect_len("inputs of the head", head.weights.inputs(), self.width)
    }

    const fn backward_rows(&self) -> usize {
        if self.width < WIDE { ROWS } else { WIDE_ROWS }
    }

    fn rows_of<'a>(&self, hidden: &'a [f32], rows: Range<usize>) -> Result<Matrix<'a>, ShapeError> {
        let values = &hidden[rows.start * self.width..rows.end * self.width];
        Matrix::row_major(Values::F32(values), rows.len(), self.width).map_err(shape)
    }
}

/// Parts of the vocabulary.
#[derive(Clone, Copy)]
struct Segments {
    vocabulary: usize,
    each: usize,
}

fn segments(vocabulary: usize) -> Segments {
    Segments { vocabulary, each: vocabulary.div_ceil(SEGMENTS).next_multiple_of(COLUMNS).max(COLUMNS) }
}

impl Segments {
    const fn len(self) -> usize {
        self.vocabulary.div_ceil(self.each)
    }

    fn range(self, segment: usize) -> Range<usize> {
        segment * self.each..self.vocabulary.min((segment + 1) * self.each)
    }
}

/// Keeps the first error of several tasks.
fn note(failed: &OnceLock<ShapeError>, result: Result<(), ShapeError>) {
    if let Err(error) = result {
        // A task that comes later may fail, too, and the first says enough.
        let _ = failed.set(error);
    }
}

fn finish(failed: OnceLock<ShapeError>) -> Result<(), ShapeError> {
    failed.into_inner().map_or(Ok(()), Err)
}

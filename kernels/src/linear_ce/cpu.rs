//! The twin on the CPU.
//!
//! Some rows at a time go past the whole vocabulary, which is divided into segments by its size alone: a worker takes a segment,
//! and computes its logits a piece at a time in memory that stays in the second cache. So the head is read once for
//! each [`ROWS`] tokens, whoever works, and a single token keeps all workers busy, too. Segments are put together in their order.

use super::head::shape;
use super::rows::{Piece, Ranked, State, absorb, add_rows, differentiate};
use super::{Head, IGNORED, Ids, LinearCe, Tokens};
use crate::gemm::{GemmError, Layout, MatmulOptions, Matrix, MatrixMut, PackedWeights, Values};
use crate::launch::{ShapeError, expect_len};
use crate::workers::{Parts, Workers};
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
/// Segments of the vocabulary in a forward pass, at most.
const SEGMENTS: usize = 64;
/// Segments of the vocabulary in a backward pass, at most.
const BACKWARD_SEGMENTS: usize = 16;
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

    /// Bytes of memory that a backward pass takes, at most, with so many workers.
    pub const fn backward_memory(&self, workers: usize) -> usize {
        let rows = self.backward_rows();
        let sums = (BACKWARD_SEGMENTS + 1) * rows * self.width * size_of::<f32>();
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

    /// Losses of tokens, out of hidden states `[rows, width]`.
    ///
    /// # Errors
    /// Lengths that do not belong together, a head of another size, ids that are not tokens, offsets that are none, and ranks asked
    /// for where rows have lists of tokens.
    pub fn forward(
        &self,
        workers: &dyn Workers,
        hidden: &[f32],
        head: &Head,
        tokens: Tokens<'_>,
        scores: Scores<'_>,
    ) -> Result<(), ShapeError> {
        let Scores { loss, log_sum_exp, mut best, mut best_log_probability, mut rank } = scores;
        let rows = log_sum_exp.len();
        self.expect_head(head)?;
        expect_len("hidden", hidden.len(), rows * self.width)?;
        self.expect_tokens(tokens, rows)?;
        expect_len("loss", loss.len(), tokens.ids.len())?;
        expect_len("best", best.as_ref().map_or(rows, |best| best.len()), rows)?;
        expect_len("best_log_probability", best_log_probability.as_ref().map_or(rows, |best| best.len()), rows)?;
        if let Some(rank) = &rank {
            expect_len("rank", rank.len(), rows)?;
            if tokens.offsets.is_some() {
                let allowed = "one for each row";
                return Err(ShapeError::Dimension { name: "tokens to rank", allowed, actual: tokens.ids.len() });
            }
        }

        let segments = segments(self.vocabulary, SEGMENTS);
        let mut states = vec![State::EMPTY; ROWS * segments.len()];
        for first in (0..rows).step_by(ROWS) {
            let block = first..rows.min(first + ROWS);
            let x = self.rows_of(hidden, block.clone())?;
            self.given_logits(workers, hidden, head, tokens, block.clone(), loss)?;
            let mut ranked = Vec::new();
            if rank.is_some() {
                ranked.extend(block.clone().map(|row| Ranked { id: tokens.ids.get(row), logit: loss[row] }));
            }
            let parts = Parts::new(&mut states);
            let failed = OnceLock::new();
            workers.run(segments.len(), &|segment| {
                // SAFETY: each segment has states of its own.
                #[allow(unsafe_code, reason = "tasks write their own states")]
                let states = unsafe { parts.part(segment * ROWS..segment * ROWS + block.len()) };
                states.fill(State::EMPTY);
                let mut scratch = vec![0.0; block.len() * COLUMNS];
                let each = &mut |columns, values: &mut [f32]| {
                    let mut piece = Piece { values, stride: COLUMNS, columns, scale: self.logit_scale };
                    absorb(&mut piece, states, &ranked, self.label_smoothing != 0.0);
                };
                let range = segments.range(segment);
                let done = head.weights.matmul_pieces(x, range, COLUMNS, &head.bias, &mut scratch, each);
                note(&failed, done.map_err(shape));
            });
            finish(failed)?;
            for row in block.clone() {
                let state = (0..segments.len())
                    .map(|segment| states[segment * ROWS + row - first])
                    .fold(State::EMPTY, State::join);
                let log_sum = state.log_sum_exp();
                log_sum_exp[row] = log_sum;
                let known = log_sum.is_finite();
                if let Some(best) = &mut best {
                    best[row] = if known { state.best } else { -1 };
                }
                if let Some(best) = &mut best_log_probability {
                    best[row] = if known { state.most - log_sum } else { f32::NAN };
                }
                for index in tokens.range(row..row + 1) {
                    let ignored = tokens.ids.get(index) == IGNORED;
                    if let Some(rank) = &mut rank {
                        rank[row] = if ignored || !known { -1 } else { state.above };
                    }
                    loss[index] = if ignored { 0.0 } else { self.loss(log_sum, loss[index], state) };
                }
            }
        }
        Ok(())
    }

    /// Gradients out of hidden states `[rows, width]`, a token for each row, the log-sum-exp `[rows]` of the forward pass, and the
    /// gradient of each row's loss, `weights` `[rows]`.
    ///
    /// # Errors
    /// Lengths that do not belong together, a head of another size, ids that are not tokens, and gradients of hidden states
    /// with a head that was made without [`Head::with_gradients`].
    #[allow(clippy::too_many_arguments, reason = "each is a buffer of its own")]
    pub fn backward(
        &self,
        workers: &dyn Workers,
        hidden: &[f32],
        head: &Head,
        ids: Ids<'_>,
        log_sum_exp: &[f32],
        weights: &[f32],
        gradients: Gradients<'_>,
    ) -> Result<(), ShapeError> {
        let rows = log_sum_exp.len();
        let Gradients { hidden: mut dh, head: mut head_gradients } = gradients;
        self.expect_head(head)?;
        expect_len("hidden", hidden.len(), rows * self.width)?;
        expect_len("ids", ids.len(), rows)?;
        self.expect_ids(ids)?;
        expect_len("weights", weights.len(), rows)?;
        if let Some(dh) = &dh {
            expect_len("gradient of hidden", dh.len(), hidden.len())?;
            if head.transposed.is_none() {
                let allowed = "as long as its weights: a head made with gradients";
                return Err(ShapeError::Dimension { name: "transposed weights", allowed, actual: 0 });
            }
        }
        if let Some(HeadGradients { weights, bias }) = &head_gradients {
            expect_len("gradient of weights", weights.len(), self.vocabulary * self.width)?;
            expect_len("gradient of bias", bias.as_ref().map_or(self.vocabulary, |bias| bias.len()), self.vocabulary)?;
        }

        let most = self.backward_rows();
        let segments = segments(self.vocabulary, BACKWARD_SEGMENTS);
        let mut sums = vec![0.0; if dh.is_some() { segments.len() * most * self.width } else { 0 }];
        let mut scaled = vec![0.0; if head_gradients.is_some() { most * self.width } else { 0 }];
        for first in (0..rows).step_by(most) {
            let block = first..rows.min(first + most);
            let count = block.len();
            let ids: Vec<i64> = block.clone().map(|row| ids.get(row)).collect();
            // What the gradient of a row's logits is multiplied by. The weight of an ignored row is not looked at.
            let factors: Vec<f32> = block
                .clone()
                .zip(&ids)
                .map(|(row, &id)| if id == IGNORED { 0.0 } else { weights[row] * self.logit_scale })
                .collect();
            if ids.iter().all(|&id| id == IGNORED) {
                if let Some(dh) = &mut dh {
                    dh[first * self.width..block.end * self.width].fill(0.0);
                }
                continue;
            }
            let x = self.rows_of(hidden, block.clone())?;
            let right = match head_gradients {
                None => None,
                Some(_) => {
                    let to = &mut scaled[..count * self.width];
                    scale_rows(&hidden[first * self.width..], &factors, &ids, self.width, to);
                    let scaled = Matrix::row_major(Values::F32(to), count, self.width).map_err(shape)?;
                    Some(PackedWeights::pack(scaled.transposed(), head.weights.precision()).map_err(shape)?)
                }
            };
            let task = Backward {
                linear_ce: self,
                head,
                x,
                ids: &ids,
                log_sum_exp: &log_sum_exp[block.clone()],
                factors: &factors,
                right: right.as_ref(),
            };
            let parts = Parts::new(&mut sums);
            let (dw, db) = match &mut head_gradients {
                Some(HeadGradients { weights, bias }) => {
                    (Parts::new(weights), Parts::new(bias.as_deref_mut().unwrap_or_default()))
                }
                None => (Parts::new(&mut []), Parts::new(&mut [])),
            };
            let failed = OnceLock::new();
            workers.run(segments.len(), &|segment| {
                let columns = segments.range(segment);
                let (from, size) = (segment * most * self.width, count * self.width);
                // SAFETY: each segment has sums of its own, and its own rows of the gradient of the head.
                #[allow(unsafe_code, reason = "tasks write disjoint parts")]
                let (sums, dw, db) = unsafe {
                    let dw = dw.part(columns.start * self.width..columns.end * self.width);
                    (parts.part(from..from + size), dw, db.part(columns.clone()))
                };
                note(&failed, task.run(columns, sums, dw, db));
            });
            finish(failed)?;
            if let Some(dh) = &mut dh {
                let of_block = &mut dh[first * self.width..block.end * self.width];
                let of_segment = |segment: usize| &sums[segment * most * self.width..][..count * self.width];
                add_segments(workers, of_block, self.width, segments.len(), of_segment, &factors, &ids);
            }
        }
        Ok(())
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

    /// Logits of the given tokens of some rows, to where their losses will be. A product of one row with one panel of the head gives
    /// them the bits that they have among all others, which comparisons with those stand on.
    fn given_logits(
        &self,
        workers: &dyn Workers,
        hidden: &[f32],
        head: &Head,
        tokens: Tokens<'_>,
        rows: Range<usize>,
        loss: &mut [f32],
    ) -> Result<(), ShapeError> {
        let parts = Parts::new(loss);
        let failed = OnceLock::new();
        workers.run(rows.len().div_ceil(TASK_ROWS), &|task| {
            let start = rows.start + task * TASK_ROWS;
            for row in start..rows.end.min(start + TASK_ROWS) {
                let range = tokens.range(row..row + 1);
                // SAFETY: each row has tokens of its own.
                #[allow(unsafe_code, reason = "tasks write the losses of their own tokens")]
                let logits = unsafe { parts.part(range.clone()) };
                for (index, logit) in range.zip(logits) {
                    let Ok(id) = usize::try_from(tokens.ids.get(index)) else {
                        *logit = 0.0;
                        continue;
                    };
                    let first = id - id % PackedWeights::COLUMNS;
                    let range = first..self.vocabulary.min(first + PackedWeights::COLUMNS);
                    let mut scratch = [0.0; PackedWeights::COLUMNS];
                    let each = &mut |_, values: &mut [f32]| *logit = values[id - first] * self.logit_scale;
                    let product = self.rows_of(hidden, row..row + 1).map(|x| {
                        head.weights.matmul_pieces(x, range, PackedWeights::COLUMNS, &head.bias, &mut scratch, each)
                    });
                    note(&failed, product.and_then(|done| done.map_err(shape)));
                }
            }
        });
        finish(failed)
    }

    fn loss(&self, log_sum_exp: f32, logit: f32, state: State) -> f32 {
        let smoothing = self.label_smoothing;
        if smoothing == 0.0 {
            return log_sum_exp - logit;
        }
        (1.0 - smoothing) * (log_sum_exp - logit) + smoothing * (log_sum_exp - state.mean(self.vocabulary))
    }
}

/// The backward pass of some rows.
struct Backward<'a> {
    linear_ce: &'a LinearCe,
    head: &'a Head,
    x: Matrix<'a>,
    ids: &'a [i64],
    log_sum_exp: &'a [f32],
    factors: &'a [f32],
    /// The rows times their factors, as the right operand of the gradient of the head.
    right: Option<&'a PackedWeights>,
}

impl Backward<'_> {
    /// Goes past some columns of the vocabulary. `sums`, `dw` and `db` are empty where they are not asked for.
    fn run(&self, range: Range<usize>, sums: &mut [f32], dw: &mut [f32], db: &mut [f32]) -> Result<(), ShapeError> {
        let LinearCe { width, vocabulary, logit_scale, label_smoothing } = *self.linear_ce;
        let rows = self.ids.len();
        let (share, spread) = (1.0 - label_smoothing, label_smoothing / vocabulary as f32);
        sums.fill(0.0);
        let mut scratch = vec![0.0; rows * COLUMNS];
        let mut result = Ok(());
        let first = range.start;
        let each = &mut |columns: Range<usize>, values: &mut [f32]| {
            let mut piece = Piece { values, stride: COLUMNS, columns: columns.clone(), scale: logit_scale };
            differentiate(&mut piece, self.log_sum_exp, self.ids, share, spread);
            let place = columns.start - first..columns.end - first;
            if let Some(sums) = db.get_mut(place.clone()) {
                add_rows(&mut piece, self.factors, sums);
            }
            if result.is_ok() {
                let dw = dw.get_mut(place.start * width..place.end * width);
                result = self.multiply(columns, piece.values, sums, dw).map_err(shape);
            }
        };
        self.head.weights.matmul_pieces(self.x, range, COLUMNS, &self.head.bias, &mut scratch, each).map_err(shape)?;
        result
    }

    /// Adds what a piece contributes to the gradients.
    fn multiply(
        &self,
        columns: Range<usize>,
        values: &[f32],
        sums: &mut [f32],
        dw: Option<&mut [f32]>,
    ) -> Result<(), GemmError> {
        let width = self.linear_ce.width;
        let layout = Layout { rows: self.ids.len(), columns: columns.len(), row_stride: COLUMNS, column_stride: 1 };
        let piece = Matrix::strided(Values::F32(values), layout)?;
        if let (Some(transposed), false) = (&self.head.transposed, sums.is_empty()) {
            let sums = MatrixMut::row_major(sums, layout.rows, width)?;
            transposed.add_part(piece, columns.clone(), sums)?;
        }
        if let (Some(right), Some(dw)) = (self.right, dw) {
            let options = MatmulOptions { accumulate: true, ..MatmulOptions::default() };
            right.matmul(piece.transposed(), MatrixMut::row_major(dw, columns.len(), width)?, &options)?;
        }
        Ok(())
    }
}

/// Parts of the vocabulary.
#[derive(Clone, Copy)]
struct Segments {
    vocabulary: usize,
    each: usize,
}

fn segments(vocabulary: usize, most: usize) -> Segments {
    Segments { vocabulary, each: vocabulary.div_ceil(most).next_multiple_of(COLUMNS).max(COLUMNS) }
}

impl Segments {
    const fn len(self) -> usize {
        self.vocabulary.div_ceil(self.each)
    }

    fn range(self, segment: usize) -> Range<usize> {
        segment * self.each..self.vocabulary.min((segment + 1) * self.each)
    }
}

/// Rows times their factors; zeros in ignored rows, whatever is in them.
fn scale_rows(hidden: &[f32], factors: &[f32], ids: &[i64], width: usize, to: &mut [f32]) {
    let rows = hidden.chunks_exact(width.max(1)).zip(to.chunks_exact_mut(width.max(1)));
    for ((row, to), (&factor, &id)) in rows.zip(factors.iter().zip(ids)) {
        if id == IGNORED {
            to.fill(0.0);
        } else {
            to.iter_mut().zip(row).for_each(|(to, value)| *to = value * factor);
        }
    }
}

/// Adds up the segments' sums in their order, each row times its factor; zeros in ignored rows, whatever the weights are.
fn add_segments<'a>(
    workers: &dyn Workers,
    dh: &mut [f32],
    width: usize,
    segments: usize,
    of_segment: impl Fn(usize) -> &'a [f32] + Sync,
    factors: &[f32],
    ids: &[i64],
) {
    let parts = Parts::new(dh);
    workers.run(ids.len().div_ceil(TASK_ROWS), &|task| {
        for row in task * TASK_ROWS..ids.len().min((task + 1) * TASK_ROWS) {
            let place = row * width..(row + 1) * width;
            // SAFETY: each row is of one task.
            #[allow(unsafe_code, reason = "tasks write their own rows")]
            let to = unsafe { parts.part(place.clone()) };
            to.fill(0.0);
            if ids[row] == IGNORED {
                continue;
            }
            for segment in 0..segments {
                to.iter_mut().zip(&of_segment(segment)[place.clone()]).for_each(|(to, value)| *to += value);
            }
            to.iter_mut().for_each(|value| *value *= factors[row]);
        }
    });
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

//! The forward pass, alone and with the gradient of hidden states.

use super::super::rows::{Piece, Ranked, State, absorb};
use super::super::{Head, IGNORED, Ids, LinearCe, Tokens};
use super::{COLUMNS, Gradients, ROWS, Scores, TASK_ROWS, finish, note, segments, shape};
use crate::gemm::{Layout, Matrix, MatrixMut, PackedWeights, Values};
use crate::launch::{ShapeError, expect_len};
use crate::workers::{Parts, Workers};
use std::ops::Range;
use std::sync::OnceLock;

/// The gradient of hidden states, in the same pass.
struct Wanted<'a> {
    /// The gradient of each row's loss.
    weights: &'a [f32],
    dh: &'a mut [f32],
}

impl LinearCe {
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
        self.score(workers, hidden, head, tokens, scores, None)
    }

    /// Losses of a token for each row and the gradient of hidden states `[rows, width]` in one pass, where the gradients of losses,
    /// `weights` `[rows]`, are known before: two products with the head where a forward and a backward pass take three.
    ///
    /// Scores have the bits that [`LinearCe::forward`] gives them. The gradient is a sum of rows of the head with exponentials
    /// relative to the largest logit so far, which is put right when there is a larger one (as in Dao et al., "FlashAttention", 2022);
    /// it differs from that of [`LinearCe::backward`] by roundings. With label smoothing it is computed in two passes.
    ///
    /// # Errors
    /// As for [`LinearCe::forward`] and [`LinearCe::backward`].
    #[allow(clippy::too_many_arguments, reason = "each is a buffer of its own")]
    pub fn forward_backward(
        &self,
        workers: &dyn Workers,
        hidden: &[f32],
        head: &Head,
        ids: Ids<'_>,
        weights: &[f32],
        scores: Scores<'_>,
        dh: &mut [f32],
    ) -> Result<(), ShapeError> {
        expect_len("weights", weights.len(), scores.log_sum_exp.len())?;
        expect_len("gradient of hidden", dh.len(), hidden.len())?;
        head.expect_transposed()?;
        let tokens = Tokens { ids, offsets: None };
        if self.label_smoothing == 0.0 {
            return self.score(workers, hidden, head, tokens, scores, Some(Wanted { weights, dh }));
        }
        let Scores { loss, log_sum_exp, best, best_log_probability, rank } = scores;
        let scores = Scores { loss, log_sum_exp: &mut *log_sum_exp, best, best_log_probability, rank };
        self.forward(workers, hidden, head, tokens, scores)?;
        let gradients = Gradients { hidden: Some(dh), head: None };
        self.backward(workers, hidden, head, ids, log_sum_exp, weights, gradients)
    }

    fn score(
        &self,
        workers: &dyn Workers,
        hidden: &[f32],
        head: &Head,
        tokens: Tokens<'_>,
        mut scores: Scores<'_>,
        mut wanted: Option<Wanted<'_>>,
    ) -> Result<(), ShapeError> {
        let rows = scores.log_sum_exp.len();
        self.expect_head(head)?;
        expect_len("hidden", hidden.len(), rows * self.width)?;
        self.expect_tokens(tokens, rows)?;
        scores.expect(tokens, rows)?;

        let segments = segments(self.vocabulary);
        let most = if wanted.is_some() { self.backward_rows() } else { ROWS };
        let mut states = vec![State::EMPTY; most * segments.len()];
        let mut sums = vec![0.0; if wanted.is_some() { segments.len() * most * self.width } else { 0 }];
        for first in (0..rows).step_by(most) {
            let block = first..rows.min(first + most);
            let count = block.len();
            self.given_logits(workers, hidden, head, tokens, block.clone(), scores.loss)?;
            let mut ranked = Vec::new();
            if scores.rank.is_some() {
                ranked.extend(block.clone().map(|row| Ranked { id: tokens.ids.get(row), logit: scores.loss[row] }));
            }
            let pass = Pass {
                linear_ce: self,
                head,
                x: self.rows_of(hidden, block.clone())?,
                ranked: &ranked,
                sums: wanted.is_some(),
            };
            let (state_parts, sum_parts, failed) = (Parts::new(&mut states), Parts::new(&mut sums), OnceLock::new());
            workers.run(segments.len(), &|segment| {
                let (from, size) = (segment * most * self.width, count * self.width);
                // SAFETY: each segment has states and sums of its own.
                #[allow(unsafe_code, reason = "tasks write disjoint parts")]
                let (states, sums) = unsafe {
                    (state_parts.part(segment * most..segment * most + count), sum_parts.part(from..from + size))
                };
                note(&failed, pass.run(segments.range(segment), states, sums));
            });
            finish(failed)?;
            let of_segment = |segment: usize, row: usize| states[segment * most + row - first];
            let joined: Vec<State> = block
                .clone()
                .map(|row| (0..segments.len()).map(|segment| of_segment(segment, row)).fold(State::EMPTY, State::join))
                .collect();
            for (row, &state) in block.clone().zip(&joined) {
                self.write(tokens, row, state, &mut scores);
            }
            let Some(Wanted { weights, dh }) = &mut wanted else { continue };
            let parts = Parts::new(&mut dh[first * self.width..block.end * self.width]);
            workers.run(count.div_ceil(TASK_ROWS), &|task| {
                for row in task * TASK_ROWS..count.min((task + 1) * TASK_ROWS) {
                    let place = row * self.width..(row + 1) * self.width;
                    // SAFETY: each row is of one task.
                    #[allow(unsafe_code, reason = "tasks write their own rows")]
                    let to = unsafe { parts.part(place.clone()) };
                    to.fill(0.0);
                    let Ok(id) = usize::try_from(tokens.ids.get(first + row)) else { continue };
                    for segment in 0..segments.len() {
                        let factor = of_segment(segment, first + row).weight_in(joined[row]);
                        let from = &sums[segment * most * self.width..][place.clone()];
                        to.iter_mut().zip(from).for_each(|(to, value)| *to += factor * value);
                    }
                    let (sum, scale) = (joined[row].sum, weights[first + row] * self.logit_scale);
                    to.iter_mut().zip(head.weights.output(id)).for_each(|(to, w)| *to = (*to / sum - w) * scale);
                }
            });
        }
        Ok(())
    }

    /// Writes what is known of a row.
    fn write(&self, tokens: Tokens<'_>, row: usize, state: State, scores: &mut Scores<'_>) {
        let log_sum = state.log_sum_exp();
        scores.log_sum_exp[row] = log_sum;
        let known = log_sum.is_finite();
        if let Some(best) = &mut scores.best {
            best[row] = if known { state.best } else { -1 };
        }
        if let Some(best) = &mut scores.best_log_probability {
            best[row] = if known { state.most - log_sum } else { f32::NAN };
        }
        for index in tokens.range(row..row + 1) {
            let ignored = tokens.ids.get(index) == IGNORED;
            if let Some(rank) = &mut scores.rank {
                rank[row] = if ignored || !known { -1 } else { state.above };
            }
            scores.loss[index] = if ignored { 0.0 } else { self.loss(log_sum, scores.loss[index], state) };
        }
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

/// The pass of some rows.
struct Pass<'a> {
    linear_ce: &'a LinearCe,
    head: &'a Head,
    x: Matrix<'a>,
    ranked: &'a [Ranked],
    /// Whether exponentials are multiplied with the head.
    sums: bool,
}

impl Pass<'_> {
    /// Goes past some columns of the vocabulary.
    fn run(&self, range: Range<usize>, states: &mut [State], sums: &mut [f32]) -> Result<(), ShapeError> {
        let LinearCe { width, logit_scale, label_smoothing, .. } = *self.linear_ce;
        let rows = states.len();
        states.fill(State::EMPTY);
        sums.fill(0.0);
        let mut scratch = vec![0.0; rows * COLUMNS];
        let mut factors = vec![1.0; if self.sums { rows } else { 0 }];
        let mut result = Ok(());
        let each = &mut |columns: Range<usize>, values: &mut [f32]| {
            let mut piece = Piece { values, stride: COLUMNS, columns: columns.clone(), scale: logit_scale };
            absorb(&mut piece, states, self.ranked, label_smoothing != 0.0, &mut factors);
            let (Some(transposed), true) = (&self.head.transposed, self.sums && result.is_ok()) else { return };
            for (sums, &factor) in sums.chunks_exact_mut(width.max(1)).zip(&factors) {
                if factor != 1.0 {
                    sums.iter_mut().for_each(|sum| *sum *= factor);
                }
            }
            let layout = Layout { rows, columns: columns.len(), row_stride: COLUMNS, column_stride: 1 };
            result = Matrix::strided(Values::F32(piece.values), layout)
                .and_then(|piece| transposed.add_part(piece, columns, MatrixMut::row_major(sums, rows, width)?));
        };
        let done = self.head.weights.matmul_pieces(self.x, range, COLUMNS, &self.head.bias, &mut scratch, each);
        done.and(result).map_err(shape)
    }
}

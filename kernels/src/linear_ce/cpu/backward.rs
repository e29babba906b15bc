//! The backward pass.

use super::super::rows::{Piece, add_rows, differentiate};
use super::super::{Head, IGNORED, Ids, LinearCe};
use super::{COLUMNS, Gradients, HeadGradients, TASK_ROWS, finish, note, segments, shape};
use crate::gemm::{GemmError, Layout, MatmulOptions, Matrix, MatrixMut, PackedWeights, Values};
use crate::launch::{ShapeError, expect_len};
use crate::workers::{Parts, Workers};
use std::ops::Range;
use std::sync::OnceLock;

impl LinearCe {
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
            head.expect_transposed()?;
        }
        if let Some(HeadGradients { weights, bias }) = &head_gradients {
            expect_len("gradient of weights", weights.len(), self.vocabulary * self.width)?;
            expect_len("gradient of bias", bias.as_ref().map_or(self.vocabulary, |bias| bias.len()), self.vocabulary)?;
        }

        let most = self.backward_rows();
        let segments = segments(self.vocabulary);
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

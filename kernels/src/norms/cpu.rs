//! The twin on the CPU. A row is read from memory once; the passes after the first find it in the cache.

use super::{Backward, Forward, Norm, NormKind};
use crate::launch::{ShapeError, expect_len, expect_rows};
use crate::simd::{Simd, add_up, add_up_both, blocks, dispatch, eight, eight_mut};
use crate::workers::{Parts, Workers, for_rows, rows_per_task};
use std::ops::Range;

impl Norm {
    /// Normalises rows.
    ///
    /// # Errors
    /// Lengths that do not belong together.
    pub fn forward(&self, workers: &dyn Workers, slices: Forward<&[f32], &mut [f32]>) -> Result<(), ShapeError> {
        let Forward { x, weight, bias, y } = slices;
        expect_rows("x", x.len(), self.width)?;
        expect_len("y", y.len(), x.len())?;
        expect_len("weight", weight.map_or(self.width, <[f32]>::len), self.width)?;
        expect_len("bias", bias.map_or(self.width, <[f32]>::len), self.width)?;
        for_rows(workers, self.width, y, |range, y| forward_rows(*self, &x[range], weight, bias, y));
        Ok(())
    }

    /// Gradients of x, and of weight and bias where wanted.
    ///
    /// # Errors
    /// Lengths that do not belong together.
    pub fn backward(&self, workers: &dyn Workers, slices: Backward<&[f32], &mut [f32]>) -> Result<(), ShapeError> {
        let Backward { x, weight, dy, dx, mut dweight, mut dbias } = slices;
        let rows = expect_rows("x", x.len(), self.width)?;
        expect_len("dy", dy.len(), x.len())?;
        expect_len("dx", dx.len(), x.len())?;
        expect_len("weight", weight.map_or(self.width, <[f32]>::len), self.width)?;
        expect_len("dweight", dweight.as_ref().map_or(self.width, |slice| slice.len()), self.width)?;
        expect_len("dbias", dbias.as_ref().map_or(self.width, |slice| slice.len()), self.width)?;
        // The pieces follow from the shape alone, so the sums do not depend on who makes them.
        let chunk = rows_per_task(self.width).max(rows.div_ceil(64));
        let chunks = rows.div_ceil(chunk);
        let sums = dweight.is_some() || dbias.is_some();
        let mut partial = vec![0.0; if sums { 2 * chunks * self.width } else { 0 }];
        let (dx, parts) = (Parts::new(dx), Parts::new(&mut partial));
        workers.run(chunks, &|task| {
            let range = task * chunk * self.width..((task + 1) * chunk * self.width).min(x.len());
            let pair = 2 * task * self.width..2 * (task + 1) * self.width;
            // SAFETY: tasks have ranges that do not overlap, of the rows and of the sums.
            #[allow(unsafe_code, reason = "tasks write their own rows")]
            let (dx, sums) = unsafe { (dx.part(range.clone()), parts.part(pair)) };
            backward_rows(*self, &x[range.clone()], weight, &dy[range], dx, sums);
        });
        for (total, half) in [(dweight.as_mut(), 0), (dbias.as_mut(), 1)] {
            let Some(total) = total else { continue };
            total.fill(0.0);
            for pair in partial.chunks_exact(2 * self.width.max(1)) {
                let piece: Range<usize> = half * self.width..(half + 1) * self.width;
                total.iter_mut().zip(&pair[piece]).for_each(|(total, piece)| *total += piece);
            }
        }
        Ok(())
    }
}

dispatch!(fn forward_rows(norm: Norm, x: &[f32], weight: Option<&[f32]>, bias: Option<&[f32]>, y: &mut [f32]) = forward_on);
dispatch!(
    fn backward_rows(norm: Norm, x: &[f32], weight: Option<&[f32]>, dy: &[f32], dx: &mut [f32], sums: &mut [f32]) = backward_on
);

/// Mean, and reciprocal of the deviation.
#[inline(always)]
fn statistics<S: Simd>(simd: S, norm: Norm, x: &[f32]) -> (f32, f32) {
    let width = norm.width as f32;
    let mean = match norm.kind {
        NormKind::Rms => 0.0,
        NormKind::Layer => {
            add_up(simd, x.len(), |start| simd.load(eight(x, start)), |range| simd.load_part(&x[range], 0.0)) / width
        }
    };
    let means = simd.splat(mean);
    let square = |values: S::F| {
        let centred = simd.sub(values, means);
        simd.mul(centred, centred)
    };
    let squares = add_up(
        simd,
        x.len(),
        |start| square(simd.load(eight(x, start))),
        |range| square(simd.load_part(&x[range], mean)),
    );
    (mean, 1.0 / (squares / width + norm.epsilon).sqrt())
}

#[inline(always)]
fn forward_on<S: Simd>(simd: S, norm: Norm, x: &[f32], weight: Option<&[f32]>, bias: Option<&[f32]>, y: &mut [f32]) {
    for (x, y) in x.chunks_exact(norm.width.max(1)).zip(y.chunks_exact_mut(norm.width.max(1))) {
        let (mean, scale) = statistics(simd, norm, x);
        let (means, scales) = (simd.splat(mean), simd.splat(scale));
        let result = |values: S::F, weight: Option<S::F>, bias: Option<S::F>| {
            let mut values = simd.mul(simd.sub(values, means), scales);
            if let Some(weight) = weight {
                values = simd.mul(values, weight);
            }
            if let Some(bias) = bias {
                values = simd.add(values, bias);
            }
            values
        };
        let (whole, part) = blocks(norm.width);
        for start in whole {
            let at = |slice: &[f32]| simd.load(eight(slice, start));
            simd.store(result(at(x), weight.map(at), bias.map(at)), eight_mut(y, start));
        }
        let at = |slice: &[f32]| simd.load_part(&slice[part.clone()], 0.0);
        simd.store_part(result(at(x), weight.map(at), bias.map(at)), &mut y[part.clone()]);
    }
}

/// What a backward pass reads from element `start` on: eight values of x, and the gradients of their normalised values.
#[inline(always)]
fn load_both<S: Simd>(simd: S, x: &[f32], dy: &[f32], weight: Option<&[f32]>, start: usize) -> (S::F, S::F) {
    let gradients = simd.load(eight(dy, start));
    let gradients = match weight {
        Some(weight) => simd.mul(gradients, simd.load(eight(weight, start))),
        None => gradients,
    };
    (simd.load(eight(x, start)), gradients)
}

/// The same of fewer than eight values; `fill` stands for values of x that are not there, and their gradients are zero.
#[inline(always)]
fn load_both_part<S: Simd>(
    simd: S,
    x: &[f32],
    dy: &[f32],
    weight: Option<&[f32]>,
    range: Range<usize>,
    fill: f32,
) -> (S::F, S::F) {
    let gradients = simd.load_part(&dy[range.clone()], 0.0);
    let gradients = match weight {
        Some(weight) => simd.mul(gradients, simd.load_part(&weight[range.clone()], 0.0)),
        None => gradients,
    };
    (simd.load_part(&x[range], fill), gradients)
}

/// What the gradient of a row is made from.
#[derive(Clone, Copy)]
struct RowMeans {
    mean: f32,
    /// Reciprocal of the deviation.
    scale: f32,
    /// Mean of the gradients of the normalised values; 0 for RMSNorm.
    gradient: f32,
    /// Mean of these gradients times the normalised values.
    product: f32,
}

/// Two passes over a row: the means, then squares and products of what differs from them.
#[inline(always)]
fn row_means<S: Simd>(simd: S, norm: Norm, x: &[f32], dy: &[f32], weight: Option<&[f32]>) -> RowMeans {
    let width = norm.width as f32;
    let (mean, gradient) = match norm.kind {
        NormKind::Rms => (0.0, 0.0),
        NormKind::Layer => {
            let (sum, gradients) = add_up_both(
                simd,
                x.len(),
                |start| load_both(simd, x, dy, weight, start),
                |range| load_both_part(simd, x, dy, weight, range, 0.0),
            );
            (sum / width, gradients / width)
        }
    };
    let means = simd.splat(mean);
    let terms = |(x, gradients): (S::F, S::F)| {
        let centred = simd.sub(x, means);
        (simd.mul(centred, centred), simd.mul(gradients, centred))
    };
    let (squares, products) = add_up_both(
        simd,
        x.len(),
        |start| terms(load_both(simd, x, dy, weight, start)),
        |range| terms(load_both_part(simd, x, dy, weight, range, mean)),
    );
    let scale = 1.0 / (squares / width + norm.epsilon).sqrt();
    RowMeans { mean, scale, gradient, product: products * scale / width }
}

/// `sums` is empty or `[2, width]`: for the weight and for the bias.
#[inline(always)]
fn backward_on<S: Simd>(
    simd: S,
    norm: Norm,
    x: &[f32],
    weight: Option<&[f32]>,
    dy: &[f32],
    dx: &mut [f32],
    sums: &mut [f32],
) {
    /// Rows that are read again for the sums while they are in the cache.
    const TOGETHER: usize = 4;
    let width = norm.width.max(1);
    let blocks_of_rows = x.chunks(TOGETHER * width).zip(dy.chunks(TOGETHER * width));
    for ((x, dy), dx) in blocks_of_rows.zip(dx.chunks_mut(TOGETHER * width)) {
        let mut rows = [RowMeans { mean: 0.0, scale: 0.0, gradient: 0.0, product: 0.0 }; TOGETHER];
        let each = x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
        for (row, ((x, dy), dx)) in rows.iter_mut().zip(each) {
            *row = row_means(simd, norm, x, dy, weight);
            let (means, scales) = (simd.splat(row.mean), simd.splat(row.scale));
            let (mean_gradients, mean_products) = (simd.splat(row.gradient), simd.splat(row.product));
            let result = |(x, gradients): (S::F, S::F)| {
                let normalised = simd.mul(simd.sub(x, means), scales);
                let rest = simd.sub(simd.sub(gradients, mean_gradients), simd.mul(normalised, mean_products));
                simd.mul(scales, rest)
            };
            let (whole, part) = blocks(width);
            for start in whole {
                simd.store(result(load_both(simd, x, dy, weight, start)), eight_mut(dx, start));
            }
            let rest = result(load_both_part(simd, x, dy, weight, part.clone(), 0.0));
            simd.store_part(rest, &mut dx[part]);
        }
        if !sums.is_empty() {
            add_columns(simd, width, x, dy, &rows, sums);
        }
    }
}

/// Adds to the sums of the weight, dy times the normalised values, and to those of the bias, dy: column by column, so that each sum
/// is read and written once for several rows.
#[inline(always)]
fn add_columns<S: Simd>(simd: S, width: usize, x: &[f32], dy: &[f32], rows: &[RowMeans], sums: &mut [f32]) {
    let (weight_sums, bias_sums) = sums.split_at_mut(width);
    let (whole, part) = blocks(width);
    for start in whole {
        let mut weights = simd.load(eight(weight_sums, start));
        let mut biases = simd.load(eight(bias_sums, start));
        for ((x, dy), row) in x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(rows) {
            let dy = simd.load(eight(dy, start));
            let centred = simd.sub(simd.load(eight(x, start)), simd.splat(row.mean));
            weights = simd.add(weights, simd.mul(dy, simd.mul(centred, simd.splat(row.scale))));
            biases = simd.add(biases, dy);
        }
        simd.store(weights, eight_mut(weight_sums, start));
        simd.store(biases, eight_mut(bias_sums, start));
    }
    for ((x, dy), row) in x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(rows) {
        for i in part.clone() {
            weight_sums[i] += dy[i] * ((x[i] - row.mean) * row.scale);
            bias_sums[i] += dy[i];
        }
    }
}

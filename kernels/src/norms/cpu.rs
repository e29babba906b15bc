//! The twin on the CPU. A row is read from memory once; the passes after the first find it in the cache.

use super::{Backward, Forward, Norm, NormKind};
use crate::launch::{ShapeError, expect_len, expect_rows};
use crate::simd::{Simd, add_up, blocks, dispatch, eight, eight_mut};
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

/// The normalised values of a row.
#[inline(always)]
fn normalise<S: Simd>(simd: S, values: S::F, mean: S::F, scale: S::F) -> S::F {
    simd.mul(simd.sub(values, mean), scale)
}

/// The gradient of eight normalised values, from element `start` on.
#[inline(always)]
fn gradient<S: Simd>(simd: S, dy: &[f32], weight: Option<&[f32]>, start: usize) -> S::F {
    let dy = simd.load(eight(dy, start));
    match weight {
        Some(weight) => simd.mul(dy, simd.load(eight(weight, start))),
        None => dy,
    }
}

/// The same of fewer than eight values.
#[inline(always)]
fn gradient_part<S: Simd>(simd: S, dy: &[f32], weight: Option<&[f32]>, range: Range<usize>) -> S::F {
    let dy = simd.load_part(&dy[range.clone()], 0.0);
    match weight {
        Some(weight) => simd.mul(dy, simd.load_part(&weight[range], 0.0)),
        None => dy,
    }
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
    let width = norm.width;
    let (weight_sums, bias_sums) = sums.split_at_mut(sums.len() / 2);
    let rows = x.chunks_exact(width.max(1)).zip(dy.chunks_exact(width.max(1)));
    for ((x, dy), dx) in rows.zip(dx.chunks_exact_mut(width.max(1))) {
        let (mean, scale) = statistics(simd, norm, x);
        let (means, scales) = (simd.splat(mean), simd.splat(scale));
        let (whole, part) = blocks(width);

        if !weight_sums.is_empty() {
            for start in whole.clone() {
                let dy = simd.load(eight(dy, start));
                let normalised = normalise(simd, simd.load(eight(x, start)), means, scales);
                let to = eight_mut(weight_sums, start);
                simd.store(simd.add(simd.load(to), simd.mul(dy, normalised)), to);
                let to = eight_mut(bias_sums, start);
                simd.store(simd.add(simd.load(to), dy), to);
            }
            for i in part.clone() {
                weight_sums[i] += dy[i] * ((x[i] - mean) * scale);
                bias_sums[i] += dy[i];
            }
        }

        let mean_gradient = match norm.kind {
            NormKind::Rms => 0.0,
            NormKind::Layer => {
                let sum = add_up(
                    simd,
                    width,
                    |start| gradient(simd, dy, weight, start),
                    |range| gradient_part(simd, dy, weight, range),
                );
                sum / width as f32
            }
        };
        let mean_product = add_up(
            simd,
            width,
            |start| {
                let normalised = normalise(simd, simd.load(eight(x, start)), means, scales);
                simd.mul(gradient(simd, dy, weight, start), normalised)
            },
            |range| {
                let normalised = normalise(simd, simd.load_part(&x[range.clone()], mean), means, scales);
                simd.mul(gradient_part(simd, dy, weight, range), normalised)
            },
        ) / width as f32;

        let (mean_gradients, mean_products) = (simd.splat(mean_gradient), simd.splat(mean_product));
        for start in whole {
            let normalised = normalise(simd, simd.load(eight(x, start)), means, scales);
            let centred = simd.sub(gradient(simd, dy, weight, start), mean_gradients);
            let rest = simd.sub(centred, simd.mul(normalised, mean_products));
            simd.store(simd.mul(scales, rest), eight_mut(dx, start));
        }
        let normalised = normalise(simd, simd.load_part(&x[part.clone()], 0.0), means, scales);
        let centred = simd.sub(gradient_part(simd, dy, weight, part.clone()), mean_gradients);
        let rest = simd.sub(centred, simd.mul(normalised, mean_products));
        simd.store_part(simd.mul(scales, rest), &mut dx[part]);
    }
}

//! The twin on the CPU.

use super::Softmax;
use crate::launch::{ShapeError, expect_len, expect_rows};
use crate::math::exp_of_negative;
use crate::simd::{Simd, add_up, blocks, dispatch, eight, eight_mut};
use crate::workers::{Workers, for_rows};

impl Softmax {
    /// Softmax of rows, `[rows, width]`.
    ///
    /// # Errors
    /// Lengths that do not belong together.
    pub fn forward(&self, workers: &dyn Workers, x: &[f32], y: &mut [f32]) -> Result<(), ShapeError> {
        expect_rows("x", x.len(), self.width)?;
        expect_len("y", y.len(), x.len())?;
        for_rows(workers, self.width, y, |range, y| forward_rows(*self, &x[range], y));
        Ok(())
    }

    /// Gradient of x out of y and its gradient, `[rows, width]` each.
    ///
    /// # Errors
    /// Lengths that do not belong together.
    pub fn backward(&self, workers: &dyn Workers, y: &[f32], dy: &[f32], dx: &mut [f32]) -> Result<(), ShapeError> {
        expect_rows("y", y.len(), self.width)?;
        expect_len("dy", dy.len(), y.len())?;
        expect_len("dx", dx.len(), y.len())?;
        for_rows(workers, self.width, dx, |range, dx| backward_rows(*self, &y[range.clone()], &dy[range], dx));
        Ok(())
    }
}

dispatch!(fn forward_rows(softmax: Softmax, x: &[f32], y: &mut [f32]) = forward_on);
dispatch!(fn backward_rows(softmax: Softmax, y: &[f32], dy: &[f32], dx: &mut [f32]) = backward_on);

#[inline(always)]
fn forward_on<S: Simd>(simd: S, softmax: Softmax, x: &[f32], y: &mut [f32]) {
    let width = softmax.width.max(1);
    let scales = simd.splat(softmax.scale);
    let (whole, part) = blocks(width);
    for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
        // Values that are not numbers may get lost here; the sum has them.
        let mut turns = [simd.splat(f32::NEG_INFINITY); 4];
        for start in whole.clone() {
            let [a, b, c, d] = turns;
            turns = [b, c, d, simd.max(a, simd.mul(simd.load(eight(x, start)), scales))];
        }
        for &value in &x[part.clone()] {
            turns[0] = simd.max(turns[0], simd.splat(value * softmax.scale));
        }
        let [a, b, c, d] = turns;
        let most = simd.splat(simd.largest(simd.max(simd.max(a, b), simd.max(c, d))));

        let mut sum = simd.zero();
        for start in whole.clone() {
            let values = exp_of_negative(simd, simd.sub(simd.mul(simd.load(eight(x, start)), scales), most));
            simd.store(values, eight_mut(y, start));
            sum = simd.add(sum, values);
        }
        let values = exp_of_negative(simd, simd.sub(simd.mul(simd.load_part(&x[part.clone()], 0.0), scales), most));
        simd.store_part(values, &mut y[part.clone()]);
        let rest: f32 = y[part.clone()].iter().sum();

        let factor = 1.0 / (simd.sum(sum) + rest);
        let factors = simd.splat(factor);
        for start in whole.clone() {
            let to = eight_mut(y, start);
            simd.store(simd.mul(simd.load(to), factors), to);
        }
        y[part.clone()].iter_mut().for_each(|value| *value *= factor);
    }
}

#[inline(always)]
fn backward_on<S: Simd>(simd: S, softmax: Softmax, y: &[f32], dy: &[f32], dx: &mut [f32]) {
    let width = softmax.width.max(1);
    let scales = simd.splat(softmax.scale);
    let (whole, part) = blocks(width);
    for ((y, dy), dx) in y.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width)) {
        let sum = add_up(
            simd,
            width,
            |start| simd.mul(simd.load(eight(y, start)), simd.load(eight(dy, start))),
            |range| simd.mul(simd.load_part(&y[range.clone()], 0.0), simd.load_part(&dy[range], 0.0)),
        );
        let sums = simd.splat(sum);
        for start in whole.clone() {
            let gradient = simd.mul(simd.load(eight(y, start)), simd.sub(simd.load(eight(dy, start)), sums));
            simd.store(simd.mul(scales, gradient), eight_mut(dx, start));
        }
        for i in part.clone() {
            dx[i] = softmax.scale * (y[i] * (dy[i] - sum));
        }
    }
}

//! The twin on the CPU.

use super::{Activation, Backward, Forward};
use crate::launch::{ShapeError, expect_len};
use crate::math::{erf, exp, logistic};
use crate::simd::{Simd, blocks, dispatch, eight, eight_mut};
use crate::workers::{Parts, Workers, for_rows, rows_per_task};

impl Activation {
    /// Activates values.
    ///
    /// # Errors
    /// Lengths that differ.
    pub fn forward(self, workers: &dyn Workers, slices: Forward<&[f32], &mut [f32]>) -> Result<(), ShapeError> {
        let Forward { x, up, y } = slices;
        expect_len("y", y.len(), x.len())?;
        expect_len("up", up.map_or(x.len(), <[f32]>::len), x.len())?;
        for_rows(workers, 1, y, |range, y| forward_values(self, &x[range.clone()], up.map(|up| &up[range]), y));
        Ok(())
    }

    /// Gradients of x, and of `up` where there is one.
    ///
    /// # Errors
    /// Lengths that differ.
    pub fn backward(self, workers: &dyn Workers, slices: Backward<&[f32], &mut [f32]>) -> Result<(), ShapeError> {
        let Backward { x, dy, dx, up } = slices;
        expect_len("dy", dy.len(), x.len())?;
        expect_len("dx", dx.len(), x.len())?;
        let Some((up, dup)) = up else {
            for_rows(workers, 1, dx, |range, dx| {
                backward_values(self, &x[range.clone()], None, &dy[range], dx, &mut [])
            });
            return Ok(());
        };
        expect_len("up", up.len(), x.len())?;
        expect_len("dup", dup.len(), x.len())?;
        let per_task = rows_per_task(1);
        let (dx, dup) = (Parts::new(dx), Parts::new(dup));
        workers.run(x.len().div_ceil(per_task), &|task| {
            let range = task * per_task..((task + 1) * per_task).min(x.len());
            // SAFETY: tasks have ranges that do not overlap.
            #[allow(unsafe_code, reason = "tasks write their own elements")]
            let (dx, dup) = unsafe { (dx.part(range.clone()), dup.part(range.clone())) };
            backward_values(self, &x[range.clone()], Some(&up[range.clone()]), &dy[range], dx, dup);
        });
        Ok(())
    }
}

dispatch!(fn forward_values(activation: Activation, x: &[f32], up: Option<&[f32]>, y: &mut [f32]) = forward_on);
dispatch!(
    fn backward_values(activation: Activation, x: &[f32], up: Option<&[f32]>, dy: &[f32], dx: &mut [f32], dup: &mut [f32]) = backward_on
);

/// The values of an activation, and its slopes.
#[inline(always)]
fn activate<S: Simd>(simd: S, activation: Activation, x: S::F) -> (S::F, S::F) {
    let (one, half) = (simd.splat(1.0), simd.splat(0.5));
    if activation == Activation::GeluErf {
        let phi = simd.mul(half, simd.add(one, erf(simd, simd.mul(x, simd.splat(std::f32::consts::FRAC_1_SQRT_2)))));
        let density = exp(simd, simd.mul(simd.splat(-0.5), simd.mul(x, x)));
        return (simd.mul(x, phi), simd.add(phi, simd.mul(x, simd.mul(simd.splat(0.398_942_3), density))));
    }
    // The tanh form is x times the logistic function of 2u, u being the argument of tanh.
    let (inner, inner_slope) = if activation == Activation::GeluTanh {
        let (square, factor) = (simd.mul(x, x), simd.splat(1.595_769));
        let cube = simd.mul(simd.splat(0.044_715), simd.mul(square, x));
        let slope = simd.mul(factor, simd.add(one, simd.mul(simd.splat(0.134_145), square)));
        (simd.mul(factor, simd.add(x, cube)), slope)
    } else {
        (x, one)
    };
    let gate = logistic(simd, inner);
    let slope = simd.mul(simd.mul(x, simd.mul(gate, simd.sub(one, gate))), inner_slope);
    (simd.mul(x, gate), simd.add(gate, slope))
}

/// The result of a forward pass.
#[inline(always)]
fn value<S: Simd>(simd: S, activation: Activation, x: S::F, up: Option<S::F>) -> S::F {
    let value = activate(simd, activation, x).0;
    match up {
        Some(up) => simd.mul(value, up),
        None => value,
    }
}

/// Gradients of x and of `up`.
#[inline(always)]
fn gradients<S: Simd>(simd: S, activation: Activation, x: S::F, up: Option<S::F>, dy: S::F) -> (S::F, S::F) {
    let (value, slope) = activate(simd, activation, x);
    let above = match up {
        Some(up) => simd.mul(dy, up),
        None => dy,
    };
    (simd.mul(above, slope), simd.mul(dy, value))
}

#[inline(always)]
fn forward_on<S: Simd>(simd: S, activation: Activation, x: &[f32], up: Option<&[f32]>, y: &mut [f32]) {
    let (whole, part) = blocks(x.len());
    for start in whole {
        let up = up.map(|up| simd.load(eight(up, start)));
        simd.store(value(simd, activation, simd.load(eight(x, start)), up), eight_mut(y, start));
    }
    let up = up.map(|up| simd.load_part(&up[part.clone()], 0.0));
    let rest = value(simd, activation, simd.load_part(&x[part.clone()], 0.0), up);
    simd.store_part(rest, &mut y[part]);
}

/// `dup` is empty where there is no `up`.
#[inline(always)]
fn backward_on<S: Simd>(
    simd: S,
    activation: Activation,
    x: &[f32],
    up: Option<&[f32]>,
    dy: &[f32],
    dx: &mut [f32],
    dup: &mut [f32],
) {
    let (whole, part) = blocks(x.len());
    for start in whole {
        let above = up.map(|up| simd.load(eight(up, start)));
        let (x, dy) = (simd.load(eight(x, start)), simd.load(eight(dy, start)));
        let (gradient, up_gradient) = gradients(simd, activation, x, above, dy);
        simd.store(gradient, eight_mut(dx, start));
        if up.is_some() {
            simd.store(up_gradient, eight_mut(dup, start));
        }
    }
    let above = up.map(|up| simd.load_part(&up[part.clone()], 0.0));
    let (x, dy) = (simd.load_part(&x[part.clone()], 0.0), simd.load_part(&dy[part.clone()], 0.0));
    let (gradient, up_gradient) = gradients(simd, activation, x, above, dy);
    simd.store_part(gradient, &mut dx[part.clone()]);
    if up.is_some() {
        simd.store_part(up_gradient, &mut dup[part]);
    }
}

//! The twin on the CPU.

use super::{Activation, Backward, Forward};
use crate::launch::{ShapeError, expect_len};
use crate::math::{logistic, normal};
use crate::simd::{LANES, Simd, dispatch, eight, eight_mut};
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
    let one = simd.splat(1.0);
    if activation == Activation::GeluErf {
        let (below, bell) = normal(simd, x);
        return (simd.mul(x, below), simd.mul_add(x, simd.mul(simd.splat(0.398_942_3), bell), below));
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

/// A function of two values, compiled into whatever loop calls it: unlike a closure, which is not inlined for certain when it is
/// called from several places, and would then lose the vectors.
trait Elementwise: Copy {
    fn of<S: Simd>(self, simd: S, a: S::F, b: S::F) -> S::F;
}

/// Calls with each activation as a constant: what depends on it is then decided before the loops.
macro_rules! for_each_activation {
    ($activation:expr, $constant:ident => $call:expr) => {
        match $activation {
            Activation::Silu => {
                const $constant: u8 = Activation::Silu as u8;
                $call
            }
            Activation::GeluErf => {
                const $constant: u8 = Activation::GeluErf as u8;
                $call
            }
            Activation::GeluTanh => {
                const $constant: u8 = Activation::GeluTanh as u8;
                $call
            }
        }
    };
}

/// The activation of such a number.
const fn numbered(activation: u8) -> Activation {
    const GELU_ERF: u8 = Activation::GeluErf as u8;
    const GELU_TANH: u8 = Activation::GeluTanh as u8;
    match activation {
        GELU_ERF => Activation::GeluErf,
        GELU_TANH => Activation::GeluTanh,
        _ => Activation::Silu,
    }
}

/// The activation of the first value.
#[derive(Clone, Copy)]
struct Alone<const ACTIVATION: u8>;
impl<const ACTIVATION: u8> Elementwise for Alone<ACTIVATION> {
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, x: S::F, _: S::F) -> S::F {
        activate(simd, numbered(ACTIVATION), x).0
    }
}

/// The activation of the first value times the second.
#[derive(Clone, Copy)]
struct Gate<const ACTIVATION: u8>;
impl<const ACTIVATION: u8> Elementwise for Gate<ACTIVATION> {
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, x: S::F, up: S::F) -> S::F {
        simd.mul(activate(simd, numbered(ACTIVATION), x).0, up)
    }
}

/// The slope of the activation at the first value, times the second.
#[derive(Clone, Copy)]
struct Slope<const ACTIVATION: u8>;
impl<const ACTIVATION: u8> Elementwise for Slope<ACTIVATION> {
    #[inline(always)]
    fn of<S: Simd>(self, simd: S, x: S::F, dy: S::F) -> S::F {
        simd.mul(dy, activate(simd, numbered(ACTIVATION), x).1)
    }
}

#[inline(always)]
fn forward_on<S: Simd>(simd: S, activation: Activation, x: &[f32], up: Option<&[f32]>, y: &mut [f32]) {
    for_each_activation!(activation, A => match up {
        None => each_value(simd, Alone::<A>, x, x, y),
        Some(up) => each_value(simd, Gate::<A>, x, up, y),
    });
}

/// y = f(a, b), two vectors at a time, which share constants and do not wait for one another.
#[inline(always)]
fn each_value<S: Simd, F: Elementwise>(simd: S, f: F, a: &[f32], b: &[f32], y: &mut [f32]) {
    let pairs = y.len() - y.len() % (2 * LANES);
    let (a_pairs, b_pairs) = (a[..pairs].chunks_exact(2 * LANES), b[..pairs].chunks_exact(2 * LANES));
    for ((a, b), y) in a_pairs.zip(b_pairs).zip(y[..pairs].chunks_exact_mut(2 * LANES)) {
        let first = f.of(simd, simd.load(eight(a, 0)), simd.load(eight(b, 0)));
        let second = f.of(simd, simd.load(eight(a, LANES)), simd.load(eight(b, LANES)));
        simd.store(first, eight_mut(y, 0));
        simd.store(second, eight_mut(y, LANES));
    }
    for start in (pairs..y.len()).step_by(LANES) {
        let range = start..y.len().min(start + LANES);
        let value = f.of(simd, simd.load_part(&a[range.clone()], 0.0), simd.load_part(&b[range.clone()], 0.0));
        simd.store_part(value, &mut y[range]);
    }
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
    for_each_activation!(activation, A => match up {
        None => each_value(simd, Slope::<A>, x, dy, dx),
        Some(up) => gated_gradients(simd, numbered(A), x, up, dy, dx, dup),
    });
}

#[inline(always)]
fn gated_gradients<S: Simd>(
    simd: S,
    activation: Activation,
    x: &[f32],
    up: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    dup: &mut [f32],
) {
    for start in (0..x.len()).step_by(LANES) {
        let range = start..x.len().min(start + LANES);
        let whole = range.len() == LANES;
        let at = |slice: &[f32]| {
            if whole { simd.load(eight(slice, start)) } else { simd.load_part(&slice[range.clone()], 0.0) }
        };
        let (x, up, dy) = (at(x), at(up), at(dy));
        let (value, slope) = activate(simd, activation, x);
        let (gradient, up_gradient) = (simd.mul(simd.mul(dy, up), slope), simd.mul(dy, value));
        if whole {
            simd.store(gradient, eight_mut(dx, start));
            simd.store(up_gradient, eight_mut(dup, start));
        } else {
            simd.store_part(gradient, &mut dx[range.clone()]);
            simd.store_part(up_gradient, &mut dup[range]);
        }
    }
}

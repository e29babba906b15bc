//! The twin on the CPU: one pass over memory.

use super::launch::expect_number;
use super::{AdamW, Step, Tensor};
use crate::launch::{ShapeError, expect_len};
use crate::simd::{Simd, add_up, blocks, dispatch, eight, eight_mut};
use crate::workers::{Parts, Workers, rows_per_task};

/// The norm of all gradients, and what they are to be multiplied by so that it is at most `most`.
pub fn clip(workers: &dyn Workers, gradients: &[&[f32]], most: f32) -> [f32; 2] {
    let pieces: Vec<&[f32]> = gradients.iter().flat_map(|gradient| gradient.chunks(rows_per_task(1))).collect();
    let mut sums = vec![0.0; pieces.len()];
    let parts = Parts::new(&mut sums);
    workers.run(pieces.len(), &|task| {
        // SAFETY: each task has its own element.
        #[allow(unsafe_code, reason = "tasks write their own sums")]
        let sum = unsafe { parts.part(task..task + 1) };
        sum[0] = f64::from(squares(pieces[task]));
    });
    let norm = sums.iter().sum::<f64>().sqrt() as f32;
    [norm, if norm <= most { 1.0 } else { most / (norm + 1e-6) }]
}

impl AdamW {
    /// Step `number`, counted from 1. `clip` is the result of [`clip`], if gradients are to be clipped.
    ///
    /// # Errors
    /// Slices of one tensor that differ in length, or a number of 0.
    pub fn step(
        &self,
        workers: &dyn Workers,
        number: u32,
        clip: Option<[f32; 2]>,
        tensors: &mut [Tensor<&mut [f32], &[f32], &mut [f32]>],
    ) -> Result<(), ShapeError> {
        expect_number(number)?;
        for tensor in &*tensors {
            let len = tensor.gradients.len();
            expect_len("parameters", tensor.parameters.len(), len)?;
            expect_len("first_moment", tensor.first_moment.len(), len)?;
            expect_len("second_moment", tensor.second_moment.len(), len)?;
            expect_len("copy", tensor.copy.as_ref().map_or(len, |copy| copy.len()), len)?;
        }
        let (step, factor) = (self.numbers(number), clip.map_or(1.0, |clip| clip[1]));
        let piece = rows_per_task(1);
        for tensor in tensors {
            let gradients = tensor.gradients;
            let parameters = Parts::new(tensor.parameters);
            let (first, second) = (Parts::new(tensor.first_moment), Parts::new(tensor.second_moment));
            let copy = tensor.copy.as_deref_mut().map(Parts::new);
            workers.run(gradients.len().div_ceil(piece), &|task| {
                let range = task * piece..((task + 1) * piece).min(gradients.len());
                // SAFETY: tasks have ranges that do not overlap.
                #[allow(unsafe_code, reason = "tasks write their own elements")]
                let (parameters, first, second, copy) = unsafe {
                    (
                        parameters.part(range.clone()),
                        first.part(range.clone()),
                        second.part(range.clone()),
                        copy.as_ref().map(|copy| copy.part(range.clone())),
                    )
                };
                update(step, factor, &gradients[range], parameters, first, second);
                if let Some(copy) = copy {
                    copy.copy_from_slice(parameters);
                }
            });
        }
        Ok(())
    }
}

dispatch!(fn squares(values: &[f32]) -> f32 = squares_on);
dispatch!(fn update(step: Step, factor: f32, gradients: &[f32], parameters: &mut [f32], first: &mut [f32], second: &mut [f32]) = update_on);

#[inline(always)]
fn squares_on<S: Simd>(simd: S, values: &[f32]) -> f32 {
    let square = |values: S::F| simd.mul(values, values);
    add_up(
        simd,
        values.len(),
        |start| square(simd.load(eight(values, start))),
        |range| square(simd.load_part(&values[range], 0.0)),
    )
}

/// A parameter and its moments after the step.
#[inline(always)]
fn result<S: Simd>(simd: S, step: Step, gradient: S::F, parameter: S::F, m: S::F, v: S::F) -> (S::F, S::F, S::F) {
    let (rest1, rest2) = (simd.splat(1.0 - step.beta1), simd.splat(1.0 - step.beta2));
    let m = simd.add(simd.mul(simd.splat(step.beta1), m), simd.mul(rest1, gradient));
    let v = simd.add(simd.mul(simd.splat(step.beta2), v), simd.mul(rest2, simd.mul(gradient, gradient)));
    let below = simd.add(simd.mul(simd.sqrt(v), simd.splat(step.second_scale)), simd.splat(step.epsilon));
    let change = simd.div(simd.mul(simd.splat(step.step_size), m), below);
    (simd.sub(simd.mul(parameter, simd.splat(step.keep)), change), m, v)
}

#[inline(always)]
fn update_on<S: Simd>(
    simd: S,
    step: Step,
    factor: f32,
    gradients: &[f32],
    parameters: &mut [f32],
    first: &mut [f32],
    second: &mut [f32],
) {
    let factors = simd.splat(factor);
    let (whole, part) = blocks(gradients.len());
    for start in whole {
        let gradient = simd.mul(simd.load(eight(gradients, start)), factors);
        let (parameter, m) = (simd.load(eight(parameters, start)), simd.load(eight(first, start)));
        let (parameter, m, v) = result(simd, step, gradient, parameter, m, simd.load(eight(second, start)));
        simd.store(parameter, eight_mut(parameters, start));
        simd.store(m, eight_mut(first, start));
        simd.store(v, eight_mut(second, start));
    }
    let gradient = simd.mul(simd.load_part(&gradients[part.clone()], 0.0), factors);
    let parameter = simd.load_part(&parameters[part.clone()], 0.0);
    let (m, v) = (simd.load_part(&first[part.clone()], 0.0), simd.load_part(&second[part.clone()], 0.0));
    let (parameter, m, v) = result(simd, step, gradient, parameter, m, v);
    simd.store_part(parameter, &mut parameters[part.clone()]);
    simd.store_part(m, &mut first[part.clone()]);
    simd.store_part(v, &mut second[part]);
}

//! Weights in a form of their own, of which a block is unpacked to bf16 just before it is multiplied.

#![allow(unsafe_code, reason = "numbers as their bits")]

use super::driver::{Job, Right, Source};
use super::element::Bf16;
use super::engine::Engine;
use super::matrix::{Matrix, MatrixMut};
use super::{GemmError, MatmulOptions, Precision, agree};
use std::ops::Range;

/// A right operand that can be unpacked.
pub(crate) trait Unpack: Sync {
    /// Writes the columns `columns` and the values `depth` of k as panels of sixteen columns: for each pair of k, `padded` in all, the columns
    /// of two numbers, as bits of bf16. What is beyond `depth` or `columns` is zero. `padded` is a multiple of 32.
    fn unpack(&self, depth: Range<usize>, columns: Range<usize>, padded: usize, out: &mut [u16]);
}

/// Columns that are unpacked at a time: with 256 values of k they take half of a second cache.
const COLUMNS: usize = 512;

struct Unpacked<'a, U>(&'a U);

impl<U: Unpack> Source<Bf16> for Unpacked<'_, U> {
    fn columns_together(&self) -> usize {
        COLUMNS
    }

    fn is_costly(&self) -> bool {
        true
    }

    fn pack(&self, depth: Range<usize>, columns: Range<usize>, out: &mut [Bf16]) {
        let padded = super::pack::panel_len::<Bf16>(depth.len()) / super::pack::PANEL;
        // SAFETY: a `Bf16` is its bits, and any bits are one.
        let out = unsafe { std::slice::from_raw_parts_mut(out.as_mut_ptr().cast(), out.len()) };
        self.0.unpack(depth, columns, padded, out);
    }
}

/// y = x · right (+ bias) (+ y) in bf16, where `right` is `[k, n]`.
pub(crate) fn multiply_unpacked(
    x: Matrix<'_>,
    right: &impl Unpack,
    [k, n]: [usize; 2],
    mut y: MatrixMut<'_>,
    options: &MatmulOptions<'_>,
) -> Result<(), GemmError> {
    agree("columns of x", k, x.layout().columns)?;
    agree("columns of y", n, y.layout().columns)?;
    agree("rows of y", x.layout().rows, y.layout().rows)?;
    if let Some(bias) = options.bias {
        agree("length of the bias", n, bias.len())?;
    }
    let engine = Engine::choose(options.engine, Precision::Bf16)?;
    let job = Job { bias: options.bias, accumulate: options.accumulate, threads: options.threads };
    engine.multiply_bf16(x, Right::Plain(&Unpacked(right)), &mut y, job);
    Ok(())
}

//! Norms of gradients, without the gradients where that is cheaper.

use gristmill_kernels::gemm::{GemmOptions, Matrix, MatrixMut, Precision, Values, gemm};

use super::projector::{Scratch, product};
use crate::models::{Compute, Result};

/// How much smaller than the square of Σ|δₜ||xₜ| the square of a norm may be, for it to be computed from products of tokens. That sum bounds what
/// rounding can do to it: to 1e-7 of the bound, and so to 1e-4 of the square.
const CANCELLED: f64 = 1e-3;

/// |Σ δₜxₜᵀ|² of one document, of `sizes` tokens, outputs and inputs.
///
/// It is Σ over s and t of (δₛ·δₜ)(xₛ·xₜ), which takes T²(O + I) products where the gradient takes T·O·I of them, and sums f32 products in f64. Long
/// documents, and those whose tokens' gradients cancel one another, have their gradient formed.
pub(super) fn squared_norm(
    compute: Compute<'_>,
    delta: &[f32],
    x: &[f32],
    sizes: [usize; 3],
    scratch: &mut Scratch,
) -> Result<f64> {
    let [tokens, outputs, inputs] = sizes;
    if tokens == 0 || outputs == 0 || inputs == 0 {
        return Ok(0.0);
    }
    let [first, second] = &mut scratch.products;
    if tokens.saturating_mul(outputs + inputs) <= outputs.saturating_mul(inputs) {
        inner(compute, delta, [tokens, outputs], first)?;
        inner(compute, x, [tokens, inputs], second)?;
        let products = first.iter().zip(&*second).map(|(&a, &b)| f64::from(a) * f64::from(b));
        let square: f64 = products.clone().sum();
        let lengths: f64 = products.step_by(tokens + 1).map(f64::sqrt).sum();
        // Written so that what is not a number goes on.
        if square.partial_cmp(&(CANCELLED * lengths * lengths)) != Some(std::cmp::Ordering::Less) {
            return Ok(square);
        }
    }
    first.resize(outputs * inputs, 0.0);
    product(compute, delta, x, sizes, &mut first[..outputs * inputs])?;
    Ok(first[..outputs * inputs].iter().map(|&value| f64::from(value).powi(2)).sum())
}

/// a·aᵀ of `[rows, columns]`.
fn inner(compute: Compute<'_>, a: &[f32], sizes: [usize; 2], to: &mut Vec<f32>) -> Result<()> {
    let [rows, columns] = sizes;
    to.resize(rows * rows, 0.0);
    let options = GemmOptions { precision: Precision::F32, accumulate: false, threads: compute.threads, engine: None };
    let a = Matrix::row_major(Values::F32(a), rows, columns)?;
    Ok(gemm(a, a.transposed(), MatrixMut::row_major(to, rows, rows)?, &options)?)
}

//! Covariances of what layers read and of the gradients of what they give: the factors of K-FAC (Martens and Grosse, *Optimizing neural networks with
//! Kronecker-factored approximate curvature*, 2015).

use std::collections::BTreeMap;

use gristmill_kernels::gemm::{MatrixMut, gemm};

use super::factors::{Factor, Factors, Statistic};
use super::layer::{Layer, Layers, columns, options};
use crate::models::gradients::{Gradient, Tap};
use crate::models::{Compute, ModelError, Parameter};

/// Rows of the upper triangle that are computed together.
const BLOCK: usize = 256;

/// A = Σ x·xᵀ and S = Σ δ·δᵀ over all tokens of all documents.
///
/// All tokens of a document count, also those that predict nothing, as in kronfluence. Documents should be left out that have no target.
///
/// The sums of a document are products of matrices in single precision, and are added up in double precision, document after document: they do not depend on how
/// documents are put into batches. The products are half those of a full matrix, since only the upper triangle is computed.
#[derive(Debug)]
pub struct Covariances {
    layers: Layers,
    /// By the index of the parameter.
    sums: BTreeMap<usize, Sums>,
    block: Vec<f32>,
}

#[derive(Debug)]
struct Sums {
    layer: Layer,
    tokens: u64,
    activations: Vec<f64>,
    gradients: Vec<f64>,
}

impl Covariances {
    /// Of these layers.
    pub const fn new(layers: Layers) -> Self {
        Self { layers, sums: BTreeMap::new(), block: Vec::new() }
    }

    /// The sums, in the order of the model's parameters.
    pub fn into_factors(self) -> Factors {
        let each = self.sums.into_values().flat_map(|Sums { layer, tokens, mut activations, mut gradients }| {
            mirror(&mut activations, layer.columns);
            mirror(&mut gradients, layer.outputs);
            let square = |statistic, n, values| Factor::new(&layer, statistic, tokens, [n, n], values);
            [
                square(Statistic::ActivationCovariance, layer.columns, activations),
                square(Statistic::GradientCovariance, layer.outputs, gradients),
            ]
        });
        each.collect()
    }
}

impl Tap for Covariances {
    fn wants(&self, parameter: &Parameter) -> bool {
        self.layers.take(parameter)
    }

    fn take(&mut self, compute: Compute<'_>, gradient: &Gradient<'_>) -> Result<(), ModelError> {
        let Some(rows) = self.layers.rows(gradient) else { return Ok(()) };
        let sums = self.sums.entry(rows.index).or_insert_with(|| Sums {
            activations: vec![0.0; rows.layer.columns.pow(2)],
            gradients: vec![0.0; rows.layer.outputs.pow(2)],
            layer: rows.layer.clone(),
            tokens: 0,
        });
        for document in 0..rows.documents() {
            let count = rows.range(document).len();
            sums.tokens += count as u64;
            let block = &mut self.block;
            add_squares(compute, rows.x(document), count, rows.layer.columns, block, &mut sums.activations)?;
            add_squares(compute, rows.delta(document), count, rows.layer.outputs, block, &mut sums.gradients)?;
        }
        Ok(())
    }
}

/// Adds the upper triangle of rowsᵀ·rows, `[width, width]`.
fn add_squares(
    compute: Compute<'_>,
    rows: &[f32],
    count: usize,
    width: usize,
    block: &mut Vec<f32>,
    to: &mut [f64],
) -> Result<(), ModelError> {
    if count == 0 {
        return Ok(());
    }
    for first in (0..width).step_by(BLOCK) {
        let (height, rest) = (BLOCK.min(width - first), width - first);
        block.resize(height * rest, 0.0);
        let left = columns(rows, count, width, first..first + height)?.transposed();
        let right = columns(rows, count, width, first..width)?;
        gemm(left, right, MatrixMut::row_major(block, height, rest)?, &options(compute, false))?;
        for (row, products) in block.chunks_exact(rest).enumerate() {
            let sums = &mut to[(first + row) * width + first + row..(first + row + 1) * width];
            sums.iter_mut().zip(&products[row..]).for_each(|(sum, &product)| *sum += f64::from(product));
        }
    }
    Ok(())
}

/// Copies the upper triangle to the lower.
pub(super) fn mirror(matrix: &mut [f64], n: usize) {
    for row in 1..n {
        for column in 0..row {
            matrix[row * n + column] = matrix[column * n + row];
        }
    }
}

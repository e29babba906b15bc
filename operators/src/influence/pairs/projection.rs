//! Random projection of gradients to fewer dimensions: R g with a dense matrix R of signs that is never in memory.
//!
//! Each tensor has a matrix of its own, with as many columns as the tensor has elements, in the layout of the checkpoint. Its elements are those of
//! [`Signs`] named by the seed and the tensor's name: counter-based, so the same in any process, on any device, and whatever is projected at the same time. With the
//! scale 1/√rows, E ⟨R a, R b⟩ = ⟨a, b⟩, and the error of a product of unit vectors is about 1/√rows (Johnson and Lindenstrauss; Achlioptas, 2003).
//!
//! The first rows of a matrix do not depend on how many there are. So of several sizes only the largest is computed.

use gristmill_kernels::gemm::{GemmOptions, Matrix, MatrixMut, Precision, Values, gemm};
use gristmill_kernels::signs::{Block, Signs};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::KIND;
use super::products::cosine;
use crate::Result;
use crate::config::invalid;
use crate::models::{self, Compute};

/// Dimensions come in multiples of this.
const UNIT: usize = 512;
/// Rows and columns of the matrix that are made at a time.
const ROWS: usize = 64;
const COLUMNS: usize = 1024;

/// What gradients are projected to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProjectionConfig {
    /// Numbers of dimensions as shares of the number of parameters, each above 0 and at most 1. A tensor of n of N parameters gets
    /// 512 · round(n / N · D / 512) of D dimensions, and at least 512.
    pub shares: Vec<f64>,
    /// Signs follow from it, the tensor's name, row and column.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// Whether the dimensions of a tensor are divided by the square root of their number. Then the projected cosine estimates that of all parameters;
    /// without it a tensor weighs as much more as it has more dimensions, as in the published study.
    #[serde(default)]
    pub scaled: bool,
}

fn default_seed() -> u64 {
    42
}

/// How many dimensions a share of so many parameters is: a multiple of 512, and at least 512.
///
/// ```
/// use gristmill_operators::influence::pairs::dimensions;
///
/// assert_eq!(dimensions(0.01, 1_176_764_416), 11_767_808);
/// assert_eq!(dimensions(0.05, 1_176_764_416), 58_838_016);
/// ```
#[must_use]
pub fn dimensions(share: f64, parameters: usize) -> usize {
    ((share * parameters as f64 / UNIT as f64).round_ties_even() as usize).max(1) * UNIT
}

/// How many of `dimensions` a tensor gets that has so many of all parameters: in proportion, a multiple of 512, and at least 512.
///
/// ```
/// use gristmill_operators::influence::pairs::tensor_dimensions;
///
/// // The embedding, a projection of attention and one of the feed-forward layer of a model of 1.2 billion parameters.
/// let of = |elements| tensor_dimensions(elements, 1_176_764_416, 11_767_808);
/// assert_eq!([103_022_592, 4_194_304, 16_777_216].map(of), [1_030_144, 41_984, 167_936]);
/// ```
#[must_use]
pub fn tensor_dimensions(elements: usize, parameters: usize, dimensions: usize) -> usize {
    let share = elements as f64 / parameters as f64;
    ((share * dimensions as f64 / UNIT as f64).round_ties_even() as usize).max(1) * UNIT
}

/// The projections of all tensors.
#[derive(Debug)]
pub(super) struct Projection {
    scaled: bool,
    /// Of each size, the dimensions of each tensor.
    pub(super) sizes: Vec<Vec<usize>>,
    /// Of each tensor: its signs, and where its dimensions begin in a sketch, the most of all sizes.
    tensors: Vec<(Signs, usize)>,
    /// Numbers of a sketch.
    pub(super) width: usize,
}

impl Projection {
    /// Of tensors of these names and numbers of elements.
    pub(super) fn new<'a>(
        config: &ProjectionConfig,
        tensors: impl Iterator<Item = (&'a str, usize)> + Clone,
    ) -> Result<Self> {
        if config.shares.is_empty() {
            return Err(invalid(KIND, "projection.shares", "no share is given; leave 'projection' out for none"));
        }
        let parameters: usize = tensors.clone().map(|(_, elements)| elements).sum();
        let size = |&share: &f64| {
            if !(share > 0.0 && share <= 1.0) {
                let message = format!("{share}; shares above 0 and at most 1 are allowed");
                return Err(invalid(KIND, "projection.shares", message));
            }
            let all = dimensions(share, parameters);
            Ok(tensors.clone().map(|(_, elements)| tensor_dimensions(elements, parameters, all)).collect())
        };
        let sizes: Vec<Vec<usize>> = config.shares.iter().map(size).collect::<Result<_>>()?;
        let mut width = 0;
        let place = |(tensor, (name, _)): (usize, (&str, usize))| {
            let start = width;
            width += sizes.iter().map(|size| size[tensor]).max().unwrap_or(0);
            (Signs::named(config.seed, name), start)
        };
        let tensors = tensors.enumerate().map(place).collect();
        Ok(Self { scaled: config.scaled, sizes, tensors, width })
    }

    /// Projects gradients of a tensor, each to its part of a sketch of all tensors.
    pub(super) fn project(
        &self,
        compute: Compute<'_>,
        tensor: usize,
        gradients: &[&[f32]],
        sketches: &mut [&mut [f32]],
    ) -> models::Result<()> {
        let (signs, start) = self.tensors[tensor];
        let end = self.tensors.get(tensor + 1).map_or(self.width, |(_, start)| *start);
        let mut parts: Vec<&mut [f32]> = sketches.iter_mut().map(|sketch| &mut sketch[start..end]).collect();
        project(compute, signs, gradients, &mut parts)
    }

    /// The cosine of two sketches for each size.
    pub(super) fn cosines(&self, one: &[f32], other: &[f32]) -> Vec<Option<f64>> {
        let of_size = |size: &Vec<usize>| {
            let (mut product, mut squares) = (0.0, [0.0; 2]);
            for (&(_, start), &dimensions) in self.tensors.iter().zip(size) {
                let [one, other] = [one, other].map(|sketch| &sketch[start..start + dimensions]);
                let scale = if self.scaled { 1.0 / dimensions as f64 } else { 1.0 };
                let dot = |a, b| super::Accumulate::F64.dot(a, b) * scale;
                product += dot(one, other);
                squares[0] += dot(one, one);
                squares[1] += dot(other, other);
            }
            cosine(product, squares[0], squares[1])
        };
        self.sizes.iter().map(of_size).collect()
    }
}

/// Multiplies a matrix of signs with vectors of one length, as many rows as `out` has of each. The signs of a block are made once for all of them. The bits
/// of a result depend on its vector alone; sums of blocks are in double precision.
pub(super) fn project(
    compute: Compute<'_>,
    signs: Signs,
    vectors: &[&[f32]],
    out: &mut [&mut [f32]],
) -> models::Result<()> {
    let (Some(columns), Some(rows)) = (vectors.first().map(|vector| vector.len()), out.first().map(|out| out.len()))
    else {
        return Ok(());
    };
    let options = GemmOptions { precision: Precision::F32, accumulate: false, threads: 1, engine: None };
    let width = COLUMNS.min(columns);
    let mut block = vec![0.0_f32; ROWS * width];
    let mut packed = vec![0.0_f32; vectors.len() * width];
    let mut products = vec![0.0_f32; vectors.len() * ROWS];
    let mut sums = vec![0.0_f64; vectors.len() * ROWS];
    for first_row in (0..rows).step_by(ROWS) {
        let height = ROWS.min(rows - first_row);
        sums.fill(0.0);
        for first_column in (0..columns).step_by(COLUMNS) {
            let width = COLUMNS.min(columns - first_column);
            let (block, packed) = (&mut block[..height * width], &mut packed[..vectors.len() * width]);
            signs.fill(compute.workers, Block { first_row, first_column, columns: width }, 1.0, block)?;
            for (packed, vector) in packed.chunks_exact_mut(width).zip(vectors) {
                packed.copy_from_slice(&vector[first_column..first_column + width]);
            }
            let products = &mut products[..vectors.len() * height];
            gemm(
                Matrix::row_major(Values::F32(packed), vectors.len(), width)?,
                Matrix::row_major(Values::F32(block), height, width)?.transposed(),
                MatrixMut::row_major(products, vectors.len(), height)?,
                &options,
            )?;
            sums.iter_mut().zip(&*products).for_each(|(sum, &product)| *sum += f64::from(product));
        }
        for (out, sums) in out.iter_mut().zip(sums.chunks_exact(height)) {
            let out = &mut out[first_row..first_row + height];
            out.iter_mut().zip(sums).for_each(|(out, &sum)| *out = sum as f32);
        }
    }
    Ok(())
}

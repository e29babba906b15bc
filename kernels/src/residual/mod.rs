//! The residual stream of a transformer: what its layers read and add to. It is f32 whatever the type that layers compute in.
//!
//! [`Embedding`] gathers rows of tables into it. [`Norm`] makes a layer's input of it, or takes a layer's result into it, where the rounded
//! sum can be written beside it; without a norm it rounds, or adds. [`clamp`] keeps a layer's values within a magnitude, and
//! [`clamp_backward`] is its way back.
//!
//! An id or a position that the tables do not have is an error on the CPU; on a GPU, where they are not known when launching, it gives
//! values that are not numbers.
//!
//! ```
//! use gristmill_kernels::residual::{Norm, NormBuffers};
//! use gristmill_kernels::norms::NormKind;
//! use gristmill_kernels::workers::Serial;
//!
//! let norm = Norm { kind: Some(NormKind::Rms), width: 2, epsilon: 0.0, add: true };
//! let (mut stream, mut rounded) = ([1.0, 1.0], [0.0; 2]);
//! let buffers = NormBuffers { x: Some(&[3.0, 3.0][..]), weight: None, bias: None, z: Some(&mut stream[..]), y: Some(&mut rounded[..]) };
//! norm.forward(&Serial, buffers)?;
//! assert_eq!((stream, rounded), ([2.0, 2.0], [2.0, 2.0]));
//! # Ok::<(), gristmill_kernels::launch::ShapeError>(())
//! ```

mod cases;
mod cpu;
mod launch;

pub(crate) use cases::FAMILY;
pub use cpu::{clamp, clamp_backward};
pub use launch::{clamp_backward_launches, clamp_launches};

use crate::launch::{ShapeError, expect_len, expect_rows};
use crate::norms::NormKind;

/// x = tokens\[id\] + segment + positions\[place\] for each token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Embedding {
    /// Elements of a row.
    pub width: usize,
}

/// Buffers of an embedding: R tables, F numbers of the stream's type to be read, I ids, W the stream.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingBuffers<R, F, I, W> {
    /// `[vocabulary, width]`.
    pub tokens: R,
    /// Learned positions, `[rows, width]`, and the row of each token, `[tokens]`.
    pub positions: Option<(R, I)>,
    /// Added to every token, `[width]`.
    pub segment: Option<F>,
    /// Row of `tokens` for each token, `[tokens]`.
    pub ids: I,
    /// `[tokens, width]`.
    pub x: W,
}

/// A norm from the stream, or into it: v = norm(x) · weight + bias, then z = v or z + v, and y is the new z, or v, rounded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Which norm; v = x · weight + bias without one.
    pub kind: Option<NormKind>,
    /// Elements of a row.
    pub width: usize,
    /// Added to the mean square or the variance.
    pub epsilon: f32,
    /// Whether z is added to.
    pub add: bool,
}

/// Buffers of a norm: F to be read, Z to be written in the stream's type, Y in the type of layers.
#[derive(Clone, Copy, Debug)]
pub struct NormBuffers<F, Z, Y> {
    /// Rows, `[rows, width]`; those of z, if left out.
    pub x: Option<F>,
    /// `[width]`; all ones where left out.
    pub weight: Option<F>,
    /// `[width]`; all zeros where left out.
    pub bias: Option<F>,
    /// `[rows, width]`.
    pub z: Option<Z>,
    /// `[rows, width]`.
    pub y: Option<Y>,
}

/// Lengths of the buffers that are there.
struct Lengths {
    x: Option<usize>,
    weight: Option<usize>,
    bias: Option<usize>,
    z: Option<usize>,
    y: Option<usize>,
}

impl Norm {
    /// The number of rows.
    fn rows(&self, lengths: &Lengths) -> Result<usize, ShapeError> {
        let Lengths { x, weight, bias, z, y } = *lengths;
        let Some(len) = x.or(z) else { return Err(ShapeError::Length { name: "x", expected: self.width, actual: 0 }) };
        expect_len("z", z.unwrap_or(len), len)?;
        expect_len("y", y.unwrap_or(len), len)?;
        expect_len("weight", weight.unwrap_or(self.width), self.width)?;
        expect_len("bias", bias.unwrap_or(self.width), self.width)?;
        if self.add && z.is_none() {
            return Err(ShapeError::Length { name: "z", expected: len, actual: 0 });
        }
        expect_rows("x", len, self.width)
    }
}

impl Embedding {
    /// Rows of the two tables; none of positions where there are none.
    fn table_rows(
        &self,
        tokens: usize,
        positions: Option<(usize, usize)>,
        segment: Option<usize>,
        ids: usize,
        x: usize,
    ) -> Result<(usize, usize), ShapeError> {
        expect_len("x", x, ids * self.width)?;
        expect_len("segment", segment.unwrap_or(self.width), self.width)?;
        expect_len("places", positions.map_or(ids, |(_, places)| places), ids)?;
        let rows = positions.map_or(Ok(0), |(table, _)| expect_rows("positions", table, self.width))?;
        Ok((expect_rows("tokens", tokens, self.width)?, rows))
    }
}

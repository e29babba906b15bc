//! Weights in four bits: NF4 with double quantisation, as bitsandbytes has it, and products with such weights.
//!
//! A matrix is cut, row after row, into blocks of 64 values, whatever the length of a row. The largest magnitude of a block is its
//! scale, and each value, divided by it, becomes the nearest of sixteen numbers ([`CODES`]): Dettmers et al., "QLoRA" (2023). Two
//! codes make a byte, the first in the upper half; an odd last one is followed by the code of zero. Scales less their mean are
//! quantised too: in groups of 256, divided by the largest magnitude of the group, to the nearest of 256 numbers ([`SCALES`]). So
//! a value takes 4.127 bits.
//!
//! Codes are those of bitsandbytes' CUDA kernels and of its reference operators: a value halfway between two numbers has the
//! smaller code, and the division is a multiplication with the reciprocal. (Its CPU library, 0.50.2, finds the codes of scales
//! through a table of limited resolution, and may give a neighbour for a scale within 2e-5 of halfway.) The mean is added up in
//! double precision. An unquantised value is the product of two single-precision numbers, rounded to what is asked for.
//!
//! Weights must be finite. A value that is not a number, or an infinity, makes the scale of its block such, and through the mean and
//! the groups all scales: then everything is not a number, which no one overlooks.
//!
//! ```
//! use gristmill_kernels::nf4::{Nf4, Quantised, Values};
//! use gristmill_kernels::workers::Serial;
//!
//! let nf4 = Nf4 { rows: 1, columns: 3 };
//! let (mut codes, mut scales, mut largest, mut mean) = ([0; 2], [0; 1], [0.0; 1], [0.0; 1]);
//! let to = Quantised { codes: &mut codes[..], scales: &mut scales[..], largest: &mut largest[..], mean: &mut mean[..] };
//! nf4.quantise(&Serial, Values::F32(&[2.0, -1.0, 0.1]), to)?;
//! assert_eq!(codes, [0xf2, 0x87]);
//!
//! let mut weights = [0.0; 3];
//! let from = Quantised { codes: &codes[..], scales: &scales[..], largest: &largest[..], mean: &mean[..] };
//! nf4.dequantise(&Serial, from, &mut weights[..])?;
//! assert_eq!(weights, [2.0, -1.0501461, 0.1591606]);
//! # Ok::<(), gristmill_kernels::launch::ShapeError>(())
//! ```

mod cases;
mod cpu;
#[cfg(test)]
mod golden;
mod launch;
mod lookup;
mod product;
mod table;

use crate::launch::{ShapeError, expect_len};
pub(crate) use cases::FAMILY;
pub use cpu::{Values, Weight};
pub use launch::Product;
pub use table::{CODES, SCALES};

/// Values of a block.
pub const BLOCK: usize = 64;
/// Scales of a group.
pub const GROUP: usize = 256;

/// A quantised matrix: weights of a linear layer, `[out, in]` as `nn.Linear` has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nf4 {
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of the matrix. Products are fast where this is a multiple of 64, so that blocks end with rows.
    pub columns: usize,
}

/// Buffers of a quantised matrix: B of bytes, F of single-precision numbers.
#[derive(Clone, Copy, Debug)]
pub struct Quantised<B, F> {
    /// Two codes in a byte, the first in the upper half: [`Nf4::code_bytes`].
    pub codes: B,
    /// A code for the scale of each block: [`Nf4::blocks`].
    pub scales: B,
    /// The largest magnitude of each group of scales: [`Nf4::groups`].
    pub largest: F,
    /// The mean of scales: one.
    pub mean: F,
}

impl Nf4 {
    /// Number of values.
    pub const fn len(&self) -> usize {
        self.rows * self.columns
    }

    /// Whether there is no value.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of codes.
    pub const fn code_bytes(&self) -> usize {
        self.len().div_ceil(2)
    }

    /// Number of blocks, the last of which may be shorter.
    pub const fn blocks(&self) -> usize {
        self.len().div_ceil(BLOCK)
    }

    /// Number of groups of scales, the last of which may be shorter.
    pub const fn groups(&self) -> usize {
        self.blocks().div_ceil(GROUP)
    }

    fn expect(&self, codes: usize, scales: usize, largest: usize, mean: usize) -> Result<(), ShapeError> {
        let values = self.rows.checked_mul(self.columns);
        if values.is_none() {
            return Err(ShapeError::Dimension {
                name: "rows",
                allowed: "as many as can be counted",
                actual: self.rows,
            });
        }
        expect_len("codes", codes, self.code_bytes())?;
        expect_len("scales", scales, self.blocks())?;
        expect_len("largest", largest, self.groups())?;
        expect_len("mean", mean, 1)
    }
}

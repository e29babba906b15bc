//! Rotary position embedding (Su and others, 2021): pairs of values of each head are turned by angles of the token's position.
//!
//! Cosines and sines come as a table, so that any scaling of frequencies is the caller's: row p has the angles of position p, one
//! for each pair. Models differ in which values make a pair ([`Pairing`]), and in how many of a head's values are turned; the
//! others are copied. The gradient is the same with the angles reversed.
//!
//! A position that the table does not have is an error on the CPU; on a GPU, where positions are not known when launching, it
//! gives values that are not numbers.
//!
//! ```
//! use gristmill_kernels::rotary::{Buffers, Direction, Pairing, Rotary};
//! use gristmill_kernels::workers::Serial;
//!
//! let rotary = Rotary { heads: 1, head_width: 2, rotated: 2, pairing: Pairing::Halves };
//! let (cosines, sines) = ([1.0, 0.0], [0.0, 1.0]);   // no turn, and a quarter of a turn
//! let (x, mut y) = ([1.0, 2.0, 1.0, 2.0], [0.0; 4]);
//! let (cosines, sines, positions) = (&cosines[..], &sines[..], &[0, 1][..]);
//! let buffers = Buffers { x: &x[..], cosines, sines, positions, y: &mut y[..] };
//! rotary.apply(&Serial, Direction::Forward, buffers)?;
//! assert_eq!(y, [1.0, 2.0, -2.0, 1.0]);
//! # Ok::<(), gristmill_kernels::launch::ShapeError>(())
//! ```

mod cases;
mod cpu;
mod launch;

pub(crate) use cases::FAMILY;

use crate::launch::{ShapeError, expect_len, expect_rows};

/// Which values of a head make a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Value i and value i + rotated / 2: Llama, GPT-NeoX and most others.
    Halves,
    /// Values 2i and 2i + 1: GPT-J and the original.
    Neighbours,
}

/// Which way pairs are turned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// By the angles.
    Forward,
    /// By the angles reversed: gradients.
    Backward,
}

/// The shape of rotary embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotary {
    /// Heads of a token.
    pub heads: usize,
    /// Values of a head.
    pub head_width: usize,
    /// Values of a head that are turned, the first ones: an even number.
    pub rotated: usize,
    /// Which values make a pair.
    pub pairing: Pairing,
}

/// Buffers of values, W of results, of angles F and of positions P.
#[derive(Clone, Copy, Debug)]
pub struct Buffers<R, W, F, P> {
    /// Values, `[tokens, heads, head_width]`.
    pub x: R,
    /// `[positions, rotated / 2]`.
    pub cosines: F,
    /// `[positions, rotated / 2]`.
    pub sines: F,
    /// Row of the tables for each token, `[tokens]`.
    pub positions: P,
    /// Turned values, `[tokens, heads, head_width]`.
    pub y: W,
}

/// Tokens, and rows of the tables.
struct Sizes {
    tokens: usize,
    table_rows: usize,
}

impl Rotary {
    fn sizes(&self, x: usize, cosines: usize, sines: usize, positions: usize, y: usize) -> Result<Sizes, ShapeError> {
        if self.rotated > self.head_width || !self.rotated.is_multiple_of(2) {
            let allowed = "an even number up to the width of a head";
            return Err(ShapeError::Dimension { name: "rotated", allowed, actual: self.rotated });
        }
        let tokens = positions;
        expect_len("x", x, tokens * self.heads * self.head_width)?;
        expect_len("y", y, x)?;
        expect_len("sines", sines, cosines)?;
        Ok(Sizes { tokens, table_rows: expect_rows("cosines", cosines, self.rotated / 2)? })
    }
}

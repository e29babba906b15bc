//! Sums of outer products over ragged segments: the gradients of linear layers, one for each document, after projection.
//!
//! Tokens are packed: segment s (a document) has tokens `offsets[s]..offsets[s + 1]`. For each segment and each module (a layer),
//! with vectors a of p values and b of q values for every token,
//!
//! ```text
//! out[s, module] = sum over tokens t of s: a[t, module] b[t, module]ᵀ        [p, q]
//! norms[s, module] = sum of the squares of out[s, module]
//! ```
//!
//! For a layer y = W x with δ = ∂loss/∂y, the gradient of one document is Σ δₜ xₜᵀ, and with a = Lδ and b = Rx the sum is that
//! gradient projected from both sides, L G Rᵀ, without the gradient itself (Choe et al., *What is your data worth to GPT?
//! LLM-scale data valuation with influence functions*, 2024; Chang et al., *Scalable influence and fact tracing for large language
//! model pretraining*, 2024).
//!
//! A segment without tokens gives zeros. Sums are in single precision: products of up to some hundred tokens one after another, and
//! then these sums one after another, in the order of tokens from the segment's first. So a result depends neither on other segments
//! nor on other modules. Values that are not numbers, and infinities, spread within their row or column of their segment and module.
//!
//! ```
//! use gristmill_kernels::outer::{Outer, Strides};
//! use gristmill_kernels::workers::Serial;
//!
//! // Two modules whose vectors lie side by side, a of one value and b of two; a segment of two tokens and one of one.
//! let outer = Outer {
//!     tokens: 3,
//!     modules: 2,
//!     p: 1,
//!     q: 2,
//!     a: Strides::interleaved(2, 1),
//!     b: Strides::interleaved(2, 2),
//!     out: Strides::interleaved(2, 2),
//!     accumulate: false,
//! };
//! let a = [1.0, 10.0, 2.0, 20.0, 3.0, 30.0];
//! let b = [1.0, 2.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 5.0, 5.0, 0.0, 0.0];
//! let (mut out, mut norms) = ([0.0; 8], [0.0; 4]);
//! outer.run(&Serial, &a, &b, &[0, 2, 3], &mut out, Some(&mut norms))?;
//! assert_eq!(out, [3.0, 2.0, 20.0, 30.0, 15.0, 15.0, 0.0, 0.0]);
//! assert_eq!(norms, [13.0, 1300.0, 450.0, 0.0]);
//! # Ok::<(), gristmill_kernels::launch::ShapeError>(())
//! ```

mod cases;
mod cpu;
mod launch;

pub(crate) use cases::FAMILY;

use crate::launch::{ShapeError, expect_len};

/// Sums of outer products of one shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// Tokens of all segments.
    pub tokens: usize,
    /// Modules.
    pub modules: usize,
    /// Values of a vector of a: rows of a result. Made for 1 to 128; may be more.
    pub p: usize,
    /// Values of a vector of b: columns of a result. Made for 1 to 128; may be more.
    pub q: usize,
    /// Where the vectors of a lie; rows are tokens.
    pub a: Strides,
    /// Where the vectors of b lie; rows are tokens.
    pub b: Strides,
    /// Where the results lie, p q values side by side each; rows are segments. Values between them are left as they are.
    pub out: Strides,
    /// Whether the sums are added to what is there, rather than written over it. Norms are those of the result.
    pub accumulate: bool,
}

/// Where row r of module m begins: at element `row * r + module * m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strides {
    /// Elements from a row to the next.
    pub row: usize,
    /// Elements from a module to the next.
    pub module: usize,
}

impl Strides {
    /// The modules of a row lie side by side: `[rows, modules, width]`.
    pub const fn interleaved(modules: usize, width: usize) -> Self {
        Self { row: modules * width, module: width }
    }

    /// The rows of a module lie side by side: `[modules, rows, width]`.
    pub const fn apart(rows: usize, width: usize) -> Self {
        Self { row: width, module: rows * width }
    }

    /// Elements up to the end of the last of `rows` times `modules` pieces of `size`, if that can be counted.
    const fn extent(self, rows: usize, modules: usize, size: usize) -> Option<usize> {
        if rows == 0 || modules == 0 || size == 0 {
            return Some(0);
        }
        let (Some(last_row), Some(last_module)) =
            (self.row.checked_mul(rows - 1), self.module.checked_mul(modules - 1))
        else {
            return None;
        };
        match last_row.checked_add(last_module) {
            Some(last) => last.checked_add(size),
            None => None,
        }
    }

    /// Whether no two pieces overlap, as is certain where the pieces of each row, or of each module, have an interval of their own.
    fn disjoint(self, rows: usize, modules: usize, size: usize) -> bool {
        let nested = |inner: usize, inner_count: usize, outer: usize, outer_count: usize| {
            let interval = inner.saturating_mul(inner_count.saturating_sub(1)).saturating_add(size);
            (inner_count <= 1 || inner >= size) && (outer_count <= 1 || outer >= interval)
        };
        rows.min(modules).min(size) == 0
            || nested(self.module, modules, self.row, rows)
            || nested(self.row, rows, self.module, modules)
    }
}

impl Outer {
    /// Checks lengths and strides; offsets are checked by the twin, and brought into range by the kernels.
    fn check(&self, segments: usize, a: usize, b: usize, out: usize, norms: Option<usize>) -> Result<(), ShapeError> {
        let size = self.p.checked_mul(self.q).ok_or(ShapeError::Dimension {
            name: "p times q",
            allowed: "a number that can be counted",
            actual: self.p,
        })?;
        for (name, strides, rows, size, actual) in [
            ("a", self.a, self.tokens, self.p, a),
            ("b", self.b, self.tokens, self.q, b),
            ("out", self.out, segments, size, out),
        ] {
            let expected = strides.extent(rows, self.modules, size).unwrap_or(usize::MAX);
            if actual < expected {
                return Err(ShapeError::Length { name, expected, actual });
            }
        }
        if !self.out.disjoint(segments, self.modules, size) {
            return Err(ShapeError::Dimension {
                name: "a stride of out",
                allowed: "one with which no two results overlap",
                actual: self.out.row.min(self.out.module),
            });
        }
        norms.map_or(Ok(()), |norms| expect_len("norms", norms, segments.saturating_mul(self.modules)))
    }
}

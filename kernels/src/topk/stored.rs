//! The number formats of stored rows.

use crate::simd::{LANES, Simd};
use half::{bf16, f16};

/// Rows of an index, one behind the other.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// The upper half of single precision.
    Bf16(&'a [bf16]),
    /// Half precision.
    F16(&'a [f16]),
    /// Whole numbers with a factor for each row. The factor multiplies the score.
    I8 {
        /// Rows, one behind the other.
        values: &'a [i8],
        /// A factor for each row.
        factors: &'a [f32],
    },
}

impl Rows<'_> {
    /// Number of elements.
    pub(super) const fn elements(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::I8 { values, .. } => values.len(),
        }
    }
}

/// A number that is widened to single precision when it is read, exactly.
pub(super) trait Stored: Copy + Sync {
    /// Whether there is nothing to widen.
    const IS_F32: bool = false;

    /// Its value.
    fn value(self) -> f32;

    /// Eight values.
    #[inline(always)]
    fn eight<S: Simd>(simd: S, from: &[Self; LANES]) -> S::F {
        simd.load(&from.map(Self::value))
    }
}

impl Stored for f32 {
    const IS_F32: bool = true;

    #[inline(always)]
    fn value(self) -> f32 {
        self
    }
}

impl Stored for bf16 {
    #[inline(always)]
    fn value(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

impl Stored for f16 {
    #[inline(always)]
    fn value(self) -> f32 {
        let bits = u32::from(self.to_bits());
        let (sign, magnitude) = ((bits & 0x8000) << 16, (bits & 0x7fff) << 13);
        // The exponent's bias differs by 112. A multiplication also makes subnormal numbers normal; infinity and values that are not
        // numbers have the largest exponent in both formats.
        let finite = (f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23)).to_bits();
        let largest = magnitude | 0x7f80_0000;
        f32::from_bits(if magnitude >= 0x7c00 << 13 { largest } else { finite } | sign)
    }
}

impl Stored for i8 {
    #[inline(always)]
    fn value(self) -> f32 {
        f32::from(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_widened_exactly() {
        for bits in 0..=u16::MAX {
            let (own, half) = (f16::from_bits(bits).value(), f16::from_bits(bits).to_f32());
            assert!(own.to_bits() == half.to_bits() || own.is_nan() && half.is_nan(), "{bits:#x}");
            let (own, half) = (bf16::from_bits(bits).value(), bf16::from_bits(bits).to_f32());
            assert!(own.to_bits() == half.to_bits() || own.is_nan() && half.is_nan(), "{bits:#x}");
        }
    }
}

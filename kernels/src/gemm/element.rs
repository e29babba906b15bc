//! The number formats of inputs and of packed operands.
//!
//! Packed operands are read by micro-kernels as plain memory, so every type here is `repr(transparent)` over its number.

/// A number format that inputs may have.
pub(super) trait Format {
    /// The number as it lies in memory.
    type Raw: Copy;

    /// Its value; exact, since f32 holds every bf16 and f16.
    fn widen(raw: Self::Raw) -> f32;
}

/// IEEE 754 binary32.
pub(super) struct F32Format;
/// The upper half of a binary32.
pub(super) struct Bf16Format;
/// IEEE 754 binary16.
pub(super) struct F16Format;

impl Format for F32Format {
    type Raw = f32;

    #[inline(always)]
    fn widen(raw: f32) -> f32 {
        raw
    }
}

impl Format for Bf16Format {
    type Raw = u16;

    #[inline(always)]
    fn widen(raw: u16) -> f32 {
        f32::from_bits(u32::from(raw) << 16)
    }
}

impl Format for F16Format {
    type Raw = u16;

    #[inline(always)]
    fn widen(raw: u16) -> f32 {
        let sign = u32::from(raw & 0x8000) << 16;
        let magnitude = u32::from(raw & 0x7fff) << 13;
        let value = if magnitude >= 0x7c00 << 13 {
            // Infinity and NaN have the largest exponent in both formats.
            f32::from_bits(magnitude | 0x7f80_0000)
        } else {
            // The exponent's bias differs by 112. A multiplication also normalises the subnormal numbers.
            f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23)
        };
        f32::from_bits(value.to_bits() | sign)
    }
}

/// A number in a packed operand.
pub(super) trait Element: Copy + Send + Sync {
    /// What fills the padding.
    const ZERO: Self;

    /// Rounds to the format.
    fn pack(value: f32) -> Self;

    /// The value that micro-kernels compute with.
    fn value(self) -> f32;
}

/// A number in packed weights.
pub(super) trait WeightElement: Element {
    /// How many values of k of one column lie side by side.
    const PAIR: usize;
    /// Weights are padded along k to a multiple of this, which every micro-kernel's group divides.
    const UNIT: usize;
}

/// A bf16 number, as its bits.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Bf16(pub(super) u16);

/// A bf16 number that is kept as f32, for micro-kernels whose multiplication takes nothing narrower.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Rounded(pub(super) f32);

impl Element for f32 {
    const ZERO: Self = 0.0;

    #[inline(always)]
    fn pack(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn value(self) -> f32 {
        self
    }
}

impl Element for Rounded {
    const ZERO: Self = Self(0.0);

    #[inline(always)]
    fn pack(value: f32) -> Self {
        Self(Bf16Format::widen(round_to_bf16(value)))
    }

    #[inline(always)]
    fn value(self) -> f32 {
        self.0
    }
}

impl Element for Bf16 {
    const ZERO: Self = Self(0);

    #[inline(always)]
    fn pack(value: f32) -> Self {
        Self(round_to_bf16(value))
    }

    #[inline(always)]
    fn value(self) -> f32 {
        Bf16Format::widen(self.0)
    }
}

impl WeightElement for f32 {
    const PAIR: usize = 1;
    const UNIT: usize = 8;
}

impl WeightElement for Bf16 {
    const PAIR: usize = 2;
    const UNIT: usize = 32;
}

/// Rounds to the nearest bf16, ties to even; NaN stays NaN.
#[inline(always)]
pub(crate) fn round_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    // A NaN whose payload is in the lower half alone would become infinite, or overflow into another number.
    if value.is_nan() { (bits >> 16) as u16 | 0x40 } else { rounded }
}

/// Memory for a packed operand, beginning at a cache line, so that no vector load crosses two.
#[derive(Clone)]
pub(super) struct Buffer<E> {
    memory: Vec<E>,
    start: usize,
    len: usize,
}

impl<E: Element> Buffer<E> {
    /// Bytes of a cache line.
    const LINE: usize = 64;

    /// `len` zeros.
    pub(super) fn zeroed(len: usize) -> Self {
        let memory = vec![E::ZERO; len + Self::LINE / size_of::<E>()];
        let start = memory.as_ptr().align_offset(Self::LINE).min(memory.len() - len);
        Self { memory, start, len }
    }

    /// The numbers.
    pub(super) fn as_slice(&self) -> &[E] {
        &self.memory[self.start..self.start + self.len]
    }

    /// The numbers, to be written.
    pub(super) fn as_mut_slice(&mut self) -> &mut [E] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f16_is_widened_exactly() {
        for (raw, value) in [
            (0x0000, 0.0f32),
            (0x8000, -0.0),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0400, 6.103_515_6e-5),
            (0x0001, 5.960_464_5e-8),
            (0x03ff, 6.097_555e-5),
            (0x7c00, f32::INFINITY),
            (0xfc00, f32::NEG_INFINITY),
        ] {
            assert_eq!(F16Format::widen(raw).to_bits(), value.to_bits(), "{raw:#x}");
        }
        assert!(F16Format::widen(0x7e01).is_nan());
        assert!(F16Format::widen(0x7c01).is_nan());
    }

    #[test]
    fn bf16_is_rounded_to_nearest_even() {
        for (bits, rounded) in [
            (0x3f80_0000u32, 0x3f80),
            (0x3f80_8000, 0x3f80),
            (0x3f81_8000, 0x3f82),
            (0x3f80_8001, 0x3f81),
            (0x7f7f_ffff, 0x7f80),
            (0xff80_0000, 0xff80),
            (0x0000_0001, 0x0000),
            (0x8000_0000, 0x8000),
        ] {
            assert_eq!(round_to_bf16(f32::from_bits(bits)), rounded, "{bits:#x}");
        }
        for bits in [0x7f80_0001, 0xffff_ffff, 0x7fff_ffff, 0x7fc0_0000] {
            assert!(Bf16Format::widen(round_to_bf16(f32::from_bits(bits))).is_nan(), "{bits:#x}");
        }
    }

    #[test]
    fn buffers_begin_at_a_cache_line() {
        for len in [0, 1, 63, 1000] {
            let mut buffer = Buffer::<Bf16>::zeroed(len);
            assert_eq!(buffer.as_slice().len(), len);
            assert_eq!(buffer.as_mut_slice().as_ptr().align_offset(64), 0);
        }
    }
}

//! Random numbers for cases: the same for the same seed, everywhere.

use super::HostBuffer;
use crate::launch::DType;

/// A generator (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Begins at a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 bits.
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 where that is 0.
    pub const fn below(&mut self, end: usize) -> usize {
        if end == 0 {
            return 0;
        }
        (self.bits() % end as u64) as usize
    }

    /// Uniform in 0..1.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// About normal, with deviation 1: a sum of four uniform numbers.
    pub fn normal(&mut self) -> f64 {
        ((0..4).map(|_| self.unit()).sum::<f64>() - 2.0) * 3_f64.sqrt()
    }

    /// About normal values, rounded to the type.
    pub fn buffer(&mut self, dtype: DType, len: usize, mean: f64, deviation: f64) -> HostBuffer {
        HostBuffer::from_f64(dtype, (0..len).map(|_| mean + deviation * self.normal()))
    }

    /// A length that finds mistakes: near zero, near multiples of what threads and vectors take, or any up to `most`.
    pub const fn length(&mut self, most: usize) -> usize {
        let length = match self.below(6) {
            0 => self.below(4),
            1 => 8 * self.below(40) + self.below(3),
            2 => (32 << self.below(6)) + self.below(3) - 1,
            3 => 256 * self.below(8) + 1,
            _ => self.below(most + 1),
        };
        if length > most { most } else { length }
    }
}

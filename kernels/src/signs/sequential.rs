//! Signs that are drawn one after another, as bergson 0.26 draws them.

use super::cpu::{Words, bits_of, negative_bits};
use super::digest;
use crate::launch::{Float, ShapeError, expect_rows};
use crate::workers::{Workers, for_rows};

/// The signs of bergson 0.26: successive bits of one generator, row after row. A matrix of other width is another matrix.
///
/// The generator is numpy's `PCG64` (O'Neill, *PCG: A family of simple fast space-efficient statistically good algorithms for random
/// number generation*, 2014: XSL-RR 128/64), seeded by numpy's `SeedSequence` with the MD5 of the identifier, as one big-endian
/// number, modulo 2^63 - 1. Bits are those of numpy's `Generator.bytes`, the highest bit of each byte first; 1 is + and 0 is -. Position
/// k of the matrix, counted over all rows, is bit k, and it can be jumped to. (Compared with the bytes that numpy makes.)
///
/// ```
/// use gristmill_kernels::signs::{SequentialSigns, unit_scale};
/// use gristmill_kernels::workers::Serial;
///
/// let signs = SequentialSigns::bergson_0_26("layers.0.mlp.down_proj/left");
/// let mut left = vec![0_f32; 16 * 2048];
/// signs.fill(&Serial, 2048, 0, unit_scale(16), &mut left)?;
/// // The first byte is 0x16: minus three times, plus, minus, plus, plus, minus.
/// assert_eq!(left[..8], [-0.25, -0.25, -0.25, 0.25, -0.25, 0.25, 0.25, -0.25]);
/// # Ok::<(), gristmill_kernels::launch::ShapeError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SequentialSigns {
    generator: Pcg64,
}

impl SequentialSigns {
    /// The signs of a module for an identifier, which is `<module>/left`, `<module>/right` or `<module>/single`.
    pub fn bergson_0_26(identifier: &str) -> Self {
        Self { generator: Pcg64::seeded(bergson_seed(identifier)) }
    }

    /// Fills rows of the matrix of `columns` columns, from `first_row` on, with `scale` where the sign is + and -`scale` where it is -; the
    /// scale is rounded to the type first. bergson's matrix of p rows has the scale 1 / √p ([`super::unit_scale`]) with its default
    /// scaling `jl`, and 1 / √columns with `row_norm`.
    ///
    /// # Errors
    /// The length is not a whole number of rows, or the last position is beyond 2^64.
    pub fn fill<T: Float>(
        &self,
        workers: &dyn Workers,
        columns: usize,
        first_row: usize,
        scale: f32,
        out: &mut [T],
    ) -> Result<(), ShapeError> {
        let rows = expect_rows("out", out.len(), columns)?;
        if first_row.checked_add(rows).and_then(|rows| rows.checked_mul(columns)).is_none() {
            let actual = first_row.saturating_add(rows);
            return Err(ShapeError::Dimension { name: "rows", allowed: "at most 2^64 positions", actual });
        }
        // Positions do not care about rows, so tasks need not either.
        for_rows(workers, 1, out, |range, out| {
            let position = (first_row * columns + range.start) as u64;
            let negative = negative_bits(T::DTYPE, scale);
            match bits_of(out) {
                Words::Wide(out) => {
                    self.generator.spread(position, out, |plus| (-scale).to_bits() ^ u32::from(plus) << 31)
                }
                Words::Narrow(out) => self.generator.spread(position, out, |plus| negative ^ u16::from(plus) << 15),
            }
        });
        Ok(())
    }
}

/// MD5 modulo 2^63 - 1.
fn bergson_seed(identifier: &str) -> u64 {
    (u128::from_be_bytes(digest(identifier)) % u128::from(u64::MAX >> 1)) as u64
}

/// A linear congruential generator of 128 bits, whose output is its state's halves combined and rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Pcg64 {
    state: u128,
    increment: u128,
}

impl Pcg64 {
    const MULTIPLIER: u128 = 0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645;

    /// As numpy seeds it: the first two of four words are the state that it begins with, the others choose the sequence.
    fn seeded(seed: u64) -> Self {
        let [a, b, c, d] = seed_words(seed);
        let join = |upper: u64, lower: u64| u128::from(upper) << 64 | u128::from(lower);
        let increment = join(c, d) << 1 | 1;
        let state = Self { state: increment.wrapping_add(join(a, b)), increment }.stepped();
        Self { state, increment }
    }

    const fn stepped(self) -> u128 {
        self.state.wrapping_mul(Self::MULTIPLIER).wrapping_add(self.increment)
    }

    const fn next(&mut self) -> u64 {
        self.state = self.stepped();
        ((self.state >> 64) as u64 ^ self.state as u64).rotate_right((self.state >> 122) as u32)
    }

    /// The generator after `steps` outputs. A step is an affine map, and powers of it are made by squaring (Brown, *Random number
    /// generation with arbitrary strides*, 1994).
    const fn after(self, mut steps: u64) -> Self {
        let (mut factor, mut offset) = (Self::MULTIPLIER, self.increment);
        let mut state = self.state;
        while steps > 0 {
            if steps & 1 == 1 {
                state = state.wrapping_mul(factor).wrapping_add(offset);
            }
            offset = factor.wrapping_add(1).wrapping_mul(offset);
            factor = factor.wrapping_mul(factor);
            steps >>= 1;
        }
        Self { state, increment: self.increment }
    }

    /// Fills `out` with what `value` makes of the bits from `position` on.
    fn spread<W: Copy>(self, position: u64, out: &mut [W], value: impl Fn(bool) -> W) {
        let mut generator = self.after(position / 64);
        let before = (position % 64) as usize;
        let (head, rest) = out.split_at_mut(if before == 0 { 0 } else { out.len().min(64 - before) });
        // Bytes are taken from the lowest on, and bits of a byte from the highest on; here bit k is the k-th.
        let mut word = || generator.next().swap_bytes().reverse_bits();
        if !head.is_empty() {
            let word = word() >> before;
            head.iter_mut().enumerate().for_each(|(k, out)| *out = value(word >> k & 1 == 1));
        }
        for out in rest.chunks_mut(64) {
            let word = word();
            out.iter_mut().enumerate().for_each(|(k, out)| *out = value(word >> k & 1 == 1));
        }
    }
}

/// numpy's `SeedSequence(seed).generate_state(4, uint64)`: the 32-bit words of the seed are hashed into a pool of four, these are mixed
/// with one another, and hashed again for each word that is drawn.
fn seed_words(seed: u64) -> [u64; 4] {
    /// Hashes one word with a constant that changes with each word.
    struct Hash {
        constant: u32,
        factor: u32,
    }
    impl Hash {
        const fn of(&mut self, word: u32) -> u32 {
            let word = word ^ self.constant;
            self.constant = self.constant.wrapping_mul(self.factor);
            let word = word.wrapping_mul(self.constant);
            word ^ word >> 16
        }
    }
    let mix = |x: u32, y: u32| {
        let word = x.wrapping_mul(0xCA01_F9DD).wrapping_sub(y.wrapping_mul(0x4973_F715));
        word ^ word >> 16
    };
    let mut hash = Hash { constant: 0x43B0_D7E5, factor: 0x931E_8875 };
    // A seed below 2^32 is one word to numpy; words that are missing are zeros.
    let mut pool = [seed as u32, (seed >> 32) as u32, 0, 0].map(|word| hash.of(word));
    for from in 0..4 {
        for to in 0..4 {
            if from != to {
                pool[to] = mix(pool[to], hash.of(pool[from]));
            }
        }
    }
    let mut hash = Hash { constant: 0x8B51_F9DD, factor: 0x58F3_8DED };
    let words: [u32; 8] = std::array::from_fn(|i| hash.of(pool[i % 4]));
    std::array::from_fn(|i| u64::from(words[2 * i]) | u64::from(words[2 * i + 1]) << 32)
}

#[cfg(test)]
mod tests {
    use super::{Pcg64, SequentialSigns, bergson_seed};
    use crate::workers::{Serial, Threads};
    use md5::{Digest, Md5};

    /// `numpy.random.PCG64(seed).random_raw(3)`, numpy 2.4.6.
    #[test]
    fn the_generator_is_that_of_numpy() {
        for (seed, outputs) in [
            (0, [0xa30f_ebcf_d9c2_825f, 0x4510_bdf8_82d9_d721, 0x0a7d_3da9_4ecd_e8b8]),
            (1, [0x8306_bdf3_7922_e4ff, 0xf351_96bb_c152_a866, 0x24e7_a4f6_08ec_18cd]),
            (0xffff_ffff, [0x407f_5fa9_30d8_fd9f, 0x3814_b22e_b968_4802, 0x498b_7dce_e8d8_dc95]),
            (0x1_0000_0000, [0xe3c5_ebe2_85ac_1625, 0x8ea0_9968_fe31_dbcc, 0xcd08_4ff8_4d8d_e9be]),
            (u64::MAX, [0xae16_3a7a_8c47_568f, 0xd866_59f5_f338_2359, 0x01e5_2b19_5bc2_d24a]),
        ] {
            let mut generator = Pcg64::seeded(seed);
            assert_eq!(std::array::from_fn(|_| generator.next()), outputs, "{seed}");
            for steps in 0..70 {
                let mut one_by_one = Pcg64::seeded(seed);
                (0..steps).for_each(|_| {
                    one_by_one.next();
                });
                assert_eq!(Pcg64::seeded(seed).after(steps), one_by_one);
            }
        }
    }

    /// What bergson 0.26 and numpy 2.4.6 draw: seed, first bytes, number of signs that are +, MD5 of all bytes.
    #[test]
    fn matrices_are_those_of_bergson_0_26() {
        for (identifier, rows, columns, seed, first, ones, all) in [
            (
                "layers.0.mlp.down_proj/left",
                16,
                2048,
                1_172_261_050_099_493_370,
                "167199c24480eae4e9c323a59dcbc80f",
                16_337,
                "6e99ef158378afc95cf88cbca00972b4",
            ),
            (
                "layers.0.mlp.down_proj/right",
                16,
                8192,
                3_245_692_288_445_500_083,
                "663fd73f7b69e8f38b60c4f69daa6a29",
                65_559,
                "c8570dc5af8914e3328f1aef6bb03d7a",
            ),
            ("a/right", 8, 5, 37_482_614_750_759_786, "d8f0810660", 14, "afee32fba2d6d7972c60fcffed995907"),
            (
                "layers.3.self_attn.q_proj/left",
                7,
                131,
                1_679_083_067_105_330_121,
                "33fbb38df6f6bd42c05f05c159b587f0",
                489,
                "d6c696120f3362ead7e940c1ce9d4169",
            ),
        ] {
            assert_eq!(bergson_seed(identifier), seed);
            let signs = SequentialSigns::bergson_0_26(identifier);
            let mut matrix = vec![0_f32; rows * columns];
            signs.fill(&Threads::new(3), columns, 0, 1.0, &mut matrix).unwrap();
            assert_eq!(matrix.iter().filter(|&&value| value == 1.0).count(), ones);
            assert!(matrix.iter().all(|value| value.abs() == 1.0));
            let bytes: Vec<u8> = matrix
                .chunks(8)
                .map(|signs| {
                    signs.iter().enumerate().fold(0, |byte, (i, &sign)| byte | u8::from(sign > 0.0) << (7 - i))
                })
                .collect();
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            assert!(hex(&bytes).starts_with(first), "{identifier}");
            assert_eq!(hex(&Md5::digest(&bytes)), all, "{identifier}");

            // The last rows alone, in another type.
            let mut last = vec![half::bf16::ZERO; 3 * columns];
            signs.fill(&Serial, columns, rows - 3, -0.3, &mut last).unwrap();
            let scale = half::bf16::from_f32(-0.3).to_f32();
            let from_whole = matrix[(rows - 3) * columns..].iter().map(|sign| sign * scale);
            assert!(last.iter().map(|value| value.to_f32()).eq(from_whole), "{identifier}");
        }
    }

    #[test]
    fn wrong_shapes_are_errors() {
        let signs = SequentialSigns::bergson_0_26("");
        assert!(signs.fill(&Serial, 3, 0, 1.0, &mut [0_f32; 4]).is_err());
        assert!(signs.fill(&Serial, 2, usize::MAX, 1.0, &mut [0_f32; 4]).is_err());
        assert!(signs.fill::<f32>(&Serial, 0, 0, 1.0, &mut []).is_ok());
    }
}

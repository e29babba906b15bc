//! Philox4x32-10, one counter at a time and eight at a time, and bits made into signs of numbers.
#![allow(unsafe_code, reason = "vector intrinsics, whose only condition is that the processor has them")]

use crate::simd::Plain;

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// The cipher: ten rounds on the counter.
pub(super) const fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let ([mut a, mut b, mut c, mut d], [mut first, mut second]) = (counter, key);
    let mut round = 0;
    while round < ROUNDS {
        let left = a as u64 * MULTIPLIERS[0] as u64;
        let right = c as u64 * MULTIPLIERS[1] as u64;
        (a, b, c, d) = ((right >> 32) as u32 ^ b ^ first, right as u32, (left >> 32) as u32 ^ d ^ second, left as u32);
        first = first.wrapping_add(KEY_STEPS[0]);
        second = second.wrapping_add(KEY_STEPS[1]);
        round += 1;
    }
    [a, b, c, d]
}

/// What filling a matrix needs of a processor.
pub(super) trait Bits: Copy {
    /// The cipher on eight counters `[groups[i], rows[i], module[0], module[1]]`: word w of the i-th is `result[w][i]`.
    fn eight(self, groups: &[u32; 8], rows: &[u32; 8], module: [u32; 2], key: [u32; 2]) -> [[u32; 8]; 4];

    /// `negative` for each bit that is 0, and `negative` with its sign changed for each that is 1, lowest bit first.
    fn spread_32(self, word: u32, negative: u32, to: &mut [u32; 32]);

    /// The same for numbers of 16 bits.
    fn spread_16(self, word: u32, negative: u16, to: &mut [u16; 32]);
}

impl Bits for Plain {
    #[inline(always)]
    fn eight(self, groups: &[u32; 8], rows: &[u32; 8], module: [u32; 2], key: [u32; 2]) -> [[u32; 8]; 4] {
        let mut words = [[0; 8]; 4];
        for i in 0..8 {
            let output = philox([groups[i], rows[i], module[0], module[1]], key);
            for (words, word) in words.iter_mut().zip(output) {
                words[i] = word;
            }
        }
        words
    }

    #[inline(always)]
    fn spread_32(self, word: u32, negative: u32, to: &mut [u32; 32]) {
        for (i, to) in to.iter_mut().enumerate() {
            *to = negative ^ (word >> i & 1) << 31;
        }
    }

    #[inline(always)]
    fn spread_16(self, word: u32, negative: u16, to: &mut [u16; 32]) {
        for (i, to) in to.iter_mut().enumerate() {
            *to = negative ^ ((word >> i & 1) as u16) << 15;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Bits, KEY_STEPS, MULTIPLIERS, ROUNDS};
    use crate::simd::Avx2;
    use std::arch::x86_64::*;

    /// Lower and upper halves of the products of eight lanes with one number. The instruction multiplies even lanes only, so odd lanes are
    /// moved down for it.
    #[inline(always)]
    fn products(lanes: __m256i, multiplier: __m256i) -> (__m256i, __m256i) {
        // SAFETY: called only with a value of `Avx2` at hand, which exists only where the processor has AVX2.
        unsafe {
            let even = _mm256_mul_epu32(lanes, multiplier);
            let odd = _mm256_mul_epu32(_mm256_srli_epi64::<32>(lanes), multiplier);
            let lower = _mm256_blend_epi32::<0b1010_1010>(even, _mm256_slli_epi64::<32>(odd));
            let upper = _mm256_blend_epi32::<0b1010_1010>(_mm256_srli_epi64::<32>(even), odd);
            (lower, upper)
        }
    }

    // SAFETY of all that follows: a value of `Avx2` exists only where the processor has AVX2, and loads and stores are of whole arrays.
    impl Bits for Avx2 {
        #[inline(always)]
        fn eight(self, groups: &[u32; 8], rows: &[u32; 8], module: [u32; 2], key: [u32; 2]) -> [[u32; 8]; 4] {
            unsafe {
                let splat = |word: u32| _mm256_set1_epi32(word.cast_signed());
                let mut a = _mm256_loadu_si256(groups.as_ptr().cast());
                let mut b = _mm256_loadu_si256(rows.as_ptr().cast());
                let (mut c, mut d) = (splat(module[0]), splat(module[1]));
                let multipliers = MULTIPLIERS.map(splat);
                let [mut first, mut second] = key;
                for _ in 0..ROUNDS {
                    let (left_lower, left_upper) = products(a, multipliers[0]);
                    let (right_lower, right_upper) = products(c, multipliers[1]);
                    a = _mm256_xor_si256(_mm256_xor_si256(right_upper, b), splat(first));
                    b = right_lower;
                    c = _mm256_xor_si256(_mm256_xor_si256(left_upper, d), splat(second));
                    d = left_lower;
                    first = first.wrapping_add(KEY_STEPS[0]);
                    second = second.wrapping_add(KEY_STEPS[1]);
                }
                let mut words = [[0; 8]; 4];
                for (words, lanes) in words.iter_mut().zip([a, b, c, d]) {
                    _mm256_storeu_si256(words.as_mut_ptr().cast(), lanes);
                }
                words
            }
        }

        #[inline(always)]
        fn spread_32(self, word: u32, negative: u32, to: &mut [u32; 32]) {
            unsafe {
                let word = _mm256_set1_epi32(word.cast_signed());
                let negative = _mm256_set1_epi32(negative.cast_signed());
                let top = _mm256_set1_epi32(i32::MIN);
                for (i, to) in to.chunks_exact_mut(8).enumerate() {
                    // Bit 8 i + lane of the word is moved to the top of the lane.
                    let steps = _mm256_sub_epi32(
                        _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24),
                        _mm256_set1_epi32(8 * i as i32),
                    );
                    let signs = _mm256_and_si256(_mm256_sllv_epi32(word, steps), top);
                    _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm256_xor_si256(negative, signs));
                }
            }
        }

        #[inline(always)]
        fn spread_16(self, word: u32, negative: u16, to: &mut [u16; 32]) {
            unsafe {
                let negative = _mm256_set1_epi16(negative.cast_signed());
                let top = _mm256_set1_epi16(i16::MIN);
                let own =
                    _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, i16::MIN);
                for (half, to) in [word as u16, (word >> 16) as u16].into_iter().zip(to.chunks_exact_mut(16)) {
                    let bits = _mm256_and_si256(_mm256_set1_epi16(half.cast_signed()), own);
                    let signs = _mm256_and_si256(_mm256_cmpeq_epi16(bits, own), top);
                    _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm256_xor_si256(negative, signs));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::philox;

    /// The known answers that come with Random123 1.14 (`kat_vectors`, philox4x32 10).
    #[test]
    fn known_answers() {
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        for (counter, key, answer) in [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (pi, [0xa409_3822, 0x299f_31d0], [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]),
        ] {
            assert_eq!(philox(counter, key), answer);
        }
    }
}

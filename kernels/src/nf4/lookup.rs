//! From codes to numbers.
//!
//! All values of a block are among sixteen, so the numbers of a block are made first, rounded to the type that is asked for, and then
//! looked up. With AVX2 a table of sixteen bytes is one instruction for thirty-two codes: numbers of two bytes take two tables.
#![allow(unsafe_code, reason = "vector intrinsics, whose only condition is that the processor has them")]
#![allow(clippy::needless_range_loop, reason = "counted loops over arrays of registers")]

use super::cpu::Weight;
use super::table::CODES;
use super::{BLOCK, Quantised};
use crate::gemm::round_to_bf16;
use crate::simd::{Plain, Simd, dispatch};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

impl Weight for f32 {
    fn unquantise(from: Quantised<&[u8], &[f32]>, first: usize, to: &mut [Self]) {
        singles(from, first, to);
    }
}

impl Weight for bf16 {
    fn unquantise(from: Quantised<&[u8], &[f32]>, first: usize, to: &mut [Self]) {
        bf16_bits(from, first, to.reinterpret_cast_mut());
    }
}

impl Weight for f16 {
    fn unquantise(from: Quantised<&[u8], &[f32]>, first: usize, to: &mut [Self]) {
        f16_bits(from, first, to.reinterpret_cast_mut());
    }
}

dispatch!(fn singles(from: Quantised<&[u8], &[f32]>, first: usize, to: &mut [f32]) = singles_on);
dispatch!(pub(super) fn bf16_bits(from: Quantised<&[u8], &[f32]>, first: usize, to: &mut [u16]) = bf16_bits_on);
dispatch!(fn f16_bits(from: Quantised<&[u8], &[f32]>, first: usize, to: &mut [u16]) = f16_bits_on);

#[inline(always)]
fn singles_on<S: LookUp>(simd: S, from: Quantised<&[u8], &[f32]>, first: usize, to: &mut [f32]) {
    let numbers = |scale: f32| CODES.map(|code| code * scale);
    values(from, first, to, numbers, |table, codes, to| simd.look_up_singles(table, codes, to));
}

#[inline(always)]
fn bf16_bits_on<S: LookUp>(simd: S, from: Quantised<&[u8], &[f32]>, first: usize, to: &mut [u16]) {
    let numbers = |scale: f32| CODES.map(|code| round_to_bf16(code * scale));
    values(from, first, to, numbers, |table, codes, to| simd.look_up_halves(table, codes, to));
}

#[inline(always)]
fn f16_bits_on<S: LookUp>(simd: S, from: Quantised<&[u8], &[f32]>, first: usize, to: &mut [u16]) {
    let numbers = |scale: f32| {
        let mut halves = [f16::ZERO; 16];
        halves.convert_from_f32_slice(&CODES.map(|code| code * scale));
        halves.map(f16::to_bits)
    };
    values(from, first, to, numbers, |table, codes, to| simd.look_up_halves(table, codes, to));
}

/// Whole blocks by `whole`, what is left of others one by one.
#[inline(always)]
fn values<T: Copy>(
    from: Quantised<&[u8], &[f32]>,
    first: usize,
    to: &mut [T],
    numbers: impl Fn(f32) -> [T; 16],
    whole: impl Fn(&[T; 16], &[u8; BLOCK / 2], &mut [T; BLOCK]),
) {
    let (mut first, mut to) = (first, to);
    while !to.is_empty() {
        let table = numbers(from.scale(first / BLOCK));
        let count = (BLOCK - first % BLOCK).min(to.len());
        let (now, later) = to.split_at_mut(count);
        match (now.first_chunk_mut(), from.codes[first / 2..].first_chunk()) {
            // A whole block begins at a whole byte.
            (Some(now), Some(codes)) if count == BLOCK => whole(&table, codes, now),
            _ => now.iter_mut().zip(first..).for_each(|(to, i)| {
                let pair = from.codes[i / 2];
                *to = table[usize::from(if i % 2 == 0 { pair >> 4 } else { pair & 15 })];
            }),
        }
        (first, to) = (first + count, later);
    }
}

/// Looking up a block of codes in a table of sixteen numbers, and laying out what was looked up.
pub(super) trait LookUp: Simd {
    /// Numbers of two bytes.
    fn look_up_halves(self, table: &[u16; 16], codes: &[u8; BLOCK / 2], to: &mut [u16; BLOCK]);
    /// Numbers of four bytes.
    fn look_up_singles(self, table: &[f32; 16], codes: &[u8; BLOCK / 2], to: &mut [f32; BLOCK]);
    /// Sixteen rows of pairs, `pairs` of each, as rows of sixteen pairs. Both have 32 · `pairs` numbers, and `pairs` is a multiple of 8.
    fn transpose_pairs(self, rows: &[u16], pairs: usize, to: &mut [u16]);
}

#[inline(always)]
fn each<T: Copy>(table: &[T; 16], codes: &[u8; BLOCK / 2], to: &mut [T; BLOCK]) {
    for (pair, to) in codes.iter().zip(to.as_chunks_mut::<2>().0) {
        *to = [table[usize::from(pair >> 4)], table[usize::from(pair & 15)]];
    }
}

impl LookUp for Plain {
    #[inline(always)]
    fn look_up_halves(self, table: &[u16; 16], codes: &[u8; BLOCK / 2], to: &mut [u16; BLOCK]) {
        each(table, codes, to);
    }
    #[inline(always)]
    fn look_up_singles(self, table: &[f32; 16], codes: &[u8; BLOCK / 2], to: &mut [f32; BLOCK]) {
        each(table, codes, to);
    }
    #[inline(always)]
    fn transpose_pairs(self, rows: &[u16], pairs: usize, to: &mut [u16]) {
        let (rows, to) = (rows.as_chunks::<2>().0, to.as_chunks_mut::<2>().0);
        for (pair, to) in to.chunks_exact_mut(16).enumerate() {
            to.iter_mut().zip(rows.chunks_exact(pairs)).for_each(|(to, row)| *to = row[pair]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{BLOCK, LookUp};
    use crate::simd::Avx2;
    use std::arch::x86_64::*;

    // SAFETY of all that follows: a value of `Avx2` exists only where the processor has AVX2; pointers reach as far as the arrays
    // that they come from, and where there are slices their lengths are checked.
    impl LookUp for Avx2 {
        #[inline(always)]
        fn look_up_halves(self, table: &[u16; 16], codes: &[u8; BLOCK / 2], to: &mut [u16; BLOCK]) {
            unsafe {
                // Lower and upper bytes of the numbers, in both halves of a register.
                let low_bytes = _mm256_set1_epi16(0xff);
                let numbers = _mm256_loadu_si256(table.as_ptr().cast());
                let low = _mm256_and_si256(numbers, low_bytes);
                let bytes = _mm256_packus_epi16(low, _mm256_srli_epi16::<8>(numbers));
                let low = _mm256_permute4x64_epi64::<0b10_00_10_00>(bytes);
                let high = _mm256_permute4x64_epi64::<0b11_01_11_01>(bytes);

                let nibbles = _mm256_set1_epi8(15);
                let pairs = _mm256_loadu_si256(codes.as_ptr().cast());
                let codes =
                    [_mm256_and_si256(_mm256_srli_epi16::<4>(pairs), nibbles), _mm256_and_si256(pairs, nibbles)];
                // For the first and the second codes of pairs: the numbers of eight pairs of each half, and of the next eight.
                let mut words = [[low_bytes; 2]; 2];
                for i in 0..2 {
                    let (low, high) = (_mm256_shuffle_epi8(low, codes[i]), _mm256_shuffle_epi8(high, codes[i]));
                    words[i] = [_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high)];
                }
                let [[first_low, first_high], [second_low, second_high]] = words;
                // Each has eight values of the first half of the block, and eight of the second.
                let values = [
                    _mm256_unpacklo_epi16(first_low, second_low),
                    _mm256_unpackhi_epi16(first_low, second_low),
                    _mm256_unpacklo_epi16(first_high, second_high),
                    _mm256_unpackhi_epi16(first_high, second_high),
                ];
                let to: *mut __m128i = to.as_mut_ptr().cast();
                for (i, value) in values.into_iter().enumerate() {
                    _mm_storeu_si128(to.add(i), _mm256_castsi256_si128(value));
                    _mm_storeu_si128(to.add(4 + i), _mm256_extracti128_si256::<1>(value));
                }
            }
        }

        #[inline(always)]
        fn look_up_singles(self, table: &[f32; 16], codes: &[u8; BLOCK / 2], to: &mut [f32; BLOCK]) {
            unsafe {
                let below = _mm256_loadu_ps(table.as_ptr());
                let above = _mm256_loadu_ps(table.as_ptr().add(8));
                let nibbles = _mm_set1_epi8(15);
                for i in 0..BLOCK / 16 {
                    let pairs = _mm_loadl_epi64(codes.as_ptr().add(8 * i).cast());
                    let first = _mm_and_si128(_mm_srli_epi16::<4>(pairs), nibbles);
                    let sixteen = _mm_unpacklo_epi8(first, _mm_and_si128(pairs, nibbles));
                    for half in 0..2 {
                        let eight = if half == 0 { sixteen } else { _mm_srli_si128::<8>(sixteen) };
                        let codes = _mm256_cvtepu8_epi32(eight);
                        // Bit 3 of a code says which half of the table, where the blend looks for it.
                        let upper = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes));
                        let (below, above) =
                            (_mm256_permutevar8x32_ps(below, codes), _mm256_permutevar8x32_ps(above, codes));
                        _mm256_storeu_ps(to.as_mut_ptr().add(16 * i + 8 * half), _mm256_blendv_ps(below, above, upper));
                    }
                }
            }
        }

        #[inline(always)]
        fn transpose_pairs(self, rows: &[u16], pairs: usize, to: &mut [u16]) {
            assert!(
                rows.len() >= 32 * pairs && to.len() >= 32 * pairs && pairs.is_multiple_of(8),
                "rows of pairs are too short"
            );
            let rows: *const u32 = rows.as_ptr().cast();
            let to: *mut u32 = to.as_mut_ptr().cast();
            for half in [0, 8] {
                for pair in (0..pairs).step_by(8) {
                    unsafe {
                        // Loops, not closures: those would lose the instructions where they are not inlined.
                        let mut eight = [_mm256_setzero_si256(); 8];
                        for i in 0..8 {
                            eight[i] = _mm256_loadu_si256(rows.add((half + i) * pairs + pair).cast());
                        }
                        let mut couples = eight;
                        for i in [0, 2, 4, 6] {
                            couples[i] = _mm256_unpacklo_epi32(eight[i], eight[i + 1]);
                            couples[i + 1] = _mm256_unpackhi_epi32(eight[i], eight[i + 1]);
                        }
                        let mut quartets = couples;
                        for i in [0, 4] {
                            quartets[i] = _mm256_unpacklo_epi64(couples[i], couples[i + 2]);
                            quartets[i + 1] = _mm256_unpackhi_epi64(couples[i], couples[i + 2]);
                            quartets[i + 2] = _mm256_unpacklo_epi64(couples[i + 1], couples[i + 3]);
                            quartets[i + 3] = _mm256_unpackhi_epi64(couples[i + 1], couples[i + 3]);
                        }
                        for i in 0..4 {
                            let low = _mm256_permute2x128_si256::<0x20>(quartets[i], quartets[4 + i]);
                            let high = _mm256_permute2x128_si256::<0x31>(quartets[i], quartets[4 + i]);
                            _mm256_storeu_si256(to.add((pair + i) * 16 + half).cast(), low);
                            _mm256_storeu_si256(to.add((pair + 4 + i) * 16 + half).cast(), high);
                        }
                    }
                }
            }
        }
    }
}

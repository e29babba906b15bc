//! Micro-kernels for AVX-512: sixteen lanes, so a row of a panel is one vector, and thirty-two registers.
//!
//! Fourteen rows by two panels take twenty-eight registers for sums and two for weights; the number of the left operand is
//! repeated in all lanes by the multiply-add itself, from memory. With fewer rows more panels are taken at once, so that there are
//! always eight independent sums or more.
//!
//! bf16 comes in two forms. With the instructions for it, a pair of k of sixteen columns is multiplied with a pair of the left
//! operand and added in one step. Without, weights are widened as in the AVX2 version; that takes two more registers.
//!
//! The dot-product instruction treats subnormal numbers as zero and rounds to nearest; the order in which it adds the two products
//! is its own. All other engines follow IEEE 754 with the order of k.

#![allow(unsafe_code, reason = "vector intrinsics on raw memory")]
#![allow(
    clippy::needless_range_loop,
    reason = "counted loops over arrays of registers read like the tile that they compute"
)]

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _MM_HINT_T0, _mm_prefetch, _mm512_add_ps, _mm512_and_si512, _mm512_castsi512_ps,
    _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_setzero_si512, _mm512_slli_epi32, _mm512_storeu_ps,
};

use super::driver::{Kernel, Start, Tile};
use super::element::{Bf16, Rounded};
use super::pack::PANEL;

/// f32 by f32.
pub(super) struct Avx512F32;
/// bf16 by bf16, computed in f32.
pub(super) struct Avx512Widening;
/// bf16 by bf16, with the dot-product instruction.
pub(super) struct Avx512Dot;

/// Values of k in a group of the left operand.
const GROUP: usize = 8;
/// How far ahead of their use weights are fetched when there are few rows, in bytes.
const AHEAD: usize = 1024;

impl Kernel for Avx512F32 {
    type Left = f32;
    type Right = f32;
    const ROWS: usize = 14;
    const DEPTH: usize = 256;
    const BLOCK_ROWS: usize = 336;

    fn panels(rows: usize) -> usize {
        panels(rows)
    }

    unsafe fn run(tile: &Tile<f32, f32>) {
        // SAFETY: the same conditions.
        unsafe { dispatch_avx512(tile) };
    }
}

impl Kernel for Avx512Widening {
    type Left = Rounded;
    type Right = Bf16;
    const ROWS: usize = 12;
    const DEPTH: usize = 256;
    const BLOCK_ROWS: usize = 336;

    fn panels(rows: usize) -> usize {
        panels(rows)
    }

    unsafe fn run(tile: &Tile<Rounded, Bf16>) {
        // SAFETY: the same conditions.
        unsafe { dispatch_widening(tile) };
    }
}

impl Kernel for Avx512Dot {
    type Left = Bf16;
    type Right = Bf16;
    const ROWS: usize = 14;
    const DEPTH: usize = 512;
    const BLOCK_ROWS: usize = 336;

    fn panels(rows: usize) -> usize {
        panels(rows)
    }

    unsafe fn run(tile: &Tile<Bf16, Bf16>) {
        // SAFETY: the same conditions.
        unsafe { dispatch_dot(tile) };
    }
}

/// At least eight sums where rows suffice, at most twenty-eight.
fn panels(rows: usize) -> usize {
    match rows {
        1 => 8,
        2 | 3 => 4,
        _ => 2,
    }
}

/// Takes as many panels at once as registers allow, and the rest one by one. A macro, because a function with the features enabled
/// cannot be generic over which.
macro_rules! kernel {
    ($dispatch:ident, $sum:ident, $features:literal, $left:ty, $right:ty, $step:ident) => {
        /// # Safety
        ///
        /// As for [`Kernel::run`].
        #[target_feature(enable = $features)]
        unsafe fn $dispatch(tile: &Tile<$left, $right>) {
            // SAFETY: the same conditions; each call takes as many rows as the tile has, and panels that it has.
            unsafe {
                let mut panel = 0;
                while panel < tile.panels {
                    let left = tile.panels - panel;
                    panel += match (tile.rows, left) {
                        (1, 8..) => $sum::<1, 8>(tile, panel),
                        (1, 4..) => $sum::<1, 4>(tile, panel),
                        (1, _) => $sum::<1, 1>(tile, panel),
                        (2, 4..) => $sum::<2, 4>(tile, panel),
                        (2, _) => $sum::<2, 1>(tile, panel),
                        (3, 4..) => $sum::<3, 4>(tile, panel),
                        (3, _) => $sum::<3, 1>(tile, panel),
                        (4, 2..) => $sum::<4, 2>(tile, panel),
                        (4, _) => $sum::<4, 1>(tile, panel),
                        (5, 2..) => $sum::<5, 2>(tile, panel),
                        (5, _) => $sum::<5, 1>(tile, panel),
                        (6, 2..) => $sum::<6, 2>(tile, panel),
                        (6, _) => $sum::<6, 1>(tile, panel),
                        (7, 2..) => $sum::<7, 2>(tile, panel),
                        (7, _) => $sum::<7, 1>(tile, panel),
                        (8, 2..) => $sum::<8, 2>(tile, panel),
                        (8, _) => $sum::<8, 1>(tile, panel),
                        (9, 2..) => $sum::<9, 2>(tile, panel),
                        (9, _) => $sum::<9, 1>(tile, panel),
                        (10, 2..) => $sum::<10, 2>(tile, panel),
                        (10, _) => $sum::<10, 1>(tile, panel),
                        (11, 2..) => $sum::<11, 2>(tile, panel),
                        (11, _) => $sum::<11, 1>(tile, panel),
                        (12, 2..) => $sum::<12, 2>(tile, panel),
                        (12, _) => $sum::<12, 1>(tile, panel),
                        (13, 2..) => $sum::<13, 2>(tile, panel),
                        (13, _) => $sum::<13, 1>(tile, panel),
                        (_, 2..) => $sum::<14, 2>(tile, panel),
                        (_, _) => $sum::<14, 1>(tile, panel),
                    };
                }
            }
        }

        /// Computes the panels from `first` on and says how many.
        ///
        /// # Safety
        ///
        /// As for [`Kernel::run`]; the tile has `ROWS` rows and `PANELS` panels from `first` on.
        #[target_feature(enable = $features)]
        unsafe fn $sum<const ROWS: usize, const PANELS: usize>(tile: &Tile<$left, $right>, first: usize) -> usize {
            let mut sums = [[_mm512_setzero_ps(); PANELS]; ROWS];
            // SAFETY: the left operand has ROWS · GROUP numbers for each group; each panel PANEL · GROUP. Prefetching may name
            // any address.
            unsafe {
                let mut left = tile.left;
                let mut right = tile.right.add(first * tile.panel_stride);
                for _ in 0..tile.depth / GROUP {
                    for pair in 0..GROUP / 2 {
                        if ROWS <= 3 {
                            for panel in 0..PANELS {
                                let here = right.add(panel * tile.panel_stride + pair * 2 * PANEL).cast::<i8>();
                                _mm_prefetch::<_MM_HINT_T0>(here.wrapping_add(AHEAD));
                                if size_of::<$right>() == 4 {
                                    _mm_prefetch::<_MM_HINT_T0>(here.wrapping_add(AHEAD + 64));
                                }
                            }
                        }
                        $step(left.add(pair * 2), right.add(pair * 2 * PANEL), tile.panel_stride, &mut sums);
                    }
                    left = left.add(ROWS * GROUP);
                    right = right.add(PANEL * GROUP);
                }
            }
            // SAFETY: the tile has these rows and panels.
            unsafe { store(tile, first, &sums) };
            PANELS
        }
    };
}

kernel!(dispatch_avx512, sum_avx512, "avx512f", f32, f32, step_f32);
kernel!(dispatch_widening, sum_widening, "avx512f", Rounded, Bf16, step_widening);
kernel!(dispatch_dot, sum_dot, "avx512f,avx512bf16", Bf16, Bf16, step_dot);

/// Adds the products of two values of k.
///
/// # Safety
///
/// AVX-512F; the operands reach two values of k for all rows and panels.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn step_f32<const ROWS: usize, const PANELS: usize>(
    left: *const f32,
    right: *const f32,
    panel_stride: usize,
    sums: &mut [[__m512; PANELS]; ROWS],
) {
    for k in 0..2 {
        let mut weights = [_mm512_setzero_ps(); PANELS];
        for panel in 0..PANELS {
            // SAFETY: as for this function.
            weights[panel] = unsafe { _mm512_loadu_ps(right.add(panel * panel_stride + k * PANEL)) };
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as for this function.
            let number = _mm512_set1_ps(unsafe { *left.add(row * GROUP + k) });
            for panel in 0..PANELS {
                sums[panel] = _mm512_fmadd_ps(number, weights[panel], sums[panel]);
            }
        }
    }
}

/// As [`step_f32`], for bf16 weights.
///
/// # Safety
///
/// As for [`step_f32`].
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn step_widening<const ROWS: usize, const PANELS: usize>(
    left: *const Rounded,
    right: *const Bf16,
    panel_stride: usize,
    sums: &mut [[__m512; PANELS]; ROWS],
) {
    let mut pairs = [_mm512_setzero_si512(); PANELS];
    for panel in 0..PANELS {
        // SAFETY: as for this function.
        pairs[panel] = unsafe { _mm512_loadu_si512(right.add(panel * panel_stride).cast()) };
    }
    let odd = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
    for k in 0..2 {
        let mut weights = [_mm512_setzero_ps(); PANELS];
        for panel in 0..PANELS {
            let bits = if k == 0 { _mm512_slli_epi32::<16>(pairs[panel]) } else { _mm512_and_si512(pairs[panel], odd) };
            weights[panel] = _mm512_castsi512_ps(bits);
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as for this function.
            let number = _mm512_set1_ps(unsafe { (*left.add(row * GROUP + k)).0 });
            for panel in 0..PANELS {
                sums[panel] = _mm512_fmadd_ps(number, weights[panel], sums[panel]);
            }
        }
    }
}

/// As [`step_f32`], for bf16 operands, with one instruction for a pair.
///
/// # Safety
///
/// As for [`step_f32`], and AVX512-BF16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn step_dot<const ROWS: usize, const PANELS: usize>(
    left: *const Bf16,
    right: *const Bf16,
    panel_stride: usize,
    sums: &mut [[__m512; PANELS]; ROWS],
) {
    let mut weights = [_mm512_setzero_si512(); PANELS];
    for panel in 0..PANELS {
        // SAFETY: as for this function.
        weights[panel] = unsafe { _mm512_loadu_si512(right.add(panel * panel_stride).cast()) };
    }
    for (row, sums) in sums.iter_mut().enumerate() {
        // SAFETY: as for this function; the pair is read as one number of 32 bits, wherever it lies.
        let pair = unsafe { left.add(row * GROUP).cast::<i32>().read_unaligned() };
        let pair = as_bf16(_mm512_set1_epi32(pair));
        for panel in 0..PANELS {
            sums[panel] = _mm512_dpbf16_ps(sums[panel], pair, as_bf16(weights[panel]));
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn as_bf16(vector: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes of any value.
    unsafe { std::mem::transmute(vector) }
}

/// Adds the sums to the result.
///
/// # Safety
///
/// AVX-512F; the tile has these rows, and these panels from `first` on.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn store<L, R, const ROWS: usize, const PANELS: usize>(
    tile: &Tile<L, R>,
    first: usize,
    sums: &[[__m512; PANELS]; ROWS],
) {
    for (row, sums) in sums.iter().enumerate() {
        for (panel, sum) in sums.iter().enumerate() {
            let column = (first + panel) * PANEL;
            // SAFETY: inside of the tile; the bias is as wide as the tile where it is used.
            unsafe {
                let out = tile.out.add(row * tile.out_stride + column);
                let value = match tile.start {
                    Start::Zero => *sum,
                    Start::Bias => _mm512_add_ps(_mm512_loadu_ps(tile.bias.add(column)), *sum),
                    Start::Keep => _mm512_add_ps(_mm512_loadu_ps(out), *sum),
                };
                _mm512_storeu_ps(out, value);
            }
        }
    }
}

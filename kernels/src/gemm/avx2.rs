//! Micro-kernels for AVX2 and FMA: eight lanes, sixteen registers.
//!
//! Six rows by one panel take twelve registers for sums, two for weights and one for a number of the left operand, which is
//! repeated in all lanes. With fewer rows there would be too few independent sums to hide the latency of a multiply-add
//! (four or five cycles, two begun in each), so several panels are taken at once.
//!
//! bf16 weights are widened in registers. Pairs of k lie side by side, so the lower halves of eight pairs are the even
//! values of k of eight columns, and the upper halves the odd ones: a shift, or a mask, makes them f32.

#![allow(unsafe_code, reason = "vector intrinsics on raw memory")]
#![allow(
    clippy::needless_range_loop,
    reason = "counted loops over arrays of registers read like the tile that they compute"
)]

use std::arch::x86_64::{
    __m256, _MM_HINT_T0, _mm_prefetch, _mm256_add_ps, _mm256_and_si256, _mm256_broadcast_ss, _mm256_castsi256_ps,
    _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_set1_epi32, _mm256_setzero_ps, _mm256_slli_epi32,
    _mm256_storeu_ps,
};

use super::driver::{Kernel, Start, Tile};
use super::element::{Bf16, Rounded};
use super::pack::PANEL;

/// f32 by f32.
pub(super) struct Avx2F32;
/// bf16 by bf16, computed in f32.
pub(super) struct Avx2Bf16;

/// Values of k in a group of the left operand.
const GROUP: usize = 8;
/// Vectors in a row of a panel.
const VECTORS: usize = 2;
/// How far ahead of their use weights are fetched when there are few rows, in bytes.
const AHEAD: usize = 1024;

impl Kernel for Avx2F32 {
    type Left = f32;
    type Right = f32;
    const ROWS: usize = 6;
    const DEPTH: usize = 256;
    const BLOCK_ROWS: usize = 192;

    fn panels(rows: usize) -> usize {
        panels(rows)
    }

    unsafe fn run(tile: &Tile<f32, f32>) {
        // SAFETY: the same conditions.
        unsafe { dispatch::<Self>(tile) };
    }
}

impl Kernel for Avx2Bf16 {
    type Left = Rounded;
    type Right = Bf16;
    const ROWS: usize = 6;
    const DEPTH: usize = 256;
    const BLOCK_ROWS: usize = 192;

    fn panels(rows: usize) -> usize {
        panels(rows)
    }

    unsafe fn run(tile: &Tile<Rounded, Bf16>) {
        // SAFETY: the same conditions.
        unsafe { dispatch::<Self>(tile) };
    }
}

/// At least eight sums, at most twelve; six for three rows, since twelve would leave no register for the numbers.
fn panels(rows: usize) -> usize {
    match rows {
        1 => 4,
        2 => 2,
        _ => 1,
    }
}

/// How weights become vectors of f32.
trait Load: Kernel {
    /// The columns of a panel for the value `k` of k in a group.
    ///
    /// # Safety
    ///
    /// AVX2, and `panel` reaches a whole group.
    unsafe fn load(panel: *const Self::Right, k: usize) -> [__m256; VECTORS];
}

impl Load for Avx2F32 {
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn load(panel: *const f32, k: usize) -> [__m256; VECTORS] {
        // SAFETY: `panel` has GROUP rows of PANEL numbers.
        unsafe { [_mm256_loadu_ps(panel.add(k * PANEL)), _mm256_loadu_ps(panel.add(k * PANEL + 8))] }
    }
}

impl Load for Avx2Bf16 {
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn load(panel: *const Bf16, k: usize) -> [__m256; VECTORS] {
        let pairs = panel.wrapping_add(k / 2 * 2 * PANEL);
        // SAFETY: `panel` has GROUP / 2 rows of PANEL pairs.
        let pairs = unsafe { [_mm256_loadu_si256(pairs.cast()), _mm256_loadu_si256(pairs.add(PANEL).cast())] };
        if k.is_multiple_of(2) {
            pairs.map(|pairs| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)))
        } else {
            let odd = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
            pairs.map(|pairs| _mm256_castsi256_ps(_mm256_and_si256(pairs, odd)))
        }
    }
}

/// # Safety
///
/// As for [`Kernel::run`].
#[target_feature(enable = "avx2,fma")]
unsafe fn dispatch<K: Load>(tile: &Tile<K::Left, K::Right>) {
    // SAFETY: the same conditions; each call takes as many rows as the tile has, and panels that it has.
    unsafe {
        let mut panel = 0;
        while panel < tile.panels {
            let left = tile.panels - panel;
            panel += match (tile.rows, left) {
                (1, 4..) => sum::<K, 1, 4>(tile, panel),
                (1, 2..) => sum::<K, 1, 2>(tile, panel),
                (1, _) => sum::<K, 1, 1>(tile, panel),
                (2, 2..) => sum::<K, 2, 2>(tile, panel),
                (2, _) => sum::<K, 2, 1>(tile, panel),
                (3, _) => sum::<K, 3, 1>(tile, panel),
                (4, _) => sum::<K, 4, 1>(tile, panel),
                (5, _) => sum::<K, 5, 1>(tile, panel),
                _ => sum::<K, 6, 1>(tile, panel),
            };
        }
    }
}

/// Computes the panels from `first` on and says how many.
///
/// # Safety
///
/// As for [`Kernel::run`]; the tile has `ROWS` rows and `PANELS` panels from `first` on.
#[target_feature(enable = "avx2,fma")]
unsafe fn sum<K: Load, const ROWS: usize, const PANELS: usize>(tile: &Tile<K::Left, K::Right>, first: usize) -> usize {
    let mut sums = [[[_mm256_setzero_ps(); VECTORS]; PANELS]; ROWS];
    if ROWS > 3 {
        // The result comes from afar, and is not needed before the sums are done.
        for row in 0..ROWS {
            let out = tile.out.wrapping_add(row * tile.out_stride + first * PANEL).cast::<i8>();
            _mm_prefetch::<_MM_HINT_T0>(out);
            _mm_prefetch::<_MM_HINT_T0>(out.wrapping_add(PANEL * size_of::<f32>() - 1));
        }
    }
    // SAFETY: the left operand has ROWS · GROUP numbers for each group, as f32; each panel PANEL · GROUP. Prefetching may
    // name any address.
    unsafe {
        let mut left = tile.left.cast::<f32>();
        let mut right = tile.right.add(first * tile.panel_stride);
        for _ in 0..tile.depth / GROUP {
            for k in 0..GROUP {
                let mut weights = [[_mm256_setzero_ps(); VECTORS]; PANELS];
                for panel in 0..PANELS {
                    let panel_start = right.add(panel * tile.panel_stride);
                    if ROWS <= 3 && (k * PANEL * size_of::<K::Right>()).is_multiple_of(64) {
                        let here = panel_start.cast::<i8>().wrapping_add(k * PANEL * size_of::<K::Right>());
                        _mm_prefetch::<_MM_HINT_T0>(here.wrapping_add(AHEAD));
                    }
                    weights[panel] = K::load(panel_start, k);
                }
                for row in 0..ROWS {
                    let number = _mm256_broadcast_ss(&*left.add(row * GROUP + k));
                    for panel in 0..PANELS {
                        for vector in 0..VECTORS {
                            sums[row][panel][vector] =
                                _mm256_fmadd_ps(number, weights[panel][vector], sums[row][panel][vector]);
                        }
                    }
                }
            }
            left = left.add(ROWS * GROUP);
            right = right.add(PANEL * GROUP);
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        for (panel, sums) in sums.iter().enumerate() {
            for (vector, sum) in sums.iter().enumerate() {
                let column = (first + panel) * PANEL + vector * 8;
                // SAFETY: inside of the tile; the bias is as wide as the tile where it is used.
                unsafe {
                    let out = tile.out.add(row * tile.out_stride + column);
                    let value = match tile.start {
                        Start::Zero => *sum,
                        Start::Bias => _mm256_add_ps(_mm256_loadu_ps(tile.bias.add(column)), *sum),
                        Start::Keep => _mm256_add_ps(_mm256_loadu_ps(out), *sum),
                    };
                    _mm256_storeu_ps(out, value);
                }
            }
        }
    }
    PANELS
}

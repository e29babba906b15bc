//! The micro-kernel for any processor, in plain Rust that compilers turn into whatever vector instructions the target has.

#![allow(unsafe_code, reason = "micro-kernels work on raw memory")]

use std::marker::PhantomData;

use super::driver::{Kernel, Start, Tile};
use super::element::{Element, WeightElement};
use super::pack::PANEL;

/// Up to four rows and one panel, for any format of operands.
pub(super) struct Portable<L, R>(PhantomData<(L, R)>);

impl<L: Element, R: WeightElement> Kernel for Portable<L, R> {
    type Left = L;
    type Right = R;
    const ROWS: usize = 4;
    const DEPTH: usize = 256;
    const BLOCK_ROWS: usize = 128;

    fn panels(_: usize) -> usize {
        1
    }

    unsafe fn run(tile: &Tile<L, R>) {
        // SAFETY: the same conditions.
        unsafe {
            match tile.rows {
                1 => rows::<L, R, 1>(tile),
                2 => rows::<L, R, 2>(tile),
                3 => rows::<L, R, 3>(tile),
                _ => rows::<L, R, 4>(tile),
            }
        }
    }
}

/// # Safety
///
/// As for [`Kernel::run`], with `ROWS` rows and one panel.
#[inline(always)]
unsafe fn rows<L: Element, R: WeightElement, const ROWS: usize>(tile: &Tile<L, R>) {
    const GROUP: usize = 8;
    // SAFETY: the tile says that so much memory is there, and `out` is nobody else's.
    let (left, right) = unsafe {
        let left = std::slice::from_raw_parts(tile.left, tile.depth * ROWS);
        (left, std::slice::from_raw_parts(tile.right, tile.depth * PANEL))
    };
    let mut sums = [[0.0f32; PANEL]; ROWS];
    for (left, right) in left.chunks_exact(ROWS * GROUP).zip(right.chunks_exact(PANEL * GROUP)) {
        for k in 0..GROUP {
            let right: [f32; PANEL] = std::array::from_fn(|column| {
                right[k / R::PAIR * R::PAIR * PANEL + column * R::PAIR + k % R::PAIR].value()
            });
            for (row, sums) in sums.iter_mut().enumerate() {
                let left = left[row * GROUP + k].value();
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum += left * right;
                }
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        for (column, sum) in sums.iter().enumerate() {
            // SAFETY: inside of the tile; the bias is as wide as the tile where it is used.
            unsafe {
                let out = tile.out.add(row * tile.out_stride + column);
                *out = match tile.start {
                    Start::Zero => *sum,
                    Start::Bias => *tile.bias.add(column) + *sum,
                    Start::Keep => *out + *sum,
                };
            }
        }
    }
}

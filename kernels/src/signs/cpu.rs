//! The twin on the CPU.
#![allow(unsafe_code, reason = "numbers as their bits")]

use super::philox::Bits;
use super::{Block, GROUP, MOST_COLUMNS, MOST_ROWS, Signs};
use crate::launch::{DType, Float, ShapeError, expect_rows};
use crate::simd::dispatch;
use crate::workers::{Workers, for_rows};

impl Signs {
    /// Fills a block of the matrix, `[rows, block.columns]`, with `scale` where the sign is + and -`scale` where it is -. The scale is
    /// rounded to the type first; it may be negative, zero, infinite or not a number.
    ///
    /// # Errors
    /// The length is not a whole number of rows, or the block reaches beyond 2^32 rows or 2^39 columns.
    pub fn fill<T: Float>(
        &self,
        workers: &dyn Workers,
        block: Block,
        scale: f32,
        out: &mut [T],
    ) -> Result<(), ShapeError> {
        block.rows(out.len())?;
        for_rows(workers, block.columns, out, |range, out| {
            let block = Block { first_row: block.first_row + range.start / block.columns, ..block };
            match bits_of(out) {
                Words::Wide(out) => fill_32(self, block, (-scale).to_bits(), out),
                Words::Narrow(out) => fill_16(self, block, negative_bits(T::DTYPE, scale), out),
            }
        });
        Ok(())
    }
}

impl Block {
    /// How many rows of the block a buffer of `len` elements has, after checking that the generator has such rows and columns.
    pub(super) fn rows(&self, len: usize) -> Result<usize, ShapeError> {
        let rows = expect_rows("out", len, self.columns)?;
        let fits = |first: usize, count: usize, most: u64| (first as u64).saturating_add(count as u64) <= most;
        if !fits(self.first_row, rows, MOST_ROWS) {
            let actual = self.first_row.saturating_add(rows);
            return Err(ShapeError::Dimension { name: "rows", allowed: "at most 2^32", actual });
        }
        if !fits(self.first_column, self.columns, MOST_COLUMNS) {
            let actual = self.first_column.saturating_add(self.columns);
            return Err(ShapeError::Dimension { name: "columns", allowed: "at most 2^39", actual });
        }
        Ok(rows)
    }

    /// The number of the first 128 columns that the block touches, and how many such groups it touches.
    pub(super) const fn groups(&self) -> (u64, usize) {
        let (first, end) = (self.first_column as u64, self.first_column as u64 + self.columns as u64);
        (first / GROUP, (end.div_ceil(GROUP) - first / GROUP) as usize)
    }
}

/// The bits of numbers, by their width.
pub(super) enum Words<'a> {
    Wide(&'a mut [u32]),
    Narrow(&'a mut [u16]),
}

/// Numbers as their bits.
pub(super) fn bits_of<T: Float>(out: &mut [T]) -> Words<'_> {
    let (start, len) = (out.as_mut_ptr(), out.len());
    match T::DTYPE {
        // SAFETY: bf16 and f16 have the size and alignment of u16, any bits are such numbers, and the borrow is handed on.
        DType::Bf16 | DType::F16 => Words::Narrow(unsafe { std::slice::from_raw_parts_mut(start.cast(), len) }),
        // SAFETY: the one other type that is `Float` is f32, which has the size and alignment of u32; any bits are numbers.
        _ => Words::Wide(unsafe { std::slice::from_raw_parts_mut(start.cast(), len) }),
    }
}

/// The bits of -scale rounded to a type of 16 bits.
pub(super) fn negative_bits(dtype: DType, scale: f32) -> u16 {
    match dtype {
        DType::Bf16 => half::bf16::from_f32(-scale).to_bits(),
        _ => half::f16::from_f32(-scale).to_bits(),
    }
}

/// Bits of a number whose highest is its sign.
trait Word: Copy {
    fn spread<B: Bits>(bits: B, word: u32, negative: Self, to: &mut [Self; 32]);
}

impl Word for u32 {
    #[inline(always)]
    fn spread<B: Bits>(bits: B, word: u32, negative: Self, to: &mut [Self; 32]) {
        bits.spread_32(word, negative, to);
    }
}

impl Word for u16 {
    #[inline(always)]
    fn spread<B: Bits>(bits: B, word: u32, negative: Self, to: &mut [Self; 32]) {
        bits.spread_16(word, negative, to);
    }
}

dispatch!(fn fill_32(signs: &Signs, block: Block, negative: u32, out: &mut [u32]) = fill_on);
dispatch!(fn fill_16(signs: &Signs, block: Block, negative: u16, out: &mut [u16]) = fill_on);

/// Goes over the groups of all rows, eight at a time, so that narrow matrices leave no lanes empty.
#[inline(always)]
fn fill_on<B: Bits, W: Word>(bits: B, signs: &Signs, block: Block, negative: W, out: &mut [W]) {
    let module = [signs.module as u32, (signs.module >> 32) as u32];
    let (first_group, groups) = block.groups();
    let columns = block.columns;
    let before = block.first_column % GROUP as usize;
    let rows = out.len() / columns;
    let (mut row, mut group) = (0, 0);
    while row < rows {
        let mut places = [(0, 0); 8];
        for place in &mut places {
            *place = (row, group);
            group += 1;
            if group == groups {
                (row, group) = (row + 1, 0);
            }
        }
        // Below 2^32 for all rows and groups of the block; those beyond it are not used.
        let words = bits.eight(
            &places.map(|(_, group)| (first_group + group as u64) as u32),
            &places.map(|(row, _)| (block.first_row + row) as u32),
            module,
            signs.key(),
        );
        for (i, (row, group)) in places.into_iter().enumerate() {
            if row == rows {
                return;
            }
            let out = &mut out[row * columns..(row + 1) * columns];
            // Where the group's first column would be, were there as many columns before the block's first as the group has.
            let start = group * GROUP as usize;
            if start >= before && start - before + GROUP as usize <= columns {
                let (to, _) = out[start - before..][..GROUP as usize].as_chunks_mut::<32>();
                for (words, to) in words.iter().zip(to) {
                    W::spread(bits, words[i], negative, to);
                }
                continue;
            }
            for (word, words) in words.iter().enumerate() {
                let mut whole = [negative; 32];
                W::spread(bits, words[i], negative, &mut whole);
                let (start, end) = (start + 32 * word, start + 32 * (word + 1));
                let (from, to) = (start.max(before), end.min(before + columns));
                if from < to {
                    out[from - before..to - before].copy_from_slice(&whole[from - start..to - start]);
                }
            }
        }
    }
}

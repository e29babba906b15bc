//! Quantising and the way back on the CPU.

use super::table::{CODE_BOUNDS, SCALE_BOUNDS, SCALES};
use super::{BLOCK, GROUP, Nf4, Quantised};
use crate::launch::{Float, ShapeError, expect_len};
use crate::simd::{LANES, Simd, dispatch, eight};
use crate::workers::{Parts, Workers};
use half::{bf16, f16};
use std::ops::Range;

/// Weights to be quantised.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// The upper half of single precision.
    Bf16(&'a [bf16]),
    /// Half precision.
    F16(&'a [f16]),
}

impl Values<'_> {
    /// How many there are.
    pub const fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
            Self::F16(values) => values.len(),
        }
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Some of them in single precision; the others zeros, which change nothing.
    fn block(&self, start: usize) -> ([f32; BLOCK], usize) {
        let mut block = [0.0; BLOCK];
        let end = self.len().min(start + BLOCK);
        match self {
            Self::F32(values) => block[..end - start].copy_from_slice(&values[start..end]),
            Self::Bf16(values) => {
                block.iter_mut().zip(&values[start..end]).for_each(|(to, from)| *to = from.to_f32());
            }
            Self::F16(values) => {
                block.iter_mut().zip(&values[start..end]).for_each(|(to, from)| *to = from.to_f32());
            }
        }
        (block, end - start)
    }
}

/// Types that quantised weights are given back in.
pub trait Weight: Float {
    /// Weights from the element `first` on, whose blocks and codes are there.
    #[doc(hidden)]
    fn unquantise(from: Quantised<&[u8], &[f32]>, first: usize, to: &mut [Self]);
}

/// Blocks of a task: 64 KiB of single precision.
const TASK: usize = 256;
/// Scales are added up in so many sums in turn, here and on a GPU.
const SUMS: usize = 256;

impl Nf4 {
    /// Quantises `[rows, columns]`.
    ///
    /// # Errors
    /// Lengths that do not belong together.
    pub fn quantise(
        &self,
        workers: &dyn Workers,
        weights: Values<'_>,
        to: Quantised<&mut [u8], &mut [f32]>,
    ) -> Result<(), ShapeError> {
        self.expect(to.codes.len(), to.scales.len(), to.largest.len(), to.mean.len())?;
        expect_len("weights", weights.len(), self.len())?;
        let mut scales = vec![0.0; self.blocks()];
        let (codes, parts) = (Parts::new(to.codes), Parts::new(&mut scales));
        workers.run(self.blocks().div_ceil(TASK), &|task| {
            let blocks = task * TASK..self.blocks().min((task + 1) * TASK);
            // SAFETY: tasks have blocks of their own, whose codes are whole bytes.
            #[allow(unsafe_code, reason = "tasks write their own blocks")]
            let (codes, scales) =
                unsafe { (codes.part(blocks.start * BLOCK / 2..blocks.end * BLOCK / 2), parts.part(blocks.clone())) };
            for ((block, scale), codes) in blocks.zip(scales).zip(codes.chunks_mut(BLOCK / 2)) {
                let (values, count) = weights.block(block * BLOCK);
                let mut all = [0; BLOCK];
                quantise_block(&values, scale, &mut all);
                // The code of a zero where there is no value.
                all[count..].fill(7);
                let pairs = all.as_chunks::<2>().0;
                codes.iter_mut().zip(pairs).for_each(|(code, [first, second])| *code = first << 4 | second);
            }
        });
        to.mean[0] = mean(&scales);
        let groups = scales.chunks(GROUP).zip(to.scales.chunks_mut(GROUP)).zip(to.largest);
        for ((scales, codes), largest) in groups {
            scale_codes(scales, to.mean[0], codes, largest);
        }
        Ok(())
    }

    /// The weights `[rows, columns]` that codes stand for, in single precision or rounded to a half-precision type.
    ///
    /// # Errors
    /// Lengths that do not belong together.
    pub fn dequantise<T: Weight>(
        &self,
        workers: &dyn Workers,
        from: Quantised<&[u8], &[f32]>,
        to: &mut [T],
    ) -> Result<(), ShapeError> {
        self.expect(from.codes.len(), from.scales.len(), from.largest.len(), from.mean.len())?;
        expect_len("weights", to.len(), self.len())?;
        let (len, parts) = (to.len(), Parts::new(to));
        workers.run(self.blocks().div_ceil(TASK), &|task| {
            let range = task * TASK * BLOCK..len.min((task + 1) * TASK * BLOCK);
            // SAFETY: tasks have ranges that do not overlap.
            #[allow(unsafe_code, reason = "tasks write their own values")]
            let to = unsafe { parts.part(range.clone()) };
            T::unquantise(from, range.start, to);
        });
        Ok(())
    }

    /// The weights of some rows, `[rows, columns]`: as [`Self::dequantise`] gives them.
    ///
    /// # Errors
    /// Lengths that do not belong together, and rows that there are not.
    pub fn dequantise_rows<T: Weight>(
        &self,
        from: Quantised<&[u8], &[f32]>,
        rows: Range<usize>,
        to: &mut [T],
    ) -> Result<(), ShapeError> {
        self.expect(from.codes.len(), from.scales.len(), from.largest.len(), from.mean.len())?;
        if rows.end > self.rows {
            return Err(ShapeError::Dimension { name: "end of rows", allowed: "at most all rows", actual: rows.end });
        }
        expect_len("weights", to.len(), rows.len() * self.columns)?;
        T::unquantise(from, rows.start * self.columns, to);
        Ok(())
    }
}

impl Quantised<&[u8], &[f32]> {
    /// The scale of a block. The product is rounded before the mean is added.
    #[inline]
    pub(super) fn scale(&self, block: usize) -> f32 {
        SCALES[usize::from(self.scales[block])] * self.largest[block / GROUP] + self.mean[0]
    }
}

dispatch!(fn quantise_block(values: &[f32; BLOCK], scale: &mut f32, codes: &mut [u8; BLOCK]) = quantise_block_on);

#[inline(always)]
fn quantise_block_on<S: Simd>(simd: S, values: &[f32; BLOCK], scale: &mut f32, codes: &mut [u8; BLOCK]) {
    let mut largest = simd.zero();
    for start in (0..BLOCK).step_by(LANES) {
        let values = simd.load(eight(values, start));
        largest = simd.if_nan(values, values, simd.max(simd.abs(values), largest));
    }
    *scale = simd.largest(largest);
    let reciprocal = simd.splat(reciprocal(*scale));
    for start in (0..BLOCK).step_by(LANES) {
        let scaled = simd.mul(simd.load(eight(values, start)), reciprocal);
        let mut code = simd.zero();
        for bound in CODE_BOUNDS {
            let above = simd.if_less(simd.splat(bound), scaled, simd.splat(1.0), simd.zero());
            code = simd.add(code, above);
        }
        // Added to 2^23, a small whole number is in the last bits.
        let mut lanes = [0.0_f32; LANES];
        let shifted = simd.add(simd.if_nan(scaled, simd.splat(15.0), code), simd.splat(8_388_608.0));
        simd.store(shifted, &mut lanes);
        codes[start..start + LANES].iter_mut().zip(lanes).for_each(|(code, lane)| *code = lane.to_bits() as u8);
    }
}

/// The reciprocal of a largest magnitude, finite for 0.
fn reciprocal(largest: f32) -> f32 {
    if largest < 1e-38 { 1.0 / 1e-38 } else { 1.0 / largest }
}

/// The mean in double precision: 256 sums in turn, added up by halves.
fn mean(scales: &[f32]) -> f32 {
    let mut sums = [0.0_f64; SUMS];
    for scales in scales.chunks(SUMS) {
        sums.iter_mut().zip(scales).for_each(|(sum, scale)| *sum += f64::from(*scale));
    }
    let mut half = SUMS / 2;
    while half > 0 {
        let (low, high) = sums.split_at_mut(half);
        low.iter_mut().zip(high).for_each(|(low, high)| *low += *high);
        half /= 2;
    }
    if scales.is_empty() { 0.0 } else { (sums[0] / scales.len() as f64) as f32 }
}

fn scale_codes(scales: &[f32], mean: f32, codes: &mut [u8], largest: &mut f32) {
    *largest = scales
        .iter()
        .map(|scale| (scale - mean).abs())
        .fold(0.0, |largest, magnitude| if magnitude > largest || magnitude.is_nan() { magnitude } else { largest });
    let reciprocal = reciprocal(*largest);
    for (scale, code) in scales.iter().zip(codes) {
        let scaled = (scale - mean) * reciprocal;
        *code = SCALE_BOUNDS.partition_point(|&bound| bound < scaled || scaled.is_nan()) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workers::Serial;

    /// Rows of odd lengths begin in the middle of bytes and of blocks.
    #[test]
    fn rows_are_those_of_the_whole() {
        for columns in [1, 63, 64, 129] {
            let nf4 = Nf4 { rows: 9, columns };
            let weights: Vec<f32> = (0..nf4.len()).map(|i| (i as f32 * 0.7).sin() * (1 + i / 50) as f32).collect();
            let (mut codes, mut scales) = (vec![0; nf4.code_bytes()], vec![0; nf4.blocks()]);
            let (mut largest, mut mean) = (vec![0.0; nf4.groups()], [0.0]);
            let to = Quantised {
                codes: &mut codes[..],
                scales: &mut scales[..],
                largest: &mut largest[..],
                mean: &mut mean[..],
            };
            nf4.quantise(&Serial, Values::F32(&weights), to).unwrap();
            let from = Quantised { codes: &codes[..], scales: &scales[..], largest: &largest[..], mean: &mean[..] };
            let mut whole = vec![0_f32; nf4.len()];
            nf4.dequantise(&Serial, from, &mut whole).unwrap();
            for rows in [0..9, 1..4, 8..9, 5..5] {
                let mut part = vec![0_f32; rows.len() * columns];
                nf4.dequantise_rows(from, rows.clone(), &mut part).unwrap();
                assert_eq!(part, whole[rows.start * columns..rows.end * columns], "{columns} columns, {rows:?}");
            }
            assert!(nf4.dequantise_rows(from, 8..10, &mut vec![0_f32; 2 * columns]).is_err());
            assert!(nf4.dequantise_rows(from, 0..1, &mut [0_f32; 0]).is_err());
        }
    }
}

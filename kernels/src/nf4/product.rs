//! Products with quantised weights: a block of them is unpacked in the order in which the engines of [`gemm`](crate::gemm) read
//! weights, multiplied with all rows, and forgotten.

use super::lookup::{LookUp, bf16_bits};
use super::{BLOCK, Nf4, Quantised};
use crate::gemm::{GemmError, MatmulOptions, Matrix, MatrixMut, Unpack, multiply_unpacked};
use crate::launch::ShapeError;
use crate::scan::prefetch::prefetch;
use crate::simd::dispatch;
use std::ops::Range;

/// Columns of a panel of weights.
const PANEL: usize = 16;
/// How many rows ahead of their use weights are asked for.
const AHEAD: usize = 8;
/// Bytes of a line of the cache.
const LINE: usize = 64;

impl Nf4 {
    /// y = x·Wᵀ (+ bias) (+ y). `x` is tokens × columns, `y` is tokens × rows.
    ///
    /// The weights are rounded to bf16, and so is x, as with [`Precision::Bf16`](crate::gemm::Precision::Bf16); the result has the
    /// bits of that product. The memory used is what the four-bit form takes and some hundred kilobytes for each thread.
    ///
    /// ```
    /// use gristmill_kernels::gemm::{Matrix, MatrixMut, MatmulOptions, Values};
    /// use gristmill_kernels::nf4::{Nf4, Quantised};
    /// use gristmill_kernels::workers::Serial;
    ///
    /// let nf4 = Nf4 { rows: 2, columns: 2 };
    /// let (mut codes, mut scales, mut largest, mut mean) = ([0; 2], [0; 1], [0.0; 1], [0.0; 1]);
    /// let to = Quantised { codes: &mut codes[..], scales: &mut scales[..], largest: &mut largest[..], mean: &mut mean[..] };
    /// nf4.quantise(&Serial, gristmill_kernels::nf4::Values::F32(&[1.0, 0.0, 0.0, -1.0]), to)?;
    ///
    /// let weights = Quantised { codes: &codes[..], scales: &scales[..], largest: &largest[..], mean: &mean[..] };
    /// let (x, mut y) = ([3.0, 4.0], [0.0; 2]);
    /// let options = MatmulOptions { bias: Some(&[0.5, 0.5]), ..Default::default() };
    /// let (x, to) = (Matrix::row_major(Values::F32(&x), 1, 2)?, MatrixMut::row_major(&mut y, 1, 2)?);
    /// nf4.matmul(weights, x, to, &options)?;
    /// assert_eq!(y, [3.5, -3.5]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Sizes that do not agree, or an engine that cannot be used. `y` is then as it was.
    pub fn matmul(
        &self,
        weights: Quantised<&[u8], &[f32]>,
        x: Matrix<'_>,
        y: MatrixMut<'_>,
        options: &MatmulOptions<'_>,
    ) -> Result<(), GemmError> {
        self.expect_weights(weights)?;
        let right = Transposed { nf4: *self, weights };
        multiply_unpacked(x, &right, [self.columns, self.rows], y, options)
    }

    /// dx = dy·W (+ dx), the gradient of the input of a frozen layer. `dy` is tokens × rows, `dx` is tokens × columns. Otherwise
    /// as [`Self::matmul`].
    ///
    /// # Errors
    /// Sizes that do not agree, or an engine that cannot be used. `dx` is then as it was.
    pub fn matmul_transposed(
        &self,
        weights: Quantised<&[u8], &[f32]>,
        dy: Matrix<'_>,
        dx: MatrixMut<'_>,
        options: &MatmulOptions<'_>,
    ) -> Result<(), GemmError> {
        self.expect_weights(weights)?;
        let right = Straight { nf4: *self, weights };
        multiply_unpacked(dy, &right, [self.rows, self.columns], dx, options)
    }

    fn expect_weights(&self, weights: Quantised<&[u8], &[f32]>) -> Result<(), GemmError> {
        let Quantised { codes, scales, largest, mean } = weights;
        self.expect(codes.len(), scales.len(), largest.len(), mean.len()).map_err(|error| match error {
            ShapeError::Length { name, expected, actual } => GemmError::Shape { what: name, expected, found: actual },
            _ => GemmError::TooLarge,
        })
    }
}

/// Wᵀ as the right operand: its columns are rows of weights.
struct Transposed<'a> {
    nf4: Nf4,
    weights: Quantised<&'a [u8], &'a [f32]>,
}

/// W as the right operand.
struct Straight<'a> {
    nf4: Nf4,
    weights: Quantised<&'a [u8], &'a [f32]>,
}

impl Unpack for Transposed<'_> {
    fn unpack(&self, depth: Range<usize>, columns: Range<usize>, padded: usize, out: &mut [u16]) {
        let mut rows = vec![0; PANEL * padded];
        for (first, panel) in columns.clone().step_by(PANEL).zip(out.chunks_exact_mut(PANEL * padded)) {
            let there = PANEL.min(columns.end - first);
            rows[there * padded..].fill(0);
            for (row, to) in (first..first + there).zip(rows.chunks_exact_mut(padded)) {
                let from = row * self.nf4.columns + depth.start;
                fetch(self.weights, from + AHEAD * self.nf4.columns, depth.len());
                bf16_bits(self.weights, from, &mut to[..depth.len()]);
            }
            transpose_pairs(&rows, padded / 2, panel);
        }
    }
}

impl Unpack for Straight<'_> {
    fn unpack(&self, depth: Range<usize>, columns: Range<usize>, padded: usize, out: &mut [u16]) {
        // Whole panels, so that columns that there are not are zeros.
        let width = columns.len().next_multiple_of(BLOCK);
        let mut rows = vec![0; 2 * width];
        let (first, second) = rows.split_at_mut(width);
        for k in (0..padded).step_by(2) {
            for (k, row) in [(k, &mut *first), (k + 1, &mut *second)] {
                if k < depth.len() {
                    let from = (depth.start + k) * self.nf4.columns + columns.start;
                    fetch(self.weights, from + AHEAD * self.nf4.columns, columns.len());
                    bf16_bits(self.weights, from, &mut row[..columns.len()]);
                } else {
                    row.fill(0);
                }
            }
            let pairs = first.as_chunks::<PANEL>().0.iter().zip(second.as_chunks::<PANEL>().0);
            for ((first, second), panel) in pairs.zip(out.chunks_exact_mut(PANEL * padded)) {
                let to = panel[PANEL * k..].as_chunks_mut::<2>().0.iter_mut();
                to.zip(first.iter().zip(second)).for_each(|(to, (first, second))| *to = [*first, *second]);
            }
        }
    }
}

/// Asks for weights before they are needed: a few lines of each row are read, and the next row is too far away for the processor to
/// see where reading goes on. Beyond the last row this asks for what is not used.
fn fetch(weights: Quantised<&[u8], &[f32]>, first: usize, count: usize) {
    (first / 2..(first + count) / 2).step_by(LINE).for_each(|byte| prefetch(weights.codes, byte));
    prefetch(weights.scales, first / BLOCK);
}

dispatch!(fn transpose_pairs(rows: &[u16], pairs: usize, to: &mut [u16]) = transpose_pairs_on);

#[inline(always)]
fn transpose_pairs_on<S: LookUp>(simd: S, rows: &[u16], pairs: usize, to: &mut [u16]) {
    simd.transpose_pairs(rows, pairs, to);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Random;
    use crate::gemm::{PackedWeights, Precision, Values};
    use crate::launch::DType;
    use crate::workers::Serial;

    /// Rows that end inside of blocks, edges of panels, several blocks of k and of columns, threads, a bias, and adding to what is there.
    #[test]
    fn products_have_the_bits_of_those_with_unquantised_weights() {
        let mut random = Random::new(9);
        for (tokens, rows, columns) in [(1, 5, 64), (3, 40, 70), (9, 530, 320), (26, 33, 129), (2, 300, 1088)] {
            let nf4 = Nf4 { rows, columns };
            let weights = random.buffer(DType::F32, nf4.len(), 0.0, 0.5);
            let (mut codes, mut scales) = (vec![0; nf4.code_bytes()], vec![0; nf4.blocks()]);
            let (mut largest, mut mean) = (vec![0.0; nf4.groups()], [0.0]);
            let to = Quantised {
                codes: &mut codes[..],
                scales: &mut scales[..],
                largest: &mut largest[..],
                mean: &mut mean[..],
            };
            nf4.quantise(&Serial, crate::nf4::Values::F32(weights.f32().unwrap()), to).unwrap();
            let from = Quantised { codes: &codes[..], scales: &scales[..], largest: &largest[..], mean: &mean[..] };
            let mut weights = vec![0.0; nf4.len()];
            nf4.dequantise(&Serial, from, &mut weights).unwrap();
            let weights = Matrix::row_major(Values::F32(&weights), rows, columns).unwrap();

            for transposed in [false, true] {
                let (inputs, outputs) = if transposed { (rows, columns) } else { (columns, rows) };
                let x = random.buffer(DType::F32, tokens * inputs, 0.0, 1.0);
                let x = Matrix::row_major(Values::F32(x.f32().unwrap()), tokens, inputs).unwrap();
                let bias = random.buffer(DType::F32, outputs, 0.0, 1.0);
                let options = MatmulOptions {
                    bias: bias.f32(),
                    accumulate: tokens == 9,
                    threads: 1 + tokens % 3,
                    ..Default::default()
                };
                let mut expected = vec![1.0; tokens * outputs];
                let packed = if transposed { weights.transposed() } else { weights };
                PackedWeights::pack(packed, Precision::Bf16)
                    .unwrap()
                    .matmul(x, MatrixMut::row_major(&mut expected, tokens, outputs).unwrap(), &options)
                    .unwrap();
                let mut y = vec![1.0; tokens * outputs];
                let to = MatrixMut::row_major(&mut y, tokens, outputs).unwrap();
                if transposed {
                    nf4.matmul_transposed(from, x, to, &options).unwrap();
                } else {
                    nf4.matmul(from, x, to, &options).unwrap();
                }
                let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                assert!(bits(&y) == bits(&expected), "{tokens} tokens by {rows} x {columns}, transposed: {transposed}");
            }
        }
    }

    #[test]
    fn wrong_sizes_are_refused() {
        let nf4 = Nf4 { rows: 2, columns: 3 };
        let weights =
            Quantised { codes: &[0; 3][..], scales: &[0; 1][..], largest: &[0.0; 1][..], mean: &[0.0; 1][..] };
        let x = [0.0; 4];
        let x = |columns| Matrix::row_major(Values::F32(&x), 1, columns).unwrap();
        let options = MatmulOptions::default();
        fn to(values: &mut [f32]) -> MatrixMut<'_> {
            let columns = values.len();
            MatrixMut::row_major(values, 1, columns).unwrap()
        }
        assert!(nf4.matmul(weights, x(3), to(&mut [0.0; 2]), &options).is_ok());
        assert!(nf4.matmul(weights, x(2), to(&mut [0.0; 2]), &options).is_err());
        assert!(nf4.matmul(weights, x(3), to(&mut [0.0; 3]), &options).is_err());
        assert!(nf4.matmul_transposed(weights, x(2), to(&mut [0.0; 3]), &options).is_ok());
        assert!(nf4.matmul_transposed(weights, x(3), to(&mut [0.0; 3]), &options).is_err());
        let short = Quantised { codes: &[0; 2][..], ..weights };
        assert!(nf4.matmul(short, x(3), to(&mut [0.0; 2]), &options).is_err());
    }
}

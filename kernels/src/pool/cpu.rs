//! The twin on the CPU.

use super::Pool;
use crate::launch::{ShapeError, expect_len, expect_rows};
use crate::simd::{Simd, add_up, blocks, dispatch, eight, eight_mut};
use crate::workers::{Workers, for_rows};

impl Pool {
    /// One row for each document: from x, `[rows, width]`, and offsets, `[documents + 1]`, to y, `[documents, width]`.
    ///
    /// # Errors
    /// Lengths that do not belong together, or offsets that fall or point outside of the rows.
    pub fn forward(
        self,
        workers: &dyn Workers,
        width: usize,
        x: &[f32],
        offsets: &[i64],
        y: &mut [f32],
    ) -> Result<(), ShapeError> {
        let rows = expect_rows("x", x.len(), width)?;
        let documents = offsets.len().saturating_sub(1);
        expect_len("y", y.len(), documents * width)?;
        // Rows of no values cannot be counted.
        let rows = if width == 0 { usize::MAX } else { rows };
        let mut lowest = 0;
        for (index, &offset) in offsets.iter().enumerate() {
            if offset < lowest || usize::try_from(offset).is_ok_and(|offset| offset > rows) {
                let allowed = "at least the one before and at most the number of rows";
                return Err(ShapeError::Value { name: "offsets", index, allowed, actual: offset });
            }
            lowest = offset;
        }
        let width = width.max(1);
        for_rows(workers, width, y, |range, y| {
            let first = range.start / width;
            for (i, y) in y.chunks_exact_mut(width).enumerate() {
                // Checked above: not negative, not falling, within the rows.
                let document = offsets[first + i] as usize * width..offsets[first + i + 1] as usize * width;
                self.document(&x[document], y);
            }
        });
        Ok(())
    }

    fn document(self, x: &[f32], y: &mut [f32]) {
        let width = y.len();
        match self {
            _ if x.is_empty() => y.fill(0.0),
            Self::First => y.copy_from_slice(&x[..width]),
            Self::Last => y.copy_from_slice(&x[x.len() - width..]),
            Self::Max => {
                y.copy_from_slice(&x[..width]);
                for row in x.chunks_exact(width).skip(1) {
                    for (most, &value) in y.iter_mut().zip(row) {
                        *most = if value > *most || value.is_nan() { value } else { *most };
                    }
                }
            }
            Self::Mean => {
                y.fill(0.0);
                let mut sum = vec![0.0; width];
                for rows in x.chunks(64 * width) {
                    sum.fill(0.0);
                    for row in rows.chunks_exact(width) {
                        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
                    }
                    y.iter_mut().zip(&sum).for_each(|(total, sum)| *total += sum);
                }
                let rows = (x.len() / width) as f32;
                y.iter_mut().for_each(|value| *value /= rows);
            }
        }
    }
}

/// Scales rows to length 1: y = x / max(|x|, ε), `[rows, width]` each.
///
/// # Errors
/// Lengths that do not belong together.
pub fn l2_normalise(
    workers: &dyn Workers,
    width: usize,
    epsilon: f32,
    x: &[f32],
    y: &mut [f32],
) -> Result<(), ShapeError> {
    expect_rows("x", x.len(), width)?;
    expect_len("y", y.len(), x.len())?;
    for_rows(workers, width, y, |range, y| normalise_rows(width.max(1), epsilon, &x[range], y));
    Ok(())
}

dispatch!(fn normalise_rows(width: usize, epsilon: f32, x: &[f32], y: &mut [f32]) = normalise_on);

#[inline(always)]
fn normalise_on<S: Simd>(simd: S, width: usize, epsilon: f32, x: &[f32], y: &mut [f32]) {
    let (whole, part) = blocks(width);
    for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
        let square = |values: S::F| simd.mul(values, values);
        let squares = add_up(
            simd,
            width,
            |start| square(simd.load(eight(x, start))),
            |range| square(simd.load_part(&x[range], 0.0)),
        );
        let length = squares.sqrt();
        let factor = 1.0 / if length < epsilon { epsilon } else { length };
        for start in whole.clone() {
            simd.store(simd.mul(simd.load(eight(x, start)), simd.splat(factor)), eight_mut(y, start));
        }
        for i in part.clone() {
            y[i] = x[i] * factor;
        }
    }
}

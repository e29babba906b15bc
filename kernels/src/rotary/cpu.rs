//! The twin on the CPU.

use super::{Buffers, Direction, Pairing, Rotary};
use crate::launch::ShapeError;
use crate::simd::{Simd, blocks, dispatch, eight, eight_mut};
use crate::workers::{Workers, for_rows};

impl Rotary {
    /// Turns values.
    ///
    /// # Errors
    /// Lengths that do not belong together, or a position that the tables do not have.
    pub fn apply(
        &self,
        workers: &dyn Workers,
        direction: Direction,
        buffers: Buffers<&[f32], &mut [f32], &[f32], &[i32]>,
    ) -> Result<(), ShapeError> {
        let Buffers { x, cosines, sines, positions, y } = buffers;
        let sizes = self.sizes(x.len(), cosines.len(), sines.len(), positions.len(), y.len())?;
        let known = |&position: &i32| usize::try_from(position).is_ok_and(|position| position < sizes.table_rows);
        if self.rotated > 0
            && let Some(index) = positions.iter().position(|position| !known(position))
        {
            let allowed = "a row of the tables of cosines and sines";
            return Err(ShapeError::Value { name: "positions", index, allowed, actual: positions[index].into() });
        }
        let (width, pairs) = (self.heads * self.head_width, self.rotated / 2);
        for_rows(workers, width, y, |range, y| {
            let tokens = range.start / width.max(1)..range.end / width.max(1);
            let rows = x[range].chunks_exact(width.max(1)).zip(y.chunks_exact_mut(width.max(1)));
            for ((x, y), &position) in rows.zip(&positions[tokens]) {
                // Without rotated values the tables have no rows.
                let row = if pairs == 0 { 0..0 } else { position as usize * pairs..(position as usize + 1) * pairs };
                turn_token(*self, direction == Direction::Backward, x, &cosines[row.clone()], &sines[row], y);
            }
        });
        Ok(())
    }
}

dispatch!(fn turn_token(rotary: Rotary, reverse: bool, x: &[f32], cosines: &[f32], sines: &[f32], y: &mut [f32]) = turn_on);

#[inline(always)]
fn turn_on<S: Simd>(simd: S, rotary: Rotary, reverse: bool, x: &[f32], cosines: &[f32], sines: &[f32], y: &mut [f32]) {
    let sign = if reverse { -1.0 } else { 1.0 };
    let (width, pairs) = (rotary.head_width.max(1), rotary.rotated / 2);
    for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
        y[rotary.rotated..].copy_from_slice(&x[rotary.rotated..]);
        match rotary.pairing {
            Pairing::Halves => {
                let (x_first, x_second) = x[..rotary.rotated].split_at(pairs);
                let (y_first, y_second) = y[..rotary.rotated].split_at_mut(pairs);
                let (whole, part) = blocks(pairs);
                for start in whole {
                    let at = |slice: &[f32]| simd.load(eight(slice, start));
                    let (a, b, cosine, sine) =
                        (at(x_first), at(x_second), at(cosines), simd.mul(at(sines), simd.splat(sign)));
                    simd.store(simd.sub(simd.mul(a, cosine), simd.mul(b, sine)), eight_mut(y_first, start));
                    simd.store(simd.add(simd.mul(b, cosine), simd.mul(a, sine)), eight_mut(y_second, start));
                }
                for i in part {
                    let (a, b, cosine, sine) = (x_first[i], x_second[i], cosines[i], sines[i] * sign);
                    (y_first[i], y_second[i]) = (a * cosine - b * sine, b * cosine + a * sine);
                }
            }
            // The compiler makes vectors of this by itself.
            Pairing::Neighbours => {
                let angles = cosines.iter().zip(sines);
                let values = x[..rotary.rotated].chunks_exact(2).zip(y[..rotary.rotated].chunks_exact_mut(2));
                for ((x, y), (&cosine, &sine)) in values.zip(angles) {
                    let sine = sine * sign;
                    (y[0], y[1]) = (x[0] * cosine - x[1] * sine, x[1] * cosine + x[0] * sine);
                }
            }
        }
    }
}

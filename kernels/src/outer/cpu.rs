//! The twin on the CPU.
//!
//! A tile of the result, up to six rows by two vectors, stays in registers while the tokens of a block go by: twelve sums, two vectors of b
//! and one value of a, of sixteen registers. Blocks are short enough that the vectors of all tiles stay in the cache. Vectors that do not lie
//! one after another are first copied together, because rows a power of two apart would push one another out of it, and vectors of
//! b that are not whole are filled up with zeros. None of this changes a bit: each element is a sum over the tokens of a block, one after
//! another, and then over blocks.
#![allow(unsafe_code, reason = "tiles in registers, fed from memory whose bounds are checked once for a block")]

use super::Outer;
use crate::launch::ShapeError;
use crate::simd::{LANES, Simd, add_up, dispatch, eight, eight_mut};
use crate::workers::{Parts, Workers};
use std::ops::Range;

/// Tokens of a block.
const DEPTH: usize = 128;
/// Most rows of a tile.
const ROWS: usize = 6;
/// Products that a task should have at least: about 30 microseconds.
const TASK: usize = 1 << 20;

impl Outer {
    /// Sums the outer products of each segment and module: from a and b to out, each laid out by its strides, with offsets, `[segments + 1]`,
    /// that count tokens, and to norms, `[segments, modules]`, if they are wanted.
    ///
    /// # Errors
    /// A buffer that is too short, results that overlap, or offsets that fall or point outside of the tokens.
    pub fn run(
        &self,
        workers: &dyn Workers,
        a: &[f32],
        b: &[f32],
        offsets: &[i64],
        out: &mut [f32],
        norms: Option<&mut [f32]>,
    ) -> Result<(), ShapeError> {
        let segments = offsets.len().saturating_sub(1);
        self.check(segments, a.len(), b.len(), out.len(), norms.as_ref().map(|norms| norms.len()))?;
        let mut lowest = 0;
        for (index, &offset) in offsets.iter().enumerate() {
            if offset < lowest || usize::try_from(offset).is_ok_and(|offset| offset > self.tokens) {
                let allowed = "at least the one before and at most the number of tokens";
                return Err(ShapeError::Value { name: "offsets", index, allowed, actual: offset });
            }
            lowest = offset;
        }
        if segments == 0 || self.modules == 0 {
            return Ok(());
        }
        let each = self.tokens.div_ceil(segments).max(1).saturating_mul(self.p * self.q).max(1);
        let modules_per_task = (TASK / each).clamp(1, self.modules);
        let tasks = self.modules.div_ceil(modules_per_task);
        let (out, norms) = (Parts::new(out), norms.map(Parts::new));
        workers.run(segments * tasks, &|task| {
            let (segment, first) = (task / tasks, task % tasks * modules_per_task);
            let modules = first..(first + modules_per_task).min(self.modules);
            // Checked above: not negative, not falling, at most the number of tokens.
            let tokens = offsets[segment] as usize..offsets[segment + 1] as usize;
            sum_modules(self, a, b, tokens, segment, modules.clone(), &out);
            let Some(norms) = &norms else { return };
            let first = segment * self.modules + modules.start;
            // SAFETY: segment and module have one norm, and one task.
            let norms = unsafe { norms.part(first..first + modules.len()) };
            for (norm, module) in norms.iter_mut().zip(modules) {
                // SAFETY: results do not overlap, and this task has them.
                *norm = sum_of_squares(unsafe { out.part(self.result(segment, module)) });
            }
        });
        Ok(())
    }

    const fn result(&self, segment: usize, module: usize) -> Range<usize> {
        let start = segment * self.out.row + module * self.out.module;
        start..start + self.p * self.q
    }
}

dispatch!(
    fn sum_modules(
        outer: &Outer,
        a: &[f32],
        b: &[f32],
        tokens: Range<usize>,
        segment: usize,
        modules: Range<usize>,
        out: &Parts<'_, f32>,
    ) = sum_modules_on
);
dispatch!(fn sum_of_squares(values: &[f32]) -> f32 = sum_of_squares_on);

#[inline(always)]
fn sum_of_squares_on<S: Simd>(simd: S, values: &[f32]) -> f32 {
    let square = |values: S::F| simd.mul(values, values);
    add_up(
        simd,
        values.len(),
        |start| square(simd.load(eight(values, start))),
        |range| square(simd.load_part(&values[range], 0.0)),
    )
}

/// Block after block, and in each module after module: what lies side by side in memory is read at about the same time.
#[inline(always)]
fn sum_modules_on<S: Simd>(
    simd: S,
    outer: &Outer,
    a: &[f32],
    b: &[f32],
    tokens: Range<usize>,
    segment: usize,
    modules: Range<usize>,
    out: &Parts<'_, f32>,
) {
    let &Outer { p, q, .. } = outer;
    if p == 0 || q == 0 {
        return;
    }
    let (mut packed_a, mut packed_b) = (Vec::new(), Vec::new());
    let mut keep = outer.accumulate;
    if tokens.is_empty() && !keep {
        for module in modules {
            // SAFETY: results do not overlap, and this task has them.
            unsafe { out.part(outer.result(segment, module)) }.fill(0.0);
        }
        return;
    }
    for start in tokens.clone().step_by(DEPTH) {
        let depth = DEPTH.min(tokens.end - start);
        for module in modules.clone() {
            let from_a = Vectors { values: &a[start * outer.a.row + module * outer.a.module..], stride: outer.a.row };
            let from_b = Vectors { values: &b[start * outer.b.row + module * outer.b.module..], stride: outer.b.row };
            let block = Block {
                depth,
                a: if outer.a.row == p { from_a } else { from_a.packed(simd, depth, p, p, &mut packed_a) },
                b: if outer.b.row == q && q.is_multiple_of(LANES) {
                    from_b
                } else {
                    from_b.packed(simd, depth, q, q.next_multiple_of(LANES), &mut packed_b)
                },
            };
            // SAFETY: results do not overlap, and this task has them.
            let result = unsafe { out.part(outer.result(segment, module)) };
            block.sum(simd, p, q, keep, result);
        }
        keep = true;
    }
}

/// Vectors of successive tokens, `stride` from one to the next.
#[derive(Clone, Copy)]
struct Vectors<'a> {
    values: &'a [f32],
    stride: usize,
}

impl Vectors<'_> {
    /// The first `width` values of `depth` vectors, copied together and filled up with zeros to `padded`.
    #[inline(always)]
    fn packed<S: Simd>(self, simd: S, depth: usize, width: usize, padded: usize, room: &mut Vec<f32>) -> Vectors<'_> {
        // What is beyond the width was never written, so it is still zero.
        room.resize(DEPTH * padded, 0.0);
        let whole = width - width % LANES;
        for (to, t) in room.chunks_exact_mut(padded).zip(0..depth) {
            let from = &self.values[t * self.stride..][..width];
            for at in (0..whole).step_by(LANES) {
                simd.store(simd.load(eight(from, at)), eight_mut(to, at));
            }
            for at in whole..width {
                to[at] = from[at];
            }
        }
        Vectors { values: room, stride: padded }
    }
}

/// The vectors of some tokens of one module, those of b in whole numbers of lanes.
struct Block<'a> {
    depth: usize,
    a: Vectors<'a>,
    b: Vectors<'a>,
}

impl Block<'_> {
    /// Writes the sum over the tokens, `[p, q]`, or adds it to what is there.
    #[inline(always)]
    fn sum<S: Simd>(&self, simd: S, p: usize, q: usize, keep: bool, result: &mut [f32]) {
        let vectors = q.div_ceil(LANES);
        let last = self.depth - 1;
        assert!(self.a.values.len() >= last * self.a.stride + p, "the caller's check of a");
        assert!(self.b.values.len() >= last * self.b.stride + vectors * LANES, "the caller's check of b");
        // Tiles of nearly the same number of rows: a last one of a single row would wait for its own sums.
        let tiles = p.div_ceil(ROWS);
        let mut row = 0;
        for tile in 0..tiles {
            let rows = p / tiles + usize::from(tile < p % tiles);
            let mut vector = 0;
            while vector < vectors {
                let left = vectors - vector;
                // SAFETY: the tile is inside of p and of the vectors, which were asserted to be there for all tokens.
                vector += unsafe {
                    match (rows, left) {
                        (1, 4..) => self.tile::<S, 1, 4>(simd, row, vector, q, keep, result),
                        (1, 2..) => self.tile::<S, 1, 2>(simd, row, vector, q, keep, result),
                        (1, _) => self.tile::<S, 1, 1>(simd, row, vector, q, keep, result),
                        (2, 4..) => self.tile::<S, 2, 4>(simd, row, vector, q, keep, result),
                        (2, 2..) => self.tile::<S, 2, 2>(simd, row, vector, q, keep, result),
                        (2, _) => self.tile::<S, 2, 1>(simd, row, vector, q, keep, result),
                        (3, 2..) => self.tile::<S, 3, 2>(simd, row, vector, q, keep, result),
                        (3, _) => self.tile::<S, 3, 1>(simd, row, vector, q, keep, result),
                        (4, 2..) => self.tile::<S, 4, 2>(simd, row, vector, q, keep, result),
                        (4, _) => self.tile::<S, 4, 1>(simd, row, vector, q, keep, result),
                        (5, 2..) => self.tile::<S, 5, 2>(simd, row, vector, q, keep, result),
                        (5, _) => self.tile::<S, 5, 1>(simd, row, vector, q, keep, result),
                        (_, 2..) => self.tile::<S, 6, 2>(simd, row, vector, q, keep, result),
                        (_, _) => self.tile::<S, 6, 1>(simd, row, vector, q, keep, result),
                    }
                };
            }
            row += rows;
        }
    }

    /// One tile, from `row` and `vector` on; says how many vectors it has.
    ///
    /// # Safety
    /// For each token of the block, a has values up to row + R, and b up to vector + V times the lanes.
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize, const V: usize>(
        &self,
        simd: S,
        row: usize,
        vector: usize,
        q: usize,
        keep: bool,
        result: &mut [f32],
    ) -> usize {
        let mut sums = [[simd.zero(); V]; R];
        // Pointers are moved on after the last token, too, so they may point beyond the end, and are not used there.
        let mut a = self.a.values.as_ptr().wrapping_add(row);
        let mut b = self.b.values.as_ptr().wrapping_add(vector * LANES);
        for _ in 0..self.depth {
            // SAFETY: the caller answers for it.
            unsafe {
                let mut columns = [simd.zero(); V];
                for (v, columns) in columns.iter_mut().enumerate() {
                    *columns = simd.load(&*b.add(v * LANES).cast());
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let value = simd.splat(*a.add(r));
                    for (sum, &columns) in sums.iter_mut().zip(&columns) {
                        *sum = simd.mul_add(value, columns, *sum);
                    }
                }
            }
            a = a.wrapping_add(self.a.stride);
            b = b.wrapping_add(self.b.stride);
        }
        for (r, sums) in sums.iter().enumerate() {
            for (v, &sum) in sums.iter().enumerate() {
                let column = (vector + v) * LANES;
                let start = (row + r) * q + column;
                if column + LANES <= q {
                    let to = eight_mut(result, start);
                    simd.store(if keep { simd.add(simd.load(to), sum) } else { sum }, to);
                } else {
                    let to = &mut result[start..(row + r + 1) * q];
                    let sum = if keep { simd.add(simd.load_part(to, 0.0), sum) } else { sum };
                    simd.store_part(sum, to);
                }
            }
        }
        V
    }
}

//! The twin on the CPU.
//!
//! A tile of the result, up to six rows by two vectors, stays in registers while the tokens of a block go by: twelve sums, two vectors of b
//! and one value of a, of sixteen registers. Blocks are short enough that the vectors of all tiles stay in the cache. Vectors that do not lie
//! one after another are first copied together, because rows a power of two apart would push one another out of it, and vectors of
//! b that are not whole are filled up with zeros. None of this changes a bit: each element is a sum over the tokens of a block, one after
//! another, and then over blocks.
#![allow(unsafe_code, reason = "tiles in registers, fed from memory whose bounds are checked once for a block")]
#![allow(
    clippy::needless_range_loop,
    reason = "counted loops over arrays of registers read like the tile that they compute"
)]

use super::{Outer, Strides};
use crate::launch::ShapeError;
use crate::simd::{LANES, Simd, add_up, dispatch, eight, eight_mut};
use crate::workers::{Parts, Workers};
use std::cell::Cell;
use std::ops::Range;

/// Tokens of a block.
const DEPTH: usize = 64;
/// Most rows of a tile.
const ROWS: usize = 6;
/// Columns of a tile, and of a panel of copies.
const PANEL: usize = 2 * LANES;
/// Vectors of more values are copied even if they lie one after another.
const NARROW: usize = 32;
/// Values of a token that are copied together, of as many modules as there are in so many. With [`DEPTH`] tokens, 64 KiB each of a and b, and a little more.
const TOGETHER: usize = 256;
/// How many tokens ahead of the copying memory is asked for.
const AHEAD: usize = 4;
/// Products that a task should have at least: about 100 microseconds.
const TASK: usize = 1 << 22;

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
            let share = Share { segment, tokens, modules: modules.clone() };
            sum_modules(self, a, b, &share, &out);
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

/// What a task has: some modules of a segment.
#[derive(Clone)]
struct Share {
    segment: usize,
    tokens: Range<usize>,
    modules: Range<usize>,
}

dispatch!(
    fn sum_modules(
        outer: &Outer,
        a: &[f32],
        b: &[f32],
        share: &Share,
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

/// Block after block of tokens, and in each group after group of modules.
#[inline(always)]
fn sum_modules_on<S: Simd>(simd: S, outer: &Outer, a: &[f32], b: &[f32], share: &Share, out: &Parts<'_, f32>) {
    let &Outer { p, q, .. } = outer;
    let Share { segment, tokens, modules } = share.clone();
    if p == 0 || q == 0 {
        return;
    }
    let mut keep = outer.accumulate;
    if tokens.is_empty() && !keep {
        for module in modules {
            // SAFETY: results do not overlap, and this task has them.
            unsafe { out.part(outer.result(segment, module)) }.fill(0.0);
        }
        return;
    }
    let (copied_a, copied_b) = (Copied::left(outer.a, p), Copied::right(outer.b, q));
    let [mut room_a, mut room_b] = ROOM.take();
    let together = copied_a.modules().min(copied_b.modules());
    for start in tokens.clone().step_by(DEPTH) {
        let depth = DEPTH.min(tokens.end - start);
        for first in modules.clone().step_by(together) {
            let count = together.min(modules.end - first);
            let from_a = &a[start * outer.a.row + first * outer.a.module..];
            let from_b = &b[start * outer.b.row + first * outer.b.module..];
            copied_a.fill(simd, from_a, depth, count, &mut room_a);
            copied_b.fill(simd, from_b, depth, count, &mut room_b);
            for module in 0..count {
                let block =
                    Block { depth, a: copied_a.of(from_a, &room_a, module), b: copied_b.of(from_b, &room_b, module) };
                // SAFETY: results do not overlap, and this task has them.
                let result = unsafe { out.part(outer.result(segment, first + module)) };
                block.sum(simd, p, q, keep, result);
            }
        }
        keep = true;
    }
    ROOM.set([room_a, room_b]);
}

thread_local! {
    /// Memory for copies of a and b, which a thread keeps: new memory for every task would take as long as the copying.
    static ROOM: Cell<[Vec<f32>; 2]> = const { Cell::new([Vec::new(), Vec::new()]) };
}

/// Where the vectors of one module lie: in panels of so many values, `panel` elements from one to the next, and in each with `stride`
/// elements from token to token.
#[derive(Clone, Copy)]
struct Vectors<'a> {
    values: &'a [f32],
    stride: usize,
    panel: usize,
}

/// Copies of the vectors of a block of tokens for some modules, where they are needed: those of b in panels of [`PANEL`] columns, those
/// of a in one panel as wide as they are.
struct Copied {
    strides: Strides,
    width: usize,
    /// Values of a panel, and elements from token to token.
    stride: usize,
    /// Elements from module to module; 0 where the vectors are used where they are.
    size: usize,
}

impl Copied {
    /// Copies of a, which are needed where the vectors lie apart or would meet in the cache.
    const fn left(strides: Strides, width: usize) -> Self {
        // Of more than a line of the cache, an odd number of half lines, so that tokens do not meet in it.
        let whole = width.next_multiple_of(PANEL);
        let stride = if whole > PANEL { whole + LANES } else { whole };
        let needed = strides.row != width || width > NARROW;
        Self { strides, width, stride, size: if needed { DEPTH * stride } else { 0 } }
    }

    /// Copies of b, which are needed in whole vectors.
    const fn right(strides: Strides, width: usize) -> Self {
        let needed = strides.row != width || width > NARROW || !width.is_multiple_of(LANES);
        let size = if needed { width.div_ceil(PANEL) * DEPTH * PANEL } else { 0 };
        Self { strides, width, stride: PANEL, size }
    }

    /// How many modules should be copied together: those that lie side by side for each token, up to what the cache holds.
    const fn modules(&self) -> usize {
        if self.size == 0 {
            return usize::MAX;
        }
        let together = if self.strides.module > self.strides.row { 1 } else { TOGETHER / self.width };
        if together == 0 { 1 } else { together }
    }

    /// Copies the vectors of `depth` tokens and `count` modules, the first of which is the first of `from`.
    #[inline(always)]
    fn fill<S: Simd>(&self, simd: S, from: &[f32], depth: usize, count: usize, room: &mut Vec<f32>) {
        if self.size == 0 {
            return;
        }
        if room.len() < count * self.size {
            room.resize(count * self.size, 0.0);
        }
        let Strides { row, module: apart } = self.strides;
        let whole = self.width - self.width % LANES;
        let rest = self.width % LANES;
        // From a vector to the next of the same panel it is LANES elements, and to the first of the next panel one step more.
        let panel_step = if self.stride == PANEL { DEPTH * PANEL } else { PANEL };
        assert!(from.len() >= (depth - 1) * row + (count - 1) * apart + self.width, "a block has values");
        for t in 0..depth {
            if apart == self.width {
                prefetch(from, (t + AHEAD) * row, count * self.width);
            }
            for module in 0..count {
                // SAFETY: the source was asserted to be there. Copies of a module have `size` elements, which for a are DEPTH tokens of
                // `stride`, of at least the width in whole vectors, and for b as many panels as the width needs, of DEPTH tokens each.
                unsafe {
                    let from = from.as_ptr().add(t * row + module * apart);
                    let to = room.as_mut_ptr().add(module * self.size + t * self.stride);
                    for at in (0..whole).step_by(LANES) {
                        let place = at / PANEL * panel_step + at % PANEL;
                        simd.store(simd.load(&*from.add(at).cast()), &mut *to.add(place).cast());
                    }
                    if rest > 0 {
                        let place = whole / PANEL * panel_step + whole % PANEL;
                        let last = std::slice::from_raw_parts(from.add(whole), rest);
                        simd.store(simd.load_part(last, 0.0), &mut *to.add(place).cast());
                    }
                }
            }
        }
    }

    /// The vectors of a module of those copied to `room`, or of `from`.
    #[inline(always)]
    fn of<'a>(&self, from: &'a [f32], room: &'a [f32], module: usize) -> Vectors<'a> {
        if self.size == 0 {
            let values = &from[module * self.strides.module..];
            return Vectors { values, stride: self.strides.row, panel: PANEL };
        }
        Vectors { values: &room[module * self.size..], stride: self.stride, panel: DEPTH * self.stride }
    }
}

/// Tells the processor that elements of a slice will be read soon: it does not see a step from token to token that is longer than a page.
#[inline(always)]
fn prefetch(values: &[f32], start: usize, len: usize) {
    #[cfg(target_arch = "x86_64")]
    for at in (start..start + len).step_by(16) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: prefetching may name any address, and reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(values.as_ptr().wrapping_add(at).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, start, len);
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
        let last = self.depth - 1;
        let last_panel = (q - 1) / PANEL;
        let rest = (q - last_panel * PANEL).next_multiple_of(LANES);
        assert!(self.a.values.len() >= last * self.a.stride + p, "a block has values of a");
        assert!(
            self.b.values.len() >= last_panel * self.b.panel + last * self.b.stride + rest,
            "a block has values of b"
        );
        // Tiles of nearly the same number of rows: a last one of a single row would wait for its own sums.
        let tiles = p.div_ceil(ROWS);
        let mut row = 0;
        for tile in 0..tiles {
            let rows = p / tiles + usize::from(tile < p % tiles);
            for column in (0..q).step_by(PANEL) {
                // SAFETY: the tile is inside of p and of the vectors, which were asserted to be there for all tokens.
                unsafe {
                    match (rows, q - column > LANES) {
                        (1, true) => self.tile::<S, 1, 2>(simd, row, column, q, keep, result),
                        (1, false) => self.tile::<S, 1, 1>(simd, row, column, q, keep, result),
                        (2, true) => self.tile::<S, 2, 2>(simd, row, column, q, keep, result),
                        (2, false) => self.tile::<S, 2, 1>(simd, row, column, q, keep, result),
                        (3, true) => self.tile::<S, 3, 2>(simd, row, column, q, keep, result),
                        (3, false) => self.tile::<S, 3, 1>(simd, row, column, q, keep, result),
                        (4, true) => self.tile::<S, 4, 2>(simd, row, column, q, keep, result),
                        (4, false) => self.tile::<S, 4, 1>(simd, row, column, q, keep, result),
                        (5, true) => self.tile::<S, 5, 2>(simd, row, column, q, keep, result),
                        (5, false) => self.tile::<S, 5, 1>(simd, row, column, q, keep, result),
                        (_, true) => self.tile::<S, 6, 2>(simd, row, column, q, keep, result),
                        (_, false) => self.tile::<S, 6, 1>(simd, row, column, q, keep, result),
                    }
                }
            }
            row += rows;
        }
    }

    /// One tile, from `row` and `column` on, which is the first of a panel.
    ///
    /// # Safety
    /// For each token of the block, a has values up to row + R, and the panel of b has V times the lanes.
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize, const V: usize>(
        &self,
        simd: S,
        row: usize,
        column: usize,
        q: usize,
        keep: bool,
        result: &mut [f32],
    ) {
        let mut sums = [[simd.zero(); V]; R];
        // Pointers are moved on after the last token, too, so they may point beyond the end, and are not used there.
        let mut a = self.a.values.as_ptr().wrapping_add(row);
        let mut b = self.b.values.as_ptr().wrapping_add(column / PANEL * self.b.panel);
        for _ in 0..self.depth {
            // SAFETY: the caller answers for it.
            unsafe {
                let mut columns = [simd.zero(); V];
                for v in 0..V {
                    columns[v] = simd.load(&*b.add(v * LANES).cast());
                }
                for r in 0..R {
                    let value = simd.splat(*a.add(r));
                    for v in 0..V {
                        sums[r][v] = simd.mul_add(value, columns[v], sums[r][v]);
                    }
                }
            }
            a = a.wrapping_add(self.a.stride);
            b = b.wrapping_add(self.b.stride);
        }
        // By way of memory of its own: an array that a loop of unknown length runs over would be in memory above, too.
        let mut done = [[[0.0; LANES]; V]; R];
        for r in 0..R {
            for v in 0..V {
                simd.store(sums[r][v], &mut done[r][v]);
            }
        }
        for (r, done) in done.iter().enumerate() {
            for (v, sum) in done.iter().enumerate() {
                let (sum, column) = (simd.load(sum), column + v * LANES);
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
    }
}

//! The twin on the CPU.
//!
//! A score is made from pieces of [`DEPTH`] elements. Within a piece lane l of a vector adds up, with fused multiplications, the products
//! of the elements l, l + 8, l + 16 and so on; the lanes are added up in one order, and the pieces in theirs. Four rows and three
//! queries at a time take twelve vectors of sums, which hides the latency of additions, with seven loads for twelve
//! multiplications; so the same loop reads an index at the speed of memory for one query, and computes at the speed of a
//! matrix product for many, and a score has the same bits in both. A piece of four rows is widened to single precision once for
//! [`TOGETHER`] queries, whose piece stays in the second cache.

#![allow(clippy::needless_range_loop, reason = "counted loops over arrays of registers")]

use super::best::{Best, Candidates};
use super::stored::{Rows, Stored};
use crate::launch::{ShapeError, expect_len, expect_rows};
use crate::scan::prefetch::prefetch;
use crate::simd::{LANES, Simd, dispatch};
use crate::workers::{Parts, Workers};
use std::ops::Range;

/// Elements of a piece of a row: three queries and four rows of it fit into the first cache. The order of sums follows from it.
const DEPTH: usize = 512;
/// Rows that are multiplied at a time.
const ROWS: usize = 4;
/// Queries that are multiplied at a time.
const QUERIES: usize = 3;
/// Queries whose pieces stay in the second cache, a multiple of [`QUERIES`].
const TOGETHER: usize = 63;
/// Rows for which the pieces of queries are read once; few queries stay in the cache anyway, and rows are then read from one end to
/// the other.
const BLOCK: usize = 64;
/// Up to so many queries, the rows are what takes time to read.
const FEW: usize = 8;
/// Queries of one task, which see a block of rows one block of queries after the other.
const TASK: usize = 4 * TOGETHER;
/// Elements of rows worth a task of their own where there are few queries.
const WORTH_A_TASK: usize = 1 << 20;
/// Tasks that rows are divided into at most.
const MOST_PARTS: usize = 64;

/// Queries in the order in which they are read. See the [module](super) for an example.
#[derive(Clone, Debug)]
pub struct Queries {
    width: usize,
    count: usize,
    /// For each piece the queries, each filled up with zeros to whole vectors; of three queries vector after vector, so that they are
    /// read from one end to the other.
    packed: Vec<f32>,
}

impl Queries {
    /// Packs queries `[queries, width]`. Without a width there is no query.
    ///
    /// # Errors
    /// The length is not a multiple of the width.
    pub fn pack(queries: &[f32], width: usize) -> Result<Self, ShapeError> {
        let count = expect_rows("queries", queries.len(), width)?;
        let padded = width.next_multiple_of(LANES);
        let mut packed = Vec::with_capacity(count * padded);
        for piece in pieces(width) {
            for some in queries.chunks(QUERIES * width.max(1)) {
                for start in piece.clone().step_by(LANES) {
                    for query in some.chunks_exact(width.max(1)) {
                        packed.extend_from_slice(&query[start..piece.end.min(start + LANES)]);
                        packed.resize(packed.len().next_multiple_of(LANES), 0.0);
                    }
                }
            }
        }
        Ok(Self { width, count, packed })
    }

    /// Number of queries.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no query.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Elements of a query, and of a row.
    pub const fn width(&self) -> usize {
        self.width
    }

    /// Scores rows that follow one another, the first of which has the number `first_row`, and keeps the best.
    ///
    /// # Errors
    /// Lengths that do not belong together, or row numbers beyond what can be counted.
    pub fn update(
        &self,
        workers: &dyn Workers,
        rows: Rows<'_>,
        first_row: i64,
        best: &mut Best,
    ) -> Result<(), ShapeError> {
        let count = expect_rows("rows", rows.elements(), self.width)?;
        expect_len("best", best.len(), self.count)?;
        if let Rows::I8 { factors, .. } = rows {
            expect_len("factors", factors.len(), count)?;
        }
        // The last number must be below that of an empty place.
        if i64::try_from(count).ok().and_then(|count| first_row.checked_add(count)).is_none() {
            let allowed = "rows up to 2^63 - 2";
            return Err(ShapeError::Value { name: "first row", index: 0, allowed, actual: first_row });
        }
        if self.count == 0 || count == 0 {
            return Ok(());
        }
        let blocks = self.count.div_ceil(TASK);
        // Tasks of few queries are many only if rows are divided too. It follows from the shape alone, though the result would not
        // depend on it.
        let parts = if blocks > 1 { 1 } else { (rows.elements() / WORTH_A_TASK).clamp(1, MOST_PARTS) };
        let part_rows = count.div_ceil(parts).next_multiple_of(BLOCK);
        let mut beside: Vec<Candidates> = Vec::new();
        let states = if parts == 1 {
            Parts::new(&mut best.queries)
        } else {
            beside = (0..parts).flat_map(|_| best.queries.iter().map(Candidates::beside)).collect();
            Parts::new(&mut beside)
        };
        workers.run(blocks * parts, &|task| {
            let (block, part) = (task % blocks, task / blocks);
            let queries = block * TASK..self.count.min((block + 1) * TASK);
            let place = part * self.count;
            // SAFETY: each task has its own block of queries of its own part.
            #[allow(unsafe_code, reason = "tasks write their own states")]
            let states = unsafe { states.part(place + queries.start..place + queries.end) };
            let range = (part * part_rows).min(count)..((part + 1) * part_rows).min(count);
            let task = Task { queries: self, first_query: queries.start, first_row };
            match rows {
                Rows::F32(values) => f32_rows(&task, values, range, states),
                Rows::Bf16(values) => bf16_rows(&task, values, range, states),
                Rows::F16(values) => f16_rows(&task, values, range, states),
                Rows::I8 { values, factors } => i8_rows(&task, values, factors, range, states),
            }
        });
        if parts > 1 {
            for part in beside.chunks_exact(self.count) {
                best.queries.iter_mut().zip(part).for_each(|(own, part)| own.join(part));
            }
        }
        Ok(())
    }
}

/// The pieces of a row.
fn pieces(width: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    (0..width).step_by(DEPTH).map(move |start| start..width.min(start + DEPTH))
}

/// What the rows of a task are multiplied with.
struct Task<'a> {
    queries: &'a Queries,
    first_query: usize,
    /// The number of the first of all rows.
    first_row: i64,
}

impl Task<'_> {
    /// A piece of some queries, which begin with a whole three.
    #[inline(always)]
    fn piece(&self, piece: &Range<usize>, queries: Range<usize>) -> &[[f32; LANES]] {
        let length = piece.len().next_multiple_of(LANES);
        let start = piece.start * self.queries.count + (self.first_query + queries.start) * length;
        self.queries.packed[start..start + queries.len() * length].as_chunks().0
    }
}

dispatch!(fn f32_rows(task: &Task<'_>, values: &[f32], rows: Range<usize>, states: &mut [Candidates]) = f32_rows_on);
dispatch!(fn bf16_rows(task: &Task<'_>, values: &[half::bf16], rows: Range<usize>, states: &mut [Candidates]) = bf16_rows_on);
dispatch!(fn f16_rows(task: &Task<'_>, values: &[half::f16], rows: Range<usize>, states: &mut [Candidates]) = f16_rows_on);
dispatch!(fn i8_rows(task: &Task<'_>, values: &[i8], factors: &[f32], rows: Range<usize>, states: &mut [Candidates]) = i8_rows_on);

#[inline(always)]
fn f32_rows_on<S: Simd>(simd: S, task: &Task<'_>, values: &[f32], rows: Range<usize>, states: &mut [Candidates]) {
    rows_on(simd, task, values, None, rows, states);
}

#[inline(always)]
fn bf16_rows_on<S: Simd>(
    simd: S,
    task: &Task<'_>,
    values: &[half::bf16],
    rows: Range<usize>,
    states: &mut [Candidates],
) {
    rows_on(simd, task, values, None, rows, states);
}

#[inline(always)]
fn f16_rows_on<S: Simd>(simd: S, task: &Task<'_>, values: &[half::f16], rows: Range<usize>, states: &mut [Candidates]) {
    rows_on(simd, task, values, None, rows, states);
}

#[inline(always)]
fn i8_rows_on<S: Simd>(
    simd: S,
    task: &Task<'_>,
    values: &[i8],
    factors: &[f32],
    rows: Range<usize>,
    states: &mut [Candidates],
) {
    rows_on(simd, task, values, Some(factors), rows, states);
}

/// The scores of some rows with the queries of `states`, and what becomes of them.
#[inline(always)]
fn rows_on<S: Simd, T: Stored>(
    simd: S,
    task: &Task<'_>,
    values: &[T],
    factors: Option<&[f32]>,
    rows: Range<usize>,
    states: &mut [Candidates],
) {
    let width = task.queries.width;
    let few = states.len() <= FEW;
    let block = if few { ROWS } else { BLOCK };
    let mut scores = [[0.0_f32; BLOCK]; TOGETHER];
    let mut widened = [[[0.0_f32; LANES]; DEPTH / LANES]; ROWS];
    for first in rows.clone().step_by(block) {
        let count = block.min(rows.end - first);
        let values = &values[first * width..(first + count) * width];
        for (number, states) in states.chunks_mut(TOGETHER).enumerate() {
            let scores = &mut scores[..states.len()];
            scores.iter_mut().for_each(|scores| scores[..count].fill(0.0));
            for piece in pieces(width) {
                let begin = number * TOGETHER;
                // What is read next: the next piece of the same rows, or the first piece of the rows after them. The processor
                // would notice too late that four places are read at once, a few lines of each.
                let ahead = match (few, piece.end < width) {
                    (false, _) => 0,
                    (true, true) => DEPTH,
                    (true, false) => ROWS * width - piece.start,
                };
                let queries = task.piece(&piece, begin..begin + states.len());
                for row in (0..count).step_by(ROWS) {
                    // Where there are fewer rows the last is taken again, and what comes of it is left out.
                    let at = |i: usize| &values[(row + i).min(count - 1) * width..][piece.clone()];
                    let rows = Four::new(std::array::from_fn(at), ahead);
                    let scores = Scores { all: &mut *scores, first: row, count: ROWS.min(count - row) };
                    if states.len() <= if T::IS_F32 { FEW } else { QUERIES } {
                        multiply(simd, &rows, queries, scores);
                    } else {
                        multiply(simd, &rows.widen(simd, &mut widened), queries, scores);
                    }
                }
            }
            for (scores, state) in scores.iter_mut().zip(states) {
                let scores = &mut scores[..count];
                if let Some(factors) = factors {
                    let factors = &factors[first..first + count];
                    scores.iter_mut().zip(factors).for_each(|(score, factor)| *score *= factor);
                }
                state.offer(scores, task.first_row + first as i64);
            }
        }
    }
}

/// A piece of four rows: whole vectors, and what is left of each, filled up with zeros.
struct Four<'a, T> {
    whole: [&'a [[T; LANES]]; ROWS],
    /// How many elements ahead of their use rows are fetched; 0 where they are not.
    ahead: usize,
    rest: [[f32; LANES]; ROWS],
}

impl<'a, T: Stored> Four<'a, T> {
    #[inline(always)]
    fn new(rows: [&'a [T]; ROWS], ahead: usize) -> Self {
        let mut four = Self { whole: rows.map(|row| row.as_chunks().0), ahead, rest: [[0.0; LANES]; ROWS] };
        for (row, to) in rows.iter().zip(&mut four.rest) {
            row.as_chunks::<LANES>().1.iter().zip(to).for_each(|(from, to)| *to = from.value());
        }
        four
    }

    #[inline(always)]
    fn widen<'b, S: Simd>(&self, simd: S, memory: &'b mut [[[f32; LANES]; DEPTH / LANES]; ROWS]) -> Four<'b, f32> {
        let vectors = self.whole[0].len();
        for (from, to) in self.whole.iter().zip(memory.iter_mut()) {
            from.iter().zip(to).for_each(|(from, to)| simd.store(T::eight(simd, from), to));
        }
        Four { whole: memory.each_ref().map(|row| &row[..vectors]), ahead: 0, rest: self.rest }
    }
}

/// Scores of some queries, of which those of `count` rows from `first` on are added to.
struct Scores<'a> {
    all: &'a mut [[f32; BLOCK]],
    first: usize,
    count: usize,
}

/// Adds the products of four rows with a piece of some queries.
#[inline(always)]
fn multiply<S: Simd, T: Stored>(simd: S, rows: &Four<'_, T>, queries: &[[f32; LANES]], scores: Scores<'_>) {
    let vectors = queries.len() / scores.all.len();
    let mut groups = scores.all.chunks_exact_mut(QUERIES);
    let mut queries = queries.chunks_exact(QUERIES * vectors);
    let places = scores.first..scores.first + scores.count;
    for (queries, scores) in (&mut queries).zip(&mut groups) {
        add::<S, T, QUERIES>(simd, rows, queries, scores, places.clone());
    }
    let (queries, scores) = (queries.remainder(), groups.into_remainder());
    match scores.len() {
        1 => add::<S, T, 1>(simd, rows, queries, scores, places),
        2 => add::<S, T, 2>(simd, rows, queries, scores, places),
        _ => {}
    }
}

#[inline(always)]
fn add<S: Simd, T: Stored, const COUNT: usize>(
    simd: S,
    rows: &Four<'_, T>,
    queries: &[[f32; LANES]],
    scores: &mut [[f32; BLOCK]],
    places: Range<usize>,
) {
    let queries = queries.as_chunks::<COUNT>().0;
    let whole = rows.whole[0].len();
    // Slices that are known to be of one length need no checks in the loop.
    let (heads, four) = (&queries[..whole], rows.whole.map(|row| &row[..whole]));
    let mut sums = [[simd.zero(); ROWS]; COUNT];
    let vectors_of_line = 64 / (LANES * size_of::<T>());
    for i in 0..whole {
        if rows.ahead > 0 && i % vectors_of_line == 0 {
            four.iter().for_each(|row| prefetch(row.as_flattened(), i * LANES + rows.ahead));
        }
        let of_queries: [S::F; COUNT] = std::array::from_fn(|query| simd.load(&heads[i][query]));
        for row in 0..ROWS {
            let values = T::eight(simd, &four[row][i]);
            for query in 0..COUNT {
                sums[query][row] = simd.mul_add(of_queries[query], values, sums[query][row]);
            }
        }
    }
    if let Some(queries) = queries.get(whole) {
        for query in 0..COUNT {
            for row in 0..ROWS {
                let (of_query, values) = (simd.load(&queries[query]), simd.load(&rows.rest[row]));
                sums[query][row] = simd.mul_add(of_query, values, sums[query][row]);
            }
        }
    }
    for (scores, sums) in scores.iter_mut().zip(sums) {
        for (score, sum) in scores[places.clone()].iter_mut().zip(simd.sums(sums)) {
            *score += sum;
        }
    }
}

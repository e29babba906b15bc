//! The loops around the micro-kernels: blocks for the caches, edges, threads.
//!
//! k is cut into blocks of [`Kernel::DEPTH`], always at the same places. Within a block a micro-kernel adds the products of one
//! element of the result in the order of k, in one chain, whatever else it computes beside it; blocks are added in
//! order. So an element's bits depend on its row of the left operand and on its column of the right one, and on nothing else:
//! not on other rows, not on its place in a tile, not on threads.
//!
//! Micro-kernels write whole panels. Where a tile reaches beyond the matrix, it is computed in a small buffer, with
//! the same operations, and what exists of it is copied.

#![allow(unsafe_code, reason = "micro-kernels work on raw memory, and threads write disjoint parts of one matrix")]

use std::ops::Range;

use super::element::{Buffer, Element, WeightElement};
use super::matrix::{Matrix, MatrixMut};
use super::pack::{Chunk, PANEL, chunks, pack_left, pack_right, panel_len, panels};

/// Columns that are computed before the next rows: the part of the result that they touch stays in the second or third cache.
const COLUMNS: usize = 2048;

/// The left operand stays packed for all of k if it takes no more than this: then each element of the result is finished
/// at once and weights are read from one end to the other, which is what few rows need.
const RESIDENT: usize = 192 << 10;

/// Multiply-adds that are worth a thread of their own.
const WORTH_A_THREAD: usize = 1 << 20;

/// What the first block of k is added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// Nothing: the result is overwritten.
    Zero,
    /// One number for each column.
    Bias,
    /// The result as it is.
    Keep,
}

/// One call of a micro-kernel: `panels` panels of the result for a chunk of rows.
pub(super) struct Tile<L, R> {
    /// Values of k, a multiple of the micro-kernel's group.
    pub(super) depth: usize,
    /// Rows as stored in `left`: 1 to [`Kernel::ROWS`], a multiple of [`Kernel::ROW_UNIT`].
    pub(super) rows: usize,
    /// Panels, 1 to [`Kernel::panels`] of so many rows or fewer.
    pub(super) panels: usize,
    /// The packed chunk: for each group of k, each row's numbers.
    pub(super) left: *const L,
    /// The first panel.
    pub(super) right: *const R,
    /// Elements from one panel to the next.
    pub(super) panel_stride: usize,
    /// The result's first element.
    pub(super) out: *mut f32,
    /// Elements from one row of the result to the next.
    pub(super) out_stride: usize,
    /// What to add to.
    pub(super) start: Start,
    /// A number for each column, if `start` is [`Start::Bias`].
    pub(super) bias: *const f32,
}

/// The innermost part of an engine.
pub(super) trait Kernel {
    /// How it reads the left operand.
    type Left: Element;
    /// How it reads weights.
    type Right: WeightElement;
    /// The most rows it takes at once.
    const ROWS: usize;
    /// It takes whole multiples of this many rows.
    const ROW_UNIT: usize = 1;
    /// Values of k that lie side by side in the left operand: 8 or 32.
    const GROUP: usize = 8;
    /// Values of k in a block, so that a tile's panels stay in the first cache; a multiple of 32.
    const DEPTH: usize;
    /// Rows in a block, so that their part of a block of k stays in the second cache.
    const BLOCK_ROWS: usize;

    /// How many panels keep the arithmetic units busy with so few rows.
    fn panels(rows: usize) -> usize;

    /// Prepares the thread.
    ///
    /// # Safety
    ///
    /// The processor must have the features that the micro-kernel is made for.
    unsafe fn enter() {}

    /// Undoes [`Kernel::enter`].
    ///
    /// # Safety
    ///
    /// Only after [`Kernel::enter`] on the same thread.
    unsafe fn leave() {}

    /// Adds the products of a tile.
    ///
    /// # Safety
    ///
    /// The processor must have the features that the micro-kernel is made for, [`Kernel::enter`] was called on this thread, and
    /// the tile's pointers reach as much memory as its fields say: `left` rows × depth, `right` panels × depth × [`PANEL`]
    /// and `panel_stride` between panels, `out` rows × panels × [`PANEL`] with `out_stride` between rows, writable by this
    /// thread alone, and `bias` panels × [`PANEL`] where it is used.
    unsafe fn run(tile: &Tile<Self::Left, Self::Right>);
}

/// How a product is computed, besides its operands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job<'a> {
    /// Added to each row; as long as the result is wide.
    pub(super) bias: Option<&'a [f32]>,
    /// Whether to add to the result instead of overwriting it.
    pub(super) accumulate: bool,
    /// At most this many threads.
    pub(super) threads: usize,
}

/// The right operand.
#[derive(Clone, Copy)]
pub(super) enum Right<'a, R> {
    /// Panels that hold all of k, and where one begins after another: further apart than they are long, where k is a part of
    /// what they hold.
    Packed {
        /// From the first value of k of the first panel on.
        panels: &'a [R],
        /// Elements from one panel to the next.
        stride: usize,
    },
    /// A k × n matrix, packed a block at a time.
    Plain(Matrix<'a>),
}

/// Computes left · right, m × k times k × n, into `out`, m × n. The shapes agree; the caller has checked them.
///
/// # Safety
///
/// The processor must have the features that `K` is made for.
pub(super) unsafe fn multiply<K: Kernel>(
    left: Matrix<'_>,
    right: Right<'_, K::Right>,
    out: &mut MatrixMut<'_>,
    job: Job<'_>,
) {
    let (m, n, k) = (out.layout().rows, out.layout().columns, left.layout().columns);
    if m == 0 || n == 0 {
        return;
    }
    let stride = out.layout().row_stride;
    let values = out.values();
    if k == 0 || (job.accumulate && job.bias.is_some()) {
        for row in values.chunks_mut(stride.max(n)).take(m) {
            begin(&mut row[..n], job);
        }
    }
    if k == 0 {
        return;
    }
    let (start, bias) = match job.bias {
        _ if job.accumulate => (Start::Keep, Vec::new()),
        None => (Start::Zero, Vec::new()),
        Some(bias) => {
            let mut padded = vec![0.0; panels(n) * PANEL];
            padded[..n].copy_from_slice(bias);
            (Start::Bias, padded)
        }
    };
    let work = Work { left, right, depth: k, columns: n, out: Shared(values.as_mut_ptr()), stride, start, bias: &bias };
    let worth = (m.saturating_mul(n).saturating_mul(k) / WORTH_A_THREAD).max(1);
    let threads = job.threads.clamp(1, worth);
    // Rows are divided if each thread gets several chunks, since then every thread packs only its own; panels otherwise.
    let parts: Vec<(Range<usize>, Range<usize>)> = if m >= threads * K::ROWS * 4 {
        spread(m, threads).map(|rows| (rows, 0..panels(n))).collect()
    } else {
        spread(panels(n), threads).map(|panels| (0..m, panels)).collect()
    };
    let run = |(rows, panels): (Range<usize>, Range<usize>)| {
        let _entered = Entered::<K>::new();
        match work.right {
            // SAFETY: the caller vouches for the features, parts are disjoint, and `_entered` has prepared the thread.
            Right::Packed { .. } => unsafe { work.packed::<K>(rows, panels) },
            // SAFETY: as above.
            Right::Plain(_) => unsafe { work.plain::<K>(rows, panels) },
        }
    };
    let mut parts = parts.into_iter();
    let Some(first) = parts.next() else { return };
    if parts.len() == 0 {
        return run(first);
    }
    std::thread::scope(|scope| {
        for part in parts {
            scope.spawn(|| run(part));
        }
        run(first);
    });
}

/// Columns of a product that is computed in pieces, one after another, in the same memory.
pub(super) struct Pieces<'a> {
    /// Columns of the whole product.
    pub(super) columns: usize,
    /// Those that are computed; the first is a multiple of [`PANEL`].
    pub(super) range: Range<usize>,
    /// Columns of a piece, a multiple of [`PANEL`]; the last has fewer where it must.
    pub(super) width: usize,
    /// What the sums begin with: a number for each column of the whole product, padded to whole panels; none is zero.
    pub(super) bias: &'a [f32],
    /// Rows × `width`, to be worked in.
    pub(super) scratch: &'a mut [f32],
}

/// Computes left · right, m × k times k × n, in pieces of columns, and hands over each: its columns, and its elements in rows that
/// are [`Pieces::width`] apart. Elements have the bits that [`multiply`] gives them.
///
/// The left operand is packed once for all pieces: m × k elements, each row padded to a multiple of [`Kernel::GROUP`].
///
/// # Safety
///
/// The processor must have the features that `K` is made for.
pub(super) unsafe fn multiply_pieces<K: Kernel>(
    left: Matrix<'_>,
    right: &[K::Right],
    pieces: Pieces<'_>,
    each: &mut dyn FnMut(Range<usize>, &mut [f32]),
) {
    let (m, k) = (left.layout().rows, left.layout().columns);
    let Pieces { columns, range, width, bias, scratch } = pieces;
    let scratch = &mut scratch[..m * width];
    let all: Vec<Chunk> = chunks(0..m, K::ROWS, K::ROW_UNIT).collect();
    let blocks: Vec<_> = split(0..k, K::DEPTH).map(|depth| (depth.start, Rows::new::<K>(left, &all, depth))).collect();
    let least = all.iter().map(|chunk| chunk.stored).min().unwrap_or(1);
    let stride = panel_len::<K::Right>(k);
    for first in range.clone().step_by(width) {
        let piece = first..range.end.min(first + width);
        let bias = if bias.is_empty() { bias } else { &bias[first..] };
        if k == 0 {
            for row in scratch.chunks_exact_mut(width) {
                begin(&mut row[..piece.len()], Job { bias: bias.get(..piece.len()), accumulate: false, threads: 1 });
            }
        } else if m > 0 {
            let packed = &right[first / PANEL * stride..];
            let work = Work {
                left,
                right: Right::Packed { panels: packed, stride },
                depth: k,
                columns: piece.len().min(columns - first),
                out: Shared(scratch.as_mut_ptr()),
                stride: width,
                start: if bias.is_empty() { Start::Zero } else { Start::Bias },
                bias,
            };
            // The thread is the caller's own again when it gets a piece, which it may multiply with something.
            let _entered = Entered::<K>::new();
            let together = if m * k * size_of::<K::Left>() <= RESIDENT { K::panels(least) } else { width / PANEL };
            for panels in split(0..piece.len().div_ceil(PANEL), together) {
                for (k, rows) in &blocks {
                    let packed = &packed[panels.start * stride + k * PANEL..];
                    let columns = Columns { panels: panels.clone(), packed, stride };
                    // SAFETY: as for this function; the result is the scratch memory, which is this call's own and has room
                    // for each row and each column of the piece.
                    unsafe { work.block::<K>(rows, &columns, *k) };
                }
            }
        }
        each(piece, scratch);
    }
}

/// What a row of the result is before any product is added.
fn begin(row: &mut [f32], job: Job<'_>) {
    match job.bias {
        Some(bias) if job.accumulate => row.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias),
        Some(bias) => row.copy_from_slice(bias),
        None if job.accumulate => {}
        None => row.fill(0.0),
    }
}

/// `0..count` in at most `parts` parts, none of which is empty.
fn spread(count: usize, parts: usize) -> impl Iterator<Item = Range<usize>> {
    let parts = parts.min(count).max(1);
    (0..parts).map(move |part| count * part / parts..count * (part + 1) / parts)
}

/// The thread is prepared for a micro-kernel as long as this lives, also if something panics.
struct Entered<K: Kernel>(std::marker::PhantomData<K>);

impl<K: Kernel> Entered<K> {
    fn new() -> Self {
        // SAFETY: made by `multiply` only, whose caller vouches for the processor's features.
        unsafe { K::enter() };
        Self(std::marker::PhantomData)
    }
}

impl<K: Kernel> Drop for Entered<K> {
    fn drop(&mut self) {
        // SAFETY: `new` has entered on this thread, which the value cannot leave, since nobody gives it away.
        unsafe { K::leave() };
    }
}

/// The result, of which each thread writes its own part.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

// SAFETY: the pointer comes from a `&mut` slice that outlives the threads, and they write disjoint parts.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

struct Work<'a, R> {
    left: Matrix<'a>,
    right: Right<'a, R>,
    depth: usize,
    columns: usize,
    out: Shared,
    stride: usize,
    start: Start,
    /// Padded to whole panels, if `start` asks for it.
    bias: &'a [f32],
}

/// Packed rows and where each chunk begins.
struct Rows<L> {
    packed: Buffer<L>,
    /// Values of k, padded.
    depth: usize,
    chunks: Vec<Chunk>,
}

/// A block of packed weights: `panels` of the result's panels, for some values of k.
struct Columns<'a, R> {
    panels: Range<usize>,
    /// From the first value of k of the first panel on.
    packed: &'a [R],
    stride: usize,
}

impl<R: WeightElement> Work<'_, R> {
    /// # Safety
    ///
    /// As for [`multiply`]; no other thread may use these rows and panels of the result.
    unsafe fn packed<K: Kernel<Right = R>>(&self, rows: Range<usize>, panels: Range<usize>) {
        let Right::Packed { panels: packed, stride } = self.right else { return };
        let columns = |panels: &Range<usize>, k: usize| Columns {
            panels: panels.clone(),
            packed: &packed[panels.start * stride + k * PANEL..],
            stride,
        };
        let blocks = || (0..self.depth).step_by(K::DEPTH).map(|k| k..self.depth.min(k + K::DEPTH));
        if rows.len() * self.depth * size_of::<K::Left>() <= RESIDENT {
            let chunks: Vec<Chunk> = chunks(rows, K::ROWS, K::ROW_UNIT).collect();
            let least = chunks.iter().map(|chunk| chunk.stored).min().unwrap_or(1);
            let blocks: Vec<_> =
                blocks().map(|depth| (depth.clone(), Rows::new::<K>(self.left, &chunks, depth))).collect();
            for first in panels.clone().step_by(K::panels(least)) {
                let panels = first..panels.end.min(first + K::panels(least));
                for (depth, rows) in &blocks {
                    // SAFETY: as for this function.
                    unsafe { self.block::<K>(rows, &columns(&panels, depth.start), depth.start) };
                }
            }
            return;
        }
        for panels in split(panels, COLUMNS / PANEL) {
            for rows in split(rows.clone(), K::BLOCK_ROWS) {
                let chunks: Vec<Chunk> = chunks(rows, K::ROWS, K::ROW_UNIT).collect();
                for depth in blocks() {
                    let rows = Rows::new::<K>(self.left, &chunks, depth.clone());
                    // SAFETY: as for this function.
                    unsafe { self.block::<K>(&rows, &columns(&panels, depth.start), depth.start) };
                }
            }
        }
    }

    /// # Safety
    ///
    /// As for [`multiply`]; no other thread may use these rows and panels of the result.
    unsafe fn plain<K: Kernel<Right = R>>(&self, rows: Range<usize>, panels: Range<usize>) {
        let Right::Plain(right) = self.right else { return };
        for panels in split(panels, COLUMNS / PANEL) {
            for k in (0..self.depth).step_by(K::DEPTH) {
                let depth = k..self.depth.min(k + K::DEPTH);
                let stride = panel_len::<R>(depth.len());
                let mut packed = Buffer::zeroed(stride * panels.len());
                let columns = panels.start * PANEL..self.columns.min(panels.end * PANEL);
                pack_right(right, depth.clone(), columns, packed.as_mut_slice());
                for rows in split(rows.clone(), K::BLOCK_ROWS) {
                    let chunks: Vec<Chunk> = chunks(rows, K::ROWS, K::ROW_UNIT).collect();
                    let rows = Rows::new::<K>(self.left, &chunks, depth.clone());
                    let columns = Columns { panels: panels.clone(), packed: packed.as_slice(), stride };
                    // SAFETY: as for this function.
                    unsafe { self.block::<K>(&rows, &columns, k) };
                }
            }
        }
    }

    /// Adds one block of k to some rows and panels of the result.
    ///
    /// # Safety
    ///
    /// As for [`multiply`]; no other thread may use these rows and panels of the result.
    unsafe fn block<K: Kernel<Right = R>>(&self, rows: &Rows<K::Left>, columns: &Columns<'_, R>, k: usize) {
        let start = if k == 0 { self.start } else { Start::Keep };
        let least = rows.chunks.iter().map(|chunk| chunk.stored).min().unwrap_or(1);
        let together = K::panels(least);
        for (group, first) in columns.panels.clone().step_by(together).enumerate() {
            let panels = together.min(columns.panels.end - first);
            let right = &columns.packed[group * together * columns.stride..];
            assert!(right.len() >= (panels - 1) * columns.stride + rows.depth * PANEL, "weights end inside of a tile");
            let width = (panels * PANEL).min(self.columns - first * PANEL);
            let mut left = rows.packed.as_slice();
            for chunk in &rows.chunks {
                let (this, rest) = left.split_at(chunk.stored * rows.depth);
                left = rest;
                // SAFETY: the chunk is inside of the result, and so are the panel's first `width` columns.
                let out = unsafe { self.out.0.add(chunk.row * self.stride + first * PANEL) };
                let mut tile = Tile {
                    depth: rows.depth,
                    rows: chunk.stored,
                    panels,
                    left: this.as_ptr(),
                    right: right.as_ptr(),
                    panel_stride: columns.stride,
                    out,
                    out_stride: self.stride,
                    start,
                    bias: self.bias.get(first * PANEL..).map_or(std::ptr::null(), <[f32]>::as_ptr),
                };
                if width == panels * PANEL && chunk.rows == chunk.stored {
                    // SAFETY: the operands' lengths were checked above, the whole tile is inside of the result, and the bias,
                    // where there is one, is padded to whole panels.
                    unsafe { K::run(&tile) };
                } else {
                    // SAFETY: as above, and the edge's rows and columns are those that exist.
                    unsafe { edge::<K>(&mut tile, chunk.rows, width) };
                }
            }
        }
    }
}

/// `range` in parts of `length`.
fn split(range: Range<usize>, length: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(length).map(move |start| start..end.min(start + length))
}

/// Computes a tile of which only the first `rows` and `columns` exist.
///
/// # Safety
///
/// As for [`Kernel::run`], but the result need not have more than these rows and columns.
#[inline(never)]
unsafe fn edge<K: Kernel>(tile: &mut Tile<K::Left, K::Right>, rows: usize, columns: usize) {
    /// Elements of the largest tile.
    const LARGEST: usize = 32 * 2 * PANEL;
    #[repr(align(64))]
    struct Scratch([f32; LARGEST]);
    let mut scratch = Scratch([0.0; LARGEST]);
    let (out, stride, width) = (tile.out, tile.out_stride, tile.panels * PANEL);
    assert!(
        tile.rows * width <= LARGEST && rows <= tile.rows && columns <= width,
        "tile larger than the scratch memory"
    );
    if tile.start == Start::Keep {
        for (row, scratch) in scratch.0.chunks_exact_mut(width).take(rows).enumerate() {
            // SAFETY: these rows and columns exist, and the scratch memory is apart from the result.
            unsafe { scratch.as_mut_ptr().copy_from_nonoverlapping(out.add(row * stride), columns) };
        }
    }
    (tile.out, tile.out_stride) = (scratch.0.as_mut_ptr(), width);
    // SAFETY: the operands are as before; the result is the scratch memory, which is large enough.
    unsafe { K::run(tile) };
    for (row, scratch) in scratch.0.chunks_exact(width).take(rows).enumerate() {
        // SAFETY: as above.
        unsafe { out.add(row * stride).copy_from_nonoverlapping(scratch.as_ptr(), columns) };
    }
}

impl<L: Element> Rows<L> {
    fn new<K: Kernel<Left = L>>(left: Matrix<'_>, chunks: &[Chunk], depth: Range<usize>) -> Self {
        let padded = depth.len().next_multiple_of(K::GROUP);
        let stored: usize = chunks.iter().map(|chunk| chunk.stored).sum();
        let mut packed = Buffer::zeroed(stored * padded);
        let mut rest = packed.as_mut_slice();
        for chunk in chunks {
            let (this, behind) = rest.split_at_mut(chunk.stored * padded);
            rest = behind;
            pack_left(left, *chunk, depth.clone(), K::GROUP, this);
        }
        Self { packed, depth: padded, chunks: chunks.to_vec() }
    }
}

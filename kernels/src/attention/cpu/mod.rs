//! The twin on the CPU.
//!
//! A task of the forward pass is a block of queries of one document, for all query heads of one key head: a lane is a query of one
//! head, so that heads that share keys read them once. A task of the backward pass is a whole document for one key head: then
//! keys and values get their gradients block after block of queries, in a fixed order, and each product is computed once. A
//! thread works in at most 1.5 MiB of memory, which it keeps.

#![allow(
    clippy::needless_range_loop,
    reason = "pairs of vectors; a closure over them is not always inlined, and then has not the instructions of its caller"
)]

mod backward;
mod forward;
#[cfg(test)]
mod tests;
mod tile;

use super::shape::{Document, Tasks};
use super::{Attention, Backward, Documents, Forward, Heads};
use crate::launch::{ShapeError, expect_len};
use crate::simd::Simd;
use crate::workers::{Parts, Workers};
use std::cell::Cell;
use std::ops::Range;
use tile::{PANEL, ROWS};

/// Keys of a block: they and their values, for heads of 64, stay in the nearest cache. A multiple of [`ROWS`].
pub(super) const KEYS: usize = 12 * ROWS;
/// Most lanes of a block.
const MOST_LANES: usize = 128;

impl Attention {
    /// Attention of each document.
    ///
    /// # Errors
    /// Heads, widths, strides, lengths or offsets that do not belong together.
    pub fn forward(
        &self,
        workers: &dyn Workers,
        documents: Documents<&[i64]>,
        slices: Forward<&[f32], &mut [f32], &mut [f32]>,
    ) -> Result<(), ShapeError> {
        let Forward { q, k, v, o, log_sums } = slices;
        let count = self.check_inputs(documents, q, k, v)?;
        o.check_write("o", o.buffer.len(), [documents.query_rows, self.query_heads, self.width])?;
        let sums = documents.query_rows * self.query_heads;
        expect_len("log_sums", log_sums.as_ref().map_or(sums, |slice| slice.len()), sums)?;

        let lanes = forward::lanes(self.width);
        let pieces = |number| (documents.document(number).queries.len() * self.group()).div_ceil(lanes);
        let tasks = Tasks::new(count, self.key_heads, pieces);
        let parts = Parts::new(o.buffer);
        let results = Results { parts: &parts, row_stride: o.row_stride, head_stride: o.head_stride };
        let sums = log_sums.map(Parts::new);
        workers.run(tasks.count(), &|task| {
            let (document, head, piece) = tasks.find(task);
            let document = documents.document(document);
            let block = Block::new(self, &document, head, piece * lanes..(piece + 1) * lanes);
            with_memory(forward::memory(self.width), |memory| {
                let outputs = forward::Outputs { results, log_sums: sums.as_ref() };
                forward::forward_block(self, &document, &block, [q, k, v], outputs, memory);
            });
        });
        Ok(())
    }

    /// Gradients of queries, keys and values.
    ///
    /// # Errors
    /// Heads, widths, strides, lengths or offsets that do not belong together.
    pub fn backward(
        &self,
        workers: &dyn Workers,
        documents: Documents<&[i64]>,
        slices: Backward<&[f32], &mut [f32], &[f32]>,
    ) -> Result<(), ShapeError> {
        let Backward { q, k, v, o, d_o, log_sums, dq, dk, dv } = slices;
        let count = self.check_inputs(documents, q, k, v)?;
        let queries = [documents.query_rows, self.query_heads, self.width];
        let keys = [documents.key_rows, self.key_heads, self.width];
        o.check_read("o", o.buffer.len(), queries)?;
        d_o.check_read("d_o", d_o.buffer.len(), queries)?;
        expect_len("log_sums", log_sums.len(), documents.query_rows * self.query_heads)?;
        dq.check_write("dq", dq.buffer.len(), queries)?;
        dk.check_write("dk", dk.buffer.len(), keys)?;
        dv.check_write("dv", dv.buffer.len(), keys)?;

        let strides =
            [(dq.row_stride, dq.head_stride), (dk.row_stride, dk.head_stride), (dv.row_stride, dv.head_stride)];
        let parts = [Parts::new(dq.buffer), Parts::new(dk.buffer), Parts::new(dv.buffer)];
        let results: [Results<'_>; 3] = std::array::from_fn(|i| {
            let (row_stride, head_stride) = strides[i];
            Results { parts: &parts[i], row_stride, head_stride }
        });
        let inputs = backward::Inputs { q, k, v, o, d_o, log_sums };
        let tasks = Tasks::new(count, self.key_heads, |_| 1);
        workers.run(tasks.count(), &|task| {
            let (document, head, _) = tasks.find(task);
            let document = documents.document(document);
            with_memory(backward::memory(self.width), |memory| {
                backward::backward_document(self, &document, head, &inputs, results, memory);
            });
        });
        Ok(())
    }

    fn check_inputs(
        &self,
        documents: Documents<&[i64]>,
        q: Heads<&[f32]>,
        k: Heads<&[f32]>,
        v: Heads<&[f32]>,
    ) -> Result<usize, ShapeError> {
        self.check()?;
        q.check_read("q", q.buffer.len(), [documents.query_rows, self.query_heads, self.width])?;
        let keys = [documents.key_rows, self.key_heads, self.width];
        k.check_read("k", k.buffer.len(), keys)?;
        v.check_read("v", v.buffer.len(), keys)?;
        documents.check()
    }
}

/// Where tasks write.
#[derive(Clone, Copy)]
struct Results<'a> {
    parts: &'a Parts<'a, f32>,
    row_stride: usize,
    head_stride: usize,
}

impl Results<'_> {
    /// The elements of a head of a row.
    ///
    /// # Safety
    /// As long as the result is used, the same head of the same row may not be asked for.
    #[allow(unsafe_code, clippy::mut_from_ref, reason = "tasks of one call write disjoint parts of one slice")]
    unsafe fn row(&self, row: usize, head: usize, width: usize) -> &mut [f32] {
        let start = row * self.row_stride + head * self.head_stride;
        // SAFETY: heads of rows do not overlap, which was checked with the strides.
        unsafe { self.parts.part(start..start + width) }
    }
}

/// A block of lanes. Lane i of a document is of its query i / group and head i % group of those that share a key head.
struct Block {
    head: usize,
    group: usize,
    /// Row of the document's first query.
    first_row: usize,
    first_lane: usize,
    lanes: usize,
    /// The keys that each lane sees, counted from the beginning of the document. Lanes beyond the last, up to a whole panel, are
    /// given what the last sees.
    visible: [(usize, usize); MOST_LANES],
}

impl Block {
    fn new(attention: &Attention, document: &Document, head: usize, lanes: Range<usize>) -> Self {
        let group = attention.group();
        let count = lanes.len().min(document.queries.len() * group - lanes.start);
        let mut visible = [(0, 0); MOST_LANES];
        for (lane, visible) in visible.iter_mut().enumerate().take(count.next_multiple_of(PANEL)) {
            let seen = document.visible(attention.mask, (lanes.start + lane.min(count - 1)) / group);
            *visible = (seen.start, seen.end);
        }
        Self { head, group, first_row: document.queries.start, first_lane: lanes.start, lanes: count, visible }
    }

    /// Row and head of a lane; `None` beyond the last.
    #[inline(always)]
    fn place(&self, lane: usize) -> Option<(usize, usize)> {
        let number = self.first_lane + lane;
        (lane < self.lanes)
            .then(|| (self.first_row + number / self.group, self.head * self.group + number % self.group))
    }

    /// A lane's row of queries or of what is as long; `None` beyond the last.
    #[inline(always)]
    fn row<'a>(&self, from: Heads<&'a [f32]>, lane: usize, width: usize) -> Option<&'a [f32]> {
        self.place(lane).map(|(row, head)| &from.buffer[from.range(row, head, width)])
    }

    fn panels(&self) -> usize {
        self.lanes.div_ceil(PANEL)
    }

    /// Blocks of the keys of `within`, whose beginning is that of a block; keys before and after all that lanes see are left
    /// out.
    fn keys(&self, within: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        let first = self.visible[0].0.max(within.start);
        let last = self.visible[self.lanes - 1].1.min(within.end);
        (first / KEYS..last.div_ceil(KEYS)).map(move |block| (block * KEYS).max(first)..((block + 1) * KEYS).min(last))
    }

    /// What the lanes of a panel see of the keys of `range`.
    #[inline(always)]
    fn sight<S: Simd>(&self, simd: S, panel: usize, range: &Range<usize>) -> Sight<S> {
        let lanes = &self.visible[panel * PANEL..(panel + 1) * PANEL];
        let (first, last) = (lanes[0], lanes[PANEL - 1]);
        let clamp = |key: usize| key.clamp(range.start, range.end);
        let any = clamp(first.0)..clamp(last.1);
        // Counted from the block, so that they are exact in single precision.
        let mut bounds = [[0.0; PANEL]; 2];
        for (lane, &(start, end)) in lanes.iter().enumerate() {
            bounds[0][lane] = (clamp(start) - range.start) as f32;
            bounds[1][lane] = (clamp(end) - range.start) as f32;
        }
        Sight {
            any: any.start..any.end.max(any.start),
            all: last.0..first.1,
            block: range.start,
            starts: tile::pair(simd, &bounds[0], 0),
            ends: tile::pair(simd, &bounds[1], 0),
        }
    }
}

/// What the lanes of a panel see of a block of keys.
struct Sight<S: Simd> {
    /// Keys that any lane sees.
    any: Range<usize>,
    /// Keys that all lanes see, in this block or not.
    all: Range<usize>,
    /// First key of the block.
    block: usize,
    starts: [S::F; 2],
    ends: [S::F; 2],
}

impl<S: Simd> Sight<S> {
    /// `values` of a key where a lane sees it, else `hidden`.
    #[inline(always)]
    fn mask(&self, simd: S, key: usize, values: [S::F; 2], hidden: S::F) -> [S::F; 2] {
        if self.all.contains(&key) {
            return values;
        }
        let number = simd.splat((key - self.block) as f32);
        let mut masked = values;
        for half in 0..2 {
            let before_end = simd.if_less(number, self.ends[half], values[half], hidden);
            masked[half] = simd.if_less(number, self.starts[half], hidden, before_end);
        }
        masked
    }
}

/// Copies a head of some rows, one after another.
#[inline(always)]
fn gather<S: Simd>(simd: S, from: Heads<&[f32]>, rows: Range<usize>, head: usize, width: usize, to: &mut [f32]) {
    for (row, to) in rows.zip(to.chunks_exact_mut(width)) {
        tile::copy(simd, &from.buffer[from.range(row, head, width)], to);
    }
}

/// Lends a thread its memory, as many elements as asked for, with whatever was in it.
fn with_memory(len: usize, f: impl FnOnce(&mut [f32])) {
    thread_local! {
        static MEMORY: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    }
    let mut memory = MEMORY.take();
    if memory.len() < len {
        memory.resize(len, 0.0);
    }
    f(&mut memory[..len]);
    MEMORY.set(memory);
}

const _: () = {
    let mut width = 1;
    while width <= super::shape::WIDEST {
        assert!(4 * backward::memory(width) <= 3 << 19 && forward::memory(width) <= backward::memory(width));
        width += 1;
    }
};

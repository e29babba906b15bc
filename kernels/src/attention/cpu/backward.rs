//! The backward pass of a document and a key head: with p the weights and s the scale,
//!
//! dp = d_o vᵀ, ds = p ⊙ (dp - Σ d_o ⊙ o), dq = s · ds k, dk = s · dsᵀ q, dv = pᵀ d_o.
//!
//! Keys are taken in chunks that fit into memory nearby, with their values and both their gradients. Blocks of lanes meet a chunk one
//! after another, so that each sum has one order.

use super::tile::{Left, PANEL, Panel, PanelMut, ROWS, copy, pack, pair, product, store_pair, unpack_add};
use super::{Attention, Block, Document, Heads, KEYS, Results, gather};
use crate::math::exp2;
use crate::simd::{Simd, add_up, blocks, dispatch, eight, eight_mut};
use std::f32::consts::LOG2_E;
use std::ops::Range;

/// Lanes of a block.
const fn lanes(width: usize) -> usize {
    if width <= 128 { 64 } else { 32 }
}

/// Elements from one key's weights to the next: not a multiple of 64, or they would all fall on few sets of the cache.
const fn pitch(width: usize) -> usize {
    lanes(width) + PANEL
}

/// Keys of a chunk: 1 MiB of keys, values and their gradients.
const fn chunk(width: usize) -> usize {
    let most = (1 << 16) / padded(width);
    let keys = if most < 1024 { most } else { 1024 };
    keys / KEYS * KEYS
}

/// Elements of a row that is padded to whole panels.
const fn padded(width: usize) -> usize {
    width.next_multiple_of(PANEL)
}

/// Elements of memory that a document needs.
pub(super) const fn memory(width: usize) -> usize {
    // Panels of queries and gradients and of the result; the same queries and gradients by columns; keys and values of a chunk
    // and their gradients; weights and their gradients.
    let (lanes, wide) = (lanes(width), padded(width));
    3 * width * lanes + 2 * wide * lanes + 2 * width * chunk(width) + 2 * wide * chunk(width) + 2 * KEYS * pitch(width)
}

/// What is read.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) q: Heads<&'a [f32]>,
    pub(super) k: Heads<&'a [f32]>,
    pub(super) v: Heads<&'a [f32]>,
    pub(super) o: Heads<&'a [f32]>,
    pub(super) d_o: Heads<&'a [f32]>,
    pub(super) log_sums: &'a [f32],
}

dispatch!(
    pub(super) fn backward_document(
        attention: &Attention,
        document: &Document,
        head: usize,
        inputs: &Inputs<'_>,
        results: [Results<'_>; 3],
        memory: &mut [f32],
    ) = backward_document_on
);

#[inline(always)]
fn backward_document_on<S: Simd>(
    simd: S,
    attention: &Attention,
    document: &Document,
    head: usize,
    inputs: &Inputs<'_>,
    [dq, dk, dv]: [Results<'_>; 3],
    memory: &mut [f32],
) {
    let (width, wide, lanes) = (attention.width, padded(attention.width), lanes(attention.width));
    let (keys, memory) = memory.split_at_mut(width * chunk(width));
    let (values, memory) = memory.split_at_mut(width * chunk(width));
    let (key_sums, memory) = memory.split_at_mut(wide * chunk(width));
    let (value_sums, memory) = memory.split_at_mut(wide * chunk(width));

    for row in document.queries.clone() {
        for number in head * attention.group()..(head + 1) * attention.group() {
            // SAFETY: queries of a document and the heads of a key head are of one task, which asks for one at a time.
            #[allow(unsafe_code, reason = "tasks write their own rows")]
            let to = unsafe { dq.row(row, number, width) };
            to.fill(0.0);
        }
    }
    for first in (0..document.keys.len()).step_by(chunk(width)) {
        let range = first..(first + chunk(width)).min(document.keys.len());
        let rows = document.keys.start + range.start..document.keys.start + range.end;
        gather(simd, inputs.k, rows.clone(), head, width, keys);
        gather(simd, inputs.v, rows.clone(), head, width, values);
        key_sums[..range.len() * wide].fill(0.0);
        value_sums[..range.len() * wide].fill(0.0);
        for first_lane in (0..document.queries.len() * attention.group()).step_by(lanes) {
            let block = Block::new(attention, document, head, first_lane..first_lane + lanes);
            if block.keys(&range).next().is_none() {
                continue;
            }
            let chunk = Chunk { range: range.clone(), keys, values, key_sums, value_sums };
            meet(simd, attention, &block, chunk, inputs, dq, memory);
        }
        for (results, sums, factor) in [(dk, &*key_sums, attention.scale), (dv, &*value_sums, 1.0)] {
            for (row, sums) in rows.clone().zip(sums.chunks_exact(wide)) {
                // SAFETY: keys of a document and a head are of one task, which asks for one row at a time.
                #[allow(unsafe_code, reason = "tasks write their own rows")]
                let to = unsafe { results.row(row, head, width) };
                scale_row(simd, factor, sums, to);
            }
        }
    }
}

/// Keys and values `[keys, width]`, and their gradients so far, `[keys, padded width]`.
struct Chunk<'a> {
    range: Range<usize>,
    keys: &'a [f32],
    values: &'a [f32],
    key_sums: &'a mut [f32],
    value_sums: &'a mut [f32],
}

/// Adds what a block of lanes and a chunk of keys give to the gradients of both.
#[inline(always)]
fn meet<S: Simd>(
    simd: S,
    attention: &Attention,
    block: &Block,
    chunk: Chunk<'_>,
    inputs: &Inputs<'_>,
    dq: Results<'_>,
    memory: &mut [f32],
) {
    let (width, wide, lanes) = (attention.width, padded(attention.width), lanes(attention.width));
    let pitch = pitch(width);
    let (queries, memory) = memory.split_at_mut(width * lanes);
    let (gradients, memory) = memory.split_at_mut(width * lanes);
    let (sums, memory) = memory.split_at_mut(width * lanes);
    let (query_columns, memory) = memory.split_at_mut(wide * lanes);
    let (gradient_columns, memory) = memory.split_at_mut(wide * lanes);
    let (weights, memory) = memory.split_at_mut(KEYS * pitch);
    let differences = &mut memory[..KEYS * pitch];

    let panels = block.panels();
    let (mut bases, mut products) = ([0.0; super::MOST_LANES], [0.0; super::MOST_LANES]);
    for panel in 0..panels {
        let part = panel * width * PANEL..(panel + 1) * width * PANEL;
        let first = panel * PANEL;
        let factor = attention.scale * LOG2_E;
        pack(simd, width, factor, |lane| block.row(inputs.q, first + lane, width), &mut queries[part.clone()]);
        pack(simd, width, 1.0, |lane| block.row(inputs.d_o, first + lane, width), &mut gradients[part]);
    }
    for lane in 0..block.lanes {
        let of = |from| block.row(from, lane, width);
        let (Some((row, head)), Some(q), Some(o), Some(d_o)) =
            (block.place(lane), of(inputs.q), of(inputs.o), of(inputs.d_o))
        else {
            continue;
        };
        by_columns(simd, q, lane, lanes, query_columns);
        by_columns(simd, d_o, lane, lanes, gradient_columns);
        products[lane] = add_up(
            simd,
            width,
            |start| simd.mul(simd.load(eight(o, start)), simd.load(eight(d_o, start))),
            |range| simd.mul(simd.load_part(&o[range.clone()], 0.0), simd.load_part(&d_o[range], 0.0)),
        );
        let log_sum = inputs.log_sums[row * attention.query_heads + head];
        // A lane that sees nothing has weights of zero whatever is subtracted.
        bases[lane] = if log_sum == f32::NEG_INFINITY { 0.0 } else { log_sum * LOG2_E };
    }
    sums[..panels * width * PANEL].fill(0.0);
    let ones = [simd.splat(1.0); 2];

    for range in block.keys(&chunk.range) {
        let before = range.start - chunk.range.start;
        let (keys, values) = (&chunk.keys[before * width..], &chunk.values[before * width..]);
        for panel in 0..panels {
            let sight = block.sight(simd, panel, &range);
            if sight.any.is_empty() {
                continue;
            }
            // Whole tiles, as the gradients of keys and values take them.
            let first = (sight.any.start - range.start) / ROWS * ROWS;
            let last = (sight.any.end - range.start).next_multiple_of(ROWS).min(range.len());
            let part = panel * width * PANEL..(panel + 1) * width * PANEL;
            let start = first * pitch + panel * PANEL;
            for (left, right, out) in [(keys, &*queries, &mut *weights), (values, &*gradients, &mut *differences)] {
                product(
                    simd,
                    [last - first, width],
                    Left { values: &left[first * width..], row: width, next: 1 },
                    Panel { values: &right[part.clone()], stride: PANEL },
                    PanelMut { values: &mut out[start..], stride: pitch },
                    None,
                );
            }
            let (base, product_sum) = (pair(simd, &bases, panel * PANEL), pair(simd, &products, panel * PANEL));
            for i in first..last {
                let at = i * pitch + panel * PANEL;
                let (scores, gradient) = (pair(simd, weights, at), pair(simd, differences, at));
                let (mut weight, mut difference) = ([simd.zero(); 2], [simd.zero(); 2]);
                for half in 0..2 {
                    weight[half] = exp2(simd, simd.sub(scores[half], base[half]));
                    difference[half] = simd.mul(weight[half], simd.sub(gradient[half], product_sum[half]));
                }
                let weight = sight.mask(simd, range.start + i, weight, simd.zero());
                let difference = sight.mask(simd, range.start + i, difference, simd.zero());
                store_pair(simd, weight, weights, at);
                store_pair(simd, difference, differences, at);
            }
            product(
                simd,
                [width, last - first],
                Left { values: &keys[first * width..], row: 1, next: width },
                Panel { values: &differences[start..], stride: pitch },
                PanelMut { values: &mut sums[part], stride: PANEL },
                Some(ones),
            );
        }
        let tiles = Tiles::new(block, &range);
        for (left, right, out) in [
            (&*weights, &*gradient_columns, &mut chunk.value_sums[before * wide..]),
            (&*differences, &*query_columns, &mut chunk.key_sums[before * wide..]),
        ] {
            for (column, right) in right.chunks_exact(lanes * PANEL).enumerate() {
                for (tile, &(start, end)) in tiles.lanes.iter().enumerate().take(range.len().div_ceil(ROWS)) {
                    let first = tile * ROWS;
                    product(
                        simd,
                        [ROWS.min(range.len() - first), end - start],
                        Left { values: &left[first * pitch + start..], row: pitch, next: 1 },
                        Panel { values: &right[start * PANEL..], stride: PANEL },
                        PanelMut { values: &mut out[first * wide + column * PANEL..], stride: wide },
                        Some(ones),
                    );
                }
            }
        }
    }

    for (number, panel) in sums.chunks_exact(width * PANEL).enumerate().take(panels) {
        unpack_add(simd, width, panel, attention.scale, |lane| {
            block.place(number * PANEL + lane).map(|(row, head)| {
                // SAFETY: a lane is of one task, and is asked for once.
                #[allow(unsafe_code, reason = "tasks write their own lanes")]
                unsafe {
                    dq.row(row, head, width)
                }
            })
        });
    }
}

/// For each [`ROWS`] keys of a block, the lanes that see any of them: one after another, since neither end of what a lane sees
/// falls from a lane to the next.
struct Tiles {
    lanes: [(usize, usize); KEYS / ROWS],
}

impl Tiles {
    fn new(block: &Block, range: &Range<usize>) -> Self {
        let visible = &block.visible[..block.lanes];
        let mut lanes = [(0, 0); KEYS / ROWS];
        for (tile, lanes) in lanes.iter_mut().enumerate() {
            let first = range.start + tile * ROWS;
            let last = (first + ROWS).min(range.end);
            let start = visible.partition_point(|&(_, end)| end <= first);
            *lanes = (start, visible.partition_point(|&(start, _)| start < last).max(start));
        }
        Self { lanes }
    }
}

/// Writes a row as one of `rows` in panels of columns, `[columns / 16, rows, 16]`, padded with zeros.
#[inline(always)]
fn by_columns<S: Simd>(simd: S, from: &[f32], row: usize, rows: usize, to: &mut [f32]) {
    for (column, piece) in from.chunks(PANEL).enumerate() {
        let start = (column * rows + row) * PANEL;
        copy(simd, piece, &mut to[start..start + piece.len()]);
        to[start + piece.len()..start + PANEL].fill(0.0);
    }
}

/// to = factor · from, of as many elements as `to` has.
#[inline(always)]
fn scale_row<S: Simd>(simd: S, factor: f32, from: &[f32], to: &mut [f32]) {
    let factors = simd.splat(factor);
    let (whole, part) = blocks(to.len());
    for start in whole {
        simd.store(simd.mul(simd.load(eight(from, start)), factors), eight_mut(to, start));
    }
    for i in part {
        to[i] = from[i] * factor;
    }
}

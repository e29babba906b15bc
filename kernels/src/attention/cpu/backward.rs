//! A block of lanes of the backward pass: with p the weights and s the scale,
//!
//! dp = d_o vᵀ, ds = p ⊙ (dp - Σ d_o ⊙ o), dq = s · ds k, dk = s · dsᵀ q, dv = pᵀ d_o.

use super::tile::{Left, PANEL, Panel, PanelMut, ROWS, copy, pack, pair, product, store_pair, unpack};
use super::{Attention, Block, Document, Heads, KEYS, Results, gather};
use crate::math::exp2;
use crate::simd::{LANES, Simd, add_up, blocks, dispatch, eight, eight_mut};
use std::f32::consts::LOG2_E;
use std::ops::Range;

/// Lanes of a block.
pub(super) const fn lanes(width: usize) -> usize {
    if width <= 128 { 64 } else { 32 }
}

/// Elements of a row that is padded to whole panels.
const fn padded(width: usize) -> usize {
    width.next_multiple_of(PANEL)
}

/// Elements of memory that a block needs.
pub(super) const fn memory(width: usize) -> usize {
    // Panels of queries and gradients and of the result; rows of queries and gradients; keys and values; their gradients;
    // weights and their gradients.
    let lanes = lanes(width);
    3 * width * lanes + 2 * padded(width) * lanes + 2 * width * KEYS + 2 * padded(width) * KEYS + 2 * KEYS * lanes
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

/// Zeros as the gradients of a document's keys and values, to be added to.
pub(super) fn clear(attention: &Attention, document: &Document, head: usize, [_, dk, dv]: [Results<'_>; 3]) {
    for row in document.keys.clone() {
        for results in [dk, dv] {
            // SAFETY: keys of a document and a head are of one task, which asks for one row at a time.
            #[allow(unsafe_code, reason = "tasks write their own rows")]
            let to = unsafe { results.row(row, head, attention.width) };
            to.fill(0.0);
        }
    }
}

dispatch!(
    pub(super) fn backward_block(
        attention: &Attention,
        document: &Document,
        block: &Block,
        inputs: &Inputs<'_>,
        results: [Results<'_>; 3],
        memory: &mut [f32],
    ) = backward_block_on
);

#[inline(always)]
fn backward_block_on<S: Simd>(
    simd: S,
    attention: &Attention,
    document: &Document,
    block: &Block,
    inputs: &Inputs<'_>,
    [dq, dk, dv]: [Results<'_>; 3],
    memory: &mut [f32],
) {
    let (width, wide, lanes) = (attention.width, padded(attention.width), lanes(attention.width));
    let (queries, memory) = memory.split_at_mut(width * lanes);
    let (gradients, memory) = memory.split_at_mut(width * lanes);
    let (sums, memory) = memory.split_at_mut(width * lanes);
    let (query_rows, memory) = memory.split_at_mut(wide * lanes);
    let (gradient_rows, memory) = memory.split_at_mut(wide * lanes);
    let (keys, memory) = memory.split_at_mut(width * KEYS);
    let (values, memory) = memory.split_at_mut(width * KEYS);
    let (key_sums, memory) = memory.split_at_mut(wide * KEYS);
    let (value_sums, memory) = memory.split_at_mut(wide * KEYS);
    let (weights, differences) = memory.split_at_mut(KEYS * lanes);

    let panels = block.panels();
    let (mut bases, mut products) = ([0.0; super::MOST_LANES], [0.0; super::MOST_LANES]);
    for panel in 0..panels {
        let part = panel * width * PANEL..(panel + 1) * width * PANEL;
        let first = panel * PANEL;
        let factor = attention.scale * LOG2_E;
        pack(simd, width, factor, |lane| block.row(inputs.q, first + lane, width), &mut queries[part.clone()]);
        pack(simd, width, 1.0, |lane| block.row(inputs.d_o, first + lane, width), &mut gradients[part]);
    }
    for lane in 0..panels * PANEL {
        let (to_query, to_gradient) =
            (&mut query_rows[lane * wide..(lane + 1) * wide], &mut gradient_rows[lane * wide..(lane + 1) * wide]);
        let of = |from| block.row(from, lane, width);
        let (Some((row, head)), Some(q), Some(o), Some(d_o)) =
            (block.place(lane), of(inputs.q), of(inputs.o), of(inputs.d_o))
        else {
            to_query.fill(0.0);
            to_gradient.fill(0.0);
            continue;
        };
        copy(simd, q, to_query);
        copy(simd, d_o, to_gradient);
        to_query[width..].fill(0.0);
        to_gradient[width..].fill(0.0);
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

    for range in block.keys() {
        let rows = document.keys.start + range.start..document.keys.start + range.end;
        gather(simd, inputs.k, rows.clone(), block.head, width, keys);
        gather(simd, inputs.v, rows.clone(), block.head, width, values);
        for panel in 0..panels {
            let sight = block.sight(simd, panel, &range);
            // Whole tiles, as the gradients of keys and values take them.
            let first = (sight.any.start - range.start) / ROWS * ROWS;
            let last = (sight.any.end - range.start).next_multiple_of(ROWS).min(range.len());
            if sight.any.is_empty() {
                continue;
            }
            let part = panel * width * PANEL..(panel + 1) * width * PANEL;
            let start = first * lanes + panel * PANEL;
            for (left, right, out) in [(&*keys, &*queries, &mut *weights), (&*values, &*gradients, &mut *differences)] {
                product(
                    simd,
                    [last - first, width],
                    Left { values: &left[first * width..], row: width, next: 1 },
                    Panel { values: &right[part.clone()], stride: PANEL },
                    PanelMut { values: &mut out[start..], stride: lanes },
                    None,
                );
            }
            let (base, product_sum) = (pair(simd, &bases, panel * PANEL), pair(simd, &products, panel * PANEL));
            for i in first..last {
                let at = i * lanes + panel * PANEL;
                let (scores, gradient) = (pair(simd, weights, at), pair(simd, differences, at));
                let weight = [exp2(simd, simd.sub(scores[0], base[0])), exp2(simd, simd.sub(scores[1], base[1]))];
                let weight = sight.mask(simd, range.start + i, weight, simd.zero());
                let difference = |half: usize| simd.mul(weight[half], simd.sub(gradient[half], product_sum[half]));
                let difference = [difference(0), difference(1)];
                let difference = sight.mask(simd, range.start + i, difference, simd.zero());
                store_pair(simd, weight, weights, at);
                store_pair(simd, difference, differences, at);
            }
            product(
                simd,
                [width, last - first],
                Left { values: &keys[first * width..], row: 1, next: width },
                Panel { values: &differences[start..], stride: lanes },
                PanelMut { values: &mut sums[part], stride: PANEL },
                Some([simd.splat(1.0); 2]),
            );
        }
        let tiles = Tiles::new(block, &range);
        for (left, right, out) in
            [(&*weights, &*gradient_rows, &mut *value_sums), (&*differences, &*query_rows, &mut *key_sums)]
        {
            tiles.gradients(simd, [lanes, wide, range.len()], left, right, out);
        }
        for (results, sums, factor) in [(dk, &*key_sums, attention.scale), (dv, &*value_sums, 1.0)] {
            for (row, sums) in rows.clone().zip(sums.chunks_exact(wide)) {
                // SAFETY: keys of a document and a head are of one task, which asks for one row at a time.
                #[allow(unsafe_code, reason = "tasks write their own rows")]
                let to = unsafe { results.row(row, block.head, width) };
                add_row(simd, factor, sums, to);
            }
        }
    }

    let factors = [simd.splat(attention.scale); 2];
    for (number, panel) in sums.chunks_exact(width * PANEL).enumerate().take(panels) {
        unpack(simd, width, panel, factors, |lane| {
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

    /// out[key] = Σ left[key][lane] · right[lane] over the lanes that see the key, `[keys, wide]`.
    #[inline(always)]
    fn gradients<S: Simd>(
        &self,
        simd: S,
        [lanes, wide, keys]: [usize; 3],
        left: &[f32],
        right: &[f32],
        out: &mut [f32],
    ) {
        for column in (0..wide).step_by(PANEL) {
            for (tile, &(start, end)) in self.lanes.iter().enumerate().take(keys.div_ceil(ROWS)) {
                let first = tile * ROWS;
                product(
                    simd,
                    [ROWS.min(keys - first), end - start],
                    Left { values: &left[first * lanes + start..], row: lanes, next: 1 },
                    Panel { values: &right[start * wide + column..], stride: wide },
                    PanelMut { values: &mut out[first * wide + column..], stride: wide },
                    None,
                );
            }
        }
    }
}

/// to += factor · from.
#[inline(always)]
fn add_row<S: Simd>(simd: S, factor: f32, from: &[f32], to: &mut [f32]) {
    let factors = simd.splat(factor);
    let (whole, part) = blocks(to.len());
    for start in whole {
        let sum = simd.mul_add(simd.load(eight(from, start)), factors, simd.load(eight(to, start)));
        simd.store(sum, eight_mut(to, start));
    }
    for i in part {
        to[i] = from[i].mul_add(factor, to[i]);
    }
}

const _: () = assert!(KEYS.is_multiple_of(ROWS) && lanes(1).is_multiple_of(2 * LANES));

//! A block of lanes of the forward pass.

use super::tile::{Left, PANEL, Panel, PanelMut, pack, pair, product, store_pair, unpack};
use super::{Attention, Block, Document, Heads, KEYS, Results, gather};
use crate::math::exp2;
use crate::simd::{LANES, Simd, dispatch};
use crate::workers::Parts;
use std::f32::consts::{LN_2, LOG2_E};

/// Lanes of a block: so many that copying keys costs little, so few that queries and results stay in the second cache.
pub(super) const fn lanes(width: usize) -> usize {
    if width <= 128 { 128 } else { 64 }
}

/// Elements of memory that a block needs: queries and results, keys and values of a block, weights of a panel.
pub(super) const fn memory(width: usize) -> usize {
    2 * width * lanes(width) + 2 * width * KEYS + PANEL * KEYS
}

dispatch!(
    pub(super) fn forward_block(
        attention: &Attention,
        document: &Document,
        block: &Block,
        inputs: [Heads<&[f32]>; 3],
        results: Results<'_>,
        log_sums: Option<&Parts<'_, f32>>,
        memory: &mut [f32],
    ) = forward_block_on
);

/// The running maximum and sum of a panel's lanes. Scores are in powers of two.
#[derive(Clone, Copy)]
struct Running {
    most: [f32; PANEL],
    sum: [f32; PANEL],
}

#[inline(always)]
fn forward_block_on<S: Simd>(
    simd: S,
    attention: &Attention,
    document: &Document,
    block: &Block,
    [q, k, v]: [Heads<&[f32]>; 3],
    results: Results<'_>,
    log_sums: Option<&Parts<'_, f32>>,
    memory: &mut [f32],
) {
    let width = attention.width;
    let (queries, memory) = memory.split_at_mut(width * lanes(width));
    let (sums, memory) = memory.split_at_mut(width * lanes(width));
    let (keys, memory) = memory.split_at_mut(width * KEYS);
    let (values, weights) = memory.split_at_mut(width * KEYS);
    let panels = block.panels();
    for (number, panel) in queries.chunks_exact_mut(width * PANEL).enumerate().take(panels) {
        let row = |lane: usize| block.row(q, number * PANEL + lane, width);
        pack(simd, width, attention.scale * LOG2_E, row, panel);
    }
    sums[..panels * width * PANEL].fill(0.0);
    let mut running = [Running { most: [f32::NEG_INFINITY; PANEL], sum: [0.0; PANEL] }; super::MOST_LANES / PANEL];

    for range in block.keys() {
        let rows = document.keys.start + range.start..document.keys.start + range.end;
        gather(simd, k, rows.clone(), block.head, width, keys);
        gather(simd, v, rows, block.head, width, values);
        for panel in 0..panels {
            let sight = block.sight(simd, panel, &range);
            let count = sight.any.len();
            if count == 0 {
                continue;
            }
            let skipped = (sight.any.start - range.start) * width;
            let queries = &queries[panel * width * PANEL..(panel + 1) * width * PANEL];
            product(
                simd,
                [count, width],
                Left { values: &keys[skipped..], row: width, next: 1 },
                Panel { values: queries, stride: PANEL },
                PanelMut { values: weights, stride: PANEL },
                None,
            );
            let lanes = &mut running[panel];
            let before = pair(simd, &lanes.most, 0);
            let mut most = before;
            for (i, key) in sight.any.clone().enumerate() {
                let scores = sight.mask(simd, key, pair(simd, weights, i * PANEL), simd.splat(f32::NEG_INFINITY));
                if !sight.all.contains(&key) {
                    store_pair(simd, scores, weights, i * PANEL);
                }
                // Values that are not numbers get lost here; the sum has them.
                most = [simd.max(scores[0], most[0]), simd.max(scores[1], most[1])];
            }
            // A lane that saw nothing yet has weights of zero, and not those of minus infinity less itself.
            let lowest = simd.splat(f32::MIN);
            let base = most.map(|most| simd.if_less(most, lowest, simd.zero(), most));
            let mut sum = [simd.zero(); 2];
            for i in 0..count {
                let scores = pair(simd, weights, i * PANEL);
                for half in 0..2 {
                    let weight = exp2(simd, simd.sub(scores[half], base[half]));
                    sum[half] = simd.add(sum[half], weight);
                    store_half(simd, weight, weights, i, half);
                }
            }
            let factors = [exp2(simd, simd.sub(before[0], base[0])), exp2(simd, simd.sub(before[1], base[1]))];
            let total = pair(simd, &lanes.sum, 0);
            let total = [simd.mul_add(total[0], factors[0], sum[0]), simd.mul_add(total[1], factors[1], sum[1])];
            store_pair(simd, total, &mut lanes.sum, 0);
            store_pair(simd, most, &mut lanes.most, 0);
            product(
                simd,
                [width, count],
                Left { values: &values[skipped..], row: 1, next: width },
                Panel { values: weights, stride: PANEL },
                PanelMut { values: &mut sums[panel * width * PANEL..(panel + 1) * width * PANEL], stride: PANEL },
                Some(factors),
            );
        }
    }

    for (number, panel) in sums.chunks_exact(width * PANEL).enumerate().take(panels) {
        let lanes = &running[number];
        let factors = pair(simd, &lanes.sum, 0).map(|sum| {
            let seen = simd.if_less(simd.zero(), sum, simd.div(simd.splat(1.0), sum), simd.zero());
            simd.if_nan(sum, sum, seen)
        });
        unpack(simd, width, panel, factors, |lane| {
            block.place(number * PANEL + lane).map(|(row, head)| {
                // SAFETY: a lane is of one task, and is asked for once.
                #[allow(unsafe_code, reason = "tasks write their own lanes")]
                unsafe {
                    results.row(row, head, width)
                }
            })
        });
        let Some(log_sums) = log_sums else { continue };
        for lane in 0..PANEL {
            let Some((row, head)) = block.place(number * PANEL + lane) else { continue };
            let at = row * attention.query_heads + head;
            // SAFETY: a lane is of one task, and is asked for once.
            #[allow(unsafe_code, reason = "tasks write their own lanes")]
            let to = unsafe { log_sums.part(at..at + 1) };
            let (most, sum) = (lanes.most[lane], lanes.sum[lane]);
            to[0] = if sum == 0.0 { f32::NEG_INFINITY } else { most * LN_2 + sum.ln() };
        }
    }
}

#[inline(always)]
fn store_half<S: Simd>(simd: S, vector: S::F, to: &mut [f32], row: usize, half: usize) {
    simd.store(vector, crate::simd::eight_mut(to, row * PANEL + half * LANES));
}

//! Copying operands into the order in which micro-kernels read them.
//!
//! * **Weights** (the right operand, k × n): panels of [`PANEL`] columns, the last one filled up with zeros. A panel holds for
//!   each k its 16 columns; in bf16 for each pair of k its 16 columns of two numbers, which is what the dot-product instructions
//!   of AVX-512 and AMX read. Padded with zeros along k to [`WeightElement::UNIT`]. The order is the same for all engines,
//!   so weights are packed once and any engine can use them.
//! * **Activations** (the left operand, m × k): chunks of a few rows, as many as the micro-kernel takes at once. A chunk holds
//!   for each group of k the rows one after the other, each with its `group` numbers. So packing a row is copying groups, not
//!   transposing, and a micro-kernel reads at constant distances from one moving pointer.
//!
//! Padding multiplies zeros with zeros. It never meets a number of the other operand, which might be infinite.

use super::element::{Bf16Format, Element, F16Format, F32Format, Format, WeightElement};
use super::matrix::{Layout, Matrix, Values};
use std::ops::Range;

/// Columns of a panel of packed weights.
pub(super) const PANEL: usize = 16;

/// How many panels cover `columns`.
pub(super) fn panels(columns: usize) -> usize {
    columns.div_ceil(PANEL)
}

/// Length of a panel that holds `depth` values of k.
pub(super) fn panel_len<R: WeightElement>(depth: usize) -> usize {
    depth.next_multiple_of(R::UNIT) * PANEL
}

/// Some rows of the left operand that a micro-kernel takes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// The first of them.
    pub(super) row: usize,
    /// How many there are.
    pub(super) rows: usize,
    /// How many rows are stored, with padding.
    pub(super) stored: usize,
}

/// Divides `rows` into chunks of at most `most` rows, in whole `unit`s (which divide `most`), as equal as possible: a small
/// rest would be computed at a lower speed.
pub(super) fn chunks(rows: Range<usize>, most: usize, unit: usize) -> impl Iterator<Item = Chunk> + Clone {
    let units = rows.len().div_ceil(unit);
    let count = units.div_ceil(most / unit);
    let (each, longer) = (units.checked_div(count).unwrap_or(0), units.checked_rem(count).unwrap_or(0));
    (0..count).map(move |index| {
        let row = rows.start + (index * each + index.min(longer)) * unit;
        let stored = (each + usize::from(index < longer)) * unit;
        Chunk { row, rows: stored.min(rows.end - row), stored }
    })
}

/// Packs the columns `columns` and the values `depth` of k of a k × n matrix into panels. `out` must be zero where
/// padding is to be, and have [`panel_len`] elements for each panel.
pub(super) fn pack_right<R: WeightElement>(
    right: Matrix<'_>,
    depth: Range<usize>,
    columns: Range<usize>,
    out: &mut [R],
) {
    match right.values() {
        Values::F32(values) => right_panels::<F32Format, R>(values, right.layout(), depth, columns, out),
        Values::Bf16(values) => right_panels::<Bf16Format, R>(values, right.layout(), depth, columns, out),
        Values::F16(values) => right_panels::<F16Format, R>(values, right.layout(), depth, columns, out),
    }
}

/// Packs `chunk` of an m × k matrix for the values `depth` of k, in groups of `group`. `out` has
/// `chunk.stored * depth.len().next_multiple_of(group)` elements, all of which are written.
pub(super) fn pack_left<L: Element>(left: Matrix<'_>, chunk: Chunk, depth: Range<usize>, group: usize, out: &mut [L]) {
    match left.values() {
        Values::F32(values) => left_groups::<F32Format, L>(values, left.layout(), chunk, depth, group, out),
        Values::Bf16(values) => left_groups::<Bf16Format, L>(values, left.layout(), chunk, depth, group, out),
        Values::F16(values) => left_groups::<F16Format, L>(values, left.layout(), chunk, depth, group, out),
    }
}

fn right_panels<F: Format, R: WeightElement>(
    values: &[F::Raw],
    layout: Layout,
    depth: Range<usize>,
    columns: Range<usize>,
    out: &mut [R],
) {
    let length = panel_len::<R>(depth.len());
    if length == 0 {
        return;
    }
    for (first, panel) in columns.clone().step_by(PANEL).zip(out.chunks_exact_mut(length)) {
        let width = PANEL.min(columns.end - first);
        if layout.column_stride == 1 {
            for (k, index) in depth.clone().enumerate() {
                let row = &values[index * layout.row_stride + first..][..width];
                let place = &mut panel[k / R::PAIR * R::PAIR * PANEL + k % R::PAIR..];
                for (value, place) in row.iter().zip(place.iter_mut().step_by(R::PAIR)) {
                    *place = R::pack(F::widen(*value));
                }
            }
            continue;
        }
        // Small blocks, so that both the lines read and the lines written stay in the first cache.
        for (block, begin) in depth.clone().step_by(16).enumerate() {
            let length = 16.min(depth.end - begin);
            for column in 0..width {
                let from = (first + column) * layout.column_stride;
                for k in 0..length {
                    let value = F::widen(values[from + (begin + k) * layout.row_stride]);
                    let k = block * 16 + k;
                    panel[k / R::PAIR * R::PAIR * PANEL + column * R::PAIR + k % R::PAIR] = R::pack(value);
                }
            }
        }
    }
}

fn left_groups<F: Format, L: Element>(
    values: &[F::Raw],
    layout: Layout,
    chunk: Chunk,
    depth: Range<usize>,
    group: usize,
    out: &mut [L],
) {
    // The compiler makes vector copies of groups whose length it knows.
    match group {
        8 => left_groups_of::<F, L, 8>(values, layout, chunk, depth, out),
        _ => left_groups_of::<F, L, 32>(values, layout, chunk, depth, out),
    }
}

fn left_groups_of<F: Format, L: Element, const GROUP: usize>(
    values: &[F::Raw],
    layout: Layout,
    chunk: Chunk,
    depth: Range<usize>,
    out: &mut [L],
) {
    let (groups, _) = out.as_chunks_mut::<GROUP>();
    if layout.column_stride != 1 {
        for (begin, group) in depth.clone().step_by(GROUP).zip(groups.chunks_exact_mut(chunk.stored)) {
            group.fill([L::ZERO; GROUP]);
            for k in 0..GROUP.min(depth.end - begin) {
                let from = (begin + k) * layout.column_stride + chunk.row * layout.row_stride;
                for (row, place) in group[..chunk.rows].iter_mut().enumerate() {
                    place[k] = L::pack(F::widen(values[from + row * layout.row_stride]));
                }
            }
        }
        return;
    }
    for row in 0..chunk.stored {
        let places = groups[row..].iter_mut().step_by(chunk.stored);
        if row >= chunk.rows {
            places.for_each(|place| *place = [L::ZERO; GROUP]);
            continue;
        }
        let from = &values[(chunk.row + row) * layout.row_stride..][depth.clone()];
        let (whole, rest) = from.as_chunks::<GROUP>();
        let mut places = places;
        for (from, place) in whole.iter().zip(&mut places) {
            *place = from.map(|value| L::pack(F::widen(value)));
        }
        if let Some(place) = places.next() {
            *place = [L::ZERO; GROUP];
            for (value, place) in rest.iter().zip(place) {
                *place = L::pack(F::widen(*value));
            }
        }
    }
}

//! Products of small matrices in registers, and the copies that feed them.
//!
//! Everything is laid out so that a vector holds eight queries, never eight elements of one: maxima and sums over keys are
//! then operations between vectors, and neither keys nor values need to be transposed. Only queries are, once for many keys. A
//! panel is sixteen queries, two vectors wide.

use crate::simd::{LANES, Simd, blocks, eight, eight_mut};

/// Queries, or other columns, of a panel.
pub(super) const PANEL: usize = 2 * LANES;

/// Most rows of a result that are in registers at once: twelve sums, two vectors of the right operand, one number of the left.
pub(super) const ROWS: usize = 6;

/// A left operand: element k of row i is at `i * row + k * next`.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) values: &'a [f32],
    pub(super) row: usize,
    pub(super) next: usize,
}

/// Rows of at least [`PANEL`] elements, `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    pub(super) values: &'a [f32],
    pub(super) stride: usize,
}

/// The same, to be written.
pub(super) struct PanelMut<'a> {
    pub(super) values: &'a mut [f32],
    pub(super) stride: usize,
}

/// `out` = left · right of `rows` rows, with `depth` products each; with factors, out · factors + left · right. Products are
/// added in order of k.
#[inline(always)]
pub(super) fn product<S: Simd>(
    simd: S,
    [rows, depth]: [usize; 2],
    left: Left<'_>,
    right: Panel<'_>,
    out: PanelMut<'_>,
    factors: Option<[S::F; 2]>,
) {
    if rows == 0 {
        return;
    }
    if depth > 0 {
        assert!((rows - 1) * left.row + (depth - 1) * left.next < left.values.len());
        assert!((depth - 1) * right.stride + PANEL <= right.values.len());
    }
    assert!((rows - 1) * out.stride + PANEL <= out.values.len());
    let mut row = 0;
    while row < rows {
        let tile = Tile {
            left: left.values.as_ptr().wrapping_add(row * left.row),
            left_row: left.row,
            left_next: left.next,
            right: right.values.as_ptr(),
            right_stride: right.stride,
            out: out.values.as_mut_ptr().wrapping_add(row * out.stride),
            out_stride: out.stride,
            depth,
        };
        // Seven and eight rows are divided evenly: one or two rows alone would wait for each sum.
        let count = match rows - row {
            left @ 1..=ROWS => left,
            7 | 8 => 4,
            _ => ROWS,
        };
        // SAFETY: the operands reach as far as `rows` and `depth` say, which was checked above.
        #[allow(unsafe_code, reason = "operands are read without a check of each element")]
        unsafe {
            match count {
                1 => sum::<S, 1>(simd, tile, factors),
                2 => sum::<S, 2>(simd, tile, factors),
                3 => sum::<S, 3>(simd, tile, factors),
                4 => sum::<S, 4>(simd, tile, factors),
                5 => sum::<S, 5>(simd, tile, factors),
                _ => sum::<S, ROWS>(simd, tile, factors),
            }
        }
        row += count;
    }
}

struct Tile {
    left: *const f32,
    left_row: usize,
    left_next: usize,
    right: *const f32,
    right_stride: usize,
    out: *mut f32,
    out_stride: usize,
    depth: usize,
}

/// # Safety
/// For each of `COUNT` rows and `depth` values of k the operands have their elements, and the result has rows of `PANEL`.
#[inline(always)]
#[allow(unsafe_code, reason = "operands are read without a check of each element")]
#[allow(
    clippy::needless_range_loop,
    reason = "counted loops over arrays of registers read like the tile that they compute"
)]
unsafe fn sum<S: Simd, const COUNT: usize>(simd: S, tile: Tile, factors: Option<[S::F; 2]>) {
    let mut sums = [[simd.zero(); 2]; COUNT];
    // SAFETY: the condition of the function.
    unsafe {
        let out = |row: usize, half: usize| tile.out.add(row * tile.out_stride + half * LANES).cast::<[f32; LANES]>();
        if let Some(factors) = factors {
            for row in 0..COUNT {
                for half in 0..2 {
                    sums[row][half] = simd.mul(simd.load(&*out(row, half)), factors[half]);
                }
            }
        }
        for k in 0..tile.depth {
            let right = tile.right.add(k * tile.right_stride).cast::<[f32; LANES]>();
            let right = [simd.load(&*right), simd.load(&*right.add(1))];
            for row in 0..COUNT {
                let number = simd.splat(*tile.left.add(row * tile.left_row + k * tile.left_next));
                for half in 0..2 {
                    sums[row][half] = simd.mul_add(number, right[half], sums[row][half]);
                }
            }
        }
        for row in 0..COUNT {
            for half in 0..2 {
                simd.store(sums[row][half], &mut *out(row, half));
            }
        }
    }
}

/// Copies a row; the compiler's own copy of so few elements is a call.
#[inline(always)]
pub(super) fn copy<S: Simd>(simd: S, from: &[f32], to: &mut [f32]) {
    let (whole, part) = blocks(from.len());
    for start in whole {
        simd.store(simd.load(eight(from, start)), eight_mut(to, start));
    }
    to[part.clone()].copy_from_slice(&from[part]);
}

/// Writes sixteen rows of `width` elements, times a factor, as a panel `[width, 16]`. `row` gives each; where it gives none,
/// zeros are written.
#[inline(always)]
pub(super) fn pack<'a, S: Simd>(
    simd: S,
    width: usize,
    factor: f32,
    row: impl Fn(usize) -> Option<&'a [f32]>,
    panel: &mut [f32],
) {
    let factors = simd.splat(factor);
    for half in 0..2 {
        let rows: [Option<&[f32]>; LANES] = std::array::from_fn(|lane| row(half * LANES + lane));
        let (whole, part) = blocks(width);
        for start in whole {
            let vectors = rows.map(|row| row.map_or(simd.zero(), |row| simd.load(eight(row, start))));
            for (i, vector) in simd.transpose(vectors).into_iter().enumerate() {
                simd.store(simd.mul(vector, factors), eight_mut(panel, (start + i) * PANEL + half * LANES));
            }
        }
        if part.is_empty() {
            continue;
        }
        let vectors = rows.map(|row| row.map_or(simd.zero(), |row| simd.load_part(&row[part.clone()], 0.0)));
        for (i, vector) in simd.transpose(vectors).into_iter().take(part.len()).enumerate() {
            simd.store(simd.mul(vector, factors), eight_mut(panel, (part.start + i) * PANEL + half * LANES));
        }
    }
}

/// Writes a panel `[width, 16]`, times a factor for each column, as rows of `width` elements. `row` gives where each goes; where
/// it gives none, nothing is written.
#[inline(always)]
pub(super) fn unpack<'a, S: Simd>(
    simd: S,
    width: usize,
    panel: &[f32],
    factors: [S::F; 2],
    mut row: impl FnMut(usize) -> Option<&'a mut [f32]>,
) {
    for (half, factors) in factors.into_iter().enumerate() {
        let mut rows: [Option<&mut [f32]>; LANES] = std::array::from_fn(|lane| row(half * LANES + lane));
        let at = |k: usize| simd.mul(simd.load(eight(panel, k * PANEL + half * LANES)), factors);
        let (whole, part) = blocks(width);
        for start in whole {
            let vectors = simd.transpose(std::array::from_fn(|i| at(start + i)));
            for (vector, row) in vectors.into_iter().zip(&mut rows) {
                if let Some(row) = row {
                    simd.store(vector, eight_mut(row, start));
                }
            }
        }
        if part.is_empty() {
            continue;
        }
        let last = part.len() - 1;
        let vectors = simd.transpose(std::array::from_fn(|i| at(part.start + i.min(last))));
        for (vector, row) in vectors.into_iter().zip(&mut rows) {
            if let Some(row) = row {
                simd.store_part(vector, &mut row[part.clone()]);
            }
        }
    }
}

/// Two vectors at `start`.
#[inline(always)]
pub(super) fn pair<S: Simd>(simd: S, values: &[f32], start: usize) -> [S::F; 2] {
    [simd.load(eight(values, start)), simd.load(eight(values, start + LANES))]
}

/// Stores two vectors at `start`.
#[inline(always)]
pub(super) fn store_pair<S: Simd>(simd: S, pair: [S::F; 2], values: &mut [f32], start: usize) {
    simd.store(pair[0], eight_mut(values, start));
    simd.store(pair[1], eight_mut(values, start + LANES));
}

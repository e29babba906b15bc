//! Launches of the CUDA kernels in `cuda/pool.cu`.

use super::Pool;
use crate::launch::{
    Argument, Buffer, BufferMut, Float, Launch, ShapeError, expect_len, expect_rows, kernel_name, row_block, to_grid,
    to_i32, to_i64,
};

impl Pool {
    /// The launches that make one row for each document: from x, `[rows, width]`, and offsets, `[documents + 1]`, to y,
    /// `[documents, width]`. Offsets that point outside of the rows are moved to their ends.
    ///
    /// # Errors
    /// Lengths that do not belong together.
    pub fn launches<'a, T: Float>(
        self,
        width: usize,
        x: Buffer<'a, T>,
        offsets: Buffer<'a, i64>,
        y: BufferMut<'a, T>,
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        let rows = expect_rows("x", x.len(), width)?;
        let documents = offsets.len().saturating_sub(1);
        expect_len("y", y.len(), documents * width)?;
        if y.is_empty() {
            return Ok(Vec::new());
        }
        let columns = width.div_ceil(256);
        if columns > 65_535 {
            return Err(ShapeError::Dimension { name: "width", allowed: "at most 16,776,960", actual: width });
        }
        let arguments = vec![
            x.argument(),
            offsets.argument(),
            y.argument(),
            Argument::I64(to_i64("rows", rows)?),
            Argument::I32(to_i32("width", width)?),
            Argument::I32(self as i32),
        ];
        let grid = [to_grid("documents", documents)?, columns as u32, 1];
        Ok(vec![Launch::new("pool", kernel_name!(T, "pool"), grid, [256, 1, 1], arguments)])
    }
}

/// The launches that scale rows to length 1: from x to y, `[rows, width]` each.
///
/// # Errors
/// Lengths that do not belong together.
pub fn l2_normalise_launches<'a, T: Float>(
    width: usize,
    epsilon: f32,
    x: Buffer<'a, T>,
    y: BufferMut<'a, T>,
) -> Result<Vec<Launch<'a>>, ShapeError> {
    let rows = expect_rows("x", x.len(), width)?;
    expect_len("y", y.len(), x.len())?;
    if rows == 0 {
        return Ok(Vec::new());
    }
    let (block, rows_per_block) = row_block::<T>(width);
    let arguments = vec![
        x.argument(),
        y.argument(),
        Argument::I64(to_i64("rows", rows)?),
        Argument::I32(to_i32("width", width)?),
        Argument::F32(epsilon),
    ];
    let grid = [to_grid("rows", rows.div_ceil(rows_per_block))?, 1, 1];
    Ok(vec![Launch::new("pool", kernel_name!(T, "l2_normalise"), grid, block, arguments)])
}

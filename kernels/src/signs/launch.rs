//! Launches of the CUDA kernels in `cuda/signs.cu`.

use super::{Block, GROUP, Signs};
use crate::launch::{Argument, BufferMut, Float, Launch, ShapeError, kernel_name, to_grid, to_i64};

/// Threads of a block.
const THREADS: usize = 256;

impl Signs {
    /// The launches that fill a block of the matrix, `[rows, block.columns]`, with the bits of [`Signs::fill`].
    ///
    /// # Errors
    /// The length is not a whole number of rows, the block reaches beyond 2^32 rows or 2^39 columns, or the buffer has more elements than
    /// one launch can fill, about 2^46.
    pub fn launches<'a, T: Float>(
        &self,
        block: Block,
        scale: f32,
        out: BufferMut<'a, T>,
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        let rows = block.rows(out.len())?;
        if rows == 0 {
            return Ok(Vec::new());
        }
        let (first_group, groups) = block.groups();
        let [first_key, second_key] = self.key();
        let arguments = vec![
            out.argument(),
            Argument::I64(to_i64("rows", rows)?),
            Argument::I64(to_i64("columns", block.columns)?),
            // Checked: below 2^32.
            Argument::U32(block.first_row as u32),
            Argument::U32(first_group as u32),
            Argument::I32((block.first_column % GROUP as usize) as i32),
            Argument::U32(first_key),
            Argument::U32(second_key),
            Argument::U32(self.module as u32),
            Argument::U32((self.module >> 32) as u32),
            Argument::F32(scale),
        ];
        let grid = [to_grid("out", rows.saturating_mul(groups).div_ceil(THREADS))?, 1, 1];
        Ok(vec![Launch::new("signs", kernel_name!(T, "signs"), grid, [THREADS as u32, 1, 1], arguments)])
    }
}

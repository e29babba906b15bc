//! Launches of the CUDA kernels in `cuda/softmax.cu`.

use super::Softmax;
use crate::launch::{
    Argument, Buffer, BufferMut, Float, Launch, ShapeError, expect_len, expect_rows, kernel_name, row_block, to_grid,
    to_i32, to_i64,
};

impl Softmax {
    /// The launches of a forward pass, from x to y, `[rows, width]` each.
    ///
    /// # Errors
    /// Lengths that do not belong together.
    pub fn forward_launches<'a, T: Float>(
        &self,
        x: Buffer<'a, T>,
        y: BufferMut<'a, T>,
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        expect_len("y", y.len(), x.len())?;
        self.launches::<T>(kernel_name!(T, "softmax_forward"), x.len(), vec![x.argument(), y.argument()])
    }

    /// The launches of a backward pass, from y and its gradient to that of x, `[rows, width]` each.
    ///
    /// # Errors
    /// Lengths that do not belong together.
    pub fn backward_launches<'a, T: Float>(
        &self,
        y: Buffer<'a, T>,
        dy: Buffer<'a, T>,
        dx: BufferMut<'a, T>,
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        expect_len("dy", dy.len(), y.len())?;
        expect_len("dx", dx.len(), y.len())?;
        let arguments = vec![y.argument(), dy.argument(), dx.argument()];
        self.launches::<T>(kernel_name!(T, "softmax_backward"), y.len(), arguments)
    }

    fn launches<'a, T: Float>(
        &self,
        kernel: &'static str,
        len: usize,
        mut arguments: Vec<Argument>,
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        let rows = expect_rows("x", len, self.width)?;
        if rows == 0 {
            return Ok(Vec::new());
        }
        let (block, rows_per_block) = row_block::<T>(self.width);
        arguments.push(Argument::I64(to_i64("rows", rows)?));
        arguments.push(Argument::I32(to_i32("width", self.width)?));
        arguments.push(Argument::F32(self.scale));
        let grid = [to_grid("rows", rows.div_ceil(rows_per_block))?, 1, 1];
        Ok(vec![Launch::new("softmax", kernel, grid, block, arguments)])
    }
}

//! Launches of the CUDA kernels in `cuda/glu.cu`.

use super::{Activation, Backward, Forward};
use crate::launch::{
    Argument, Buffer, BufferMut, Float, Launch, ShapeError, expect_len, kernel_name, optional, optional_mut, to_grid,
    to_i64,
};

impl Activation {
    /// The launches of a forward pass.
    ///
    /// # Errors
    /// Lengths that differ.
    pub fn forward_launches<'a, T: Float>(
        self,
        buffers: Forward<Buffer<'a, T>, BufferMut<'a, T>>,
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        let Forward { x, up, y } = buffers;
        expect_len("y", y.len(), x.len())?;
        expect_len("up", up.map_or(x.len(), |up| up.len()), x.len())?;
        let arguments = vec![x.argument(), optional(up.as_ref()), y.argument()];
        self.launches::<T>(kernel_name!(T, "glu_forward"), x.len(), arguments)
    }

    /// The launches of a backward pass.
    ///
    /// # Errors
    /// Lengths that differ.
    pub fn backward_launches<'a, T: Float>(
        self,
        buffers: Backward<Buffer<'a, T>, BufferMut<'a, T>>,
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        let Backward { x, dy, dx, up } = buffers;
        expect_len("dy", dy.len(), x.len())?;
        expect_len("dx", dx.len(), x.len())?;
        let (up, dup) = up.map_or((None, None), |(up, dup)| (Some(up), Some(dup)));
        expect_len("up", up.map_or(x.len(), |up| up.len()), x.len())?;
        expect_len("dup", dup.as_ref().map_or(x.len(), BufferMut::len), x.len())?;
        let arguments =
            vec![x.argument(), optional(up.as_ref()), dy.argument(), dx.argument(), optional_mut(dup.as_ref())];
        self.launches::<T>(kernel_name!(T, "glu_backward"), x.len(), arguments)
    }

    fn launches<'a, T: Float>(
        self,
        kernel: &'static str,
        len: usize,
        mut arguments: Vec<Argument>,
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        if len == 0 {
            return Ok(Vec::new());
        }
        arguments.push(Argument::I64(to_i64("x", len)?));
        arguments.push(Argument::I32(self as i32));
        let per_block = 256 * (16 / size_of::<T>());
        let grid = [to_grid("x", len.div_ceil(per_block))?, 1, 1];
        Ok(vec![Launch::new("glu", kernel, grid, [256, 1, 1], arguments)])
    }
}

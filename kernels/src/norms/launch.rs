//! Launches of the CUDA kernels in `cuda/norms.cu`.

use super::{Backward, Forward, Norm, NormKind};
use crate::launch::{
    Argument, Buffer, BufferMut, Float, Launch, ShapeError, expect_len, expect_rows, kernel_name, optional, row_block,
    to_grid, to_i32, to_i64,
};

const FAMILY: &str = "norms";
/// Shared memory that every GPU has without asking, less what the kernels keep beside the sums.
const SHARED_BYTES: usize = 48 * 1024 - 256;

impl Norm {
    /// The launches of a forward pass.
    ///
    /// # Errors
    /// Lengths that do not belong together.
    pub fn forward_launches<'a, T: Float>(
        &self,
        buffers: Forward<Buffer<'a, T>, BufferMut<'a, T>>,
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        let Forward { x, weight, bias, y } = buffers;
        let rows = expect_rows("x", x.len(), self.width)?;
        expect_len("y", y.len(), x.len())?;
        expect_len("weight", weight.map_or(self.width, |buffer| buffer.len()), self.width)?;
        expect_len("bias", bias.map_or(self.width, |buffer| buffer.len()), self.width)?;
        if rows == 0 {
            return Ok(Vec::new());
        }
        let kernel = match self.kind {
            NormKind::Rms => kernel_name!(T, "rms_norm_forward"),
            NormKind::Layer => kernel_name!(T, "layer_norm_forward"),
        };
        let (block, rows_per_block) = row_block::<T>(self.width);
        let arguments = vec![
            x.argument(),
            optional(weight.as_ref()),
            optional(bias.as_ref()),
            y.argument(),
            Argument::I64(to_i64("rows", rows)?),
            Argument::I32(to_i32("width", self.width)?),
            Argument::F32(self.epsilon),
        ];
        let grid = [to_grid("rows", rows.div_ceil(rows_per_block))?, 1, 1];
        Ok(vec![Launch::new(FAMILY, kernel, grid, block, arguments)])
    }

    /// Elements of the workspace of [`Self::backward_launches`] with a gradient of weight or bias; none is needed without.
    pub fn workspace_len(&self, rows: usize) -> usize {
        2 * rows.div_ceil(chunk_rows(rows)) * self.width
    }

    /// The launches of a backward pass. The workspace holds sums of pieces, [`Self::workspace_len`] elements.
    ///
    /// # Errors
    /// Lengths that do not belong together.
    pub fn backward_launches<'a, T: Float>(
        &self,
        buffers: Backward<Buffer<'a, T>, BufferMut<'a, T>>,
        workspace: Option<BufferMut<'a, f32>>,
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        let Backward { x, weight, dy, dx, dweight, dbias } = buffers;
        let rows = expect_rows("x", x.len(), self.width)?;
        expect_len("dy", dy.len(), x.len())?;
        expect_len("dx", dx.len(), x.len())?;
        expect_len("weight", weight.map_or(self.width, |buffer| buffer.len()), self.width)?;
        expect_len("dweight", dweight.as_ref().map_or(self.width, BufferMut::len), self.width)?;
        expect_len("dbias", dbias.as_ref().map_or(self.width, BufferMut::len), self.width)?;
        let sums = dweight.is_some() || dbias.is_some();
        let workspace = workspace.filter(|_| sums);
        if sums {
            let needed = self.workspace_len(rows);
            expect_len("workspace", workspace.as_ref().map_or(0, BufferMut::len), needed)?;
        }
        if self.width == 0 {
            return Ok(Vec::new());
        }

        let chunk_rows = chunk_rows(rows);
        let chunks = rows.div_ceil(chunk_rows);
        let partial = workspace.as_ref().map_or(Argument::Address(0), BufferMut::argument);
        let mut launches = Vec::new();
        if rows > 0 {
            let (block, rows_per_block) = row_block::<T>(self.width);
            let shared_bytes = 2 * rows_per_block * self.width * size_of::<f32>();
            let wide = sums && shared_bytes > SHARED_BYTES;
            let kernel = match (self.kind, wide) {
                (NormKind::Rms, false) => kernel_name!(T, "rms_norm_backward"),
                (NormKind::Rms, true) => kernel_name!(T, "rms_norm_backward_wide"),
                (NormKind::Layer, false) => kernel_name!(T, "layer_norm_backward"),
                (NormKind::Layer, true) => kernel_name!(T, "layer_norm_backward_wide"),
            };
            let arguments = vec![
                x.argument(),
                optional(weight.as_ref()),
                dy.argument(),
                dx.argument(),
                partial,
                Argument::I64(to_i64("rows", rows)?),
                Argument::I32(to_i32("width", self.width)?),
                Argument::I32(to_i32("rows", chunk_rows)?),
                Argument::F32(self.epsilon),
            ];
            let launch = Launch::new(FAMILY, kernel, [to_grid("rows", chunks)?, 1, 1], block, arguments);
            launches.push(launch.with_shared_bytes(if sums && !wide { shared_bytes as u32 } else { 0 }));
        }
        for (total, half) in [(dweight, 0), (dbias, 1)] {
            let (Some(total), Some(workspace)) = (total, &workspace) else { continue };
            let arguments = vec![
                workspace.argument_at(half * chunks * self.width),
                total.argument(),
                Argument::I64(to_i64("rows", chunks)?),
                Argument::I32(to_i32("width", self.width)?),
            ];
            let grid = [to_grid("width", self.width.div_ceil(32))?, 1, 1];
            launches.push(Launch::new(FAMILY, kernel_name!(T, "norm_combine"), grid, [32, 8, 1], arguments));
        }
        Ok(launches)
    }
}

/// Rows whose sums one block makes. At least 16, so that writing sums costs little beside reading rows; and at most 1,024 pieces.
const fn chunk_rows(rows: usize) -> usize {
    let rows = rows.div_ceil(1024);
    if rows < 16 { 16 } else { rows }
}

//! Launches of the CUDA kernels in `cuda/attention.cu`.

use super::{Attention, Backward, Documents, Forward, Heads, Mask};
use crate::launch::{
    Argument, Buffer, BufferMut, DType, Float, Launch, ShapeError, expect_len, kernel_name, optional_mut, to_grid,
    to_i32, to_i64,
};

const FAMILY: &str = "attention";

/// The width that a kernel is made for, what it keeps in shared memory, and how many rows its blocks own.
struct Kernels {
    wide: usize,
    threads: u32,
    forward_lanes: usize,
    forward_bytes: usize,
    backward_rows: usize,
    backward_bytes: usize,
}

/// As the constants in `cuda/attention_tensor.cuh` and `cuda/attention_plain.cuh` say.
const fn kernels(dtype: DType, width: usize) -> Kernels {
    if matches!(dtype, DType::F32) {
        let (wide, lanes, step, rows) = match width {
            ..=64 => (64, 64, 64, 64),
            65..=128 => (128, 64, 32, 32),
            _ => (256, 32, 32, 16),
        };
        let (pitch, weights) = (wide + 4, step + 4);
        return Kernels {
            wide,
            threads: 256,
            forward_lanes: lanes,
            forward_bytes: 4 * ((lanes + step) * pitch + lanes * weights),
            backward_rows: rows,
            backward_bytes: 4 * (4 * rows * pitch + rows * (rows + 4)),
        };
    }
    let (wide, lanes, step, backward_stages) = match width {
        ..=64 => (64, 128, 32, 2 * 64),
        65..=96 => (96, 64, 64, 2 * 32),
        97..=128 => (128, 64, 64, 2 * 32),
        _ => (256, 64, 32, 16),
    };
    let pitch = wide + 8;
    Kernels {
        wide,
        threads: 128,
        forward_lanes: lanes,
        forward_bytes: 2 * 4 * step * pitch,
        backward_rows: 64,
        backward_bytes: 2 * 2 * (64 + backward_stages) * pitch,
    }
}

/// The name of a kernel by its width and element type.
macro_rules! kernel {
    ($wide:expr, $base:literal) => {
        kernel!($wide, $base, "_64" 64, "_96" 96, "_128" 128, "_256" _)
    };
    ($wide:expr, $base:literal, $($suffix:literal $width:pat),*) => {
        match ($wide, T::DTYPE) {
            $(($width, DType::Bf16) => concat!($base, $suffix, "_bf16"),
            ($width, DType::F16) => concat!($base, $suffix, "_f16"),
            ($width, _) => concat!($base, $suffix, "_f32"),)*
        }
    };
}

impl Attention {
    /// The launches of a forward pass.
    ///
    /// Offsets are in the memory of the GPU and are not checked: those that point outside of the rows are moved to their ends,
    /// and rows outside of all documents are not written.
    ///
    /// # Errors
    /// Heads, widths, strides or lengths that do not belong together.
    pub fn forward_launches<'a, T: Float>(
        &self,
        documents: Documents<Buffer<'a, i64>>,
        buffers: Forward<Buffer<'a, T>, BufferMut<'a, T>, BufferMut<'a, f32>>,
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        let Forward { q, k, v, o, log_sums } = buffers;
        let mut arguments = self.shape_arguments(documents)?;
        let (queries, keys) = self.check_buffers(&documents, [&q, &k, &v])?;
        o.check_write("o", o.buffer.len(), queries)?;
        let sums = documents.query_rows * self.query_heads;
        expect_len("log_sums", log_sums.as_ref().map_or(sums, BufferMut::len), sums)?;
        if keys[1] > 65_535 {
            return Err(too_many_heads(keys[1]));
        }
        if documents.query_rows == 0 {
            return Ok(Vec::new());
        }
        for input in [&q, &k, &v] {
            push_heads(&mut arguments, input.buffer.argument(), input)?;
        }
        push_heads(&mut arguments, o.buffer.argument(), &o)?;
        arguments.push(optional_mut(log_sums.as_ref()));
        let kernels = kernels(T::DTYPE, self.width);
        let name = kernel!(kernels.wide, "attention_forward");
        let grid = self.grid(documents.query_rows * self.group(), kernels.forward_lanes, documents)?;
        let launch = Launch::new(FAMILY, name, grid, [kernels.threads, 1, 1], arguments);
        Ok(vec![launch.with_shared_bytes(kernels.forward_bytes as u32)])
    }

    /// Elements of the workspace of [`Self::backward_launches`].
    pub const fn workspace_len(&self, query_rows: usize) -> usize {
        query_rows * self.query_heads
    }

    /// The launches of a backward pass. The workspace holds Σ d_o ⊙ o of each query and head, [`Self::workspace_len`] elements.
    ///
    /// Gradients may be parts of one buffer, as the inputs may: elements between heads are not touched. Offsets are taken as in
    /// the forward pass.
    ///
    /// # Errors
    /// Heads, widths, strides or lengths that do not belong together.
    pub fn backward_launches<'a, T: Float>(
        &self,
        documents: Documents<Buffer<'a, i64>>,
        buffers: Backward<Buffer<'a, T>, BufferMut<'a, T>, Buffer<'a, f32>>,
        workspace: BufferMut<'a, f32>,
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        let Backward { q, k, v, o, d_o, log_sums, dq, dk, dv } = buffers;
        let shape = self.shape_arguments(documents)?;
        let (queries, keys) = self.check_buffers(&documents, [&q, &k, &v])?;
        o.check_read("o", o.buffer.len(), queries)?;
        d_o.check_read("d_o", d_o.buffer.len(), queries)?;
        dq.check_write("dq", dq.buffer.len(), queries)?;
        dk.check_write("dk", dk.buffer.len(), keys)?;
        dv.check_write("dv", dv.buffer.len(), keys)?;
        let sums = self.workspace_len(documents.query_rows);
        expect_len("log_sums", log_sums.len(), sums)?;
        expect_len("workspace", workspace.len(), sums)?;
        if keys[1] > 65_535 {
            return Err(too_many_heads(keys[1]));
        }

        let mut launches = Vec::new();
        let kernels = kernels(T::DTYPE, self.width);
        let block = [kernels.threads, 1, 1];
        let mut inputs = shape;
        for input in [&q, &k, &v, &d_o] {
            push_heads(&mut inputs, input.buffer.argument(), input)?;
        }
        inputs.extend([log_sums.argument(), workspace.argument()]);
        if documents.query_rows > 0 {
            let mut arguments = Vec::new();
            push_heads(&mut arguments, o.buffer.argument(), &o)?;
            push_heads(&mut arguments, d_o.buffer.argument(), &d_o)?;
            arguments.push(workspace.argument());
            arguments.push(Argument::I64(to_i64("query_rows", documents.query_rows)?));
            arguments.push(Argument::I32(to_i32("query_heads", self.query_heads)?));
            arguments.push(Argument::I32(to_i32("width", self.width)?));
            // A warp for each sum, eight in a block.
            let grid = [to_grid("query_rows", sums.div_ceil(8))?, 1, 1];
            let name = kernel_name!(T, "attention_products");
            launches.push(Launch::new(FAMILY, name, grid, [256, 1, 1], arguments));

            let mut arguments = inputs.clone();
            push_heads(&mut arguments, dq.buffer.argument(), &dq)?;
            let name = kernel!(kernels.wide, "attention_backward_queries");
            let grid = self.grid(documents.query_rows * self.group(), kernels.backward_rows, documents)?;
            let launch = Launch::new(FAMILY, name, grid, block, arguments);
            launches.push(launch.with_shared_bytes(kernels.backward_bytes as u32));
        }
        if documents.key_rows > 0 {
            let mut arguments = inputs;
            push_heads(&mut arguments, dk.buffer.argument(), &dk)?;
            push_heads(&mut arguments, dv.buffer.argument(), &dv)?;
            let name = kernel!(kernels.wide, "attention_backward_keys");
            let grid = self.grid(documents.key_rows, kernels.backward_rows, documents)?;
            let launch = Launch::new(FAMILY, name, grid, block, arguments);
            launches.push(launch.with_shared_bytes(kernels.backward_bytes as u32));
        }
        Ok(launches)
    }

    /// Shapes `[rows, heads, width]` of queries and of keys.
    fn check_buffers<T: Float>(
        &self,
        documents: &Documents<Buffer<'_, i64>>,
        [q, k, v]: [&Heads<Buffer<'_, T>>; 3],
    ) -> Result<([usize; 3], [usize; 3]), ShapeError> {
        let queries = [documents.query_rows, self.query_heads, self.width];
        let keys = [documents.key_rows, self.key_heads, self.width];
        q.check_read("q", q.buffer.len(), queries)?;
        k.check_read("k", k.buffer.len(), keys)?;
        v.check_read("v", v.buffer.len(), keys)?;
        Ok((queries, keys))
    }

    fn shape_arguments(&self, documents: Documents<Buffer<'_, i64>>) -> Result<Vec<Argument>, ShapeError> {
        self.check()?;
        let Documents { query_rows, key_rows, query_offsets, key_offsets } = documents;
        expect_len("key_offsets", key_offsets.len(), query_offsets.len())?;
        if query_offsets.len() < 2 && (query_rows > 0 || key_rows > 0) {
            return Err(ShapeError::Length { name: "query_offsets", expected: 2, actual: query_offsets.len() });
        }
        let Mask { left, right } = self.mask;
        // No document has more rows than that.
        let limit =
            |limit: Option<usize>| Argument::I32(limit.map_or(i32::MAX, |limit| limit.min(i32::MAX as usize) as i32));
        // Lanes of a document, and keys, are counted in `int`.
        to_i32("query_rows", query_rows.saturating_mul(self.group()))?;
        to_i32("key_rows", key_rows)?;
        Ok(vec![
            query_offsets.argument(),
            key_offsets.argument(),
            Argument::I64(to_i64("query_rows", query_rows)?),
            Argument::I64(to_i64("key_rows", key_rows)?),
            Argument::I32(to_i32("documents", query_offsets.len().saturating_sub(1))?),
            Argument::I32(to_i32("query_heads", self.group())?),
            Argument::I32(to_i32("width", self.width)?),
            Argument::F32(self.scale),
            limit(left),
            limit(right),
        ])
    }

    /// As many tiles as there are numbers for, which `Numbering` in `cuda/attention_common.cuh` explains.
    fn grid(&self, items: usize, size: usize, documents: Documents<Buffer<'_, i64>>) -> Result<[u32; 3], ShapeError> {
        let tiles = items / size + documents.query_offsets.len() - 1;
        Ok([to_grid("documents", tiles)?, to_grid("key_heads", self.key_heads)?, 1])
    }
}

const fn too_many_heads(actual: usize) -> ShapeError {
    ShapeError::Dimension { name: "key_heads", allowed: "at most 65,535", actual }
}

fn push_heads<B>(arguments: &mut Vec<Argument>, start: Argument, heads: &Heads<B>) -> Result<(), ShapeError> {
    arguments.push(start);
    arguments.push(Argument::I64(to_i64("row_stride", heads.row_stride)?));
    arguments.push(Argument::I64(to_i64("head_stride", heads.head_stride)?));
    Ok(())
}

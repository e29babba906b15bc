//! Launches of the CUDA kernels in `cuda/outer.cu`.

use super::Outer;
use crate::launch::{
    Argument, Buffer, BufferMut, Float, Launch, ShapeError, kernel_name, optional_mut, to_grid, to_i32, to_i64,
};

/// Threads of a block.
const THREADS: u32 = 128;

impl Outer {
    /// The launches that sum the outer products of each segment and module: from a and b to out, each laid out by its strides, with offsets,
    /// `[segments + 1]`, that count tokens, and to norms, `[segments, modules]`, if they are wanted. Offsets that point outside of the tokens
    /// are moved to their ends.
    ///
    /// Vectors are read fastest where a and b lie at multiples of 16 bytes, with strides of such.
    ///
    /// # Errors
    /// A buffer that is too short, results that overlap, or more than 2,147,483,647 segments times modules.
    pub fn launches<'a, T: Float>(
        &self,
        a: Buffer<'a, T>,
        b: Buffer<'a, T>,
        offsets: Buffer<'a, i64>,
        out: BufferMut<'a, f32>,
        norms: Option<BufferMut<'a, f32>>,
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        let segments = offsets.len().saturating_sub(1);
        self.check(segments, a.len(), b.len(), out.len(), norms.as_ref().map(BufferMut::len))?;
        let blocks = to_grid("segments times modules", segments.saturating_mul(self.modules))?;
        if blocks == 0 {
            return Ok(Vec::new());
        }
        let arguments = vec![
            a.argument(),
            b.argument(),
            offsets.argument(),
            out.argument(),
            optional_mut(norms.as_ref()),
            Argument::I64(to_i64("tokens", self.tokens)?),
            Argument::I32(to_i32("modules", self.modules)?),
            Argument::I32(to_i32("p", self.p)?),
            Argument::I32(to_i32("q", self.q)?),
            Argument::I64(to_i64("a stride of a", self.a.row)?),
            Argument::I64(to_i64("a stride of a", self.a.module)?),
            Argument::I64(to_i64("a stride of b", self.b.row)?),
            Argument::I64(to_i64("a stride of b", self.b.module)?),
            Argument::I64(to_i64("a stride of out", self.out.row)?),
            Argument::I64(to_i64("a stride of out", self.out.module)?),
            Argument::I32(i32::from(self.accumulate)),
        ];
        let kernel = match self.p.max(self.q) {
            0..=16 => kernel_name!(T, "outer_16"),
            17..=32 => kernel_name!(T, "outer_32"),
            _ => kernel_name!(T, "outer_64"),
        };
        Ok(vec![Launch::new("outer", kernel, [blocks, 1, 1], [THREADS, 1, 1], arguments)])
    }
}

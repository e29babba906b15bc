//! Launches of the CUDA kernels in `cuda/attention.cu`.

use super::{Attention, Backward, Documents, Forward};
use crate::launch::{Buffer, BufferMut, Float, Launch, ShapeError};

impl Attention {
    pub fn forward_launches<'a, T: Float>(
        &self,
        documents: Documents<Buffer<'a, i64>>,
        buffers: Forward<Buffer<'a, T>, BufferMut<'a, T>, BufferMut<'a, f32>>,
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        Ok(vec![])
    }
    pub fn backward_launches<'a, T: Float>(
        &self,
        documents: Documents<Buffer<'a, i64>>,
        buffers: Backward<Buffer<'a, T>, BufferMut<'a, T>, Buffer<'a, f32>>,
        workspace: BufferMut<'a, f32>,
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        Ok(vec![])
    }
}

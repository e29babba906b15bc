//! Launches of the CUDA kernels in `cuda/rotary.cu`.

use super::{Buffers, Direction, Pairing, Rotary, Sizes};
use crate::launch::{Argument, Buffer, BufferMut, Float, Launch, ShapeError, kernel_name, to_grid, to_i32};

impl Rotary {
    /// The launches that turn values.
    ///
    /// # Errors
    /// Lengths that do not belong together.
    pub fn launches<'a, T: Float>(
        &self,
        direction: Direction,
        buffers: Buffers<Buffer<'a, T>, BufferMut<'a, T>, Buffer<'a, f32>, Buffer<'a, i32>>,
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        let Buffers { x, cosines, sines, positions, y } = buffers;
        let Sizes { tokens, table_rows } = self.sizes(x.len(), cosines.len(), sines.len(), positions.len(), y.len())?;
        if x.is_empty() {
            return Ok(Vec::new());
        }
        let slots = (self.head_width - self.rotated / 2) * self.heads;
        let arguments = vec![
            x.argument(),
            cosines.argument(),
            sines.argument(),
            positions.argument(),
            y.argument(),
            Argument::I32(to_i32("heads", self.heads)?),
            Argument::I32(to_i32("head_width", self.head_width)?),
            Argument::I32(to_i32("rotated", self.rotated)?),
            Argument::I32(to_i32("positions", table_rows)?),
            Argument::I32(i32::from(self.pairing == Pairing::Neighbours)),
            Argument::I32(i32::from(direction == Direction::Backward)),
        ];
        to_i32("heads * head_width", slots)?;
        let threads = slots.next_multiple_of(32).clamp(32, 256) as u32;
        Ok(vec![Launch::new(
            "rotary",
            kernel_name!(T, "rotary"),
            [to_grid("tokens", tokens)?, 1, 1],
            [threads, 1, 1],
            arguments,
        )])
    }
}

//! Launches of the CUDA kernels in `cuda/residual.cu`.

use super::{Embedding, EmbeddingBuffers, Lengths, Norm, NormBuffers};
use crate::launch::{
    Argument, Buffer, BufferMut, Float, Launch, ShapeError, expect_len, kernel_name, optional, optional_mut, row_block,
    to_grid, to_i32, to_i64,
};
use crate::norms::NormKind;

const FAMILY: &str = "residual";

impl Embedding {
    /// The launches that gather rows.
    ///
    /// # Errors
    /// Lengths that do not belong together.
    pub fn launches<'a, T: Float>(
        &self,
        buffers: EmbeddingBuffers<Buffer<'a, T>, Buffer<'a, f32>, Buffer<'a, i32>, BufferMut<'a, f32>>,
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        let EmbeddingBuffers { tokens, positions, segment, ids, x } = buffers;
        let lengths = positions.map(|(table, places)| (table.len(), places.len()));
        let (vocabulary, rows) =
            self.table_rows(tokens.len(), lengths, segment.map(|segment| segment.len()), ids.len(), x.len())?;
        if x.is_empty() {
            return Ok(Vec::new());
        }
        let arguments = vec![
            tokens.argument(),
            optional(positions.map(|(table, _)| table).as_ref()),
            optional(segment.as_ref()),
            ids.argument(),
            optional(positions.map(|(_, places)| places).as_ref()),
            x.argument(),
            Argument::I32(to_i32("width", self.width)?),
            Argument::I32(to_i32("vocabulary", vocabulary)?),
            Argument::I32(to_i32("positions", rows)?),
        ];
        let threads = self.width.next_multiple_of(32).clamp(32, 256) as u32;
        let grid = [to_grid("tokens", ids.len())?, 1, 1];
        Ok(vec![Launch::new(FAMILY, kernel_name!(T, "residual_embed"), grid, [threads, 1, 1], arguments)])
    }
}

impl Norm {
    /// The launches of a norm.
    ///
    /// # Errors
    /// Lengths that do not belong together.
    pub fn launches<'a, T: Float>(
        &self,
        buffers: NormBuffers<Buffer<'a, f32>, BufferMut<'a, f32>, BufferMut<'a, T>>,
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        let NormBuffers { x, weight, bias, z, y } = buffers;
        let rows = self.rows(&Lengths {
            x: x.map(|x| x.len()),
            weight: weight.map(|weight| weight.len()),
            bias: bias.map(|bias| bias.len()),
            z: z.as_ref().map(BufferMut::len),
            y: y.as_ref().map(BufferMut::len),
        })?;
        if rows == 0 {
            return Ok(Vec::new());
        }
        let (block, rows_per_block) = row_block::<f32>(self.width);
        let kind = match self.kind {
            None => 0,
            Some(NormKind::Rms) => 1,
            Some(NormKind::Layer) => 2,
        };
        let arguments = vec![
            x.map_or_else(|| optional_mut(z.as_ref()), |x| x.argument()),
            optional(weight.as_ref()),
            optional(bias.as_ref()),
            optional_mut(z.as_ref()),
            optional_mut(y.as_ref()),
            Argument::I64(to_i64("rows", rows)?),
            Argument::I32(to_i32("width", self.width)?),
            Argument::F32(self.epsilon),
            Argument::I32(kind),
            Argument::I32(i32::from(self.add)),
        ];
        let grid = [to_grid("rows", rows.div_ceil(rows_per_block))?, 1, 1];
        Ok(vec![Launch::new(FAMILY, kernel_name!(T, "residual_norm"), grid, block, arguments)])
    }
}

/// The launches that keep values within a magnitude.
///
/// # Errors
/// More values than can be counted.
pub fn clamp_launches<T: Float>(most: f32, x: BufferMut<'_, T>) -> Result<Vec<Launch<'_>>, ShapeError> {
    if x.is_empty() {
        return Ok(Vec::new());
    }
    let arguments = vec![x.argument(), Argument::I64(to_i64("x", x.len())?), Argument::F32(most)];
    let grid = [to_grid("x", x.len().div_ceil(256 * (16 / size_of::<T>())))?, 1, 1];
    Ok(vec![Launch::new(FAMILY, kernel_name!(T, "residual_clamp"), grid, [256, 1, 1], arguments)])
}

/// The launches of the way back through a clamp of x: gradients of values beyond the magnitude become 0.
///
/// # Errors
/// Lengths that differ.
pub fn clamp_backward_launches<'a, T: Float>(
    most: f32,
    x: Buffer<'a, T>,
    gradient: BufferMut<'a, T>,
) -> Result<Vec<Launch<'a>>, ShapeError> {
    expect_len("gradient", gradient.len(), x.len())?;
    if x.is_empty() {
        return Ok(Vec::new());
    }
    let count = Argument::I64(to_i64("x", x.len())?);
    let arguments = vec![x.argument(), gradient.argument(), count, Argument::F32(most)];
    let grid = [to_grid("x", x.len().div_ceil(256 * (16 / size_of::<T>())))?, 1, 1];
    Ok(vec![Launch::new(FAMILY, kernel_name!(T, "residual_clamp_backward"), grid, [256, 1, 1], arguments)])
}

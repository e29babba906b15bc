//! The twin on the CPU, made of the kernels of [`norms`](crate::norms).

use super::{Embedding, EmbeddingBuffers, Lengths, Norm, NormBuffers};
use crate::launch::{ShapeError, expect_len};
use crate::norms;
use crate::workers::Workers;

impl Embedding {
    /// Gathers rows.
    ///
    /// # Errors
    /// Lengths that do not belong together, and ids or places that the tables do not have.
    pub fn forward(&self, buffers: EmbeddingBuffers<&[f32], &[f32], &[i32], &mut [f32]>) -> Result<(), ShapeError> {
        let EmbeddingBuffers { tokens, positions, segment, ids, x } = buffers;
        let lengths = positions.map(|(table, places)| (table.len(), places.len()));
        let (vocabulary, rows) =
            self.table_rows(tokens.len(), lengths, segment.map(<[f32]>::len), ids.len(), x.len())?;
        let find = |name, list: &[i32], index: usize, rows: usize| {
            let found = usize::try_from(list[index]).ok().filter(|&row| row < rows);
            let (allowed, actual) = ("a row of the table", i64::from(list[index]));
            found.ok_or(ShapeError::Value { name, index, allowed, actual })
        };
        for (index, x) in x.chunks_exact_mut(self.width.max(1)).enumerate() {
            let id = find("ids", ids, index, vocabulary)?;
            x.copy_from_slice(&tokens[id * self.width..(id + 1) * self.width]);
            let place =
                positions.map(|(table, places)| Ok((table, find("places", places, index, rows)?))).transpose()?;
            let place = place.map(|(table, place)| &table[place * self.width..(place + 1) * self.width]);
            for other in [segment, place].into_iter().flatten() {
                x.iter_mut().zip(other).for_each(|(x, other)| *x += other);
            }
        }
        Ok(())
    }
}

impl Norm {
    /// Computes the norm.
    ///
    /// # Errors
    /// Lengths that do not belong together.
    pub fn forward(
        &self,
        workers: &dyn Workers,
        buffers: NormBuffers<&[f32], &mut [f32], &mut [f32]>,
    ) -> Result<(), ShapeError> {
        let NormBuffers { x, weight, bias, z, y } = buffers;
        self.rows(&Lengths {
            x: x.map(<[f32]>::len),
            weight: weight.map(<[f32]>::len),
            bias: bias.map(<[f32]>::len),
            z: z.as_deref().map(<[f32]>::len),
            y: y.as_deref().map(<[f32]>::len),
        })?;
        let x = x.or(z.as_deref()).unwrap_or_default();
        let mut values = x.to_vec();
        if let Some(kind) = self.kind {
            let norm = norms::Norm { kind, width: self.width, epsilon: self.epsilon };
            norm.forward(workers, norms::Forward { x, weight, bias, y: &mut values[..] })?;
        } else {
            for values in values.chunks_exact_mut(self.width.max(1)) {
                weight.into_iter().flatten().zip(&mut *values).for_each(|(weight, value)| *value *= weight);
                bias.into_iter().flatten().zip(values).for_each(|(bias, value)| *value += bias);
            }
        }
        if let Some(z) = z {
            if self.add {
                values.iter_mut().zip(&*z).for_each(|(value, z)| *value += z);
            }
            z.copy_from_slice(&values);
        }
        if let Some(y) = y {
            y.copy_from_slice(&values);
        }
        Ok(())
    }
}

/// Keeps values within a magnitude; those that are not numbers stay such.
pub fn clamp(most: f32, x: &mut [f32]) {
    x.iter_mut().for_each(|value| {
        if *value < -most {
            *value = -most;
        } else if *value > most {
            *value = most;
        }
    });
}

/// The way back through [`clamp`] of x: the gradient of a value beyond the magnitude becomes 0.
///
/// # Errors
/// Lengths that differ.
pub fn clamp_backward(most: f32, x: &[f32], gradient: &mut [f32]) -> Result<(), ShapeError> {
    expect_len("gradient", gradient.len(), x.len())?;
    for (gradient, x) in gradient.iter_mut().zip(x) {
        if x.abs() > most {
            *gradient = 0.0;
        }
    }
    Ok(())
}

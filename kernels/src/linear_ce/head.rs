//! The head on the CPU.

use crate::gemm::{GemmError, MatmulOptions, Matrix, MatrixMut, PackedWeights, Precision, Values};
use crate::launch::{ShapeError, expect_len, expect_rows};

/// A head in the order in which the CPU reads it, with its bias. See the [module](super) for an example.
#[derive(Clone, Debug)]
pub struct Head {
    /// `[vocabulary, width]`: what logits are computed with.
    pub(super) weights: PackedWeights,
    /// `[width, vocabulary]`: what the gradient of hidden states is computed with.
    pub(super) transposed: Option<PackedWeights>,
    /// Empty, or padded to whole panels of the packed weights.
    pub(super) bias: Vec<f32>,
}

impl Head {
    /// A head for forward passes: weights `[vocabulary, width]`, bias `[vocabulary]`. It takes vocabulary × width numbers of the
    /// precision, and is good for gradients of the head, too, but not for those of hidden states.
    ///
    /// # Errors
    /// A bias of another length, or weights that are too large to be packed.
    pub fn new(weights: Matrix<'_>, bias: Option<&[f32]>, precision: Precision) -> Result<Self, ShapeError> {
        let vocabulary = weights.layout().rows;
        let mut padded = Vec::new();
        if let Some(bias) = bias {
            expect_len("bias", bias.len(), vocabulary)?;
            padded.extend_from_slice(bias);
            padded.resize(vocabulary.next_multiple_of(PackedWeights::COLUMNS), 0.0);
        }
        let weights = PackedWeights::pack(weights, precision).map_err(shape)?;
        Ok(Self { weights, transposed: None, bias: padded })
    }

    /// A head for forward and all backward passes, which takes twice the memory.
    ///
    /// # Errors
    /// As for [`Head::new`].
    pub fn with_gradients(weights: Matrix<'_>, bias: Option<&[f32]>, precision: Precision) -> Result<Self, ShapeError> {
        let transposed = PackedWeights::pack(weights.transposed(), precision).map_err(shape)?;
        Ok(Self { transposed: Some(transposed), ..Self::new(weights, bias, precision)? })
    }

    /// Logits of hidden states `[rows, width]`, `[rows, vocabulary]`: for a few rows of which all are wanted. They are not scaled.
    ///
    /// # Errors
    /// Lengths that do not belong together.
    pub fn logits(&self, hidden: &[f32], logits: &mut [f32]) -> Result<(), ShapeError> {
        self.logits_on(1, hidden, logits)
    }

    /// The same on at most so many threads.
    ///
    /// # Errors
    /// As of [`Head::logits`].
    pub fn logits_on(&self, threads: usize, hidden: &[f32], logits: &mut [f32]) -> Result<(), ShapeError> {
        let (width, vocabulary) = (self.weights.inputs(), self.weights.outputs());
        let rows = expect_rows("hidden", hidden.len(), width)?;
        expect_len("logits", logits.len(), rows * vocabulary)?;
        let x = Matrix::row_major(Values::F32(hidden), rows, width).map_err(shape)?;
        let y = MatrixMut::row_major(logits, rows, vocabulary).map_err(shape)?;
        self.weights
            .matmul(x, y, &MatmulOptions { bias: self.bias(), threads, ..MatmulOptions::default() })
            .map_err(shape)
    }

    /// The weights, `[vocabulary, width]`.
    pub const fn weights(&self) -> &PackedWeights {
        &self.weights
    }

    /// The bias, `[vocabulary]`, if there is one.
    pub fn bias(&self) -> Option<&[f32]> {
        (!self.bias.is_empty()).then(|| &self.bias[..self.weights.outputs()])
    }

    /// Whether gradients of hidden states can be computed.
    pub(super) fn expect_transposed(&self) -> Result<(), ShapeError> {
        if self.transposed.is_some() {
            return Ok(());
        }
        let allowed = "as long as its weights: a head made with gradients";
        Err(ShapeError::Dimension { name: "transposed weights", allowed, actual: 0 })
    }

    /// Bytes of memory held.
    pub fn memory(&self) -> usize {
        let transposed = self.transposed.as_ref().map_or(0, PackedWeights::memory);
        self.weights.memory() + transposed + size_of_val(self.bias.as_slice())
    }
}

/// A refusal of a product as one of shapes.
pub(super) fn shape(error: GemmError) -> ShapeError {
    match error {
        GemmError::Shape { what, expected, found } => ShapeError::Length { name: what, expected, actual: found },
        GemmError::TooShort { needed, found } => ShapeError::Length { name: "matrix", expected: needed, actual: found },
        _ => ShapeError::Dimension { name: "matrix", allowed: "what memory can hold", actual: usize::MAX },
    }
}

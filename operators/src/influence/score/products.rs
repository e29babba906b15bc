//! Scores as products of vectors: those of rows, transformed, with those of queries.

use gristmill_kernels::gemm::{GemmError, Layout, MatmulOptions, Matrix, MatrixMut, PackedWeights, Precision, Values};

use crate::influence::queries::Aggregation;

/// What vectors become before they are multiplied.
#[derive(Debug, Default)]
pub(super) struct Transform {
    /// Parts that are multiplied with a symmetric matrix.
    pub(super) blocks: Vec<Block>,
    /// Whether vectors get length 1. One of zeros stays as it is.
    pub(super) unit: bool,
}

/// A symmetric matrix for some elements of a vector.
#[derive(Debug)]
pub(super) struct Block {
    offset: usize,
    matrix: PackedWeights,
}

impl Transform {
    /// Multiplies the elements from `offset` on with a symmetric matrix of this size.
    pub(super) fn add_block(&mut self, offset: usize, size: usize, matrix: &[f64]) -> Result<(), GemmError> {
        let matrix: Vec<f32> = matrix.iter().map(|&value| value as f32).collect();
        let matrix = Matrix::row_major(Values::F32(&matrix), size, size)?;
        self.blocks.push(Block { offset, matrix: PackedWeights::pack(matrix, Precision::F32)? });
        Ok(())
    }

    /// Transforms vectors, `[rows, width]`. Each has the same bits whatever the others are.
    pub(super) fn apply(&self, vectors: &mut [f32], width: usize) -> Result<(), GemmError> {
        let rows = vectors.len() / width.max(1);
        let mut product = Vec::new();
        for Block { offset, matrix } in &self.blocks {
            if rows == 0 {
                break;
            }
            let size = matrix.inputs();
            product.resize(rows * size, 0.0);
            let layout = Layout { rows, columns: size, row_stride: width, column_stride: 1 };
            let part = Matrix::strided(Values::F32(&vectors[*offset..]), layout)?;
            matrix.matmul(part, MatrixMut::row_major(&mut product, rows, size)?, &MatmulOptions::default())?;
            for (vector, product) in vectors.chunks_exact_mut(width).zip(product.chunks_exact(size)) {
                vector[*offset..*offset + size].copy_from_slice(product);
            }
        }
        if self.unit {
            for vector in vectors.chunks_exact_mut(width.max(1)) {
                let length = norm(vector);
                if length > 0.0 {
                    vector.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
                }
            }
        }
        Ok(())
    }
}

/// √Σx², summed in double precision.
pub(super) fn norm(vector: &[f32]) -> f64 {
    vector.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt()
}

/// The vectors of queries, and what those of rows become before they are multiplied with them.
#[derive(Debug)]
pub(super) struct Products {
    width: usize,
    transform: Transform,
    queries: PackedWeights,
    aggregation: Aggregation,
}

impl Products {
    /// For vectors of queries, `[queries, width]`, that were transformed already.
    pub(super) fn new(
        queries: Vec<f32>,
        width: usize,
        transform: Transform,
        aggregation: Aggregation,
    ) -> Result<Self, GemmError> {
        let vectors = aggregation.vectors(queries, width);
        let matrix = Matrix::row_major(Values::F32(&vectors), aggregation.products(), width)?;
        Ok(Self { width, transform, queries: PackedWeights::pack(matrix, Precision::F32)?, aggregation })
    }

    /// Elements of a vector.
    pub(super) const fn width(&self) -> usize {
        self.width
    }

    /// How many scores a row has.
    pub(super) fn names(&self) -> usize {
        self.aggregation.names().len()
    }

    /// Scores, `[rows, names]`, of vectors, `[rows, width]`, which are transformed.
    pub(super) fn scores(&self, vectors: &mut [f32]) -> Result<Vec<f32>, GemmError> {
        self.transform.apply(vectors, self.width)?;
        let (rows, queries) = (vectors.len() / self.width.max(1), self.queries.outputs());
        let mut products = vec![0.0; rows * queries];
        let vectors = Matrix::row_major(Values::F32(vectors), rows, self.width)?;
        let to = MatrixMut::row_major(&mut products, rows, queries)?;
        self.queries.matmul(vectors, to, &MatmulOptions::default())?;
        Ok(self.aggregation.of_products(products))
    }
}

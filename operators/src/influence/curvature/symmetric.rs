//! Eigenvectors of symmetric matrices, in double precision.

use faer::linalg::solvers::SelfAdjointEigen;
use faer::{MatRef, Side};

use super::error::{CurvatureError, Result};

/// Eigenvalues and eigenvectors of a symmetric matrix H = Q·diag(λ)·Qᵀ.
///
/// ```
/// use gristmill_operators::influence::curvature::Eigen;
///
/// let eigen = Eigen::of("layer", "a matrix", &[2.0, 1.0, 1.0, 2.0], 2)?;
/// assert!((eigen.values[0] - 1.0).abs() < 1e-12 && (eigen.values[1] - 3.0).abs() < 1e-12);
/// let inverse = eigen.function(|value| 1.0 / value);
/// assert!((inverse[0] - 2.0 / 3.0).abs() < 1e-12 && (inverse[1] + 1.0 / 3.0).abs() < 1e-12);
/// # Ok::<(), gristmill_operators::influence::curvature::CurvatureError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Eigen {
    /// Eigenvalues, from the least to the largest.
    pub values: Vec<f64>,
    /// Eigenvectors as columns, `[n, n]` row by row.
    pub vectors: Vec<f64>,
}

impl Eigen {
    /// Of an n × n matrix, of which the lower triangle is read. The names of the layer and of the matrix are for messages.
    ///
    /// # Errors
    /// Another number of elements, elements that are not finite numbers, and an iteration that does not converge.
    pub fn of(module: &str, what: &str, matrix: &[f64], n: usize) -> Result<Self> {
        expect_finite(module, what, matrix, n, n)?;
        if n == 0 {
            return Ok(Self { values: Vec::new(), vectors: Vec::new() });
        }
        let failed = |_| CurvatureError::NoConvergence { module: module.to_owned(), what: what.to_owned() };
        let found = SelfAdjointEigen::new(MatRef::from_row_major_slice(matrix, n, n), Side::Lower).map_err(failed)?;
        let values = found.S().column_vector().iter().copied().collect();
        let mut vectors = vec![0.0; n * n];
        for (column, vector) in found.U().col_iter().enumerate() {
            vector.iter().enumerate().for_each(|(row, &value)| vectors[row * n + column] = value);
        }
        let eigen = Self { values, vectors };
        expect_finite(module, what, &eigen.values, 1, n)?;
        Ok(eigen)
    }

    /// The mean of the eigenvalues.
    pub fn mean(&self) -> f64 {
        mean(&self.values)
    }

    /// Q·diag(f(λ))·Qᵀ, `[n, n]`.
    pub fn function(&self, f: impl Fn(f64) -> f64) -> Vec<f64> {
        self.with(&self.values.iter().map(|&value| f(value)).collect::<Vec<_>>())
    }

    /// Q·diag(values)·Qᵀ, `[n, n]`.
    pub fn with(&self, values: &[f64]) -> Vec<f64> {
        let n = self.values.len();
        let scaled: Vec<f64> = self.vectors.chunks_exact(n.max(1)).flat_map(|row| times(row, values)).collect();
        let right = MatRef::from_row_major_slice(&self.vectors, n, n);
        let product = MatRef::from_row_major_slice(&scaled, n, n) * right.transpose();
        let mut result = vec![0.0; n * n];
        for (column, values) in product.col_iter().enumerate() {
            values.iter().enumerate().for_each(|(row, &value)| result[row * n + column] = value);
        }
        result
    }
}

fn times<'a>(row: &'a [f64], values: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
    row.iter().zip(values).map(|(vector, value)| vector * value)
}

/// The mean of some numbers, 0 of none.
pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Refuses a matrix of another size, and elements that are not finite numbers.
pub(super) fn expect_finite(module: &str, what: &str, matrix: &[f64], rows: usize, columns: usize) -> Result<()> {
    let (module, what) = (|| module.to_owned(), || what.to_owned());
    if matrix.len() != rows * columns {
        let found = [matrix.len() / columns.max(1), columns];
        return Err(CurvatureError::Shape { module: module(), what: what(), found, expected: [rows, columns] });
    }
    match matrix.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(place) => {
            let (row, column, value) = (place / columns.max(1), place % columns.max(1), matrix[place]);
            Err(CurvatureError::NotFinite { module: module(), what: what(), row, column, value })
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Numbers between -1 and 1 that look random.
    fn noise(count: usize) -> Vec<f64> {
        (0..count)
            .map(|i| ((i as f64 + 1.0) * 12.9898).sin() * 43758.5453)
            .map(|x| (x - x.floor()) * 2.0 - 1.0)
            .collect()
    }

    #[test]
    fn matrices_are_put_together_again() {
        for n in [1, 2, 7, 40] {
            let root = noise(n * n);
            let mut matrix = vec![0.0; n * n];
            for i in 0..n {
                for j in 0..n {
                    matrix[i * n + j] = (0..n).map(|k| root[i * n + k] * root[j * n + k]).sum();
                }
            }
            let eigen = Eigen::of("m", "H", &matrix, n).unwrap();
            assert!(eigen.values.is_sorted());
            let again = eigen.function(|value| value);
            assert!(matrix.iter().zip(&again).all(|(a, b)| (a - b).abs() < 1e-10 * n as f64), "{n}");
            let trace: f64 = (0..n).map(|i| matrix[i * n + i]).sum();
            assert!((trace / n as f64 - eigen.mean()).abs() < 1e-10 * n as f64);
        }
        assert!(Eigen::of("m", "H", &[], 0).unwrap().values.is_empty());
    }

    #[test]
    fn what_is_no_matrix_is_named() {
        let message =
            Eigen::of("layers.3.up", "the Gram matrix", &[1.0, 0.0, f64::NAN, 1.0], 2).unwrap_err().to_string();
        assert!(message.contains("layers.3.up") && message.contains("Gram") && message.contains("row 1"), "{message}");
        let message = Eigen::of("m", "H", &[1.0; 3], 2).unwrap_err().to_string();
        assert!(message.contains("[2, 2]"), "{message}");
    }
}

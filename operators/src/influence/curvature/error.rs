//! What can be wrong with statistics of gradients and what is made of them.

use crate::models::ModelError;

/// Statistics that cannot be used, or a computation with them that fails. Every variant names the layer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CurvatureError {
    /// A matrix with elements that are infinite or not numbers.
    #[error("{what} of layer '{module}' has {value} at row {row}, column {column}; a finite number is expected")]
    NotFinite {
        /// The layer.
        module: String,
        /// Which matrix.
        what: String,
        /// The row of the element.
        row: usize,
        /// Its column.
        column: usize,
        /// Its value.
        value: f64,
    },
    /// Eigenvalues that were not found.
    #[error("the eigenvalues of {what} of layer '{module}' were not found: the iteration did not converge")]
    NoConvergence {
        /// The layer.
        module: String,
        /// Which matrix.
        what: String,
    },
    /// A matrix of another size.
    #[error("{what} of layer '{module}' is {found:?}, and {expected:?} is expected")]
    Shape {
        /// The layer.
        module: String,
        /// Which matrix.
        what: String,
        /// Its rows and columns.
        found: [usize; 2],
        /// What they must be.
        expected: [usize; 2],
    },
    /// A layer without a statistic.
    #[error("there is no {what} of layer '{module}'; there are: {}", .available.join(", "))]
    Missing {
        /// The layer.
        module: String,
        /// Which statistic.
        what: String,
        /// What there is: of the layer, or layers that have the statistic.
        available: Vec<String>,
    },
    /// A statistic of nothing.
    #[error("{what} of layer '{module}' was learned from no document")]
    Empty {
        /// The layer.
        module: String,
        /// Which statistic.
        what: String,
    },
    /// An eigenvalue that cannot be inverted.
    #[error(
        "an eigenvalue of layer '{module}' is {value} after damping, and has no finite inverse; damping must be above 0"
    )]
    Singular {
        /// The layer.
        module: String,
        /// The eigenvalue.
        value: f64,
    },
    /// A damping that means nothing.
    #[error("the factor of damping is {value}; a finite number from 0 on is allowed")]
    Damping {
        /// Its value.
        value: f64,
    },
    /// Statistics that were made with something else.
    #[error("{}", .0)]
    Origin(String),
    /// What the model or a product reports.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A scorer without queries.
    #[error("there are no queries")]
    NoQueries,
}

impl From<CurvatureError> for ModelError {
    fn from(error: CurvatureError) -> Self {
        match error {
            CurvatureError::Model(error) => error,
            other => Self::Tap(Box::new(other)),
        }
    }
}

/// The result of something done with statistics.
pub type Result<T, E = CurvatureError> = std::result::Result<T, E>;

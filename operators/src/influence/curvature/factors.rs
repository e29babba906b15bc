//! What was learned of the gradients of a corpus, by layer and statistic.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::error::{CurvatureError, Result};
use super::layer::Layer;
use super::symmetric::{Eigen, expect_finite};

/// A statistic of a layer. x is what the layer reads (with a 1 behind it where the gradient of the bias counts), δ the gradient of what it gives, of each token,
/// and g = Σ δ xᵀ the gradient of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Statistic {
    /// A: sum of x·xᵀ over tokens, `[columns, columns]`.
    ActivationCovariance,
    /// S: sum of δ·δᵀ over tokens, `[outputs, outputs]`.
    GradientCovariance,
    /// Eigenvalues of the mean of x·xᵀ, `[1, columns]`, from the least on.
    ActivationEigenvalues,
    /// Their eigenvectors as columns, Q_A, `[columns, columns]`.
    ActivationEigenvectors,
    /// Eigenvalues of the mean of δ·δᵀ, `[1, outputs]`, from the least on.
    GradientEigenvalues,
    /// Their eigenvectors as columns, Q_S, `[outputs, outputs]`.
    GradientEigenvectors,
    /// Λ: sum of (Q_Sᵀ g Q_A)², element by element, over documents, `[outputs, columns]`.
    Lambda,
    /// Sum of g², element by element, over documents, `[outputs, columns]`.
    SecondMoment,
    /// Sum over documents of the mean of g² of each row, `[1, outputs]`.
    RowSecondMoment,
    /// Sum over documents of the mean of g² of each column, `[1, columns]`.
    ColumnSecondMoment,
    /// H: sum of vec(P)·vec(P)ᵀ over documents, where P is the projected gradient, `[p², p²]`.
    Gram,
    /// Sum of vec(P)·vec(P)ᵀ / (λ + ‖P‖²) over documents, `[p², p²]`.
    NormalizedGram,
}

impl Statistic {
    /// Its name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ActivationCovariance => "activation_covariance",
            Self::GradientCovariance => "gradient_covariance",
            Self::ActivationEigenvalues => "activation_eigenvalues",
            Self::ActivationEigenvectors => "activation_eigenvectors",
            Self::GradientEigenvalues => "gradient_eigenvalues",
            Self::GradientEigenvectors => "gradient_eigenvectors",
            Self::Lambda => "lambda",
            Self::SecondMoment => "second_moment",
            Self::RowSecondMoment => "row_second_moment",
            Self::ColumnSecondMoment => "column_second_moment",
            Self::Gram => "gram",
            Self::NormalizedGram => "normalized_gram",
        }
    }

    /// The statistic of a name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|statistic| statistic.name() == name)
    }

    const ALL: [Self; 12] = [
        Self::ActivationCovariance,
        Self::GradientCovariance,
        Self::ActivationEigenvalues,
        Self::ActivationEigenvectors,
        Self::GradientEigenvalues,
        Self::GradientEigenvectors,
        Self::Lambda,
        Self::SecondMoment,
        Self::RowSecondMoment,
        Self::ColumnSecondMoment,
        Self::Gram,
        Self::NormalizedGram,
    ];

    /// Whether it is a sum that those of other documents can be added to.
    pub const fn is_sum(self) -> bool {
        !matches!(
            self,
            Self::ActivationEigenvalues
                | Self::ActivationEigenvectors
                | Self::GradientEigenvalues
                | Self::GradientEigenvectors
        )
    }
}

impl fmt::Display for Statistic {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A statistic of a layer with its values.
#[derive(Clone, Debug, PartialEq)]
pub struct Factor {
    /// The layer.
    pub module: String,
    /// Which statistic.
    pub statistic: Statistic,
    /// Rows of the values.
    pub rows: usize,
    /// Columns of the values.
    pub columns: usize,
    /// Whether the last column of the layer's gradient is that of its bias.
    pub bias: bool,
    /// How many tokens (covariances) or documents (the others) it is a sum over, or a mean of.
    pub count: u64,
    /// Row by row.
    pub values: Vec<f64>,
}

impl Factor {
    /// A statistic of a layer.
    pub(super) fn new(
        layer: &Layer,
        statistic: Statistic,
        count: u64,
        [rows, columns]: [usize; 2],
        values: Vec<f64>,
    ) -> Self {
        Self { module: layer.name.clone(), statistic, rows, columns, bias: layer.bias, count, values }
    }

    /// A sum's values over its count.
    ///
    /// # Errors
    /// A sum over nothing, and values that are not finite.
    pub fn mean(&self) -> Result<Vec<f64>> {
        let (module, what) = (self.module.as_str(), self.statistic.name());
        if self.count == 0 {
            return Err(CurvatureError::Empty { module: module.to_owned(), what: what.to_owned() });
        }
        expect_finite(module, what, &self.values, self.rows, self.columns)?;
        Ok(self.values.iter().map(|value| value / self.count as f64).collect())
    }

    /// Adds the sum of other documents.
    ///
    /// # Errors
    /// Another size.
    pub fn add(&mut self, other: &Self) -> Result<()> {
        let (found, expected) = ([other.rows, other.columns], [self.rows, self.columns]);
        if found != expected || other.values.len() != self.values.len() {
            let (module, what) = (self.module.clone(), self.statistic.name().to_owned());
            return Err(CurvatureError::Shape { module, what, found, expected });
        }
        self.count += other.count;
        self.values.iter_mut().zip(&other.values).for_each(|(sum, value)| *sum += value);
        Ok(())
    }
}

/// Statistics of the layers of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Factors {
    factors: Vec<Factor>,
}

impl FromIterator<Factor> for Factors {
    fn from_iter<I: IntoIterator<Item = Factor>>(factors: I) -> Self {
        Self { factors: factors.into_iter().collect() }
    }
}

impl IntoIterator for Factors {
    type Item = Factor;
    type IntoIter = std::vec::IntoIter<Factor>;

    fn into_iter(self) -> Self::IntoIter {
        self.factors.into_iter()
    }
}

impl Factors {
    /// All, in the order of layers.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Factor> {
        self.factors.iter()
    }

    /// A statistic of a layer.
    ///
    /// # Errors
    /// The names of the layers that have the statistic, where this one has not.
    pub fn get(&self, module: &str, statistic: Statistic) -> Result<&Factor> {
        let found = self.iter().find(|factor| factor.module == module && factor.statistic == statistic);
        found.ok_or_else(|| {
            let mut available: Vec<String> = self
                .iter()
                .filter(|factor| factor.statistic == statistic)
                .map(|factor| factor.module.clone())
                .collect();
            if available.is_empty() {
                available = self.iter().map(|factor| format!("{} of {}", factor.statistic, factor.module)).collect();
            }
            available.dedup();
            if available.len() > 8 {
                let more = available.len() - 8;
                available.truncate(8);
                available.push(format!("and {more} more"));
            }
            CurvatureError::Missing { module: module.to_owned(), what: statistic.name().to_owned(), available }
        })
    }

    /// Adds sums over other documents: those of the same layer and statistic are added up, others are put behind.
    ///
    /// # Errors
    /// Statistics of other sizes, and statistics that are no sums.
    pub fn add(&mut self, other: Self) -> Result<()> {
        other.factors.into_iter().try_for_each(|factor| self.add_factor(factor))
    }

    pub(super) fn add_factor(&mut self, factor: Factor) -> Result<()> {
        let same = |sum: &&mut Factor| sum.module == factor.module && sum.statistic == factor.statistic;
        match self.factors.iter_mut().find(same) {
            Some(sum) if factor.statistic.is_sum() => sum.add(&factor),
            Some(_) => Err(CurvatureError::Origin(format!(
                "the {} of layer '{}' are given twice; sums can be added up, and these are none",
                factor.statistic, factor.module
            ))),
            None => {
                self.factors.push(factor);
                Ok(())
            }
        }
    }

    /// Adds eigenvalues and eigenvectors behind the covariances of each layer, where they are not there yet.
    ///
    /// # Errors
    /// Covariances that are not finite or of no token, and an iteration that does not converge.
    pub fn with_eigenvectors(self) -> Result<Self> {
        let mut factors = Vec::with_capacity(self.factors.len());
        for factor in self.factors {
            let (values, vectors) = match factor.statistic {
                Statistic::ActivationCovariance => {
                    (Statistic::ActivationEigenvalues, Statistic::ActivationEigenvectors)
                }
                Statistic::GradientCovariance => (Statistic::GradientEigenvalues, Statistic::GradientEigenvectors),
                statistic if statistic.is_sum() => {
                    factors.push(factor);
                    continue;
                }
                // Made anew from the covariances.
                _ => continue,
            };
            let n = factor.rows;
            let eigen = Eigen::of(&factor.module, factor.statistic.name(), &factor.mean()?, n)?;
            let of = |statistic, rows, values| Factor {
                statistic,
                rows,
                columns: n,
                values,
                module: factor.module.clone(),
                ..factor
            };
            let (eigenvalues, eigenvectors) = (of(values, 1, eigen.values), of(vectors, n, eigen.vectors));
            factors.extend([factor, eigenvalues, eigenvectors]);
        }
        Ok(Self { factors })
    }

    /// Eigenvalues and eigenvectors of A or S of a layer.
    pub(super) fn eigen(&self, module: &str, covariance: Statistic, n: usize) -> Result<Eigen> {
        let (values, vectors) = match covariance {
            Statistic::GradientCovariance => (Statistic::GradientEigenvalues, Statistic::GradientEigenvectors),
            _ => (Statistic::ActivationEigenvalues, Statistic::ActivationEigenvectors),
        };
        let known = self.iter().any(|factor| factor.module == module && factor.statistic == vectors);
        if !known {
            let covariance = self.get(module, covariance)?;
            expect_shape(covariance, [n, n])?;
            return Eigen::of(module, covariance.statistic.name(), &covariance.mean()?, n);
        }
        let (values, vectors) = (self.get(module, values)?, self.get(module, vectors)?);
        expect_shape(values, [1, n])?;
        expect_shape(vectors, [n, n])?;
        Ok(Eigen { values: values.values.clone(), vectors: vectors.values.clone() })
    }
}

/// Refuses a statistic of another size, and values that are not finite.
pub(super) fn expect_shape(factor: &Factor, expected: [usize; 2]) -> Result<()> {
    let found = [factor.rows, factor.columns];
    if found != expected {
        let (module, what) = (factor.module.clone(), factor.statistic.name().to_owned());
        return Err(CurvatureError::Shape { module, what, found, expected });
    }
    expect_finite(&factor.module, factor.statistic.name(), &factor.values, expected[0], expected[1])
}

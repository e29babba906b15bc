//! How eigenvalues are inverted.
//!
//! The rules are those of bergson 2.5 (`hessians/inversion.py`); those of kronfluence are two of them. With c the factor and λ̄ the mean of all
//! eigenvalues of a layer:
//!
//! | rule | what an eigenvalue λ is multiplied with |
//! |---|---|
//! | `damped_inverse` | 1 / (λ + c λ̄) |
//! | `absolute_damped_inverse` | 1 / (λ + c) |
//! | `tikhonov_filtered` | λ / (λ² + (c λ̄)²) |
//! | `pseudoinverse` | 1 / λ where λ > c λ̄, and 0 elsewhere |
//! | `factored_tikhonov` | 1 / (λ + π √(c λ̄) λ_S + √(c λ̄) / π λ_A + c λ̄), with π = √(λ̄_A / λ̄_S) (Martens and Grosse, 2015); without factors as `damped_inverse` |

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::{CurvatureError, Result};
use super::symmetric::mean;

/// How eigenvalues are inverted: see the [module](super) `curvature`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Inversion {
    /// 1 / (λ + c λ̄).
    #[default]
    DampedInverse,
    /// 1 / (λ + c).
    AbsoluteDampedInverse,
    /// λ / (λ² + (c λ̄)²).
    TikhonovFiltered,
    /// 1 / λ where λ > c λ̄, and 0 elsewhere.
    Pseudoinverse,
    /// Damping that is split between the two factors of K-FAC.
    FactoredTikhonov,
}

/// A rule and its factor c.
///
/// ```
/// use gristmill_operators::influence::curvature::{Damping, Inversion};
///
/// // kronfluence without a damping factor, and with one of 1e-8.
/// assert_eq!(Damping::default(), Damping { inversion: Inversion::DampedInverse, factor: 0.1 });
/// let fixed = Damping { inversion: Inversion::AbsoluteDampedInverse, factor: 1e-8 };
/// assert_eq!(fixed.multipliers("layer", &[1.0, 3.0])?, [1.0 / (1.0 + 1e-8), 1.0 / (3.0 + 1e-8)]);
/// # Ok::<(), gristmill_operators::influence::curvature::CurvatureError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Damping {
    /// The rule.
    #[serde(default)]
    pub inversion: Inversion,
    /// c, from 0 on.
    #[serde(default = "usual")]
    pub factor: f64,
}

const fn usual() -> f64 {
    0.1
}

impl Default for Damping {
    fn default() -> Self {
        Self { inversion: Inversion::default(), factor: usual() }
    }
}

/// Eigenvalues of the two factors of K-FAC.
#[derive(Clone, Copy, Debug)]
pub(super) struct FactorValues<'a> {
    /// Of S, `[outputs]`.
    pub(super) gradients: &'a [f64],
    /// Of A, `[columns]`.
    pub(super) activations: &'a [f64],
}

impl Damping {
    /// What each eigenvalue of a layer is multiplied with. Eigenvalues below 0, which rounding makes of 0, are taken as 0.
    ///
    /// # Errors
    /// A factor that is negative or not finite, and an inverse that is not finite.
    pub fn multipliers(&self, module: &str, eigenvalues: &[f64]) -> Result<Vec<f64>> {
        self.of_grid(module, eigenvalues, None)
    }

    /// The same of eigenvalues `[outputs, columns]` in the basis of two factors.
    pub(super) fn of_grid(
        &self,
        module: &str,
        eigenvalues: &[f64],
        factors: Option<FactorValues<'_>>,
    ) -> Result<Vec<f64>> {
        self.check()?;
        let eigenvalues: Vec<f64> = eigenvalues.iter().map(|&value| value.max(0.0)).collect();
        let damping = match self.inversion {
            Inversion::AbsoluteDampedInverse => self.factor,
            _ => self.factor * mean(&eigenvalues),
        };
        let split = factors.filter(|_| self.inversion == Inversion::FactoredTikhonov);
        let balanced = split.map(|FactorValues { gradients, activations }| balance(mean(activations), mean(gradients)));
        let multiplier = |(place, &value): (usize, &f64)| match (self.inversion, split) {
            (Inversion::TikhonovFiltered, _) => value / (value * value + damping * damping),
            (Inversion::Pseudoinverse, _) if value > damping => 1.0 / value,
            (Inversion::Pseudoinverse, _) => 0.0,
            (_, None) => 1.0 / (value + damping),
            (_, Some(FactorValues { gradients, activations })) => {
                let (pi, root) = (balanced.unwrap_or(1.0), damping.sqrt());
                let (row, column) = (place / activations.len(), place % activations.len());
                let (of_gradients, of_activations) = (gradients[row].max(0.0), activations[column].max(0.0));
                1.0 / (value + pi * root * of_gradients + root / pi * of_activations + damping)
            }
        };
        let multipliers: Vec<f64> = eigenvalues.iter().enumerate().map(multiplier).collect();
        match multipliers.iter().position(|value| !value.is_finite()) {
            None => Ok(multipliers),
            Some(place) => Err(CurvatureError::Singular { module: module.to_owned(), value: eigenvalues[place] }),
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.factor.is_finite() && self.factor >= 0.0 {
            return Ok(());
        }
        Err(CurvatureError::Damping { value: self.factor })
    }
}

/// π = √(λ̄_A / λ̄_S), which splits damping between the factors.
pub(super) fn balance(activations: f64, gradients: f64) -> f64 {
    (activations / gradients.max(f64::MIN_POSITIVE)).max(f64::MIN_POSITIVE).sqrt()
}

//! K-FAC as matrices that both sides of a projection are multiplied with.

use super::damping::{Damping, balance};
use super::error::Result;
use super::factors::Factors;
use super::layer::Layer;
use super::precondition::eigenvectors;

/// (S + √d / π)^-½ and (A + π √d)^-½ of a layer.
///
/// Since ⟨g₁, (S ⊗ A)⁻¹ g₂⟩ = ⟨S^-½ g₁ A^-½, S^-½ g₂ A^-½⟩, a projection L g Rᵀ with L·S^-½ and R·A^-½ in the places of L and R has K-FAC in it on both
/// sides of a dot product, at no cost for each token.
#[derive(Clone, Debug, PartialEq)]
pub struct KfacSides {
    /// For the outputs, `[outputs, outputs]`.
    pub left: Vec<f64>,
    /// For the inputs, `[columns, columns]`.
    pub right: Vec<f64>,
}

impl KfacSides {
    /// Of a layer. Damping d is c·λ̄, with λ̄ the mean of all products of eigenvalues, split by π = √(λ̄_A / λ̄_S): what `factored_tikhonov` of
    /// [`Inversion`](super::Inversion) does. A sum over two factors cannot be damped otherwise, so that the rule of `damping` is not looked at.
    ///
    /// # Errors
    /// A layer without covariances of this size, covariances of no token or that are not finite, and eigenvalues that cannot be inverted.
    pub fn of(factors: &Factors, layer: &Layer, factor: f64) -> Result<Self> {
        let damping = Damping { factor, ..Damping::default() };
        damping.check()?;
        let (gradients, activations) = eigenvectors(factors, layer)?;
        let (of_gradients, of_activations) = (gradients.mean(), activations.mean());
        let (root, pi) =
            ((factor * of_gradients * of_activations).max(0.0).sqrt(), balance(of_activations, of_gradients));
        let absolute = |factor| Damping { inversion: super::Inversion::AbsoluteDampedInverse, factor };
        let side = |eigen: &super::Eigen, damping: f64| -> Result<Vec<f64>> {
            let multipliers = absolute(damping).multipliers(&layer.name, &eigen.values)?;
            Ok(eigen.with(&multipliers.iter().map(|value| value.sqrt()).collect::<Vec<_>>()))
        };
        Ok(Self { left: side(&gradients, root / pi)?, right: side(&activations, root * pi)? })
    }
}

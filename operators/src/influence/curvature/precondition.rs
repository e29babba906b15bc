//! What the gradients of queries are multiplied with: an inverse of the curvature of the loss, in one of four approximations of it.

use super::damping::{Damping, FactorValues};
use super::error::Result;
use super::factors::{Factors, Statistic, expect_shape};
use super::layer::Layer;
use super::queries::QueryGradients;
use super::rotation::{Rotation, Scratch};
use super::symmetric::Eigen;
use crate::models::Compute;

/// How curvature is approximated, layer by layer.
#[derive(Clone, Copy, Debug)]
pub enum Curvature<'f> {
    /// As the identity: scores are dot products of gradients.
    Identity,
    /// By its diagonal, the mean of g²: [`Statistic::SecondMoment`].
    Diagonal(&'f Factors),
    /// As the Kronecker product of S and A: [`Statistic::GradientCovariance`] and [`Statistic::ActivationCovariance`], or what `with_eigenvectors` adds
    /// to them.
    Kfac(&'f Factors),
    /// The same with eigenvalues that were learned in its basis: [`Statistic::Lambda`].
    Ekfac {
        /// The covariances.
        kfac: &'f Factors,
        /// Λ, learned with the same covariances.
        lambda: &'f Factors,
    },
}

impl Curvature<'_> {
    /// Multiplies the gradients of queries with the damped inverse:
    ///
    /// | curvature | gradient of a layer becomes |
    /// |---|---|
    /// | identity | g |
    /// | diagonal | m ⊙ g |
    /// | K-FAC, EK-FAC | Q_S (m ⊙ (Q_Sᵀ g Q_A)) Q_Aᵀ |
    ///
    /// where m is what [`Damping`] makes of E\[g²\], of the products λ_S λ_A, or of Λ, in double precision. Products with eigenvectors are in single
    /// precision.
    ///
    /// # Errors
    /// Layers without statistics or with some of another size, statistics of no document or that are not finite, and eigenvalues that cannot be inverted.
    pub fn precondition(&self, compute: Compute<'_>, damping: Damping, queries: &mut QueryGradients) -> Result<()> {
        damping.check()?;
        let (mut scratch, mut turned) = (Scratch::default(), Vec::new());
        for module in queries.modules_mut() {
            let Some(inverse) = Inverse::of(self, damping, &module.layer)? else { continue };
            let elements = module.layer.elements().max(1);
            for gradient in module.values.chunks_exact_mut(elements) {
                let Some(rotation) = &inverse.rotation else {
                    multiply(gradient, &inverse.multipliers);
                    continue;
                };
                turned.resize(elements, 0.0);
                rotation.turn(compute, gradient, &mut scratch, &mut turned)?;
                multiply(&mut turned, &inverse.multipliers);
                rotation.turn_back(compute, &turned, &mut scratch, gradient)?;
            }
        }
        Ok(())
    }
}

/// The inverse of a layer's curvature.
struct Inverse {
    rotation: Option<Rotation>,
    /// `[outputs, columns]`.
    multipliers: Vec<f32>,
}

impl Inverse {
    /// `None` for the identity.
    fn of(curvature: &Curvature<'_>, damping: Damping, layer: &Layer) -> Result<Option<Self>> {
        let name = layer.name.as_str();
        let shape = [layer.outputs, layer.columns];
        let mean = |factors: &Factors, statistic| {
            let factor = factors.get(name, statistic)?;
            expect_shape(factor, shape)?;
            factor.mean()
        };
        let (eigen, eigenvalues) = match *curvature {
            Curvature::Identity => return Ok(None),
            Curvature::Diagonal(factors) => (None, mean(factors, Statistic::SecondMoment)?),
            Curvature::Kfac(factors) => {
                let (gradients, activations) = eigenvectors(factors, layer)?;
                let products =
                    gradients.values.iter().flat_map(|row| activations.values.iter().map(move |value| row * value));
                let products = products.collect();
                (Some((gradients, activations)), products)
            }
            Curvature::Ekfac { kfac, lambda } => (Some(eigenvectors(kfac, layer)?), mean(lambda, Statistic::Lambda)?),
        };
        let values = eigen.as_ref().map(|(gradients, activations)| FactorValues {
            gradients: &gradients.values,
            activations: &activations.values,
        });
        let multipliers = damping.of_grid(name, &eigenvalues, values)?.into_iter().map(|value| value as f32).collect();
        let rotation = eigen.map(|(gradients, activations)| Rotation::new(layer, &gradients, &activations));
        Ok(Some(Self { rotation: rotation.transpose()?, multipliers }))
    }
}

/// Of S and of A.
pub(super) fn eigenvectors(factors: &Factors, layer: &Layer) -> Result<(Eigen, Eigen)> {
    let gradients = factors.eigen(&layer.name, Statistic::GradientCovariance, layer.outputs)?;
    let activations = factors.eigen(&layer.name, Statistic::ActivationCovariance, layer.columns)?;
    Ok((gradients, activations))
}

fn multiply(values: &mut [f32], multipliers: &[f32]) {
    values.iter_mut().zip(multipliers).for_each(|(value, multiplier)| *value *= multiplier);
}

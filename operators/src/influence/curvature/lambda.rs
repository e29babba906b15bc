//! Eigenvalues that are corrected in the basis of K-FAC: those of EK-FAC (George and others, *Fast approximate natural gradient descent in a Kronecker-factored
//! eigenbasis*, 2018; Grosse and others, *Studying large language model generalization with influence functions*, 2023).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::factors::{Factor, Factors, Statistic};
use super::layer::{Layer, Layers};
use super::rotation::{Rotation, Scratch};
use crate::models::gradients::{Gradient, Tap};
use crate::models::{Compute, ModelError, Parameter};

/// Λ = Σ (Q_Sᵀ g Q_A)², element by element, over documents with gradients g.
///
/// The gradient of a document is turned in single precision; squares are added up in double precision, document after document.
#[derive(Debug)]
pub struct Lambdas {
    layers: Layers,
    rotations: Arc<Rotations>,
    /// By the index of the parameter.
    sums: BTreeMap<usize, Sums>,
    scratch: Scratch,
    turned: Vec<f32>,
}

#[derive(Debug)]
struct Sums {
    layer: Layer,
    rotation: Arc<Rotation>,
    documents: u64,
    squares: Vec<f64>,
}

impl Lambdas {
    /// Of these layers, whose covariances, or the eigenvectors of these, must be among the factors.
    pub fn new(layers: Layers, factors: Arc<Factors>) -> Self {
        Self::sharing(layers, Arc::new(Rotations::new(factors)))
    }

    /// The same with eigenvectors that others read, too.
    pub(crate) fn sharing(layers: Layers, rotations: Arc<Rotations>) -> Self {
        Self { layers, rotations, sums: BTreeMap::new(), scratch: Scratch::default(), turned: Vec::new() }
    }

    /// The sums, in the order of the model's parameters.
    pub fn into_factors(self) -> Factors {
        let each = self.sums.into_values().map(|Sums { layer, documents, squares, .. }| {
            Factor::new(&layer, Statistic::Lambda, documents, [layer.outputs, layer.columns], squares)
        });
        each.collect()
    }
}

/// Eigenvectors by layer, made when they are first asked for and shared from there on: they are as large as the covariances.
#[derive(Debug)]
pub(crate) struct Rotations {
    factors: Arc<Factors>,
    made: Mutex<BTreeMap<String, Arc<Rotation>>>,
}

impl Rotations {
    pub(crate) const fn new(factors: Arc<Factors>) -> Self {
        Self { factors, made: Mutex::new(BTreeMap::new()) }
    }

    fn of(&self, layer: &Layer) -> super::error::Result<Arc<Rotation>> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rotation) = made.get(&layer.name) {
            return Ok(Arc::clone(rotation));
        }
        let eigen = |covariance, n| self.factors.eigen(&layer.name, covariance, n);
        let gradients = eigen(Statistic::GradientCovariance, layer.outputs)?;
        let activations = eigen(Statistic::ActivationCovariance, layer.columns)?;
        let rotation = Arc::new(Rotation::new(layer, &gradients, &activations)?);
        made.insert(layer.name.clone(), Arc::clone(&rotation));
        Ok(rotation)
    }
}

impl Tap for Lambdas {
    fn wants(&self, parameter: &Parameter) -> bool {
        self.layers.take(parameter)
    }

    fn take(&mut self, compute: Compute<'_>, gradient: &Gradient<'_>) -> Result<(), ModelError> {
        let Some(rows) = self.layers.rows(gradient) else { return Ok(()) };
        if !self.sums.contains_key(&rows.index) {
            let layer = rows.layer.clone();
            let rotation = self.rotations.of(&layer)?;
            let squares = vec![0.0; layer.elements()];
            self.sums.insert(rows.index, Sums { layer, rotation, documents: 0, squares });
        }
        let Some(sums) = self.sums.get_mut(&rows.index) else { return Ok(()) };
        for document in 0..rows.documents() {
            sums.rotation.document(compute, &rows, document, &mut self.scratch, &mut self.turned)?;
            sums.documents += 1;
            sums.squares.iter_mut().zip(&self.turned).for_each(|(sum, &value)| *sum += f64::from(value).powi(2));
        }
        Ok(())
    }
}

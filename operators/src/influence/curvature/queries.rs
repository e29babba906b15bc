//! The gradients of queries, whole.

use std::collections::BTreeMap;

use super::layer::{Layer, Layers};
use crate::models::gradients::{Gradient, Tap};
use crate::models::{Compute, ModelError, Parameter};

/// The gradient of each query by each layer, as a matrix.
///
/// As a [`Tap`] it puts the documents of each batch behind those that it has. Memory is 4 bytes for each query and parameter.
#[derive(Clone, Debug)]
pub struct QueryGradients {
    layers: Layers,
    count: usize,
    /// By the index of the parameter.
    modules: BTreeMap<usize, ModuleGradients>,
    gradient: Vec<f32>,
}

/// Gradients of queries by one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct ModuleGradients {
    /// The layer.
    pub layer: Layer,
    /// `[queries, outputs, columns]`.
    pub values: Vec<f32>,
}

impl QueryGradients {
    /// None yet, of these layers.
    pub const fn new(layers: Layers) -> Self {
        Self { layers, count: 0, modules: BTreeMap::new(), gradient: Vec::new() }
    }

    /// The layers.
    pub const fn layers(&self) -> &Layers {
        &self.layers
    }

    /// How many queries there are.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// The gradients by each layer, in the order of the model's parameters.
    pub fn modules(&self) -> impl ExactSizeIterator<Item = &ModuleGradients> {
        self.modules.values()
    }

    /// The layers, how many queries there are, and the gradients by the index of the parameter: each can be dropped when it was used.
    pub(super) fn into_parts(self) -> (Layers, usize, BTreeMap<usize, ModuleGradients>) {
        (self.layers, self.count, self.modules)
    }

    pub(super) fn modules_mut(&mut self) -> impl ExactSizeIterator<Item = &mut ModuleGradients> {
        self.modules.values_mut()
    }

    /// Sums of queries with weights: for each new query the old ones that it is made of, and what each counts. Sums are in double precision.
    ///
    /// ```no_run
    /// # fn mean(queries: &gristmill_operators::influence::curvature::QueryGradients) {
    /// let share = 1.0 / queries.count() as f64;
    /// let mean = queries.combined(&[(0..queries.count()).map(|query| (query, share)).collect()]);
    /// # }
    /// ```
    ///
    /// # Panics
    /// Where there is no such query.
    #[must_use]
    pub fn combined(&self, sums: &[Vec<(usize, f64)>]) -> Self {
        let combine = |module: &ModuleGradients| {
            let elements = module.layer.elements();
            let mut values = Vec::with_capacity(sums.len() * elements);
            for parts in sums {
                let mut sum = vec![0.0_f64; elements];
                for &(query, weight) in parts {
                    let gradient = &module.values[query * elements..(query + 1) * elements];
                    sum.iter_mut().zip(gradient).for_each(|(sum, &value)| *sum += weight * f64::from(value));
                }
                values.extend(sum.into_iter().map(|value| value as f32));
            }
            ModuleGradients { layer: module.layer.clone(), values }
        };
        let modules = self.modules.iter().map(|(&index, module)| (index, combine(module))).collect();
        Self { layers: self.layers.clone(), count: sums.len(), modules, gradient: Vec::new() }
    }

    /// Adds the gradients of as many others of the same layers, one to one, in double precision.
    ///
    /// # Panics
    /// Where there are fewer.
    pub(crate) fn add(&mut self, others: &Self) {
        for (index, module) in &mut self.modules {
            let Some(other) = others.modules.get(index) else { continue };
            for (value, other) in module.values.iter_mut().zip(&other.values) {
                *value = (f64::from(*value) + f64::from(*other)) as f32;
            }
        }
    }

    /// Norms of the queries over all layers, in double precision.
    pub fn norms(&self) -> Vec<f64> {
        let mut squares = vec![0.0_f64; self.count];
        for module in self.modules() {
            let elements = module.layer.elements().max(1);
            for (sum, gradient) in squares.iter_mut().zip(module.values.chunks_exact(elements)) {
                *sum += gradient.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>();
            }
        }
        squares.into_iter().map(f64::sqrt).collect()
    }
}

impl Tap for QueryGradients {
    fn wants(&self, parameter: &Parameter) -> bool {
        self.layers.take(parameter)
    }

    fn take(&mut self, compute: Compute<'_>, gradient: &Gradient<'_>) -> Result<(), ModelError> {
        let Some(rows) = self.layers.rows(gradient) else { return Ok(()) };
        let empty = || ModuleGradients { layer: rows.layer.clone(), values: Vec::new() };
        let module = self.modules.entry(rows.index).or_insert_with(empty);
        for document in 0..rows.documents() {
            rows.gradient(compute, document, &mut self.gradient)?;
            module.values.extend_from_slice(&self.gradient);
        }
        self.count = module.values.len() / rows.layer.elements().max(1);
        Ok(())
    }
}

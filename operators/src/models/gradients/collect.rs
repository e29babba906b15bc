//! Taps that make the gradients themselves: summed over documents, or one document at a time.

use super::tap::{Gradient, Tap};
use crate::models::error::Result;
use crate::models::layers::Compute;
use crate::models::parameters::Parameter;

/// Which parameters a tap wants.
type Wants = Box<dyn Fn(&Parameter) -> bool + Send + Sync>;

/// Gradients of parameters, summed over the documents of all batches that are run with it, in the layout of the checkpoint.
///
/// Documents are added one after another, so the sum does not depend on how they were put into batches.
#[allow(missing_debug_implementations, reason = "a function need not be shown")]
pub struct ParameterGradients {
    wants: Wants,
    /// By the index of the parameter.
    gradients: Vec<Option<(Parameter, Vec<f32>)>>,
}

impl ParameterGradients {
    /// Gradients of the parameters that `wants` takes.
    pub fn new(wants: impl Fn(&Parameter) -> bool + Send + Sync + 'static) -> Self {
        Self { wants: Box::new(wants), gradients: Vec::new() }
    }

    /// What was summed, in the order of [`Model::parameters`](crate::models::Model::parameters).
    pub fn iter(&self) -> impl Iterator<Item = (&Parameter, &[f32])> {
        self.gradients.iter().flatten().map(|(parameter, gradient)| (parameter, gradient.as_slice()))
    }

    /// The gradient of a parameter, by its name.
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        self.iter().find(|(parameter, _)| parameter.name() == name).map(|(_, gradient)| gradient)
    }

    /// Sets all sums to 0, and keeps their memory.
    pub fn clear(&mut self) {
        self.gradients.iter_mut().flatten().for_each(|(_, gradient)| gradient.fill(0.0));
    }
}

impl Tap for ParameterGradients {
    fn wants(&self, parameter: &Parameter) -> bool {
        (self.wants)(parameter)
    }

    fn take(&mut self, compute: Compute<'_>, gradient: &Gradient<'_>) -> Result<()> {
        let parameter = gradient.parameter();
        if self.gradients.len() <= parameter.index() {
            self.gradients.resize_with(parameter.index() + 1, || None);
        }
        let place = &mut self.gradients[parameter.index()];
        let (_, sum) = place.get_or_insert_with(|| (parameter.clone(), vec![0.0; parameter.elements()]));
        (0..gradient.documents()).try_for_each(|document| gradient.add_document(compute, document, sum))
    }
}

/// Shows the gradient of each parameter for each document, one at a time: only one is held.
///
/// `each` gets the number of the document in its batch, the parameter, and the gradient in the layout of the checkpoint.
#[allow(missing_debug_implementations, reason = "functions need not be shown")]
pub struct DocumentGradients<E> {
    wants: Wants,
    each: E,
    gradient: Vec<f32>,
}

impl<E: FnMut(usize, &Parameter, &[f32]) -> Result<()>> DocumentGradients<E> {
    /// Shows gradients of the parameters that `wants` takes to `each`.
    pub fn new(wants: impl Fn(&Parameter) -> bool + Send + Sync + 'static, each: E) -> Self {
        Self { wants: Box::new(wants), each, gradient: Vec::new() }
    }
}

impl<E: FnMut(usize, &Parameter, &[f32]) -> Result<()>> Tap for DocumentGradients<E> {
    fn wants(&self, parameter: &Parameter) -> bool {
        (self.wants)(parameter)
    }

    fn take(&mut self, compute: Compute<'_>, gradient: &Gradient<'_>) -> Result<()> {
        let parameter = gradient.parameter();
        for document in 0..gradient.documents() {
            self.gradient.clear();
            self.gradient.resize(parameter.elements(), 0.0);
            gradient.add_document(compute, document, &mut self.gradient)?;
            (self.each)(document, parameter, &self.gradient)?;
        }
        Ok(())
    }
}

/// Norms of gradients, of each parameter and document; one gradient is held at a time.
#[allow(missing_debug_implementations, reason = "a function need not be shown")]
pub struct DocumentNorms {
    wants: Wants,
    gradient: Vec<f32>,
    /// By the index of the parameter: its name, and the norms of each document.
    norms: Vec<Option<(Parameter, Vec<f64>)>>,
}

impl DocumentNorms {
    /// Norms of the gradients of the parameters that `wants` takes.
    pub fn new(wants: impl Fn(&Parameter) -> bool + Send + Sync + 'static) -> Self {
        Self { wants: Box::new(wants), gradient: Vec::new(), norms: Vec::new() }
    }

    /// L2 norms of the documents of the last batch that was run, `[documents]` of each parameter, in the order of
    /// [`Model::parameters`](crate::models::Model::parameters).
    pub fn iter(&self) -> impl Iterator<Item = (&Parameter, &[f64])> {
        self.norms.iter().flatten().map(|(parameter, norms)| (parameter, norms.as_slice()))
    }

    /// The norms of a parameter, by its name.
    pub fn get(&self, name: &str) -> Option<&[f64]> {
        self.iter().find(|(parameter, _)| parameter.name() == name).map(|(_, norms)| norms)
    }
}

impl Tap for DocumentNorms {
    fn wants(&self, parameter: &Parameter) -> bool {
        (self.wants)(parameter)
    }

    fn take(&mut self, compute: Compute<'_>, gradient: &Gradient<'_>) -> Result<()> {
        let parameter = gradient.parameter();
        let norms = (0..gradient.documents()).map(|document| {
            self.gradient.clear();
            self.gradient.resize(parameter.elements(), 0.0);
            gradient.add_document(compute, document, &mut self.gradient)?;
            Ok(self.gradient.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt())
        });
        let norms = norms.collect::<Result<_>>()?;
        if self.norms.len() <= parameter.index() {
            self.norms.resize_with(parameter.index() + 1, || None);
        }
        self.norms[parameter.index()] = Some((parameter.clone(), norms));
        Ok(())
    }
}

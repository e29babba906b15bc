//! Measures a sample against originals: one backward pass over all of them, in which each tensor's gradients are multiplied and projected as they come.
//!
//! So of gradients that are not kept only those of one tensor are in memory at a time, one for each sample.

use std::ops::Range;
use std::sync::Arc;

use super::cache::{Cache, Kept, Room};
use super::products::{Accumulate, cosine};
use super::projection::Projection;
use super::samples::Sample;
use crate::influence::Modules;
use crate::models::gradients::{Backward, Gradient, Loss, Reduction, Tap, TokenLoss, token_weights};
use crate::models::{self, Batch, Compute, Model, ModelError, Parameter};

/// The parameters that are looked at.
#[derive(Debug)]
pub(super) struct Tensors {
    pub(super) names: Vec<String>,
    /// Of each, where its elements are in a gradient by all of them.
    places: Vec<Range<usize>>,
    /// By the index of the parameter, which of them it is.
    of_parameter: Vec<Option<usize>>,
}

impl Tensors {
    /// Those that patterns take. The error says what there is.
    pub(super) fn new(model: &Model, patterns: &Modules) -> Result<Self, String> {
        let mut tensors = Self { names: Vec::new(), places: Vec::new(), of_parameter: Vec::new() };
        for parameter in model.parameters() {
            let taken = patterns.takes(parameter.name());
            tensors.of_parameter.push(taken.then_some(tensors.names.len()));
            if taken {
                let start = tensors.elements();
                tensors.names.push(parameter.name().to_owned());
                tensors.places.push(start..start + parameter.elements());
            }
        }
        if tensors.names.is_empty() {
            let names: Vec<&str> = model.parameters().map(Parameter::name).take(8).collect();
            let Modules { include, exclude } = patterns;
            let more = model.parameters().len().saturating_sub(names.len());
            return Err(format!(
                "no parameter matches {include:?} without {exclude:?}; the model has {} and {more} more",
                names.join(", ")
            ));
        }
        Ok(tensors)
    }

    /// Elements of all of them.
    pub(super) fn elements(&self) -> usize {
        self.places.last().map_or(0, |place| place.end)
    }

    /// Names and numbers of elements.
    pub(super) fn sizes(&self) -> impl Iterator<Item = (&str, usize)> + Clone {
        self.names.iter().zip(&self.places).map(|(name, place)| (name.as_str(), place.len()))
    }

    fn of(&self, parameter: &Parameter) -> Option<usize> {
        self.of_parameter.get(parameter.index()).copied().flatten()
    }
}

/// What a sample is measured with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measuring<'a> {
    pub(super) model: &'a Model,
    pub(super) tensors: &'a Tensors,
    pub(super) accumulate: Accumulate,
    pub(super) projection: Option<&'a Projection>,
    pub(super) cache: &'a Cache,
}

/// What was measured of a sample.
#[derive(Debug, PartialEq)]
pub(super) struct Measured {
    /// The mean negative log-likelihood of the answer's tokens.
    pub(super) loss: f64,
    /// How many these are.
    pub(super) tokens: usize,
    /// ⟨g, g⟩ of each tensor.
    pub(super) self_products: Vec<f64>,
    /// Of each original, in the order in which they were given.
    pub(super) pairs: Vec<Pair>,
}

/// A sample and an original.
#[derive(Debug, PartialEq)]
pub(super) struct Pair {
    /// The inner product of both gradients of each tensor.
    pub(super) products: Vec<f64>,
    /// That of the original's gradient with itself.
    pub(super) self_products: Vec<f64>,
    /// The cosine of the gradients by all tensors together; none where one of them is 0.
    pub(super) cosine: Option<f64>,
    /// The same of projected gradients, for each size of the projection.
    pub(super) projected: Vec<Option<f64>>,
}

impl<'a> Measuring<'a> {
    /// Measures a sample against originals, which are given by their rows and samples. A loss that is not finite is an error of document 0, the sample, or of document
    /// n, original n - 1.
    pub(super) fn measure(
        &self,
        compute: Compute<'_>,
        sample: &Sample,
        originals: &[(usize, &Sample)],
    ) -> models::Result<Measured> {
        let mut documents: Vec<Document<'a>> = vec![Document { answer: sample.answer, ..Document::default() }];
        let mut batch = Batch::of(&sample.ids);
        for &(row, sample) in originals {
            let (kept, sketch) = self.cache.get(row);
            if kept.is_none() {
                batch.push(&sample.ids);
            }
            let mut document = Document { answer: sample.answer, kept, sketch, ..Document::default() };
            if document.kept.is_none()
                && let Some(room) = self.cache.reserve(self.tensors.elements())
            {
                document.new = Some((room, vec![0.0; self.tensors.elements()]));
            }
            documents.push(document);
        }
        let count = self.tensors.names.len();
        for document in &mut documents {
            document.products = vec![0.0; count];
            document.self_products = document.kept.as_ref().map_or(vec![0.0; count], |kept| kept.self_products.clone());
            if let (Some(projection), None) = (self.projection, &document.sketch) {
                document.new_sketch = vec![0.0; projection.width];
            }
        }
        // The documents of the batch are the ones of which nothing is kept.
        let answers: Vec<usize> =
            documents.iter().filter(|document| document.kept.is_none()).map(|document| document.answer).collect();
        let weights = token_weights(&batch, Reduction::Mean, |document, token| token >= answers[document]);
        let loss = Loss::Tokens(TokenLoss { weights: &weights, targets: None });
        let mut tap = PairTap { measuring: *self, documents };
        let losses = Backward::new(self.model)?.run(compute, &batch, loss, &mut tap).map_err(|error| match error {
            ModelError::NotFinite { document, loss } => {
                let mut computed = tap.documents.iter().enumerate().filter(|(_, document)| document.kept.is_none());
                let document = computed.nth(document).map_or(0, |(place, _)| place);
                ModelError::NotFinite { document, loss }
            }
            other => other,
        })?;
        Ok(self.measured(losses.documents[0], losses.targets[0], tap.documents, originals))
    }

    fn measured(
        &self,
        loss: f64,
        tokens: usize,
        documents: Vec<Document<'a>>,
        originals: &[(usize, &Sample)],
    ) -> Measured {
        let mut documents = documents.into_iter();
        let own = documents.next().unwrap_or_default();
        let whole: f64 = own.self_products.iter().sum();
        let pair = |(document, &(row, _)): (Document<'a>, &(usize, &Sample))| {
            let Document { products, self_products, sketch, new_sketch, new, .. } = document;
            let cosine = cosine(products.iter().sum(), whole, self_products.iter().sum());
            let known = sketch.as_ref().map_or(&new_sketch, |sketch| sketch);
            let projected =
                self.projection.map(|projection| projection.cosines(&own.new_sketch, known)).unwrap_or_default();
            if let Some((room, gradient)) = new {
                room.keep(row, Kept { gradient, self_products: self_products.clone() });
            }
            if !new_sketch.is_empty() {
                self.cache.keep_sketch(row, new_sketch);
            }
            Pair { products, self_products, cosine, projected }
        };
        let pairs = documents.zip(originals).map(pair).collect();
        Measured { loss, tokens, self_products: own.self_products, pairs }
    }
}

/// What is known of the sample, the first one, or of an original.
#[derive(Debug, Default)]
struct Document<'a> {
    answer: usize,
    /// Its gradient, if it is kept. Then it is not a document of the batch.
    kept: Option<Arc<Kept>>,
    sketch: Option<Arc<Vec<f32>>>,
    /// Its gradient, if it is to be kept.
    new: Option<(Room<'a>, Vec<f32>)>,
    /// Its sketch, if it is not kept.
    new_sketch: Vec<f32>,
    /// Its gradient of the tensor at hand, if it is neither kept nor to be.
    tensor: Vec<f32>,
    /// With the sample's gradient.
    products: Vec<f64>,
    self_products: Vec<f64>,
}

struct PairTap<'a> {
    measuring: Measuring<'a>,
    documents: Vec<Document<'a>>,
}

impl Tap for PairTap<'_> {
    fn wants(&self, parameter: &Parameter) -> bool {
        self.measuring.tensors.of(parameter).is_some()
    }

    fn take(&mut self, compute: Compute<'_>, gradient: &Gradient<'_>) -> models::Result<()> {
        let Measuring { tensors, accumulate, projection, .. } = self.measuring;
        let Some(number) = tensors.of(gradient.parameter()) else { return Ok(()) };
        let place = tensors.places[number].clone();
        // Gradients of the documents of the batch.
        let computed = self.documents.iter_mut().filter(|document| document.kept.is_none());
        for (position, document) in computed.enumerate() {
            let to = match &mut document.new {
                Some((_, new)) => &mut new[place.clone()],
                None => {
                    document.tensor.clear();
                    document.tensor.resize(place.len(), 0.0);
                    &mut document.tensor
                }
            };
            gradient.add_document(compute, position, to)?;
        }
        // Products.
        let own = std::mem::take(&mut self.documents[0].tensor);
        for (position, document) in self.documents.iter_mut().enumerate() {
            let other = if position == 0 { &own } else { document.gradient(&place) };
            let product = accumulate.dot(&own, other);
            let square = document.kept.is_none().then(|| accumulate.dot(other, other));
            document.products[number] = product;
            if let Some(square) = square {
                document.self_products[number] = square;
            }
        }
        self.documents[0].tensor = own;
        // Sketches.
        if let Some(projection) = projection {
            let missing = |document: &&mut Document<'_>| document.sketch.is_none();
            let mut sketches: Vec<Vec<f32>> = self
                .documents
                .iter_mut()
                .filter(missing)
                .map(|document| std::mem::take(&mut document.new_sketch))
                .collect();
            let gradients: Vec<&[f32]> = self
                .documents
                .iter()
                .filter(|document| document.sketch.is_none())
                .map(|document| document.gradient(&place))
                .collect();
            let mut parts: Vec<&mut [f32]> = sketches.iter_mut().map(Vec::as_mut_slice).collect();
            projection.project(compute, number, &gradients, &mut parts)?;
            for (document, sketch) in self.documents.iter_mut().filter(missing).zip(sketches) {
                document.new_sketch = sketch;
            }
        }
        Ok(())
    }
}

impl Document<'_> {
    /// Its gradient of the tensor at hand, which has this place among all.
    fn gradient(&self, place: &Range<usize>) -> &[f32] {
        match (&self.kept, &self.new) {
            (Some(kept), _) => &kept.gradient[place.clone()],
            (None, Some((_, new))) => &new[place.clone()],
            (None, None) => &self.tensor,
        }
    }
}

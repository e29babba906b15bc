//! A backward pass through linear layers and norms, and what it hands to the tap on the way.

use std::sync::Arc;

use gristmill_kernels::norms;

use super::tap::{Gradient, LinearGradient, Tap, VectorGradient, range};
use crate::models::error::Result;
use crate::models::layers::{Compute, Norm};
use crate::models::linear::Linear;
use crate::models::parameters::Parameter;

/// Rows whose sum is taken before it is added to that of the rows before them, so that errors grow with their number's root at most.
const TOGETHER: usize = 64;

/// Memory that passes use again.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Gradients of all outputs of a module of which several layers are made.
    fused: Vec<f32>,
    /// Gradients of a vector for each document.
    sums: [Vec<f32>; 2],
    normed: Vec<f32>,
}

/// A pass over one batch.
pub(super) struct Pass<'a> {
    pub(super) compute: Compute<'a>,
    pub(super) tap: &'a mut dyn Tap,
    pub(super) scratch: &'a mut Scratch,
}

impl Pass<'_> {
    /// Whether the weights or the bias of a layer are wanted.
    pub(super) fn wants_linear(&self, linear: &Linear) -> bool {
        let module = &linear.place().module;
        self.tap.wants(&module.weight) || module.bias.as_ref().is_some_and(|bias| self.tap.wants(bias))
    }

    /// The same of a norm.
    pub(super) fn wants_norm(&self, norm: &Option<Norm>) -> bool {
        let Some(norm) = norm else { return false };
        [&norm.weight, &norm.bias].into_iter().flatten().any(|vector| self.tap.wants(&vector.parameter))
    }

    /// Hands out what is wanted of layers that read the same x, `[rows, in]`, given the gradients of what they gave, `[rows, out]`. Layers that
    /// are one module of the checkpoint must be given together.
    pub(super) fn linear(&mut self, layers: &[(&Linear, &[f32])], x: &[f32], offsets: &[i64]) -> Result<()> {
        for (number, &(linear, delta)) in layers.iter().enumerate() {
            let place = linear.place();
            let module = &place.module;
            let same = |other: &&(&Linear, &[f32])| Arc::ptr_eq(&other.0.place().module, module);
            if layers[..number].iter().any(|other| same(&other)) || !self.wants_linear(linear) {
                continue;
            }
            let delta = if place.is_whole() {
                delta
            } else {
                let rows = delta.len() / linear.outputs().max(1);
                self.scratch.fused.resize(rows * module.outputs, 0.0);
                for (linear, delta) in layers.iter().filter(same) {
                    linear.place().spread(delta, &mut self.scratch.fused);
                }
                &self.scratch.fused
            };
            if self.tap.wants(&module.weight) {
                self.tap.take(self.compute, &Gradient::Linear(LinearGradient { module, x, delta, offsets }))?;
            }
            if let Some(bias) = module.bias.as_deref().filter(|bias| self.tap.wants(bias)) {
                let sums = &mut self.scratch.sums[0];
                sum_rows(delta, module.outputs, offsets, sums);
                self.tap.take(self.compute, &Gradient::Vector(VectorGradient { parameter: bias, gradients: sums }))?;
            }
        }
        Ok(())
    }

    /// Goes back through a norm of x: `gradient`, of what it gave, becomes that of x. A token has `per_token` rows. Without a norm it is left as it is.
    pub(super) fn norm(
        &mut self,
        norm: &Option<Norm>,
        x: &[f32],
        gradient: &mut Vec<f32>,
        offsets: &[i64],
        per_token: usize,
    ) -> Result<()> {
        let Some(Norm { norm, weight, bias }) = norm else { return Ok(()) };
        let Scratch { normed, sums, .. } = &mut *self.scratch;
        normed.resize(x.len(), 0.0);
        let wanted = |vector: &&_| -> bool {
            let vector: &crate::models::parameters::Values = vector;
            self.tap.wants(&vector.parameter)
        };
        let wanted = [weight.as_ref().filter(wanted), bias.as_ref().filter(wanted)];
        let values = weight.as_deref();
        if wanted.iter().all(Option::is_none) {
            let dx = normed.as_mut_slice();
            let slices = norms::Backward { x, weight: values, dy: gradient, dx, dweight: None, dbias: None };
            norm.backward(self.compute.workers, slices)?;
        } else {
            // A document at a time: how rows are put together for a sum depends on their number.
            let (width, documents) = (norm.width, offsets.len() - 1);
            sums.iter_mut().for_each(|sums| sums.resize(documents * width, 0.0));
            for document in 0..documents {
                let rows = range(offsets, document);
                let rows = rows.start * per_token * width..rows.end * per_token * width;
                let [dweight, dbias] = sums.each_mut().map(|sums| &mut sums[document * width..(document + 1) * width]);
                let slices = norms::Backward {
                    x: &x[rows.clone()],
                    weight: values,
                    dy: &gradient[rows.clone()],
                    dx: &mut normed[rows],
                    dweight: Some(dweight),
                    dbias: Some(dbias),
                };
                norm.backward(self.compute.workers, slices)?;
            }
            for (vector, sums) in wanted.into_iter().zip(&*sums) {
                let Some(vector) = vector else { continue };
                let parameter: &Parameter = &vector.parameter;
                self.tap.take(self.compute, &Gradient::Vector(VectorGradient { parameter, gradients: sums }))?;
            }
        }
        std::mem::swap(gradient, normed);
        Ok(())
    }
}

/// The sum of each document's rows, `[documents, width]`.
pub(in crate::models) fn sum_rows(rows: &[f32], width: usize, offsets: &[i64], sums: &mut Vec<f32>) {
    sums.clear();
    sums.resize((offsets.len() - 1) * width, 0.0);
    let mut block = vec![0.0; width];
    for (document, sums) in sums.chunks_exact_mut(width.max(1)).enumerate() {
        let place = range(offsets, document);
        for rows in rows[place.start * width..place.end * width].chunks(TOGETHER * width.max(1)) {
            block.fill(0.0);
            for row in rows.chunks_exact(width.max(1)) {
                block.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
            sums.iter_mut().zip(&block).for_each(|(sum, block)| *sum += block);
        }
    }
}

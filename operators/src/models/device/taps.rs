//! What a way back on a device hands to a tap: activations and gradients downloaded, or their projections made on the device.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use gristmill_kernels::device::{Array, Device};
use gristmill_kernels::gemm::{LinearBuffers, LinearLayer, LinearOutput};
use gristmill_kernels::launch::Float;
use gristmill_kernels::outer::{Outer, Strides};

use super::weights::{Linear, Weights};
use crate::models::error::Result;
use crate::models::gradients::{Gradient, LinearGradient, Projections, Tap, VectorGradient, sum_rows};
use crate::models::layers::Compute;

/// Projections on the device, with the memory that they are made in.
#[derive(Debug)]
pub(super) struct Projector<T> {
    /// Of each set of projections that is still in use.
    uploaded: Vec<Uploaded<T>>,
    left: Array<f32>,
    right: Array<f32>,
    /// Of all modules, `[documents, width]`.
    rows: Array<f32>,
}

#[derive(Debug)]
struct Uploaded<T> {
    version: Weak<()>,
    width: usize,
    /// By the index of the parameter.
    sides: HashMap<usize, Sides<T>>,
}

/// Both sides of a module.
#[derive(Debug)]
struct Sides<T> {
    p: usize,
    q: usize,
    offset: usize,
    /// L, `[p, outputs]` of each layer that is part of the module, in the order of [`Layer::linears`](super::weights::Layer::linears).
    left: Vec<Array<T>>,
    /// R, `[q, inputs]`.
    right: Array<T>,
}

impl<T: Float> Projector<T> {
    pub(super) fn new(device: &Device) -> Self {
        Self { uploaded: Vec::new(), left: device.empty(), right: device.empty(), rows: device.empty() }
    }

    /// Makes ready what a tap wants to have projected, and room for so many documents and tokens.
    fn prepare(
        &mut self,
        device: &Device,
        weights: &Weights<T>,
        projections: &Projections<'_>,
        [documents, tokens]: [usize; 2],
    ) -> Result<()> {
        self.uploaded.retain(|uploaded| uploaded.version.strong_count() > 0);
        if self.find(projections.version).is_none() {
            let uploaded = Uploaded::new(device, weights, projections)?;
            self.uploaded.push(uploaded);
        }
        let most = |side: fn(&Sides<T>) -> usize| {
            let sides = self.uploaded.iter().flat_map(|uploaded| uploaded.sides.values());
            sides.map(side).max().unwrap_or(0)
        };
        let (p, q) = (most(|sides| sides.p), most(|sides| sides.q));
        self.left.resize(tokens * p)?;
        self.right.resize(tokens * q)?;
        self.rows.resize(documents * projections.width)?;
        Ok(())
    }

    fn find(&self, version: &Arc<()>) -> Option<usize> {
        let own = Arc::as_ptr(version);
        self.uploaded.iter().position(|uploaded| std::ptr::eq(uploaded.version.as_ptr(), own))
    }
}

impl<T: Float> Uploaded<T> {
    fn new(device: &Device, weights: &Weights<T>, projections: &Projections<'_>) -> Result<Self> {
        let mut sides: HashMap<usize, Sides<T>> = HashMap::new();
        let rounded = |values: &[f32]| values.iter().map(|&value| T::from_single(value)).collect::<Vec<T>>();
        for projection in &projections.modules {
            let right = device.upload(&rounded(projection.right))?;
            let &crate::models::gradients::Projection { parameter, p, q, offset, .. } = projection;
            sides.insert(parameter, Sides { p, q, offset, left: Vec::new(), right });
        }
        let of: HashMap<usize, &[f32]> =
            projections.modules.iter().map(|projection| (projection.parameter, projection.left)).collect();
        for linear in weights.layers.iter().flat_map(super::weights::Layer::linears) {
            let module = &linear.place.module;
            let index = module.weight().index();
            let (Some(sides), Some(left)) = (sides.get_mut(&index), of.get(&index)) else { continue };
            let mut part = Vec::with_capacity(sides.p * linear.outputs);
            for row in left.chunks_exact(module.outputs().max(1)) {
                linear.place.outputs.iter().for_each(|range| part.extend_from_slice(&row[range.clone()]));
            }
            sides.left.push(device.upload(&rounded(&part))?);
        }
        Ok(Self { version: Arc::downgrade(projections.version), width: projections.width, sides })
    }
}

/// A tap, and what it is handed from.
pub(super) struct Taps<'a, T> {
    pub(super) device: &'a Device,
    pub(super) compute: Compute<'a>,
    pub(super) tap: &'a mut dyn Tap,
    /// Where documents begin, here and on the device.
    pub(super) offsets: &'a [i64],
    pub(super) on_device: &'a Array<i64>,
    pub(super) projector: &'a mut Projector<T>,
    /// Which of the projections are the tap's.
    pub(super) projected: Option<usize>,
}

impl<'a, T: Float> Taps<'a, T> {
    /// Makes ready what the tap wants to have projected: nothing is allocated for it from then on.
    pub(super) fn new(
        device: &'a Device,
        weights: &Weights<T>,
        compute: Compute<'a>,
        tap: &'a mut dyn Tap,
        (offsets, on_device): (&'a [i64], &'a Array<i64>),
        projector: &'a mut Projector<T>,
    ) -> Result<Self> {
        let sizes = [offsets.len() - 1, offsets.last().map_or(0, |&tokens| tokens as usize)];
        let projected = match tap.projections() {
            Some(projections) => {
                projector.prepare(device, weights, &projections, sizes)?;
                projector.find(projections.version)
            }
            None => None,
        };
        Ok(Self { device, compute, tap, offsets, on_device, projector, projected })
    }

    /// Whether the weights or the bias of a layer are wanted.
    pub(super) fn wants(&self, linear: &Linear<T>) -> bool {
        let module = &linear.place.module;
        self.tap.wants(module.weight()) || module.bias().is_some_and(|bias| self.tap.wants(bias))
    }

    /// Hands out what is wanted of layers that read the same x, `[tokens, in]`, given the gradients of what they gave, `[tokens, out]`. Layers that are one
    /// module of the checkpoint must be given together.
    pub(super) fn linear(&mut self, layers: &[(&Linear<T>, &Array<T>)], x: &Array<T>) -> Result<()> {
        let mut downloaded: Option<Vec<f32>> = None;
        for (number, &(linear, delta)) in layers.iter().enumerate() {
            let module = &linear.place.module;
            let same = |other: &&(&Linear<T>, &Array<T>)| Arc::ptr_eq(&other.0.place.module, module);
            if layers[..number].iter().any(|other| same(&other)) || !self.wants(linear) {
                continue;
            }
            let parts: Vec<_> = layers.iter().filter(same).copied().collect();
            if self.project(module.weight().index(), &parts, x)? {
                continue;
            }
            let delta = if linear.place.is_whole() {
                singles(delta)?
            } else {
                let mut fused = vec![0.0; x.len() / module.inputs().max(1) * module.outputs()];
                for (linear, delta) in parts {
                    linear.place.spread(&singles(delta)?, &mut fused);
                }
                fused
            };
            let offsets = self.offsets;
            if self.tap.wants(module.weight()) {
                let x = match &mut downloaded {
                    Some(x) => &*x,
                    none => none.insert(singles(x)?),
                };
                let gradient = LinearGradient { module, x, delta: &delta, offsets };
                self.tap.take(self.compute, &Gradient::Linear(gradient))?;
            }
            if let Some(parameter) = module.bias().filter(|bias| self.tap.wants(bias)) {
                let mut sums = Vec::new();
                sum_rows(&delta, module.outputs(), offsets, &mut sums);
                let gradient = VectorGradient { parameter, gradients: &sums };
                self.tap.take(self.compute, &Gradient::Vector(gradient))?;
            }
        }
        Ok(())
    }

    /// Makes L·g·Rᵀ of all documents for a module, if the tap wants that.
    fn project(&mut self, parameter: usize, parts: &[(&Linear<T>, &Array<T>)], x: &Array<T>) -> Result<bool> {
        let Some(number) = self.projected else { return Ok(false) };
        let Projector { uploaded, left, right, rows } = &mut *self.projector;
        let Uploaded { width, sides, .. } = &uploaded[number];
        let Some(sides) = sides.get(&parameter) else { return Ok(false) };
        let &Sides { p, q, offset, .. } = sides;
        let tokens = self.offsets.last().map_or(0, |&tokens| tokens as usize);
        left.resize(tokens * p)?;
        right.resize(tokens * q)?;
        for (number, ((linear, delta), side)) in parts.iter().zip(&sides.left).enumerate() {
            let layer = LinearLayer { accumulate: number > 0, ..LinearLayer::new(linear.outputs, p) };
            let y = LinearOutput::Single(left.write());
            let buffers = LinearBuffers { x: delta.read(), weights: side.read(), bias: None, y };
            self.device.run(&layer.launches(tokens, buffers)?)?;
        }
        let layer = LinearLayer::new(x.len() / tokens.max(1), q);
        let y = LinearOutput::Single(right.write());
        let buffers = LinearBuffers { x: x.read(), weights: sides.right.read(), bias: None, y };
        self.device.run(&layer.launches(tokens, buffers)?)?;
        let outer = Outer {
            tokens,
            modules: 1,
            p,
            q,
            a: Strides::interleaved(1, p),
            b: Strides::interleaved(1, q),
            out: Strides { row: *width, module: p * q },
            accumulate: false,
        };
        let to = rows.write().skip(offset);
        self.device.run(&outer.launches(left.read(), right.read(), self.on_device.read(), to, None)?)?;
        Ok(true)
    }

    /// Hands out what was projected, when the way back has ended.
    pub(super) fn finish(self) -> Result<()> {
        match self.projected {
            Some(_) => self.tap.take_projected(self.projector.rows.download()?),
            None => Ok(()),
        }
    }
}

/// Elements of an array in single precision.
fn singles<T: Float>(array: &Array<T>) -> Result<Vec<f32>> {
    Ok(array.download()?.into_iter().map(T::to_single).collect())
}

//! The forward pass of a packed batch on a device: the same steps as [`Transformer`](crate::models::transformer::Transformer) takes on the CPU.

use std::sync::Arc;

use gristmill_kernels::attention::{self, Documents};
use gristmill_kernels::device::{Array, Device, DeviceError};
use gristmill_kernels::gemm::{Function, LinearBuffers, LinearLayer, LinearOutput};
use gristmill_kernels::glu;
use gristmill_kernels::launch::Float;
use gristmill_kernels::norms;
use gristmill_kernels::residual::{self, Embedding, EmbeddingBuffers, NormBuffers};
use gristmill_kernels::rotary::{Buffers, Direction, Rotary};

use super::weights::{Attention, FeedForward, Layer, Linear, Norm, Weights};
use crate::models::batch::Batch;
use crate::models::layers::Order;
use crate::models::rope::Table;
use crate::models::transformer::Purpose;

type Result<T, E = DeviceError> = std::result::Result<T, E>;

/// Memory for one batch, kept for the next.
#[derive(Debug)]
pub(super) struct Scratch<T> {
    pub(super) offsets: Array<i64>,
    ids: Array<i32>,
    places: Array<i32>,
    pub(super) angles: Vec<Angles>,
    /// The residual stream, `[tokens, hidden]`.
    pub(super) x: Array<f32>,
    /// What a layer reads: a norm of the stream, or the stream itself, rounded.
    pub(super) input: Array<T>,
    other: Array<T>,
    /// Of the layer that is run.
    memory: Memory<T>,
}

/// What a layer makes of what it reads. A way back reads it, too.
#[derive(Debug)]
pub(super) struct Memory<T> {
    /// Queries, keys and values as they are projected, for a way back, where they are normed or clipped.
    pub(super) projected: [Array<T>; 3],
    /// As attention reads them.
    pub(super) queries: Array<T>,
    pub(super) keys: Array<T>,
    pub(super) values: Array<T>,
    /// Of attention, `[tokens, query heads]`, for a way back.
    pub(super) log_sums: Array<f32>,
    pub(super) context: Array<T>,
    /// The residual stream between the parts, for a way back.
    pub(super) middle: Array<f32>,
    /// Before the activation.
    pub(super) gate: Array<T>,
    pub(super) up: Array<T>,
    /// What the last linear layer reads.
    pub(super) active: Array<T>,
    /// What the parts give, where a norm comes between it and the sum.
    pub(super) parts: [Array<f32>; 2],
}

impl<T: Float> Memory<T> {
    pub(super) fn new(device: &Device) -> Self {
        Self {
            projected: std::array::from_fn(|_| device.empty()),
            queries: device.empty(),
            keys: device.empty(),
            values: device.empty(),
            log_sums: device.empty(),
            context: device.empty(),
            middle: device.empty(),
            gate: device.empty(),
            up: device.empty(),
            active: device.empty(),
            parts: std::array::from_fn(|_| device.empty()),
        }
    }
}

/// Angles of one rotary embedding.
#[derive(Debug)]
pub(super) struct Angles {
    /// The table that is on the device.
    table: Option<Arc<Table>>,
    cosines: Array<f32>,
    sines: Array<f32>,
    rows: Array<i32>,
}

impl Angles {
    /// Turns values of so many heads by their positions, or their gradients back, by way of `other`.
    pub(super) fn turn<T: Float>(
        &self,
        device: &Device,
        rotary: Rotary,
        direction: Direction,
        values: &mut Array<T>,
        other: &mut Array<T>,
    ) -> Result<()> {
        other.resize(values.len())?;
        let buffers = Buffers {
            x: values.read(),
            cosines: self.cosines.read(),
            sines: self.sines.read(),
            positions: self.rows.read(),
            y: other.write(),
        };
        device.run(&rotary.launches(direction, buffers)?)?;
        std::mem::swap(values, other);
        Ok(())
    }
}

/// How far a batch goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// What so many layers leave, in the stream.
    Layer(usize),
    /// After the last norm, in the stream.
    End,
    /// After the last norm, in the input of a head.
    Head,
}

impl<T: Float> Scratch<T> {
    /// None yet, for a model with so many rotary embeddings.
    pub(super) fn new(device: &Device, ropes: usize) -> Self {
        let angles = || Angles { table: None, cosines: device.empty(), sines: device.empty(), rows: device.empty() };
        Self {
            offsets: device.empty(),
            ids: device.empty(),
            places: device.empty(),
            angles: (0..ropes).map(|_| angles()).collect(),
            x: device.empty(),
            input: device.empty(),
            other: device.empty(),
            memory: Memory::new(device),
        }
    }
}

/// A pass over one batch, whose ids the model has.
pub(super) struct Pass<'a, T> {
    pub(super) device: &'a Device,
    pub(super) weights: &'a Weights<T>,
    pub(super) scratch: &'a mut Scratch<T>,
    pub(super) tokens: usize,
    /// Whether the input is the stream, rounded.
    rounded: bool,
}

impl<'a, T: Float> Pass<'a, T> {
    /// Runs a batch, and leaves its result where `until` says.
    pub(super) fn run(
        device: &'a Device,
        weights: &'a Weights<T>,
        scratch: &'a mut Scratch<T>,
        batch: &Batch,
        until: Until,
    ) -> Result<Self> {
        let mut pass = Self::begin(device, weights, scratch, batch)?;
        let layers = match until {
            Until::Layer(layers) => &weights.layers[..layers.min(weights.layers.len())],
            Until::End | Until::Head => &weights.layers[..],
        };
        for layer in layers {
            pass.layer(layer, Purpose::Result)?;
        }
        let last = weights.last_norm.as_ref();
        match until {
            Until::Layer(_) => {}
            Until::End => pass.update_stream(last, None, false)?,
            Until::Head => pass.read_stream(last)?,
        }
        Ok(pass)
    }

    /// Leaves what the first layer reads in the stream.
    pub(super) fn begin(
        device: &'a Device,
        weights: &'a Weights<T>,
        scratch: &'a mut Scratch<T>,
        batch: &Batch,
    ) -> Result<Self> {
        scratch.offsets.upload(batch.offsets())?;
        let mut pass = Self { device, weights, scratch, tokens: batch.tokens(), rounded: false };
        pass.upload_angles(batch)?;
        pass.embed(batch)?;
        Ok(pass)
    }

    /// Runs a layer on the stream, and leaves what a way back reads in `memory`, which has the same bits whatever the purpose is other than the result alone.
    pub(super) fn layer_into(&mut self, layer: &Layer<T>, purpose: Purpose, memory: &mut Memory<T>) -> Result<()> {
        std::mem::swap(&mut self.scratch.memory, memory);
        let ran = self.layer(layer, purpose);
        std::mem::swap(&mut self.scratch.memory, memory);
        ran
    }

    /// Runs what comes from here on with another stream.
    pub(super) fn set_stream(&mut self, x: &Array<f32>) -> Result<()> {
        self.rounded = false;
        self.scratch.x.copy_from(x)
    }

    fn upload_angles(&mut self, batch: &Batch) -> Result<()> {
        for (rope, on_device) in self.weights.ropes.iter().zip(&mut self.scratch.angles) {
            let angles = rope.angles(batch.positions(), batch.offsets());
            if !on_device.table.as_ref().is_some_and(|table| Arc::ptr_eq(table, &angles.table)) {
                on_device.table = None;
                on_device.cosines.upload(&angles.table.cosines)?;
                on_device.sines.upload(&angles.table.sines)?;
                on_device.table = Some(angles.table);
            }
            on_device.rows.upload(&angles.rows)?;
        }
        Ok(())
    }

    fn embed(&mut self, batch: &Batch) -> Result<()> {
        let (embeddings, hidden) = (&self.weights.embeddings, self.weights.hidden);
        let Scratch { ids, places, x, .. } = &mut *self.scratch;
        ids.upload(&batch.ids().iter().map(|id| id.cast_signed()).collect::<Vec<i32>>())?;
        x.resize(self.tokens * hidden)?;
        if embeddings.positions.is_some() {
            let first = i32::try_from(embeddings.first_position).unwrap_or(i32::MAX);
            let rows: Vec<i32> = batch.positions().iter().map(|position| position.saturating_add(first)).collect();
            places.upload(&rows)?;
        }
        let buffers = EmbeddingBuffers {
            tokens: embeddings.tokens.read(),
            positions: embeddings.positions.as_ref().map(|table| (table.read(), places.read())),
            segment: embeddings.segment.as_ref().map(Array::read),
            ids: ids.read(),
            x: x.write(),
        };
        self.device.run(&Embedding { width: hidden }.launches(buffers)?)?;
        match &embeddings.norm {
            Some(norm) => self.update_stream(Some(norm), None, true),
            None => Ok(()),
        }
    }

    fn layer(&mut self, layer: &Layer<T>, purpose: Purpose) -> Result<()> {
        let Layer { order, attention_norm, attention, feed_forward_norm, feed_forward } = layer;
        let (attention_norm, feed_norm) = (attention_norm.as_ref(), feed_forward_norm.as_ref());
        let keep = purpose != Purpose::Result;
        match order {
            Order::Before => {
                self.read_stream(attention_norm)?;
                self.attend(attention, keep)?;
                self.add_context(attention)?;
                self.keep_middle(keep)?;
                self.read_stream(feed_norm)?;
                self.feed(feed_forward, keep)?;
                self.add_active(feed_forward, purpose)
            }
            Order::Parallel => {
                self.read_stream(attention_norm)?;
                self.attend(attention, keep)?;
                self.read_stream(feed_norm)?;
                self.feed(feed_forward, keep)?;
                if purpose != Purpose::Backward {
                    self.add_context(attention)?;
                }
                self.add_active(feed_forward, purpose)
            }
            Order::AfterSum => {
                self.read_stream(None)?;
                self.attend(attention, keep)?;
                self.add_context(attention)?;
                self.update_stream(attention_norm, None, true)?;
                self.feed(feed_forward, keep)?;
                self.add_active(feed_forward, Purpose::Result)?;
                self.update_stream(feed_norm, None, true)
            }
            Order::AfterPart => {
                self.read_stream(None)?;
                self.attend(attention, keep)?;
                let Memory { context, parts, .. } = &mut self.scratch.memory;
                linear_to(self.device, &attention.output, None, self.tokens, context, &mut parts[0])?;
                self.update_stream(attention_norm, Some(0), true)?;
                self.keep_middle(keep)?;
                self.feed(feed_forward, keep)?;
                let Memory { active, parts, .. } = &mut self.scratch.memory;
                linear_to(self.device, &feed_forward.down, None, self.tokens, active, &mut parts[1])?;
                self.update_stream(feed_norm, Some(1), true)
            }
        }
    }

    /// input = norm(x), rounded.
    pub(super) fn read_stream(&mut self, norm: Option<&Norm<f32>>) -> Result<()> {
        if norm.is_none() && self.rounded {
            return Ok(());
        }
        self.rounded = norm.is_none();
        let Scratch { x, input, .. } = &mut *self.scratch;
        read_norm(self.device, norm, self.weights.hidden, x, input)
    }

    /// x = norm(x), or x += norm(part) where there is a part; and input = x, rounded, where that is asked for.
    fn update_stream(&mut self, norm: Option<&Norm<f32>>, part: Option<usize>, round: bool) -> Result<()> {
        self.rounded = round;
        let Scratch { x, input, memory, .. } = &mut *self.scratch;
        if round {
            input.resize(x.len())?;
        }
        let buffers = NormBuffers {
            x: part.map(|part| memory.parts[part].read()),
            weight: norm.and_then(|norm| norm.weight.as_ref()).map(Array::read),
            bias: norm.and_then(|norm| norm.bias.as_ref()).map(Array::read),
            z: Some(x.write()),
            y: round.then(|| input.write()),
        };
        self.device.run(&stream_norm(norm, self.weights.hidden, part.is_some()).launches::<T>(buffers)?)
    }

    fn add_context(&mut self, attention: &Attention<T>) -> Result<()> {
        self.rounded = false;
        let Scratch { memory, x, .. } = &mut *self.scratch;
        add_linear(self.device, &attention.output, self.tokens, &memory.context, x)
    }

    fn add_active(&mut self, feed_forward: &FeedForward<T>, purpose: Purpose) -> Result<()> {
        if purpose == Purpose::Backward {
            return Ok(());
        }
        self.rounded = false;
        let Scratch { memory, x, .. } = &mut *self.scratch;
        add_linear(self.device, &feed_forward.down, self.tokens, &memory.active, x)
    }

    fn keep_middle(&mut self, keep: bool) -> Result<()> {
        let Scratch { memory, x, .. } = &mut *self.scratch;
        if keep { memory.middle.copy_from(x) } else { Ok(()) }
    }

    /// Leaves what the heads saw in `context`, before the output layer.
    fn attend(&mut self, attention: &Attention<T>, keep: bool) -> Result<()> {
        let (device, tokens) = (self.device, self.tokens);
        let Scratch { input, other, memory, angles, offsets, .. } = &mut *self.scratch;
        let Memory { projected, queries, keys, values, log_sums, context, .. } = memory;
        let projections = [(&attention.query, &mut *queries), (&attention.key, &mut *keys), (&attention.value, values)];
        let changed = attention.changes_projections();
        for (((layer, to), kept), changed) in projections.into_iter().zip(projected).zip(changed) {
            linear(device, layer, None, tokens, input, to)?;
            if keep && changed {
                kept.copy_from(to)?;
            }
        }
        for (norm, values) in [(&attention.query_norm, &mut *queries), (&attention.key_norm, &mut *keys)] {
            let Some(norm) = norm else { continue };
            norm.forward(device, values, other)?;
            std::mem::swap(values, other);
        }
        if let Some(most) = attention.clip {
            for values in [&mut *queries, &mut *keys, &mut *values] {
                device.run(&residual::clamp_launches(most, values.write())?)?;
            }
        }
        let heads = attention.heads;
        if let Some((angles, rotaries)) = self.weights.rotaries(attention, angles) {
            for (values, rotary) in [&mut *queries, &mut *keys].into_iter().zip(rotaries) {
                angles.turn(device, rotary, Direction::Forward, values, other)?;
            }
        }
        context.resize(queries.len())?;
        if keep {
            log_sums.resize(tokens * heads.queries)?;
        }
        let kernel = heads.kernel(attention.mask);
        let buffers = attention::Forward {
            q: attention::Heads::dense(queries.read(), heads.queries, heads.width),
            k: attention::Heads::dense(keys.read(), heads.keys, heads.width),
            v: attention::Heads::dense(values.read(), heads.keys, heads.width),
            o: attention::Heads::dense(context.write(), heads.queries, heads.width),
            log_sums: keep.then(|| log_sums.write()),
        };
        device.run(&kernel.forward_launches(Documents::same(tokens, offsets.read()), buffers)?)
    }

    /// Leaves what comes before the last linear layer in `active`.
    ///
    /// Without a gate the activation is applied before anything is rounded, unless a way back is to read what comes before it.
    fn feed(&mut self, feed_forward: &FeedForward<T>, keep: bool) -> Result<()> {
        let (device, tokens) = (self.device, self.tokens);
        let Scratch { input, memory, .. } = &mut *self.scratch;
        let Memory { gate, up, active, .. } = memory;
        let activation = feed_forward.activation;
        let fused = Some(Function::Activation(activation));
        match &feed_forward.gate {
            None if !keep => return linear(device, &feed_forward.up, fused, tokens, input, active),
            None => linear(device, &feed_forward.up, None, tokens, input, up)?,
            Some(layer) => {
                linear(device, &feed_forward.up, None, tokens, input, up)?;
                linear(device, layer, None, tokens, input, gate)?;
            }
        }
        active.resize(up.len())?;
        let buffers = match feed_forward.gate {
            Some(_) => glu::Forward { x: gate.read(), up: Some(up.read()), y: active.write() },
            None => glu::Forward { x: up.read(), up: None, y: active.write() },
        };
        device.run(&activation.forward_launches(buffers)?)
    }
}

impl<T: Float> Norm<T> {
    /// Overwrites y.
    pub(super) fn forward(&self, device: &Device, x: &Array<T>, y: &mut Array<T>) -> Result<()> {
        let Self { norm, weight, bias } = self;
        y.resize(x.len())?;
        let buffers = norms::Forward {
            x: x.read(),
            weight: weight.as_ref().map(Array::read),
            bias: bias.as_ref().map(Array::read),
            y: y.write(),
        };
        device.run(&norm.forward_launches(buffers)?)
    }

    /// Overwrites the gradient of x, given that of y.
    pub(super) fn backward(&self, device: &Device, x: &Array<T>, dy: &Array<T>, dx: &mut Array<T>) -> Result<()> {
        let Self { norm, weight, bias: _ } = self;
        dx.resize(x.len())?;
        let buffers = norms::Backward {
            x: x.read(),
            weight: weight.as_ref().map(Array::read),
            dy: dy.read(),
            dx: dx.write(),
            dweight: None,
            dbias: None,
        };
        device.run(&norm.backward_launches(buffers, None)?)
    }
}

/// y = norm(x), rounded; x itself without a norm.
pub(super) fn read_norm<T: Float>(
    device: &Device,
    norm: Option<&Norm<f32>>,
    width: usize,
    x: &Array<f32>,
    y: &mut Array<T>,
) -> Result<()> {
    y.resize(x.len())?;
    let buffers = NormBuffers {
        x: Some(x.read()),
        weight: norm.and_then(|norm| norm.weight.as_ref()).map(Array::read),
        bias: norm.and_then(|norm| norm.bias.as_ref()).map(Array::read),
        z: None,
        y: Some(y.write()),
    };
    device.run(&stream_norm(norm, width, false).launches(buffers)?)
}

/// A norm of the stream or into it; without one, rows as they are.
pub(super) fn stream_norm(norm: Option<&Norm<f32>>, width: usize, add: bool) -> residual::Norm {
    match norm.map(|norm| norm.norm) {
        Some(norms::Norm { kind, width, epsilon }) => residual::Norm { kind: Some(kind), width, epsilon, add },
        None => residual::Norm { kind: None, width, epsilon: 0.0, add },
    }
}

/// y = f(x·Wᵀ + b), in the type of x.
pub(super) fn linear<T: Float>(
    device: &Device,
    layer: &Linear<T>,
    function: Option<Function>,
    rows: usize,
    x: &Array<T>,
    y: &mut Array<T>,
) -> Result<()> {
    y.resize(rows * layer.outputs)?;
    product(device, layer, LinearLayer { function, ..shape(layer) }, rows, x, LinearOutput::Same(y.write()))
}

/// The same in f32.
pub(super) fn linear_to<T: Float>(
    device: &Device,
    layer: &Linear<T>,
    function: Option<Function>,
    rows: usize,
    x: &Array<T>,
    y: &mut Array<f32>,
) -> Result<()> {
    y.resize(rows * layer.outputs)?;
    product(device, layer, LinearLayer { function, ..shape(layer) }, rows, x, LinearOutput::Single(y.write()))
}

/// y += x·Wᵀ + b.
fn add_linear<T: Float>(
    device: &Device,
    layer: &Linear<T>,
    rows: usize,
    x: &Array<T>,
    y: &mut Array<f32>,
) -> Result<()> {
    product(device, layer, LinearLayer { accumulate: true, ..shape(layer) }, rows, x, LinearOutput::Single(y.write()))
}

const fn shape<T>(layer: &Linear<T>) -> LinearLayer {
    LinearLayer::new(layer.inputs, layer.outputs)
}

fn product<'a, T: Float>(
    device: &Device,
    layer: &'a Linear<T>,
    shape: LinearLayer,
    rows: usize,
    x: &'a Array<T>,
    y: LinearOutput<'a, T>,
) -> Result<()> {
    let (weights, bias) = (layer.weights.read(), layer.bias.as_ref().map(Array::read));
    device.run(&shape.launches(rows, LinearBuffers { x: x.read(), weights, bias, y })?)
}

//! The forward pass of a packed batch on a device: the same steps as [`Transformer`](crate::models::transformer::Transformer) takes on the CPU.

use std::sync::Arc;

use gristmill_kernels::attention::{self, Documents};
use gristmill_kernels::device::{Array, Device, DeviceError};
use gristmill_kernels::gemm::{Function, LinearBuffers, LinearLayer, LinearOutput};
use gristmill_kernels::glu;
use gristmill_kernels::launch::Float;
use gristmill_kernels::norms;
use gristmill_kernels::residual::{self, Embedding, EmbeddingBuffers, NormBuffers};
use gristmill_kernels::rotary::{Buffers, Direction, Pairing, Rotary};

use super::weights::{Attention, FeedForward, Layer, Linear, Norm, Weights};
use crate::models::batch::Batch;
use crate::models::layers::Order;
use crate::models::rope::Table;

type Result<T, E = DeviceError> = std::result::Result<T, E>;

/// Memory for one batch, kept for the next.
#[derive(Debug)]
pub(super) struct Scratch<T> {
    pub(super) offsets: Array<i64>,
    ids: Array<i32>,
    places: Array<i32>,
    angles: Vec<Angles>,
    /// The residual stream, `[tokens, hidden]`.
    pub(super) x: Array<f32>,
    /// What a layer reads: a norm of the stream, or the stream itself, rounded.
    pub(super) input: Array<T>,
    queries: Array<T>,
    keys: Array<T>,
    values: Array<T>,
    other: Array<T>,
    context: Array<T>,
    gate: Array<T>,
    up: Array<T>,
    part: Array<f32>,
}

/// Angles of one rotary embedding.
#[derive(Debug)]
struct Angles {
    /// The table that is on the device.
    table: Option<Arc<Table>>,
    cosines: Array<f32>,
    sines: Array<f32>,
    rows: Array<i32>,
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
            queries: device.empty(),
            keys: device.empty(),
            values: device.empty(),
            other: device.empty(),
            context: device.empty(),
            gate: device.empty(),
            up: device.empty(),
            part: device.empty(),
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
        scratch.offsets.upload(batch.offsets())?;
        let mut pass = Self { device, weights, scratch, tokens: batch.tokens(), rounded: false };
        pass.upload_angles(batch)?;
        pass.embed(batch)?;
        let layers = match until {
            Until::Layer(layers) => &weights.layers[..layers.min(weights.layers.len())],
            Until::End | Until::Head => &weights.layers[..],
        };
        for layer in layers {
            pass.layer(layer)?;
        }
        let last = weights.last_norm.as_ref();
        match until {
            Until::Layer(_) => {}
            Until::End => pass.update_stream(last, false, false)?,
            Until::Head => pass.read_stream(last)?,
        }
        Ok(pass)
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
            Some(norm) => self.update_stream(Some(norm), false, true),
            None => Ok(()),
        }
    }

    fn layer(&mut self, layer: &Layer<T>) -> Result<()> {
        let Layer { order, attention_norm, attention, feed_forward_norm, feed_forward } = layer;
        let (attention_norm, feed_norm) = (attention_norm.as_ref(), feed_forward_norm.as_ref());
        match order {
            Order::Before => {
                self.read_stream(attention_norm)?;
                self.attend(attention)?;
                self.add_context(attention)?;
                self.read_stream(feed_norm)?;
                self.feed(feed_forward)?;
                self.add_gate(feed_forward)
            }
            Order::Parallel => {
                self.read_stream(attention_norm)?;
                self.attend(attention)?;
                self.read_stream(feed_norm)?;
                self.feed(feed_forward)?;
                self.add_context(attention)?;
                self.add_gate(feed_forward)
            }
            Order::AfterSum => {
                self.read_stream(None)?;
                self.attend(attention)?;
                self.add_context(attention)?;
                self.update_stream(attention_norm, false, true)?;
                self.feed(feed_forward)?;
                self.add_gate(feed_forward)?;
                self.update_stream(feed_norm, false, true)
            }
            Order::AfterPart => {
                self.read_stream(None)?;
                self.attend(attention)?;
                let Scratch { context, part, .. } = &mut *self.scratch;
                linear_to(self.device, &attention.output, None, self.tokens, context, part)?;
                self.update_stream(attention_norm, true, true)?;
                self.feed(feed_forward)?;
                let Scratch { gate, part, .. } = &mut *self.scratch;
                linear_to(self.device, &feed_forward.down, None, self.tokens, gate, part)?;
                self.update_stream(feed_norm, true, true)
            }
        }
    }

    /// input = norm(x), rounded.
    fn read_stream(&mut self, norm: Option<&Norm<f32>>) -> Result<()> {
        if norm.is_none() && self.rounded {
            return Ok(());
        }
        self.rounded = norm.is_none();
        let Scratch { x, input, .. } = &mut *self.scratch;
        input.resize(x.len())?;
        let buffers = NormBuffers {
            x: Some(x.read()),
            weight: norm.and_then(|norm| norm.weight.as_ref()).map(Array::read),
            bias: norm.and_then(|norm| norm.bias.as_ref()).map(Array::read),
            z: None,
            y: Some(input.write()),
        };
        self.device.run(&stream_norm(norm, self.weights.hidden, false).launches(buffers)?)
    }

    /// x = norm(x), or x += norm(part) where there is a part; and input = x, rounded, where that is asked for.
    fn update_stream(&mut self, norm: Option<&Norm<f32>>, add_part: bool, round: bool) -> Result<()> {
        self.rounded = round;
        let Scratch { x, input, part, .. } = &mut *self.scratch;
        if round {
            input.resize(x.len())?;
        }
        let buffers = NormBuffers {
            x: add_part.then(|| part.read()),
            weight: norm.and_then(|norm| norm.weight.as_ref()).map(Array::read),
            bias: norm.and_then(|norm| norm.bias.as_ref()).map(Array::read),
            z: Some(x.write()),
            y: round.then(|| input.write()),
        };
        self.device.run(&stream_norm(norm, self.weights.hidden, add_part).launches::<T>(buffers)?)
    }

    fn add_context(&mut self, attention: &Attention<T>) -> Result<()> {
        self.rounded = false;
        let Scratch { context, x, .. } = &mut *self.scratch;
        add_linear(self.device, &attention.output, self.tokens, context, x)
    }

    fn add_gate(&mut self, feed_forward: &FeedForward<T>) -> Result<()> {
        self.rounded = false;
        let Scratch { gate, x, .. } = &mut *self.scratch;
        add_linear(self.device, &feed_forward.down, self.tokens, gate, x)
    }

    /// Leaves what the heads saw in `context`, before the output layer.
    fn attend(&mut self, attention: &Attention<T>) -> Result<()> {
        let (device, tokens) = (self.device, self.tokens);
        let Scratch { input, queries, keys, values, other, context, angles, offsets, .. } = &mut *self.scratch;
        let projections = [(&attention.query, &mut *queries), (&attention.key, &mut *keys), (&attention.value, values)];
        for (layer, to) in projections {
            linear(device, layer, None, tokens, input, to)?;
        }
        for (norm, values) in [(&attention.query_norm, &mut *queries), (&attention.key_norm, &mut *keys)] {
            let Some(Norm { norm, weight, bias }) = norm else { continue };
            other.resize(values.len())?;
            let buffers = norms::Forward {
                x: values.read(),
                weight: weight.as_ref().map(Array::read),
                bias: bias.as_ref().map(Array::read),
                y: other.write(),
            };
            device.run(&norm.forward_launches(buffers)?)?;
            std::mem::swap(values, other);
        }
        if let Some(most) = attention.clip {
            for values in [&mut *queries, &mut *keys, &mut *values] {
                device.run(&residual::clamp_launches(most, values.write())?)?;
            }
        }
        let heads = attention.heads;
        if let Some(number) = attention.rope {
            let (angles, rotated) = (&angles[number], self.weights.ropes[number].rotated());
            for (values, heads_of) in [(&mut *queries, heads.queries), (&mut *keys, heads.keys)] {
                let rotary = Rotary { heads: heads_of, head_width: heads.width, rotated, pairing: Pairing::Halves };
                other.resize(values.len())?;
                let buffers = Buffers {
                    x: values.read(),
                    cosines: angles.cosines.read(),
                    sines: angles.sines.read(),
                    positions: angles.rows.read(),
                    y: other.write(),
                };
                device.run(&rotary.launches(Direction::Forward, buffers)?)?;
                std::mem::swap(values, other);
            }
        }
        context.resize(queries.len())?;
        let kernel = heads.kernel(attention.mask);
        let buffers = attention::Forward {
            q: attention::Heads::dense(queries.read(), heads.queries, heads.width),
            k: attention::Heads::dense(keys.read(), heads.keys, heads.width),
            v: attention::Heads::dense(values.read(), heads.keys, heads.width),
            o: attention::Heads::dense(context.write(), heads.queries, heads.width),
            log_sums: None,
        };
        device.run(&kernel.forward_launches(Documents::same(tokens, offsets.read()), buffers)?)
    }

    /// Leaves what comes before the last linear layer in `gate`.
    fn feed(&mut self, feed_forward: &FeedForward<T>) -> Result<()> {
        let (device, tokens) = (self.device, self.tokens);
        let Scratch { input, gate, up, other, .. } = &mut *self.scratch;
        let activation = feed_forward.activation;
        let Some(layer) = &feed_forward.gate else {
            return linear(device, &feed_forward.up, Some(Function::Activation(activation)), tokens, input, gate);
        };
        linear(device, &feed_forward.up, None, tokens, input, up)?;
        linear(device, layer, None, tokens, input, other)?;
        gate.resize(up.len())?;
        let buffers = glu::Forward { x: other.read(), up: Some(up.read()), y: gate.write() };
        device.run(&activation.forward_launches(buffers)?)
    }
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

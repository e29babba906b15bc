//! The way back through a layer on a device, as [`gradients`](crate::models::gradients) has it on the CPU.
//!
//! The gradient of the residual stream is f32, as the stream is. What layers are given is rounded to the type of their weights, and so is what comes from attention and
//! activations; sums of products are f32.

use gristmill_kernels::attention::{self, Documents};
use gristmill_kernels::device::{Array, Device, DeviceError};
use gristmill_kernels::gemm::{LinearBuffers, LinearLayer, LinearOutput};
use gristmill_kernels::glu;
use gristmill_kernels::launch::Float;
use gristmill_kernels::residual::{self, NormBuffers};
use gristmill_kernels::rotary::Direction;

use super::forward::{Angles, Memory, read_norm, stream_norm};
use super::taps::Taps;
use super::weights::{Attention, FeedForward, Layer, Linear, Norm, Weights};
use crate::models::error::{ModelError, Result};
use crate::models::layers::Order;

/// Gradients on their way, in memory that is used again.
#[derive(Debug)]
pub(super) struct Deltas<T> {
    /// Of the residual stream, `[tokens, hidden]`.
    pub(super) stream: Array<f32>,
    /// What a part's last linear layer is given: that of the stream, or of what a norm made of the part, rounded.
    delta: Array<T>,
    /// Of what a part reads.
    pub(super) input: Array<f32>,
    normed: Array<f32>,
    /// Of what a part's last linear layer reads.
    inner: Array<T>,
    queries: Array<T>,
    keys: Array<T>,
    values: Array<T>,
    gate: Array<T>,
    up: Array<T>,
    other: Array<T>,
    /// What a part reads, made again.
    read: Array<T>,
    workspace: Array<f32>,
}

impl<T: Float> Deltas<T> {
    pub(super) fn new(device: &Device) -> Self {
        Self {
            stream: device.empty(),
            delta: device.empty(),
            input: device.empty(),
            normed: device.empty(),
            inner: device.empty(),
            queries: device.empty(),
            keys: device.empty(),
            values: device.empty(),
            gate: device.empty(),
            up: device.empty(),
            other: device.empty(),
            read: device.empty(),
            workspace: device.empty(),
        }
    }

    /// Makes room for all that a way back needs, so that it does not run out of memory on the way.
    pub(super) fn reserve(&mut self, weights: &Weights<T>, tokens: usize) -> Result<()> {
        let most = |of: fn(&Layer<T>) -> usize| weights.layers.iter().map(of).max().unwrap_or(0) * tokens;
        let hidden = weights.hidden * tokens;
        let heads = most(|layer| layer.attention.query.outputs.max(layer.attention.key.outputs));
        let wide = most(|layer| layer.feed_forward.up.outputs);
        for stream in [&mut self.stream, &mut self.input, &mut self.normed] {
            stream.resize(hidden)?;
        }
        self.delta.resize(hidden)?;
        self.read.resize(hidden)?;
        self.inner.resize(heads.max(wide))?;
        for of_heads in [&mut self.queries, &mut self.keys, &mut self.values, &mut self.other] {
            of_heads.resize(heads)?;
        }
        self.gate.resize(wide)?;
        self.up.resize(wide)?;
        self.workspace.resize(most(|layer| layer.attention.heads.queries))?;
        Ok(())
    }
}

/// A layer that was run, and what it left.
pub(super) struct Ran<'a, T> {
    pub(super) layer: &'a Layer<T>,
    /// The residual stream that it read.
    pub(super) x: &'a Array<f32>,
    pub(super) memory: &'a Memory<T>,
}

/// A way back through the layers.
pub(super) struct Back<'a, 't, T> {
    pub(super) device: &'a Device,
    pub(super) weights: &'a Weights<T>,
    pub(super) angles: &'a [Angles],
    pub(super) tokens: usize,
    pub(super) deltas: &'a mut Deltas<T>,
    pub(super) taps: &'a mut Taps<'t, T>,
}

impl<T: Float> Layer<T> {
    /// Whether a tap wants any of the layer's parameters.
    pub(super) fn is_wanted(&self, taps: &Taps<'_, T>) -> bool {
        self.linears().any(|linear| taps.wants(linear))
    }
}

impl<T: Float> Back<'_, '_, T> {
    /// The gradient of the stream before the last norm, from that of what it gave: `deltas.input`.
    pub(super) fn last_norm(&mut self, x: &Array<f32>) -> Result<()> {
        self.norm(self.weights.last_norm.as_ref(), x)?;
        std::mem::swap(&mut self.deltas.stream, &mut self.deltas.normed);
        Ok(())
    }

    /// Goes back through a layer: the gradient of the stream that it left becomes that of the one that it read, if that is wanted `below`, and is undefined
    /// otherwise.
    pub(super) fn layer(&mut self, ran: &Ran<'_, T>, below: bool) -> Result<()> {
        let Ran { layer, x, memory } = ran;
        let (attention_norm, feed_norm) = (layer.attention_norm.as_ref(), layer.feed_forward_norm.as_ref());
        // Whether the gradient of the stream between the parts is needed.
        let middle = below || self.wants_attention(&layer.attention);
        match layer.order {
            Order::Before => {
                self.round_stream()?;
                self.feed(ran, feed_norm, &memory.middle, middle)?;
                if !middle {
                    return Ok(());
                }
                self.norm(feed_norm, &memory.middle)?;
                self.add_to_stream(true)?;
                self.attend(ran, attention_norm, below)?;
                if below {
                    self.norm(attention_norm, x)?;
                    self.add_to_stream(false)?;
                }
            }
            Order::Parallel => {
                // Both parts are given the same.
                self.round_stream()?;
                self.feed(ran, feed_norm, x, below)?;
                if below {
                    self.norm(feed_norm, x)?;
                    self.add_to_stream(false)?;
                }
                self.attend(ran, attention_norm, below)?;
                if below {
                    self.norm(attention_norm, x)?;
                    self.add_to_stream(false)?;
                }
            }
            Order::AfterPart => {
                self.norm_stream(feed_norm, &memory.parts[1])?;
                self.feed(ran, None, &memory.middle, middle)?;
                if !middle {
                    return Ok(());
                }
                self.norm(None, x)?;
                self.add_to_stream(false)?;
                self.norm_stream(attention_norm, &memory.parts[0])?;
                self.attend(ran, None, below)?;
                if below {
                    self.norm(None, x)?;
                    self.add_to_stream(false)?;
                }
            }
            Order::AfterSum => return Err(ModelError::NotOnDevice { what: "gradients through norms of sums" }),
        }
        Ok(())
    }

    fn wants_attention(&self, attention: &Attention<T>) -> bool {
        let Attention { query, key, value, output, .. } = attention;
        [query, key, value, output].into_iter().any(|linear| self.taps.wants(linear))
    }

    /// delta = stream, rounded.
    fn round_stream(&mut self) -> Result<()> {
        let Deltas { stream, delta, .. } = &mut *self.deltas;
        Ok(read_norm(self.device, None, self.weights.hidden, stream, delta)?)
    }

    /// delta = the gradient of what a norm read, given that of the stream, rounded.
    fn norm_stream(&mut self, norm: Option<&Norm<f32>>, x: &Array<f32>) -> Result<()> {
        let Deltas { stream, normed, delta, .. } = &mut *self.deltas;
        let from = if norm_backward(self.device, norm, x, stream, normed)? { &*normed } else { stream };
        Ok(read_norm(self.device, None, self.weights.hidden, from, delta)?)
    }

    /// normed = the gradient of x, given that of its norm, `deltas.input`.
    fn norm(&mut self, norm: Option<&Norm<f32>>, x: &Array<f32>) -> Result<()> {
        let Deltas { input, normed, .. } = &mut *self.deltas;
        if !norm_backward(self.device, norm, x, input, normed)? {
            std::mem::swap(input, normed);
        }
        Ok(())
    }

    /// stream += normed; and delta = stream, rounded, if that is asked for.
    fn add_to_stream(&mut self, round: bool) -> Result<()> {
        let Deltas { stream, normed, delta, .. } = &mut *self.deltas;
        let (x, z, y) = (Some(normed.read()), Some(stream.write()), round.then(|| delta.write()));
        let buffers = NormBuffers { x, weight: None, bias: None, z, y };
        Ok(self.device.run(&stream_norm(None, self.weights.hidden, true).launches::<T>(buffers)?)?)
    }

    /// From `deltas.delta`, the gradient of what attention gives, to that of what it reads, `deltas.input`, if there is `need` of it. It reads the norm of x.
    fn attend(&mut self, ran: &Ran<'_, T>, norm: Option<&Norm<f32>>, need: bool) -> Result<()> {
        let &Ran { layer, x, memory } = ran;
        let attention = &layer.attention;
        let Attention { query, key, value, output, .. } = attention;
        let (device, tokens) = (self.device, self.tokens);
        let Deltas { delta, input, inner, queries, keys, values, other, read, workspace, .. } = &mut *self.deltas;
        self.taps.linear(&[(output, delta)], &memory.context)?;
        let wanted = [query, key, value].into_iter().any(|linear| self.taps.wants(linear));
        if !need && !wanted {
            return Ok(());
        }
        backward(device, output, tokens, delta, inner)?;
        queries.resize(memory.queries.len())?;
        keys.resize(memory.keys.len())?;
        values.resize(memory.values.len())?;
        let heads = attention.heads;
        workspace.resize(tokens * heads.queries)?;
        let buffers = attention::Backward {
            q: attention::Heads::dense(memory.queries.read(), heads.queries, heads.width),
            k: attention::Heads::dense(memory.keys.read(), heads.keys, heads.width),
            v: attention::Heads::dense(memory.values.read(), heads.keys, heads.width),
            o: attention::Heads::dense(memory.context.read(), heads.queries, heads.width),
            d_o: attention::Heads::dense(inner.read(), heads.queries, heads.width),
            log_sums: memory.log_sums.read(),
            dq: attention::Heads::dense(queries.write(), heads.queries, heads.width),
            dk: attention::Heads::dense(keys.write(), heads.keys, heads.width),
            dv: attention::Heads::dense(values.write(), heads.keys, heads.width),
        };
        let documents = Documents::same(tokens, self.taps.on_device.read());
        let kernel = heads.kernel(attention.mask);
        device.run(&kernel.backward_launches(documents, buffers, workspace.write())?)?;
        if let Some((angles, rotaries)) = self.weights.rotaries(attention, self.angles) {
            for (gradient, rotary) in [&mut *queries, &mut *keys].into_iter().zip(rotaries) {
                angles.turn(device, rotary, Direction::Backward, gradient, other)?;
            }
        }
        let norms = [attention.query_norm.as_ref(), attention.key_norm.as_ref(), None];
        for ((gradient, norm), projected) in
            [&mut *queries, &mut *keys, &mut *values].into_iter().zip(norms).zip(&memory.projected)
        {
            if let Some(most) = attention.clip {
                let clipped = match norm {
                    Some(norm) => {
                        norm.forward(device, projected, other)?;
                        &*other
                    }
                    None => projected,
                };
                device.run(&residual::clamp_backward_launches(most, clipped.read(), gradient.write())?)?;
            }
            if let Some(norm) = norm {
                norm.backward(device, projected, gradient, other)?;
                std::mem::swap(gradient, other);
            }
        }
        if wanted {
            read_norm(device, norm, self.weights.hidden, x, read)?;
            self.taps.linear(&[(query, &*queries), (key, &*keys), (value, &*values)], read)?;
        }
        if need {
            for (number, (linear, delta)) in
                [(query, &*queries), (key, &*keys), (value, &*values)].into_iter().enumerate()
            {
                backward_to(device, linear, tokens, delta, input, number > 0)?;
            }
        }
        Ok(())
    }

    /// The same of a feed-forward layer, which reads the norm of x.
    fn feed(&mut self, ran: &Ran<'_, T>, norm: Option<&Norm<f32>>, x: &Array<f32>, need: bool) -> Result<()> {
        let &Ran { layer, memory, .. } = ran;
        let FeedForward { gate, up, down, activation } = &layer.feed_forward;
        let (device, tokens) = (self.device, self.tokens);
        let Deltas { delta, input, inner, gate: of_gate, up: of_up, read, .. } = &mut *self.deltas;
        self.taps.linear(&[(down, delta)], &memory.active)?;
        let wanted = [Some(up), gate.as_ref()].into_iter().flatten().any(|linear| self.taps.wants(linear));
        if !need && !wanted {
            return Ok(());
        }
        backward(device, down, tokens, delta, inner)?;
        of_up.resize(memory.up.len())?;
        let buffers = match gate {
            None => glu::Backward { x: memory.up.read(), dy: inner.read(), dx: of_up.write(), up: None },
            Some(_) => {
                of_gate.resize(memory.gate.len())?;
                let up = Some((memory.up.read(), of_up.write()));
                glu::Backward { x: memory.gate.read(), dy: inner.read(), dx: of_gate.write(), up }
            }
        };
        device.run(&activation.backward_launches(buffers)?)?;
        let mut parts = vec![(up, &*of_up)];
        if let Some(gate) = gate {
            parts.insert(0, (gate, &*of_gate));
        }
        if wanted {
            read_norm(device, norm, self.weights.hidden, x, read)?;
            self.taps.linear(&parts, read)?;
        }
        if need {
            for (number, (linear, delta)) in parts.into_iter().enumerate() {
                backward_to(device, linear, tokens, delta, input, number > 0)?;
            }
        }
        Ok(())
    }
}

/// Overwrites dx, the gradient of x, given that of its norm; without a norm they are the same, and it answers false.
fn norm_backward(
    device: &Device,
    norm: Option<&Norm<f32>>,
    x: &Array<f32>,
    dy: &Array<f32>,
    dx: &mut Array<f32>,
) -> Result<bool, DeviceError> {
    let Some(norm) = norm else { return Ok(false) };
    norm.backward(device, x, dy, dx)?;
    Ok(true)
}

/// dx = δ·W, rounded.
fn backward<T: Float>(
    device: &Device,
    layer: &Linear<T>,
    tokens: usize,
    delta: &Array<T>,
    dx: &mut Array<T>,
) -> Result<(), DeviceError> {
    dx.resize(tokens * layer.inputs)?;
    product(device, layer, tokens, delta, LinearOutput::Same(dx.write()), false)
}

/// dx = δ·W, or dx += δ·W.
fn backward_to<T: Float>(
    device: &Device,
    layer: &Linear<T>,
    tokens: usize,
    delta: &Array<T>,
    dx: &mut Array<f32>,
    accumulate: bool,
) -> Result<(), DeviceError> {
    dx.resize(tokens * layer.inputs)?;
    product(device, layer, tokens, delta, LinearOutput::Single(dx.write()), accumulate)
}

fn product<T: Float>(
    device: &Device,
    layer: &Linear<T>,
    tokens: usize,
    delta: &Array<T>,
    y: LinearOutput<'_, T>,
    accumulate: bool,
) -> Result<(), DeviceError> {
    let shape = LinearLayer { transposed: true, accumulate, ..LinearLayer::new(layer.outputs, layer.inputs) };
    let buffers = LinearBuffers { x: delta.read(), weights: layer.weights.read(), bias: None, y };
    device.run(&shape.launches(tokens, buffers)?)
}

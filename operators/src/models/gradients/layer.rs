//! The backward pass of a layer, from the gradient of the residual stream that it leaves to that of the one that it reads.

use gristmill_kernels::attention::{Backward, Documents, Heads};
use gristmill_kernels::glu;
use gristmill_kernels::residual;
use gristmill_kernels::rotary::Direction;

use super::distances::Reached;
use super::pass::Pass;
use crate::models::error::Result;
use crate::models::layers::{Attention, FeedForward, Layer, Order};
use crate::models::rope::Angles;
use crate::models::transformer::{Memory, add, rows_of, turn};

/// Gradients on their way through a layer.
#[derive(Debug, Default)]
pub(super) struct Deltas {
    /// Of what a part reads.
    input: Vec<f32>,
    /// Of what the other part reads, where both read the same stream.
    other_input: Vec<f32>,
    /// Of what a part gives, where a norm comes between it and the sum.
    part: Vec<f32>,
    /// Of what a part's last linear layer reads.
    inner: Vec<f32>,
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    other: Vec<f32>,
    /// Of what attention reads of distances.
    pub(super) reached: Reached,
}

/// A layer that was run, and what it left.
#[derive(Clone, Copy)]
pub(super) struct Ran<'a> {
    pub(super) layer: &'a Layer,
    pub(super) angles: Option<(&'a Angles, usize)>,
    pub(super) offsets: &'a [i64],
    /// The residual stream that it read.
    pub(super) x: &'a [f32],
    pub(super) memory: &'a Memory,
}

impl Pass<'_> {
    /// Whether any parameter of a layer is wanted.
    pub(super) fn wants_layer(&self, layer: &Layer) -> bool {
        let FeedForward { gate, up, down, .. } = &layer.feed_forward;
        self.wants_attention(layer)
            || self.wants_norm(&layer.feed_forward_norm)
            || [Some(up), Some(down), gate.as_ref()].into_iter().flatten().any(|linear| self.wants_linear(linear))
    }

    fn wants_attention(&self, layer: &Layer) -> bool {
        let attention = &layer.attention;
        self.wants_norm(&layer.attention_norm) || self.wants_linear(&attention.output) || self.wants_heads(attention)
    }

    /// Whether anything is wanted of what comes before attention itself.
    fn wants_heads(&self, attention: &Attention) -> bool {
        let Attention { query, key, value, query_norm, key_norm, relative, .. } = attention;
        [query, key, value].into_iter().any(|linear| self.wants_linear(linear))
            || [query_norm, key_norm].into_iter().any(|norm| self.wants_norm(norm))
            || relative.as_ref().is_some_and(|relative| self.wants_relative(relative))
    }

    /// Goes back through a layer: `stream`, the gradient of what it left, becomes that of what it read if that is wanted `below`, and is
    /// undefined otherwise.
    pub(super) fn layer(
        &mut self,
        ran: Ran<'_>,
        below: bool,
        stream: &mut Vec<f32>,
        deltas: &mut Deltas,
    ) -> Result<()> {
        let Ran { layer, offsets, x, memory, .. } = ran;
        let Layer { order, attention_norm, feed_forward_norm, .. } = layer;
        // Whether the gradient of the stream between the parts is needed.
        let middle = below || self.wants_attention(layer);
        match order {
            Order::Before => {
                let read = if feed_forward_norm.is_some() { &memory.feed_normed } else { &memory.middle };
                let need = middle || self.wants_norm(feed_forward_norm);
                self.feed(ran, read, stream, need, deltas)?;
                if need {
                    self.norm(feed_forward_norm, &memory.middle, &mut deltas.input, offsets, 1)?;
                }
                if !middle {
                    return Ok(());
                }
                add(stream, &deltas.input);
                self.attend_before(ran, stream, below, deltas)?;
                if below {
                    add(stream, &deltas.input);
                }
            }
            Order::Parallel => {
                let read = if feed_forward_norm.is_some() { &memory.feed_normed[..] } else { x };
                let need = below || self.wants_norm(feed_forward_norm);
                self.feed(ran, read, stream, need, deltas)?;
                if need {
                    self.norm(feed_forward_norm, x, &mut deltas.input, offsets, 1)?;
                    std::mem::swap(&mut deltas.input, &mut deltas.other_input);
                }
                self.attend_before(ran, stream, below, deltas)?;
                if below {
                    add(stream, &deltas.other_input);
                    add(stream, &deltas.input);
                }
            }
            Order::AfterSum => {
                self.norm(feed_forward_norm, &memory.feed_normed, stream, offsets, 1)?;
                self.feed(ran, &memory.middle, stream, middle, deltas)?;
                if !middle {
                    return Ok(());
                }
                add(stream, &deltas.input);
                self.norm(attention_norm, &memory.normed, stream, offsets, 1)?;
                self.attend(ran, x, stream, below, deltas)?;
                if below {
                    add(stream, &deltas.input);
                }
            }
            Order::AfterPart => {
                let mut part = std::mem::take(&mut deltas.part);
                part.clone_from(stream);
                self.norm(feed_forward_norm, &memory.parts[1], &mut part, offsets, 1)?;
                self.feed(ran, &memory.middle, &part, middle, deltas)?;
                if middle {
                    add(stream, &deltas.input);
                    part.clone_from(stream);
                    self.norm(attention_norm, &memory.parts[0], &mut part, offsets, 1)?;
                    self.attend(ran, x, &part, below, deltas)?;
                }
                if below {
                    add(stream, &deltas.input);
                }
                deltas.part = part;
            }
        }
        Ok(())
    }

    /// Attention with a norm before it: `deltas.input` becomes the gradient of what the norm reads.
    fn attend_before(&mut self, ran: Ran<'_>, delta: &[f32], below: bool, deltas: &mut Deltas) -> Result<()> {
        let norm = &ran.layer.attention_norm;
        let read = if norm.is_some() { &ran.memory.normed[..] } else { ran.x };
        let need = below || self.wants_norm(norm);
        self.attend(ran, read, delta, need, deltas)?;
        if need {
            self.norm(norm, ran.x, &mut deltas.input, ran.offsets, 1)?;
        }
        Ok(())
    }

    /// From `delta`, the gradient of what attention gives, to that of x, what it reads: `deltas.input`, if there is `need` of it.
    fn attend(&mut self, ran: Ran<'_>, x: &[f32], delta: &[f32], need: bool, deltas: &mut Deltas) -> Result<()> {
        let Ran { layer: Layer { attention, .. }, angles, offsets, memory, .. } = ran;
        let compute = self.compute;
        self.linear(&[(&attention.output, delta)], &memory.context, offsets)?;
        if !need && !self.wants_heads(attention) {
            return Ok(());
        }
        let Deltas { input, inner, queries, keys, values, other, reached, .. } = deltas;
        attention.output.backward(compute, delta, inner)?;
        queries.resize(memory.queries.len(), 0.0);
        keys.resize(memory.keys.len(), 0.0);
        values.resize(memory.values.len(), 0.0);
        if let Some(relative) = &attention.relative {
            let read = [&mut queries[..], &mut keys[..], &mut values[..]];
            self.attend_relative((attention, relative), offsets, memory, inner, read, reached)?;
        } else {
            self.attend_dense(attention, offsets, memory, inner, [queries, keys, values])?;
        }
        turn(compute, attention, angles, Direction::Backward, [&mut *queries, &mut *keys], other)?;
        let norms = [&attention.query_norm, &attention.key_norm, &None];
        for ((gradient, norm), projected) in
            [&mut *queries, &mut *keys, &mut *values].into_iter().zip(norms).zip(&memory.projected)
        {
            if let Some(most) = attention.clip {
                let clipped = match norm {
                    Some(norm) => {
                        norm.forward(compute, projected, other)?;
                        &*other
                    }
                    None => projected,
                };
                residual::clamp_backward(most, clipped, gradient)?;
            }
            if let Some(of_norm) = norm {
                let per_token = projected.len() / of_norm.norm.width.max(1) / rows_of(offsets).max(1);
                self.norm(norm, projected, gradient, offsets, per_token)?;
            }
        }
        if let Some(relative) = &attention.relative {
            self.linear_relative((attention, relative), [queries, keys, values], x, offsets, reached)?;
        } else {
            let Attention { query, key, value, .. } = attention;
            self.linear(&[(query, &queries[..]), (key, &keys[..]), (value, &values[..])], x, offsets)?;
        }
        if need {
            attention.query.backward(compute, queries, input)?;
            attention.key.add_backward(compute, keys, input)?;
            attention.value.add_backward(compute, values, input)?;
        }
        Ok(())
    }

    /// Goes back through attention itself, where it is of contents alone.
    fn attend_dense(
        &self,
        attention: &Attention,
        offsets: &[i64],
        memory: &Memory,
        context: &[f32],
        [queries, keys, values]: [&mut [f32]; 3],
    ) -> Result<()> {
        fn dense<B>(buffer: B, heads: usize, width: usize) -> Heads<B> {
            Heads::dense(buffer, heads, width)
        }
        let heads = attention.heads;
        let slices = Backward {
            q: dense(memory.queries.as_slice(), heads.queries, heads.width),
            k: dense(memory.keys.as_slice(), heads.keys, heads.width),
            v: dense(memory.values.as_slice(), heads.keys, heads.width),
            o: dense(memory.context.as_slice(), heads.queries, heads.width),
            d_o: dense(context, heads.queries, heads.width),
            log_sums: memory.log_sums.as_slice(),
            dq: dense(queries, heads.queries, heads.width),
            dk: dense(keys, heads.keys, heads.width),
            dv: dense(values, heads.keys, heads.width),
        };
        let documents = Documents::same(rows_of(offsets), offsets);
        Ok(attention.kernel().backward(self.compute.workers, documents, slices)?)
    }

    /// As [`Pass::attend`], of a feed-forward layer.
    fn feed(&mut self, ran: Ran<'_>, x: &[f32], delta: &[f32], need: bool, deltas: &mut Deltas) -> Result<()> {
        let Ran { layer: Layer { feed_forward, .. }, offsets, memory, .. } = ran;
        let FeedForward { gate, up, down, activation } = feed_forward;
        let compute = self.compute;
        self.linear(&[(down, delta)], &memory.active, offsets)?;
        if !need && ![Some(up), gate.as_ref()].into_iter().flatten().any(|linear| self.wants_linear(linear)) {
            return Ok(());
        }
        let Deltas { input, inner, gate: of_gate, up: of_up, .. } = deltas;
        down.backward(compute, delta, inner)?;
        of_up.resize(memory.up.len(), 0.0);
        let Some(gate) = gate else {
            let slices = glu::Backward { x: memory.up.as_slice(), dy: inner, dx: of_up.as_mut_slice(), up: None };
            activation.backward(compute.workers, slices)?;
            self.linear(&[(up, of_up)], x, offsets)?;
            return if need { up.backward(compute, of_up, input) } else { Ok(()) };
        };
        of_gate.resize(memory.gate.len(), 0.0);
        let slices = glu::Backward {
            x: memory.gate.as_slice(),
            dy: inner,
            dx: of_gate.as_mut_slice(),
            up: Some((memory.up.as_slice(), of_up.as_mut_slice())),
        };
        activation.backward(compute.workers, slices)?;
        self.linear(&[(gate, of_gate), (up, of_up)], x, offsets)?;
        if need {
            gate.backward(compute, of_gate, input)?;
            up.add_backward(compute, of_up, input)?;
        }
        Ok(())
    }
}

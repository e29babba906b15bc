//! The stack of layers that all architectures here share: embeddings, layers, a last norm.
//!
//! Everything works on packed rows, one for each token, so nothing is spent on padding, and a row has the same bits whatever is beside it. A
//! layer overwrites the residual stream in place; intermediate results are kept in one [`Memory`] for all layers.

use gristmill_kernels::attention::{self, Documents};
use gristmill_kernels::glu;
use gristmill_kernels::rotary::{Buffers, Direction, Pairing, Rotary};

use super::batch::Batch;
use super::cache::Kept;
use super::convolution::Convolution;
use super::disentangled;
use super::error::Result;
use super::layers::{Attention, Compute, FeedForward, Layer, Norm, Order};
use super::linear::Linear;
use super::rope::{Angles, Rope};

/// What token ids become.
#[derive(Debug)]
pub(crate) struct Embeddings {
    /// Name of the module that has those of tokens.
    pub(crate) name: String,
    /// `[vocabulary, hidden]`.
    pub(crate) tokens: Vec<f32>,
    /// Learned positions, of which that of the first token is `first_position`.
    pub(crate) positions: Option<Vec<f32>>,
    pub(crate) first_position: usize,
    /// Added to every token: the type of the first segment.
    pub(crate) segment: Option<Vec<f32>>,
    /// From the width of the tables to that of the layers.
    pub(crate) projection: Option<Linear>,
    pub(crate) norm: Option<Norm>,
    /// Added to what the first layer leaves.
    pub(crate) convolution: Option<Convolution>,
    /// The most tokens of the texts that the model was trained with, where it takes longer ones.
    pub(crate) trained_positions: Option<usize>,
}

impl Embeddings {
    /// Of tokens alone.
    pub(crate) const fn of_tokens(name: String, tokens: Vec<f32>) -> Self {
        Self {
            name,
            tokens,
            positions: None,
            first_position: 0,
            segment: None,
            projection: None,
            norm: None,
            convolution: None,
            trained_positions: None,
        }
    }
}

/// A model without its head.
#[derive(Debug)]
pub(crate) struct Transformer {
    pub(crate) hidden: usize,
    pub(crate) vocabulary: usize,
    /// The most tokens of a document, where the model cannot take more.
    pub(crate) most_positions: Option<usize>,
    pub(crate) embeddings: Embeddings,
    pub(crate) ropes: Vec<Rope>,
    pub(crate) layers: Vec<Layer>,
    pub(crate) last_norm: Option<Norm>,
}

/// Intermediate results of a layer.
#[derive(Debug, Default)]
struct Memory {
    normed: Vec<f32>,
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    other: Vec<f32>,
    context: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    part: Vec<f32>,
    disentangled: disentangled::Memory,
}

/// The documents that rows belong to: where each begins, and the keys and values of what they continue, with the number of the layer.
struct Rows<'a, 'k> {
    offsets: &'a [i64],
    kept: Option<(&'a mut Kept<'k>, usize)>,
}

impl Transformer {
    /// Hidden states after the last norm, `[tokens, hidden]`. `each` sees the embeddings as 0, and what each layer leaves, before the last norm.
    pub(crate) fn forward(
        &self,
        compute: Compute<'_>,
        batch: &Batch,
        each: impl FnMut(usize, &[f32]),
    ) -> Result<Vec<f32>> {
        let x = self.run(compute, batch, &self.layers, None, each)?;
        self.last(compute, x)
    }

    /// The same of tokens that continue documents, whose keys and values are kept from call to call.
    pub(crate) fn forward_kept(&self, compute: Compute<'_>, batch: &Batch, kept: Kept<'_>) -> Result<Vec<f32>> {
        let x = self.run(compute, batch, &self.layers, Some(kept), |_, _| {})?;
        self.last(compute, x)
    }

    fn last(&self, compute: Compute<'_>, x: Vec<f32>) -> Result<Vec<f32>> {
        let Some(norm) = &self.last_norm else { return Ok(x) };
        let mut normed = Vec::new();
        norm.forward(compute, &x, &mut normed)?;
        Ok(normed)
    }

    /// What the first `layers` layers leave, `[tokens, hidden]`; the others do not run. No more than there are are taken.
    pub(crate) fn forward_to(&self, compute: Compute<'_>, batch: &Batch, layers: usize) -> Result<Vec<f32>> {
        self.run(compute, batch, &self.layers[..layers.min(self.layers.len())], None, |_, _| {})
    }

    fn run(
        &self,
        compute: Compute<'_>,
        batch: &Batch,
        layers: &[Layer],
        mut kept: Option<Kept<'_>>,
        mut each: impl FnMut(usize, &[f32]),
    ) -> Result<Vec<f32>> {
        batch.check(self.vocabulary, self.most_positions)?;
        let mut x = self.embed(compute, batch)?;
        let angles: Vec<Angles> =
            self.ropes.iter().map(|rope| rope.angles(batch.positions(), batch.offsets())).collect();
        let mut memory = Memory::default();
        each(0, &x);
        let convolution = self.embeddings.convolution.as_ref().filter(|_| !layers.is_empty());
        let mut convolved = convolution.map(|layer| layer.forward(compute, batch.offsets(), &x)).transpose()?;
        for (number, layer) in layers.iter().enumerate() {
            let kept = kept.as_mut().map(|kept| (kept, number));
            self.layer(compute, layer, &angles, Rows { offsets: batch.offsets(), kept }, &mut x, &mut memory)?;
            if let (Some(convolution), Some(convolved)) = (convolution, convolved.take()) {
                convolution.add(compute, &convolved, &mut x)?;
            }
            each(number + 1, &x);
        }
        Ok(x)
    }

    fn embed(&self, compute: Compute<'_>, batch: &Batch) -> Result<Vec<f32>> {
        let embeddings = &self.embeddings;
        let width = embeddings.projection.as_ref().map_or(self.hidden, Linear::inputs);
        let row = |table: &'_ [f32], row: usize| -> std::ops::Range<usize> {
            row * width..((row + 1) * width).min(table.len())
        };
        let mut x = Vec::with_capacity(batch.tokens() * width);
        for (&id, &position) in batch.ids().iter().zip(batch.positions()) {
            let start = x.len();
            x.extend_from_slice(&embeddings.tokens[row(&embeddings.tokens, id as usize)]);
            // In the order in which the models' own programs add them.
            let others = [
                embeddings.segment.as_deref(),
                embeddings
                    .positions
                    .as_deref()
                    .map(|table| &table[row(table, embeddings.first_position + position as usize)]),
            ];
            for other in others.into_iter().flatten() {
                x[start..].iter_mut().zip(other).for_each(|(x, other)| *x += other);
            }
        }
        if let Some(projection) = &embeddings.projection {
            let mut projected = Vec::new();
            projection.forward(compute, &x, &mut projected)?;
            x = projected;
        }
        after_sum(compute, &embeddings.norm, &mut x, &mut Vec::new())?;
        Ok(x)
    }

    fn layer(
        &self,
        compute: Compute<'_>,
        layer: &Layer,
        angles: &[Angles],
        rows: Rows<'_, '_>,
        x: &mut Vec<f32>,
        memory: &mut Memory,
    ) -> Result<()> {
        let Layer { order, attention_norm, attention, feed_forward_norm, feed_forward } = layer;
        let mut normed = std::mem::take(&mut memory.normed);
        let mut part = std::mem::take(&mut memory.part);
        match order {
            Order::Before => {
                attend(
                    compute,
                    attention,
                    self.angles_of(attention, angles),
                    rows,
                    before(compute, attention_norm, x, &mut normed)?,
                    memory,
                )?;
                attention.output.add(compute, &memory.context, x)?;
                feed(compute, feed_forward, before(compute, feed_forward_norm, x, &mut normed)?, memory)?;
                feed_forward.down.add(compute, &memory.gate, x)?;
            }
            Order::Parallel => {
                attend(
                    compute,
                    attention,
                    self.angles_of(attention, angles),
                    rows,
                    before(compute, attention_norm, x, &mut normed)?,
                    memory,
                )?;
                feed(compute, feed_forward, before(compute, feed_forward_norm, x, &mut normed)?, memory)?;
                attention.output.add(compute, &memory.context, x)?;
                feed_forward.down.add(compute, &memory.gate, x)?;
            }
            Order::AfterSum => {
                attend(compute, attention, self.angles_of(attention, angles), rows, x, memory)?;
                attention.output.add(compute, &memory.context, x)?;
                after_sum(compute, attention_norm, x, &mut normed)?;
                feed(compute, feed_forward, x, memory)?;
                feed_forward.down.add(compute, &memory.gate, x)?;
                after_sum(compute, feed_forward_norm, x, &mut normed)?;
            }
            Order::AfterPart => {
                attend(compute, attention, self.angles_of(attention, angles), rows, x, memory)?;
                attention.output.forward(compute, &memory.context, &mut part)?;
                add(x, before(compute, attention_norm, &part, &mut normed)?);
                feed(compute, feed_forward, x, memory)?;
                feed_forward.down.forward(compute, &memory.gate, &mut part)?;
                add(x, before(compute, feed_forward_norm, &part, &mut normed)?);
            }
        }
        (memory.normed, memory.part) = (normed, part);
        Ok(())
    }

    fn angles_of<'a>(&self, attention: &Attention, angles: &'a [Angles]) -> Option<(&'a Angles, usize)> {
        attention.rope.map(|rope| (&angles[rope], self.ropes[rope].rotated()))
    }
}

/// The rows themselves where there is no norm.
fn before<'a>(compute: Compute<'_>, norm: &Option<Norm>, x: &'a [f32], normed: &'a mut Vec<f32>) -> Result<&'a [f32]> {
    let Some(norm) = norm else { return Ok(x) };
    norm.forward(compute, x, normed)?;
    Ok(normed)
}

/// The rows are replaced by their norm, where there is one.
fn after_sum(compute: Compute<'_>, norm: &Option<Norm>, x: &mut Vec<f32>, normed: &mut Vec<f32>) -> Result<()> {
    if let Some(norm) = norm {
        norm.forward(compute, x, normed)?;
        std::mem::swap(x, normed);
    }
    Ok(())
}

fn add(x: &mut [f32], part: &[f32]) {
    x.iter_mut().zip(part).for_each(|(x, part)| *x += part);
}

/// Leaves what the heads saw in `memory.context`, before the output layer.
fn attend(
    compute: Compute<'_>,
    attention: &Attention,
    angles: Option<(&Angles, usize)>,
    rows: Rows<'_, '_>,
    x: &[f32],
    memory: &mut Memory,
) -> Result<()> {
    let Memory { queries, keys, values, other, context, disentangled, .. } = memory;
    for (linear, to) in
        [(&attention.query, &mut *queries), (&attention.key, &mut *keys), (&attention.value, &mut *values)]
    {
        linear.forward(compute, x, to)?;
    }
    // Norms come before clipping in the models that have either.
    for (norm, values) in [(&attention.query_norm, &mut *queries), (&attention.key_norm, &mut *keys)] {
        after_sum(compute, norm, values, other)?;
    }
    if let Some(most) = attention.clip {
        for values in [&mut *queries, &mut *keys, &mut *values] {
            values.iter_mut().for_each(|value| *value = value.clamp(-most, most));
        }
    }
    let heads = attention.heads;
    if let Some((angles, rotated)) = angles {
        for (values, heads_of) in [(&mut *queries, heads.queries), (&mut *keys, heads.keys)] {
            let rotary = Rotary { heads: heads_of, head_width: heads.width, rotated, pairing: Pairing::Halves };
            other.resize(values.len(), 0.0);
            let (cosines, sines) = (angles.table.cosines.as_slice(), angles.table.sines.as_slice());
            let buffers =
                Buffers { x: values.as_slice(), cosines, sines, positions: &angles.rows[..], y: other.as_mut_slice() };
            rotary.apply(compute.workers, Direction::Forward, buffers)?;
            std::mem::swap(values, other);
        }
    }
    context.resize(queries.len(), 0.0);
    let Rows { offsets, kept } = rows;
    if let Some(relative) = &attention.relative {
        return relative.forward(compute, heads, offsets, [queries, keys, values], context, disentangled);
    }
    let kernel = attention::Attention {
        query_heads: heads.queries,
        key_heads: heads.keys,
        width: heads.width,
        scale: heads.scale,
        mask: attention.mask,
    };
    if let Some((kept, layer)) = kept {
        return kept.attend(compute, layer, kernel, offsets, [queries, keys, values], context);
    }
    let slices = attention::Forward {
        q: attention::Heads::dense(queries.as_slice(), heads.queries, heads.width),
        k: attention::Heads::dense(keys.as_slice(), heads.keys, heads.width),
        v: attention::Heads::dense(values.as_slice(), heads.keys, heads.width),
        o: attention::Heads::dense(context.as_mut_slice(), heads.queries, heads.width),
        log_sums: None,
    };
    Ok(kernel.forward(compute.workers, Documents::same(rows_of(offsets), offsets), slices)?)
}

/// Tokens of all documents.
fn rows_of(offsets: &[i64]) -> usize {
    offsets.last().map_or(0, |&rows| rows as usize)
}

/// Leaves what comes before the last linear layer in `memory.gate`.
fn feed(compute: Compute<'_>, feed_forward: &FeedForward, x: &[f32], memory: &mut Memory) -> Result<()> {
    let Memory { gate, up, other, .. } = memory;
    let activation = feed_forward.activation;
    feed_forward.up.forward(compute, x, up)?;
    let forward = match &feed_forward.gate {
        Some(layer) => {
            layer.forward(compute, x, other)?;
            gate.resize(up.len(), 0.0);
            glu::Forward { x: other.as_slice(), up: Some(up.as_slice()), y: gate.as_mut_slice() }
        }
        None => {
            gate.resize(up.len(), 0.0);
            glu::Forward { x: up.as_slice(), up: None, y: gate.as_mut_slice() }
        }
    };
    Ok(activation.forward(compute.workers, forward)?)
}

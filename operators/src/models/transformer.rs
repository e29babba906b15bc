//! The stack of layers that all architectures here share: embeddings, layers, a last norm.
//!
//! Everything works on packed rows, one for each token, so nothing is spent on padding, and a row has the same bits whatever is beside it. A
//! layer overwrites the residual stream in place; intermediate results are kept in one [`Memory`] for all layers. A backward pass runs
//! the same code and reads them there.

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
use super::parameters::Values;
use super::rope::{Angles, Rope};

/// What token ids become.
#[derive(Debug)]
pub(crate) struct Embeddings {
    /// Name of the module that has those of tokens.
    pub(crate) name: String,
    /// `[vocabulary, hidden]`.
    pub(crate) tokens: Values,
    /// Learned positions, of which that of the first token is `first_position`.
    pub(crate) positions: Option<Values>,
    pub(crate) first_position: usize,
    /// Added to every token: the type of the first segment, the first row of its table.
    pub(crate) segment: Option<Values>,
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
    pub(crate) const fn of_tokens(name: String, tokens: Values) -> Self {
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

/// Why a layer runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// For what it leaves in the residual stream.
    Result,
    /// For that, and for what a backward pass reads.
    Both,
    /// For what a backward pass reads alone: products that only the result needs are left out, and the residual stream is then undefined.
    Backward,
}

/// Intermediate results of a layer. What a backward pass reads is the same whether the layer runs for the first time or again.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// What attention reads, where there is a norm before it; the sum before the norm where that comes after the sum.
    pub(crate) normed: Vec<f32>,
    /// The residual stream between the parts, for a backward pass.
    pub(crate) middle: Vec<f32>,
    /// As `normed`, of the feed-forward layer.
    pub(crate) feed_normed: Vec<f32>,
    /// What the parts give, where a norm comes between it and the sum.
    pub(crate) parts: [Vec<f32>; 2],
    /// Queries, keys and values as they are projected, for a backward pass, where they are normed or clipped.
    pub(crate) projected: [Vec<f32>; 3],
    /// Queries, keys and values as attention reads them.
    pub(crate) queries: Vec<f32>,
    pub(crate) keys: Vec<f32>,
    pub(crate) values: Vec<f32>,
    /// Of attention, `[tokens, query heads]`, for a backward pass.
    pub(crate) log_sums: Vec<f32>,
    pub(crate) context: Vec<f32>,
    /// Before the activation.
    pub(crate) gate: Vec<f32>,
    pub(crate) up: Vec<f32>,
    /// What the last linear layer reads.
    pub(crate) active: Vec<f32>,
    other: Vec<f32>,
    disentangled: disentangled::Memory,
}

impl Memory {
    /// How many numbers it holds at most for each token while a layer runs.
    pub(crate) fn elements(layer: &Layer, hidden: usize) -> usize {
        let Layer { order, attention, feed_forward, .. } = layer;
        let (queries, keys) =
            (attention.heads.queries * attention.heads.width, attention.heads.keys * attention.heads.width);
        let changed = attention.changes_projections().into_iter().zip([queries, keys, keys]);
        let projected: usize = changed.filter(|(changed, _)| *changed).map(|(_, width)| width).sum();
        let parts = if *order == Order::AfterPart { 2 * hidden } else { 0 };
        let wide = feed_forward.up.outputs() * if feed_forward.gate.is_some() { 3 } else { 2 };
        // The residual stream between the parts and after two norms; queries, what heads saw, and room to turn either; and the rest once.
        3 * hidden + parts + projected + 3 * queries + 2 * keys + attention.heads.queries + wide
    }
}

/// The documents that rows belong to: where each begins, and the keys and values of what they continue, with the number of the layer.
pub(crate) struct Rows<'a, 'k> {
    offsets: &'a [i64],
    kept: Option<(&'a mut Kept<'k>, usize)>,
}

impl<'a> Rows<'a, '_> {
    /// Of documents from their first token on.
    pub(crate) const fn whole(offsets: &'a [i64]) -> Self {
        Self { offsets, kept: None }
    }
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
        let angles = self.angles(batch);
        let mut memory = Memory::default();
        each(0, &x);
        let convolution = self.embeddings.convolution.as_ref().filter(|_| !layers.is_empty());
        let mut convolved = convolution.map(|layer| layer.forward(compute, batch.offsets(), &x)).transpose()?;
        for (number, layer) in layers.iter().enumerate() {
            let kept = kept.as_mut().map(|kept| (kept, number));
            let rows = Rows { offsets: batch.offsets(), kept };
            self.layer(compute, layer, &angles, rows, Purpose::Result, &mut x, &mut memory)?;
            if let (Some(convolution), Some(convolved)) = (convolution, convolved.take()) {
                convolution.add(compute, &convolved, &mut x, &mut memory.other)?;
            }
            each(number + 1, &x);
        }
        Ok(x)
    }

    /// Angles of all rotary embeddings.
    pub(crate) fn angles(&self, batch: &Batch) -> Vec<Angles> {
        self.ropes.iter().map(|rope| rope.angles(batch.positions(), batch.offsets())).collect()
    }

    /// What the first layer reads, `[tokens, hidden]`.
    pub(crate) fn embed(&self, compute: Compute<'_>, batch: &Batch) -> Result<Vec<f32>> {
        let mut x = self.embed_unnormed(compute, batch)?;
        after(compute, &self.embeddings.norm, &mut x, &mut Vec::new())?;
        Ok(x)
    }

    /// The same before the embeddings' norm.
    pub(crate) fn embed_unnormed(&self, compute: Compute<'_>, batch: &Batch) -> Result<Vec<f32>> {
        let x = self.look_up(batch);
        let Some(projection) = &self.embeddings.projection else { return Ok(x) };
        let mut projected = Vec::new();
        projection.forward(compute, &x, &mut projected)?;
        Ok(projected)
    }

    /// Sums of the rows of the tables, `[tokens, width of the tables]`.
    pub(crate) fn look_up(&self, batch: &Batch) -> Vec<f32> {
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
        x
    }

    /// Runs a layer.
    #[allow(clippy::too_many_arguments, reason = "the layer, its inputs, and where its results go")]
    pub(crate) fn layer(
        &self,
        compute: Compute<'_>,
        layer: &Layer,
        angles: &[Angles],
        rows: Rows<'_, '_>,
        purpose: Purpose,
        x: &mut Vec<f32>,
        memory: &mut Memory,
    ) -> Result<()> {
        let Layer { order, attention_norm, attention, feed_forward_norm, feed_forward } = layer;
        let keep = purpose != Purpose::Result;
        let mut normed = std::mem::take(&mut memory.normed);
        let mut feed_normed = std::mem::take(&mut memory.feed_normed);
        let turn = self.angles_of(attention, angles);
        match order {
            Order::Before => {
                let input = before(compute, attention_norm, x, &mut normed)?;
                attend(compute, attention, turn, rows, input, keep, memory)?;
                attention.output.add(compute, &memory.context, x)?;
                if keep {
                    memory.middle.clone_from(x);
                }
                feed(compute, feed_forward, before(compute, feed_forward_norm, x, &mut feed_normed)?, memory)?;
                if purpose != Purpose::Backward {
                    feed_forward.down.add(compute, &memory.active, x)?;
                }
            }
            Order::Parallel => {
                let input = before(compute, attention_norm, x, &mut normed)?;
                attend(compute, attention, turn, rows, input, keep, memory)?;
                feed(compute, feed_forward, before(compute, feed_forward_norm, x, &mut feed_normed)?, memory)?;
                if purpose != Purpose::Backward {
                    attention.output.add(compute, &memory.context, x)?;
                    feed_forward.down.add(compute, &memory.active, x)?;
                }
            }
            Order::AfterSum => {
                attend(compute, attention, turn, rows, x, keep, memory)?;
                attention.output.add(compute, &memory.context, x)?;
                after(compute, attention_norm, x, &mut normed)?;
                if keep {
                    memory.middle.clone_from(x);
                }
                feed(compute, feed_forward, x, memory)?;
                feed_forward.down.add(compute, &memory.active, x)?;
                after(compute, feed_forward_norm, x, &mut feed_normed)?;
            }
            Order::AfterPart => {
                attend(compute, attention, turn, rows, x, keep, memory)?;
                attention.output.forward(compute, &memory.context, &mut memory.parts[0])?;
                add(x, before(compute, attention_norm, &memory.parts[0], &mut normed)?);
                if keep {
                    memory.middle.clone_from(x);
                }
                feed(compute, feed_forward, x, memory)?;
                feed_forward.down.forward(compute, &memory.active, &mut memory.parts[1])?;
                add(x, before(compute, feed_forward_norm, &memory.parts[1], &mut feed_normed)?);
            }
        }
        (memory.normed, memory.feed_normed) = (normed, feed_normed);
        Ok(())
    }

    /// The angles of a layer's rotary embedding, and how many values of a head it turns.
    pub(crate) fn angles_of<'a>(&self, attention: &Attention, angles: &'a [Angles]) -> Option<(&'a Angles, usize)> {
        attention.rope.map(|rope| (&angles[rope], self.ropes[rope].rotated()))
    }
}

/// The rows themselves where there is no norm.
fn before<'a>(compute: Compute<'_>, norm: &Option<Norm>, x: &'a [f32], normed: &'a mut Vec<f32>) -> Result<&'a [f32]> {
    let Some(norm) = norm else { return Ok(x) };
    norm.forward(compute, x, normed)?;
    Ok(normed)
}

/// Norms rows, and leaves what they were.
pub(crate) fn after(
    compute: Compute<'_>,
    norm: &Option<Norm>,
    x: &mut Vec<f32>,
    unnormed: &mut Vec<f32>,
) -> Result<()> {
    if let Some(norm) = norm {
        norm.forward(compute, x, unnormed)?;
        std::mem::swap(x, unnormed);
    }
    Ok(())
}

pub(crate) fn add(x: &mut [f32], part: &[f32]) {
    x.iter_mut().zip(part).for_each(|(x, part)| *x += part);
}

/// Leaves what the heads saw in `memory.context`, before the output layer.
fn attend(
    compute: Compute<'_>,
    attention: &Attention,
    angles: Option<(&Angles, usize)>,
    rows: Rows<'_, '_>,
    x: &[f32],
    keep: bool,
    memory: &mut Memory,
) -> Result<()> {
    let Memory { projected, queries, keys, values, other, log_sums, context, disentangled, .. } = memory;
    for (linear, to) in
        [(&attention.query, &mut *queries), (&attention.key, &mut *keys), (&attention.value, &mut *values)]
    {
        linear.forward(compute, x, to)?;
    }
    if keep {
        let changed = attention.changes_projections();
        for ((values, to), changed) in [&*queries, &*keys, &*values].into_iter().zip(projected).zip(changed) {
            if changed {
                to.clone_from(values);
            }
        }
    }
    // Norms come before clipping in the models that have either.
    for (norm, values) in [(&attention.query_norm, &mut *queries), (&attention.key_norm, &mut *keys)] {
        after(compute, norm, values, other)?;
    }
    if let Some(most) = attention.clip {
        for values in [&mut *queries, &mut *keys, &mut *values] {
            values.iter_mut().for_each(|value| *value = value.clamp(-most, most));
        }
    }
    let heads = attention.heads;
    turn(compute, attention, angles, Direction::Forward, [queries, keys], other)?;
    context.resize(queries.len(), 0.0);
    let Rows { offsets, kept } = rows;
    if let Some(relative) = &attention.relative {
        relative.forward(compute, heads, offsets, [queries, keys, values], context, disentangled)?;
        if keep {
            // A backward pass makes it again, and as many layers as are kept would hold it.
            *disentangled = disentangled::Memory::default();
        }
        return Ok(());
    }
    if let Some((kept, layer)) = kept {
        return kept.attend(compute, layer, attention.kernel(), offsets, [queries, keys, values], context);
    }
    log_sums.resize(if keep { queries.len() / heads.width } else { 0 }, 0.0);
    let slices = attention::Forward {
        q: attention::Heads::dense(queries.as_slice(), heads.queries, heads.width),
        k: attention::Heads::dense(keys.as_slice(), heads.keys, heads.width),
        v: attention::Heads::dense(values.as_slice(), heads.keys, heads.width),
        o: attention::Heads::dense(context.as_mut_slice(), heads.queries, heads.width),
        log_sums: keep.then_some(log_sums.as_mut_slice()),
    };
    Ok(attention.kernel().forward(compute.workers, Documents::same(rows_of(offsets), offsets), slices)?)
}

/// Turns queries and keys by their positions, or their gradients back.
pub(crate) fn turn(
    compute: Compute<'_>,
    attention: &Attention,
    angles: Option<(&Angles, usize)>,
    direction: Direction,
    [queries, keys]: [&mut Vec<f32>; 2],
    other: &mut Vec<f32>,
) -> Result<()> {
    let Some((angles, rotated)) = angles else { return Ok(()) };
    let heads = attention.heads;
    for (values, heads_of) in [(queries, heads.queries), (keys, heads.keys)] {
        let rotary = Rotary { heads: heads_of, head_width: heads.width, rotated, pairing: Pairing::Halves };
        other.resize(values.len(), 0.0);
        let (cosines, sines) = (angles.table.cosines.as_slice(), angles.table.sines.as_slice());
        let buffers =
            Buffers { x: values.as_slice(), cosines, sines, positions: &angles.rows[..], y: other.as_mut_slice() };
        rotary.apply(compute.workers, direction, buffers)?;
        std::mem::swap(values, other);
    }
    Ok(())
}

/// Tokens of all documents.
pub(crate) fn rows_of(offsets: &[i64]) -> usize {
    offsets.last().map_or(0, |&rows| rows as usize)
}

/// Leaves what comes before the last linear layer in `memory.active`.
fn feed(compute: Compute<'_>, feed_forward: &FeedForward, x: &[f32], memory: &mut Memory) -> Result<()> {
    let Memory { gate, up, active, .. } = memory;
    feed_forward.up.forward(compute, x, up)?;
    active.resize(up.len(), 0.0);
    let slices = match &feed_forward.gate {
        Some(layer) => {
            layer.forward(compute, x, gate)?;
            glu::Forward { x: gate.as_slice(), up: Some(up.as_slice()), y: active.as_mut_slice() }
        }
        None => glu::Forward { x: up.as_slice(), up: None, y: active.as_mut_slice() },
    };
    Ok(feed_forward.activation.forward(compute.workers, slices)?)
}

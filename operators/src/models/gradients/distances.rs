//! The way back through keys and queries that layers make of the embeddings of distances, in attention with relative positions.
//!
//! The distances of a document reach some rows of the table. A layer that makes keys or queries of them reads these rows, as it reads tokens:
//! in the gradient of a layer that makes them of both, they come behind the tokens of each document. What they get in each layer
//! is added up for each document, from the last layer to the first, and goes back through the norm of the table, where there is one.

use super::pass::Pass;
use super::tap::{Gradient, Lookups, TableGradient, range};
use crate::models::disentangled::{self, Back, Disentangled, Embedded, Gradients};
use crate::models::error::Result;
use crate::models::layers::{Attention, Layer};
use crate::models::linear::Linear;
use crate::models::transformer::Memory;

/// Rows of the table that documents reach, and the gradients of what is made of them.
#[derive(Debug, Default)]
pub(super) struct Reached {
    /// Rows of the table, `[rows]`, and where those of each document begin, `[documents + 1]`.
    rows: Vec<u32>,
    offsets: Vec<i64>,
    /// Their embeddings as layers read them, `[rows, hidden]`.
    embedded: Vec<f32>,
    /// The gradient of these by all layers so far, where it is wanted.
    delta: Vec<f32>,
    /// Those of the keys and the queries that a layer makes of them, `[rows, heads * width]`.
    made: [Vec<f32>; 2],
    /// Rows of tokens and of these behind one another, and where documents begin.
    joined: [Vec<f32>; 2],
    joined_offsets: Vec<i64>,
    scores: disentangled::Memory,
    back: Back,
}

impl Reached {
    /// Lists the rows that the documents of a batch reach.
    fn list(&mut self, relative: &Disentangled, embedded: &Embedded, hidden: usize, offsets: &[i64]) {
        self.rows.clear();
        self.embedded.clear();
        self.offsets.clear();
        self.offsets.push(0);
        for document in 0..offsets.len() - 1 {
            let reached = relative.distances.reached(range(offsets, document).len());
            self.embedded.extend_from_slice(&embedded.values()[reached.start * hidden..reached.end * hidden]);
            self.rows.extend(reached.map(|row| row as u32));
            self.offsets.push(self.rows.len() as i64);
        }
        self.delta.clear();
        self.delta.resize(self.embedded.len(), 0.0);
        self.joined_offsets.clear();
        self.joined_offsets.extend(offsets.iter().zip(&self.offsets).map(|(tokens, rows)| tokens + rows));
    }
}

/// For each document the rows of a, and then those of b.
fn join(width: usize, [a, b]: [&[f32]; 2], [of_a, of_b]: [&[i64]; 2], to: &mut Vec<f32>) {
    to.clear();
    for document in 0..of_a.len() - 1 {
        for (rows, offsets) in [(a, of_a), (b, of_b)] {
            let place = range(offsets, document);
            to.extend_from_slice(&rows[place.start * width..place.end * width]);
        }
    }
}

/// The embeddings of distances, where layers have such.
fn embedded(layers: &[Layer]) -> Option<(&Disentangled, &Embedded)> {
    let relative = layers.first()?.attention.relative.as_ref()?;
    Some((relative, relative.embedded.as_deref()?))
}

impl Pass<'_> {
    /// Whether the table is wanted, or its norm.
    fn wants_embedded(&self, embedded: &Embedded) -> bool {
        self.tap.wants(&embedded.table.parameter) || self.wants_norm(&embedded.norm)
    }

    /// Whether anything is wanted of what attention reads of distances, besides the layers that make keys and queries of contents, too.
    pub(super) fn wants_relative(&self, relative: &Disentangled) -> bool {
        relative.own().into_iter().flatten().any(|linear| self.wants_linear(linear))
            || relative.embedded.as_ref().is_some_and(|embedded| self.wants_embedded(embedded))
    }

    /// Prepares for the documents of a batch.
    pub(super) fn begin_distances(&self, layers: &[Layer], hidden: usize, offsets: &[i64], reached: &mut Reached) {
        if let Some((relative, embedded)) = embedded(layers) {
            reached.list(relative, embedded, hidden, offsets);
        }
    }

    /// Goes back through attention itself, given the gradient of what heads see, to those of queries, keys and values, which are overwritten.
    pub(super) fn attend_relative(
        &self,
        (attention, relative): (&Attention, &Disentangled),
        offsets: &[i64],
        memory: &Memory,
        context: &[f32],
        read: [&mut [f32]; 3],
        reached: &mut Reached,
    ) -> Result<()> {
        let wanted = relative.embedded.as_ref().is_some_and(|embedded| self.wants_embedded(embedded));
        let makers =
            makers(attention, relative).map(|maker| maker.filter(|linear| wanted || self.wants_linear(linear)));
        let mut makers = makers.into_iter();
        let elements = reached.rows.len() * attention.key.outputs();
        let made = reached.made.each_mut().map(|made| {
            made.clear();
            makers.next().flatten().map(|_| {
                made.resize(elements, 0.0);
                made.as_mut_slice()
            })
        });
        let gradients = Gradients { context, read, made, rows: &reached.offsets };
        let read = [&memory.queries, &memory.keys, &memory.values].map(Vec::as_slice);
        let memory = (&mut reached.scores, &mut reached.back);
        relative.backward(self.compute, attention.heads, offsets, read, gradients, memory)
    }

    /// Hands out what is wanted of the layers that make queries, keys and values of contents x and of distances, given the gradients of these.
    pub(super) fn linear_relative(
        &mut self,
        (attention, relative): (&Attention, &Disentangled),
        [queries, keys, values]: [&[f32]; 3],
        x: &[f32],
        offsets: &[i64],
        reached: &mut Reached,
    ) -> Result<()> {
        let Reached { offsets: rows, embedded, delta, made, joined: [joined_x, joined_delta], joined_offsets, .. } =
            reached;
        let own = relative.own();
        joined_x.clear();
        for (linear, own_maker, maker, of_contents, of_distances) in [
            (&attention.query, own[1], makers(attention, relative)[1], queries, &made[1]),
            (&attention.key, own[0], makers(attention, relative)[0], keys, &made[0]),
        ] {
            if own_maker.is_some() || maker.is_none() {
                self.linear(&[(linear, of_contents)], x, offsets)?;
            } else if self.wants_linear(linear) {
                if joined_x.is_empty() {
                    join(linear.inputs(), [x, embedded], [offsets, rows], joined_x);
                }
                join(linear.outputs(), [of_contents, of_distances], [offsets, rows], joined_delta);
                self.linear(&[(linear, joined_delta)], joined_x, joined_offsets)?;
            }
        }
        self.linear(&[(&attention.value, values)], x, offsets)?;
        for (own, made) in own.into_iter().zip(&*made) {
            if let Some(own) = own {
                self.linear(&[(own, made)], embedded, rows)?;
            }
        }
        if relative.embedded.as_ref().is_some_and(|embedded| self.wants_embedded(embedded)) {
            for (maker, made) in makers(attention, relative).into_iter().zip(&*made) {
                if let Some(maker) = maker {
                    maker.add_backward(self.compute, made, delta)?;
                }
            }
        }
        Ok(())
    }

    /// Goes back through the table and its norm, after all layers.
    pub(super) fn distances(&mut self, layers: &[Layer], hidden: usize, reached: &mut Reached) -> Result<()> {
        let Some((_, Embedded { table, norm, .. })) = embedded(layers).filter(|(_, all)| self.wants_embedded(all))
        else {
            return Ok(());
        };
        let Reached { rows, offsets, delta, .. } = reached;
        if norm.is_some() {
            let row = |&row: &u32| &table[row as usize * hidden..][..hidden];
            let unnormed: Vec<f32> = rows.iter().flat_map(row).copied().collect();
            self.norm(norm, &unnormed, delta, offsets, 1)?;
        }
        let parameter = &*table.parameter;
        if !self.tap.wants(parameter) {
            return Ok(());
        }
        let lookups = Some(Lookups { rows, delta, offsets });
        self.tap.take(self.compute, &Gradient::Table(TableGradient { parameter, lookups, head: None }))
    }
}

/// The layers that make keys and queries of distances: of their own, or those of contents.
fn makers<'a>(attention: &'a Attention, relative: &'a Disentangled) -> [Option<&'a Linear>; 2] {
    let [own_key, own_query] = relative.own();
    let key = relative.keys.as_ref().map(|_| own_key.unwrap_or(&attention.key));
    [key, relative.queries.as_ref().map(|_| own_query.unwrap_or(&attention.query))]
}

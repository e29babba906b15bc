//! Gradients of documents' losses by a model's parameters.
//!
//! [`Backward`] runs a packed batch forward and back. It computes the gradients of activations alone, and hands to a [`Tap`], from the last
//! layer to the first, what the gradient of each parameter is made from: for a linear layer x, what it read, and δ, the gradient of what it
//! gave, of all tokens. Whoever projects gradients or keeps statistics needs no more, and whoever wants the gradients themselves takes
//! [`ParameterGradients`] or [`DocumentGradients`]. Nothing is computed that the tap does not want, and nothing below the first
//! layer of which it wants something.
//!
//! ```no_run
//! use gristmill_kernels::workers::Serial;
//! use gristmill_operators::Resources;
//! use gristmill_operators::models::gradients::{
//!     Backward, Loss, ParameterGradients, Reduction, TokenLoss, token_weights,
//! };
//! use gristmill_operators::models::{Batch, Compute, LoadOptions, Model, ParameterKind};
//!
//! let options = LoadOptions { gradients: true, ..LoadOptions::default() };
//! let (model, _) = Model::load("EleutherAI/pythia-70m", &Resources::local(), options)?;
//! let batch = Batch::of(&[12092, 13, 1533]);
//! let weights = token_weights(&batch, Reduction::Mean, |_, _| true);
//! let loss = Loss::Tokens(TokenLoss { weights: &weights, targets: None });
//! let mut gradients = ParameterGradients::new(|parameter| parameter.kind() == ParameterKind::Linear);
//! let compute = Compute { workers: &Serial, threads: 1 };
//! let losses = Backward::new(&model)?.run(compute, &batch, loss, &mut gradients)?;
//! println!("{:?}", losses.documents);
//! for (parameter, gradient) in gradients.iter() {
//!     println!("{} {:?}: {} elements", parameter.name(), parameter.shape(), gradient.len());
//! }
//! # Ok::<(), gristmill_operators::models::ModelError>(())
//! ```
//!
//! # Losses
//!
//! Each document has a loss of its own ([`Loss`]), and gradients are those of these losses: there is no mean over documents. Where a
//! document has no target (fewer than two tokens, weights of 0) its loss and its gradients are 0, and [`Losses::targets`] says so. A
//! loss that is infinite or not a number is an error that names the document; the tap then has seen nothing.
//!
//! # Parameters
//!
//! A parameter is a tensor of the checkpoint, by its name and in its layout, each once ([`Model::parameters`]). Where several layers of the
//! architecture are one tensor (queries, keys and values in GPT-NeoX, GPT-2 and ModernBERT) the tap gets the tensor's δ, outputs in
//! the order of its rows. Where the head is the embeddings the tap gets both parts in one call, the last one. Embeddings of distances (DeBERTa) get a part
//! in every layer: the tap gets their sum, after the first layer.
//!
//! # What results depend on
//!
//! What a tap gets of a document has the same bits alone and in any batch, for any number of threads, and however much is kept. bf16 weights
//! are multiplied with δ rounded to bf16; all else is f32. Sums over the tokens of a document are f32 (losses f64). Sums over documents are the
//! tap's.
//!
//! # Memory
//!
//! Forward, what each layer reads is kept, and a layer runs again before the pass goes back through it (Chen and others, *Training deep nets with
//! sublinear memory cost*, 2016). Beside the model that is, for T tokens, H the hidden size, Q and K the widths of all heads of
//! queries and of keys, F that of the feed-forward layer, and n the layers from the first wanted one on, at most
//!
//! ```text
//! 4 T (H (n + 4)                             streams that layers read, hidden states, and the gradient on its way
//!    + 5 H + 3 Q + 2 K + heads + 3 F         one layer, run again; with norms or clipping of heads Q + 2 K more
//!    + 4 H + 2 Q + 2 K + 3 F                 its gradients; those of a module's fused outputs (at most Q + 2 K or 2 F) beside them
//!    + 2 H)                                  rows with targets, and their gradients
//! ```
//!
//! bytes. For attention with relative positions it is, with R the rows that distances reach, of all documents, L the tokens of the longest one, and r its
//! rows (at most 2 L - 1, and those of the table); for a convolution of k tokens; and for tables of E numbers a token that are projected to H, at most
//!
//! ```text
//! 4 (T (H + Q) + R (5 H + 3 Q)               tokens and distances behind one another; gradients of keys, queries and embeddings
//!    + 2 L r + 8 max(2¹⁵, 32 L)              products and scores of a head
//!    + T H (k + 4)                           neighbours of each token, and what the convolution gives
//!    + 2 T E)                                sums of the tables' rows
//! ```
//!
//! bytes more; and what [`forward_backward_memory`](gristmill_kernels::linear_ce::LinearCe::forward_backward_memory) says for the head.
//! [`Backward::with_kept_bytes`] keeps the results of as many of the last layers as fit into so many bytes, instead of running them again.
//!
//! # Devices
//!
//! A model whose weights are on a device ([`Model::move_to`]) goes forward and back there, for losses of tokens, and for the weights and biases of linear
//! layers; other parameters are refused. Activations and their gradients then have the type of the weights, and sums are f32. What a tap takes is downloaded,
//! unless it has [projections](Tap::projections), which are made on the device. The results of all layers are kept, or of as many as there is memory for.

mod classifier;
mod collect;
mod convolution;
mod distances;
mod draw;
mod language_model;
mod layer;
mod loss;
mod pass;
mod tap;

#[cfg(test)]
mod tests;

pub use collect::{DocumentGradients, DocumentNorms, ParameterGradients};
pub use draw::drawn_targets;
pub(in crate::models) use language_model::Targets;
pub use loss::{Loss, Losses, Reduction, TokenLoss, token_weights};
pub(in crate::models) use pass::sum_rows;
pub use tap::{
    Gradient, HeadGradient, LinearGradient, Lookups, Projection, Projections, TableGradient, Tap, VectorGradient,
};

use super::error::{ModelError, Result};
use super::heads::Head;
use super::layers::Compute;
use super::parameters::{Parameter, ParameterKind};
use super::transformer::{Embeddings, Memory, Purpose, Rows, Transformer, add};
use super::{Batch, Model};
use classifier::Classified;
use language_model::TargetRows;
use layer::{Deltas, Ran};
use pass::{Pass, Scratch};

/// Runs batches forward and back, in memory that it uses again. See the [module](self).
#[derive(Debug)]
pub struct Backward<'m> {
    model: &'m Model,
    kept_bytes: usize,
    /// What layers read, from the first that is gone back through.
    streams: Vec<Vec<f32>>,
    /// Results of the last layers; of the last one at least.
    memories: Vec<Memory>,
    deltas: Deltas,
    scratch: Scratch,
    targets: TargetRows,
}

/// How far down a pass goes.
#[derive(Clone, Copy, Debug)]
struct Depth {
    /// The first layer that is gone back through; the number of layers where none is.
    first: usize,
    /// Whether it goes through all of them, to the embeddings.
    embeddings: bool,
    /// Whether there is need of the gradient of hidden states.
    states: bool,
}

impl<'m> Backward<'m> {
    /// For a model that was loaded with [`LoadOptions::gradients`](super::LoadOptions::gradients), or whose weights are on a device.
    ///
    /// # Errors
    /// [`ModelError::WithoutGradients`] where it is neither.
    pub fn new(model: &'m Model) -> Result<Self> {
        if !model.gradients && model.served.is_none() {
            return Err(ModelError::WithoutGradients);
        }
        Ok(Self {
            model,
            kept_bytes: 0,
            streams: Vec::new(),
            memories: Vec::new(),
            deltas: Deltas::default(),
            scratch: Scratch::default(),
            targets: TargetRows::default(),
        })
    }

    /// Keeps the results of as many of the last layers as fit into so many bytes, at least of one, so that they need not run again. Gradients have
    /// the same bits.
    #[must_use]
    pub fn with_kept_bytes(self, bytes: usize) -> Self {
        Self { kept_bytes: bytes, ..self }
    }

    /// Computes the losses of a batch, and hands to the tap what it wants of their gradients, from the last layer to the first.
    ///
    /// # Errors
    /// Token ids and lengths that the model does not have; a loss that a model of this kind does not have, of another length than the batch, or
    /// with targets that there are not; a loss that is not finite; and what the tap reports.
    pub fn run(&mut self, compute: Compute<'_>, batch: &Batch, loss: Loss<'_>, tap: &mut dyn Tap) -> Result<Losses> {
        let Self { model, kept_bytes, streams, memories, deltas, scratch, targets } = self;
        let transformer = &model.transformer;
        let Transformer { hidden, layers, last_norm, embeddings, .. } = transformer;
        let offsets = batch.offsets();
        expect_head(model, loss)?;
        batch.check(transformer.vocabulary, transformer.most_positions)?;
        if let Some(served) = &model.served {
            let Loss::Tokens(loss) = loss else {
                return Err(ModelError::NotOnDevice { what: "gradients of classifiers" });
            };
            return served.differentiate(compute, batch, loss, &model.parameters, tap);
        }
        let mut pass = Pass { compute, tap, scratch };
        let depth = pass.depth(transformer);

        // Forward.
        let angles = transformer.angles(batch);
        let kept = kept_layers(transformer, batch.tokens(), *kept_bytes).min(layers.len() - depth.first);
        memories.resize_with(kept.max(1), Memory::default);
        streams.resize_with(layers.len() - depth.first, Vec::new);
        let mut x = transformer.embed(compute, batch)?;
        let convolution = embeddings.convolution.as_ref().filter(|_| !layers.is_empty());
        let mut convolved = convolution.map(|layer| layer.forward(compute, offsets, &x)).transpose()?;
        let mut convolution_sum = Vec::new();
        for (number, layer) in layers.iter().enumerate() {
            if number >= depth.first {
                streams[number - depth.first].clone_from(&x);
            }
            let (purpose, memory) = match (number + kept).checked_sub(layers.len()) {
                Some(place) => (Purpose::Both, &mut memories[place]),
                None => (Purpose::Result, &mut memories[0]),
            };
            transformer.layer(compute, layer, &angles, Rows::whole(offsets), purpose, &mut x, memory)?;
            if let (Some(convolution), Some(convolved)) = (convolution, convolved.take()) {
                convolution.add(compute, &convolved, &mut x, &mut convolution_sum)?;
            }
        }
        let mut normed = Vec::new();
        let states = match last_norm {
            Some(norm) => {
                norm.forward(compute, &x, &mut normed)?;
                &normed
            }
            None => &x,
        };

        // The loss, and the gradient of hidden states.
        let linear_ce = model.linear_ce();
        let mut stream = Vec::new();
        let (losses, tied_head) = match (&model.head, loss) {
            (Head::LanguageModel(head), Loss::Tokens(loss)) => {
                let losses = targets.run(compute, (head, linear_ce), batch, loss, states, depth.states)?;
                if depth.states {
                    targets.spread(*hidden, batch.tokens(), &mut stream);
                }
                let own = model.parameters.iter().find(|parameter| parameter.kind() == ParameterKind::Head);
                if let Some(parameter) = own.filter(|parameter| pass.tap.wants(parameter)) {
                    let head = Some(targets.head_gradient(head, linear_ce));
                    pass.tap.take(compute, &Gradient::Table(TableGradient { parameter, lookups: None, head }))?;
                }
                (losses, own.is_none().then_some(head))
            }
            (Head::Classifier(classifier), loss) => {
                let activated = classifier.activate(compute, *hidden, states, offsets)?;
                let classified = Classified::new(activated, classifier.labels.len(), loss, offsets)?;
                if depth.states || pass.wants_classifier(classifier) {
                    pass.classifier(classifier, &classified, states, offsets, depth.states, &mut stream)?;
                }
                (classified.losses, None)
            }
            // Such losses are refused above.
            _ => (Losses::default(), None),
        };
        if !depth.states {
            return Ok(losses);
        }

        // Back.
        pass.norm(last_norm, &x, &mut stream, offsets, 1)?;
        pass.begin_distances(layers, *hidden, offsets, &mut deltas.reached);
        let mut of_embedded = None;
        for (number, layer) in layers.iter().enumerate().skip(depth.first).rev() {
            let read = &streams[number - depth.first];
            let below = depth.embeddings || number > depth.first;
            if let Some(convolution) = convolution.filter(|_| number == 0) {
                of_embedded = pass.convolution(convolution, read, &convolution_sum, &mut stream, offsets, below)?;
                if !below && !pass.wants_layer(layer) {
                    break;
                }
            }
            let memory = match (number + kept).checked_sub(layers.len()) {
                Some(place) => &mut memories[place],
                None => {
                    x.clone_from(read);
                    let (rows, memory) = (Rows::whole(offsets), &mut memories[0]);
                    transformer.layer(compute, layer, &angles, rows, Purpose::Backward, &mut x, memory)?;
                    &mut memories[0]
                }
            };
            let angles = transformer.angles_of(&layer.attention, &angles);
            pass.layer(Ran { layer, angles, offsets, x: read, memory }, below, &mut stream, deltas)?;
        }
        pass.distances(layers, *hidden, &mut deltas.reached)?;
        if let Some(delta) = of_embedded {
            add(&mut stream, &delta);
        }
        if depth.embeddings {
            let head = tied_head.map(|head| targets.head_gradient(head, linear_ce));
            pass.embeddings(transformer, batch, &mut stream, head)?;
        }
        Ok(losses)
    }
}

impl Pass<'_> {
    fn depth(&self, transformer: &Transformer) -> Depth {
        let Embeddings { projection, norm, convolution, .. } = &transformer.embeddings;
        let embeddings = self.tap.wants_inputs()
            || self.wants_norm(norm)
            || projection.as_ref().is_some_and(|projection| self.wants_linear(projection))
            || self.wants_tables(&transformer.embeddings);
        let layers = &transformer.layers;
        // The convolution comes beside the first layer.
        let first = match embeddings || convolution.as_ref().is_some_and(|layer| self.wants_convolution(layer)) {
            true => 0,
            false => layers.iter().position(|layer| self.wants_layer(layer)).unwrap_or(layers.len()),
        };
        let states = embeddings || first < layers.len() || self.wants_norm(&transformer.last_norm);
        Depth { first, embeddings, states }
    }

    /// Whether any of the tables is wanted that token ids are looked up in.
    fn wants_tables(&self, embeddings: &Embeddings) -> bool {
        let Embeddings { tokens, positions, segment, .. } = embeddings;
        let tables = [Some(tokens), positions.as_ref(), segment.as_ref()];
        tables.into_iter().flatten().any(|table| self.tap.wants(&table.parameter))
    }

    /// Goes back through the embeddings, given the gradient of what the first layer reads.
    fn embeddings(
        &mut self,
        transformer: &Transformer,
        batch: &Batch,
        stream: &mut Vec<f32>,
        head: Option<HeadGradient<'_>>,
    ) -> Result<()> {
        let Embeddings { tokens, positions, first_position, segment, projection, norm, .. } = &transformer.embeddings;
        let offsets = batch.offsets();
        if norm.is_some() {
            self.norm(norm, &transformer.embed_unnormed(self.compute, batch)?, stream, offsets, 1)?;
        }
        if self.tap.wants_inputs() {
            self.tap.take_inputs(self.compute, stream, offsets)?;
        }
        if let Some(projection) = projection {
            if self.wants_linear(projection) {
                self.linear(&[(projection, stream)], &transformer.look_up(batch), offsets)?;
            }
            if !self.wants_tables(&transformer.embeddings) {
                return Ok(());
            }
            let delta = std::mem::take(stream);
            projection.backward(self.compute, &delta, stream)?;
        }
        let mut table = |parameter: &Parameter, rows: &dyn Fn() -> Vec<u32>, head| {
            if !self.tap.wants(parameter) {
                return Ok(());
            }
            let lookups = Some(Lookups { rows: &rows(), delta: stream, offsets });
            self.tap.take(self.compute, &Gradient::Table(TableGradient { parameter, lookups, head }))
        };
        if let Some(segment) = segment {
            table(&segment.parameter, &|| vec![0; batch.tokens()], None)?;
        }
        if let Some(positions) = positions {
            let row = |&position: &i32| *first_position as u32 + position as u32;
            table(&positions.parameter, &|| batch.positions().iter().map(row).collect(), None)?;
        }
        table(&tokens.parameter, &|| batch.ids().to_vec(), head)
    }
}

/// How many of the last layers' results fit into so many bytes.
fn kept_layers(transformer: &Transformer, tokens: usize, bytes: usize) -> usize {
    let mut left = bytes;
    let fits = transformer.layers.iter().rev().take_while(|layer| {
        let needed = Memory::elements(layer, transformer.hidden) * tokens * size_of::<f32>();
        let fits = needed <= left;
        left = left.saturating_sub(needed);
        fits
    });
    fits.count().max(1)
}

/// Whether a model has the head that a loss is of.
fn expect_head(model: &Model, loss: Loss<'_>) -> Result<()> {
    let (fits, head) = match &model.head {
        Head::None => (false, "no head"),
        Head::LanguageModel(_) => (matches!(loss, Loss::Tokens(_)), "the head of a language model"),
        Head::Classifier(_) => (!matches!(loss, Loss::Tokens(_)), "the head of a classifier"),
    };
    if fits {
        return Ok(());
    }
    Err(ModelError::Loss { loss: loss.name(), model: model.kind.clone(), head })
}

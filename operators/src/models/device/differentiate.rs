//! Losses of a batch on a device, and the way back from them.

use gristmill_kernels::device::{Array, Device};
use gristmill_kernels::gemm::{LinearBuffers, LinearLayer, LinearOutput};
use gristmill_kernels::launch::Float;
use gristmill_kernels::linear_ce::{
    BackwardWorkspace, GradientBuffers, HeadBuffers, IGNORED, IdBuffer, LinearCe, RowBuffers, ScoreBuffers,
    TokenBuffers,
};
use gristmill_kernels::residual::{Embedding, EmbeddingBuffers};

use super::back::{Back, Deltas, Ran};
use super::forward::{Memory, Pass, Scratch, Until};
use super::heads::OnDevice;
use super::taps::{Projector, Taps};
use super::weights::{Head, Weights};
use crate::models::batch::Batch;
use crate::models::error::{ModelError, Result};
use crate::models::gradients::{Losses, Tap, Targets, TokenLoss};
use crate::models::layers::Compute;
use crate::models::transformer::Purpose;

/// Rows of logits that are held at a time.
const ROWS: usize = 128;

/// What else a model on a device can be asked for.
pub(super) trait Differentiate: Send {
    /// Computes losses, and hands to the tap what it wants of their gradients, from the last layer to the first. The ids are those of the model, and
    /// the tap wants parameters of linear layers alone.
    fn differentiate(
        &mut self,
        compute: Compute<'_>,
        batch: &Batch,
        loss: TokenLoss<'_>,
        tap: &mut dyn Tap,
    ) -> Result<Losses>;

    /// Shows the logits of some rows, `[vocabulary]` each, in the order in which they are named.
    fn logits(
        &mut self,
        batch: &Batch,
        rows: &[usize],
        each: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()>;
}

/// Memory of a way back, kept for the next.
#[derive(Debug)]
pub(super) struct BackScratch<T> {
    /// What layers read, from the first that is gone back through.
    streams: Vec<Array<f32>>,
    /// Results of the last layers; of the last one at least.
    memories: Vec<Memory<T>>,
    /// How many are kept at most. It falls where memory runs out.
    most_kept: usize,
    deltas: Deltas<T>,
    projector: Projector<T>,
    chosen: Targets,
    targets: Array<i64>,
    weights: Array<f32>,
    losses: Array<f32>,
    log_sums: Array<f32>,
    /// Of the head, forward and back.
    workspace: Array<f32>,
    values: Array<T>,
    sums: Array<f32>,
    /// Of hidden states.
    gradient: Array<T>,
    /// 0, 1, …: rows as they are.
    rows: Array<i32>,
    logits: Array<f32>,
}

impl<T: Float> BackScratch<T> {
    pub(super) fn new(device: &Device) -> Self {
        Self {
            streams: Vec::new(),
            memories: Vec::new(),
            most_kept: usize::MAX,
            deltas: Deltas::new(device),
            projector: Projector::new(device),
            chosen: Targets::default(),
            targets: device.empty(),
            weights: device.empty(),
            losses: device.empty(),
            log_sums: device.empty(),
            workspace: device.empty(),
            values: device.empty(),
            sums: device.empty(),
            gradient: device.empty(),
            rows: device.empty(),
            logits: device.empty(),
        }
    }

    /// Gives back all memory. How many layers' results are kept at most stays.
    pub(super) fn release(&mut self, device: &Device) {
        *self = Self { most_kept: self.most_kept, ..Self::new(device) };
    }

    /// Chooses targets, and makes room for all that comes after the last layer.
    fn prepare(&mut self, batch: &Batch, loss: TokenLoss<'_>, weights: &Weights<T>) -> Result<()> {
        let tokens = batch.tokens();
        let linear_ce = linear_ce(weights);
        self.chosen.choose(batch, loss, linear_ce.vocabulary)?;
        let (mut ids, mut of_rows) = (vec![IGNORED; tokens], vec![0.0; tokens]);
        let Targets { rows, ids: chosen, weights: counts, .. } = &self.chosen;
        for ((&row, &id), &weight) in rows.iter().zip(chosen).zip(counts) {
            (ids[row], of_rows[row]) = (id, weight);
        }
        self.targets.upload(&ids)?;
        self.weights.upload(&of_rows)?;
        self.rows.upload(&(0..i32::try_from(tokens).unwrap_or(i32::MAX)).collect::<Vec<_>>())?;
        self.losses.resize(tokens)?;
        self.log_sums.resize(tokens)?;
        self.workspace.resize(linear_ce.forward_workspace(tokens))?;
        let (values, sums) = linear_ce.backward_workspace(tokens);
        self.values.resize(values)?;
        self.sums.resize(sums)?;
        self.gradient.resize(tokens * weights.hidden)?;
        Ok(())
    }
}

const fn linear_ce<T>(weights: &Weights<T>) -> LinearCe {
    LinearCe { width: weights.hidden, vocabulary: weights.vocabulary, logit_scale: 1.0, label_smoothing: 0.0 }
}

/// The head's weights, where the model is a language model.
fn head<T>(weights: &Weights<T>) -> Result<&Array<T>> {
    match &weights.head {
        Head::LanguageModel(head) => Ok(head.as_ref().unwrap_or(&weights.embeddings.tokens)),
        Head::None | Head::Classifier(_) => {
            Err(ModelError::NotOnDevice { what: "gradients of other losses than tokens'" })
        }
    }
}

impl<T: Float> OnDevice<T> {
    /// One attempt with so many layers' results kept. It says how many were, and fails for want of memory only before the tap was handed anything.
    fn attempt(
        &mut self,
        compute: Compute<'_>,
        batch: &Batch,
        loss: TokenLoss<'_>,
        tap: &mut dyn Tap,
        kept: &mut usize,
    ) -> Result<Losses> {
        let Self { device, weights, scratch, back, .. } = self;
        let head = head(weights)?;
        let tokens = batch.tokens();
        back.prepare(batch, loss, weights)?;
        let BackScratch { streams, memories, most_kept, deltas, projector, .. } = back;
        // Taps borrow offsets, which the pass uploads into the same memory.
        let offsets = device.upload(batch.offsets())?;
        let mut taps = Taps::new(device, weights, compute, tap, (batch.offsets(), &offsets), projector)?;
        let layers = &weights.layers;
        let first = layers.iter().position(|layer| layer.is_wanted(&taps)).unwrap_or(layers.len());
        deltas.reserve(weights, tokens)?;
        *kept = (*most_kept).min(layers.len() - first).max(1);
        memories.resize_with(*kept, || Memory::new(device));
        streams.resize_with(layers.len() - first, || device.empty());

        // Forward.
        let mut pass = Pass::begin(device, weights, scratch, batch)?;
        for (number, layer) in layers.iter().enumerate() {
            if let Some(stream) = number.checked_sub(first).map(|place| &mut streams[place]) {
                stream.copy_from(&pass.scratch.x)?;
            }
            let place = (number + *kept).saturating_sub(layers.len());
            pass.layer_into(layer, Purpose::Both, &mut memories[place])?;
        }
        pass.read_stream(weights.last_norm.as_ref())?;

        // The loss, and the gradient of hidden states.
        let linear_ce = linear_ce(weights);
        let buffers = HeadBuffers { weights: head.read(), bias: None };
        let scores = ScoreBuffers {
            loss: back.losses.write(),
            log_sum_exp: back.log_sums.write(),
            best: None,
            best_log_probability: None,
            rank: None,
            workspace: back.workspace.write(),
        };
        let ids = IdBuffer::I64(back.targets.read());
        let hidden = pass.scratch.input.read();
        device.run(&linear_ce.forward_launches(hidden, buffers, TokenBuffers { ids, offsets: None }, scores)?)?;
        let of_rows = back.losses.download()?;
        let of_targets: Vec<f32> = back.chosen.rows.iter().map(|&row| of_rows[row]).collect();
        let losses = back.chosen.losses(batch, &of_targets)?;
        if first == layers.len() {
            taps.finish()?;
            return Ok(losses);
        }
        let rows = RowBuffers {
            hidden: pass.scratch.input.read(),
            ids: IdBuffer::I64(back.targets.read()),
            log_sum_exp: back.log_sums.read(),
            weights: back.weights.read(),
        };
        let workspace = BackwardWorkspace { values: back.values.write(), sums: back.sums.write() };
        let gradients = GradientBuffers { hidden: Some(back.gradient.write()), head: None, workspace };
        device.run(&linear_ce.backward_launches(
            rows,
            HeadBuffers { weights: head.read(), bias: None },
            gradients,
        )?)?;
        // In single precision, as the stream is.
        let buffers = EmbeddingBuffers {
            tokens: back.gradient.read(),
            positions: None,
            segment: None,
            ids: back.rows.read(),
            x: deltas.input.write(),
        };
        device.run(&Embedding { width: weights.hidden }.launches(buffers)?)?;

        // Back.
        let mut on_last = true;
        for (number, layer) in layers.iter().enumerate().skip(first).rev() {
            let read = &streams[number - first];
            let place = (number + *kept).checked_sub(layers.len());
            if on_last {
                let Pass { scratch, .. } = &pass;
                let mut back = way(device, weights, scratch, tokens, deltas, &mut taps);
                back.last_norm(&scratch.x)?;
                on_last = false;
            }
            if place.is_none() {
                pass.set_stream(read)?;
                pass.layer_into(layer, Purpose::Backward, &mut memories[0])?;
            }
            let ran = Ran { layer, x: read, memory: &memories[place.unwrap_or(0)] };
            way(device, weights, pass.scratch, tokens, deltas, &mut taps).layer(&ran, number > first)?;
        }
        taps.finish()?;
        Ok(losses)
    }
}

/// The way back from here on.
fn way<'a, 't, T>(
    device: &'a Device,
    weights: &'a Weights<T>,
    scratch: &'a Scratch<T>,
    tokens: usize,
    deltas: &'a mut Deltas<T>,
    taps: &'a mut Taps<'t, T>,
) -> Back<'a, 't, T> {
    Back { device, weights, angles: &scratch.angles, tokens, deltas, taps }
}

impl<T: Float> Differentiate for OnDevice<T> {
    fn differentiate(
        &mut self,
        compute: Compute<'_>,
        batch: &Batch,
        loss: TokenLoss<'_>,
        tap: &mut dyn Tap,
    ) -> Result<Losses> {
        loop {
            let mut kept = 1;
            let result = self.attempt(compute, batch, loss, tap, &mut kept);
            if !result.as_ref().is_err_and(ModelError::is_out_of_memory) {
                return result;
            }
            self.give_back();
            if kept <= 1 {
                return result;
            }
            self.back.most_kept = kept / 2;
        }
    }

    fn logits(
        &mut self,
        batch: &Batch,
        rows: &[usize],
        each: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let Self { device, weights, scratch, back, .. } = self;
        let head = head(weights)?;
        let Weights { hidden, vocabulary, .. } = *weights;
        Pass::run(device, weights, scratch, batch, Until::Head)?;
        for rows in rows.chunk_by(|&row, &next| next == row + 1).flat_map(|rows| rows.chunks(ROWS)) {
            let Some(&first) = rows.first() else { continue };
            back.logits.resize(rows.len() * vocabulary)?;
            let buffers = LinearBuffers {
                x: scratch.input.read().part(first * hidden, rows.len() * hidden),
                weights: head.read(),
                bias: None,
                y: LinearOutput::Single(back.logits.write()),
            };
            device.run(&LinearLayer::new(hidden, vocabulary).launches(rows.len(), buffers)?)?;
            let logits = back.logits.download()?;
            rows.iter().zip(logits.chunks_exact(vocabulary.max(1))).try_for_each(|(&row, logits)| each(row, logits))?;
        }
        Ok(())
    }
}

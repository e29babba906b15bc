//! A batch on a device forward to its losses, and back through the layers.

use gristmill_kernels::device::{Array, Device};
use gristmill_kernels::gemm::{LinearBuffers, LinearLayer, LinearOutput};
use gristmill_kernels::launch::Float;

use super::back::{Back, Deltas, Ran};
use super::forward::{Memory, Pass, Scratch, Until};
use super::heads::OnDevice;
use super::loss::{HeadLoss, head};
use super::taps::{Projector, Taps};
use super::weights::Weights;
use crate::models::batch::Batch;
use crate::models::error::{ModelError, Result};
use crate::models::gradients::{Losses, Tap, TokenLoss};
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
    loss: HeadLoss<T>,
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
            loss: HeadLoss::new(device),
            logits: device.empty(),
        }
    }

    /// Gives back all memory. How many layers' results are kept at most stays.
    pub(super) fn release(&mut self, device: &Device) {
        *self = Self { most_kept: self.most_kept, ..Self::new(device) };
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
        let tokens = batch.tokens();
        let BackScratch { streams, memories, most_kept, deltas, projector, loss: head_loss, .. } = back;
        head_loss.prepare(batch, loss, weights)?;
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

        let losses = head_loss.losses(device, weights, batch, &pass.scratch.input)?;
        if first == layers.len() {
            taps.finish()?;
            return Ok(losses);
        }

        // Back.
        head_loss.backward(device, weights, &pass.scratch.input, &mut deltas.input)?;
        way(device, weights, pass.scratch, tokens, deltas, &mut taps).last_norm(&pass.scratch.x)?;
        for (number, layer) in layers.iter().enumerate().skip(first).rev() {
            let read = &streams[number - first];
            let place = (number + *kept).checked_sub(layers.len());
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
        let mut released = false;
        loop {
            let mut kept = self.back.most_kept.min(self.weights.layers.len());
            let result = self.attempt(compute, batch, loss, tap, &mut kept);
            // What earlier batches left may have been in the way.
            if !result.as_ref().is_err_and(ModelError::is_out_of_memory) || (released && kept <= 1) {
                return result;
            }
            self.give_back();
            (released, self.back.most_kept) = (true, (kept / 2).max(1));
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

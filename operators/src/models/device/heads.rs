//! What is asked of a batch, on a device.

use gristmill_kernels::device::{Array, Device, DeviceError};
use gristmill_kernels::gemm::{LinearBuffers, LinearLayer, LinearOutput};
use gristmill_kernels::launch::Float;
use gristmill_kernels::linear_ce::{HeadBuffers, IdBuffer, LinearCe, ScoreBuffers, TokenBuffers};
use gristmill_kernels::pool::Pool;
use gristmill_kernels::residual::NormBuffers;

use super::Task;
use super::differentiate::BackScratch;
use super::forward::{Pass, Scratch, Until, linear_to, stream_norm};
use super::queue::Runner;
use super::weights::{Classifier, Head, Weights};
use crate::models::batch::Batch;

type Result<T, E = DeviceError> = std::result::Result<T, E>;

/// A model on a device, with the memory that it works in.
#[derive(Debug)]
pub(super) struct OnDevice<T> {
    pub(super) device: Device,
    pub(super) weights: Weights<T>,
    pub(super) scratch: Scratch<T>,
    results: Results<T>,
    pub(super) back: BackScratch<T>,
}

/// Memory for what heads make.
#[derive(Debug)]
struct Results<T> {
    targets: Array<i64>,
    losses: Array<f32>,
    log_sums: Array<f32>,
    workspace: Array<f32>,
    pooled: Array<f32>,
    input: Array<T>,
    inner: Array<f32>,
    logits: Array<f32>,
}

impl<T: Float> Results<T> {
    fn new(device: &Device) -> Self {
        Self {
            targets: device.empty(),
            losses: device.empty(),
            log_sums: device.empty(),
            workspace: device.empty(),
            pooled: device.empty(),
            input: device.empty(),
            inner: device.empty(),
            logits: device.empty(),
        }
    }
}

impl<T: Float> OnDevice<T> {
    pub(super) fn new(device: Device, weights: Weights<T>) -> Self {
        let (scratch, results) = (Scratch::new(&device, weights.ropes.len()), Results::new(&device));
        let back = BackScratch::new(&device);
        Self { device, weights, scratch, results, back }
    }

    /// Gives back all memory but that of weights.
    pub(super) fn give_back(&mut self) {
        let Self { device, weights, .. } = self;
        (self.scratch, self.results) = (Scratch::new(device, weights.ropes.len()), Results::new(device));
        self.back.release(device);
    }

    fn pass(&mut self, batch: &Batch, until: Until) -> Result<()> {
        Pass::run(&self.device, &self.weights, &mut self.scratch, batch, until).map(drop)
    }

    /// Leaves one row for each document in `results.pooled`, `[documents, hidden]`.
    fn pool(&mut self, batch: &Batch, pool: Pool) -> Result<()> {
        let (hidden, pooled) = (self.weights.hidden, &mut self.results.pooled);
        pooled.resize(batch.documents() * hidden)?;
        let (x, offsets) = (self.scratch.x.read(), self.scratch.offsets.read());
        self.device.run(&pool.launches(hidden, x, offsets, pooled.write())?)
    }

    fn losses(&mut self, batch: &Batch, targets: &[i64]) -> Result<Vec<f32>> {
        self.pass(batch, Until::Head)?;
        let Weights { hidden, vocabulary, head, embeddings, .. } = &self.weights;
        let linear_ce = LinearCe { width: *hidden, vocabulary: *vocabulary, logit_scale: 1.0, label_smoothing: 0.0 };
        let Head::LanguageModel(head) = head else { return Err(self.without_head("losses")) };
        let Results { targets: ids, losses, log_sums, workspace, .. } = &mut self.results;
        ids.upload(targets)?;
        losses.resize(targets.len())?;
        log_sums.resize(targets.len())?;
        workspace.resize(linear_ce.forward_workspace(targets.len()))?;
        let scores = ScoreBuffers {
            loss: losses.write(),
            log_sum_exp: log_sums.write(),
            best: None,
            best_log_probability: None,
            rank: None,
            workspace: workspace.write(),
        };
        let head = HeadBuffers { weights: head.as_ref().unwrap_or(&embeddings.tokens).read(), bias: None };
        let tokens = TokenBuffers { ids: IdBuffer::I64(ids.read()), offsets: None };
        self.device.run(&linear_ce.forward_launches(self.scratch.input.read(), head, tokens, scores)?)?;
        losses.download()
    }

    fn next_logits(&mut self, batch: &Batch) -> Result<Vec<f32>> {
        self.pass(batch, Until::End)?;
        self.pool(batch, Pool::Last)?;
        let Weights { hidden, vocabulary, head, embeddings, .. } = &self.weights;
        let Head::LanguageModel(head) = head else { return Err(self.without_head("logits")) };
        let Results { pooled, input, logits, .. } = &mut self.results;
        round(&self.device, *hidden, pooled, input)?;
        logits.resize(batch.documents() * vocabulary)?;
        let buffers = LinearBuffers {
            x: input.read(),
            weights: head.as_ref().unwrap_or(&embeddings.tokens).read(),
            bias: None,
            y: LinearOutput::Single(logits.write()),
        };
        self.device.run(&LinearLayer::new(*hidden, *vocabulary).launches(batch.documents(), buffers)?)?;
        logits.download()
    }

    fn classify(&mut self, batch: &Batch) -> Result<Vec<f32>> {
        let Head::Classifier(classifier) = &self.weights.head else {
            return Err(self.without_head("logits of labels"));
        };
        let pool = classifier.pool;
        self.pass(batch, Until::End)?;
        self.pool(batch, pool)?;
        let Head::Classifier(classifier) = &self.weights.head else {
            return Err(self.without_head("logits of labels"));
        };
        let Classifier { dense, norm, output, .. } = &**classifier;
        let (device, documents) = (&self.device, batch.documents());
        let Results { pooled, input, inner, logits, .. } = &mut self.results;
        round(device, self.weights.hidden, pooled, input)?;
        if let Some((dense, function)) = dense {
            linear_to(device, dense, Some(*function), documents, input, inner)?;
            std::mem::swap(inner, pooled);
        }
        if dense.is_some() || norm.is_some() {
            let (norm, width) = (norm.as_ref(), output.inputs);
            let buffers = NormBuffers {
                x: Some(pooled.read()),
                weight: norm.and_then(|norm| norm.weight.as_ref()).map(Array::read),
                bias: norm.and_then(|norm| norm.bias.as_ref()).map(Array::read),
                z: None,
                y: Some(input.write()),
            };
            device.run(&stream_norm(norm, width, false).launches(buffers)?)?;
        }
        linear_to(device, output, None, documents, input, logits)?;
        logits.download()
    }

    fn without_head(&self, what: &str) -> DeviceError {
        DeviceError::Failed { device: self.device.name(), message: format!("the model has not what {what} need") }
    }
}

/// Rows of f32 as those of a layer's input.
fn round<T: Float>(device: &Device, width: usize, from: &Array<f32>, to: &mut Array<T>) -> Result<()> {
    to.resize(from.len())?;
    let buffers = NormBuffers { x: Some(from.read()), weight: None, bias: None, z: None, y: Some(to.write()) };
    device.run(&stream_norm(None, width, false).launches(buffers)?)
}

impl<T: Float> Runner for OnDevice<T> {
    fn run(&mut self, task: Task, batch: &Batch) -> Result<Vec<Vec<f32>>> {
        let until = |layer: Option<usize>| layer.map_or(Until::End, Until::Layer);
        let documents = batch.documents();
        // Of rows of tokens a document has as many as it has tokens.
        let (values, by_token) = match task {
            Task::States { layer } => {
                self.pass(batch, until(layer))?;
                (self.scratch.x.download()?, true)
            }
            Task::Pooled { layer, pool } => {
                self.pass(batch, until(layer))?;
                self.pool(batch, pool)?;
                (self.results.pooled.download()?, false)
            }
            Task::Classify => (self.classify(batch)?, false),
            Task::Losses => (Batch::by_token(self.losses(batch, &batch.targets())?), true),
            Task::NextLogits => (self.next_logits(batch)?, false),
        };
        if !by_token {
            let width = values.len() / documents.max(1);
            return Ok((0..documents)
                .map(|document| values[document * width..(document + 1) * width].to_vec())
                .collect());
        }
        let width = values.len() / batch.tokens().max(1);
        let rows = batch.offsets().windows(2);
        Ok(rows.map(|row| values[row[0] as usize * width..row[1] as usize * width].to_vec()).collect())
    }

    fn release(&mut self) {
        self.give_back();
    }
}

//! A model behind a queue, on a thread of its own.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex};

use gristmill_kernels::device::Device;
use gristmill_kernels::gemm::Precision;
use gristmill_kernels::launch::Float;
use half::bf16;

use super::Task;
use super::differentiate::Differentiate;
use super::heads::OnDevice;
use super::queue::{Queue, Runner, lock};
use super::weights::Weights;
use crate::models::batch::Batch;
use crate::models::error::{ModelError, Result};
use crate::models::gradients::{Losses, Tap, TokenLoss};
use crate::models::heads::Head;
use crate::models::layers::{Compute, Layer};
use crate::models::parameters::Parameter;
use crate::models::transformer::Transformer;

/// A model whose weights are on a device.
#[derive(Debug)]
pub(crate) struct Served {
    queue: Queue,
    model: Shown<dyn Differentiate>,
    /// Indices of the parameters whose gradients a device computes.
    differentiable: HashSet<usize>,
    layers: usize,
    device: String,
}

/// A model that the queue and those who ask for gradients have in turn.
struct Shown<M: ?Sized>(Arc<Mutex<M>>);

impl<M: ?Sized> fmt::Debug for Shown<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("model")
    }
}

impl Served {
    /// Uploads a model in the type that its weights have, and begins to take batches of so many tokens.
    pub(crate) fn start(device: &Device, transformer: &Transformer, head: &Head, tokens: usize) -> Result<Self> {
        let precision = match transformer.layers.first() {
            Some(layer) => layer.attention.query.parts()?.0.precision(),
            None => Precision::F32,
        };
        match precision {
            Precision::F32 => Self::of::<f32>(device, transformer, head, tokens),
            Precision::Bf16 => Self::of::<bf16>(device, transformer, head, tokens),
        }
    }

    fn of<T: Float>(device: &Device, transformer: &Transformer, head: &Head, tokens: usize) -> Result<Self> {
        let weights = Weights::upload(device, transformer, head)?;
        let model = Arc::new(Mutex::new(OnDevice::<T>::new(device.clone(), weights)));
        let modules = transformer.layers.iter().flat_map(Layer::linears).map(|linear| &linear.place().module);
        let parameters = modules.flat_map(|module| [Some(module.weight()), module.bias()]);
        Ok(Self {
            queue: Queue::start(Arc::clone(&model) as Arc<Mutex<dyn Runner>>, tokens)?,
            model: Shown(model),
            differentiable: parameters.flatten().map(Parameter::index).collect(),
            layers: transformer.layers.len(),
            device: device.name(),
        })
    }

    /// Losses of a batch, whose ids are those of the model; the tap is handed what it wants of their gradients.
    pub(crate) fn differentiate(
        &self,
        compute: Compute<'_>,
        batch: &Batch,
        loss: TokenLoss<'_>,
        parameters: &[Arc<Parameter>],
        tap: &mut dyn Tap,
    ) -> Result<Losses> {
        let mut others = parameters.iter().filter(|parameter| !self.differentiable.contains(&parameter.index()));
        if tap.wants_inputs() || others.any(|parameter| tap.wants(parameter)) {
            return Err(ModelError::NotOnDevice { what: "gradients of norms, embeddings and heads" });
        }
        if batch.documents() == 0 {
            return Ok(Losses::default());
        }
        lock(&self.model.0).differentiate(compute, batch, loss, tap)
    }

    /// Shows the logits of some rows of a batch, whose ids are those of the model.
    pub(crate) fn logits(
        &self,
        batch: &Batch,
        rows: &[usize],
        each: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        lock(&self.model.0).logits(batch, rows, each)
    }

    /// Number of layers.
    pub(crate) const fn layers(&self) -> usize {
        self.layers
    }

    /// The kind of the device.
    pub(crate) fn device(&self) -> &str {
        &self.device
    }

    /// Results of all documents of a batch, one behind the other. The ids are those of the model.
    pub(crate) fn run(&self, task: Task, batch: &Batch) -> Result<Vec<f32>> {
        let documents = batch.offsets().windows(2);
        let documents: Vec<&[u32]> =
            documents.map(|document| &batch.ids()[document[0] as usize..document[1] as usize]).collect();
        Ok(self.queue.run(task, &documents)?.concat())
    }
}

//! A model behind a queue, on a thread of its own.

use gristmill_kernels::device::Device;
use gristmill_kernels::gemm::Precision;
use half::bf16;

use super::Task;
use super::heads::OnDevice;
use super::queue::{Queue, Runner};
use super::weights::Weights;
use crate::models::batch::Batch;
use crate::models::error::Result;
use crate::models::heads::Head;
use crate::models::transformer::Transformer;

/// A model whose weights are on a device.
#[derive(Debug)]
pub(crate) struct Served {
    queue: Queue,
    layers: usize,
    device: String,
}

impl Served {
    /// Uploads a model in the type that its weights have, and begins to take batches of so many tokens.
    pub(crate) fn start(device: &Device, transformer: &Transformer, head: &Head, tokens: usize) -> Result<Self> {
        let precision = match transformer.layers.first() {
            Some(layer) => layer.attention.query.parts()?.0.precision(),
            None => Precision::F32,
        };
        let runner: Box<dyn Runner> = match precision {
            Precision::F32 => {
                Box::new(OnDevice::<f32>::new(device.clone(), Weights::upload(device, transformer, head)?))
            }
            Precision::Bf16 => {
                Box::new(OnDevice::<bf16>::new(device.clone(), Weights::upload(device, transformer, head)?))
            }
        };
        let queue = Queue::start(runner, tokens)?;
        Ok(Self { queue, layers: transformer.layers.len(), device: device.name() })
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

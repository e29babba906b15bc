//! What can be wrong with a model's files.

use std::path::PathBuf;

use gristmill_kernels::device::DeviceError;
use gristmill_kernels::gemm::GemmError;
use gristmill_kernels::launch::ShapeError;

use crate::tokens::EncodeError;

/// A model that cannot be loaded, or inputs that it cannot take.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A file of the model cannot be read.
    #[error("cannot read {}: {message}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        message: String,
    },
    /// A file of a merged model cannot be written.
    #[error("cannot write {}: {message}", .path.display())]
    Write {
        /// The file or folder, or the tensor.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A file of the model is not what its name says.
    #[error("{}: {message}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        message: String,
    },
    /// The configuration asks for something that would change the numbers, and that is not supported.
    #[error("{}: '{key}' is {value}, and {allowed} is supported", .path.display())]
    Unsupported {
        /// The configuration.
        path: PathBuf,
        /// Path of the key.
        key: String,
        /// Its value.
        value: String,
        /// What may be there.
        allowed: String,
    },
    /// The configuration lacks a key.
    #[error("{}: '{key}' is missing; {expected} is expected", .path.display())]
    MissingKey {
        /// The configuration.
        path: PathBuf,
        /// The key.
        key: String,
        /// What it must be.
        expected: String,
    },
    /// The weights lack a tensor.
    #[error("{}: no tensor '{name}' (shape {expected:?} is expected); {}", .path.display(), .hint)]
    MissingTensor {
        /// The file, or the index of the files.
        path: PathBuf,
        /// Name of the tensor.
        name: String,
        /// Its shape by the configuration.
        expected: Vec<usize>,
        /// The name spelt most alike, or how many there are.
        hint: String,
    },
    /// A tensor is not of the shape that the configuration says.
    #[error("{}: tensor '{name}' has shape {found:?}, and {expected:?} is expected by the configuration", .path.display())]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// Name of the tensor.
        name: String,
        /// Its shape by the configuration.
        expected: Vec<usize>,
        /// Its shape in the file.
        found: Vec<usize>,
    },
    /// The weights have tensors that the architecture has no place for.
    #[error("{}: tensors without a place in the architecture {architecture}: {}", .path.display(), .names.join(", "))]
    UnusedTensors {
        /// The file, or the index of the files.
        path: PathBuf,
        /// The architecture.
        architecture: String,
        /// The first few names, and how many more there are.
        names: Vec<String>,
    },
    /// Token ids, positions or lengths that the model cannot take.
    #[error("{what} at {index} is {value}, and {allowed} is allowed")]
    Input {
        /// Which input.
        what: &'static str,
        /// Which of its elements.
        index: usize,
        /// Its value.
        value: i64,
        /// What may be given.
        allowed: String,
    },
    /// A model that does not predict tokens.
    #[error("a model of the kind '{kind}' without the head of a language model cannot write")]
    NotALanguageModel {
        /// The architecture.
        kind: String,
    },
    /// A way of choosing tokens that means nothing.
    #[error("{what} is {value}, and {allowed} is allowed")]
    Sampling {
        /// Which setting.
        what: &'static str,
        /// Its value.
        value: String,
        /// What may be given.
        allowed: &'static str,
    },
    /// The model's logits are not numbers, so that no token can be chosen.
    #[error(
        "the logits after prompt {prompt} are not numbers: the weights hold such, or values too large for single precision"
    )]
    NotNumbers {
        /// Number of the prompt.
        prompt: usize,
    },
    /// A text that the tokenizer cannot encode, or tokens that it cannot decode.
    #[error(transparent)]
    Text(#[from] EncodeError),
    /// A device that has too little memory, or fails.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Something that is computed on the CPU alone.
    #[error("{what} are not computed on a device; choose the CPU")]
    NotOnDevice {
        /// What was asked for.
        what: &'static str,
    },
    /// An adapter that cannot be used, or does not belong to the model.
    #[error("{0}")]
    Adapter(#[source] Box<Self>),
    /// Gradients of a model that was loaded for inference alone.
    #[error("the model was loaded without gradients; load it with LoadOptions {{ gradients: true, .. }}")]
    WithoutGradients,
    /// Gradients of a model in a form that has none.
    #[error(
        "gradients are asked for, and {what} have none; load the model with the weights as they are, or with the adapter merged into them"
    )]
    NotDifferentiated {
        /// In what form the model was to be loaded.
        what: &'static str,
    },
    /// A loss that a model of this kind does not have.
    #[error("a loss of {loss} is asked for, and the model {model} has {head}")]
    Loss {
        /// What was asked for.
        loss: &'static str,
        /// The architecture.
        model: String,
        /// What the model computes.
        head: &'static str,
    },
    /// What a loss is made from has another length than the batch asks for.
    #[error("{what}: {found} were given, and {expected} are expected")]
    Length {
        /// Which list.
        what: &'static str,
        /// How many there must be.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// A loss that is infinite or not a number: no gradient was computed.
    #[error("the loss of document {document} of the batch is {loss}")]
    NotFinite {
        /// Number of the document in its batch.
        document: usize,
        /// Its loss.
        loss: f64,
    },
    /// What a [`Tap`](super::gradients::Tap) reports.
    #[error("a gradient could not be taken: {0}")]
    Tap(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Sizes of the configuration that do not belong together.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A matrix that cannot be multiplied.
    #[error(transparent)]
    Product(#[from] GemmError),
}

/// The result of something done with a model.
pub type Result<T, E = ModelError> = std::result::Result<T, E>;

impl ModelError {
    /// Whether a device had too little memory: a smaller batch may fit.
    pub const fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::Device(DeviceError::OutOfMemory { .. }))
    }
}

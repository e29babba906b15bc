//! Language models and encoders, loaded from Hugging Face folders.
//!
//! A [`Model`] is read from `config.json` and safetensors, as transformers 4 or 5 writes them. What a configuration asks for and is not
//! supported is refused by name. Texts are packed one behind the other ([`Batch`]), so that nothing is spent on padding.
//!
//! # Numbers
//!
//! What passes from one layer to the next, norms, attention, activation functions and all sums are f32. With [`Precision::Bf16`] both operands of
//! each product with the weights of a linear layer or a head are rounded to bf16, the nearest with ties to even: weights when they are
//! loaded, activations before each product. Embeddings, biases and the parameters of norms stay f32, unlike in a model of transformers
//! whose type is bf16, which rounds all of them and every intermediate result. f16 is no precision to compute in; weights stored in it are
//! read. With [`LoadOptions::four_bits`] weights of linear layers are NF4.
//!
//! A document has the same bits alone and in any batch, whatever the number of threads. Formulas follow the models' own programs in
//! transformers, whose results in f32 agree to the rounding of f32.
//!
//! Computed on a device ([`Model::move_to`]), what layers compute has the type of the weights, and so have embeddings; a document has the same bits alone and in any
//! batch there, too, and other bits than on the CPU.

mod adapters;
mod architectures;
mod batch;
mod cache;
pub mod chat;
mod choices;
#[cfg(test)]
mod choices_tests;
mod config;
mod convolution;
mod device;
mod disentangled;
mod error;
mod files;
mod four_bits;
pub mod generate;
pub mod gradients;
mod heads;
mod layers;
mod linear;
mod loader;
mod merge;
mod parameters;
mod rope;
mod sentence;
mod transformer;
mod weights;

#[cfg(test)]
mod deberta_fixture;
#[cfg(test)]
mod deberta_tests;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod weights_tests;

pub use adapters::Apply;
pub use batch::Batch;
pub use cache::{Cache, Continuation};
pub use choices::{Choice, Likelihood};
pub use error::{ModelError, Result};
pub use gristmill_kernels::gemm::Precision;
pub use layers::Compute;
pub use merge::{MergeOptions, Merged, merge};
pub use parameters::{Module, Parameter, ParameterKind};
pub(crate) use sentence::Sentence;

use std::sync::Arc;

use crate::{ResourceIdentity, Resources};
use adapters::Adapter;
use config::Config;
use device::{Served, Task};
pub(crate) use files::ModelFiles;
use gristmill_kernels::device::Device;
use gristmill_kernels::gemm::{Matrix, Values};
use gristmill_kernels::linear_ce::{self, Ids, LinearCe, Scores, Tokens};
use gristmill_kernels::pool::Pool;
use heads::Head;
use loader::Loader;
use transformer::{Embeddings, Transformer};
pub(crate) use weights::Weights;

/// Elements of a head that the attention kernels can take.
const WIDEST_HEAD: usize = 256;

/// How a model is loaded.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// What operands of products with weights are rounded to; the weights of linear layers and heads take 4 or 2 bytes each.
    pub precision: Precision,
    /// Whether the weights of linear layers are quantised to NF4 with double quantisation (Dettmers and others, 2023), as transformers does it with
    /// bitsandbytes: codes and scales are the same, and so are the layers. Left as they are: embeddings, the head of a language model, and of
    /// a decoder's classifier; the head of an encoder's classifier is quantised. A weight takes 0.516 bytes; it is
    /// unquantised to f32, or to bf16 with that precision, for each product anew.
    pub four_bits: bool,
    /// Whether [gradients] can be computed. Weights of linear layers and of the head of a language model then take twice the memory, since
    /// they are held in the order of backward passes, too; and layers that only make keys and queries of distances (DeBERTa) are held, which
    /// inference does without. Not together with four bits, nor with an adapter beside the weights.
    pub gradients: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { precision: Precision::F32, four_bits: false, gradients: false }
    }
}

/// An adapter that a model is loaded with.
#[derive(Clone, Copy, Debug)]
pub struct AdapterOptions<'a> {
    /// A folder, a URL or a repository on the Hugging Face Hub with `adapter_config.json` and `adapter_model.safetensors`.
    pub location: &'a str,
    /// How it is applied to linear layers.
    pub apply: Apply,
}

/// A model with its weights.
#[derive(Debug)]
pub struct Model {
    kind: String,
    /// What the configuration says labels are to each other.
    problem: Option<String>,
    transformer: Transformer,
    head: Head,
    /// Where weights are on a device: then those of `transformer` and `head` are gone.
    served: Option<Served>,
    parameters: Vec<Arc<Parameter>>,
    /// Whether it was loaded with what gradients need.
    gradients: bool,
}

impl Model {
    /// Loads `config.json` and the weights of a location: a folder, a URL that `resources` can read, or a repository on the Hugging Face
    /// Hub such as `EleutherAI/pythia-160m`. The identities are those of all files that were read.
    ///
    /// # Errors
    /// A file that cannot be read, an architecture or a setting that is not supported, a tensor that is missing, of another shape, or
    /// that the architecture has no place for.
    pub fn load(location: &str, resources: &Resources, options: LoadOptions) -> Result<(Self, Vec<ResourceIdentity>)> {
        Self::load_adapted(location, None, resources, options)
    }

    /// The same with an adapter in the format of peft: LoRA, rsLoRA or DoRA of linear layers and embeddings, modules that were saved whole, and
    /// trained tokens. The identities are those of the model's and the adapter's files.
    ///
    /// An adapter of a classifier that was trained on a language model or an encoder without one makes it a classifier, with the head that the adapter brings.
    ///
    /// # Errors
    /// As of [`Model::load`]; other kinds of adapters, and settings that are not supported; a tensor of the adapter that has no place in the
    /// model, or is missing where the adapter's configuration says that there is one.
    pub fn load_adapted(
        location: &str,
        adapter: Option<AdapterOptions<'_>>,
        resources: &Resources,
        options: LoadOptions,
    ) -> Result<(Self, Vec<ResourceIdentity>)> {
        let files = ModelFiles::new(location, resources);
        files.expect_model()?;
        let mut config = Config::read(&files)?;
        let weights = Weights::open(&files)?;
        let Some(AdapterOptions { location, apply }) = adapter else {
            return Ok((Self::assemble(&config, &weights, None, options)?, files.identities()));
        };
        let adapter_files = ModelFiles::new(location, resources);
        let of_adapter = |error| ModelError::Adapter(Box::new(error));
        let adapter = Adapter::open(&adapter_files, apply).map_err(of_adapter)?;
        adapter.adjust(&mut config);
        let model = Self::assemble(&config, &weights, Some(&adapter), options)?;
        Ok((model, [files.identities(), adapter_files.identities()].concat()))
    }

    fn assemble(config: &Config, weights: &Weights, adapter: Option<&Adapter>, options: LoadOptions) -> Result<Self> {
        if config.get("quantization_config").is_some() {
            return Err(config.unsupported("quantization_config", "a model without one"));
        }
        let assemble = architectures::find(config)?;
        let kind = config.model_type()?.to_owned();
        let beside = adapter.is_some_and(Adapter::stays_beside);
        if options.gradients && (options.four_bits || beside) {
            let what = if options.four_bits { "weights in four bits" } else { "an adapter beside the weights" };
            return Err(ModelError::NotDifferentiated { what });
        }
        let loader = Loader::new(weights, options).with(adapter);
        let architectures::Assembled { transformer, head } = assemble(config, &loader)?;
        weights.expect_all_used(&kind)?;
        let used = adapter.map_or(Ok(()), |adapter| adapter.expect_all_used(&kind));
        used.map_err(|error| ModelError::Adapter(Box::new(error)))?;
        let width = transformer.layers.first().map_or(1, |layer| layer.attention.heads.width);
        if !(1..=WIDEST_HEAD).contains(&width) {
            let key = if config.get("head_dim").is_some() { "head_dim" } else { "hidden_size" };
            return Err(
                config.unsupported(key, format!("heads of 1 to {WIDEST_HEAD} elements each (these have {width})"))
            );
        }
        let problem = config.text("problem_type")?.map(str::to_owned);
        let parameters = loader.parameters();
        Ok(Self { kind, problem, transformer, head, served: None, parameters, gradients: options.gradients })
    }

    /// The tensors of the checkpoint that results depend on, each once: what has a gradient.
    pub fn parameters(&self) -> impl ExactSizeIterator<Item = &Parameter> {
        self.parameters.iter().map(AsRef::as_ref)
    }

    /// The architecture, as `model_type` of the configuration names it.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Elements of a hidden state.
    pub fn hidden_size(&self) -> usize {
        self.transformer.hidden
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.served.as_ref().map_or(self.transformer.layers.len(), Served::layers)
    }

    /// Moves the weights to a device, which computes from then on: hidden states, pooled or not, logits of classifiers and of next
    /// tokens, and losses. They are given back on the CPU. Texts are written and choices compared on the CPU alone.
    ///
    /// All threads may ask at the same time; what they ask is sorted by length and packed to `tokens` tokens for each batch, or fewer where the device has
    /// too little memory for so many. Results do not depend on it.
    ///
    /// # Errors
    /// Too little memory on the device, a driver that fails, or a model that devices do not compute: relative positions in attention (DeBERTa), weights in four
    /// bits, adapters beside the weights. The model is then as it was.
    pub fn move_to(&mut self, device: &Device, tokens: usize) -> Result<()> {
        if self.served.is_some() {
            return Err(ModelError::NotOnDevice { what: "weights that are on another one" });
        }
        self.served = Some(Served::start(device, &self.transformer, &self.head, tokens)?);
        (self.transformer.layers, self.transformer.last_norm) = (Vec::new(), None);
        let trained_positions = self.transformer.embeddings.trained_positions;
        self.transformer.embeddings =
            Embeddings { trained_positions, ..Embeddings::of_tokens(String::new(), parameters::Values::nothing()) };
        self.head = match std::mem::replace(&mut self.head, Head::None) {
            Head::Classifier(classifier) => Head::Classifier(Box::new(classifier.without_weights()?)),
            Head::LanguageModel(_) => Head::LanguageModel(linear_ce::Head::new(
                Matrix::row_major(Values::F32(&[]), 0, 0)?,
                None,
                Precision::F32,
            )?),
            Head::None => Head::None,
        };
        Ok(())
    }

    /// The kind of device that computes, where it is not the CPU.
    pub fn device(&self) -> Option<&str> {
        self.served.as_ref().map(Served::device)
    }

    /// Results of a device for each document, one behind the other; `None` where the CPU computes.
    fn serve(&self, task: Task, batch: &Batch) -> Result<Option<Vec<f32>>> {
        let Some(served) = &self.served else { return Ok(None) };
        batch.check(self.vocabulary(), self.most_positions())?;
        served.run(task, batch).map(Some)
    }

    /// Refuses what a device does not compute.
    const fn expect_cpu(&self, what: &'static str) -> Result<()> {
        if self.served.is_some() { Err(ModelError::NotOnDevice { what }) } else { Ok(()) }
    }

    /// Number of tokens that the model knows.
    pub fn vocabulary(&self) -> usize {
        self.transformer.vocabulary
    }

    /// The most tokens of a document, where there is a limit.
    pub fn most_positions(&self) -> Option<usize> {
        self.transformer.most_positions
    }

    /// Bytes of this machine's memory that the weights of linear layers take, without heads, biases, and what an adapter adds beside them.
    pub fn layers_memory(&self) -> usize {
        let linears = self.transformer.layers.iter().flat_map(layers::Layer::linears);
        linears.map(linear::Linear::memory).sum()
    }

    /// The most tokens of the texts that the model was trained with. Beyond it a model that has no limit may be of little use.
    pub fn trained_positions(&self) -> Option<usize> {
        self.transformer.embeddings.trained_positions.or(self.transformer.most_positions)
    }

    /// Names of the labels of a classifier.
    pub fn labels(&self) -> Option<&[String]> {
        match &self.head {
            Head::Classifier(classifier) => Some(&classifier.labels),
            _ => None,
        }
    }

    /// `problem_type` of the configuration: what labels are to each other, where it says so.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Hidden states after the last norm, `[tokens, hidden size]`.
    ///
    /// # Errors
    /// A token id or a length that the model does not have.
    pub fn hidden_states(&self, compute: Compute<'_>, batch: &Batch) -> Result<Vec<f32>> {
        match self.serve(Task::States { layer: None }, batch)? {
            Some(states) => Ok(states),
            None => self.transformer.forward(compute, batch, |_, _| {}),
        }
    }

    /// One row for each document, `[documents, hidden size]`: of the states after the last norm, or of those that a layer leaves, as
    /// [`Model::layer_states`].
    ///
    /// # Errors
    /// As of [`Model::hidden_states`].
    pub fn pooled(&self, compute: Compute<'_>, batch: &Batch, layer: Option<usize>, pool: Pool) -> Result<Vec<f32>> {
        if let Some(pooled) = self.serve(Task::Pooled { layer, pool }, batch)? {
            return Ok(pooled);
        }
        let states = match layer {
            None => self.hidden_states(compute, batch)?,
            Some(layer) => self.layer_states(compute, batch, layer)?,
        };
        let mut pooled = vec![0.0; batch.documents() * self.hidden_size()];
        pool.forward(compute.workers, self.hidden_size(), &states, batch.offsets(), &mut pooled)?;
        Ok(pooled)
    }

    /// The same, and `each` sees the embeddings as 0 and the residual stream that each layer leaves, before the last norm.
    ///
    /// # Errors
    /// As of [`Model::hidden_states`].
    pub fn every_hidden_state(
        &self,
        compute: Compute<'_>,
        batch: &Batch,
        each: impl FnMut(usize, &[f32]),
    ) -> Result<Vec<f32>> {
        self.expect_cpu("hidden states of all layers at once")?;
        self.transformer.forward(compute, batch, each)
    }

    /// The residual stream that a layer leaves, before the last norm: 0 is the embeddings, n the result of layer n. Later layers do not run.
    ///
    /// # Errors
    /// As of [`Model::hidden_states`].
    pub fn layer_states(&self, compute: Compute<'_>, batch: &Batch, layer: usize) -> Result<Vec<f32>> {
        match self.serve(Task::States { layer: Some(layer) }, batch)? {
            Some(states) => Ok(states),
            None => self.transformer.forward_to(compute, batch, layer),
        }
    }

    /// Logits of a classifier, `[documents, labels]`; `None` where the model is not one.
    ///
    /// # Errors
    /// As of [`Model::hidden_states`].
    pub fn classify(&self, compute: Compute<'_>, batch: &Batch) -> Result<Option<Vec<f32>>> {
        let Head::Classifier(classifier) = &self.head else { return Ok(None) };
        if let Some(logits) = self.serve(Task::Classify, batch)? {
            return Ok(Some(logits));
        }
        let states = self.hidden_states(compute, batch)?;
        classifier.forward(compute, self.transformer.hidden, &states, batch.offsets()).map(Some)
    }

    /// Whether the model predicts tokens.
    pub fn is_language_model(&self) -> bool {
        matches!(self.head, Head::LanguageModel(_))
    }

    /// Logits of each token to come after each token, `[tokens, vocabulary]`; `None` where the model is not a language model. They
    /// take much memory: this is for looking at few tokens.
    ///
    /// # Errors
    /// As of [`Model::hidden_states`].
    pub fn logits(&self, compute: Compute<'_>, batch: &Batch) -> Result<Option<Vec<f32>>> {
        let Head::LanguageModel(head) = &self.head else { return Ok(None) };
        self.expect_cpu("logits of all tokens")?;
        let states = self.hidden_states(compute, batch)?;
        self.logits_of(compute, head, &states).map(Some)
    }

    /// Logits of each token to come after each document, `[documents, vocabulary]`; `None` where the model is not a language model.
    ///
    /// # Errors
    /// As of [`Model::hidden_states`], and a document without tokens.
    pub fn next_logits(&self, compute: Compute<'_>, batch: &Batch) -> Result<Option<Vec<f32>>> {
        let Head::LanguageModel(head) = &self.head else { return Ok(None) };
        if let Some(index) = batch.offsets().windows(2).position(|document| document[0] == document[1]) {
            let allowed = "at least one token".to_owned();
            return Err(ModelError::Input { what: "number of tokens of document", index, value: 0, allowed });
        }
        if let Some(logits) = self.serve(Task::NextLogits, batch)? {
            return Ok(Some(logits));
        }
        let (states, hidden) = (self.hidden_states(compute, batch)?, self.transformer.hidden);
        let mut last = vec![0.0; batch.documents() * hidden];
        Pool::Last.forward(compute.workers, hidden, &states, batch.offsets(), &mut last)?;
        self.logits_of(compute, head, &last).map(Some)
    }

    fn linear_ce(&self) -> LinearCe {
        let (width, vocabulary) = (self.transformer.hidden, self.transformer.vocabulary);
        LinearCe { width, vocabulary, logit_scale: 1.0, label_smoothing: 0.0 }
    }

    fn logits_of(&self, compute: Compute<'_>, head: &linear_ce::Head, states: &[f32]) -> Result<Vec<f32>> {
        let mut logits = vec![0.0; states.len() / self.transformer.hidden * self.transformer.vocabulary];
        head.logits_on(compute.threads, states, &mut logits)?;
        Ok(logits)
    }

    /// The negative log-likelihood of each token, in nats, given those before it in its document: `[tokens]`, 0 for the first of each document. `None`
    /// where the model is not a language model. The logits are never held.
    ///
    /// # Errors
    /// As of [`Model::hidden_states`].
    pub fn token_losses(&self, compute: Compute<'_>, batch: &Batch) -> Result<Option<Vec<f32>>> {
        let Head::LanguageModel(head) = &self.head else { return Ok(None) };
        if let Some(losses) = self.serve(Task::Losses, batch)? {
            return Ok(Some(losses));
        }
        let states = self.hidden_states(compute, batch)?;
        let targets = batch.targets();
        let (mut losses, mut log_sums) = (vec![0.0; batch.tokens()], vec![0.0; batch.tokens()]);
        let tokens = Tokens { ids: Ids::I64(&targets), offsets: None };
        self.linear_ce().forward(compute.workers, &states, head, tokens, Scores::new(&mut losses, &mut log_sums))?;
        Ok(Some(Batch::by_token(losses)))
    }
}

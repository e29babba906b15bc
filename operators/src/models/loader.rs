//! Reads parts of a model by the names of their tensors, with what an adapter makes of them.

use std::rc::Rc;
use std::sync::Arc;

use gristmill_kernels::gemm::{self, Matrix};
use gristmill_kernels::linear_ce;
use gristmill_kernels::norms::{self, NormKind};

use super::LoadOptions;
use super::adapters::{Adapter, Delta, LowRank, Place, Stored};
use super::error::Result;
use super::four_bits::FourBits;
use super::layers::{Bias, Norm};
use super::linear::Linear;
use super::parameters::{self, Module, Parameter, ParameterKind, Registry, Values};
use super::transformer::Embeddings;
use super::weights::Weights;

/// Reads what is below a prefix.
#[derive(Clone, Debug)]
pub(crate) struct Loader<'a> {
    weights: &'a Weights,
    adapter: Option<&'a Adapter>,
    prefix: String,
    options: LoadOptions,
    registry: Rc<Registry>,
}

impl<'a> Loader<'a> {
    pub(crate) fn new(weights: &'a Weights, options: LoadOptions) -> Self {
        Self { weights, adapter: None, prefix: String::new(), options, registry: Rc::default() }
    }

    /// The parameters that were read so far.
    pub(crate) fn parameters(&self) -> Vec<Arc<Parameter>> {
        self.registry.parameters()
    }

    /// With an adapter.
    pub(crate) fn with(self, adapter: Option<&'a Adapter>) -> Self {
        Self { adapter, ..self }
    }

    /// With weights of linear layers in four bits or not; heads of language models and embeddings never are.
    pub(crate) fn in_four_bits(&self, four_bits: bool) -> Self {
        Self { options: LoadOptions { four_bits, ..self.options }, ..self.clone() }
    }

    /// Names below another prefix.
    pub(crate) fn at(&self, name: impl std::fmt::Display) -> Self {
        Self { prefix: format!("{}{name}.", self.prefix), ..self.clone() }
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Whether gradients are wanted.
    pub(crate) const fn gradients(&self) -> bool {
        self.options.gradients
    }

    /// Whether the model's files have a tensor of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.weights.has(&self.name(name))
    }

    /// A tensor that is not the weights of a linear layer or an embedding.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let name = self.name(name);
        self.adapter.map_or_else(|| self.weights.read(&name, shape), |own| own.tensor(self.weights, &name, shape))
    }

    /// An embedding, `[rows, hidden]`.
    pub(crate) fn table(&self, name: &str, rows: usize, hidden: usize) -> Result<Values> {
        let module = self.name(name);
        let values = match self.adapter {
            Some(adapter) => {
                let (outputs, inputs) = (hidden, rows);
                let place = Place { module: &module, outputs, inputs, stored: Stored::Inputs, embedding: true };
                adapter.merged(self.weights, place)?
            }
            None => self.tensor(&format!("{name}.weight"), &[rows, hidden])?,
        };
        let parameter = self.parameter(&format!("{name}.weight"), &[rows, hidden], ParameterKind::Embedding);
        Ok(Values { values, parameter })
    }

    /// Notes a tensor that results depend on.
    fn parameter(&self, name: &str, shape: &[usize], kind: ParameterKind) -> Arc<Parameter> {
        self.registry.add(self.name(name), shape, kind, false)
    }

    fn vector(&self, name: &str, elements: usize) -> Result<Values> {
        let values = self.tensor(name, &[elements])?;
        Ok(Values { values, parameter: self.parameter(name, &[elements], ParameterKind::Vector) })
    }

    /// Embeddings of tokens, without anything that is added to them.
    pub(crate) fn embeddings(&self, name: &str, vocabulary: usize, hidden: usize) -> Result<Embeddings> {
        Ok(Embeddings::of_tokens(self.name(name), self.table(name, vocabulary, hidden)?))
    }

    /// A linear layer.
    pub(crate) fn linear(&self, name: &str, inputs: usize, outputs: usize, bias: Bias) -> Result<Linear> {
        self.fused(name, inputs, outputs, bias)?.whole()
    }

    /// A linear layer that is several of one input, by their rows.
    pub(crate) fn fused(&self, name: &str, inputs: usize, outputs: usize, bias: Bias) -> Result<Fused> {
        let (weights, delta) = self.matrix(name, inputs, outputs, Stored::Outputs)?;
        self.fuse(name, weights, delta, [outputs, inputs], Stored::Outputs, bias)
    }

    /// The same of a layer that is stored with inputs as rows, as GPT-2 does.
    pub(crate) fn fused_transposed(&self, name: &str, inputs: usize, outputs: usize) -> Result<Fused> {
        let (stored, delta) = self.matrix(name, inputs, outputs, Stored::Inputs)?;
        let mut weights = vec![0.0; stored.len()];
        for (input, row) in stored.chunks_exact(outputs.max(1)).enumerate() {
            for (output, &value) in row.iter().enumerate() {
                weights[output * inputs + input] = value;
            }
        }
        self.fuse(name, weights, delta, [outputs, inputs], Stored::Inputs, Bias::Required)
    }

    /// A convolution over tokens, stored `[out, in, kernel]`, as the linear layer of `[in, kernel]` to out; never in four bits.
    pub(crate) fn convolution(&self, name: &str, hidden: usize, kernel: usize) -> Result<Linear> {
        let weights = self.tensor(&format!("{name}.weight"), &[hidden, hidden, kernel])?;
        let bias = self.vector(&format!("{name}.bias"), hidden)?;
        let weight = self.parameter(&format!("{name}.weight"), &[hidden, hidden, kernel], ParameterKind::Linear);
        let module = Module {
            name: self.name(name),
            weight,
            bias: Some(bias.parameter),
            outputs: hidden,
            inputs: kernel * hidden,
            transposed: false,
        };
        Linear::new(&weights, Some(bias.values), parameters::Place::whole(Arc::new(module)), self.options)
    }

    /// The head of a language model, which is never in four bits, and has what an adapter adds in its weights.
    pub(crate) fn head(&self, name: &str, hidden: usize, vocabulary: usize) -> Result<linear_ce::Head> {
        let module = self.name(name);
        let place =
            Place { module: &module, outputs: vocabulary, inputs: hidden, stored: Stored::Outputs, embedding: false };
        let weights = match self.adapter {
            Some(adapter) => adapter.merged(self.weights, place)?,
            None => self.tensor(&format!("{name}.weight"), &[vocabulary, hidden])?,
        };
        self.parameter(&format!("{name}.weight"), &[vocabulary, hidden], ParameterKind::Head);
        self.pack_head(&weights, hidden, vocabulary)
    }

    /// The same with the weights of the embeddings, unless an adapter makes them differ.
    pub(crate) fn tied_head(&self, name: &str, embeddings: &Embeddings, hidden: usize) -> Result<linear_ce::Head> {
        let vocabulary = embeddings.tokens.len() / hidden.max(1);
        let own = match self.adapter {
            Some(adapter) => {
                adapter.untied_head(self.weights, &embeddings.name, &self.name(name), [vocabulary, hidden])?
            }
            None => None,
        };
        let weight = format!("{name}.weight");
        self.ignore_own(&weight);
        if own.is_some() {
            self.parameter(&weight, &[vocabulary, hidden], ParameterKind::Head);
        }
        self.pack_head(own.as_deref().unwrap_or(&embeddings.tokens), hidden, vocabulary)
    }

    fn pack_head(&self, weights: &[f32], hidden: usize, vocabulary: usize) -> Result<linear_ce::Head> {
        let weights = Matrix::row_major(gemm::Values::F32(weights), vocabulary, hidden)?;
        let head = if self.options.gradients { linear_ce::Head::with_gradients } else { linear_ce::Head::new };
        Ok(head(weights, None, self.options.precision)?)
    }

    /// Counts tensors as used, of which the numbers are not needed.
    pub(crate) fn ignore(&self, unneeded: impl Fn(&str) -> bool) {
        self.weights.ignore(&unneeded);
        if let Some(adapter) = self.adapter {
            adapter.ignore(&unneeded);
        }
    }

    /// The same of a tensor of the model itself.
    fn ignore_own(&self, name: &str) {
        let name = self.name(name);
        self.weights.ignore(|other| other == name);
    }

    /// A norm with a weight.
    pub(crate) fn norm(&self, name: &str, kind: NormKind, width: usize, epsilon: f64, bias: Bias) -> Result<Norm> {
        let at = self.at(name);
        // Files converted from TensorFlow have the older names.
        let [weight_name, bias_name] = if at.has("gamma") { ["gamma", "beta"] } else { ["weight", "bias"] };
        let weight = Some(at.vector(weight_name, width)?);
        let bias = (bias == Bias::Required).then(|| at.vector(bias_name, width)).transpose()?;
        Ok(Norm { norm: norms::Norm { kind, width, epsilon: epsilon as f32 }, weight, bias })
    }

    fn matrix(&self, name: &str, inputs: usize, outputs: usize, stored: Stored) -> Result<(Vec<f32>, Option<Delta>)> {
        let Some(adapter) = self.adapter else {
            let shape = if stored == Stored::Outputs { [outputs, inputs] } else { [inputs, outputs] };
            return Ok((self.tensor(&format!("{name}.weight"), &shape)?, None));
        };
        let module = self.name(name);
        adapter.weights(self.weights, Place { module: &module, outputs, inputs, stored, embedding: false })
    }

    fn fuse(
        &self,
        name: &str,
        weights: Vec<f32>,
        delta: Option<Delta>,
        [outputs, inputs]: [usize; 2],
        stored: Stored,
        bias: Bias,
    ) -> Result<Fused> {
        let transposed = stored == Stored::Inputs;
        let shape = if transposed { [inputs, outputs] } else { [outputs, inputs] };
        let weight_name = self.name(&format!("{name}.weight"));
        let weight = self.registry.add(weight_name, &shape, ParameterKind::Linear, transposed);
        let required = bias == Bias::Required;
        let bias = required.then(|| self.vector(&format!("{name}.bias"), outputs)).transpose()?;
        let (biases, bias) = bias.map(|Values { values, parameter }| (values, parameter)).unzip();
        let module = Arc::new(Module { name: self.name(name), weight, bias, outputs, inputs, transposed });
        let weights = if self.options.four_bits {
            Source::FourBits(FourBits::new(&weights, outputs, inputs, self.options.precision)?)
        } else {
            Source::Plain(weights)
        };
        let factors = match (&delta, &weights) {
            (None, _) => None,
            (Some(delta), Source::Plain(weights)) => delta.factors(weights)?,
            // The lengths are those of the weights that the layer computes with.
            (Some(delta), Source::FourBits(weights)) => delta.factors(&weights.values()?)?,
        };
        Ok(Fused { weights, biases, delta, factors, module, options: self.options })
    }
}

/// A tensor that several layers are made from, by its rows.
#[derive(Debug)]
pub(crate) struct Fused {
    weights: Source,
    biases: Option<Vec<f32>>,
    /// What an adapter adds, and what it then multiplies outputs with.
    delta: Option<Delta>,
    factors: Option<Vec<f32>>,
    module: Arc<Module>,
    options: LoadOptions,
}

#[derive(Debug)]
enum Source {
    /// `[out, in]`.
    Plain(Vec<f32>),
    FourBits(FourBits),
}

impl Fused {
    /// The layer of these rows, which are within the tensor.
    pub(crate) fn rows(&self, rows: impl Iterator<Item = usize> + Clone) -> Result<Linear> {
        let inputs = self.module.inputs;
        let place = parameters::Place::of(Arc::clone(&self.module), rows.clone());
        let bias = self.biases.as_ref().map(|biases| rows.clone().map(|row| biases[row]).collect());
        let linear = match &self.weights {
            Source::FourBits(weights) => Linear::of_four_bits(weights.of_rows(rows.clone()), bias, place),
            Source::Plain(weights) => {
                let own: Vec<f32> =
                    rows.clone().flat_map(|row| &weights[row * inputs..(row + 1) * inputs]).copied().collect();
                Linear::new(&own, bias, place, self.options)?
            }
        };
        Ok(linear.with(self.low_rank(rows)?))
    }

    /// The layer of all rows.
    fn whole(self) -> Result<Linear> {
        let low_rank = self.low_rank(0..self.module.outputs)?;
        let Self { weights, biases, module, options, .. } = self;
        let place = parameters::Place::whole(module);
        let linear = match weights {
            Source::FourBits(weights) => Linear::of_four_bits(weights, biases, place),
            Source::Plain(weights) => Linear::new(&weights, biases, place, options)?,
        };
        Ok(linear.with(low_rank))
    }

    fn low_rank(&self, rows: impl Iterator<Item = usize> + Clone) -> Result<Option<LowRank>> {
        self.delta.as_ref().map(|delta| LowRank::new(delta, self.factors.as_deref(), rows)).transpose()
    }
}

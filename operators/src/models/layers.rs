//! The parts that architectures are assembled from, with their weights: linear layers, norms, attention, feed-forward layers.

use gristmill_kernels::attention::Mask;
use gristmill_kernels::gemm::{Matrix, Precision, Values};
use gristmill_kernels::glu::Activation;
use gristmill_kernels::linear_ce;
use gristmill_kernels::norms::{self, NormKind};
use gristmill_kernels::workers::Workers;

use super::error::Result;
use super::linear::Linear;
use super::weights::Weights;

/// Who computes.
#[derive(Clone, Copy)]
#[allow(missing_debug_implementations, reason = "workers need not be shown")]
pub struct Compute<'a> {
    /// Who does the work of the kernels other than products.
    pub workers: &'a dyn Workers,
    /// At most this many threads for a product.
    pub threads: usize,
}

/// RMSNorm or LayerNorm with its parameters, of which each may be left out.
#[derive(Debug)]
pub(crate) struct Norm {
    pub(crate) norm: norms::Norm,
    pub(crate) weight: Option<Vec<f32>>,
    pub(crate) bias: Option<Vec<f32>>,
}

impl Norm {
    /// Overwrites y.
    pub(crate) fn forward(&self, compute: Compute<'_>, x: &[f32], y: &mut Vec<f32>) -> Result<()> {
        y.resize(x.len(), 0.0);
        let slices =
            norms::Forward { x, weight: self.weight.as_deref(), bias: self.bias.as_deref(), y: y.as_mut_slice() };
        Ok(self.norm.forward(compute.workers, slices)?)
    }
}

/// Attention of a layer.
#[derive(Debug)]
pub(crate) struct Attention {
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    pub(crate) value: Linear,
    pub(crate) output: Linear,
    /// Norms of queries and keys before they are turned, over a head or over all heads: as wide as the norm is.
    pub(crate) query_norm: Option<Norm>,
    pub(crate) key_norm: Option<Norm>,
    /// Queries, keys and values are kept within this magnitude.
    pub(crate) clip: Option<f32>,
    /// Which of the model's rotary embeddings turns queries and keys.
    pub(crate) rope: Option<usize>,
    pub(crate) heads: Heads,
    pub(crate) mask: Mask,
}

/// Numbers of heads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Heads {
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    pub(crate) width: usize,
    /// What scores are multiplied by.
    pub(crate) scale: f32,
}

/// A feed-forward layer: down(act(up(x))), or down(act(gate(x)) * up(x)).
#[derive(Debug)]
pub(crate) struct FeedForward {
    pub(crate) gate: Option<Linear>,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
    pub(crate) activation: Activation,
}

/// How a layer's parts and its norms are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// x += attention(norm(x)); x += feed_forward(norm(x)).
    Before,
    /// x += attention(norm(x)) + feed_forward(other_norm(x)), both of the same x.
    Parallel,
    /// x = norm(x + attention(x)); x = norm(x + feed_forward(x)).
    AfterSum,
    /// x += norm(attention(x)); x += norm(feed_forward(x)).
    AfterPart,
}

/// A layer.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) order: Order,
    pub(crate) attention_norm: Option<Norm>,
    pub(crate) attention: Attention,
    pub(crate) feed_forward_norm: Option<Norm>,
    pub(crate) feed_forward: FeedForward,
}

/// Whether a bias belongs to a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bias {
    None,
    Required,
}

impl From<bool> for Bias {
    fn from(has: bool) -> Self {
        if has { Self::Required } else { Self::None }
    }
}

/// Reads parts of a model by the names of their tensors, below a prefix.
#[derive(Clone, Debug)]
pub(crate) struct Loader<'a> {
    weights: &'a Weights,
    prefix: String,
    precision: Precision,
}

impl<'a> Loader<'a> {
    pub(crate) fn new(weights: &'a Weights, precision: Precision) -> Self {
        Self { weights, prefix: String::new(), precision }
    }

    /// Names below another prefix.
    pub(crate) fn at(&self, name: impl std::fmt::Display) -> Self {
        Self { prefix: format!("{}{name}.", self.prefix), ..self.clone() }
    }

    /// Whether there is a tensor of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.weights.has(&format!("{}{name}", self.prefix))
    }

    /// A tensor.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.weights.read(&format!("{}{name}", self.prefix), shape)
    }

    /// A linear layer.
    pub(crate) fn linear(&self, name: &str, inputs: usize, outputs: usize, bias: Bias) -> Result<Linear> {
        let at = self.at(name);
        let weights = at.tensor("weight", &[outputs, inputs])?;
        let bias = at.bias(outputs, bias)?;
        Linear::new(&weights, outputs, inputs, bias, self.precision)
    }

    /// The head of a language model, of weights `[vocabulary, hidden]`.
    pub(crate) fn head(&self, weights: &[f32], hidden: usize, vocabulary: usize) -> Result<linear_ce::Head> {
        let weights = Matrix::row_major(Values::F32(weights), vocabulary, hidden)?;
        Ok(linear_ce::Head::new(weights, None, self.precision)?)
    }

    /// Counts tensors as used, of which the numbers are not needed.
    pub(crate) fn ignore(&self, unneeded: impl Fn(&str) -> bool) {
        self.weights.ignore(unneeded);
    }

    fn bias(&self, outputs: usize, bias: Bias) -> Result<Option<Vec<f32>>> {
        (bias == Bias::Required).then(|| self.tensor("bias", &[outputs])).transpose()
    }

    /// A linear layer that is several of one input, by their rows.
    pub(crate) fn fused(&self, name: &str, inputs: usize, outputs: usize, bias: Bias) -> Result<Fused> {
        let at = self.at(name);
        let weights = at.tensor("weight", &[outputs, inputs])?;
        Ok(Fused { weights, biases: at.bias(outputs, bias)?, inputs, precision: self.precision })
    }

    /// The same of a layer that is stored with inputs as rows, as GPT-2 does.
    pub(crate) fn fused_transposed(&self, name: &str, inputs: usize, outputs: usize) -> Result<Fused> {
        let at = self.at(name);
        let stored = at.tensor("weight", &[inputs, outputs])?;
        let mut weights = vec![0.0; stored.len()];
        for (input, row) in stored.chunks_exact(outputs.max(1)).enumerate() {
            for (output, &value) in row.iter().enumerate() {
                weights[output * inputs + input] = value;
            }
        }
        Ok(Fused { weights, biases: at.bias(outputs, Bias::Required)?, inputs, precision: self.precision })
    }

    /// A norm with a weight.
    pub(crate) fn norm(&self, name: &str, kind: NormKind, width: usize, epsilon: f64, bias: Bias) -> Result<Norm> {
        let at = self.at(name);
        // Files converted from TensorFlow have the older names.
        let [weight_name, bias_name] = if at.has("gamma") { ["gamma", "beta"] } else { ["weight", "bias"] };
        let weight = Some(at.tensor(weight_name, &[width])?);
        let bias = (bias == Bias::Required).then(|| at.tensor(bias_name, &[width])).transpose()?;
        Ok(Norm { norm: norms::Norm { kind, width, epsilon: epsilon as f32 }, weight, bias })
    }
}

/// Rows of one tensor that several layers are made from.
#[derive(Debug)]
pub(crate) struct Fused {
    weights: Vec<f32>,
    biases: Option<Vec<f32>>,
    inputs: usize,
    precision: Precision,
}

impl Fused {
    /// The layer of these rows, which are within the tensor.
    pub(crate) fn rows(&self, rows: impl Iterator<Item = usize> + Clone) -> Result<Linear> {
        let inputs = self.inputs;
        let weights: Vec<f32> =
            rows.clone().flat_map(|row| &self.weights[row * inputs..(row + 1) * inputs]).copied().collect();
        let outputs = rows.clone().count();
        let bias = self.biases.as_ref().map(|biases| rows.map(|row| biases[row]).collect());
        Linear::new(&weights, outputs, inputs, bias, self.precision)
    }
}

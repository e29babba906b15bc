//! A model's weights in memory of a device.
//!
//! Every part is taken apart by all of its fields: what a model has and a device cannot do does not compile here, so that it is not left out.

use gristmill_kernels::attention::Mask;
use gristmill_kernels::device::{Array, Device};
use gristmill_kernels::gemm::{Function, PackedWeights};
use gristmill_kernels::glu::Activation;
use gristmill_kernels::launch::Float;
use gristmill_kernels::norms;
use gristmill_kernels::pool::Pool;
use gristmill_kernels::rotary::{Pairing, Rotary};

use super::forward::Angles;
use crate::models::error::{ModelError, Result};
use crate::models::heads::{self, HeadActivation};
use crate::models::layers::{self, Heads, Order};
use crate::models::linear;
use crate::models::parameters::{Place, Values};
use crate::models::rope::Rope;
use crate::models::transformer::{self, Transformer};

/// A linear layer.
#[derive(Debug)]
pub(super) struct Linear<T> {
    /// `[outputs, inputs]`.
    pub(super) weights: Array<T>,
    pub(super) bias: Option<Array<f32>>,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// What the layer is in the checkpoint.
    pub(super) place: Place,
}

/// A norm with parameters of type P: f32 where it reads the residual stream.
#[derive(Debug)]
pub(super) struct Norm<P> {
    pub(super) norm: norms::Norm,
    pub(super) weight: Option<Array<P>>,
    pub(super) bias: Option<Array<P>>,
}

#[derive(Debug)]
pub(super) struct Attention<T> {
    pub(super) query: Linear<T>,
    pub(super) key: Linear<T>,
    pub(super) value: Linear<T>,
    pub(super) output: Linear<T>,
    pub(super) query_norm: Option<Norm<T>>,
    pub(super) key_norm: Option<Norm<T>>,
    pub(super) clip: Option<f32>,
    pub(super) rope: Option<usize>,
    pub(super) heads: Heads,
    pub(super) mask: Mask,
}

#[derive(Debug)]
pub(super) struct FeedForward<T> {
    pub(super) gate: Option<Linear<T>>,
    pub(super) up: Linear<T>,
    pub(super) down: Linear<T>,
    pub(super) activation: Activation,
}

#[derive(Debug)]
pub(super) struct Layer<T> {
    pub(super) order: Order,
    pub(super) attention_norm: Option<Norm<f32>>,
    pub(super) attention: Attention<T>,
    pub(super) feed_forward_norm: Option<Norm<f32>>,
    pub(super) feed_forward: FeedForward<T>,
}

#[derive(Debug)]
pub(super) struct Embeddings<T> {
    /// `[vocabulary, hidden]`.
    pub(super) tokens: Array<T>,
    pub(super) positions: Option<Array<T>>,
    pub(super) first_position: usize,
    pub(super) segment: Option<Array<f32>>,
    pub(super) norm: Option<Norm<f32>>,
}

/// What stands on the layers.
#[derive(Debug)]
pub(super) enum Head<T> {
    None,
    /// `[vocabulary, hidden]`; the embeddings of tokens where left out.
    LanguageModel(Option<Array<T>>),
    Classifier(Box<Classifier<T>>),
}

#[derive(Debug)]
pub(super) struct Classifier<T> {
    pub(super) pool: Pool,
    pub(super) dense: Option<(Linear<T>, Function)>,
    pub(super) norm: Option<Norm<f32>>,
    pub(super) output: Linear<T>,
}

/// A whole model.
#[derive(Debug)]
pub(super) struct Weights<T> {
    pub(super) hidden: usize,
    pub(super) vocabulary: usize,
    pub(super) embeddings: Embeddings<T>,
    /// Angles are made on the host.
    pub(super) ropes: Vec<Rope>,
    pub(super) layers: Vec<Layer<T>>,
    pub(super) last_norm: Option<Norm<f32>>,
    pub(super) head: Head<T>,
}

impl<T: Float> Weights<T> {
    /// Uploads a model.
    pub(super) fn upload(device: &Device, transformer: &Transformer, head: &heads::Head) -> Result<Self> {
        let Transformer { hidden, vocabulary, most_positions: _, embeddings, ropes, layers, last_norm } = transformer;
        Ok(Self {
            hidden: *hidden,
            vocabulary: *vocabulary,
            embeddings: Embeddings::upload(device, embeddings)?,
            ropes: ropes.iter().map(Rope::again).collect(),
            layers: layers.iter().map(|layer| Layer::upload(device, layer)).collect::<Result<_>>()?,
            last_norm: Norm::upload(device, last_norm.as_ref())?,
            head: Head::upload(device, head, &embeddings.tokens)?,
        })
    }
}

impl<T> Weights<T> {
    /// The angles of a layer's rotary embedding, and what turns its queries and its keys, where it has one.
    pub(super) fn rotaries<'a>(
        &self,
        attention: &Attention<T>,
        angles: &'a [Angles],
    ) -> Option<(&'a Angles, [Rotary; 2])> {
        let (number, heads) = (attention.rope?, attention.heads);
        let rotated = self.ropes[number].rotated();
        let of = |heads_of| Rotary { heads: heads_of, head_width: heads.width, rotated, pairing: Pairing::Halves };
        Some((&angles[number], [of(heads.queries), of(heads.keys)]))
    }
}

impl<T> Attention<T> {
    /// Whether projected queries, keys and values are changed otherwise than by turning them.
    pub(super) const fn changes_projections(&self) -> [bool; 3] {
        let clips = self.clip.is_some();
        [clips || self.query_norm.is_some(), clips || self.key_norm.is_some(), clips]
    }
}

impl<T> Layer<T> {
    /// All linear layers of it; those that read the same follow one another.
    pub(super) fn linears(&self) -> impl Iterator<Item = &Linear<T>> {
        let Attention { query, key, value, output, .. } = &self.attention;
        let FeedForward { gate, up, down, .. } = &self.feed_forward;
        [Some(query), Some(key), Some(value), Some(output), gate.as_ref(), Some(up), Some(down)].into_iter().flatten()
    }
}

impl<T: Float> Embeddings<T> {
    fn upload(device: &Device, embeddings: &transformer::Embeddings) -> Result<Self> {
        let transformer::Embeddings {
            name: _,
            tokens,
            positions,
            first_position,
            segment,
            projection,
            norm,
            convolution,
            trained_positions: _,
        } = embeddings;
        if projection.is_some() || convolution.is_some() {
            return Err(ModelError::NotOnDevice { what: "projections and convolutions of embeddings" });
        }
        Ok(Self {
            tokens: device.upload(&rounded(tokens))?,
            positions: positions.as_ref().map(|table| device.upload::<T>(&rounded(table))).transpose()?,
            first_position: *first_position,
            segment: segment.as_ref().map(|segment| device.upload(segment)).transpose()?,
            norm: Norm::upload(device, norm.as_ref())?,
        })
    }
}

impl<T: Float> Layer<T> {
    fn upload(device: &Device, layer: &layers::Layer) -> Result<Self> {
        let layers::Layer { order, attention_norm, attention, feed_forward_norm, feed_forward } = layer;
        Ok(Self {
            order: *order,
            attention_norm: Norm::upload(device, attention_norm.as_ref())?,
            attention: Attention::upload(device, attention)?,
            feed_forward_norm: Norm::upload(device, feed_forward_norm.as_ref())?,
            feed_forward: FeedForward::upload(device, feed_forward)?,
        })
    }
}

impl<T: Float> Attention<T> {
    fn upload(device: &Device, attention: &layers::Attention) -> Result<Self> {
        let layers::Attention { query, key, value, output, query_norm, key_norm, clip, rope, relative, heads, mask } =
            attention;
        if relative.is_some() {
            return Err(ModelError::NotOnDevice { what: "relative positions in attention" });
        }
        Ok(Self {
            query: Linear::upload(device, query)?,
            key: Linear::upload(device, key)?,
            value: Linear::upload(device, value)?,
            output: Linear::upload(device, output)?,
            query_norm: Norm::upload(device, query_norm.as_ref())?,
            key_norm: Norm::upload(device, key_norm.as_ref())?,
            clip: *clip,
            rope: *rope,
            heads: *heads,
            mask: *mask,
        })
    }
}

impl<T: Float> FeedForward<T> {
    fn upload(device: &Device, feed_forward: &layers::FeedForward) -> Result<Self> {
        let layers::FeedForward { gate, up, down, activation } = feed_forward;
        Ok(Self {
            gate: gate.as_ref().map(|gate| Linear::upload(device, gate)).transpose()?,
            up: Linear::upload(device, up)?,
            down: Linear::upload(device, down)?,
            activation: *activation,
        })
    }
}

impl<T: Float> Head<T> {
    fn upload(device: &Device, head: &heads::Head, embeddings: &[f32]) -> Result<Self> {
        Ok(match head {
            heads::Head::None => Self::None,
            heads::Head::LanguageModel(head) => {
                if head.bias().is_some() {
                    return Err(ModelError::NotOnDevice { what: "heads of language models with a bias" });
                }
                let weights = matrix::<T>(head.weights());
                let is_tied = weights.len() == embeddings.len()
                    && weights.iter().zip(embeddings).all(|(weight, &embedding)| {
                        weight.to_single().to_bits() == T::from_single(embedding).to_single().to_bits()
                    });
                Self::LanguageModel(if is_tied { None } else { Some(device.upload(&weights)?) })
            }
            heads::Head::Classifier(classifier) => {
                let heads::Classifier { pool, dense, norm, output, labels: _ } = &**classifier;
                let function = |activation: &HeadActivation| match activation {
                    HeadActivation::Tanh => Function::Tanh,
                    HeadActivation::Relu => Function::Relu,
                    HeadActivation::Gelu => Function::Activation(Activation::GeluErf),
                };
                let dense = dense.as_ref().map(|(layer, activation)| {
                    Ok::<_, ModelError>((Linear::upload(device, layer)?, function(activation)))
                });
                Self::Classifier(Box::new(Classifier {
                    pool: *pool,
                    dense: dense.transpose()?,
                    norm: Norm::upload(device, norm.as_ref())?,
                    output: Linear::upload(device, output)?,
                }))
            }
        })
    }
}

impl<T: Float> Linear<T> {
    fn upload(device: &Device, layer: &linear::Linear) -> Result<Self> {
        let (weights, bias) = layer.parts()?;
        Ok(Self {
            weights: device.upload(&matrix(weights))?,
            bias: bias.map(|bias| device.upload(bias)).transpose()?,
            inputs: weights.inputs(),
            outputs: weights.outputs(),
            place: layer.place().clone(),
        })
    }
}

impl<P: Float> Norm<P> {
    fn upload(device: &Device, norm: Option<&layers::Norm>) -> Result<Option<Self>> {
        let Some(layers::Norm { norm, weight, bias }) = norm else { return Ok(None) };
        let parameter =
            |values: &Option<Values>| values.as_ref().map(|values| device.upload::<P>(&rounded(values))).transpose();
        Ok(Some(Self { norm: *norm, weight: parameter(weight)?, bias: parameter(bias)? }))
    }
}

/// Packed weights row by row, as `[outputs, inputs]`.
fn matrix<T: Float>(weights: &PackedWeights) -> Vec<T> {
    (0..weights.outputs()).flat_map(|output| weights.output(output)).map(T::from_single).collect()
}

fn rounded<T: Float>(values: &[f32]) -> Vec<T> {
    values.iter().map(|&value| T::from_single(value)).collect()
}

//! DeBERTa-v2 and DeBERTa-v3 (He and others, 2021): attention to contents and to relative positions.

use std::sync::Arc;

use gristmill_kernels::attention::Mask;
use gristmill_kernels::glu::Activation;
use gristmill_kernels::norms::NormKind;
use gristmill_kernels::pool::Pool;
use gristmill_kernels::workers::Serial;
use serde_json::Value;

use super::{Assembled, activation};
use crate::models::config::Config;
use crate::models::convolution::Convolution;
use crate::models::disentangled::{Disentangled, Distances, Embedded, Made, Shared};
use crate::models::error::Result;
use crate::models::heads::{Classifier, Head, HeadActivation};
use crate::models::layers::{Attention, Bias, Compute, FeedForward, Heads, Layer, Order};
use crate::models::linear::Linear;
use crate::models::loader::Loader;
use crate::models::transformer::{Embeddings, Transformer};

/// Projections of the embeddings of distances run on the thread that loads the model.
const ALONE: Compute<'static> = Compute { workers: &Serial, threads: 1 };

/// Which terms scores have beside that of contents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Terms {
    /// Contents of queries with positions.
    to_position: bool,
    /// Positions with contents of keys.
    from_position: bool,
}

/// What is the same for all layers.
struct Relative {
    distances: Distances,
    embedded: Arc<Embedded>,
    terms: Terms,
    /// Whether a layer makes keys and queries of them with its layers for contents.
    shared_projections: bool,
}

pub(super) fn assemble(config: &Config, loader: &Loader<'_>) -> Result<Assembled> {
    config.refuse_flag("is_decoder")?;
    let hidden = config.count(&["hidden_size"])?;
    let heads = config.count(&["num_attention_heads"])?;
    if !hidden.is_multiple_of(heads) {
        return Err(config.unsupported("hidden_size", format!("a multiple of num_attention_heads, {heads},")));
    }
    let width = hidden / heads;
    for (key, only) in [("attention_head_size", width), ("pooler_hidden_size", hidden)] {
        if config.optional_size(&[key])?.is_some_and(|size| size != only) {
            return Err(config.unsupported(key, only.to_string()));
        }
    }
    let vocabulary = config.count(&["vocab_size"])?;
    let inner = config.count(&["intermediate_size"])?;
    let epsilon = config.number(&["layer_norm_eps"])?.unwrap_or(1e-7);
    let activation = activation(config, "hidden_act", Activation::GeluErf)?;
    let layers = config.size(&["num_hidden_layers"])?;
    // Without layers nothing attends, and there is nothing to convolve beside.
    let terms = if layers > 0 { terms(config)? } else { Terms::default() };
    let number = 1 + usize::from(terms.to_position) + usize::from(terms.from_position);
    let heads = Heads { queries: heads, keys: heads, width, scale: ((width * number) as f32).sqrt().recip() };

    // A model saved without a head has no prefix.
    let model = if loader.has("embeddings.word_embeddings.weight") { loader.clone() } else { loader.at("deberta") };
    let norm = |at: &Loader<'_>, name: &str| at.norm(name, NormKind::Layer, hidden, epsilon, Bias::Required);
    let encoder = model.at("encoder");
    let relative = relative(config, &encoder, hidden, epsilon, terms)?;
    let layer = |number: usize| -> Result<Layer> {
        let at = encoder.at(format!("layer.{number}"));
        let own = at.at("attention.self");
        let query = own.linear("query_proj", hidden, hidden, Bias::Required)?;
        let key = own.linear("key_proj", hidden, hidden, Bias::Required)?;
        let relative = relative.as_ref().map(|relative| relative.layer(&own, heads, &query, &key)).transpose()?;
        Ok(Layer {
            order: Order::AfterSum,
            attention_norm: Some(norm(&at, "attention.output.LayerNorm")?),
            attention: Attention {
                query,
                key,
                value: own.linear("value_proj", hidden, hidden, Bias::Required)?,
                output: at.linear("attention.output.dense", hidden, hidden, Bias::Required)?,
                query_norm: None,
                key_norm: None,
                clip: None,
                rope: None,
                relative,
                heads,
                mask: Mask::ALL,
            },
            feed_forward_norm: Some(norm(&at, "output.LayerNorm")?),
            feed_forward: FeedForward {
                gate: None,
                up: at.linear("intermediate.dense", hidden, inner, Bias::Required)?,
                down: at.linear("output.dense", inner, hidden, Bias::Required)?,
                activation,
            },
        })
    };
    let convolution = (layers > 0).then(|| convolution(config, &encoder, hidden, epsilon)).transpose()?.flatten();
    let layers = (0..layers).map(layer).collect::<Result<Vec<_>>>()?;
    let positions = config.count(&["max_position_embeddings"])?;
    let absolute = config.flag("position_biased_input", true)?;
    let transformer = Transformer {
        hidden,
        vocabulary,
        // Relative positions alone have no end.
        most_positions: absolute.then_some(positions),
        embeddings: Embeddings {
            convolution,
            trained_positions: Some(positions),
            norm: Some(norm(&model, "embeddings.LayerNorm")?),
            ..embeddings(config, &model.at("embeddings"), hidden, absolute.then_some(positions))?
        },
        ropes: Vec::new(),
        layers,
        last_norm: None,
    };
    let head = Head::encoder(config, || {
        let activation = HeadActivation::read(config, "pooler_hidden_act", HeadActivation::Gelu)?;
        Ok(Classifier {
            pool: Pool::First,
            dense: Some((loader.linear("pooler.dense", hidden, hidden, Bias::Required)?, activation)),
            norm: None,
            output: Classifier::output(config, loader, "classifier", hidden, Bias::Required)?,
            labels: config.labels()?,
        })
    })?;
    // Heads of the training, in their old and their new form, and what is saved without being used.
    loader.ignore(|name| {
        ["cls.", "lm_predictions.", "mask_predictions."].iter().any(|head| name.starts_with(head))
            || name.ends_with("position_ids")
            || (matches!(head, Head::None) && name.starts_with("pooler."))
            || (!absolute && name.ends_with("embeddings.position_embeddings.weight"))
            || (transformer.layers.is_empty() && name.contains("encoder.conv."))
    });
    Ok(Assembled { transformer, head })
}

/// Tables of tokens, positions and segments, and from their width to that of the layers.
fn embeddings(config: &Config, at: &Loader<'_>, hidden: usize, positions: Option<usize>) -> Result<Embeddings> {
    let width = match config.optional_size(&["embedding_size"])? {
        Some(_) => config.count(&["embedding_size"])?,
        None => hidden,
    };
    let segment = match config.optional_size(&["type_vocab_size"])?.unwrap_or(0) {
        0 => None,
        segments => {
            let mut table = at.table("token_type_embeddings", segments, width)?;
            table.values.truncate(width);
            Some(table)
        }
    };
    let positions = positions.map(|positions| at.table("position_embeddings", positions, width));
    Ok(Embeddings {
        positions: positions.transpose()?,
        segment,
        projection: (width != hidden).then(|| at.linear("embed_proj", width, hidden, Bias::None)).transpose()?,
        ..at.embeddings("word_embeddings", config.count(&["vocab_size"])?, width)?
    })
}

/// `pos_att_type`: a list, or a text with bars between.
fn terms(config: &Config) -> Result<Terms> {
    let names: Vec<String> = match config.get("pos_att_type") {
        None => Vec::new(),
        Some(Value::String(text)) => text.split('|').map(|name| name.trim().to_lowercase()).collect(),
        Some(value) => {
            let names = value.as_array().and_then(|list| list.iter().map(|name| Some(name.as_str()?.into())).collect());
            names.ok_or_else(|| config.unsupported("pos_att_type", "a list of \"c2p\" and \"p2c\""))?
        }
    };
    let mut terms = Terms::default();
    for name in names {
        match name.as_str() {
            "c2p" => terms.to_position = true,
            "p2c" => terms.from_position = true,
            "" | "none" => {}
            _ => return Err(config.unsupported("pos_att_type", "a list of \"c2p\" and \"p2c\"")),
        }
    }
    Ok(terms)
}

/// Embeddings of distances, where the model attends to them.
fn relative(
    config: &Config,
    encoder: &Loader<'_>,
    hidden: usize,
    epsilon: f64,
    terms: Terms,
) -> Result<Option<Relative>> {
    let normed = match config.text("norm_rel_ebd")?.map(str::to_lowercase) {
        None => false,
        Some(text) => {
            let names: Vec<&str> = text.split('|').map(str::trim).collect();
            if !names.iter().all(|name| ["", "none", "layer_norm"].contains(name)) {
                return Err(config.unsupported("norm_rel_ebd", "\"none\" or \"layer_norm\""));
            }
            names.contains(&"layer_norm")
        }
    };
    if !config.flag("relative_attention", false)? || terms == Terms::default() {
        encoder.ignore(|name| {
            name.ends_with("encoder.rel_embeddings.weight") || (normed && name.contains("encoder.LayerNorm."))
        });
        return Ok(None);
    }
    let distances = distances(config)?;
    let table = encoder.table("rel_embeddings", distances.rows(), hidden)?;
    let norm = || encoder.norm("LayerNorm", NormKind::Layer, hidden, epsilon, Bias::Required);
    let embedded = Arc::new(Embedded::new(ALONE, table, normed.then(norm).transpose()?)?);
    Ok(Some(Relative { distances, embedded, terms, shared_projections: config.flag("share_att_key", false)? }))
}

/// A whole number for which -1 says that there is none.
fn optional(config: &Config, key: &str) -> Result<Option<usize>> {
    if config.get(key).and_then(Value::as_i64).is_some_and(|value| value < 1) {
        return Ok(None);
    }
    config.optional_size(&[key])
}

fn distances(config: &Config) -> Result<Distances> {
    let farthest = match optional(config, "max_relative_positions")? {
        Some(farthest) => farthest,
        None => config.count(&["max_position_embeddings"])?,
    };
    let Some(buckets) = optional(config, "position_buckets")? else {
        return Ok(Distances { span: farthest, shared: None });
    };
    let middle = buckets / 2;
    if middle == 0 || farthest < middle + 2 {
        let allowed = format!(
            "-1, or a whole number from 2 to {}, so that distances up to {farthest} are beyond its half,",
            2 * farthest.saturating_sub(2) + 1
        );
        return Err(config.unsupported("position_buckets", allowed));
    }
    Ok(Distances { span: buckets, shared: Some(Shared { middle, farthest }) })
}

impl Relative {
    /// What a layer makes of them.
    fn layer(&self, own: &Loader<'_>, heads: Heads, query: &Linear, key: &Linear) -> Result<Disentangled> {
        let gradients = own.gradients();
        let make = |wanted: bool, shared: &Linear, name: &str| -> Result<Option<Made>> {
            if !wanted {
                return Ok(None);
            }
            let load = || own.linear(name, shared.inputs(), shared.outputs(), Bias::Required);
            let own = (!self.shared_projections).then(load).transpose()?;
            let mut made = Vec::new();
            own.as_ref().unwrap_or(shared).forward(ALONE, self.embedded.values(), &mut made)?;
            // Without gradients they are needed no more.
            Ok(Some(Made::new(heads, &made, own.filter(|_| gradients))))
        };
        Ok(Disentangled {
            distances: self.distances,
            keys: make(self.terms.to_position, key, "pos_key_proj")?,
            queries: make(self.terms.from_position, query, "pos_query_proj")?,
            embedded: gradients.then(|| Arc::clone(&self.embedded)),
        })
    }
}

fn convolution(config: &Config, encoder: &Loader<'_>, hidden: usize, epsilon: f64) -> Result<Option<Convolution>> {
    let Some(kernel) = optional(config, "conv_kernel_size")? else { return Ok(None) };
    if kernel.is_multiple_of(2) {
        return Err(config.unsupported("conv_kernel_size", "an odd number, or 0"));
    }
    if config.optional_size(&["conv_groups"])?.is_some_and(|groups| groups != 1) {
        return Err(config.unsupported("conv_groups", "1"));
    }
    let at = encoder.at("conv");
    let weights = at.convolution("conv", hidden, kernel)?;
    let activation = HeadActivation::read(config, "conv_act", HeadActivation::Tanh)?;
    let norm = at.norm("LayerNorm", NormKind::Layer, hidden, epsilon, Bias::Required)?;
    Ok(Some(Convolution::new(weights, kernel, activation, norm)))
}

//! Llama (Touvron and others, 2023) and its kin, which differ in norms, biases and windows: Mistral, OLMo, OLMo 2, Qwen 2 and 2.5, Qwen 3.

use gristmill_kernels::glu::Activation;
use gristmill_kernels::norms::{self, NormKind};

use super::{Assembled, activation, causal};
use crate::models::config::Config;
use crate::models::error::Result;
use crate::models::heads::Head;
use crate::models::layers::{Attention, Bias, FeedForward, Heads, Layer, Norm, Order};
use crate::models::loader::Loader;
use crate::models::rope::Rope;
use crate::models::transformer::Transformer;

/// What the kin differ in.
struct Kin {
    order: Order,
    norm: NormKind,
    /// Whether norms have a weight.
    norm_weight: bool,
    /// Names of the norms of attention and feed-forward layer.
    norms: [&'static str; 2],
    epsilon: f64,
    /// Norms of queries and keys.
    head_norms: HeadNorms,
    /// Biases of queries, keys and values, and of the output.
    bias: Bias,
    output_bias: Bias,
    theta: f64,
    clip: Option<f32>,
    /// For each layer, how many tokens it sees back, itself counted.
    windows: Vec<Option<usize>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum HeadNorms {
    None,
    /// Over each head.
    Each,
    /// Over all heads.
    All,
}

/// Llama and Mistral.
pub(super) fn assemble(config: &Config, loader: &Loader<'_>) -> Result<Assembled> {
    let kin = llama(config, windows(config, true)?)?;
    build(config, loader, kin)
}

fn llama(config: &Config, windows: Vec<Option<usize>>) -> Result<Kin> {
    let bias = Bias::from(config.flag("attention_bias", false)?);
    Ok(Kin {
        order: Order::Before,
        norm: NormKind::Rms,
        norm_weight: true,
        norms: ["input_layernorm", "post_attention_layernorm"],
        epsilon: config.number(&["rms_norm_eps"])?.unwrap_or(1e-6),
        head_norms: HeadNorms::None,
        bias,
        output_bias: bias,
        theta: 10_000.0,
        clip: None,
        windows,
    })
}

/// OLMo: LayerNorm without parameters, and values kept within a magnitude.
pub(super) fn assemble_olmo(config: &Config, loader: &Loader<'_>) -> Result<Assembled> {
    let kin = Kin {
        norm: NormKind::Layer,
        norm_weight: false,
        epsilon: 1e-5,
        clip: clip(config)?,
        ..llama(config, windows(config, false)?)?
    };
    build(config, loader, kin)
}

fn clip(config: &Config) -> Result<Option<f32>> {
    match config.number(&["clip_qkv"])? {
        Some(most) if most < 0.0 => Err(config.unsupported("clip_qkv", "a number from 0 on")),
        most => Ok(most.map(|most| most as f32)),
    }
}

/// OLMo 2: norms after the parts, and of all queries and all keys.
pub(super) fn assemble_olmo2(config: &Config, loader: &Loader<'_>) -> Result<Assembled> {
    let kin = Kin {
        order: Order::AfterPart,
        norms: ["post_attention_layernorm", "post_feedforward_layernorm"],
        epsilon: config.number(&["rms_norm_eps"])?.unwrap_or(1e-5),
        head_norms: HeadNorms::All,
        ..llama(config, windows(config, false)?)?
    };
    build(config, loader, kin)
}

/// Qwen 2 and 2.5: biases of queries, keys and values.
pub(super) fn assemble_qwen2(config: &Config, loader: &Loader<'_>) -> Result<Assembled> {
    let kin = Kin { bias: Bias::Required, output_bias: Bias::None, ..llama(config, qwen_windows(config)?)? };
    build(config, loader, kin)
}

/// Qwen 3: norms of each head's queries and keys.
pub(super) fn assemble_qwen3(config: &Config, loader: &Loader<'_>) -> Result<Assembled> {
    let kin = Kin { head_norms: HeadNorms::Each, ..llama(config, qwen_windows(config)?)? };
    build(config, loader, kin)
}

/// The windows of all layers: `layer_types` says which are local; without it all are, where there is a window at all.
fn windows(config: &Config, windowed: bool) -> Result<Vec<Option<usize>>> {
    let layers = config.size(&["num_hidden_layers"])?;
    let window = config.optional_size(&["sliding_window"])?.filter(|_| windowed);
    let local = config.local_layers(layers)?.unwrap_or_else(|| vec![window.is_some(); layers]);
    if window.is_none() && local.contains(&true) {
        return Err(config.unsupported("layer_types", "\"full_attention\" alone where there is no sliding_window"));
    }
    Ok(local.into_iter().map(|local| window.filter(|_| local)).collect())
}

/// The same where `use_sliding_window` is a switch, and the first `max_window_layers` layers see everything.
fn qwen_windows(config: &Config) -> Result<Vec<Option<usize>>> {
    let layers = config.size(&["num_hidden_layers"])?;
    if !config.flag("use_sliding_window", false)? {
        return windows(config, false);
    }
    if config.get("layer_types").is_some() {
        return windows(config, true);
    }
    let window = config.optional_size(&["sliding_window"])?.unwrap_or(4096);
    let full = config.optional_size(&["max_window_layers"])?.unwrap_or(28);
    Ok((0..layers).map(|layer| (layer >= full).then_some(window)).collect())
}

fn build(config: &Config, loader: &Loader<'_>, kin: Kin) -> Result<Assembled> {
    let hidden = config.count(&["hidden_size"])?;
    let queries = config.count(&["num_attention_heads"])?;
    let keys = config.optional_size(&["num_key_value_heads"])?.unwrap_or(queries);
    if keys == 0 || !queries.is_multiple_of(keys) {
        return Err(
            config.unsupported("num_key_value_heads", format!("a number that divides num_attention_heads, {queries},"))
        );
    }
    let width = match config.optional_size(&["head_dim"])? {
        Some(width) => width,
        None => hidden / queries,
    };
    let vocabulary = config.count(&["vocab_size"])?;
    let inner = config.count(&["intermediate_size"])?;
    let feed_bias = Bias::from(config.flag("mlp_bias", false)?);
    let activation = activation(config, "hidden_act", Activation::Silu)?;
    let rope = config.rope(None, width, &["rope_theta"], kin.theta)?;

    let norm = |at: &Loader<'_>, name: &str, width: usize| -> Result<Norm> {
        if kin.norm_weight {
            return at.norm(name, kin.norm, width, kin.epsilon, Bias::None);
        }
        Ok(Norm { norm: norms::Norm { kind: kin.norm, width, epsilon: kin.epsilon as f32 }, weight: None, bias: None })
    };
    let head_norm = |at: &Loader<'_>, name: &str, heads: usize| -> Result<Option<Norm>> {
        Ok(match kin.head_norms {
            HeadNorms::None => None,
            HeadNorms::Each => Some(norm(at, name, width)?),
            HeadNorms::All => Some(norm(at, name, heads * width)?),
        })
    };
    let model = loader.at("model");
    let layer = |number: usize| -> Result<Layer> {
        let at = model.at(format!("layers.{number}"));
        let (attention, feed) = (at.at("self_attn"), at.at("mlp"));
        Ok(Layer {
            order: kin.order,
            attention_norm: Some(norm(&at, kin.norms[0], hidden)?),
            attention: Attention {
                query: attention.linear("q_proj", hidden, queries * width, kin.bias)?,
                key: attention.linear("k_proj", hidden, keys * width, kin.bias)?,
                value: attention.linear("v_proj", hidden, keys * width, kin.bias)?,
                output: attention.linear("o_proj", queries * width, hidden, kin.output_bias)?,
                query_norm: head_norm(&attention, "q_norm", queries)?,
                key_norm: head_norm(&attention, "k_norm", keys)?,
                clip: kin.clip,
                rope: Some(0),
                relative: None,
                heads: Heads { queries, keys, width, scale: (width as f32).sqrt().recip() },
                mask: causal(kin.windows[number]),
            },
            feed_forward_norm: Some(norm(&at, kin.norms[1], hidden)?),
            feed_forward: FeedForward {
                gate: Some(feed.linear("gate_proj", hidden, inner, feed_bias)?),
                up: feed.linear("up_proj", hidden, inner, feed_bias)?,
                down: feed.linear("down_proj", inner, hidden, feed_bias)?,
                activation,
            },
        })
    };
    let layers = (0..kin.windows.len()).map(layer).collect::<Result<_>>()?;
    let transformer = Transformer {
        hidden,
        vocabulary,
        most_positions: Some(rope.longest(config.count(&["max_position_embeddings"])?)),
        embeddings: model.embeddings("embed_tokens", vocabulary, hidden)?,
        ropes: vec![Rope::new(rope)],
        layers,
        last_norm: Some(norm(&model, "norm", hidden)?),
    };
    let head = Head::language_model(config, loader, &transformer, "lm_head", false)?;
    Ok(Assembled { transformer, head })
}

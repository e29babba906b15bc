//! GPT-NeoX (Black and others, 2022): Pythia, GPT-NeoX-20B and what was trained from them.

use gristmill_kernels::glu::Activation;
use gristmill_kernels::norms::NormKind;

use super::{Assembled, activation, causal};
use crate::models::config::Config;
use crate::models::error::Result;
use crate::models::heads::Head;
use crate::models::layers::{Attention, Bias, FeedForward, Heads, Layer, Order};
use crate::models::loader::Loader;
use crate::models::rope::Rope;
use crate::models::transformer::Transformer;

pub(super) fn assemble(config: &Config, loader: &Loader<'_>) -> Result<Assembled> {
    let hidden = config.count(&["hidden_size"])?;
    let heads = config.count(&["num_attention_heads"])?;
    if !hidden.is_multiple_of(heads) {
        return Err(config.unsupported("hidden_size", format!("a multiple of num_attention_heads, {heads},")));
    }
    let width = hidden / heads;
    let vocabulary = config.count(&["vocab_size"])?;
    let inner = config.count(&["intermediate_size"])?;
    let epsilon = config.number(&["layer_norm_eps"])?.unwrap_or(1e-5);
    let bias = Bias::from(config.flag("attention_bias", true)?);
    let order = if config.flag("use_parallel_residual", true)? { Order::Parallel } else { Order::Before };
    let activation = activation(config, "hidden_act", Activation::GeluErf)?;
    let rope = config.rope(None, width, &["rope_theta", "rotary_emb_base"], 10_000.0)?;

    let model = loader.at("gpt_neox");
    let layer = |number: usize| -> Result<Layer> {
        let at = model.at(format!("layers.{number}"));
        let norm = |name: &str| at.norm(name, NormKind::Layer, hidden, epsilon, Bias::Required).map(Some);
        // Rows are by head: its queries, its keys, its values.
        let fused = at.fused("attention.query_key_value", hidden, 3 * hidden, bias)?;
        let part = |part: usize| fused.rows((0..hidden).map(move |row| (row / width * 3 + part) * width + row % width));
        Ok(Layer {
            order,
            attention_norm: norm("input_layernorm")?,
            attention: Attention {
                query: part(0)?,
                key: part(1)?,
                value: part(2)?,
                output: at.linear("attention.dense", hidden, hidden, bias)?,
                query_norm: None,
                key_norm: None,
                clip: None,
                rope: Some(0),
                relative: None,
                heads: Heads { queries: heads, keys: heads, width, scale: (width as f32).sqrt().recip() },
                mask: causal(None),
            },
            feed_forward_norm: norm("post_attention_layernorm")?,
            feed_forward: FeedForward {
                gate: None,
                up: at.linear("mlp.dense_h_to_4h", hidden, inner, Bias::Required)?,
                down: at.linear("mlp.dense_4h_to_h", inner, hidden, Bias::Required)?,
                activation,
            },
        })
    };
    let layers = (0..config.size(&["num_hidden_layers"])?).map(layer).collect::<Result<_>>()?;
    let transformer = Transformer {
        hidden,
        vocabulary,
        most_positions: Some(rope.longest(config.count(&["max_position_embeddings"])?)),
        embeddings: model.embeddings("embed_in", vocabulary, hidden)?,
        ropes: vec![Rope::new(rope)],
        layers,
        last_norm: Some(model.norm("final_layer_norm", NormKind::Layer, hidden, epsilon, Bias::Required)?),
    };
    let head = Head::language_model(config, loader, &transformer, "embed_out", false)?;
    Ok(Assembled { transformer, head })
}

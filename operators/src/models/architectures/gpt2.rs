//! GPT-2 (Radford and others, 2019).

use gristmill_kernels::glu::Activation;
use gristmill_kernels::norms::NormKind;

use super::{Assembled, activation, causal};
use crate::models::config::Config;
use crate::models::error::Result;
use crate::models::heads::Head;
use crate::models::layers::{Attention, Bias, FeedForward, Heads, Layer, Order};
use crate::models::loader::Loader;
use crate::models::transformer::{Embeddings, Transformer};

pub(super) fn assemble(config: &Config, loader: &Loader<'_>) -> Result<Assembled> {
    config.refuse_flag("add_cross_attention")?;
    let hidden = config.count(&["n_embd", "hidden_size"])?;
    let heads = config.count(&["n_head", "num_attention_heads"])?;
    if !hidden.is_multiple_of(heads) {
        return Err(config.unsupported("n_embd", format!("a multiple of n_head, {heads},")));
    }
    let width = hidden / heads;
    let vocabulary = config.count(&["vocab_size"])?;
    let positions = config.count(&["n_positions", "max_position_embeddings"])?;
    let inner = config.optional_size(&["n_inner"])?.unwrap_or(4 * hidden);
    let epsilon = config.number(&["layer_norm_epsilon"])?.unwrap_or(1e-5);
    let activation = activation(config, "activation_function", Activation::GeluTanh)?;
    let scaled = config.flag("scale_attn_weights", true)?;
    let by_layer = config.flag("scale_attn_by_inverse_layer_idx", false)?;

    // The first files have no prefix.
    let model = if loader.has("wte.weight") { loader.clone() } else { loader.at("transformer") };
    let layer = |number: usize| -> Result<Layer> {
        let at = model.at(format!("h.{number}"));
        let norm = |name: &str| at.norm(name, NormKind::Layer, hidden, epsilon, Bias::Required).map(Some);
        let fused = at.fused_transposed("attn.c_attn", hidden, 3 * hidden)?;
        let scale = if scaled { (width as f32).sqrt().recip() } else { 1.0 };
        let scale = if by_layer { scale / (number + 1) as f32 } else { scale };
        Ok(Layer {
            order: Order::Before,
            attention_norm: norm("ln_1")?,
            attention: Attention {
                query: fused.rows(0..hidden)?,
                key: fused.rows(hidden..2 * hidden)?,
                value: fused.rows(2 * hidden..3 * hidden)?,
                output: at.fused_transposed("attn.c_proj", hidden, hidden)?.rows(0..hidden)?,
                query_norm: None,
                key_norm: None,
                clip: None,
                rope: None,
                relative: None,
                heads: Heads { queries: heads, keys: heads, width, scale },
                mask: causal(None),
            },
            feed_forward_norm: norm("ln_2")?,
            feed_forward: FeedForward {
                gate: None,
                up: at.fused_transposed("mlp.c_fc", hidden, inner)?.rows(0..inner)?,
                down: at.fused_transposed("mlp.c_proj", inner, hidden)?.rows(0..hidden)?,
                activation,
            },
        })
    };
    let layers = (0..config.size(&["n_layer", "num_hidden_layers"])?).map(layer).collect::<Result<_>>()?;
    let transformer = Transformer {
        hidden,
        vocabulary,
        most_positions: Some(positions),
        embeddings: Embeddings {
            positions: Some(model.table("wpe", positions, hidden)?),
            ..model.embeddings("wte", vocabulary, hidden)?
        },
        ropes: Vec::new(),
        layers,
        last_norm: Some(model.norm("ln_f", NormKind::Layer, hidden, epsilon, Bias::Required)?),
    };
    let head = Head::language_model(config, loader, &transformer, "lm_head", true)?;
    Ok(Assembled { transformer, head })
}

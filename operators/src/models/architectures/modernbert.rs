//! ModernBERT (Warner and others, 2024): rotary positions, gated feed-forward layers, local attention in most layers.

use gristmill_kernels::attention::Mask;
use gristmill_kernels::glu::Activation;
use gristmill_kernels::norms::NormKind;
use gristmill_kernels::pool::Pool;

use super::{Assembled, activation};
use crate::models::config::Config;
use crate::models::error::Result;
use crate::models::heads::{Classifier, Head, HeadActivation};
use crate::models::layers::{Attention, Bias, FeedForward, Heads, Layer, Order};
use crate::models::loader::Loader;
use crate::models::rope::Rope;
use crate::models::transformer::{Embeddings, Transformer};

pub(super) fn assemble(config: &Config, loader: &Loader<'_>) -> Result<Assembled> {
    let hidden = config.count(&["hidden_size"])?;
    let heads = config.count(&["num_attention_heads"])?;
    if !hidden.is_multiple_of(heads) {
        return Err(config.unsupported("hidden_size", format!("a multiple of num_attention_heads, {heads},")));
    }
    let width = hidden / heads;
    let vocabulary = config.count(&["vocab_size"])?;
    let inner = config.count(&["intermediate_size"])?;
    let count = config.size(&["num_hidden_layers"])?;
    let epsilon = config.number(&["norm_eps", "layer_norm_eps"])?.unwrap_or(1e-5);
    let norm_bias = Bias::from(config.flag("norm_bias", false)?);
    let bias = Bias::from(config.flag("attention_bias", false)?);
    let feed_bias = Bias::from(config.flag("mlp_bias", false)?);
    let activation = activation(config, "hidden_activation", Activation::GeluErf)?;
    let local = match config.local_layers(count)? {
        Some(local) => local,
        None => {
            let every = config.optional_size(&["global_attn_every_n_layers"])?.unwrap_or(3).max(1);
            (0..count).map(|layer| !layer.is_multiple_of(every)).collect()
        }
    };
    let reach = config.optional_size(&["local_attention"])?.unwrap_or(128) / 2;
    let global = config.rope(Some("full_attention"), width, &["global_rope_theta"], 160_000.0)?;
    let near = config.rope(Some("sliding_attention"), width, &["local_rope_theta", "global_rope_theta"], 10_000.0)?;

    let model = if loader.has("embeddings.tok_embeddings.weight") { loader.clone() } else { loader.at("model") };
    let norm = |at: &Loader<'_>, name: &str| at.norm(name, NormKind::Layer, hidden, epsilon, norm_bias).map(Some);
    let layer = |number: usize| -> Result<Layer> {
        let at = model.at(format!("layers.{number}"));
        let fused = at.fused("attn.Wqkv", hidden, 3 * hidden, bias)?;
        let gated = at.fused("mlp.Wi", hidden, 2 * inner, feed_bias)?;
        Ok(Layer {
            order: Order::Before,
            // The embeddings have been normalised already.
            attention_norm: if number == 0 { None } else { norm(&at, "attn_norm")? },
            attention: Attention {
                query: fused.rows(0..hidden)?,
                key: fused.rows(hidden..2 * hidden)?,
                value: fused.rows(2 * hidden..3 * hidden)?,
                output: at.linear("attn.Wo", hidden, hidden, bias)?,
                query_norm: None,
                key_norm: None,
                clip: None,
                rope: Some(usize::from(local[number])),
                relative: None,
                heads: Heads { queries: heads, keys: heads, width, scale: (width as f32).sqrt().recip() },
                mask: if local[number] { Mask::window(reach, reach) } else { Mask::ALL },
            },
            feed_forward_norm: norm(&at, "mlp_norm")?,
            feed_forward: FeedForward {
                gate: Some(gated.rows(0..inner)?),
                up: gated.rows(inner..2 * inner)?,
                down: at.linear("mlp.Wo", inner, hidden, feed_bias)?,
                activation,
            },
        })
    };
    let layers = (0..count).map(layer).collect::<Result<_>>()?;
    let embeddings = model.at("embeddings");
    let transformer = Transformer {
        hidden,
        vocabulary,
        most_positions: Some(config.count(&["max_position_embeddings"])?),
        embeddings: Embeddings {
            norm: norm(&embeddings, "norm")?,
            ..embeddings.embeddings("tok_embeddings", vocabulary, hidden)?
        },
        ropes: vec![Rope::new(global), Rope::new(near)],
        layers,
        last_norm: norm(&model, "final_norm")?,
    };
    let head = Head::encoder(config, || {
        let pool = match config.text("classifier_pooling")? {
            None | Some("cls") => Pool::First,
            Some("mean") => Pool::Mean,
            Some(_) => return Err(config.unsupported("classifier_pooling", "\"cls\" or \"mean\"")),
        };
        let activation = match config.text("classifier_activation")? {
            None | Some("gelu") => HeadActivation::Gelu,
            Some(_) => return Err(config.unsupported("classifier_activation", "\"gelu\"")),
        };
        let bias = Bias::from(config.flag("classifier_bias", false)?);
        Ok(Classifier {
            pool,
            dense: Some((loader.linear("head.dense", hidden, hidden, bias)?, activation)),
            norm: norm(loader, "head.norm")?,
            output: Classifier::output(config, loader, "classifier", hidden, Bias::Required)?,
            labels: config.labels()?,
        })
    })?;
    loader.ignore(|name| name.starts_with("decoder.") || (matches!(head, Head::None) && name.starts_with("head.")));
    Ok(Assembled { transformer, head })
}

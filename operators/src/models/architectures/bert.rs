//! BERT (Devlin and others, 2018), RoBERTa and XLM-RoBERTa, DistilBERT.

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
use crate::models::transformer::{Embeddings, Transformer};

/// Names of tensors that the three have for the same thing, and sizes.
struct Kin {
    layer: &'static str,
    /// Queries, keys, values, output, norm; then up, down, norm.
    attention: [&'static str; 5],
    feed_forward: [&'static str; 3],
    hidden: usize,
    heads: usize,
    layers: usize,
    inner: usize,
    epsilon: f64,
    activation: Activation,
    /// Row of the positions' table that the first token has.
    first_position: usize,
    segments: usize,
}

fn bert(config: &Config) -> Result<Kin> {
    config.refuse_flag("is_decoder")?;
    config.refuse_flag("add_cross_attention")?;
    if config.text("position_embedding_type")?.is_some_and(|kind| kind != "absolute") {
        return Err(config.unsupported("position_embedding_type", "\"absolute\""));
    }
    Ok(Kin {
        layer: "encoder.layer",
        attention: [
            "attention.self.query",
            "attention.self.key",
            "attention.self.value",
            "attention.output.dense",
            "attention.output.LayerNorm",
        ],
        feed_forward: ["intermediate.dense", "output.dense", "output.LayerNorm"],
        hidden: config.count(&["hidden_size"])?,
        heads: config.count(&["num_attention_heads"])?,
        layers: config.size(&["num_hidden_layers"])?,
        inner: config.count(&["intermediate_size"])?,
        epsilon: config.number(&["layer_norm_eps"])?.unwrap_or(1e-12),
        activation: activation(config, "hidden_act", Activation::GeluErf)?,
        first_position: 0,
        segments: config.count(&["type_vocab_size"])?,
    })
}

pub(super) fn assemble(config: &Config, loader: &Loader<'_>) -> Result<Assembled> {
    let kin = bert(config)?;
    let transformer = build(config, loader, "bert", &kin)?;
    let head = Head::encoder(config, || {
        Ok(Classifier {
            pool: Pool::First,
            dense: Some((
                loader.linear("bert.pooler.dense", kin.hidden, kin.hidden, Bias::Required)?,
                HeadActivation::Tanh,
            )),
            norm: None,
            output: Classifier::output(config, loader, "classifier", kin.hidden, Bias::Required)?,
            labels: config.labels()?,
        })
    })?;
    loader.ignore(|name| name.starts_with("cls.") || name.contains("pooler.") || name.ends_with("position_ids"));
    Ok(Assembled { transformer, head })
}

pub(super) fn assemble_roberta(config: &Config, loader: &Loader<'_>) -> Result<Assembled> {
    let padding = config.optional_size(&["pad_token_id"])?.unwrap_or(1);
    let kin = Kin { first_position: padding + 1, ..bert(config)? };
    let transformer = build(config, loader, "roberta", &kin)?;
    let head = Head::encoder(config, || {
        Ok(Classifier {
            pool: Pool::First,
            dense: Some((
                loader.linear("classifier.dense", kin.hidden, kin.hidden, Bias::Required)?,
                HeadActivation::Tanh,
            )),
            norm: None,
            output: Classifier::output(config, loader, "classifier.out_proj", kin.hidden, Bias::Required)?,
            labels: config.labels()?,
        })
    })?;
    loader.ignore(|name| name.starts_with("lm_head.") || name.contains("pooler.") || name.ends_with("position_ids"));
    Ok(Assembled { transformer, head })
}

pub(super) fn assemble_distilbert(config: &Config, loader: &Loader<'_>) -> Result<Assembled> {
    // Positions that are sines are saved as a table, too.
    let kin = Kin {
        layer: "transformer.layer",
        attention: ["attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "sa_layer_norm"],
        feed_forward: ["ffn.lin1", "ffn.lin2", "output_layer_norm"],
        hidden: config.count(&["dim"])?,
        heads: config.count(&["n_heads"])?,
        layers: config.size(&["n_layers"])?,
        inner: config.count(&["hidden_dim"])?,
        epsilon: 1e-12,
        activation: activation(config, "activation", Activation::GeluErf)?,
        first_position: 0,
        segments: 0,
    };
    let transformer = build(config, loader, "distilbert", &kin)?;
    let head = Head::encoder(config, || {
        Ok(Classifier {
            pool: Pool::First,
            dense: Some((
                loader.linear("pre_classifier", kin.hidden, kin.hidden, Bias::Required)?,
                HeadActivation::Relu,
            )),
            norm: None,
            output: Classifier::output(config, loader, "classifier", kin.hidden, Bias::Required)?,
            labels: config.labels()?,
        })
    })?;
    loader.ignore(|name| name.starts_with("vocab_") || name.ends_with("position_ids"));
    Ok(Assembled { transformer, head })
}

fn build(config: &Config, loader: &Loader<'_>, prefix: &str, kin: &Kin) -> Result<Transformer> {
    let Kin { hidden, heads, inner, epsilon, .. } = *kin;
    if !hidden.is_multiple_of(heads) {
        return Err(config.unsupported("hidden_size", format!("a multiple of the number of heads, {heads},")));
    }
    let vocabulary = config.count(&["vocab_size"])?;
    let positions = config.count(&["max_position_embeddings"])?;
    // A model saved without a head has no prefix.
    let model = if loader.has("embeddings.word_embeddings.weight") { loader.clone() } else { loader.at(prefix) };
    let norm = |at: &Loader<'_>, name: &str| at.norm(name, NormKind::Layer, hidden, epsilon, Bias::Required).map(Some);
    let layer = |number: usize| -> Result<Layer> {
        let at = model.at(format!("{}.{number}", kin.layer));
        let [query, key, value, output, attention_norm] = kin.attention;
        let [up, down, feed_norm] = kin.feed_forward;
        let square = |name: &str| at.linear(name, hidden, hidden, Bias::Required);
        let width = hidden / heads;
        Ok(Layer {
            order: Order::AfterSum,
            attention_norm: norm(&at, attention_norm)?,
            attention: Attention {
                query: square(query)?,
                key: square(key)?,
                value: square(value)?,
                output: square(output)?,
                query_norm: None,
                key_norm: None,
                clip: None,
                rope: None,
                relative: None,
                heads: Heads { queries: heads, keys: heads, width, scale: (width as f32).sqrt().recip() },
                mask: Mask::ALL,
            },
            feed_forward_norm: norm(&at, feed_norm)?,
            feed_forward: FeedForward {
                gate: None,
                up: at.linear(up, hidden, inner, Bias::Required)?,
                down: at.linear(down, inner, hidden, Bias::Required)?,
                activation: kin.activation,
            },
        })
    };
    let layers = (0..kin.layers).map(layer).collect::<Result<_>>()?;
    let at = model.at("embeddings");
    let segment = match kin.segments {
        0 => None,
        segments => {
            let mut table = at.table("token_type_embeddings", segments, hidden)?;
            table.values.truncate(hidden);
            Some(table)
        }
    };
    Ok(Transformer {
        hidden,
        vocabulary,
        most_positions: Some(positions.saturating_sub(kin.first_position)),
        embeddings: Embeddings {
            positions: Some(at.table("position_embeddings", positions, hidden)?),
            first_position: kin.first_position,
            segment,
            norm: norm(&at, "LayerNorm")?,
            ..at.embeddings("word_embeddings", vocabulary, hidden)?
        },
        ropes: Vec::new(),
        layers,
        last_norm: None,
    })
}

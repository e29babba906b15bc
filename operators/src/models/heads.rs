//! What stands on a stack of layers: the head of a language model, or a classifier.

use gristmill_kernels::glu::{self, Activation};
use gristmill_kernels::linear_ce;
use gristmill_kernels::pool::Pool;

use super::config::Config;
use super::error::Result;
use super::layers::{Bias, Compute, Norm};
use super::linear::Linear;
use super::loader::Loader;
use super::transformer::Transformer;

/// A model's head.
#[derive(Debug)]
pub(crate) enum Head {
    None,
    LanguageModel(linear_ce::Head),
    Classifier(Box<Classifier>),
}

/// Pooled hidden states, perhaps a layer and a norm, then a number for each label.
#[derive(Debug)]
pub(crate) struct Classifier {
    pub(crate) pool: Pool,
    pub(crate) dense: Option<(Linear, HeadActivation)>,
    pub(crate) norm: Option<Norm>,
    pub(crate) output: Linear,
    pub(crate) labels: Vec<String>,
}

/// Activations of classifiers' layers, and of the convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadActivation {
    Tanh,
    Relu,
    Gelu,
}

impl HeadActivation {
    /// The one that a configuration names.
    pub(crate) fn read(config: &Config, key: &str, default: Self) -> Result<Self> {
        Ok(match config.text(key)? {
            None => default,
            Some("tanh") => Self::Tanh,
            Some("relu") => Self::Relu,
            Some("gelu" | "gelu_python") => Self::Gelu,
            Some(_) => return Err(config.unsupported(key, "\"gelu\", \"tanh\" or \"relu\"")),
        })
    }

    /// Overwrites values.
    pub(crate) fn apply(self, compute: Compute<'_>, values: &mut [f32]) -> Result<()> {
        match self {
            Self::Tanh => values.iter_mut().for_each(|value| *value = value.tanh()),
            Self::Relu => values.iter_mut().for_each(|value| *value = value.max(0.0)),
            Self::Gelu => {
                let x = values.to_vec();
                let slices = glu::Forward { x: x.as_slice(), up: None, y: values };
                Activation::GeluErf.forward(compute.workers, slices)?;
            }
        }
        Ok(())
    }

    /// The gradient of values, given what they were, becomes that of what they were.
    pub(crate) fn backward(self, compute: Compute<'_>, x: &[f32], delta: &mut [f32]) -> Result<()> {
        match self {
            Self::Tanh => delta.iter_mut().zip(x).for_each(|(delta, x)| *delta *= 1.0 - x.tanh().powi(2)),
            Self::Relu => delta.iter_mut().zip(x).filter(|(_, x)| **x <= 0.0).for_each(|(delta, _)| *delta = 0.0),
            Self::Gelu => {
                let dy = delta.to_vec();
                let slices = glu::Backward { x, dy: &dy[..], dx: delta, up: None };
                Activation::GeluErf.backward(compute.workers, slices)?;
            }
        }
        Ok(())
    }
}

impl Head {
    /// The head of a decoder: of its own name, or the embeddings again, or a classifier of the last token.
    pub(crate) fn language_model(
        config: &Config,
        loader: &Loader<'_>,
        transformer: &Transformer,
        name: &str,
        tied: bool,
    ) -> Result<Self> {
        let Transformer { hidden, vocabulary, embeddings, .. } = transformer;
        // Buffers that old programs saved.
        loader.ignore(|name| {
            ["rotary_emb.inv_freq", "attention.bias", "attention.masked_bias", "attn.bias", "attn.masked_bias"]
                .iter()
                .any(|buffer| name.ends_with(buffer))
        });
        let weight = format!("{name}.weight");
        if config.class().is_some_and(|class| class.ends_with("ForSequenceClassification")) {
            // A language model that an adapter makes a classifier.
            loader.ignore(|name| name == weight);
            return Ok(Self::Classifier(Box::new(Classifier {
                pool: Pool::Last,
                dense: None,
                norm: None,
                // Like the head of a language model it stays as it is where other weights are in four bits.
                output: Classifier::output(config, &loader.in_four_bits(false), "score", *hidden, Bias::None)?,
                labels: config.labels()?,
            })));
        }
        if config.flag("tie_word_embeddings", tied)? {
            return Ok(Self::LanguageModel(loader.tied_head(name, embeddings, *hidden)?));
        }
        if !loader.has(&weight) && config.class().is_some_and(|class| class.ends_with("Model")) {
            return Ok(Self::None);
        }
        Ok(Self::LanguageModel(loader.head(name, *hidden, *vocabulary)?))
    }

    /// The head of an encoder: a classifier if it was saved as one, else none.
    pub(crate) fn encoder(config: &Config, classifier: impl FnOnce() -> Result<Classifier>) -> Result<Self> {
        if config.class().is_some_and(|class| class.ends_with("ForSequenceClassification")) {
            return Ok(Self::Classifier(Box::new(classifier()?)));
        }
        Ok(Self::None)
    }
}

impl Classifier {
    /// What is left of it when its weights are on a device.
    pub(crate) fn without_weights(self) -> Result<Self> {
        Ok(Self { dense: None, norm: None, output: Linear::nothing()?, ..self })
    }

    /// The last layer, with an output for each label.
    pub(crate) fn output(
        config: &Config,
        loader: &Loader<'_>,
        name: &str,
        hidden: usize,
        bias: Bias,
    ) -> Result<Linear> {
        // A count that the weights do not have is refused before as many names are made.
        loader.linear(name, hidden, config.label_count()?, bias)
    }

    /// Logits, `[documents, labels]`, of hidden states after the last norm.
    pub(crate) fn forward(
        &self,
        compute: Compute<'_>,
        hidden: usize,
        states: &[f32],
        offsets: &[i64],
    ) -> Result<Vec<f32>> {
        Ok(self.activate(compute, hidden, states, offsets)?.logits)
    }

    /// The same with all that is computed on the way.
    pub(crate) fn activate(
        &self,
        compute: Compute<'_>,
        hidden: usize,
        states: &[f32],
        offsets: &[i64],
    ) -> Result<Activated> {
        let mut activated = Activated { pooled: vec![0.0; (offsets.len() - 1) * hidden], ..Activated::default() };
        let Activated { pooled, inner, active, normed, logits } = &mut activated;
        self.pool.forward(compute.workers, hidden, states, offsets, pooled)?;
        let mut read = &*pooled;
        if let Some((dense, activation)) = &self.dense {
            dense.forward(compute, read, inner)?;
            active.clone_from(inner);
            activation.apply(compute, active)?;
            read = active;
        }
        if let Some(norm) = &self.norm {
            norm.forward(compute, read, normed)?;
            read = normed;
        }
        self.output.forward(compute, read, logits)?;
        Ok(activated)
    }
}

/// What a classifier computes, `[documents, …]`.
#[derive(Debug, Default)]
pub(crate) struct Activated {
    pub(crate) pooled: Vec<f32>,
    /// Before the activation.
    pub(crate) inner: Vec<f32>,
    pub(crate) active: Vec<f32>,
    pub(crate) normed: Vec<f32>,
    pub(crate) logits: Vec<f32>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::HeadActivation;
    use crate::models::tests::ALONE;

    #[test]
    fn slopes_of_activations_are_those_of_their_values() {
        // No step crosses the kink at 0.
        let x: Vec<f32> = (-20..20).map(|i| (i as f32 + 0.5) / 8.0).collect();
        let step = 1.0 / 64.0;
        for activation in [HeadActivation::Tanh, HeadActivation::Relu, HeadActivation::Gelu] {
            let at = |by: f32| {
                let mut values: Vec<f32> = x.iter().map(|x| x + by).collect();
                activation.apply(ALONE, &mut values).unwrap();
                values
            };
            let mut delta: Vec<f32> = x.iter().map(|x| 2.0 - x).collect();
            activation.backward(ALONE, &x, &mut delta).unwrap();
            for ((x, delta), (above, below)) in x.iter().zip(&delta).zip(at(step).iter().zip(&at(-step))) {
                let expected = (2.0 - x) * (above - below) / (2.0 * step);
                // The third derivative times a sixth of the step squared, and rounding.
                assert!((delta - expected).abs() < 5e-4, "{activation:?} {x}: {delta}, expected {expected}");
            }
        }
    }
}

//! The configuration of `gradient`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::encode::Encoding;
use crate::influence::Modules;
use crate::influence::sketch::{SignSource, SketchSpec, default_dimension};
use crate::models::gradients;
use crate::scoring::{Device, Precision};

/// Configuration of `gradient`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GradientConfig {
    /// A causal language model: a folder with `config.json` and safetensors, a URL of one, or a repository on the Hugging Face Hub.
    pub model: String,
    /// An adapter of peft for the model (LoRA, rsLoRA, DoRA), which is merged into the weights: gradients are those by the merged weights.
    #[serde(default)]
    pub adapter: Option<String>,
    /// The tokenizer, if it is not the one beside the model.
    #[serde(default)]
    pub tokenizer: Option<String>,
    /// The text column.
    #[serde(default = "default_column")]
    pub column: String,
    /// A column of answers to the texts: only their tokens are targets.
    #[serde(default)]
    pub answer: Option<String>,
    /// Only these tokens of a text are targets. Not together with `answer`.
    #[serde(default)]
    pub span: Option<Span>,
    /// How the losses of a text's tokens are put together.
    #[serde(default)]
    pub reduction: Reduction,
    /// The most tokens of a text; as many as the model takes if left out.
    #[serde(default)]
    pub context_length: Option<usize>,
    /// Rows p of both projections of a layer, 4 to 128 and at most as many as the layer has inputs and outputs: p² numbers for each layer. With 0 gradients are not projected.
    #[serde(default = "default_dimension")]
    pub dimension: usize,
    /// Other numbers give other projections.
    #[serde(default)]
    pub seed: u64,
    /// Where the signs of projections come from.
    #[serde(default)]
    pub signs: SignSource,
    /// The linear layers.
    #[serde(default)]
    pub modules: Modules,
    /// One row for each token of a text in place of one for the text.
    #[serde(default)]
    pub per_token: bool,
    /// Which norms of gradients are computed. They take time: about that of the gradients of weights for long texts.
    #[serde(default)]
    pub norms: Norms,
    /// What numbers are stored as.
    #[serde(default)]
    pub output: Encoding,
    /// What the model's weights are rounded to: `f32` or `bf16`.
    #[serde(default)]
    pub precision: Precision,
    /// Where gradients are computed. Bits differ between a GPU and the CPU. A GPU projects gradients, too; norms and rows of tokens are made on the CPU from what it gives.
    #[serde(default)]
    pub device: Device,
}

impl GradientConfig {
    /// How gradients are projected.
    pub fn sketch(&self) -> SketchSpec {
        let &Self { dimension, seed, signs, .. } = self;
        SketchSpec { dimension, seed, signs, modules: self.modules.clone() }
    }
}

fn default_column() -> String {
    "text".to_owned()
}

/// What the tokens with a loss are called where they are those of the whole text.
pub(in crate::influence) const TEXT: &str = "text";

impl GradientConfig {
    /// Which tokens have a loss, in words.
    pub(in crate::influence) fn targets(&self) -> String {
        let place = |position: &Position| match position {
            Position::Number(number) => number.to_string(),
            Position::Column(column) => format!("'{column}'"),
        };
        match (&self.answer, &self.span) {
            (Some(answer), _) => format!("answer '{answer}'"),
            (None, Some(Span { start, end })) => {
                let end = end.as_ref().map_or_else(|| "the end".to_owned(), place);
                format!("span from {} to {end}", place(start))
            }
            (None, None) => TEXT.to_owned(),
        }
    }
}

/// Tokens of a text, counted from 0 in the ids that the tokenizer gives with its special tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Span {
    /// The first token: a number, or the name of a column of whole numbers.
    #[serde(default)]
    pub start: Position,
    /// The token after the last one, the same way; the end of the text if left out, or where it is null.
    #[serde(default)]
    pub end: Option<Position>,
}

/// A place in a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Position {
    /// The same in all texts.
    Number(u64),
    /// The column that says where.
    Column(String),
}

impl Default for Position {
    fn default() -> Self {
        Self::Number(0)
    }
}

/// How losses of tokens are put together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reduction {
    /// Their mean over the tokens of the text that are targets.
    #[default]
    Mean,
    /// Their sum.
    Sum,
}

impl From<Reduction> for gradients::Reduction {
    fn from(reduction: Reduction) -> Self {
        match reduction {
            Reduction::Mean => Self::Mean,
            Reduction::Sum => Self::Sum,
        }
    }
}

/// Which norms of gradients are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Norms {
    /// None.
    #[default]
    None,
    /// That of all layers together.
    Total,
    /// That, and those of each layer.
    Modules,
}

//! How a text that is longer than a model's context becomes windows.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::tokens::Tokenizer;

/// How a text becomes windows of at most `context_length` tokens, special tokens included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Windows {
    /// One window behind the other, each with the special tokens around it, until every token was read.
    All,
    /// The first window alone: the text is cut off.
    First,
    /// As the filter of Deep Ignorance (O'Brien and others, 2025) makes them: the ids of the whole text with its special tokens are cut in
    /// runs of `context_length`, each run is decoded, and the text is tokenised again and cut off at `context_length`. Up to two tokens of each
    /// run are lost to the special tokens.
    Retokenized,
}

impl Windows {
    /// Adds the windows of a text, at least one. `context_length` is more than the special tokens that the tokenizer adds.
    pub(super) fn cut(
        self,
        tokenizer: &Tokenizer,
        text: &str,
        context_length: usize,
        windows: &mut Vec<Vec<u32>>,
    ) -> Result<(), String> {
        let mut ids = Vec::new();
        let content = context_length - tokenizer.prefix().len() - tokenizer.suffix().len();
        let window = |ids: &[u32]| [tokenizer.prefix(), &ids[..ids.len().min(content)], tokenizer.suffix()].concat();
        match self {
            Self::All | Self::First => {
                tokenizer.encode(text, false, &mut ids).map_err(|error| error.to_string())?;
                windows.push(window(&ids));
                if self == Self::All {
                    windows.extend(ids.chunks(content).skip(1).map(window));
                }
            }
            Self::Retokenized => {
                tokenizer.encode(text, true, &mut ids).map_err(|error| error.to_string())?;
                let whole = std::mem::take(&mut ids);
                for run in whole.chunks(context_length) {
                    let text = tokenizer.decode(run).map_err(|error| error.to_string())?;
                    tokenizer.encode(&text, false, &mut ids).map_err(|error| error.to_string())?;
                    windows.push(window(&ids));
                }
                if whole.is_empty() {
                    windows.push(window(&[]));
                }
            }
        }
        Ok(())
    }
}

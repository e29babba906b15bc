//! Counting tokens without making them.

use std::fmt;

use tokenizers::pipeline::{Model, PipelineModel, PipelineToken};

use super::added::Piece;
use super::cache::CountCache;
use super::stages::Splitter;
use super::{EncodeError, Tokenizer, failed};

/// Counts the tokens of texts. Made by [`Tokenizer::counter`].
///
/// A counter runs the library's own normaliser and pre-tokenizer and remembers how many tokens each word gave, so the
/// model runs once per different word, and a count is always the number of ids that [`Tokenizer::encode`] gives. Words
/// that are not known are counted by the merges of a byte-level BPE model without making ids, or by the library's model. It
/// takes 40 MiB, whatever it is fed with.
pub struct TokenCounter {
    tokenizer: Tokenizer,
    cache: CountCache,
    /// What the library's model works with, once it was needed.
    model: Option<<PipelineModel as Model>::Scratch>,
    splitter: Splitter,
    tokens: Vec<PipelineToken>,
}

impl TokenCounter {
    pub(super) fn new(tokenizer: Tokenizer) -> Self {
        Self { cache: CountCache::new(), model: None, splitter: Splitter::new(), tokens: Vec::new(), tokenizer }
    }

    /// The number of tokens of `text`; with `special_tokens` including the ones put around it.
    pub fn count(&mut self, text: &str, special_tokens: bool) -> Result<usize, EncodeError> {
        let Self { tokenizer, cache, model, splitter, tokens } = self;
        let shared = &*tokenizer.shared;
        let (stages, merges) = match &shared.counting {
            Some(counting) => (&counting.stages, Some(&counting.merges)),
            None => (shared.stages()?, None),
        };
        let mut count = if special_tokens { shared.prefix.len() + shared.suffix.len() } else { 0 };
        stages.pieces(text, |piece| {
            let Piece::Text(text) = piece else {
                count += 1;
                return Ok(());
            };
            count += cache.count(text, splitter.split(stages, text)?, |word| {
                if let Some(merges) = merges {
                    return Ok(merges.count(word.as_bytes()));
                }
                let library = stages.pipeline.get_model();
                let scratch = model.get_or_insert_with(|| library.init_scratch());
                tokens.clear();
                library.tokenize_pipeline(word, scratch, tokens).map_err(failed)?;
                Ok(tokens.len())
            })?;
            Ok(())
        })?;
        Ok(count)
    }
}

impl fmt::Debug for TokenCounter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TokenCounter")
            .field("tokenizer", &self.tokenizer)
            .field("cache_bytes", &CountCache::BYTES)
            .finish_non_exhaustive()
    }
}

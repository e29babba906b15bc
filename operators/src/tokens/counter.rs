//! Counting tokens without making them.

use std::fmt;

use tokenizers::pipeline::{
    Model, PipelineModel, PipelineToken, PreTokenizer, PreTokenizerScratch, Segment, Span, SpecialSegmentIterator,
    normalize_all,
};

use super::cache::{CountCache, Found};
use super::tokenizer::{EncodeError, Tokenizer};

/// Counts the tokens of texts. Made by [`Tokenizer::counter`].
///
/// A counter runs the library's own normaliser and pre-tokenizer and remembers how many tokens each word gave, so the
/// model runs once per different word, and a count is always the number of ids that [`Tokenizer::encode`] gives. It
/// takes 21 MiB, whatever it is fed with.
pub struct TokenCounter {
    tokenizer: Tokenizer,
    cache: CountCache,
    model: <PipelineModel as Model>::Scratch,
    pre_tokenizer: PreTokenizerScratch,
    words: Vec<Span>,
    tokens: Vec<PipelineToken>,
}

impl TokenCounter {
    pub(super) fn new(tokenizer: Tokenizer) -> Self {
        let model = tokenizer.shared.pipeline.get_model().init_scratch();
        Self {
            tokenizer,
            cache: CountCache::new(),
            model,
            pre_tokenizer: PreTokenizerScratch::default(),
            words: Vec::new(),
            tokens: Vec::new(),
        }
    }

    /// The number of tokens of `text`; with `special_tokens` including the ones put around it.
    pub fn count(&mut self, text: &str, special_tokens: bool) -> Result<usize, EncodeError> {
        let tokenizer = self.tokenizer.clone();
        let pipeline = &tokenizer.shared.pipeline;
        let added = pipeline.get_added_vocabulary();
        let mut count = if special_tokens { tokenizer.prefix().len() + tokenizer.suffix().len() } else { 0 };
        for segment in SpecialSegmentIterator::new(text, added, false, false) {
            let (text, offset) = match segment {
                Segment::SpecialToken(_) => {
                    count += 1;
                    continue;
                }
                Segment::Text { text, input_offset } => (text, input_offset),
            };
            let normalized = normalize_all(pipeline.get_normalizers(), text, offset).map_err(failed)?;
            for segment in SpecialSegmentIterator::new(&normalized, added, true, false) {
                count += match segment {
                    Segment::SpecialToken(_) => 1,
                    Segment::Text { text, .. } => self.count_words(&tokenizer, text)?,
                };
            }
        }
        Ok(count)
    }

    /// Tokens of a text that holds no added token and is normalised.
    fn count_words(&mut self, tokenizer: &Tokenizer, text: &str) -> Result<usize, EncodeError> {
        // The library's spans hold 32-bit offsets.
        if u32::try_from(text.len()).is_err() {
            return Err(EncodeError(format!("{} bytes after normalisation, the limit is {}", text.len(), u32::MAX)));
        }
        let pipeline = &tokenizer.shared.pipeline;
        self.words.clear();
        pipeline.get_pre_tokenizer().pre_tokenize(text, &mut self.pre_tokenizer, &mut self.words).map_err(failed)?;
        let mut count = 0;
        for word in &self.words {
            count += match self.cache.find(text.as_bytes(), word.start as usize, word.end as usize) {
                Found::Count(known) => known,
                Found::Nothing(place) => {
                    let word = &text[word.range()];
                    self.tokens.clear();
                    pipeline
                        .get_model()
                        .tokenize_pipeline(word, &mut self.model, &mut self.tokens)
                        .map_err(failed)?;
                    self.cache.keep(place, word.as_bytes(), self.tokens.len());
                    self.tokens.len()
                }
            };
        }
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

fn failed(error: tokenizers::Error) -> EncodeError {
    EncodeError(error.to_string())
}

//! Counting tokens without making them.

use std::fmt;

use memchr::memmem::Finder;
use tokenizers::pipeline::{
    Model, PipelineModel, PipelinePreTokenizer, PipelineToken, PreTokenizer, PreTokenizerScratch, Span,
};

use super::cache::{CountCache, Found};
use super::normal::normalize;
use super::vocabulary::SPACE;
use super::{EncodeError, Shared, Tokenizer};

/// Counts the tokens of texts. Made by [`Tokenizer::counter`].
///
/// A counter runs the library's own normaliser and pre-tokenizer and remembers how many tokens each word gave, so the
/// model runs once per different word, and a count is always the number of ids that [`Tokenizer::encode`] gives. It
/// takes 21 MiB, whatever it is fed with.
pub struct TokenCounter {
    tokenizer: Tokenizer,
    words: WordCounter,
}

impl TokenCounter {
    pub(super) fn new(tokenizer: Tokenizer) -> Self {
        let words = WordCounter {
            cache: CountCache::new(),
            model: tokenizer.shared.pipeline.get_model().init_scratch(),
            pre_tokenizer: PreTokenizerScratch::default(),
            spaces: Finder::new(SPACE),
            spans: Vec::new(),
            tokens: Vec::new(),
        };
        Self { tokenizer, words }
    }

    /// The number of tokens of `text`; with `special_tokens` including the ones put around it.
    pub fn count(&mut self, text: &str, special_tokens: bool) -> Result<usize, EncodeError> {
        let Self { tokenizer, words } = self;
        let shared = &*tokenizer.shared;
        let (added, tokens) = (shared.pipeline.get_added_vocabulary(), &shared.added);
        let mut count = if special_tokens { tokenizer.prefix().len() + tokenizer.suffix().len() } else { 0 };
        // The stages of the library: added tokens that are matched on the text as it is, normalisation, added tokens that
        // are matched on normalised text, words.
        count += tokens.split(added, text, false, |piece, offset| {
            let normalized = normalize(shared.pipeline.get_normalizers(), piece, offset).map_err(failed)?;
            count += tokens
                .split(added, &normalized, true, |piece, _| words.count(shared, piece).map(|tokens| count += tokens))?;
            Ok::<(), EncodeError>(())
        })?;
        Ok(count)
    }
}

/// The part that counts the tokens of text without added tokens.
struct WordCounter {
    cache: CountCache,
    model: <PipelineModel as Model>::Scratch,
    pre_tokenizer: PreTokenizerScratch,
    spaces: Finder<'static>,
    spans: Vec<Span>,
    tokens: Vec<PipelineToken>,
}

impl WordCounter {
    fn count(&mut self, shared: &Shared, text: &str) -> Result<usize, EncodeError> {
        self.split(shared, text)?;
        let mut count = 0;
        for span in &self.spans {
            count += match self.cache.find(text.as_bytes(), span.start as usize, span.end as usize) {
                Found::Count(known) => known,
                Found::Nothing(place) => {
                    let word = &text[span.range()];
                    self.tokens.clear();
                    shared
                        .pipeline
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

    /// Puts the words of `text` into `spans`.
    fn split(&mut self, shared: &Shared, text: &str) -> Result<(), EncodeError> {
        // Spans hold 32-bit offsets.
        let length = u32::try_from(text.len())
            .map_err(|_| EncodeError(format!("{} bytes after normalisation, at most {}", text.len(), u32::MAX)))?;
        self.spans.clear();
        let pre_tokenizer = shared.pipeline.get_pre_tokenizer();
        if !shared.splits_at_spaces || !matches!(pre_tokenizer, PipelinePreTokenizer::None) {
            return pre_tokenizer.pre_tokenize(text, &mut self.pre_tokenizer, &mut self.spans).map_err(failed);
        }
        // The model would take all of the text as one word, which hardly ever repeats.
        let (mut start, mut end_of_space) = (0, 0);
        for space in self.spaces.find_iter(text.as_bytes()) {
            let space = space as u32;
            if space > end_of_space {
                self.spans.push(Span { start, end: space });
                start = space;
            }
            end_of_space = space + SPACE.len() as u32;
        }
        self.spans.push(Span { start, end: length });
        Ok(())
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

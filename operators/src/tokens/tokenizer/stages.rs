//! The stages before the model: added tokens, normalisation, words.
//!
//! They are the library's: added tokens that are matched on the text as it is, normalisation, added tokens that are matched
//! on normalised text, then the pre-tokenizer's words.

use memchr::memmem::Finder;
use tokenizers::pipeline::{PipelinePreTokenizer, PipelineTokenizer, PreTokenizer, PreTokenizerScratch, Span};

use super::added::{AddedTokens, Piece};
use super::cuts;
use super::normal::Normalization;
use super::vocabulary::SPACE;
use super::{EncodeError, failed};

/// The library's pipeline, and what is known about its stages.
pub(super) struct Stages {
    pub(super) pipeline: PipelineTokenizer,
    pub(super) added: AddedTokens,
    normalization: Normalization,
    /// The largest id of an added token.
    pub(super) largest_added: Option<u32>,
    /// See [`VocabularyFile::splits_at_spaces`](super::vocabulary::VocabularyFile::splits_at_spaces).
    splits_at_spaces: bool,
    /// Whether a long text may be taken in pieces, see [`cuts`].
    pub(super) cuts: bool,
}

impl Stages {
    pub(super) fn new(pipeline: PipelineTokenizer, splits_at_spaces: bool) -> Self {
        let added = pipeline.get_added_vocabulary();
        Self {
            added: AddedTokens::new(added),
            normalization: Normalization::new(pipeline.get_normalizers()),
            largest_added: added.get_added_tokens_decoder().into_keys().max(),
            splits_at_spaces,
            cuts: cuts::may_cut(&pipeline),
            pipeline,
        }
    }

    /// Calls `visit` with each added token and each piece of normalised text of `text`, in order.
    ///
    /// A long text is taken in parts where that makes no difference, because splitting it into words takes a multiple of
    /// its length in memory.
    pub(super) fn pieces(
        &self,
        text: &str,
        mut visit: impl FnMut(Piece<'_>) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        let bytes = if self.cuts { cuts::PIECE_BYTES } else { usize::MAX };
        cuts::pieces(text, bytes).try_for_each(|part| self.pieces_of_part(part, &mut visit))
    }

    fn pieces_of_part(
        &self,
        text: &str,
        visit: &mut impl FnMut(Piece<'_>) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        let vocabulary = self.pipeline.get_added_vocabulary();
        self.added.split(vocabulary, text, false, |piece, offset| {
            let Piece::Text(text) = piece else { return visit(piece) };
            let normalized =
                self.normalization.normalize(self.pipeline.get_normalizers(), text, offset).map_err(failed)?;
            self.added.split(vocabulary, &normalized, true, |piece, _| visit(piece))
        })
    }
}

/// Splits text into words.
pub(super) struct Splitter {
    scratch: PreTokenizerScratch,
    spaces: Finder<'static>,
    words: Vec<Span>,
}

impl Splitter {
    pub(super) fn new() -> Self {
        Self { scratch: PreTokenizerScratch::default(), spaces: Finder::new(SPACE), words: Vec::new() }
    }

    /// The words of `text`, which is normalised and has no added tokens in it.
    pub(super) fn split(&mut self, stages: &Stages, text: &str) -> Result<&[Span], EncodeError> {
        // Spans hold 32-bit offsets.
        let length = u32::try_from(text.len())
            .map_err(|_| EncodeError(format!("{} bytes after normalisation, at most {}", text.len(), u32::MAX)))?;
        self.words.clear();
        let pre_tokenizer = stages.pipeline.get_pre_tokenizer();
        if !stages.splits_at_spaces || !matches!(pre_tokenizer, PipelinePreTokenizer::None) {
            pre_tokenizer.pre_tokenize(text, &mut self.scratch, &mut self.words).map_err(failed)?;
            return Ok(&self.words);
        }
        // The model would take all of the text as one word, which hardly ever repeats.
        let (mut start, mut end_of_space) = (0, 0);
        for space in self.spaces.find_iter(text.as_bytes()) {
            let space = space as u32;
            if space > end_of_space {
                self.words.push(Span { start, end: space });
                start = space;
            }
            end_of_space = space + SPACE.len() as u32;
        }
        self.words.push(Span { start, end: length });
        Ok(&self.words)
    }
}

//! What a `tokenizer.json` says about its vocabulary that the library does not tell.

use std::collections::HashMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

/// The character that SentencePiece writes for a space.
pub(super) const SPACE: &str = "\u{2581}";

/// The parts of a `tokenizer.json` that are read here.
#[derive(Deserialize)]
pub(super) struct VocabularyFile {
    model: Model,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: String,
    vocab: Vocabulary,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Vocabulary {
    /// Token to id.
    Ids(HashMap<String, u32>),
    /// Pieces with their scores, in the order of their ids.
    Pieces(Vec<IgnoredAny>),
}

impl VocabularyFile {
    /// The largest id, added tokens left out.
    pub(super) fn largest_id(&self) -> Option<u32> {
        match &self.model.vocab {
            Vocabulary::Ids(ids) => ids.values().copied().max(),
            Vocabulary::Pieces(pieces) => pieces.len().checked_sub(1).and_then(|largest| u32::try_from(largest).ok()),
        }
    }

    /// Whether text may be cut before each run of [`SPACE`] without changing what the model gives.
    ///
    /// That holds for a BPE model if no token has another character before a space: a merge makes a token, so no merge
    /// crosses such a border and both sides are merged independently. Runs of unknown characters, which may be fused, end at a
    /// space, which is known. Models that mark the first or last piece of a word see where words end and are left alone.
    pub(super) fn splits_at_spaces(&self) -> bool {
        let Vocabulary::Ids(ids) = &self.model.vocab else { return false };
        let marks = [&self.model.continuing_subword_prefix, &self.model.end_of_word_suffix];
        let crosses = |token: &String| token.trim_start_matches(SPACE).contains(SPACE);
        self.model.kind == "BPE"
            && marks.iter().all(|mark| mark.as_ref().is_none_or(String::is_empty))
            && ids.contains_key(SPACE)
            && !ids.keys().any(crosses)
    }
}

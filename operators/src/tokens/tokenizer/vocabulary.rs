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
    #[serde(default)]
    byte_level: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default)]
    merges: Vec<Merge>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Vocabulary {
    /// Token to id.
    Ids(HashMap<String, u32>),
    /// Pieces with their scores, in the order of their ids.
    Pieces(Vec<IgnoredAny>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}

/// A byte-level BPE model.
pub(super) struct BytePairs {
    /// Tokens as bytes.
    pub(super) tokens: Vec<Box<[u8]>>,
    /// In the order of their ranks.
    pub(super) merges: Vec<(Box<[u8]>, Box<[u8]>)>,
    /// Whether a word that is a token is that token whatever the merges say.
    pub(super) whole: bool,
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
        let crosses = |token: &String| token.trim_start_matches(SPACE).contains(SPACE);
        self.model.kind == "BPE" && !self.model.marks_pieces() && ids.contains_key(SPACE) && !ids.keys().any(crosses)
    }

    /// The model, if it is byte-level BPE without marks on the pieces of a word.
    pub(super) fn byte_pairs(&self) -> Option<BytePairs> {
        let Vocabulary::Ids(ids) = &self.model.vocab else { return None };
        if self.model.kind != "BPE" || !self.model.byte_level || self.model.marks_pieces() {
            return None;
        }
        let bytes = bytes_of_characters();
        let decode =
            |token: &str| token.chars().map(|character| bytes.get(&character).copied()).collect::<Option<Box<[u8]>>>();
        // Tokens that are not in the alphabet of bytes are no words of any text.
        let tokens = ids.keys().filter_map(|token| decode(token)).collect();
        let merges = self.model.merges.iter().map(|merge| {
            let (left, right) = match merge {
                Merge::Pair(left, right) => (left.as_str(), right.as_str()),
                Merge::Line(line) => line.split_once(' ')?,
            };
            Some((decode(left)?, decode(right)?))
        });
        Some(BytePairs { tokens, merges: merges.collect::<Option<_>>()?, whole: self.model.ignore_merges })
    }
}

impl Model {
    fn marks_pieces(&self) -> bool {
        let marks = [&self.continuing_subword_prefix, &self.end_of_word_suffix];
        marks.into_iter().flatten().any(|mark| !mark.is_empty())
    }
}

/// The bytes that the characters of a byte-level vocabulary stand for: printable ones of Latin-1 for themselves, and
/// those from U+0100 on for the others, in order (`bytes_to_unicode` of GPT-2).
pub(super) fn bytes_of_characters() -> HashMap<char, u8> {
    let mut others = '\u{100}'..;
    (0..=u8::MAX)
        .map(|byte| {
            let printable = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..);
            (if printable { char::from(byte) } else { others.next().unwrap_or_default() }, byte)
        })
        .collect()
}

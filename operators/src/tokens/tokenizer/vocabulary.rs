//! What a `tokenizer.json` says about its vocabulary that the library does not tell.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// A vocabulary with larger ids is left to the library: tables by id would be mostly empty.
const MOST_IDS: usize = 1 << 24;

/// The character that SentencePiece writes for a space.
pub(super) const SPACE: &str = "\u{2581}";

/// A `tokenizer.json` in the form that the library writes.
#[derive(Deserialize, Serialize)]
pub(super) struct VocabularyFile {
    model: Model,
    #[serde(flatten)]
    others: Map<String, Value>,
}

#[derive(Deserialize, Serialize)]
struct Model {
    #[serde(rename = "type")]
    kind: String,
    vocab: Vocabulary,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_level: bool,
    #[serde(default)]
    ignore_merges: Option<bool>,
    #[serde(default)]
    dropout: Option<f64>,
    #[serde(default)]
    merges: Vec<Merge>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vocabulary {
    /// Token to id.
    Ids(HashMap<String, u32>),
    /// The number of pieces that are listed with their scores, in the order of their ids, and the ids of those that are one byte.
    Pieces(usize, Vec<u32>),
}

/// Two tokens, as a pair or as a line with a space between them.
#[derive(Serialize)]
struct Merge(String, String);

/// A byte-level BPE model.
pub(super) struct BytePairs {
    /// The id of each byte. Those that UTF-8 does not have need none.
    pub(super) bytes: [Option<u32>; 256],
    /// In the order of their ranks.
    pub(super) merges: Vec<BytePair>,
    /// The tokens, as bytes, if a word that is a token is that token whatever the merges say.
    pub(super) whole: HashSet<Box<[u8]>>,
    /// The largest id.
    pub(super) largest_id: u32,
}

/// A merge: the ids of two tokens and of the one they make, and the bytes where they meet.
pub(super) struct BytePair {
    pub(super) left: u32,
    pub(super) right: u32,
    pub(super) product: u32,
    pub(super) seam: (u8, u8),
}

impl VocabularyFile {
    /// The largest id, added tokens left out.
    pub(super) fn largest_id(&self) -> Option<u32> {
        match &self.model.vocab {
            Vocabulary::Ids(ids) => ids.values().copied().max(),
            Vocabulary::Pieces(pieces, _) => pieces.checked_sub(1).and_then(|largest| u32::try_from(largest).ok()),
        }
    }

    /// The tokens that stand for one byte each, as SentencePiece writes those of characters that it has no token for.
    pub(super) fn byte_tokens(&self) -> HashSet<u32> {
        match &self.model.vocab {
            Vocabulary::Ids(ids) => {
                (0..=255_u8).filter_map(|byte| ids.get(&format!("<0x{byte:02X}>"))).copied().collect()
            }
            Vocabulary::Pieces(_, bytes) => bytes.iter().copied().collect(),
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

    /// The model, if it is byte-level BPE without marks on the pieces of a word, and the library has nothing to object
    /// to: each token has an id of its own, and every byte of UTF-8 is a token and so is what each merge takes and makes.
    pub(super) fn byte_pairs(&self) -> Option<BytePairs> {
        let model = &self.model;
        let Vocabulary::Ids(ids) = &model.vocab else { return None };
        let random = model.dropout.is_some_and(|dropout| dropout != 0.0);
        if model.kind != "BPE" || !model.byte_level || model.marks_pieces() || random {
            return None;
        }
        let largest_id = ids.values().copied().max()?;
        let mut taken = vec![false; usize::try_from(largest_id).ok().filter(|&largest| largest < MOST_IDS)? + 1];
        if ids.values().any(|&id| std::mem::replace(&mut taken[id as usize], true)) {
            return None;
        }
        let mut bytes = [None; 256];
        let mut buffer = [0; 4];
        for (character, byte) in characters_of_bytes() {
            bytes[usize::from(byte)] = ids.get(&*character.encode_utf8(&mut buffer)).copied();
        }
        let in_text = |byte: &usize| !matches!(byte, 0xC0 | 0xC1 | 0xF5..);
        if (0..bytes.len()).filter(in_text).any(|byte| bytes[byte].is_none()) {
            return None;
        }
        let table = bytes_of_characters();
        let byte_of = |character: char| table.get(character as usize).copied().flatten();
        let mut token = String::new();
        let merges = model.merges.iter().map(|Merge(left, right)| {
            token.clear();
            token.push_str(left);
            token.push_str(right);
            let seam = (byte_of(left.chars().next_back()?)?, byte_of(right.chars().next()?)?);
            let id = |token: &str| ids.get(token).copied();
            Some(BytePair { left: id(left)?, right: id(right)?, product: id(&token)?, seam })
        });
        let merges = merges.collect::<Option<_>>()?;
        let mut whole = HashSet::new();
        if model.ignore_merges == Some(true) {
            // Tokens that are not in the alphabet of bytes are no words of any text.
            whole.extend(ids.keys().filter_map(|token| token.chars().map(byte_of).collect::<Option<Box<[u8]>>>()));
        }
        Some(BytePairs { bytes, merges, whole, largest_id })
    }

    /// The file of a byte-level BPE model with no more in its vocabulary than the bytes, for what comes before the model:
    /// the library takes long to make a whole vocabulary ready. Ids, those of added tokens too, are not those of the file.
    pub(super) fn without_merges(mut self) -> serde_json::Result<String> {
        if let Vocabulary::Ids(ids) = &mut self.model.vocab {
            let mut buffer = [0; 4];
            let kept = characters_of_bytes()
                .filter_map(|(character, _)| ids.remove_entry(&*character.encode_utf8(&mut buffer)));
            *ids = kept.collect();
            // The library makes room for every id below the largest.
            for (dense, id) in (0..).zip(ids.values_mut()) {
                *id = dense;
            }
        }
        self.model.merges.clear();
        serde_json::to_string(&self)
    }
}

impl Model {
    fn marks_pieces(&self) -> bool {
        let marks = [&self.continuing_subword_prefix, &self.end_of_word_suffix];
        marks.into_iter().flatten().any(|mark| !mark.is_empty())
    }
}

fn is_byte(piece: &str) -> bool {
    piece.len() == 6 && piece.starts_with("<0x") && piece.ends_with('>')
}

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Vocabulary;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object from token to id or a list of pieces")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Vocabulary, A::Error> {
                let mut ids = HashMap::with_capacity(entries.size_hint().unwrap_or(1 << 15));
                while let Some((token, id)) = entries.next_entry()? {
                    ids.insert(token, id);
                }
                Ok(Vocabulary::Ids(ids))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut pieces: A) -> Result<Vocabulary, A::Error> {
                let (mut count, mut bytes) = (0, Vec::new());
                while let Some((piece, _)) = pieces.next_element::<(String, IgnoredAny)>()? {
                    if is_byte(&piece) {
                        bytes.push(count as u32);
                    }
                    count += 1;
                }
                Ok(Vocabulary::Pieces(count, bytes))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Merge;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("two tokens, as a pair or with a space between them")
            }

            fn visit_str<E: serde::de::Error>(self, line: &str) -> Result<Merge, E> {
                let (left, right) =
                    line.split_once(' ').ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(line), &self))?;
                Ok(Merge(left.to_owned(), right.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut tokens: A) -> Result<Merge, A::Error> {
                let length = |found, this: &Self| serde::de::Error::invalid_length(found, this);
                let left = tokens.next_element()?.ok_or_else(|| length(0, &self))?;
                let right = tokens.next_element()?.ok_or_else(|| length(1, &self))?;
                match tokens.next_element::<IgnoredAny>()? {
                    Some(_) => Err(length(3, &self)),
                    None => Ok(Merge(left, right)),
                }
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// The characters that stand for bytes in a byte-level vocabulary: for printable ones of Latin-1 the character itself, and
/// those from U+0100 on for the others, in order (`bytes_to_unicode` of GPT-2).
pub(super) fn characters_of_bytes() -> impl Iterator<Item = (char, u8)> {
    let mut others = '\u{100}'..;
    (0..=u8::MAX).map(move |byte| {
        let printable = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..);
        (if printable { char::from(byte) } else { others.next().unwrap_or_default() }, byte)
    })
}

/// The bytes that characters stand for, by code point.
fn bytes_of_characters() -> [Option<u8>; 0x200] {
    let mut bytes = [None; 0x200];
    for (character, byte) in characters_of_bytes() {
        bytes[character as usize] = Some(byte);
    }
    bytes
}

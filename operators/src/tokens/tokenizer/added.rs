//! Finding added tokens (`<|endoftext|>`, runs of spaces, …) in text.
//!
//! The library looks at every byte that could begin an added token, and spaces can in some vocabularies. Here the text is
//! searched for what the added tokens with one first byte have in common, which is two or more bytes nearly always, and
//! the library decides only where that occurs. It is given the whole text, so it decides as it would have.

use std::collections::BTreeMap;

use memchr::memmem::Finder;
use tokenizers::pipeline::PipelinePatternMatcher;
use tokenizers::vocab::bucket_added_vocabulary::{AddedToken, AddedVocabulary};

/// More different beginnings than this are not searched for one by one.
const MOST_BEGINNINGS: usize = 8;

/// What the added tokens of a vocabulary begin with.
pub(super) struct AddedTokens {
    raw: Beginnings,
    normalized: Beginnings,
}

enum Beginnings {
    /// Each added token begins with one of these.
    Known(Vec<Finder<'static>>),
    /// The library looks for them.
    Unknown,
}

/// A part of a text.
pub(super) enum Piece<'a> {
    /// Text between added tokens, never empty.
    Text(&'a str),
    /// The id of an added token.
    Added(u32),
}

/// Where an added token was found, and its id.
type Found = ((usize, usize), u32);

impl AddedTokens {
    pub(super) fn new(added: &AddedVocabulary) -> Self {
        let tokens: Vec<AddedToken> = added.get_added_tokens_decoder().into_values().collect();
        // Two tokens with one spelling show as one, and then it is not known which pass looks for it.
        if tokens.len() != added.len() {
            return Self { raw: Beginnings::Unknown, normalized: Beginnings::Unknown };
        }
        let of = |normalized| Beginnings::of(tokens.iter().filter(|token| token.normalized == normalized));
        Self { raw: of(false), normalized: of(true) }
    }

    /// Calls `visit` with each added token in `text` and each piece between them, and its position. `normalized` says which
    /// added tokens are meant: those matched on normalised text or the others.
    pub(super) fn split<E>(
        &self,
        added: &AddedVocabulary,
        text: &str,
        normalized: bool,
        mut visit: impl FnMut(Piece<'_>, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let beginnings = if normalized { &self.normalized } else { &self.raw };
        let mut search = Search { beginnings, next: [0; MOST_BEGINNINGS] };
        let mut start = 0;
        while let Some(((from, to), id)) = search.next(added, text.as_bytes(), start, normalized) {
            if from > start {
                visit(Piece::Text(&text[start..from]), start)?;
            }
            visit(Piece::Added(id), from)?;
            start = to;
        }
        if start < text.len() {
            visit(Piece::Text(&text[start..]), start)?;
        }
        Ok(())
    }
}

impl Beginnings {
    fn of<'a>(tokens: impl Iterator<Item = &'a AddedToken>) -> Self {
        let mut common: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        for token in tokens {
            // Such tokens look at or take in the text before them, from where the search began.
            if token.lstrip || token.single_word {
                return Self::Unknown;
            }
            let bytes = token.content.as_bytes();
            let Some(&first) = bytes.first() else { return Self::Unknown };
            let beginning = common.entry(first).or_insert_with(|| bytes.to_vec());
            let same = beginning.iter().zip(bytes).take_while(|(left, right)| left == right).count();
            beginning.truncate(same);
        }
        if common.len() > MOST_BEGINNINGS {
            return Self::Unknown;
        }
        Self::Known(common.values().map(|beginning| Finder::new(beginning).into_owned()).collect())
    }
}

struct Search<'a> {
    beginnings: &'a Beginnings,
    /// For each beginning where it occurs next, as far as that has been looked for; `usize::MAX` is nowhere.
    next: [usize; MOST_BEGINNINGS],
}

impl Search<'_> {
    /// The leftmost added token in `text` that begins at `start` or later.
    fn next(&mut self, added: &AddedVocabulary, text: &[u8], start: usize, normalized: bool) -> Option<Found> {
        let mut from = start;
        if let Beginnings::Known(finders) = self.beginnings {
            from = usize::MAX;
            for (finder, next) in finders.iter().zip(&mut self.next) {
                if *next <= start {
                    *next = finder.find(&text[start..]).map_or(usize::MAX, |offset| start + offset);
                }
                from = from.min(*next);
            }
        }
        if from >= text.len() {
            return None;
        }
        added.extract_next(text, from, normalized, false)
    }
}

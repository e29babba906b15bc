//! Finding added tokens (`<|endoftext|>`, runs of spaces, …) in text.
//!
//! The library looks at every byte that could begin an added token, and spaces can in some vocabularies. Here the text is
//! searched for what the added tokens with one first byte have in common, which is two or more bytes nearly always. Where
//! that occurs the longest added token is found in a tree of their bytes, as the library would; where tokens take in what is
//! around them the library decides, which is given the whole text, so that it decides as it would have.

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
    /// Each added token begins with one of these. The tree is absent if tokens take in the spaces after them.
    Known(Vec<Finder<'static>>, Option<Tree>),
    /// The library looks for them.
    Unknown,
}

/// Added tokens by their bytes. Node 0 is the root.
struct Tree(Vec<Node>);

#[derive(Default)]
struct Node {
    /// The id of the token that ends here.
    id: Option<u32>,
    children: Vec<(u8, usize)>,
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
        let tokens: Vec<(u32, AddedToken)> = added.get_added_tokens_decoder().into_iter().collect();
        // Two tokens with one spelling show as one, and then it is not known which pass looks for it.
        if tokens.len() != added.len() {
            return Self { raw: Beginnings::Unknown, normalized: Beginnings::Unknown };
        }
        let of = |normalized| Beginnings::of(tokens.iter().filter(|(_, token)| token.normalized == normalized));
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
    fn of<'a>(tokens: impl Iterator<Item = &'a (u32, AddedToken)>) -> Self {
        let mut common: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
        let mut tree = Some(Tree(vec![Node::default()]));
        for (id, token) in tokens {
            // Such tokens look at or take in the text before them, from where the search began.
            if token.lstrip || token.single_word {
                return Self::Unknown;
            }
            if token.rstrip {
                tree = None;
            }
            let bytes = token.content.as_bytes();
            let Some(&first) = bytes.first() else { return Self::Unknown };
            let beginning = common.entry(first).or_insert_with(|| bytes.to_vec());
            let same = beginning.iter().zip(bytes).take_while(|(left, right)| left == right).count();
            beginning.truncate(same);
            if let Some(tree) = &mut tree {
                tree.insert(bytes, *id);
            }
        }
        if common.len() > MOST_BEGINNINGS {
            return Self::Unknown;
        }
        Self::Known(common.values().map(|beginning| Finder::new(beginning).into_owned()).collect(), tree)
    }
}

impl Tree {
    fn insert(&mut self, token: &[u8], id: u32) {
        let mut node = 0;
        for &byte in token {
            node = self.child(node, byte).unwrap_or_else(|| {
                let new = self.0.len();
                self.0.push(Node::default());
                self.0[node].children.push((byte, new));
                new
            });
        }
        self.0[node].id = Some(id);
    }

    fn child(&self, node: usize, byte: u8) -> Option<usize> {
        self.0[node].children.iter().find(|(of, _)| *of == byte).map(|&(_, child)| child)
    }

    /// The longest token that `text` begins with: its length and its id.
    fn longest(&self, text: &[u8]) -> Option<(usize, u32)> {
        let (mut node, mut longest) = (0, None);
        for (length, &byte) in (1..).zip(text) {
            let Some(child) = self.child(node, byte) else { break };
            node = child;
            longest = self.0[node].id.map(|id| (length, id)).or(longest);
        }
        longest
    }
}

struct Search<'a> {
    beginnings: &'a Beginnings,
    /// For each beginning where it occurs next, as far as that has been looked for; `usize::MAX` is nowhere.
    next: [usize; MOST_BEGINNINGS],
}

impl Search<'_> {
    /// The leftmost added token in `text` that begins at `start` or later, and the longest of those that begin there.
    fn next(&mut self, added: &AddedVocabulary, text: &[u8], start: usize, normalized: bool) -> Option<Found> {
        let Beginnings::Known(finders, tree) = self.beginnings else {
            return added.extract_next(text, start, normalized, false);
        };
        let mut start = start;
        loop {
            let mut from = usize::MAX;
            for (finder, next) in finders.iter().zip(&mut self.next) {
                if *next <= start {
                    *next = finder.find(&text[start..]).map_or(usize::MAX, |offset| start + offset);
                }
                from = from.min(*next);
            }
            if from >= text.len() {
                return None;
            }
            let Some(tree) = tree else { return added.extract_next(text, from, normalized, false) };
            if let Some((length, id)) = tree.longest(&text[from..]) {
                return Some(((from, from + length), id));
            }
            start = from + 1;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::Tokenizer;
    use super::*;

    /// A tokenizer with added tokens in each of two passes: runs of spaces, some that begin others, some that share a
    /// beginning, and, if `strip`, one that takes in the spaces after it.
    fn tokenizer(strip: bool) -> Tokenizer {
        let contents = ["  ", "   ", "     ", "<a>", "<ab>", "<a>b", "<", "|x|", "|xy", "\u{e9}"];
        let tokens: Vec<_> = contents
            .into_iter()
            .enumerate()
            .map(|(index, content)| {
                json!({
                    "id": 1 + index, "content": content, "single_word": false, "lstrip": false,
                    "rstrip": strip && content == "|x|", "normalized": index % 3 != 0, "special": index % 2 == 0,
                })
            })
            .collect();
        let file = json!({
            "version": "1.0", "added_tokens": tokens, "normalizer": null, "post_processor": null, "decoder": null,
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "model": {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"},
        });
        Tokenizer::from_bytes("made up", file.to_string().as_bytes()).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn added_tokens_are_found_where_the_library_finds_them(
            text in "([ <>abxy|\u{e9}]|  |<a|\\|x){0,40}",
            strip: bool,
            normalized: bool,
        ) {
            let tokenizer = tokenizer(strip);
            let stages = tokenizer.shared.stages().unwrap();
            let vocabulary = stages.pipeline.get_added_vocabulary();
            let (mut found, mut expected) = (Vec::new(), Vec::new());
            stages.added.split::<()>(vocabulary, &text, normalized, |piece, position| {
                if let Piece::Added(id) = piece {
                    found.push((position, id));
                }
                Ok(())
            }).unwrap();
            let mut start = 0;
            while let Some(((from, to), id)) = vocabulary.extract_next(text.as_bytes(), start, normalized, false) {
                expected.push((from, id));
                start = to;
            }
            prop_assert_eq!(found, expected);
        }
    }
}

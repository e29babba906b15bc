//! Cutting very long texts where no token can cross.
//!
//! Splitting a text into words takes memory of a multiple of its length. The words of a text that is cut in two are those
//! of the whole text if each stage before the model works on both sides as if the other were not there. That holds between
//! a lower-case ASCII letter and a space that another such letter follows, provided that
//!
//! * the text is not normalised, or to NFC, which changes nothing across a border of ASCII characters;
//! * no added token has a letter and a space next to each other in it, takes in the space around it or looks at it;
//! * words are those of a pattern of the GPT family, which the library names. In all of them a run of letters ends before
//!   a space, the space begins the next word, and whether it does depends on nothing before it.
//!
//! Other tokenizers get their texts whole.

use memchr::memchr_iter;
use tokenizers::SplitDelimiterBehavior;
use tokenizers::pipeline::{PipelineNormalizer, PipelinePreTokenizer, PipelineTokenizer};

/// Pieces are cut at the first border behind so many bytes.
pub(super) const PIECE_BYTES: usize = 1 << 20;

/// Whether texts may be cut for this tokenizer.
pub(super) fn may_cut(pipeline: &PipelineTokenizer) -> bool {
    let normalizers = pipeline.get_normalizers();
    let added = pipeline.get_added_vocabulary();
    let tokens = added.get_added_tokens_decoder();
    normalizers.iter().all(|normalizer| matches!(normalizer, PipelineNormalizer::NFC(_)))
        && is_gpt_pattern(pipeline.get_pre_tokenizer())
        // Two tokens with one spelling show as one, and then not everything is known about them.
        && tokens.len() == added.len()
        && tokens.values().all(|token| {
            let may_cross = token.content.as_bytes().windows(2).any(|pair| pair[0].is_ascii_lowercase() && pair[1] == b' ');
            !may_cross && !token.lstrip && !token.rstrip && !token.single_word
        })
}

fn is_gpt_pattern(pre_tokenizer: &PipelinePreTokenizer) -> bool {
    match pre_tokenizer {
        PipelinePreTokenizer::Split(split) => {
            split.grammar().is_some() && split.behavior == SplitDelimiterBehavior::Isolated && !split.invert
        }
        _ => false,
    }
}

/// Pieces of `text`, of at least `bytes` bytes each but for the last, cut at borders only.
pub(super) fn pieces(text: &str, bytes: usize) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest.take()?;
        let Some(border) = border(text.as_bytes(), bytes) else { return Some(text) };
        let (piece, behind) = text.split_at(border);
        rest = Some(behind);
        Some(piece)
    })
}

/// The first border at `from` or later.
fn border(text: &[u8], from: usize) -> Option<usize> {
    let is_letter = |position: usize| text.get(position).is_some_and(u8::is_ascii_lowercase);
    memchr_iter(b' ', text.get(from..)?)
        .map(|offset| from + offset)
        .find(|&space| space > 0 && is_letter(space - 1) && is_letter(space + 1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

    use std::path::Path;
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::super::encoder::Encoder;
    use super::*;
    use crate::Resources;
    use crate::tokens::Tokenizer;

    fn fixture(name: &str) -> Tokenizer {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tokenizers");
        let path = folder.join(format!("{name}.json"));
        Tokenizer::load(path.to_str().unwrap(), &Resources::local()).unwrap().0
    }

    #[test]
    fn only_what_is_known_to_allow_it_is_cut() {
        for (name, expected) in
            [("tiny-bpe", true), ("tiny-llama", false), ("tiny-unigram", false), ("tiny-wordpiece", false)]
        {
            assert_eq!(fixture(name).shared.stages().unwrap().cuts, expected, "{name}");
        }
        let json = std::fs::read_to_string(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tokenizers/tiny-bpe.json"),
        )
        .unwrap();
        let with_token = |content: &str, lstrip: bool| {
            let mut value: serde_json::Value = serde_json::from_str(&json).unwrap();
            let token = serde_json::json!({
                "id": 5000, "content": content, "single_word": false, "lstrip": lstrip, "rstrip": false,
                "normalized": false, "special": true
            });
            value["added_tokens"].as_array_mut().unwrap().push(token);
            Tokenizer::from_bytes("changed", value.to_string().as_bytes()).unwrap()
        };
        for (content, lstrip, expected) in [
            ("<x>", false, true),
            ("  ", false, true),
            ("a b", false, false),
            ("a ", false, false),
            ("<x>", true, false),
        ] {
            assert_eq!(
                with_token(content, lstrip).shared.stages().unwrap().cuts,
                expected,
                "{content:?}, lstrip {lstrip}"
            );
        }
    }

    static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| fixture("tiny-bpe"));

    proptest! {
        #[test]
        fn pieces_have_the_ids_of_the_whole(
            parts in proptest::collection::vec(
                prop_oneof![
                    4 => "[a-z]{1,6}",
                    4 => Just(" ".to_owned()),
                    1 => " {2,4}",
                    1 => "[A-Z0-9.,!'\n\t]{1,4}",
                    1 => "('s|'re|'LL|\u{e9}|e\u{301}|\u{301}|\u{77e5}|\u{a0}|<\\|endoftext\\|>)",
                ],
                0..60,
            ),
            bytes in 0_usize..40,
        ) {
            let text = parts.concat();
            let stages = TOKENIZER.shared.stages().unwrap();
            let mut encoder = Encoder::new(stages);
            let (mut whole, mut by_piece) = (Vec::new(), Vec::new());
            encoder.encode(stages, &text, &mut whole).unwrap();
            for piece in pieces(&text, bytes) {
                encoder.encode(stages, piece, &mut by_piece).unwrap();
            }
            prop_assert_eq!(whole, by_piece, "{:?} by {}", text, bytes);
        }
    }

    #[test]
    fn texts_are_cut_before_a_single_space_between_letters() {
        let cases: [(&str, usize, &[&str]); 8] = [
            ("", 0, &[""]),
            ("ab cd ef", 0, &["ab", " cd", " ef"]),
            ("ab cd ef", 3, &["ab cd", " ef"]),
            ("ab cd ef", 100, &["ab cd ef"]),
            ("ab  cd, ef 1 g\nh é i É j", 0, &["ab  cd, ef 1 g\nh é i É j"]),
            (" a b ", 0, &[" a", " b "]),
            ("a B c D", 0, &["a B c D"]),
            ("知 识 x y", 1, &["知 识 x", " y"]),
        ];
        for (text, bytes, expected) in cases {
            let found: Vec<&str> = pieces(text, bytes).collect();
            assert_eq!(found, expected, "{text:?} by {bytes}");
            assert_eq!(found.concat(), text);
        }
    }
}

//! Normalising only what needs it.
//!
//! Nearly all text is in NFC already. The usual check looks up two properties of each character, and where one is in doubt
//! the whole text is taken apart and put together again. Here one bit per character says that neither property matters,
//! ASCII is passed over 32 bytes at a time, and only the few characters around a doubtful one are normalised.
//!
//! What BERT's normaliser makes of a character depends on no other, but for the order of combining marks, so characters of
//! ASCII are looked up and only what is between them is given to the library.

use std::borrow::Cow;
use std::sync::LazyLock;

use tokenizers::pipeline::{Normalizer, PipelineNormalizer, normalize_all};
use unicode_normalization::char::canonical_combining_class;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// Code points below this have a bit in [`INERT`]: the two planes that nearly all text is of.
const CODES: usize = 0x2_0000;

/// Code points, one bit each, that are starters and always allowed in NFC.
static INERT: LazyLock<Box<[u64; CODES / 64]>> = LazyLock::new(|| {
    let mut bits = Box::new([0u64; CODES / 64]);
    for code in 0..CODES {
        let inert = u32::try_from(code).ok().and_then(char::from_u32).is_some_and(|character| {
            canonical_combining_class(character) == 0 && is_nfc_quick(std::iter::once(character)) == IsNormalized::Yes
        });
        bits[code / 64] |= u64::from(inert) << (code % 64);
    }
    bits
});

/// How the texts of a tokenizer are normalised.
pub(super) enum Normalization {
    Nfc,
    Bert(AsciiNormalization),
    /// As the library does it.
    Library,
}

impl Normalization {
    pub(super) fn new(normalizers: &[PipelineNormalizer]) -> Self {
        match normalizers {
            [PipelineNormalizer::NFC(_)] => Self::Nfc,
            [bert @ PipelineNormalizer::Bert(_)] => AsciiNormalization::new(bert).map_or(Self::Library, Self::Bert),
            _ => Self::Library,
        }
    }

    /// Runs the library's normalisers on a piece of text that begins at `offset` of its sequence.
    pub(super) fn normalize<'a>(
        &self,
        normalizers: &[PipelineNormalizer],
        text: &'a str,
        offset: usize,
    ) -> tokenizers::Result<Cow<'a, str>> {
        match self {
            Self::Nfc => Ok(nfc(text)),
            Self::Bert(ascii) => ascii.normalize(text, |rough| normalize_all(normalizers, rough, offset)),
            Self::Library => normalize_all(normalizers, text, offset),
        }
    }
}

/// What a normaliser makes of each character of ASCII; [`ROUGH`] if that is not one character of ASCII.
pub(super) struct AsciiNormalization(Box<[u8; 128]>);

const ROUGH: u8 = u8::MAX;

impl AsciiNormalization {
    fn new(normalizer: &PipelineNormalizer) -> Option<Self> {
        let mut table = Box::new([ROUGH; 128]);
        for (byte, entry) in (0u8..).zip(table.iter_mut()) {
            if let [normalized @ ..=0x7F] =
                *normalizer.normalize(char::from(byte).encode_utf8(&mut [0; 4]), 0).ok()?.as_bytes()
            {
                *entry = normalized;
            }
        }
        Some(Self(table))
    }

    /// Looks up what can be looked up and calls `library` for each piece between.
    ///
    /// A character that becomes one of ASCII is a starter before and after, and canonical ordering moves nothing across a
    /// starter (Unicode Standard, section 3.11), so both sides of it are normalised independently. One that is left out is no
    /// border: what was apart may be ordered then.
    fn normalize<'a>(
        &self,
        text: &'a str,
        library: impl Fn(&'a str) -> tokenizers::Result<Cow<'a, str>>,
    ) -> tokenizers::Result<Cow<'a, str>> {
        let normalized_byte = |byte: u8| self.0.get(usize::from(byte)).copied().unwrap_or(ROUGH);
        let is_rough = |byte: u8| normalized_byte(byte) == ROUGH;
        let mut normalized = String::with_capacity(text.len());
        let mut rest = text;
        while !rest.is_empty() {
            // Bytes of characters beyond ASCII are rough, so both borders are between characters.
            let (smooth, behind) = rest.split_at(rest.bytes().position(is_rough).unwrap_or(rest.len()));
            normalized.extend(smooth.bytes().map(|byte| char::from(normalized_byte(byte))));
            let smooth_again = behind.bytes().position(|byte| !is_rough(byte)).unwrap_or(behind.len());
            let (rough, behind) = behind.split_at(smooth_again);
            if !rough.is_empty() {
                normalized.push_str(&library(rough)?);
            }
            rest = behind;
        }
        Ok(Cow::Owned(normalized))
    }
}

/// The text in NFC.
///
/// What comes before an inert character neither changes it nor what follows, and the other way round (Unicode Standard
/// Annex #15, section 9), so only the pieces that begin at the last inert character before one that is not, and end at
/// the next inert one, are looked at closely.
fn nfc(text: &str) -> Cow<'_, str> {
    let mut changed = String::new();
    let (mut copied, mut from) = (0, 0);
    while let Some((start, end)) = next_doubtful(text, from) {
        let piece = &text[start..end];
        if is_nfc_quick(piece.chars()) != IsNormalized::Yes {
            changed.push_str(&text[copied..start]);
            changed.extend(piece.nfc());
            copied = end;
        }
        from = end;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    changed.push_str(&text[copied..]);
    Cow::Owned(changed)
}

/// The next piece of `text[from..]` that may not be in NFC. `from` is the start, the end or before an inert character.
fn next_doubtful(text: &str, from: usize) -> Option<(usize, usize)> {
    let inert = &**INERT;
    let is_inert = |character: char| {
        let code = character as usize;
        code < CODES && inert[code / 64] >> (code % 64) & 1 != 0
    };
    let mut position = from;
    // The last character before `position`, which is inert.
    let mut last = from;
    loop {
        let ascii = ascii_blocks(&text.as_bytes()[position..]);
        if ascii > 0 {
            position += ascii;
            last = position - 1;
        }
        if position == text.len() {
            return None;
        }
        // One block's worth of characters, which need not all be ASCII.
        for character in text[position..].chars().take(BLOCK) {
            if !is_inert(character) {
                let rest = &text[position..];
                return Some((last, rest.find(is_inert).map_or(text.len(), |length| position + length)));
            }
            last = position;
            position += character.len_utf8();
        }
    }
}

const BLOCK: usize = 32;

/// Length of the leading whole blocks that are ASCII.
fn ascii_blocks(bytes: &[u8]) -> usize {
    let is_ascii = |block: &&[u8]| block.iter().fold(0, |all, byte| all | byte) < 0x80;
    bytes.chunks_exact(BLOCK).take_while(is_ascii).count() * BLOCK
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_what_needs_it_is_normalised() {
        let cases = [
            ("", ""),
            ("plain ASCII text that is longer than one block of thirty-two bytes", ""),
            ("caf\u{e9} na\u{ef}ve Stra\u{df}e", ""),
            ("\u{77e5}\u{8bc6}\u{5c31}\u{662f}\u{529b}\u{91cf} \u{d55c}\u{ad6d}\u{c5b4}", ""),
            ("\u{1f600}", ""),
            ("cafe\u{301} noir", "caf\u{e9} noir"),
            ("\u{301}e\u{301}", "\u{301}\u{e9}"),
            ("\u{212b}", "\u{c5}"),
            ("a\u{315}\u{300}b", "\u{e0}\u{315}b"),
            ("\u{1112}\u{1161}\u{11ab}", "\u{d55c}"),
            ("\u{d558}\u{11ab}", "\u{d55c}"),
            ("\u{2f800}", "\u{4e3d}"),
        ];
        for (text, expected) in cases {
            let expected = if expected.is_empty() { text } else { expected };
            assert_eq!(nfc(text), expected, "{text:?}");
            assert_eq!(matches!(nfc(text), Cow::Borrowed(_)), text == expected, "{text:?}");
            for padding in [1, 31, 32, 33, 70] {
                let padding = "x".repeat(padding);
                assert_eq!(nfc(&format!("{padding} {text} {padding}")), format!("{padding} {expected} {padding}"));
            }
        }
    }

    /// Characters that compose, decompose, reorder or do nothing, close to each other.
    fn doubtful_text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            "[a-zA-Z ]{1,3}",
            "[a-z ]{30,40}",
            "[\u{e0}-\u{370}]{1,4}",
            "[\u{300}-\u{34f}\u{59a}-\u{5c7}]{1,4}",
            "[\u{900}-\u{a00}\u{b3e}-\u{b57}\u{fb2}-\u{fb9}]{1,4}",
            "[\u{1100}-\u{11ff}\u{ac00}-\u{ac40}]{1,4}",
            "[\u{2100}-\u{2130}\u{f900}-\u{fb20}]{1,2}",
            "[\u{1d150}-\u{1d1d0}\u{110a0}-\u{110c0}\u{2f800}-\u{2fa1d}]{1,3}",
            "[\u{0}-\u{10ffff}]{1,4}",
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    /// BERT's normaliser in every configuration.
    fn bert_normalizers() -> Vec<(String, PipelineNormalizer)> {
        let mut normalizers = Vec::new();
        for bits in 0..24 {
            let (flag, strip) = (|bit: i32| bits >> bit & 1 != 0, ["null", "true", "false"][bits as usize / 8]);
            let description = format!(
                r#"{{"type": "BertNormalizer", "clean_text": {}, "handle_chinese_chars": {}, "strip_accents": {strip},
                   "lowercase": {}}}"#,
                flag(0),
                flag(1),
                flag(2)
            );
            let file = format!(
                r#"{{"version": "1.0", "added_tokens": [], "normalizer": {description}, "pre_tokenizer": null,
                   "post_processor": null, "decoder": null,
                   "model": {{"type": "WordLevel", "vocab": {{"[UNK]": 0}}, "unk_token": "[UNK]"}}}}"#
            );
            let pipeline = tokenizers::from_json(&tokenizers::canonicalize_str(&file).unwrap()).unwrap();
            let [PipelineNormalizer::Bert(bert)] = pipeline.get_normalizers() else { panic!("{description}") };
            normalizers.push((description, PipelineNormalizer::Bert(*bert)));
        }
        normalizers
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn ascii_is_looked_up_as_the_library_normalises_it(
            text in doubtful_text(),
            between in "[\\x00-\\x7f\u{fffd}\u{200b}\u{302e}\u{1d165}\u{301}\u{323}\u{4e00}\u{130}]{0,12}",
        ) {
            let text = format!("{between}{text}{between}");
            for (description, normalizer) in bert_normalizers() {
                let normalizers = [normalizer];
                let normalization = Normalization::new(&normalizers);
                prop_assert!(matches!(normalization, Normalization::Bert(_)));
                prop_assert_eq!(
                    normalization.normalize(&normalizers, &text, 0).unwrap(),
                    normalize_all(&normalizers, &text, 0).unwrap(),
                    "{:?} with {}", text, description
                );
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn piecewise_is_as_good_as_whole(text in doubtful_text()) {
            prop_assert_eq!(nfc(&text), text.nfc().collect::<String>());
        }
    }

    #[test]
    fn every_character_after_every_kind_of_neighbour() {
        let neighbours = ["", "a", "\u{300}", "e\u{327}", "\u{1100}", "\u{ac00}", "\u{9c7}", "\u{2f800}"];
        // Planes 3 to 13 hold no character that a normal form changes, and the last two are for private use.
        let characters = ('\0'..'\u{30000}').chain('\u{e0000}'..'\u{e0200}');
        for character in characters {
            for neighbour in neighbours {
                let text = format!("{neighbour}{character}{neighbour}\u{301}");
                assert_eq!(nfc(&text), text.nfc().collect::<String>(), "{text:?}");
            }
        }
    }
}

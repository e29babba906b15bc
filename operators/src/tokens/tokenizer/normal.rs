//! Normalising only what needs it.
//!
//! Nearly all text is in NFC already. The usual check looks up two properties of each character, and where one is in doubt
//! the whole text is taken apart and put together again. Here one bit per character says that neither property matters,
//! ASCII is passed over 32 bytes at a time, and only the few characters around a doubtful one are normalised.

use std::borrow::Cow;
use std::sync::LazyLock;

use tokenizers::pipeline::{PipelineNormalizer, normalize_all};
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

/// Runs the library's normalisers on a piece of text that begins at `offset` of its sequence.
pub(super) fn normalize<'a>(
    normalizers: &[PipelineNormalizer],
    text: &'a str,
    offset: usize,
) -> tokenizers::Result<Cow<'a, str>> {
    if let [PipelineNormalizer::NFC(_)] = normalizers {
        return Ok(nfc(text));
    }
    normalize_all(normalizers, text, offset)
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

//! Telling quickly that normalisation would change nothing.
//!
//! Nearly all text is in NFC already. The usual check looks up two properties of each character; here one bit per
//! character says that neither matters, and ASCII is passed over 32 bytes at a time. Where the answer is not clear, the
//! library's normaliser runs.

use std::borrow::Cow;
use std::sync::LazyLock;

use tokenizers::pipeline::{PipelineNormalizer, normalize_all};
use unicode_normalization::char::canonical_combining_class;
use unicode_normalization::{IsNormalized, is_nfc_quick};

/// Code points of the basic multilingual plane, one bit each, that are starters and always allowed in NFC.
static INERT: LazyLock<Box<[u64; 1024]>> = LazyLock::new(|| {
    let mut bits = Box::new([0u64; 1024]);
    for code in 0..0x1_0000u32 {
        let inert = char::from_u32(code).is_some_and(|character| {
            canonical_combining_class(character) == 0 && is_nfc_quick(std::iter::once(character)) == IsNormalized::Yes
        });
        bits[(code / 64) as usize] |= u64::from(inert) << (code % 64);
    }
    bits
});

/// Runs the library's normalisers on a piece of text that begins at `offset` of its sequence.
pub(super) fn normalize<'a>(
    normalizers: &[PipelineNormalizer],
    text: &'a str,
    offset: usize,
) -> tokenizers::Result<Cow<'a, str>> {
    if let [PipelineNormalizer::NFC(_)] = normalizers
        && is_plainly_nfc(text)
    {
        return Ok(Cow::Borrowed(text));
    }
    normalize_all(normalizers, text, offset)
}

/// Whether all characters are such that the text is in NFC whatever their order.
fn is_plainly_nfc(text: &str) -> bool {
    let inert = &**INERT;
    let mut rest = text;
    loop {
        rest = &rest[ascii_blocks(rest.as_bytes())..];
        if rest.is_empty() {
            return true;
        }
        // One block's worth of characters, which need not all be ASCII.
        let mut end = rest.len();
        for (count, (position, character)) in rest.char_indices().enumerate() {
            if count == BLOCK {
                end = position;
                break;
            }
            let code = character as usize;
            if code >= 0x1_0000 || inert[code / 64] >> (code % 64) & 1 == 0 {
                return false;
            }
        }
        rest = &rest[end..];
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
    use proptest::prelude::*;
    use unicode_normalization::is_nfc;

    use super::*;

    #[test]
    fn what_is_plainly_nfc_is_nfc() {
        let cases = [
            ("", true),
            ("plain ASCII text that is longer than one block of thirty-two bytes", true),
            ("caf\u{e9} na\u{ef}ve Stra\u{df}e", true),
            ("\u{77e5}\u{8bc6}\u{5c31}\u{662f}\u{529b}\u{91cf} \u{d55c}\u{ad6d}\u{c5b4}", true),
            ("cafe\u{301}", false),
            ("\u{212b}", false),
            ("\u{1112}\u{1161}", false),
            ("\u{1f600}", false),
        ];
        for (text, expected) in cases {
            assert_eq!(is_plainly_nfc(text), expected, "{text:?}");
            for padding in [1, 31, 32, 33, 70] {
                let padded = format!("{}{text}", "x".repeat(padding));
                assert_eq!(is_plainly_nfc(&padded), expected, "{padded:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_text_is_taken_for_nfc_wrongly(text in "[a-z ]{0,40}[\u{e0}-\u{370}\u{900}-\u{a00}\u{1100}-\u{1200}\u{2100}-\u{2130}]{0,6}.{0,40}") {
            prop_assert!(!is_plainly_nfc(&text) || is_nfc(&text));
        }
    }
}

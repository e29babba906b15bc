//! Lower case as Python's `str.lower()` has it, with the way back to the original's bytes.
//!
//! Both follow the Unicode default algorithm: full mappings (`İ` becomes `i` and a combining dot above) and the rule for a
//! final sigma (`Σ` becomes `ς` behind a letter and before none). Rust's tables are newer than those of Python 3.11 (Unicode
//! 14), so letters that got a lower-case partner since are lowered here and not there; a test lists all of them.

use std::borrow::Cow;
use std::sync::LazyLock;

/// A text in lower case but for ASCII letters, which the scanner folds itself.
#[derive(Debug)]
pub(super) struct Lowered<'a> {
    pub(super) text: Cow<'a, str>,
    changes: Vec<Change>,
}

/// A character whose lower-case form has another length.
#[derive(Debug)]
struct Change {
    original: usize,
    original_length: usize,
    lowered: usize,
    lowered_length: usize,
}

impl<'a> Lowered<'a> {
    /// Lowers a text; borrows it where nothing but ASCII letters would change.
    pub(super) fn new(text: &'a str, with_offsets: bool) -> Self {
        if !has_upper_beyond_ascii(text) {
            return Self::unchanged(text);
        }
        let changes = if with_offsets { changes(text) } else { Vec::new() };
        Self { text: Cow::Owned(text.to_lowercase()), changes }
    }

    /// A text as it is.
    pub(super) fn unchanged(text: &'a str) -> Self {
        Self { text: Cow::Borrowed(text), changes: Vec::new() }
    }

    /// Where the original has what is at `start..end` here; a character of which only a part is inside counts whole.
    pub(super) fn original(&self, start: usize, end: usize) -> (usize, usize) {
        (self.offset(start, false), self.offset(end, true))
    }

    fn offset(&self, offset: usize, round_up: bool) -> usize {
        let before = self.changes.partition_point(|change| change.lowered < offset);
        let Some(change) = before.checked_sub(1).map(|index| &self.changes[index]) else { return offset };
        let behind = change.lowered + change.lowered_length;
        if offset >= behind {
            change.original + change.original_length + (offset - behind)
        } else if round_up {
            change.original + change.original_length
        } else {
            change.original
        }
    }
}

fn changes(text: &str) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut lowered = 0;
    for (original, character) in text.char_indices() {
        // The forms of sigma have the same length, so a character's neighbours do not matter.
        let lowered_length = character.to_lowercase().map(char::len_utf8).sum();
        let original_length = character.len_utf8();
        if lowered_length != original_length {
            changes.push(Change { original, original_length, lowered, lowered_length });
        }
        lowered += lowered_length;
    }
    changes
}

/// Which characters beyond ASCII change, and with which bytes they begin: a text is mostly skipped by looking at bytes.
struct Upper {
    characters: Vec<u64>,
    leads: [bool; 256],
}

static UPPER: LazyLock<Upper> = LazyLock::new(|| {
    let mut upper = Upper { characters: vec![0; 0x11_0000 / 64], leads: [false; 256] };
    for character in '\u{80}'..=char::MAX {
        if !character.to_lowercase().eq([character]) {
            upper.characters[character as usize / 64] |= 1 << (character as usize % 64);
            upper.leads[usize::from(character.encode_utf8(&mut [0; 4]).as_bytes()[0])] = true;
        }
    }
    upper
});

fn has_upper_beyond_ascii(text: &str) -> bool {
    let upper = &*UPPER;
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if let Some(eight) = bytes[at..].first_chunk::<8>()
            && u64::from_le_bytes(*eight) & 0x8080_8080_8080_8080 == 0
        {
            at += 8;
            continue;
        }
        if upper.leads[usize::from(bytes[at])]
            && let Some(character) = text[at..].chars().next()
            && upper.characters[character as usize / 64] >> (character as usize % 64) & 1 == 1
        {
            return true;
        }
        at += 1;
    }
    false
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

    use std::collections::BTreeMap;

    use super::*;

    /// `hex code point, tab, hex code points of lower()` for each character that changes, from Python 3.11.7 (Unicode 14.0.0).
    const PYTHON: &str = include_str!("testdata/lower-python-3.11.tsv");

    /// Letters that have had a lower-case partner only since Unicode 15, 16 or 17.
    const NEWER: [(u32, u32); 9] = [
        (0x1c89, 0x1c89),
        (0xa7cb, 0xa7cc),
        (0xa7ce, 0xa7ce),
        (0xa7d2, 0xa7d2),
        (0xa7d4, 0xa7d4),
        (0xa7da, 0xa7da),
        (0xa7dc, 0xa7dc),
        (0x10d50, 0x10d65),
        (0x16ea0, 0x16eb8),
    ];

    fn characters(hex: &str) -> String {
        hex.split(' ').map(|code| char::from_u32(u32::from_str_radix(code, 16).unwrap()).unwrap()).collect()
    }

    #[test]
    fn every_character_is_lowered_as_in_python() {
        let python: BTreeMap<String, String> = PYTHON
            .lines()
            .map(|line| line.split_once('\t').unwrap())
            .map(|(from, to)| (characters(from), characters(to)))
            .collect();
        assert!(python.len() > 1400);
        for character in '\0'..=char::MAX {
            let text = character.to_string();
            let expected = python.get(&text).unwrap_or(&text);
            let newer = NEWER.iter().any(|(first, last)| (*first..=*last).contains(&(character as u32)));
            let found = Lowered::new(&text, true).text.to_ascii_lowercase();
            assert_eq!(found == *expected, !newer, "{text} {:x}", character as u32);
        }
    }

    #[test]
    fn sigma_is_final_as_in_python() {
        // Each right side is what Python 3.11 gives.
        for (text, expected) in [
            ("Σ", "σ"),
            ("ΑΣ", "ας"),
            ("ΑΣΑ", "ασα"),
            ("ΣΑ", "σα"),
            ("ΌΣΟΣ ΟΔΌΣ.", "όσος οδός."),
            ("ΑΣ.", "ας."),
            ("ΑΣ'Α", "ασ'α"),
            ("ΑΣ\u{301}", "ας\u{301}"),
            ("ΑΣ\u{301}Α", "ασ\u{301}α"),
            ("Α.Σ", "α.ς"),
            ("Α Σ", "α σ"),
            ("ΑΣ1", "ας1"),
            ("1Σ", "1σ"),
            ("aΣ", "aς"),
            ("aΣb", "aσb"),
            ("知Σ", "知σ"),
            ("ΑΣ\u{ad}\u{2019}Ω", "ασ\u{ad}\u{2019}ω"),
        ] {
            assert_eq!(Lowered::new(text, false).text.to_ascii_lowercase(), expected, "{text}");
        }
    }

    #[test]
    fn a_text_is_copied_only_if_it_must_change() {
        for (text, copied) in [
            ("Only ASCII, THOUGH in capitals", false),
            ("naïve straße 知识 “quoted” ，한국어 👩", false),
            ("Æther", true),
            ("plain text with more than eight letters before É", true),
            ("\u{212a}", true),
        ] {
            assert_eq!(matches!(Lowered::new(text, true).text, Cow::Owned(_)), copied, "{text}");
        }
    }

    #[test]
    fn offsets_lead_back_to_the_original() {
        // İ (2 bytes) becomes i and a dot (3 bytes), ẞ (3) becomes ß (2), the Kelvin sign (3) becomes k (1).
        let original = "aİb ẞ \u{212a}x É";
        let lowered = Lowered::new(original, true);
        assert_eq!(lowered.text, "ai\u{307}b ß kx é");
        let find = |part: &str| {
            let start = lowered.text.find(part).unwrap();
            let (start, end) = lowered.original(start, start + part.len());
            &original[start..end]
        };
        for (part, expected) in [
            ("a", "a"),
            ("ai\u{307}b", "aİb"),
            ("i", "İ"),
            ("\u{307}", "İ"),
            ("\u{307}b", "İb"),
            ("ai", "aİ"),
            ("b", "b"),
            ("ß", "ẞ"),
            (" ", " "),
            ("kx", "\u{212a}x"),
            ("x é", "x É"),
            ("ai\u{307}b ß kx é", original),
        ] {
            assert_eq!(find(part), expected, "{part}");
        }
    }
}

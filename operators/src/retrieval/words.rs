//! White space and words as Python has them.
//!
//! Programs that rank documents by terms are mostly written in Python, where a text is split by `str.split()` or by the
//! regular expression `\b\w\w+\b` over `str.lower()`. Both follow the Unicode tables, but not in the way of Rust's own
//! methods: U+001C to U+001F separate, and marks are no part of a word (so that a Hindi or Thai word falls apart at its
//! vowel signs). Characters that Unicode got after the version that a Python has are the one difference left.

use std::sync::LazyLock;

use regex_syntax::hir::{Class, HirKind};

/// Whether `str.isspace()` of Python holds.
pub(super) fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

/// Visits the runs of at least two characters that `\w` of Python matches, in lower case. `lowered` is working memory.
pub(super) fn words(text: &str, lowered: &mut String, mut visit: impl FnMut(&str)) {
    lowered.clear();
    if text.is_ascii() {
        lowered.push_str(text);
        lowered.make_ascii_lowercase();
    } else {
        // A sigma is lowered by what stands around it, so the whole text is lowered at once.
        *lowered = text.to_lowercase();
    }
    let table = &*WORD_CHARACTERS;
    let bytes = lowered.as_bytes();
    let (mut start, mut characters, mut at) = (0, 0_usize, 0);
    while let Some(&byte) = bytes.get(at) {
        let (inside, length) = if byte < 0x80 {
            (table.ascii[usize::from(byte)], 1)
        } else {
            let character = lowered[at..].chars().next().unwrap_or_default();
            (table.contains(character), character.len_utf8())
        };
        if inside {
            start = if characters == 0 { at } else { start };
            characters += 1;
        } else {
            if characters > 1 {
                visit(&lowered[start..at]);
            }
            characters = 0;
        }
        at += length;
    }
    if characters > 1 {
        visit(&lowered[start..]);
    }
}

/// The characters that `\w` of Python matches: letters, numbers and the low line.
struct WordCharacters {
    ascii: [bool; 0x80],
    bits: Vec<u64>,
}

impl WordCharacters {
    fn contains(&self, character: char) -> bool {
        let code = character as usize;
        self.bits[code / 64] >> (code % 64) & 1 == 1
    }
}

static WORD_CHARACTERS: LazyLock<WordCharacters> = LazyLock::new(|| {
    let mut characters = WordCharacters { ascii: [false; 0x80], bits: vec![0; 0x11_0000 / 64] };
    let class = regex_syntax::Parser::new().parse(r"[\p{L}\p{N}_]");
    if let Ok(HirKind::Class(Class::Unicode(class))) = class.as_ref().map(regex_syntax::hir::Hir::kind) {
        for code in class.iter().flat_map(|range| range.start() as usize..=range.end() as usize) {
            characters.bits[code / 64] |= 1 << (code % 64);
        }
    }
    for code in 0..0x80_u8 {
        characters.ascii[usize::from(code)] = characters.contains(char::from(code));
    }
    characters
});

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        words(text, &mut String::new(), |word| found.push(word.to_owned()));
        found
    }

    /// Expected values are those of `re.findall(r"(?u)\b\w\w+\b", text.lower())` in Python 3.11.
    #[test]
    fn words_are_those_of_python() {
        for (text, expected) in [
            ("", &[][..]),
            ("a b c", &[]),
            ("The quick-brown FOX, isn't it?", &["the", "quick", "brown", "fox", "isn", "it"]),
            ("snake_case __init__ x1 9 10", &["snake_case", "__init__", "x1", "10"]),
            ("ΌΣΟΣ Σ ΑΣ", &["όσος", "ας"]),
            // The dot that a lowered İ leaves behind is a mark.
            ("İstanbul", &["stanbul"]),
            ("cafe\u{301} naïve", &["cafe", "naïve"]),
            ("知识就是力量。知识", &["知识就是力量", "知识"]),
            ("हिन्दी", &[]),
            ("Привет, мир!", &["привет", "мир"]),
            ("½² ٣٤", &["½²", "٣٤"]),
            ("end", &["end"]),
        ] {
            assert_eq!(of(text), expected, "{text}");
        }
    }

    #[test]
    fn spaces_are_those_of_python() {
        let spaces: Vec<u32> = ('\0'..=char::MAX).filter(|&character| is_space(character)).map(u32::from).collect();
        let mut expected: Vec<u32> = (0x9..=0xd).chain(0x1c..=0x20).collect();
        expected.extend([0x85, 0xa0, 0x1680]);
        expected.extend(0x2000..=0x200a);
        expected.extend([0x2028, 0x2029, 0x202f, 0x205f, 0x3000]);
        assert_eq!(spaces, expected);
    }
}

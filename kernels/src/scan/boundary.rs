//! Word boundaries: what stands right before and right behind an occurrence.

use std::sync::Arc;

/// A set of characters: one bit for each code point, 136 KiB, shared by its clones.
///
/// ```
/// use gristmill_kernels::scan::CharClass;
///
/// let digits = CharClass::from_ranges([('0', '9'), ('٠', '٩')]);
/// assert!(digits.contains('٣') && !digits.contains('x'));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct CharClass {
    bits: Arc<[u64]>,
}

impl std::fmt::Debug for CharClass {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let members: u32 = self.bits.iter().map(|word| word.count_ones()).sum();
        formatter.debug_struct("CharClass").field("members", &members).finish()
    }
}

impl CharClass {
    /// The class of all characters in the given ranges, both ends included.
    pub fn from_ranges(ranges: impl IntoIterator<Item = (char, char)>) -> Self {
        let mut bits = vec![0u64; 0x11_0000 / 64];
        for (first, last) in ranges {
            for code in first..=last {
                bits[code as usize / 64] |= 1 << (code as usize % 64);
            }
        }
        Self { bits: bits.into() }
    }

    /// The bits of all code points, 32 to a word, the lowest first.
    pub(super) fn words(&self) -> impl Iterator<Item = u32> {
        self.bits.iter().flat_map(|&bits| [bits as u32, (bits >> 32) as u32])
    }

    /// Whether `character` is a member.
    #[must_use]
    pub fn contains(&self, character: char) -> bool {
        self.bits[character as usize / 64] >> (character as usize % 64) & 1 == 1
    }

    /// Whether no member stands right before `start` or right behind `end` in `text`. Bytes that are no UTF-8 are no members.
    #[must_use]
    pub fn isolates(&self, text: &[u8], start: usize, end: usize) -> bool {
        !last_char(&text[..start]).is_some_and(|before| self.contains(before))
            && !first_char(&text[end..]).is_some_and(|behind| self.contains(behind))
    }
}

fn first_char(text: &[u8]) -> Option<char> {
    let first = *text.first()?;
    if first < 0x80 {
        return Some(char::from(first));
    }
    let length = match first {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return None,
    };
    str::from_utf8(text.get(..length)?).ok()?.chars().next()
}

fn last_char(text: &[u8]) -> Option<char> {
    let last = *text.last()?;
    if last < 0x80 {
        return Some(char::from(last));
    }
    let lead = (2..=4.min(text.len())).map(|back| text.len() - back).find(|&at| text[at] & 0xc0 != 0x80)?;
    str::from_utf8(&text[lead..]).ok()?.chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_decoded() {
        let class = CharClass::from_ranges([('a', 'z'), ('é', 'é'), ('知', '识'), ('𝐀', '𝐙'), ('\u{301}', '\u{301}')]);
        let cases: [(&[u8], usize, usize, bool); 14] = [
            (b"x", 0, 1, true),
            (b"", 0, 0, true),
            (b"ax ", 1, 2, false),
            (b" xa", 1, 2, false),
            (b" x ", 1, 2, true),
            ("éx".as_bytes(), 2, 3, false),
            ("xé".as_bytes(), 0, 1, false),
            ("知x".as_bytes(), 3, 4, false),
            ("x知".as_bytes(), 0, 1, false),
            ("𝐀x".as_bytes(), 4, 5, false),
            ("x𝐀".as_bytes(), 0, 1, false),
            ("x\u{301}".as_bytes(), 0, 1, false),
            (b"\x80\x80\x80\x80\x80x\xff", 5, 6, true),
            (b"\xe7\x9fx\xe7\x9f", 2, 3, true),
        ];
        for (text, start, end, expected) in cases {
            assert_eq!(class.isolates(text, start, end), expected, "{text:?}");
        }
    }
}

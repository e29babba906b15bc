//! Words, labels and hashes: from a text to the numbers of its features.
//!
//! A feature is a row of the input matrix: a word of the vocabulary, a character n-gram of a word, or a run of words. N-grams share a fixed
//! number of rows by their hash. A quantised model may have dropped rows; then a table says which hashes are left. Names are those of
//! `dictionary.cc` of fastText.

use bytes::Bytes;

use super::cursor::Cursor;
use super::slots::Slots;
use crate::Result;

/// What ends a line, a word of its own.
const END: &[u8] = b"</s>";

/// What labels begin with. The file does not say; this is what fastText's own program takes, too.
pub(super) const LABEL: &str = "__label__";

/// Bytes of an entry of the dictionary beside its word: 0, a count and a kind.
const ENTRY: usize = 10;

/// How features are made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    /// The longest run of words.
    pub(super) word_ngrams: usize,
    /// Rows that n-grams share.
    pub(super) buckets: u32,
    /// The shortest and the longest character n-gram; none where the longest is 0.
    pub(super) shortest: usize,
    pub(super) longest: usize,
}

/// The vocabulary of a model.
#[derive(Debug)]
pub(super) struct Dictionary {
    settings: Settings,
    /// The file.
    bytes: Bytes,
    /// Where entries begin in it, words and then labels; they end with a 0.
    entries: Vec<usize>,
    words: usize,
    by_hash: Slots,
    /// Names and counts.
    pub(super) labels: Vec<(String, i64)>,
    kept: Kept,
}

/// Which n-grams have rows.
#[derive(Debug)]
enum Kept {
    All,
    /// From bucket to row, words left out.
    Some(Slots),
}

/// Hashes of a text's words.
#[derive(Debug, Default)]
pub(super) struct Memory {
    hashes: Vec<u32>,
    padded: Vec<u8>,
}

impl Dictionary {
    pub(super) fn read(cursor: &mut Cursor<'_>, bytes: &Bytes, settings: Settings) -> Result<Self> {
        let size = cursor.count("the size of the dictionary")?;
        let words = cursor.count("the number of words")?;
        let labels = cursor.count("the number of labels")?;
        cursor.i64("the number of tokens")?;
        let kept = cursor.i64("the number of n-grams that are kept")?;
        if words.checked_add(labels) != Some(size) {
            return Err(cursor.wrong(format!("{size} entries cannot be {words} words and {labels} labels")));
        }
        if labels == 0 {
            return Err(cursor.wrong("it has no labels"));
        }
        // Entries take bytes of the file, which bounds what is reserved.
        let most = bytes.len() / ENTRY;
        let mut entries = Vec::with_capacity(size.min(most));
        let mut names = Vec::with_capacity(labels.min(most));
        for entry in 0..size {
            let word = cursor.text("a word of the dictionary")?;
            let count = cursor.i64("a word's count")?;
            let (kind, expected) = (cursor.i8("a word's kind")?, i8::from(entry >= words));
            if kind != expected {
                return Err(cursor.unexpected(&format!("the kind of entry {entry}"), kind, &expected.to_string()));
            }
            entries.push(word.start);
            if entry >= words {
                let name = std::str::from_utf8(&bytes[word.clone()]);
                let name = name.map_err(|_| cursor.wrong(format!("the label at byte {} is not UTF-8", word.start)))?;
                names.push((name.to_owned(), count));
            }
        }
        let kept = match kept {
            ..0 => Kept::All,
            _ => Self::read_kept(cursor, kept as usize)?,
        };
        let word = |start: usize| bytes[start..].split(|&byte| byte == 0).next().unwrap_or_default();
        let by_hash = Slots::new(entries.iter().map(|&start| hash(word(start))).zip(0..size as u32));
        Ok(Self { settings, bytes: bytes.clone(), entries, words, by_hash, labels: names, kept })
    }

    fn read_kept(cursor: &mut Cursor<'_>, count: usize) -> Result<Kept> {
        let mut pairs = Vec::new();
        for _ in 0..count {
            let bucket = cursor.count("an n-gram that is kept")?;
            let row = cursor.count("the row of an n-gram that is kept")?;
            if row >= count {
                return Err(cursor.unexpected("the row of an n-gram", row, &format!("a number below {count}")));
            }
            pairs.push((bucket as u32, row as u32));
        }
        Ok(Kept::Some(Slots::new(pairs.into_iter())))
    }

    /// Rows that the features of any text are below.
    pub(super) fn rows(&self) -> usize {
        let ngrams = match &self.kept {
            Kept::All if self.settings.longest == 0 && self.settings.word_ngrams <= 1 => 0,
            Kept::All => self.settings.buckets as usize,
            Kept::Some(slots) => slots.values().max().map_or(0, |row| row as usize + 1),
        };
        self.words + ngrams
    }

    /// Whether n-grams were dropped.
    pub(super) fn is_pruned(&self) -> bool {
        matches!(self.kept, Kept::Some(_))
    }

    /// The features of a text, one after another: words and their character n-grams in the order of the text, then runs of words. A line
    /// ends at the end of the text, or at a word that is `</s>`. Line breaks are white space here.
    pub(super) fn features(&self, text: &str, memory: &mut Memory, mut each: impl FnMut(u32)) {
        let Memory { hashes, padded } = memory;
        hashes.clear();
        let runs = self.settings.word_ngrams > 1;
        let mut add = |word: &[u8], hash: u32| {
            match self.by_hash.find(hash, |entry| self.is(entry, word)) {
                Some(known) if (known as usize) < self.words => each(known),
                None if !word.starts_with(LABEL.as_bytes()) => {}
                // A label is no feature.
                _ => return,
            }
            if self.settings.longest > 0 && word != END {
                padded.clear();
                padded.push(b'<');
                padded.extend_from_slice(word);
                padded.push(b'>');
                self.character_ngrams(padded, &mut each);
            }
            if runs {
                hashes.push(hash);
            }
        };
        let bytes = text.as_bytes();
        let (mut start, mut hash) = (0, FIRST);
        let mut ended = false;
        for (end, &byte) in bytes.iter().chain(std::iter::once(&0)).enumerate() {
            if !is_space(byte) {
                hash = next(hash, byte);
                continue;
            }
            if end > start {
                let word = &bytes[start..end];
                add(word, hash);
                if word == END {
                    ended = true;
                    break;
                }
            }
            (start, hash) = (end + 1, FIRST);
        }
        if !ended {
            add(END, self::hash(END));
        }
        if runs {
            self.runs(hashes, &mut each);
        }
        hashes.shrink_to(1 << 16);
        padded.shrink_to(1 << 16);
    }

    fn is(&self, number: u32, word: &[u8]) -> bool {
        let rest = &self.bytes[self.entries[number as usize]..];
        rest.get(word.len()) == Some(&0) && rest.starts_with(word)
    }

    /// `computeSubwords`: of a word between `<` and `>`, n-grams of characters, the edges by themselves left out.
    fn character_ngrams(&self, word: &[u8], each: &mut impl FnMut(u32)) {
        let Settings { shortest, longest, .. } = self.settings;
        let continues = |byte: u8| byte & 0xc0 == 0x80;
        for start in 0..word.len() {
            if continues(word[start]) {
                continue;
            }
            let (mut end, mut hash) = (start, FIRST);
            for length in 1..=longest {
                if end == word.len() {
                    break;
                }
                hash = next(hash, word[end]);
                end += 1;
                while end < word.len() && continues(word[end]) {
                    hash = next(hash, word[end]);
                    end += 1;
                }
                let edge = length == 1 && (start == 0 || end == word.len());
                if length >= shortest && !edge {
                    self.ngram(hash % self.settings.buckets, each);
                }
            }
        }
    }

    /// `addWordNgrams`: hashes are 32 bits wide with a sign there.
    fn runs(&self, hashes: &[u32], each: &mut impl FnMut(u32)) {
        let signed = |hash: u32| i64::from(hash.cast_signed()).cast_unsigned();
        for (first, &hash) in hashes.iter().enumerate() {
            let mut run = signed(hash);
            for &other in hashes[first + 1..].iter().take(self.settings.word_ngrams - 1) {
                run = run.wrapping_mul(116_049_371).wrapping_add(signed(other));
                self.ngram((run % u64::from(self.settings.buckets)) as u32, each);
            }
        }
    }

    fn ngram(&self, bucket: u32, each: &mut impl FnMut(u32)) {
        let row = match &self.kept {
            Kept::All => Some(bucket),
            Kept::Some(slots) => slots.find(bucket, |_| true),
        };
        if let Some(row) = row {
            each(self.words as u32 + row);
        }
    }
}

/// The hash of no bytes.
const FIRST: u32 = 2_166_136_261;

/// FNV-1a, but that bytes are taken with a sign.
fn next(hash: u32, byte: u8) -> u32 {
    (hash ^ i32::from(byte.cast_signed()).cast_unsigned()).wrapping_mul(16_777_619)
}

fn hash(word: &[u8]) -> u32 {
    word.iter().fold(FIRST, |hash, &byte| next(hash, byte))
}

/// What separates words: ASCII white space and 0.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t' | 0x0b | 0x0c | 0)
}

//! The cache from word (pre-token) to number of tokens.
//!
//! Text repeats its words, and a count needs no ids. A word of at most 15 bytes is its own key: word, length and count
//! are packed into 16 bytes, four of them to a cache line, and a line is one set. A look-up is one multiplication, one
//! line and four comparisons, and its answer is exact because the key is the word itself. Longer words are kept whole,
//! behind each other in one buffer, and compared byte by byte.
//!
//! Short words stand in two tables. The large one holds a million of them, too many for the processor's near caches and
//! for its address translation, so a look-up there waits for memory. The small one in front holds the words of the last
//! while, which by Zipf's law are four of five. A word moves to the front at one in a few look-ups that had to go to the
//! large table: frequent words get there soon, and rare words seldom displace them.
//!
//! Words come in batches. First all of a batch are looked up in front, without a branch on what was found; then the lines
//! of those that were not there are read, so that the waits for memory overlap; then they are looked up.
//!
//! All tables have a fixed size, so memory is bounded whatever the text: see [`CountCache::BYTES`]. In a full set the
//! entries make room now and then, in turn; when the buffer of long words is full it is emptied.

use std::hint::black_box;

use tokenizers::pipeline::Span;

/// Entries of one set.
const WAYS: usize = 4;
/// Entries of one set of the table in front. Fewer, as each is compared for every word.
const FRONT_WAYS: usize = 2;
/// Sets of the table in front: 128 KiB, 8,192 words.
const FRONT_SETS: usize = 1 << 12;
/// Sets of the table of short words: 16 MiB, a million words.
const SHORT_SETS: usize = 1 << 18;
/// Sets of the table of long words: 8 MiB, half a million words.
const LONG_SETS: usize = 1 << 17;
/// Bytes of long words, 16 MiB.
const LONG_BYTES: usize = 16 << 20;
/// Longest word that is packed into a key.
const SHORT: usize = 15;
/// Longest word that is kept. Longer ones hardly ever occur twice.
const LONG: usize = 255;
/// Words of one batch.
const BATCH: usize = 64;
/// One in so many look-ups that the table in front could not answer moves its word there.
const MOVE: usize = 4;

/// One in so many words that belong in a full set displaces another. Were it every one, words that take turns in a set
/// that is one entry too small would all be missed always; so most of them are found.
const DISPLACE: usize = 4;

/// A key is the word's bytes, padded with zeros; its top byte holds the length above the count, 4 bits each.
const COUNT_SHIFT: u32 = 120;
const COUNT_MASK: u128 = 0x0F << COUNT_SHIFT;
const LENGTH_SHIFT: u32 = 124;

/// One cache line of short words. Zero is free, as no word has length 0.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct ShortSet([u128; WAYS]);

/// Two short words in front.
#[derive(Clone, Copy, Default)]
#[repr(align(32))]
struct FrontSet([u128; FRONT_WAYS]);

/// A long word: its hash, where its bytes are, how many, and how many tokens it has. Length 0 is free.
#[derive(Clone, Copy, Default)]
struct LongWord {
    hash: u32,
    start: u32,
    length: u16,
    count: u16,
}

#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct LongSet([LongWord; WAYS]);

/// A short word that is not in front.
#[derive(Clone, Copy, Default)]
struct Waiting {
    key: u128,
    hash: u64,
    start: u32,
    end: u32,
}

/// A bounded cache from word to number of tokens.
pub(super) struct CountCache {
    front: Box<[FrontSet]>,
    short: Box<[ShortSet]>,
    long: LongWords,
    waiting: Box<[Waiting; BATCH]>,
    /// Which entry of a full set makes room next.
    turn: usize,
}

/// The part for long words.
struct LongWords {
    sets: Box<[LongSet]>,
    /// Their bytes, behind each other.
    bytes: Vec<u8>,
}

impl CountCache {
    /// What a cache takes, in bytes.
    pub(super) const BYTES: usize = FRONT_SETS * size_of::<FrontSet>()
        + SHORT_SETS * size_of::<ShortSet>()
        + LONG_SETS * size_of::<LongSet>()
        + LONG_BYTES;

    pub(super) fn new() -> Self {
        Self {
            front: vec![FrontSet::default(); FRONT_SETS].into_boxed_slice(),
            short: vec![ShortSet::default(); SHORT_SETS].into_boxed_slice(),
            long: LongWords {
                sets: vec![LongSet::default(); LONG_SETS].into_boxed_slice(),
                bytes: Vec::with_capacity(LONG_BYTES),
            },
            waiting: Box::new([Waiting::default(); BATCH]),
            turn: 0,
        }
    }

    /// The number of tokens of the words of `text` together. `tokenize` gives the number for a word that is not known yet.
    pub(super) fn count<E>(
        &mut self,
        text: &str,
        words: &[Span],
        mut tokenize: impl FnMut(&str) -> Result<usize, E>,
    ) -> Result<usize, E> {
        words.chunks(BATCH).try_fold(0, |total, words| Ok(total + self.count_batch(text, words, &mut tokenize)?))
    }

    #[inline(always)]
    fn count_batch<E>(
        &mut self,
        text: &str,
        words: &[Span],
        tokenize: &mut impl FnMut(&str) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let bytes = text.as_bytes();
        let (mut total, mut waiting) = (0, 0);
        for word in words {
            let (start, end) = (word.start as usize, word.end as usize);
            let length = end.wrapping_sub(start);
            if length > SHORT {
                total += self.long.count(&text[start..end], self.turn, tokenize)?;
                self.turn = self.turn.wrapping_add(1);
                continue;
            }
            let key = short_key(bytes, start, length);
            let hash = hash_short(key);
            let entry = find(&self.front[hash as usize % FRONT_SETS].0, key);
            total += tokens(entry);
            self.waiting[waiting] = Waiting { key, hash, start: word.start, end: word.end };
            waiting += usize::from(entry == 0);
        }
        let mut touched = 0;
        for word in &self.waiting[..waiting] {
            touched ^= self.short[short_set(word.hash)].0[0];
        }
        black_box(touched);
        for index in 0..waiting {
            total += self.count_behind(text, index, tokenize)?;
        }
        Ok(total)
    }

    /// Counts a short word that is not in front.
    #[inline(always)]
    fn count_behind<E>(
        &mut self,
        text: &str,
        index: usize,
        tokenize: &mut impl FnMut(&str) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let Waiting { key, hash, start, end } = self.waiting[index];
        let set = &mut self.short[short_set(hash)].0;
        self.turn = self.turn.wrapping_add(1);
        let entry = find(set, key);
        if entry != 0 {
            if self.turn.is_multiple_of(MOVE) {
                self.front[hash as usize % FRONT_SETS].0[self.turn / MOVE % FRONT_WAYS] = entry;
            }
            return Ok(tokens(entry));
        }
        let count = tokenize(&text[start as usize..end as usize])?;
        // A count above 15 does not fit; no model makes more tokens than a word has bytes, so there are none.
        if count <= SHORT
            && let Some(way) = room(set.iter().position(|&entry| entry == 0), self.turn)
        {
            set[way] = key | (count as u128) << COUNT_SHIFT;
        }
        Ok(count)
    }
}

impl LongWords {
    #[inline(never)]
    fn count<E>(
        &mut self,
        word: &str,
        turn: usize,
        tokenize: &mut impl FnMut(&str) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let bytes = word.as_bytes();
        if bytes.len() > LONG {
            return tokenize(word);
        }
        let hash = hash_long(bytes);
        let set = (hash >> 32) as usize % LONG_SETS;
        for entry in &self.sets[set].0 {
            let start = entry.start as usize;
            if entry.hash == hash as u32
                && usize::from(entry.length) == bytes.len()
                && self.bytes.get(start..start + bytes.len()) == Some(bytes)
            {
                return Ok(usize::from(entry.count));
            }
        }
        let count = tokenize(word)?;
        let entries = &self.sets[set].0;
        let Some(way) = room(entries.iter().position(|entry| entry.length == 0), turn).filter(|_| count <= LONG) else {
            return Ok(count);
        };
        if self.bytes.len() + bytes.len() > LONG_BYTES {
            self.bytes.clear();
            self.sets.fill(LongSet::default());
        }
        self.sets[set].0[way] = LongWord {
            hash: hash as u32,
            start: self.bytes.len() as u32,
            length: bytes.len() as u16,
            count: count as u16,
        };
        self.bytes.extend_from_slice(bytes);
        Ok(count)
    }
}

/// Which entry of a set a new word takes, if any: a free one, or now and then one that is taken.
fn room(free: Option<usize>, turn: usize) -> Option<usize> {
    free.or_else(|| turn.is_multiple_of(DISPLACE).then_some(turn / DISPLACE % WAYS))
}

/// The entry of a set that has this key, or 0.
#[inline(always)]
fn find<const N: usize>(set: &[u128; N], key: u128) -> u128 {
    // All are compared without branches: which of them matches is not predictable.
    let mut entry = 0;
    for &candidate in set {
        entry |= if (candidate ^ key) & !COUNT_MASK == 0 { candidate } else { 0 };
    }
    entry
}

/// Which set of the large table a short word belongs to. The table in front takes the low bits.
#[inline(always)]
fn short_set(hash: u64) -> usize {
    (hash >> 32) as usize % SHORT_SETS
}

/// The number of tokens in an entry of a short word.
#[inline(always)]
fn tokens(entry: u128) -> usize {
    (entry >> COUNT_SHIFT) as usize & 0x0F
}

/// The key, without a count, of `text[start..start + length]`, `length` being at most 15.
#[inline(always)]
fn short_key(text: &[u8], start: usize, length: usize) -> u128 {
    let bytes = match text.get(start..start + 16) {
        Some(ahead) => {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(ahead);
            bytes
        }
        None => {
            let mut bytes = [0; 16];
            bytes[..length].copy_from_slice(&text[start..start + length]);
            bytes
        }
    };
    u128::from_le_bytes(bytes) & WORD_MASK[length & 15] | (length as u128) << LENGTH_SHIFT
}

/// Selects the first `i` bytes.
const WORD_MASK: [u128; 16] = {
    let mut masks = [0; 16];
    let mut length = 1;
    while length < 16 {
        masks[length] = (1 << (8 * length)) - 1;
        length += 1;
    }
    masks
};

/// Multiplies the halves and folds the product, so that every bit of the key reaches every bit of the hash.
#[inline(always)]
fn hash_short(key: u128) -> u64 {
    fold(key as u64 ^ 0x9E37_79B9_7F4A_7C15, (key >> 64) as u64 ^ 0xC2B2_AE3D_27D4_EB4F)
}

fn hash_long(word: &[u8]) -> u64 {
    let mut hash = word.len() as u64;
    let mut chunks = word.chunks_exact(8);
    for chunk in &mut chunks {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(chunk);
        hash = fold(hash ^ u64::from_le_bytes(bytes), 0x9E37_79B9_7F4A_7C15);
    }
    let mut bytes = [0; 8];
    bytes[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    fold(hash ^ u64::from_le_bytes(bytes), 0xC2B2_AE3D_27D4_EB4F)
}

#[inline(always)]
fn fold(left: u64, right: u64) -> u64 {
    let product = u128::from(left) * u128::from(right);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts of words, each with the spans of its words.
    fn text_of(words: impl Iterator<Item = String>) -> (String, Vec<Span>) {
        let mut text = String::new();
        let spans = words
            .map(|word| {
                let start = text.len() as u32;
                text.push_str(&word);
                Span { start, end: text.len() as u32 }
            })
            .collect();
        (text, spans)
    }

    /// A number of tokens that depends on every byte, and is at most the number of bytes.
    fn made_up_count(word: &str) -> usize {
        let sum = word.bytes().fold(7usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        sum % word.len() + 1
    }

    /// Counts all words twice, and returns how many of them had to be tokenized in each pass.
    fn check(cache: &mut CountCache, text: &str, spans: &[Span]) -> [usize; 2] {
        let expected: usize = spans.iter().map(|span| made_up_count(&text[span.range()])).sum();
        [0, 1].map(|_| {
            let mut tokenized = 0;
            let count = cache.count(text, spans, |word| {
                tokenized += 1;
                Ok::<_, ()>(made_up_count(word))
            });
            assert_eq!(count, Ok(expected));
            tokenized
        })
    }

    #[test]
    fn words_that_look_alike_are_told_apart() {
        let words = ["a", "a\0", "a\0\0", "\0", "\0\0", "aaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaaa"];
        let long = ["x".repeat(LONG - 1), "x".repeat(LONG), "x".repeat(LONG + 1), "y".repeat(LONG)];
        let mut cache = CountCache::new();
        // Each alone, so that the last word also ends the text, where no 16 bytes can be read.
        for word in words.into_iter().map(str::to_owned).chain(long.clone()) {
            let (text, spans) = text_of(std::iter::once(word.clone()));
            let expected = if word.len() > LONG { [1, 1] } else { [1, 0] };
            assert_eq!(check(&mut cache, &text, &spans), expected, "{word:?}");
        }
        let (text, spans) = text_of(words.into_iter().map(str::to_owned).chain(long));
        assert_eq!(check(&mut cache, &text, &spans), [1, 1], "all but the one that is too long are known");
    }

    #[test]
    fn words_that_differ_in_one_byte_are_told_apart() {
        for length in [1, 7, 8, 9, SHORT, SHORT + 1, 40] {
            let mut cache = CountCache::new();
            // The last of them has no byte changed.
            let words = (0..=length).map(|changed| {
                let letter = |position| if position == changed { 'b' } else { 'a' };
                (0..length).map(letter).collect::<String>()
            });
            let (text, spans) = text_of(words);
            let tokenized = check(&mut cache, &text, &spans);
            assert_eq!(tokenized[0], length + 1, "no word is taken for another");
            assert_eq!(tokenized[1], 0, "every word is known");
        }
    }

    #[test]
    fn more_words_than_fit_are_counted_right() {
        let mut cache = CountCache::new();
        // So many that some sets are full, and in another order the second time.
        let words = 900_000;
        let (text, spans) = text_of((0..words).map(|number| format!("{:x}", number * 2_654_435_761u64)));
        let [first, second] = check(&mut cache, &text, &spans);
        assert_eq!(first, words as usize);
        assert!(second > 0 && second < first / 4, "{second}");
        let backwards: Vec<Span> = spans.iter().rev().copied().collect();
        assert!(check(&mut cache, &text, &backwards)[0] < first / 4);
    }

    #[test]
    fn the_bytes_of_long_words_stay_within_their_bound() {
        let mut cache = CountCache::new();
        let words = LONG_BYTES / LONG + 1000;
        let (text, spans) = text_of((0..words).map(|number| format!("{number:0>LONG$}")));
        let [first, second] = check(&mut cache, &text, &spans);
        assert_eq!((first, cache.long.bytes.capacity()), (words, LONG_BYTES));
        assert!(cache.long.bytes.len() <= LONG_BYTES && second > 0);
        // What was counted last is known, but for words whose sets are full.
        let last = &spans[words - 100..];
        assert!(check(&mut cache, &text, last)[1] < 10);
    }
}

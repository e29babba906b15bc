//! The cache from word (pre-token) to number of tokens.
//!
//! Text repeats its words, and a count needs no ids. A word of at most 15 bytes is its own key: word, length and count
//! are packed into 16 bytes, four of them to a cache line, and a line is one set. A look-up is one multiplication, one
//! line and four comparisons, and its answer is exact because the key is the word itself. Longer words are kept whole in
//! a second table and compared byte by byte.
//!
//! Both tables have a fixed size, so memory is bounded whatever the text: see [`CountCache::BYTES`]. In a full set the
//! entries make room in turn.

/// Entries of one set.
const WAYS: usize = 4;
/// Sets of the table of short words: 16 MiB, a million words.
const SHORT_SETS: usize = 1 << 18;
/// Sets of the table of long words: 4.25 MiB, 65,536 words.
const LONG_SETS: usize = 1 << 14;
/// Longest word that is packed into a key.
const SHORT: usize = 15;
/// Longest word that is kept. Longer ones hardly ever occur twice.
const LONG: usize = 62;

/// A key is the word's bytes, padded with zeros; its top byte holds the length above the count, 4 bits each.
const COUNT_SHIFT: u32 = 120;
const COUNT_MASK: u128 = 0x0F << COUNT_SHIFT;
const LENGTH_SHIFT: u32 = 124;

/// One cache line of short words. Zero is free, as no word has length 0.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct ShortSet([u128; WAYS]);

/// One cache line with a long word.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct LongWord {
    length: u8,
    count: u8,
    bytes: [u8; LONG],
}

const FREE: LongWord = LongWord { length: 0, count: 0, bytes: [0; LONG] };

/// A bounded cache from word to number of tokens.
pub(super) struct CountCache {
    short: Box<[ShortSet]>,
    /// Part of the hash of each long word, so that words that differ are hardly ever compared.
    long_tags: Box<[[u32; WAYS]]>,
    long: Box<[[LongWord; WAYS]]>,
    /// Which entry of a full set makes room next.
    turn: usize,
}

/// What a look-up found.
pub(super) enum Found {
    /// The number of tokens.
    Count(usize),
    /// The word is not there; where to put it.
    Nothing(Place),
}

/// Where a word that was not found belongs.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Short { set: usize, key: u128 },
    Long { set: usize, tag: u32 },
    Nowhere,
}

impl CountCache {
    /// What a cache takes, in bytes.
    pub(super) const BYTES: usize =
        SHORT_SETS * size_of::<ShortSet>() + LONG_SETS * (size_of::<[u32; WAYS]>() + size_of::<[LongWord; WAYS]>());

    pub(super) fn new() -> Self {
        Self {
            short: vec![ShortSet::default(); SHORT_SETS].into_boxed_slice(),
            long_tags: vec![[0; WAYS]; LONG_SETS].into_boxed_slice(),
            long: vec![[FREE; WAYS]; LONG_SETS].into_boxed_slice(),
            turn: 0,
        }
    }

    /// Looks up the word `text[start..end]`. Taking the whole text lets a short word be read with one 16-byte load.
    #[inline(always)]
    pub(super) fn find(&self, text: &[u8], start: usize, end: usize) -> Found {
        let length = end.wrapping_sub(start);
        if length > SHORT {
            return self.find_long(&text[start..end]);
        }
        let key = short_key(text, start, length);
        let set = (hash_short(key) >> 32) as usize % SHORT_SETS;
        // All four are compared without branches: which of them matches is not predictable.
        let mut entry = 0;
        for candidate in self.short[set].0 {
            entry |= if (candidate ^ key) & !COUNT_MASK == 0 { candidate } else { 0 };
        }
        if entry == 0 {
            return Found::Nothing(Place::Short { set, key });
        }
        Found::Count((entry >> COUNT_SHIFT) as usize & 0x0F)
    }

    #[inline(never)]
    fn find_long(&self, word: &[u8]) -> Found {
        if word.len() > LONG {
            return Found::Nothing(Place::Nowhere);
        }
        let hash = hash_long(word);
        let (set, tag) = ((hash >> 32) as usize % LONG_SETS, hash as u32);
        for (way, &candidate) in self.long_tags[set].iter().enumerate() {
            let entry = &self.long[set][way];
            if candidate == tag && entry.bytes[..usize::from(entry.length)] == *word {
                return Found::Count(usize::from(entry.count));
            }
        }
        Found::Nothing(Place::Long { set, tag })
    }

    /// Keeps the count of a word that a look-up did not find.
    #[inline(never)]
    pub(super) fn keep(&mut self, place: Place, word: &[u8], count: usize) {
        self.turn = (self.turn + 1) % WAYS;
        match place {
            // A count above 15 does not fit; no model makes more tokens than a word has bytes, so there are none.
            Place::Short { set, key } if count <= SHORT => {
                let entries = &mut self.short[set].0;
                let way = entries.iter().position(|&entry| entry == 0).unwrap_or(self.turn);
                entries[way] = key | (count as u128) << COUNT_SHIFT;
            }
            Place::Long { set, tag } if count <= LONG => {
                let entries = &mut self.long[set];
                let way = entries.iter().position(|entry| entry.length == 0).unwrap_or(self.turn);
                let mut bytes = [0; LONG];
                bytes[..word.len()].copy_from_slice(word);
                entries[way] = LongWord { length: word.len() as u8, count: count as u8, bytes };
                self.long_tags[set][way] = tag;
            }
            _ => {}
        }
    }
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

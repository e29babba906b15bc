//! Counting the tokens of a word by the merges of a byte-level BPE model.
//!
//! A count needs no ids and no cache of ids, and most words are short, so the merges can be run in two small arrays: the
//! symbol that begins at each byte, and the rank of its pair with the next symbol above its position. One pass over the
//! second array finds the leftmost pair of the lowest rank. This is byte-pair encoding (Sennrich et al., 2016) over bytes
//! as in GPT-2.
//!
//! Words of more than [`LONGEST`] bytes are cut where no token can be: between two bytes that no token has next to each
//! other. What is longer even then is merged with a queue of pairs.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};

use super::vocabulary::BytePairs;

/// Bytes of the longest piece that is merged in arrays.
const LONGEST: usize = 64;
/// Pairs are compared in steps of so many.
const LANES: usize = 8;
/// No pair, or one that is not merged. Above every rank.
const NONE: i32 = i32::MAX;
/// Bits of a position in a word.
const POSITION: u32 = LONGEST.trailing_zeros();
/// Bits of a symbol: two of them and a rank are packed into 64 bits.
const SYMBOL_BITS: u32 = 20;
/// Bits of a rank.
const RANK_BITS: u32 = 64 - 2 * SYMBOL_BITS;
/// No symbol, or one that was merged into the one before it.
const GONE: u32 = u32::MAX;
/// The first 256 symbols are the bytes; then there is one for each rank.
const BYTES: u32 = 256;

/// The merges of a byte-level BPE model.
pub(super) struct Merges {
    /// The ranks of pairs of bytes; see [`NONE`].
    first: Box<[i32]>,
    pairs: PairRanks,
    /// The symbol that the merge of each rank makes, if that is not always the rank's own: several merges may make the
    /// same token.
    products: Option<Box<[u32]>>,
    /// Which bytes some token has next to each other, as bits.
    adjacent: Box<[u64; 1024]>,
    /// Words that are one token whatever the merges say.
    whole: HashSet<Box<[u8]>>,
}

impl Merges {
    /// The merges of a model, unless they are more than can be packed.
    pub(super) fn new(model: BytePairs) -> Option<Self> {
        let BytePairs { bytes, merges, whole, largest_id } = model;
        if merges.len() >= (1 << SYMBOL_BITS) - BYTES as usize {
            return None;
        }
        // By id. What is no byte and no merge makes is never there to be merged.
        let mut symbols = vec![GONE; largest_id as usize + 1];
        for (byte, id) in (0..BYTES).zip(bytes) {
            if let Some(id) = id {
                symbols[id as usize] = byte;
            }
        }
        let mut adjacent = Box::new([0; 1024]);
        let mut products = Vec::with_capacity(merges.len());
        for (own, merge) in (BYTES..).zip(&merges) {
            let seam = usize::from(merge.seam.0) << 8 | usize::from(merge.seam.1);
            adjacent[seam / 64] |= 1 << (seam % 64);
            let symbol = &mut symbols[merge.product as usize];
            if *symbol == GONE {
                *symbol = own;
            }
            products.push(*symbol);
        }
        let mut pairs = PairRanks::new(merges.len());
        let mut first = vec![NONE; 1 << 16].into_boxed_slice();
        for (rank, merge) in (0..).zip(&merges) {
            let (left, right) = (symbols[merge.left as usize], symbols[merge.right as usize]);
            if left == GONE || right == GONE {
                continue;
            }
            pairs.insert(left, right, rank);
            if left < BYTES && right < BYTES {
                first[(left << 8 | right) as usize] = rank;
            }
        }
        let own = products.iter().zip(BYTES..).all(|(&product, own)| product == own);
        Some(Self { first, pairs, products: (!own).then(|| products.into_boxed_slice()), adjacent, whole })
    }

    /// The number of tokens of a word.
    pub(super) fn count(&self, word: &[u8]) -> usize {
        if !self.whole.is_empty() && self.whole.contains(word) {
            return 1;
        }
        if word.len() <= LONGEST {
            return self.merge(word);
        }
        let (mut count, mut start) = (0, 0);
        for (position, pair) in word.windows(2).enumerate() {
            let pair = usize::from(pair[0]) << 8 | usize::from(pair[1]);
            if self.adjacent[pair / 64] >> (pair % 64) & 1 == 0 {
                count += self.merge_piece(&word[start..=position]);
                start = position + 1;
            }
        }
        count + self.merge_piece(&word[start..])
    }

    fn merge_piece(&self, piece: &[u8]) -> usize {
        if piece.len() <= LONGEST { self.merge(piece) } else { self.merge_queued(piece) }
    }

    /// Merges a word of at most [`LONGEST`] bytes.
    fn merge(&self, word: &[u8]) -> usize {
        let mut symbols = [0; LONGEST];
        // The rank of the pair that begins at a position, above the position.
        let mut pairs = [NONE; LONGEST];
        let Some(last) = word.len().checked_sub(1) else { return 0 };
        for (symbol, &byte) in symbols.iter_mut().zip(word) {
            *symbol = u32::from(byte);
        }
        for (position, bytes) in word.windows(2).enumerate() {
            let rank = self.first[usize::from(bytes[0]) << 8 | usize::from(bytes[1])];
            pairs[position] = key(rank, position);
        }
        // Where symbols begin.
        let mut live = u64::MAX >> (LONGEST - 1 - last);
        let used = last.next_multiple_of(LANES);
        loop {
            let lowest = minimum(&pairs[..used]);
            if lowest == NONE {
                return live.count_ones() as usize;
            }
            let position = lowest as usize % LONGEST;
            let product = self.product(lowest >> POSITION);
            symbols[position] = product;
            // The right symbol of the pair is no more.
            let after = live & (u64::MAX << position) & !(1 << position);
            live &= !(after & after.wrapping_neg());
            pairs[after.trailing_zeros() as usize % LONGEST] = NONE;
            let after = after & after.wrapping_sub(1);
            pairs[position] = if after == 0 {
                NONE
            } else {
                key(self.pairs.rank(product, symbols[after.trailing_zeros() as usize % LONGEST]), position)
            };
            let before = live & !(u64::MAX << position);
            if before != 0 {
                let before = (LONGEST - 1) - before.leading_zeros() as usize;
                pairs[before] = key(self.pairs.rank(symbols[before], product), before);
            }
        }
    }

    /// Merges a piece of any length, with the pairs in a queue. Few words come here: lines of dashes, encoded data.
    fn merge_queued(&self, piece: &[u8]) -> usize {
        let mut symbols: Vec<u32> = piece.iter().map(|&byte| u32::from(byte)).collect();
        // The symbols before and after each; a merged symbol stays where its left part was.
        let mut before: Vec<usize> = (0..piece.len()).map(|position| position.wrapping_sub(1)).collect();
        let mut after: Vec<usize> = (1..=piece.len()).collect();
        let mut queue = BinaryHeap::new();
        let ask = |queue: &mut BinaryHeap<_>, symbols: &[u32], left: usize, right: usize| {
            if let (Some(&first), Some(&second)) = (symbols.get(left), symbols.get(right)) {
                let rank = self.pairs.rank(first, second);
                if rank != NONE {
                    queue.push(Reverse((rank, left, right, first, second)));
                }
            }
        };
        for left in 0..piece.len() {
            ask(&mut queue, &symbols, left, left + 1);
        }
        let mut count = piece.len();
        while let Some(Reverse((rank, left, right, first, second))) = queue.pop() {
            // The pair may have been merged with a neighbour since.
            if symbols[left] != first || symbols[right] != second || after[left] != right {
                continue;
            }
            count -= 1;
            symbols[left] = self.product(rank);
            symbols[right] = GONE;
            after[left] = after[right];
            if let Some(position) = before.get_mut(after[right]) {
                *position = left;
            }
            ask(&mut queue, &symbols, before[left], left);
            ask(&mut queue, &symbols, left, after[left]);
        }
        count
    }

    #[inline(always)]
    fn product(&self, rank: i32) -> u32 {
        self.products.as_ref().map_or(rank as u32 + BYTES, |products| products[rank as usize])
    }
}

#[inline(always)]
fn key(rank: i32, position: usize) -> i32 {
    // Ranks are far below 2^25, so that this orders by rank, then position.
    if rank == NONE { NONE } else { rank << POSITION | position as i32 }
}

#[inline(always)]
fn minimum(pairs: &[i32]) -> i32 {
    let mut lanes = [NONE; LANES];
    for chunk in pairs.chunks_exact(LANES) {
        for (lane, &pair) in lanes.iter_mut().zip(chunk) {
            *lane = if pair < *lane { pair } else { *lane };
        }
    }
    lanes.into_iter().fold(NONE, i32::min)
}

/// Ranks of pairs of symbols.
///
/// Most pairs that are asked for are not merged. Eight bits or more for each pair that is say so without a look at the
/// table, which is too large for the processor's near caches.
struct PairRanks {
    filter: Box<[u64]>,
    filter_shift: u32,
    /// Pair above rank; zero is free.
    slots: Box<[u64]>,
    shift: u32,
}

impl PairRanks {
    fn new(pairs: usize) -> Self {
        let size = (pairs + pairs / 4 + 1).next_power_of_two();
        let bits = (8 * pairs).next_power_of_two().max(64);
        Self {
            filter: vec![0; bits / 64].into_boxed_slice(),
            filter_shift: u64::BITS - bits.trailing_zeros(),
            slots: vec![0; size].into_boxed_slice(),
            // A table of one slot has no bits to choose it by.
            shift: u64::BITS - size.trailing_zeros().max(1),
        }
    }

    /// Of a pair that is listed twice the last rank counts, as in the library.
    fn insert(&mut self, left: u32, right: u32, rank: i32) {
        let pair = pair(left, right);
        let hash = hash(pair);
        let bit = (hash >> self.filter_shift) as usize;
        self.filter[bit / 64] |= 1 << (bit % 64);
        let mut slot = (hash >> self.shift) as usize & (self.slots.len() - 1);
        while self.slots[slot] != 0 && self.slots[slot] >> RANK_BITS != pair {
            slot = (slot + 1) & (self.slots.len() - 1);
        }
        // One is added so that no entry is zero.
        self.slots[slot] = pair << RANK_BITS | (rank as u64 + 1);
    }

    #[inline(always)]
    fn rank(&self, left: u32, right: u32) -> i32 {
        let pair = pair(left, right);
        let hash = hash(pair);
        let bit = (hash >> self.filter_shift) as usize;
        if self.filter[bit / 64] >> (bit % 64) & 1 == 0 {
            return NONE;
        }
        let mut slot = (hash >> self.shift) as usize;
        loop {
            let entry = self.slots[slot & (self.slots.len() - 1)];
            if entry == 0 {
                return NONE;
            }
            if entry >> RANK_BITS == pair {
                return (entry & ((1 << RANK_BITS) - 1)) as i32 - 1;
            }
            slot += 1;
        }
    }
}

#[inline(always)]
fn pair(left: u32, right: u32) -> u64 {
    u64::from(left) << SYMBOL_BITS | u64::from(right)
}

#[inline(always)]
fn hash(pair: u64) -> u64 {
    pair.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::super::Tokenizer;
    use super::super::vocabulary::characters_of_bytes;
    use super::*;

    /// A byte-level BPE tokenizer with these merges on top of the bytes.
    fn tokenizer(merges: &[(String, String)], ignore_merges: bool) -> Tokenizer {
        let mut characters: Vec<(char, u8)> = characters_of_bytes().collect();
        characters.sort_by_key(|&(_, byte)| byte);
        let products = merges.iter().map(|(left, right)| format!("{left}{right}"));
        let mut vocabulary = Map::new();
        for token in characters.iter().map(|(character, _)| character.to_string()).chain(products) {
            let id = vocabulary.len();
            vocabulary.entry(token).or_insert(json!(id));
        }
        let file = json!({
            "version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null,
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": ignore_merges,
                "vocab": Value::Object(vocabulary),
                "merges": merges.iter().map(|(left, right)| json!([left, right])).collect::<Vec<_>>(),
            },
        });
        Tokenizer::from_bytes("made up", file.to_string().as_bytes()).unwrap()
    }

    /// The number of tokens that the library makes of a word.
    fn by_library(tokenizer: &Tokenizer, word: &str) -> usize {
        use tokenizers::pipeline::Model;
        let model = tokenizer.shared.stages().unwrap().pipeline.get_model();
        let mut tokens = Vec::new();
        model.tokenize_pipeline(word, &mut model.init_scratch(), &mut tokens).unwrap();
        tokens.len()
    }

    fn merges_of(tokenizer: &Tokenizer) -> &Merges {
        &tokenizer.shared.counting.as_ref().unwrap().merges
    }

    /// Merges of letters into tokens of up to eight, in any order, so that tokens are made in several ways, out of their
    /// order, or never; a pair may be listed twice.
    fn merges() -> impl Strategy<Value = Vec<(String, String)>> {
        proptest::collection::vec(("[abc]{1,4}", "[abc]{1,4}"), 0..60).prop_map(|mut merges| {
            // Every part has to be a token itself.
            let mut at = 0;
            while at < merges.len() {
                let (left, right) = merges[at].clone();
                for part in [left, right] {
                    let mut half = part.clone();
                    if half.len() > 1 && !merges.iter().any(|(left, right)| format!("{left}{right}") == part) {
                        let rest = half.split_off(part.len() / 2);
                        merges.push((half, rest));
                    }
                }
                at += 1;
            }
            merges
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn words_have_as_many_tokens_as_the_library_makes(
            merges in merges(),
            ignore_merges: bool,
            words in proptest::collection::vec("[abc]{1,20}|[abcd]{1,200}|[abc\u{e9}]{50,70}", 1..20),
        ) {
            let tokenizer = tokenizer(&merges, ignore_merges);
            let counting = merges_of(&tokenizer);
            for word in words {
                prop_assert_eq!(counting.count(word.as_bytes()), by_library(&tokenizer, &word), "{:?}", word);
            }
        }
    }

    #[test]
    fn a_long_word_is_cut_where_no_token_crosses() {
        let merges = [("a", "b"), ("ab", "c")].map(|(left, right)| (left.to_owned(), right.to_owned()));
        let tokenizer = tokenizer(&merges, false);
        let counting = merges_of(&tokenizer);
        assert_eq!(counting.count("abc".repeat(100).as_bytes()), 100);
        assert_eq!(counting.count("abcab".repeat(100).as_bytes()), 200);
        assert_eq!(counting.count("a".repeat(1000).as_bytes()), 1000);
        // Nothing is cut inside of what may be a token.
        let merges = [("a", "a")].map(|(left, right)| (left.to_owned(), right.to_owned()));
        let tokenizer = self::tokenizer(&merges, false);
        let counting = merges_of(&tokenizer);
        assert_eq!(counting.count("a".repeat(LONGEST).as_bytes()), LONGEST / 2);
        assert_eq!(counting.count("a".repeat(2 * LONGEST + 1).as_bytes()), LONGEST + 1);
    }

    #[test]
    fn a_token_is_one_whatever_the_merges_say_if_they_are_ignored() {
        // The first merge leaves no way to the last.
        let merges = [("b", "c"), ("a", "b"), ("ab", "c")].map(|(left, right)| (left.to_owned(), right.to_owned()));
        for (ignore_merges, expected) in [(false, 2), (true, 1)] {
            let tokenizer = tokenizer(&merges, ignore_merges);
            assert_eq!(merges_of(&tokenizer).count(b"abc"), expected);
            assert_eq!(by_library(&tokenizer, "abc"), expected);
        }
    }

    #[test]
    fn counting_never_makes_the_whole_vocabulary_ready() {
        let merges = [("a", "b"), ("a", "a")].map(|(left, right)| (left.to_owned(), right.to_owned()));
        let tokenizer = tokenizer(&merges, false);
        let text = format!("ab {} \u{77e5} {}", "a".repeat(3 * LONGEST), "-".repeat(3 * LONGEST));
        let count = tokenizer.counter().count(&text, true).unwrap();
        assert!(tokenizer.shared.whole.get().is_none());
        let mut ids = Vec::new();
        tokenizer.encode(&text, true, &mut ids).unwrap();
        assert_eq!(count, ids.len());
    }
}

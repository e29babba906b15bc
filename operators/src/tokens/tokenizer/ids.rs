//! The cache from word (pre-token) to ids.
//!
//! Made like the cache of counts ([`super::cache`]): a word of at most 15 bytes is its own key, so an answer is exact, and a
//! small table of recent words stands before a large one. Beside its key an entry holds up to four ids, which is all of
//! nearly every word, and a set of two entries is one cache line. Ids must come out in order, so a batch is gone through
//! twice: once to read the lines that will be needed, so that the waits for memory overlap, and once to look up.
//!
//! Longer words, and words of more ids, go to the model each time.

use std::hint::black_box;

use tokenizers::pipeline::{PipelineToken, Span};

use super::cache::{COUNT_SHIFT, SHORT, find, hash_short, room, short_key, tokens};

/// Ids in an entry.
const IDS: usize = 4;
/// Entries of one set.
const WAYS: usize = 2;
/// Sets of the table in front: 256 KiB, 8,192 words.
const FRONT_SETS: usize = 1 << 12;
/// Sets of the table behind: 16 MiB, half a million words.
const SETS: usize = 1 << 18;
/// Words of one batch.
const BATCH: usize = 64;
/// One in so many look-ups that the table in front could not answer moves its word there.
const MOVE: usize = 4;

/// One cache line: keys, as in the cache of counts, then the ids of each. A key of zero is free.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Set {
    keys: [u128; WAYS],
    ids: [[u32; IDS]; WAYS],
}

/// A bounded cache from word to ids.
pub(super) struct IdCache {
    front: Box<[Set]>,
    behind: Box<[Set]>,
    /// Key and hash of each word of a batch; the hash of a long word is not used.
    batch: Box<[(u128, u64); BATCH]>,
    /// Ids of a word that was not found.
    tokens: Vec<PipelineToken>,
    /// Which entry of a full set makes room next.
    turn: usize,
}

impl IdCache {
    pub(super) fn new() -> Self {
        Self {
            front: vec![Set::default(); FRONT_SETS].into_boxed_slice(),
            behind: vec![Set::default(); SETS].into_boxed_slice(),
            batch: Box::new([(0, 0); BATCH]),
            tokens: Vec::new(),
            turn: 0,
        }
    }

    /// Appends the ids of the words of `text` to `ids`. `tokenize` appends those of a word that is not known yet.
    pub(super) fn append<E>(
        &mut self,
        text: &str,
        words: &[Span],
        ids: &mut Vec<u32>,
        mut tokenize: impl FnMut(&str, &mut Vec<PipelineToken>) -> Result<(), E>,
    ) -> Result<(), E> {
        for words in words.chunks(BATCH) {
            self.read_lines(text.as_bytes(), words);
            let mut end = ids.len();
            // Room for every word that is found, so that ids are written four at a time whatever their number.
            ids.resize(end + BATCH * IDS, 0);
            for (index, word) in words.iter().enumerate() {
                if let Some((count, found)) = self.find(index, word) {
                    ids[end..end + IDS].copy_from_slice(&found);
                    end += count;
                    continue;
                }
                let word_text = &text[word.range()];
                self.tokens.clear();
                tokenize(word_text, &mut self.tokens)?;
                self.keep(index, word_text.len());
                ids.truncate(end);
                ids.extend(self.tokens.iter().map(|token| token.id()));
                end = ids.len();
                ids.resize(end + BATCH * IDS, 0);
            }
            ids.truncate(end);
        }
        Ok(())
    }

    /// Fills `batch`, and reads the line of each word that is not in front.
    #[inline(always)]
    fn read_lines(&mut self, text: &[u8], words: &[Span]) {
        let mut touched = 0;
        for (slot, word) in self.batch.iter_mut().zip(words) {
            let (start, length) = (word.start as usize, (word.end - word.start) as usize);
            if length > SHORT {
                continue;
            }
            let key = short_key(text, start, length);
            let hash = hash_short(key);
            *slot = (key, hash);
            let in_front = find(&self.front[hash as usize % FRONT_SETS].keys, key) != 0;
            // Choosing a line instead of choosing whether to read keeps the loop free of branches.
            touched ^= self.behind[if in_front { 0 } else { behind(hash) }].keys[0];
        }
        black_box(touched);
    }

    /// The number of ids of a word, and the ids, with anything behind them.
    #[inline(always)]
    fn find(&mut self, index: usize, word: &Span) -> Option<(usize, [u32; IDS])> {
        if (word.end - word.start) as usize > SHORT {
            return None;
        }
        let (key, hash) = self.batch[index];
        let front = &mut self.front[hash as usize % FRONT_SETS];
        if let Some(found) = front.find(key) {
            return Some(found);
        }
        let set = &self.behind[behind(hash)];
        let found = set.find(key)?;
        self.turn = self.turn.wrapping_add(1);
        if self.turn.is_multiple_of(MOVE) {
            let way = self.turn / MOVE % WAYS;
            front.keys[way] = key | (found.0 as u128) << COUNT_SHIFT;
            front.ids[way] = found.1;
        }
        Some(found)
    }

    /// Keeps the ids in `tokens` for a word that was not found, if they and it are short enough.
    #[inline(never)]
    fn keep(&mut self, index: usize, length: usize) {
        if length > SHORT || self.tokens.len() > IDS {
            return;
        }
        let (key, hash) = self.batch[index];
        let set = &mut self.behind[behind(hash)];
        self.turn = self.turn.wrapping_add(1);
        if let Some(way) = room::<WAYS>(set.keys.iter().position(|&key| key == 0), self.turn) {
            set.keys[way] = key | (self.tokens.len() as u128) << COUNT_SHIFT;
            for (id, token) in set.ids[way].iter_mut().zip(&self.tokens) {
                *id = token.id();
            }
        }
    }
}

impl Set {
    #[inline(always)]
    fn find(&self, key: u128) -> Option<(usize, [u32; IDS])> {
        let entry = find(&self.keys, key);
        let second = usize::from(entry == self.keys[1]);
        (entry != 0).then(|| (tokens(entry), self.ids[second]))
    }
}

fn behind(hash: u64) -> usize {
    (hash >> 32) as usize % SETS
}

//! A scanner's patterns as tables for a GPU.
//!
//! Every pattern is known by one *window*, its rarest four bytes, or by all of its bytes if it has fewer than four. (On the CPU it has two
//! windows, so that only every second position is looked up. A GPU has look-ups to spare, and with half as many windows the
//! filter fits its shared memory.) All tables are words of 32 bits in one buffer, in this order:
//!
//! | table | words | what |
//! |---|---|---|
//! | filter | 2^`filter_bits` | three bytes of a window choose a word by their hash, all four bytes two bits in it, which are set; a pattern of three bytes sets all bits of its word |
//! | pairs | 2,048, or none | one bit for each pair of bytes; a pattern of two bytes sets one bit, of one byte all that begin with it; there only if there are such patterns |
//! | entries | 4 for each pattern | the window, little end first; the pattern; where its bytes begin; its length · 256 + where in it the window begins |
//! | heads | 2^`head_bits` + 1 | entries whose window has the hash h lie between heads h and h + 1, in order of patterns |
//! | bytes | the fourth part | bytes of all patterns, four to a word, little end first |
//! | members | 34,816, or none | one bit for each code point: whether it belongs to the class that occurrences must be isolated from |
//!
//! Filter, pairs and hashes see bytes with bit 5 set, so that upper and lower case are one; windows in entries, and bytes, are those of
//! the pattern, in lower case where case is ignored.

use std::collections::HashSet;

use super::filter::CASE;
use super::verify::load_four;
use super::windows::{WINDOW_OFFSETS, rarest_window};
use super::{ScanError, Scanner};

/// The odd multipliers of `cuda/scan.cu`, for places and for bits in them.
const HASH: u32 = 0x9e37_79b1;
const BITS: u32 = 0x85eb_ca6b;
/// Bytes of a window.
const WINDOW: usize = 4;
/// Words of the table of pairs.
pub(super) const PAIRS: usize = 2048;

/// A scanner's patterns as tables for a GPU, in one buffer that is to be copied there once. They find what the scanner finds.
///
/// ```
/// use gristmill_kernels::scan::{ScanOptions, Scanner, Table};
///
/// let scanner = Scanner::new(["fox", "lazy dog"], &ScanOptions { ignore_ascii_case: true, ..ScanOptions::default() })?;
/// let table = Table::new(&scanner)?;
/// // The filter is the largest of the tables of a few patterns.
/// assert!(table.words().len() < 2000);
/// # Ok::<(), gristmill_kernels::scan::ScanError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Table {
    pub(super) words: Vec<u32>,
    pub(super) filter_bits: u32,
    pub(super) head_bits: u32,
    /// Bit w if a window has w bytes.
    pub(super) widths: u32,
    pub(super) fold: bool,
    pub(super) patterns: usize,
    /// No window begins further behind the beginning of its pattern.
    pub(super) reach: usize,
    /// Where the tables begin, in words.
    pub(super) entries: usize,
    pub(super) heads: usize,
    pub(super) bytes: usize,
    pub(super) members: Option<usize>,
}

impl Table {
    /// Makes the tables.
    ///
    /// # Errors
    /// A pattern of 2²⁴ bytes or more, or patterns of 2³² bytes or more together.
    pub fn new(scanner: &Scanner) -> Result<Self, ScanError> {
        let patterns = &scanner.patterns;
        let count = patterns.len();
        let filter_bits = filter_bits(count);
        let head_bits = count.next_power_of_two().ilog2().clamp(4, 24);
        let mut filter = vec![0_u32; 1 << filter_bits];
        let mut pairs = vec![0_u32; PAIRS];
        let (mut widths, mut reach) = (0, 0);

        // The shortest first: those have the least choice, and the others can share windows with them.
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by_key(|pattern| patterns.get(*pattern).len());
        let mut used = HashSet::new();
        let mut windows = vec![(0, 0_usize, 0_u32); count];
        for pattern in order {
            let bytes = patterns.get(pattern);
            if bytes.len() >= 1 << 24 {
                return Err(ScanError::TooLargeForTable { pattern });
            }
            let offset = match bytes.len() {
                0..=WINDOW => 0,
                length => rarest_window(bytes, 0..WINDOW_OFFSETS.min(length) - WINDOW + 1, &used),
            };
            let window = load_four(bytes, offset);
            let width = bytes.len().min(WINDOW);
            match width {
                1 => (0..256).for_each(|second| set_pair(&mut pairs, window | second << 8)),
                2 => set_pair(&mut pairs, window),
                3 => filter[filter_word(window, filter_bits)] = u32::MAX,
                _ => {
                    used.insert(window | CASE);
                    filter[filter_word(window, filter_bits)] |= filter_mask(window);
                }
            }
            widths |= 1 << width;
            reach = reach.max(offset);
            windows[pattern] = (bucket(window, width, head_bits), offset, window);
        }

        let mut heads = vec![0_u32; (1 << head_bits) + 1];
        windows.iter().for_each(|(bucket, ..)| heads[bucket + 1] += 1);
        for bucket in 0..1 << head_bits {
            heads[bucket + 1] += heads[bucket];
        }
        let mut next = heads.clone();
        let mut entries = vec![0_u32; 4 * count];
        let mut bytes = Vec::new();
        for (pattern, &(bucket, offset, window)) in windows.iter().enumerate() {
            let own = patterns.get(pattern);
            let begin = u32::try_from(bytes.len()).map_err(|_| ScanError::TooLargeForTable { pattern })?;
            let place = 4 * next[bucket] as usize;
            entries[place..place + 4].copy_from_slice(&[
                window,
                pattern as u32,
                begin,
                (own.len() << 8 | offset) as u32,
            ]);
            next[bucket] += 1;
            bytes.extend_from_slice(own);
        }

        let mut words = filter;
        if widths & 0b110 != 0 {
            words.extend(pairs);
        }
        let entries_at = words.len();
        words.extend(entries);
        let heads_at = words.len();
        words.extend(heads);
        let bytes_at = words.len();
        words.extend((0..bytes.len()).step_by(4).map(|at| load_four(&bytes, at)));
        let members_at = scanner.options.isolated_from.as_ref().map(|class| {
            let begin = words.len();
            words.extend(class.words());
            begin
        });
        Ok(Self {
            words,
            filter_bits,
            head_bits,
            widths,
            fold: scanner.options.ignore_ascii_case,
            patterns: count,
            reach,
            entries: entries_at,
            heads: heads_at,
            bytes: bytes_at,
            members: members_at,
        })
    }

    /// The tables, to be copied to the machine that runs the launches.
    #[must_use]
    pub fn words(&self) -> &[u32] {
        &self.words
    }
}

fn set_pair(pairs: &mut [u32], pair: u32) {
    let pair = pair | CASE;
    pairs[(pair >> 5 & 2047) as usize] |= 1 << (pair & 31);
}

fn filter_word(window: u32, filter_bits: u32) -> usize {
    ((window | CASE).wrapping_mul(HASH << 8) >> (32 - filter_bits)) as usize
}

fn filter_mask(window: u32) -> u32 {
    let bits = (window | CASE).wrapping_mul(BITS);
    1 << (bits >> 27) | 1 << (bits >> 22 & 31)
}

fn bucket(window: u32, width: usize, head_bits: u32) -> usize {
    let mask = u32::MAX >> (32 - 8 * width);
    (((window | CASE) & mask).wrapping_mul(HASH) >> (32 - head_bits)) as usize
}

/// Logarithm of the size of the filter, such that a word belongs to less than one window, up to 64 KiB: with that, a multiprocessor of
/// 164 KiB still holds two blocks.
const fn filter_bits(patterns: usize) -> u32 {
    match patterns {
        0..=768 => 10,
        769..=1536 => 11,
        1537..=3072 => 12,
        3073..=6144 => 13,
        _ => 14,
    }
}

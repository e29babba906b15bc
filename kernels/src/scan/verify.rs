//! The second stage: which patterns stand at a candidate position.
//!
//! For each width of window there is a hash table in compressed form: `heads[h]..heads[h + 1]` are the entries whose window
//! has the hash `h`. An entry holds the first eight bytes of its pattern, so that one comparison settles nearly every case;
//! what lies behind them is compared with the pattern's own bytes.

use super::filter::CASE;

/// Patterns by the hash of their window.
#[derive(Clone, Debug)]
pub(super) struct Buckets {
    heads: Vec<u32>,
    entries: Vec<Entry>,
    /// 32 − log₂ of the number of buckets.
    shift: u32,
    /// The bytes of a loaded window that belong to it.
    mask: u32,
    width: usize,
}

/// A pattern with the window that it is looked up by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// The first eight bytes of the pattern, little end first, zeros behind a shorter one.
    head: u64,
    pattern: u32,
    length: u32,
    /// Where in the pattern the window begins.
    offset: u16,
    /// Bits of `head` that are beyond the pattern.
    beyond: u8,
}

/// The bytes of all patterns.
#[derive(Clone, Debug, Default)]
pub(super) struct Patterns {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Patterns {
    pub(super) fn push(&mut self, pattern: impl Iterator<Item = u8>) {
        self.bytes.extend(pattern);
        self.ends.push(self.bytes.len());
    }

    pub(super) fn get(&self, pattern: usize) -> &[u8] {
        let start = pattern.checked_sub(1).map_or(0, |previous| self.ends[previous]);
        &self.bytes[start..self.ends[pattern]]
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn memory(&self) -> usize {
        self.bytes.len() + size_of::<usize>() * self.ends.len()
    }
}

impl Entry {
    pub(super) fn new(pattern: u32, bytes: &[u8], offset: u16) -> Self {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        Self { head: load_eight(bytes, 0), pattern, length, offset, beyond: 64 - 8 * bytes.len().min(8) as u8 }
    }
}

impl Buckets {
    /// Sorts entries for windows of `width` bytes into buckets. `None` where there are none.
    pub(super) fn new(width: usize, entries: &[Entry], patterns: &Patterns) -> Option<Self> {
        if entries.is_empty() {
            return None;
        }
        // Two buckets an entry keep the chains of unrelated windows short; the heads stay smaller than the entries.
        let bits = (2 * entries.len()).next_power_of_two().ilog2().clamp(4, 24);
        let mask = u32::MAX >> (32 - 8 * width);
        let mut buckets = Self { heads: vec![0; (1 << bits) + 1], entries: Vec::new(), shift: 32 - bits, mask, width };
        let bucket_of = |buckets: &Self, entry: &Entry| {
            let bytes = patterns.get(entry.pattern as usize);
            buckets.bucket(load_four(bytes, usize::from(entry.offset)))
        };
        let mut order: Vec<(usize, Entry)> = entries.iter().map(|entry| (bucket_of(&buckets, entry), *entry)).collect();
        order.sort_by_key(|(bucket, entry)| (*bucket, entry.pattern));
        for (bucket, _) in &order {
            buckets.heads[bucket + 1] += 1;
        }
        for bucket in 1..buckets.heads.len() {
            buckets.heads[bucket] += buckets.heads[bucket - 1];
        }
        buckets.entries = order.into_iter().map(|(_, entry)| entry).collect();
        Some(buckets)
    }

    pub(super) fn memory(&self) -> usize {
        size_of_val(self.heads.as_slice()) + size_of_val(self.entries.as_slice())
    }

    /// Calls `found(pattern, start, end)` for each pattern whose window is at `position`. `FOLD` compares ASCII letters of the
    /// text in lower case.
    #[inline]
    pub(super) fn at<const FOLD: bool>(
        &self,
        patterns: &Patterns,
        text: &[u8],
        position: usize,
        mut found: impl FnMut(u32, usize, usize),
    ) {
        if position + self.width > text.len() {
            return;
        }
        let bucket = self.bucket(load_four(text, position));
        for entry in &self.entries[self.heads[bucket] as usize..self.heads[bucket + 1] as usize] {
            let Some(start) = position.checked_sub(usize::from(entry.offset)) else { continue };
            let head = load_eight(text, start);
            // Lower-casing the text exactly costs more than this comparison, which mistakes no equal bytes for different ones.
            if ((head ^ entry.head) & !CASE_EIGHT) << entry.beyond != 0 {
                continue;
            }
            let head = if FOLD { lower_eight(head) } else { head };
            let end = start + entry.length as usize;
            if (head ^ entry.head) << entry.beyond == 0
                && end <= text.len()
                && (entry.length <= 8
                    || same::<FOLD>(&text[start + 8..end], &patterns.get(entry.pattern as usize)[8..]))
            {
                found(entry.pattern, start, end);
            }
        }
    }

    fn bucket(&self, window: u32) -> usize {
        (((window | CASE) & self.mask).wrapping_mul(0x9e37_79b1) >> self.shift) as usize
    }
}

const CASE_EIGHT: u64 = (CASE as u64) << 32 | CASE as u64;

/// Four bytes at `position`, little end first, zeros behind the end.
pub(super) fn load_four(bytes: &[u8], position: usize) -> u32 {
    if let Some(four) = bytes.get(position..).and_then(<[u8]>::first_chunk::<4>) {
        return u32::from_le_bytes(*four);
    }
    let mut four = [0; 4];
    let rest = bytes.get(position..).unwrap_or_default();
    four[..rest.len()].copy_from_slice(rest);
    u32::from_le_bytes(four)
}

/// Eight bytes at `position`, little end first, zeros behind the end.
fn load_eight(bytes: &[u8], position: usize) -> u64 {
    if let Some(eight) = bytes.get(position..).and_then(<[u8]>::first_chunk::<8>) {
        return u64::from_le_bytes(*eight);
    }
    let mut eight = [0; 8];
    let rest = bytes.get(position..).unwrap_or_default();
    eight[..rest.len()].copy_from_slice(rest);
    u64::from_le_bytes(eight)
}

/// Eight bytes with the ASCII letters among them in lower case.
fn lower_eight(bytes: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // Adding to the low seven bits of each byte carries into its own high bit only.
    let low = bytes & (0x7f * ONES);
    let at_least_a = low + (0x80 - b'A' as u64) * ONES;
    let beyond_z = low + (0x7f - b'Z' as u64) * ONES;
    let upper = !bytes & (at_least_a ^ beyond_z) & (0x80 * ONES);
    bytes | upper >> 2
}

fn same<const FOLD: bool>(text: &[u8], pattern: &[u8]) -> bool {
    if FOLD {
        text.iter().zip(pattern).all(|(text, pattern)| text.to_ascii_lowercase() == *pattern)
    } else {
        text == pattern
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_bytes_are_lowered_like_each_of_them() {
        for byte in 0..=255u8 {
            for position in 0..8 {
                let mut bytes = *b"aZ@[\x80\xffz`";
                bytes[position] = byte;
                let expected = bytes.map(|byte| byte.to_ascii_lowercase());
                assert_eq!(lower_eight(u64::from_le_bytes(bytes)).to_le_bytes(), expected);
            }
        }
    }
}

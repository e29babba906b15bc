//! The second stage: which patterns stand at a candidate position.
//!
//! For each width of window there is a hash table in compressed form: the entries whose window has the hash `h` lie between where
//! the heads `h` and `h + 1` say. A head also says which bytes its patterns have around the window, two on either side, in
//! four sets of sixteen bits: most candidates are dismissed by it, without a branch and without a look at an entry. An entry holds
//! the first eight bytes of its pattern, so that one comparison settles nearly every case that is left; what lies behind
//! them is compared with the pattern's own bytes.
//!
//! Tables of many patterns are larger than the caches. So candidates are taken many at a time and in three rounds, each of
//! which asks for the memory that the next one reads: buckets, heads, entries.

use super::filter::CASE;
use super::prefetch::prefetch;

/// Patterns by the hash of their window. Their entries are kept together with those of other tables.
#[derive(Clone, Debug)]
pub(super) struct Buckets {
    heads: Vec<Head>,
    /// 64 − log₂ of the number of buckets.
    shift: u32,
    /// The bytes of a context behind the first two that belong to the window.
    mask: u64,
    width: usize,
}

/// The beginning of a bucket.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    /// Its first entry.
    begin: u32,
    /// The lower halves of the bytes that stand two and one before and one and two behind the window in any of the patterns, as
    /// sets; everything where a pattern has no byte there.
    around: [u16; 4],
}

/// Eight bytes of text around a window: two before it, the window, what is behind it; zeros outside of the text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context(u64);

/// Entries to look at because of a window.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sighting {
    position: u32,
    begin: u32,
    end: u32,
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

    /// Bytes of all patterns together.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
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

impl Context {
    #[inline(always)]
    pub(super) fn of(text: &[u8], position: usize) -> Self {
        Self(match position.checked_sub(2) {
            Some(before) => load_eight(text, before),
            None => load_eight(text, 0) << (8 * (2 - position)),
        })
    }
}

impl Buckets {
    /// Sorts entries for windows of `width` bytes, at most six, into buckets and appends them to those of all tables. `None`
    /// where there are none.
    pub(super) fn new(width: usize, entries: &[Entry], patterns: &Patterns, all: &mut Vec<Entry>) -> Option<Self> {
        if entries.is_empty() {
            return None;
        }
        let bits = entries.len().next_power_of_two().ilog2().clamp(4, 24);
        let mask = u64::MAX >> (64 - 8 * width);
        let mut buckets = Self { heads: vec![Head::default(); (1 << bits) + 1], shift: 64 - bits, mask, width };
        let mut order: Vec<(u32, Entry)> = Vec::with_capacity(entries.len());
        for entry in entries {
            let bytes = patterns.get(entry.pattern as usize);
            let offset = usize::from(entry.offset);
            let bucket = buckets.find(Context::of(bytes, offset));
            order.push((bucket as u32, *entry));
            let head = &mut buckets.heads[bucket];
            // What is behind six bytes is not in the context.
            let behind = (width < 6).then_some(offset + width);
            let places = [offset.checked_sub(2), offset.checked_sub(1), behind, behind.map(|behind| behind + 1)];
            for (around, place) in head.around.iter_mut().zip(places) {
                *around |= place.and_then(|place| bytes.get(place)).map_or(u16::MAX, |byte| 1 << (byte & 15));
            }
            buckets.heads[bucket + 1].begin += 1;
        }
        order.sort_unstable_by_key(|(bucket, entry)| (*bucket, entry.pattern, entry.offset));
        let mut begin = all.len() as u32;
        for head in &mut buckets.heads {
            begin += head.begin;
            head.begin = begin;
        }
        all.extend(order.into_iter().map(|(_, entry)| entry));
        Some(buckets)
    }

    pub(super) fn memory(&self) -> usize {
        size_of_val(self.heads.as_slice())
    }

    /// The bucket of the window.
    #[inline(always)]
    pub(super) fn find(&self, Context(context): Context) -> usize {
        (((context >> 16 | CASE_EIGHT) & self.mask).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }

    /// Asks for the head of a bucket.
    #[inline(always)]
    pub(super) fn prefetch(&self, bucket: usize) {
        prefetch(&self.heads, bucket);
    }

    /// Writes a sighting into `sighted[count]` and returns the number there are then: one more if some pattern of the bucket has
    /// such bytes around its window.
    #[inline(always)]
    pub(super) fn sight(
        &self,
        bucket: usize,
        Context(context): Context,
        position: usize,
        sighted: &mut [Sighting],
        count: usize,
    ) -> usize {
        let head = &self.heads[bucket];
        let behind = context >> 16 >> (8 * self.width);
        let [far_before, before, after, far_after] = head.around;
        let fits = far_before >> (context & 15)
            & before >> (context >> 8 & 15)
            & after >> (behind & 15)
            & far_after >> (behind >> 8 & 15)
            & 1;
        sighted[count] = Sighting { position: position as u32, begin: head.begin, end: self.heads[bucket + 1].begin };
        count + usize::from(fits)
    }
}

impl Sighting {
    /// Asks for the first of the entries.
    #[inline(always)]
    pub(super) fn prefetch(&self, entries: &[Entry]) {
        prefetch(entries, self.begin as usize);
    }

    /// Calls `found(pattern, start, end)` for each pattern that occurs here. Positions count from `from`. `FOLD` compares ASCII
    /// letters of the text in lower case.
    #[inline]
    pub(super) fn verify<const FOLD: bool>(
        &self,
        entries: &[Entry],
        patterns: &Patterns,
        text: &[u8],
        from: usize,
        mut found: impl FnMut(u32, usize, usize),
    ) {
        let position = from + self.position as usize;
        for entry in &entries[self.begin as usize..self.end as usize] {
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

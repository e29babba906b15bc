//! The first stage: which positions of a text can hold a window of some pattern at all.
//!
//! The table holds 2ᵏ words of 32 bits. Three bytes select a word by a multiplicative hash, the low five bits of the fourth
//! byte select a bit in it. A window of four bytes sets one bit; one whose last byte is unknown sets a whole word; one whose
//! first byte is unknown sets a bit for each value of that byte. So all three kinds cost one lookup. All bytes are taken with bit 5
//! set, which makes the upper and lower case of an ASCII letter equal without looking at what it is; other bytes that
//! fall together are told apart when candidates are verified.
//!
//! Only even positions are looked up, which halves the work: the scanner puts in windows such that every occurrence has
//! one at an even position, wherever it begins.
//!
//! Patterns of one or two bytes would fill the table, so they have a second, direct table of 2¹⁶ bits over two bytes that is
//! consulted for all positions, and only where such patterns exist.
//!
//! The vector versions need no shuffles: a load at `p` read as 32-bit lanes holds the windows at `p`, `p+4`, `p+8`, …, and
//! another at `p+2` those between. Multiplying by an even multiple of 256 drops the fourth byte from the hash, and a
//! rotation or shift brings the wanted bit to a fixed place. The words are fetched by ordinary loads: many processors run
//! the gather instruction slowly, since a flaw in it was mended in microcode.

#![allow(unsafe_code, reason = "vector intrinsics and unaligned loads at the heart of the scan")]

/// Bit 5 of each byte: what tells upper from lower case.
pub(super) const CASE: u32 = 0x2020_2020;

/// Positions that one mask covers.
pub(super) const BLOCK: usize = 64;

/// Bytes behind the last position that a window of it reaches.
pub(super) const OVERHANG: usize = 3;

/// Odd multiplier (2³² divided by the golden ratio), shifted so that the fourth byte of a window does not count.
const HASH: u32 = 0x9e37_79b1 << 8;

/// The prefilter tables.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    windows: Vec<u32>,
    /// 32 − k.
    shift: u32,
    pairs: Option<Vec<u32>>,
    backend: Backend,
}

/// Which implementation of the filter runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backend {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Backend {
    /// All that this CPU can run, the fastest last.
    pub(super) fn available() -> Vec<Self> {
        #[allow(unused_mut, reason = "other architectures have the portable one only")]
        let mut backends = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") {
                backends.push(Self::Avx2);
                if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("bmi2") {
                    backends.push(Self::Avx512);
                }
            }
        }
        backends
    }
}

impl Filter {
    /// An empty filter of 2^`bits` words.
    pub(super) fn new(bits: u32, backend: Backend) -> Self {
        Self { windows: vec![0; 1 << bits], shift: 32 - bits, pairs: None, backend }
    }

    /// Lets windows of four bytes through.
    pub(super) fn add_four(&mut self, window: u32) {
        let word = self.word(window | CASE);
        self.windows[word] |= 1 << ((window >> 24) & 31);
    }

    /// Lets windows through that begin with the lower three bytes of `window`.
    pub(super) fn add_beginning(&mut self, window: u32) {
        let word = self.word(window | CASE);
        self.windows[word] = u32::MAX;
    }

    /// Lets windows through that end with the lower three bytes of `window`.
    pub(super) fn add_end(&mut self, window: u32) {
        for first in 0..=255 {
            self.add_four(first | window << 8);
        }
    }

    /// Lets pairs of bytes through.
    pub(super) fn add_two(&mut self, pair: u32) {
        let pair = (pair | CASE) & 0xffff;
        self.pairs.get_or_insert_with(|| vec![0; 1 << 11])[(pair >> 5) as usize] |= 1 << (pair & 31);
    }

    /// Lets single bytes through.
    pub(super) fn add_one(&mut self, byte: u8) {
        for second in 0..=255 {
            self.add_two(u32::from(byte) | second << 8);
        }
    }

    /// Bytes of memory held.
    pub(super) fn memory(&self) -> usize {
        4 * (self.windows.len() + self.pairs.as_ref().map_or(0, Vec::len))
    }

    /// Marks candidates: bit `i` of `long[b]` says that the even position `64·b + i` may begin a window, bit `i` of `short[b]`
    /// that a pattern of one or two bytes may be at the position `64·b + i`. `text` must reach [`OVERHANG`] bytes beyond the last position.
    pub(super) fn run(&self, text: &[u8], long: &mut [u64], short: &mut [u64]) {
        assert!(text.len() >= long.len() * BLOCK + OVERHANG, "text shorter than the positions asked for");
        assert_eq!(long.len(), short.len());
        match (self.backend, &self.pairs) {
            (Backend::Portable, None) => self.portable(text, long),
            (Backend::Portable, Some(pairs)) => {
                self.portable(text, long);
                portable_pairs(pairs, text, short);
            }
            #[cfg(target_arch = "x86_64")]
            (Backend::Avx2, pairs) => {
                // SAFETY: `Backend::available` offers this variant only where the CPU has AVX2; the assertion above covers
                // the loads, which reach at most 64 + 3 bytes from the start of each block.
                unsafe { self.avx2(text, long) };
                if let Some(pairs) = pairs {
                    // SAFETY: as above.
                    unsafe { avx2_pairs(pairs, text, short) };
                }
            }
            #[cfg(target_arch = "x86_64")]
            (Backend::Avx512, pairs) => {
                // SAFETY: `Backend::available` offers this variant only where the CPU has AVX-512F and BMI2; the assertion
                // above covers the loads, which reach at most 64 + 3 bytes from the start of each block.
                unsafe { self.avx512(text, long) };
                if let Some(pairs) = pairs {
                    // SAFETY: as above.
                    unsafe { avx512_pairs(pairs, text, short) };
                }
            }
        }
    }

    fn word(&self, window: u32) -> usize {
        (window.wrapping_mul(HASH) >> self.shift) as usize
    }

    fn portable(&self, text: &[u8], masks: &mut [u64]) {
        for (mask, block) in masks.iter_mut().zip(text.windows(BLOCK + OVERHANG).step_by(BLOCK)) {
            *mask = 0;
            for (position, window) in block.array_windows::<4>().enumerate().step_by(2) {
                let window = u32::from_le_bytes(*window) | CASE;
                let word = self.windows[self.word(window)];
                *mask |= u64::from(word >> ((window >> 24) & 31) & 1) << position;
            }
        }
    }

    /// # Safety
    ///
    /// The CPU has AVX-512F and BMI2, and `text` is at least `64 · masks.len() + 3` bytes long.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,bmi2")]
    unsafe fn avx512(&self, text: &[u8], masks: &mut [u64]) {
        use std::arch::x86_64::*;

        let case = _mm512_set1_epi32(CASE as i32);
        let hash = _mm512_set1_epi32(HASH as i32);
        let one = _mm512_set1_epi32(1);
        let shift = _mm_cvtsi32_si128(self.shift as i32);
        for (block, mask) in masks.iter_mut().enumerate() {
            let lanes = |start: usize| {
                // SAFETY: 64 bytes from `64·block + start`, with `start` at most 2, lie inside of `text`.
                let load = unsafe { _mm512_loadu_si512(text.as_ptr().add(block * BLOCK + start).cast()) };
                let window = _mm512_or_si512(load, case);
                let word = _mm512_srl_epi32(_mm512_mullo_epi32(window, hash), shift);
                // SAFETY: the hash has k bits and the table 2ᵏ words.
                let word = unsafe { fetch_sixteen(&self.windows, word) };
                u64::from(_mm512_test_epi32_mask(_mm512_rorv_epi32(word, _mm512_srli_epi32::<24>(window)), one))
            };
            *mask = _pdep_u64(lanes(0), EVERY_FOURTH) | _pdep_u64(lanes(2), EVERY_FOURTH << 2);
        }
    }

    /// # Safety
    ///
    /// The CPU has AVX2, and `text` is at least `64 · masks.len() + 3` bytes long.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    unsafe fn avx2(&self, text: &[u8], masks: &mut [u64]) {
        use std::arch::x86_64::*;

        let case = _mm256_set1_epi32(CASE as i32);
        let hash = _mm256_set1_epi32(HASH as i32);
        let low = _mm256_set1_epi32(31);
        let shift = _mm_cvtsi32_si128(self.shift as i32);
        for (block, mask) in masks.iter_mut().enumerate() {
            let lanes = |start: usize| {
                // SAFETY: 32 bytes from `64·block + start`, with `start` at most 34, lie inside of `text`.
                let load = unsafe { _mm256_loadu_si256(text.as_ptr().add(block * BLOCK + start).cast()) };
                let window = _mm256_or_si256(load, case);
                let word = _mm256_srl_epi32(_mm256_mullo_epi32(window, hash), shift);
                // SAFETY: the hash has k bits and the table 2ᵏ words.
                let word = unsafe { fetch_eight(&self.windows, word) };
                // The wanted bit goes to the sign, which `movemask` collects.
                let left = _mm256_andnot_si256(_mm256_srli_epi32::<24>(window), low);
                spread(_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_sllv_epi32(word, left))))
            };
            *mask = (lanes(0) | lanes(32) << 32) | (lanes(2) | lanes(34) << 32) << 2;
        }
    }
}

fn portable_pairs(pairs: &[u32], text: &[u8], masks: &mut [u64]) {
    for (mask, block) in masks.iter_mut().zip(text.windows(BLOCK + 1).step_by(BLOCK)) {
        *mask = 0;
        for (position, pair) in block.array_windows::<2>().enumerate() {
            let pair = (u32::from(u16::from_le_bytes(*pair)) | CASE) & 0xffff;
            *mask |= u64::from(pairs[(pair >> 5) as usize] >> (pair & 31) & 1) << position;
        }
    }
}

/// # Safety
///
/// The CPU has AVX-512F and BMI2, `text` is at least `64 · masks.len() + 3` bytes long and `pairs` has 2¹¹ words.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,bmi2")]
unsafe fn avx512_pairs(pairs: &[u32], text: &[u8], masks: &mut [u64]) {
    use std::arch::x86_64::*;

    let case = _mm512_set1_epi32(CASE as i32);
    let low = _mm512_set1_epi32(0xffff);
    let one = _mm512_set1_epi32(1);
    for (block, mask) in masks.iter_mut().enumerate() {
        let lanes = |start: usize| {
            // SAFETY: 64 bytes from `64·block + start`, with `start` at most 3, lie inside of `text`.
            let load = unsafe { _mm512_loadu_si512(text.as_ptr().add(block * BLOCK + start).cast()) };
            let pair = _mm512_and_si512(_mm512_or_si512(load, case), low);
            // SAFETY: the upper 11 of 16 bits index 2¹¹ words.
            let word = unsafe { fetch_sixteen(pairs, _mm512_srli_epi32::<5>(pair)) };
            u64::from(_mm512_test_epi32_mask(_mm512_rorv_epi32(word, pair), one))
        };
        *mask = 0;
        for start in 0..4 {
            *mask |= _pdep_u64(lanes(start), EVERY_FOURTH << start);
        }
    }
}

/// # Safety
///
/// The CPU has AVX2, `text` is at least `64 · masks.len() + 3` bytes long and `pairs` has 2¹¹ words.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2_pairs(pairs: &[u32], text: &[u8], masks: &mut [u64]) {
    use std::arch::x86_64::*;

    let case = _mm256_set1_epi32(CASE as i32);
    let low = _mm256_set1_epi32(0xffff);
    let bits = _mm256_set1_epi32(31);
    for (block, mask) in masks.iter_mut().enumerate() {
        let lanes = |start: usize| {
            // SAFETY: 32 bytes from `64·block + start`, with `start` at most 35, lie inside of `text`.
            let load = unsafe { _mm256_loadu_si256(text.as_ptr().add(block * BLOCK + start).cast()) };
            let pair = _mm256_and_si256(_mm256_or_si256(load, case), low);
            // SAFETY: the upper 11 of 16 bits index 2¹¹ words.
            let word = unsafe { fetch_eight(pairs, _mm256_srli_epi32::<5>(pair)) };
            let left = _mm256_andnot_si256(pair, bits);
            spread(_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_sllv_epi32(word, left))))
        };
        *mask = 0;
        for start in 0..4 {
            *mask |= (lanes(start) | lanes(start + 32) << 32) << start;
        }
    }
}

/// The words of `table` at sixteen indices.
///
/// # Safety
///
/// The CPU has AVX-512F, and each index is less than the length of `table`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn fetch_sixteen(table: &[u32], indices: std::arch::x86_64::__m512i) -> std::arch::x86_64::__m512i {
    use std::arch::x86_64::*;

    let mut lanes = [0u32; 16];
    // SAFETY: both arrays hold 64 bytes.
    unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), indices) };
    // A plain loop: a closure given to another function is not compiled for these instructions unless both are inlined.
    for lane in &mut lanes {
        // SAFETY: the caller promises that the indices are inside.
        *lane = unsafe { *table.get_unchecked(*lane as usize) };
    }
    // SAFETY: as for the store.
    unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
}

/// The words of `table` at eight indices.
///
/// # Safety
///
/// The CPU has AVX2, and each index is less than the length of `table`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn fetch_eight(table: &[u32], indices: std::arch::x86_64::__m256i) -> std::arch::x86_64::__m256i {
    use std::arch::x86_64::*;

    let mut lanes = [0u32; 8];
    // SAFETY: both arrays hold 32 bytes.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), indices) };
    // A plain loop: a closure given to another function is not compiled for these instructions unless both are inlined.
    for lane in &mut lanes {
        // SAFETY: the caller promises that the indices are inside.
        *lane = unsafe { *table.get_unchecked(*lane as usize) };
    }
    // SAFETY: as for the store.
    unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) }
}

/// Every fourth bit, from the lowest.
#[cfg(target_arch = "x86_64")]
const EVERY_FOURTH: u64 = 0x1111_1111_1111_1111;

/// Eight bits, four places apart.
#[cfg(target_arch = "x86_64")]
fn spread(bits: i32) -> u64 {
    u64::from(SPREAD[(bits & 0xff) as usize])
}

/// The eight bits of the index, four places apart.
#[cfg(target_arch = "x86_64")]
static SPREAD: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut bit = 0;
        while bit < 8 {
            table[index] |= ((index as u32 >> bit) & 1) << (4 * bit);
            bit += 1;
        }
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    /// A text with every byte value, in a fixed disorder.
    fn noise(length: usize) -> Vec<u8> {
        let mut state = 0x2545_f491_4f6c_dd1du64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        (0..length).map(|_| (next() >> 32) as u8).collect()
    }

    #[test]
    fn every_backend_marks_the_same_positions() {
        let text = noise(64 * 40 + OVERHANG);
        for (bits, pairs) in [(8, false), (13, false), (13, true), (16, true)] {
            let mut masks = Vec::new();
            for backend in Backend::available() {
                let mut filter = Filter::new(bits, backend);
                for at in (0..text.len() - 4).step_by(74) {
                    let window = u32::from_le_bytes([text[at], text[at + 1], text[at + 2], text[at + 3]]);
                    match at % 3 {
                        0 => filter.add_beginning(window),
                        1 if at % 5 == 0 => filter.add_end(window >> 8),
                        _ => filter.add_four(window),
                    }
                    if pairs && at % 5 == 0 {
                        filter.add_two(window);
                    }
                }
                if pairs {
                    filter.add_one(b'q');
                }
                let (mut long, mut short) = (vec![0; 40], vec![0; 40]);
                filter.run(&text, &mut long, &mut short);
                assert!((0..text.len() - 4).step_by(74).all(|at| long[at / 64] >> (at % 64) & 1 == 1), "{backend:?}");
                let marked: u32 = long.iter().map(|mask| mask.count_ones()).sum();
                assert!(marked < 32 * 40, "{backend:?} lets everything through");
                masks.push((long, short));
            }
            assert!(masks.windows(2).all(|pair| pair[0] == pair[1]), "{bits} {pairs}");
        }
    }
}

//! Many byte patterns in many documents.
//!
//! A [`Scanner`] is compiled once from up to hundreds of thousands of patterns and finds every occurrence of every one of
//! them, overlapping ones included.
//!
//! # How it works
//!
//! An automaton (Aho-Corasick) makes one dependent table access for each byte of the text. Its speed is the latency of that
//! access: a few cycles while the hot states fit the first cache, ten times that for 100,000 patterns, and the same whether the text
//! matches or not. This scanner instead asks a question of every position that depends on no other position, so that the
//! processor can work on many positions at once, and does real work only where the answer is "perhaps".
//!
//! 1. *Windows.* Each pattern is represented by four-byte windows of its own, anywhere in it: those that are rarest in
//!    ordinary text, with a preference for windows that another pattern uses already (`rarity`). Text contains `tion` everywhere and
//!    `xylo` hardly ever; choosing freely instead of taking the prefix is what keeps the number of candidates low when
//!    there are thousands of patterns. Each pattern has one window at an even and one at an odd offset, so that wherever it
//!    occurs, one of the two is at an even position, and odd positions need no look. Shorter patterns have windows with an
//!    unknown byte.
//! 2. *Filter.* A table of bits, 32 KiB to 512 KiB, says for each hash of a window whether it is used. The even ones of
//!    sixty-four positions at a time are looked up (AVX-512, AVX2, or portable code; chosen when the scanner is built) and
//!    give a mask of candidates. Patterns of one and two bytes have a table of their own, consulted only if there are any.
//! 3. *Verification.* A hash table leads from the window to the patterns that it represents, of patterns of seven bytes and more
//!    from the window and two bytes behind it; eight bytes of each are compared at once, the rest only if they agree.
//!
//! Case is folded inside: the filter sets bit 5 of every byte, which cannot miss anything, and verification lowers the bytes
//! that it compares. The text is never copied, except for its last few bytes, which are padded so that vector loads stay
//! inside of memory that belongs to us.
//!
//! # Trade-offs
//!
//! Time is proportional to positions plus candidates plus occurrences. Where candidates are dense (patterns of one or two
//! bytes, `the` and `in` in English), an automaton is faster: each costs a hash lookup here and none there. So there is one for
//! such text as well (`dense`). It is built when the candidates in some text first exceed a limit found by measurement
//! (`pace`), unless it would take more than 64 MiB or a pattern is longer than 1 KiB; it then reads 64 KiB, after which the
//! windows are asked again. The engines share a text by where occurrences begin, so that results do not depend on where they
//! take turns. Without the automaton, dense text is scanned more slowly.
//!
//! A text built so that every position is a candidate of one long chain (thousands of patterns that agree in their window and
//! in their first eight bytes) makes the scan slow, which an automaton would not be; lists of terms that people write do not
//! look like that. Memory is about 90 bytes for each pattern besides the filter and the automaton.
//!
//! Because positions are independent, there is nothing to win by walking several documents in turns; [`Scanner::scan`] takes
//! many documents in order to reuse its buffers and give all results at once.

mod boundary;
mod cases;
mod cpu;
mod dense;
mod filter;
mod launch;
mod pace;
pub(crate) mod prefetch;
mod rarity;
mod table;
mod texts;
mod verify;
mod windows;

#[cfg(test)]
mod tests;

use std::collections::BinaryHeap;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::OnceLock;

pub use boundary::CharClass;
pub(crate) use cases::FAMILY;
pub use table::Table;
pub use texts::{Occurrences, Offset, Texts};

use dense::{Dense, Notes};
use filter::{BLOCK, Backend, Filter, OVERHANG};
use pace::{Pace, Plan};
use verify::{Buckets, Context, Patterns, Sighting};
use windows::{Windows, filter_bits};

/// Masks computed ahead of verification: 1 KiB of text, so that it is still in the first cache when it is verified.
const MASKS: usize = 16;

/// The same where the scan may end early.
const MASKS_LIMITED: usize = 4;

/// How patterns are compared and which occurrences count.
#[derive(Clone, Debug, Default)]
pub struct ScanOptions {
    /// Compare ASCII letters without regard to case; all other bytes as they are.
    pub ignore_ascii_case: bool,
    /// Count an occurrence only if no character of this class stands right before or right behind it.
    pub isolated_from: Option<CharClass>,
}

/// Why a scanner cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// A pattern has no bytes: it would occur everywhere.
    #[error("pattern {pattern} is empty")]
    EmptyPattern {
        /// Its number, from 0.
        pattern: usize,
    },
    /// A pattern is longer than 2³¹ bytes, or there are more than 2³¹ of them.
    #[error("pattern {pattern}: at most 2^31 patterns of at most 2^31 bytes are supported")]
    TooLarge {
        /// Its number, from 0.
        pattern: usize,
    },
    /// A pattern is too long for the tables of a GPU, or it and those before it are.
    #[error("pattern {pattern}: the tables of a GPU hold patterns of less than 2^24 bytes, 2^32 together")]
    TooLargeForTable {
        /// Its number, from 0.
        pattern: usize,
    },
}

/// What a scan should report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanRequest {
    /// Report only this many distinct patterns of a document: those whose first occurrence ends earliest, of several that
    /// end together those with lower numbers. The scan of a document stops as soon as they are known.
    pub first: Option<NonZeroUsize>,
    /// Report where each occurrence is. Of no effect together with `first`.
    pub spans: bool,
}

/// A pattern that occurs in a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hit {
    /// Number of the pattern, from 0.
    pub pattern: u32,
    /// Where its first occurrence ends: a byte offset into the document.
    pub first_end: usize,
    /// How often it occurs, overlapping occurrences included; 0 if [`ScanRequest::first`] let the scan stop early.
    pub occurrences: u64,
}

/// One occurrence of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// First byte of the occurrence in the document.
    pub start: usize,
    /// Byte behind the occurrence.
    pub end: usize,
    /// Number of the pattern, from 0.
    pub pattern: u32,
}

/// Results of [`Scanner::scan`], and buffers that the next scan reuses.
#[derive(Clone, Debug, Default)]
pub struct ScanResults {
    hits: Vec<Hit>,
    spans: Vec<Span>,
    /// For each document where its hits and spans end.
    ends: Vec<(usize, usize)>,
    /// For each pattern where its hit would be, valid if the hit there is of that pattern: never needs clearing.
    slots: Vec<u32>,
    /// The smallest `first_end`s, largest on top.
    earliest: BinaryHeap<usize>,
    notes: Notes,
    candidates: Candidates,
    /// Kept from scan to scan: small documents that come one by one are judged together.
    pace: Pace,
}

impl ScanResults {
    /// Number of documents.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are no documents.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Distinct patterns of a document, by number.
    #[must_use]
    pub fn hits(&self, document: usize) -> &[Hit] {
        let start = document.checked_sub(1).map_or(0, |previous| self.ends[previous].0);
        &self.hits[start..self.ends[document].0]
    }

    /// Occurrences in a document, by start, end and pattern. Empty unless [`ScanRequest::spans`] was set.
    #[must_use]
    pub fn spans(&self, document: usize) -> &[Span] {
        let start = document.checked_sub(1).map_or(0, |previous| self.ends[previous].1);
        &self.spans[start..self.ends[document].1]
    }
}

/// A compiled set of byte patterns.
///
/// ```
/// use gristmill_kernels::scan::{ScanOptions, ScanRequest, ScanResults, Scanner};
///
/// let options = ScanOptions { ignore_ascii_case: true, ..ScanOptions::default() };
/// let scanner = Scanner::new(["fox", "ox", "力量"], &options)?;
/// let mut results = ScanResults::default();
/// scanner.scan(&[b"Foxes and oxen", "知识就是力量".as_bytes()], ScanRequest::default(), &mut results);
/// let found: Vec<(u32, u64)> = results.hits(0).iter().map(|hit| (hit.pattern, hit.occurrences)).collect();
/// assert_eq!(found, [(0, 1), (1, 2)]);
/// assert_eq!(results.hits(1)[0].pattern, 2);
/// # Ok::<(), gristmill_kernels::scan::ScanError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Scanner {
    patterns: Patterns,
    filter: Filter,
    windows: Windows,
    /// The automaton for dense text: built when such text is met, absent if it would be too large.
    dense: OnceLock<Option<Dense>>,
    plan: Plan,
    options: ScanOptions,
}

impl Scanner {
    /// Compiles patterns. They are numbered in order from 0; equal patterns are all reported.
    pub fn new<P: AsRef<[u8]>>(
        patterns: impl IntoIterator<Item = P>,
        options: &ScanOptions,
    ) -> Result<Self, ScanError> {
        let backend = Backend::available().pop().unwrap_or(Backend::Portable);
        let mut scanner = Self::with_backend(patterns, options, backend, Plan::default())?;
        scanner.plan = Plan::for_list(&scanner.patterns);
        Ok(scanner)
    }

    fn with_backend<P: AsRef<[u8]>>(
        patterns: impl IntoIterator<Item = P>,
        options: &ScanOptions,
        backend: Backend,
        plan: Plan,
    ) -> Result<Self, ScanError> {
        let mut stored = Patterns::default();
        for (pattern, bytes) in patterns.into_iter().enumerate() {
            let bytes = bytes.as_ref();
            if bytes.is_empty() {
                return Err(ScanError::EmptyPattern { pattern });
            }
            if bytes.len() > 1 << 31 || pattern >= 1 << 31 {
                return Err(ScanError::TooLarge { pattern });
            }
            let fold = |byte: &u8| if options.ignore_ascii_case { byte.to_ascii_lowercase() } else { *byte };
            stored.push(bytes.iter().map(fold));
        }
        let mut filter = Filter::new(filter_bits(&stored), backend);
        let windows = Windows::new(&stored, &mut filter);
        Ok(Self { patterns: stored, filter, windows, dense: OnceLock::new(), plan, options: options.clone() })
    }

    /// Number of patterns.
    #[must_use]
    pub fn len(&self) -> usize {
        self.patterns.len()
    }

    /// Whether there are no patterns.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory that the compiled patterns occupy, with the automaton once a text has caused it to be built.
    #[must_use]
    pub fn memory(&self) -> usize {
        let dense = self.dense.get().and_then(Option::as_ref).map_or(0, Dense::memory);
        self.patterns.memory() + self.filter.memory() + self.windows.memory() + dense
    }

    /// Scans each document and puts what was asked for into `results`, replacing what was there.
    pub fn scan(&self, documents: &[&[u8]], request: ScanRequest, results: &mut ScanResults) {
        results.hits.clear();
        results.spans.clear();
        results.ends.clear();
        results.slots.resize(self.len(), 0);
        for document in documents {
            results.earliest.clear();
            let base = results.hits.len();
            let spans = results.spans.len();
            let begins = 0..document.len();
            let mut collector = Collector { text: document, options: &self.options, request, base, begins, results };
            if self.options.ignore_ascii_case {
                self.walk::<true>(document, &mut collector);
            } else {
                self.walk::<false>(document, &mut collector);
            }
            if let Some(first) = request.first {
                let found = &mut results.hits[base..];
                found.sort_unstable_by_key(|hit| (hit.first_end, hit.pattern));
                let kept = found.len().min(first.get());
                results.hits.truncate(base + kept);
            }
            results.hits[base..].sort_unstable_by_key(|hit| hit.pattern);
            results.spans[spans..].sort_unstable();
            results.ends.push((results.hits.len(), results.spans.len()));
        }
    }

    /// Hands all occurrences to the collector until it has enough. The engines take turns; each is given a range of the text
    /// and finds the occurrences that begin there.
    fn walk<const FOLD: bool>(&self, text: &[u8], collector: &mut Collector<'_>) {
        let mut at = 0;
        while at < text.len() && !collector.has_enough(at) {
            let pace = &mut collector.results.pace;
            if pace.is_dense()
                && let Some(dense) = self.dense.get_or_init(|| Dense::new(&self.patterns, FOLD))
            {
                let to = at + pace.take(text.len() - at, collector.request.first.is_some());
                let mut notes = std::mem::take(&mut collector.results.notes);
                collector.begins = at..to;
                dense.walk(text, at..to, &mut notes, |pattern, start, end| collector.found(pattern, start, end));
                collector.results.notes = notes;
                at = to;
            } else {
                collector.begins = at..text.len();
                let to = self.walk_windows::<FOLD>(text, at..text.len(), true, collector);
                collector.begins.end = to;
                // Occurrences that begin before the end of the range can have their windows behind it.
                self.walk_windows::<FOLD>(text, to..text.len().min(to + self.windows.reach), false, collector);
                at = to;
            }
        }
    }

    /// Hands the occurrences to the collector whose windows are in `range`, in the order of their windows, and perhaps some
    /// behind. Returns where it stopped: at the end of the range, and before that if the collector has enough or if `yielding`
    /// and the text is dense.
    fn walk_windows<const FOLD: bool>(
        &self,
        text: &[u8],
        range: Range<usize>,
        yielding: bool,
        collector: &mut Collector<'_>,
    ) -> usize {
        let mut long = [0; MASKS];
        let mut short = [0; MASKS];
        let Range { start: mut from, end: to } = range;
        let most = if collector.request.first.is_some() { MASKS_LIMITED } else { MASKS };
        let at_once = (self.plan.probe / BLOCK).clamp(1, most);
        while from < to && !collector.has_enough(from) {
            let whole = (text.len() - from).saturating_sub(OVERHANG) / BLOCK;
            let mut blocks = whole.min(at_once).min((to - from).div_ceil(BLOCK));
            if blocks > 0 {
                self.filter.run(&text[from..], &mut long[..blocks], &mut short[..blocks]);
            }
            // At most 66 bytes are left behind the whole blocks. They come with the last of these if there is room.
            let rest = &text[from + blocks * BLOCK..];
            let padded = rest.len().div_ceil(BLOCK);
            if blocks == whole && from + blocks * BLOCK < to && (blocks == 0 || blocks + padded <= at_once) {
                let mut tail = [0; 2 * BLOCK + OVERHANG];
                tail[..rest.len()].copy_from_slice(rest);
                let masks = blocks..blocks + padded;
                self.filter.run(&tail, &mut long[masks.clone()], &mut short[masks]);
                blocks += padded;
            }
            let candidates = self.verify::<FOLD>(text, from, &long[..blocks], &short[..blocks], collector);
            let read = (blocks * BLOCK).min(text.len() - from);
            from += read;
            if yielding {
                collector.results.pace.add(read, candidates, &self.plan);
                if collector.results.pace.is_dense() && self.has_dense() {
                    return from;
                }
            }
        }
        to
    }

    /// Whether there is an automaton or may be.
    fn has_dense(&self) -> bool {
        self.dense.get().is_none_or(Option::is_some)
    }

    /// Looks at the candidates of blocks that begin at `from` and returns how many there were.
    fn verify<const FOLD: bool>(
        &self,
        text: &[u8],
        from: usize,
        long: &[u64],
        short: &[u64],
        collector: &mut Collector<'_>,
    ) -> u32 {
        let Windows { one, two, three, inner, four, six, entries, .. } = &self.windows;
        let mut buffers = std::mem::take(&mut collector.results.candidates);
        buffers.positions.resize(MASKS * BLOCK / 2, (0, 0, 0));
        // Five tables for each even position, or two for each position.
        buffers.sightings.resize(5 * MASKS * BLOCK / 2, Sighting::default());
        let Candidates { positions, sightings } = &mut buffers;
        let mut count = 0;
        let mut look = |sightings: &[Sighting]| {
            sightings.iter().for_each(|sighting| sighting.prefetch(entries));
            for sighting in sightings {
                sighting.verify::<FOLD>(entries, &self.patterns, text, from, |pattern, start, end| {
                    collector.found(pattern, start, end);
                });
            }
        };

        let mut candidates = 0;
        for (block, mut mask) in long.iter().copied().enumerate() {
            while mask != 0 {
                let position = block * BLOCK + mask.trailing_zeros() as usize;
                mask &= mask - 1;
                let context = Context::of(text, from + position);
                let find = |buckets: &Option<Buckets>| {
                    buckets.as_ref().map_or(0, |buckets| {
                        let bucket = buckets.find(context);
                        buckets.prefetch(bucket);
                        bucket as u32
                    })
                };
                positions[candidates] = (position as u32, find(four), find(six));
                candidates += 1;
            }
        }
        for (position, in_four, in_six) in &positions[..candidates] {
            let position = *position as usize;
            let context = Context::of(text, from + position);
            for (buckets, bucket) in [(four, in_four), (six, in_six)] {
                if let Some(buckets) = buckets {
                    count = buckets.sight(*bucket as usize, context, position, sightings, count);
                }
            }
            if let Some(inner) = inner {
                count = inner.sight(inner.find(context), context, position, sightings, count);
            }
            if let Some(three) = three {
                count = three.sight(three.find(context), context, position, sightings, count);
                let context = Context::of(text, from + position + 1);
                count = three.sight(three.find(context), context, position + 1, sightings, count);
            }
        }
        look(&sightings[..count]);

        if one.is_some() || two.is_some() {
            let mut count = 0;
            for (block, mut mask) in short.iter().copied().enumerate() {
                while mask != 0 {
                    let position = block * BLOCK + mask.trailing_zeros() as usize;
                    mask &= mask - 1;
                    candidates += 1;
                    let context = Context::of(text, from + position);
                    for buckets in [two, one].into_iter().flatten() {
                        count = buckets.sight(buckets.find(context), context, position, sightings, count);
                    }
                }
            }
            look(&sightings[..count]);
        }
        collector.results.candidates = buffers;
        candidates as u32
    }
}

/// Buffers of the windows: positions that the filter marked, and what is worth a look at the patterns.
#[derive(Clone, Debug, Default)]
struct Candidates {
    /// Each with its buckets among the windows of four and of six bytes.
    positions: Vec<(u32, u32, u32)>,
    sightings: Vec<Sighting>,
}

/// Turns occurrences into hits and spans of one document.
struct Collector<'a> {
    text: &'a [u8],
    options: &'a ScanOptions,
    request: ScanRequest,
    /// Hits of earlier documents.
    base: usize,
    /// Where occurrences begin that are taken: others are found by another walk.
    begins: Range<usize>,
    results: &'a mut ScanResults,
}

impl Collector<'_> {
    /// Whether no occurrence with a window at or behind `position` can change the result.
    fn has_enough(&self, position: usize) -> bool {
        // Such an occurrence ends behind `position`, so it cannot come before the earliest ones nor tie with them.
        self.request.first.is_some_and(|first| {
            self.results.earliest.len() >= first.get()
                && self.results.earliest.peek().is_some_and(|latest| *latest <= position)
        })
    }

    #[inline]
    fn found(&mut self, pattern: u32, start: usize, end: usize) {
        if !self.begins.contains(&start) {
            return;
        }
        let slot = self.results.slots[pattern as usize] as usize + self.base;
        let known = self.results.hits.get(slot).filter(|hit| hit.pattern == pattern);
        // The two windows of a pattern lie at different offsets, so a later occurrence may be found before an earlier one.
        if self.request.first.is_some() && known.is_some_and(|hit| hit.first_end <= end) {
            return;
        }
        let known = known.is_some();
        if self.options.isolated_from.as_ref().is_some_and(|class| !class.isolates(self.text, start, end)) {
            return;
        }
        let results = &mut *self.results;
        let every_occurrence = self.request.first.is_none();
        if known {
            let hit = &mut results.hits[slot];
            hit.first_end = hit.first_end.min(end);
            hit.occurrences += u64::from(every_occurrence);
        } else {
            results.slots[pattern as usize] = (results.hits.len() - self.base) as u32;
            results.hits.push(Hit { pattern, first_end: end, occurrences: u64::from(every_occurrence) });
        }
        if let Some(first) = self.request.first {
            if known {
                results.earliest.clear();
                results.earliest.extend(results.hits[self.base..].iter().map(|hit| hit.first_end));
            } else {
                results.earliest.push(end);
            }
            while results.earliest.len() > first.get() {
                results.earliest.pop();
            }
        } else if self.request.spans {
            results.spans.push(Span { start, end, pattern });
        }
    }
}

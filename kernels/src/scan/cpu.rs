//! Texts in the layout of Arrow's strings, searched on the CPU: the twin of the kernels in `cuda/scan.cu`.

use std::num::{NonZeroU32, NonZeroUsize};
use std::ops::Range;
use std::sync::OnceLock;

use super::{Occurrences, Offset, ScanRequest, ScanResults, Scanner, Texts};
use crate::launch::{ShapeError, expect_len};
use crate::workers::{Parts, Workers};

/// A task has the texts that begin in so many bytes.
const PIECE: usize = 1 << 20;

impl Scanner {
    /// For each text how many distinct patterns it has, but at most `limit`: the search in a text ends there.
    ///
    /// # Errors
    /// Lengths that do not belong together, or offsets that fall or point outside of the values.
    pub fn distinct<O: Offset>(
        &self,
        workers: &dyn Workers,
        texts: Texts<&[u8], &[O]>,
        limit: NonZeroU32,
        distinct: &mut [u32],
    ) -> Result<(), ShapeError> {
        let count = texts.count()?;
        expect_len("distinct", distinct.len(), count)?;
        let request = ScanRequest { first: NonZeroUsize::new(limit.get() as usize), spans: false };
        let pieces = pieces(&texts, count);
        let parts = Parts::new(distinct);
        workers.run(pieces.len(), &|piece| {
            let range = pieces[piece].clone();
            // SAFETY: no text is in two pieces.
            #[allow(unsafe_code, reason = "tasks write the results of their own texts")]
            let distinct = unsafe { parts.part(range.clone()) };
            let mut results = ScanResults::default();
            let own: Vec<&[u8]> = range.map(|text| texts.get(text)).collect();
            self.scan(&own, request, &mut results);
            for (text, distinct) in distinct.iter_mut().enumerate() {
                *distinct = results.hits(text).len() as u32;
            }
        });
        Ok(())
    }

    /// Lists every occurrence of every pattern in every text.
    ///
    /// # Errors
    /// Lengths that do not belong together, or offsets that fall or point outside of the values.
    pub fn occurrences<O: Offset>(
        &self,
        workers: &dyn Workers,
        texts: Texts<&[u8], &[O]>,
        into: Occurrences<&mut [u32], &mut [i64]>,
    ) -> Result<(), ShapeError> {
        let count = texts.count()?;
        expect_len("patterns", into.patterns.len(), into.texts.len())?;
        expect_len("starts", into.starts.len(), into.texts.len())?;
        expect_len("total", into.total.len(), 1)?;
        let pieces = pieces(&texts, count);
        let found: Vec<OnceLock<Vec<(u32, i64, u32)>>> = pieces.iter().map(|_| OnceLock::new()).collect();
        workers.run(pieces.len(), &|piece| {
            let range = pieces[piece].clone();
            let own: Vec<&[u8]> = range.clone().map(|text| texts.get(text)).collect();
            let mut results = ScanResults::default();
            self.scan(&own, ScanRequest { first: None, spans: true }, &mut results);
            let mut list = Vec::new();
            for (place, text) in range.enumerate() {
                list.extend(results.spans(place).iter().map(|span| (text as u32, span.start as i64, span.pattern)));
            }
            // Spans are in order of their ends before their patterns.
            list.sort_unstable();
            found[piece].get_or_init(|| list);
        });
        let mut total = 0;
        for &(text, start, pattern) in found.iter().filter_map(OnceLock::get).flatten() {
            if let (Some(to), true) = (into.texts.get_mut(total), total < into.starts.len()) {
                *to = text;
                into.patterns[total] = pattern;
                into.starts[total] = start;
            }
            total += 1;
        }
        into.total[0] = total as i64;
        Ok(())
    }
}

/// The texts divided by where they begin.
fn pieces<O: Offset>(texts: &Texts<&[u8], &[O]>, count: usize) -> Vec<Range<usize>> {
    let (first, last) = (texts.begin(0), texts.begin(count));
    let pieces = (last - first).div_ceil(PIECE).max(1);
    let begins = &texts.offsets[..count];
    let ends: Vec<usize> = (1..pieces)
        .map(|piece| begins.partition_point(|begin| (begin.to_i64() as usize) < first + piece * PIECE))
        .chain([count])
        .collect();
    ends.iter().scan(0, |begin, &end| Some(std::mem::replace(begin, end)..end)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;
    use crate::scan::ScanOptions;
    use crate::workers::{Serial, Threads};

    #[test]
    fn texts_are_divided_by_where_they_begin() {
        let values = vec![b'x'; 3 * PIECE];
        let all = [5, 5, 100, PIECE as i32 + 5, PIECE as i32 + 5, 3 * PIECE as i32 - 1, 3 * PIECE as i32];
        let divide = |offsets: &[i32]| {
            let texts = Texts { values: &values[..], offsets };
            let count = texts.count().unwrap();
            pieces(&texts, count).into_iter().map(|piece| (piece.start, piece.end)).collect::<Vec<_>>()
        };
        assert_eq!(divide(&all), [(0, 3), (3, 5), (5, 6)]);
        assert_eq!(divide(&all[..2]), [(0, 1)]);
        assert_eq!(divide(&all[..1]), [(0, 0)]);
        assert_eq!(divide(&[]), [(0, 0)]);
    }

    #[test]
    fn long_and_short_texts_together() {
        let scanner = Scanner::new(["needle", "x"], &ScanOptions::default()).unwrap();
        let mut values = b"hay ".repeat(PIECE / 2);
        values.extend(b"needlexneedle");
        let end = values.len() as i64;
        let texts = Texts { values: &values[..], offsets: &[0, end - 12, end - 6, end - 6, end][..] };
        for workers in [&Serial as &dyn Workers, &Threads::new(3)] {
            let mut distinct = [7; 4];
            scanner.distinct(workers, texts, NonZeroU32::MAX, &mut distinct).unwrap();
            assert_eq!(distinct, [0, 1, 0, 1]);
            let (mut numbers, mut patterns, mut starts, mut total) = ([9; 3], [9; 3], [9; 3], [9]);
            let into = Occurrences {
                texts: &mut numbers[..],
                patterns: &mut patterns[..],
                starts: &mut starts[..],
                total: &mut total[..],
            };
            scanner.occurrences(workers, texts, into).unwrap();
            assert_eq!((numbers, patterns, starts, total), ([1, 3, 9], [1, 0, 9], [5, 0, 9], [2]));
        }
    }

    #[test]
    fn wrong_offsets_are_named() {
        let scanner = Scanner::new(["a"], &ScanOptions::default()).unwrap();
        for (offsets, index) in [([0, 4, 4], 1), ([0, 2, 1], 2), ([-1, 0, 0], 0)] {
            let texts = Texts { values: &b"abc"[..], offsets: &offsets[..] };
            let error = scanner.distinct(&Serial, texts, NonZeroU32::MIN, &mut [0; 2]).unwrap_err();
            assert!(error.to_string().starts_with(&format!("`offsets` at {index} is {}", offsets[index])), "{error}");
        }
    }
}

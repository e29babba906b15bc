//! Texts as Arrow's string arrays have them, and what is found in them.

use crate::launch::{Element, ShapeError};

/// Texts that lie one behind another: text `i` is `values[offsets[i]..offsets[i + 1]]`.
///
/// This is the layout of Arrow's arrays of strings and bytes, `Utf8` with offsets of type i32 and `LargeUtf8` of type i64. A slice of
/// an array is given by its part of the offsets: the first one need not be 0, nor the last one the number of values. No text:
/// one offset, or none.
///
/// ```
/// use gristmill_kernels::scan::{ScanOptions, Scanner, Texts};
/// use gristmill_kernels::workers::Serial;
/// use std::num::NonZeroU32;
///
/// let scanner = Scanner::new(["fox", "dog", "ox"], &ScanOptions::default())?;
/// // "a fox", "", "fox and dog"; no occurrence reaches from one into the next.
/// let texts = Texts { values: &b"a foxfox and dog"[..], offsets: &[0, 5, 5, 16][..] };
/// let mut distinct = [0; 3];
/// scanner.distinct(&Serial, texts, NonZeroU32::MAX, &mut distinct)?;
/// assert_eq!(distinct, [2, 0, 3]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Texts<V, O> {
    /// The bytes of all texts.
    pub values: V,
    /// Where each text begins, and behind the last one where that ends; they do not fall.
    pub offsets: O,
}

/// Types of offsets.
pub trait Offset: Element {
    /// As a wide integer.
    fn to_i64(self) -> i64;
}

impl Offset for i32 {
    fn to_i64(self) -> i64 {
        i64::from(self)
    }
}

impl Offset for i64 {
    fn to_i64(self) -> i64 {
        self
    }
}

/// Every occurrence of every pattern, in order of text, first byte and pattern: a column for each, of equal length.
///
/// There is room for so many occurrences as the columns are long. `total` says how many there are; if they are more, what the columns
/// hold is not said, and the search is repeated with longer ones. If they are fewer, the rest of the columns is left as it was.
///
/// ```
/// use gristmill_kernels::scan::{Occurrences, ScanOptions, Scanner, Texts};
/// use gristmill_kernels::workers::Serial;
///
/// let scanner = Scanner::new(["fox", "dog", "ox"], &ScanOptions::default())?;
/// let texts = Texts { values: &b"a foxdog"[..], offsets: &[0, 5, 8][..] };
/// let (mut numbers, mut patterns, mut starts, mut total) = ([0; 3], [0; 3], [0; 3], [0]);
/// let into = Occurrences {
///     texts: &mut numbers[..],
///     patterns: &mut patterns,
///     starts: &mut starts[..],
///     total: &mut total,
/// };
/// scanner.occurrences(&Serial, texts, into)?;
/// assert_eq!((numbers, patterns, starts, total), ([0, 0, 1], [0, 2, 1], [2, 3, 0], [3]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Occurrences<U, I> {
    /// Number of the text, from 0.
    pub texts: U,
    /// Number of the pattern, from 0.
    pub patterns: U,
    /// First byte of the occurrence in its text.
    pub starts: I,
    /// One number: how many occurrences there are.
    pub total: I,
}

impl<O: Offset> Texts<&[u8], &[O]> {
    /// How many texts there are, if all offsets are within the values and do not fall.
    pub(super) fn count(&self) -> Result<usize, ShapeError> {
        let mut lowest = 0;
        for (index, offset) in self.offsets.iter().map(|offset| offset.to_i64()).enumerate() {
            if offset < lowest || usize::try_from(offset).is_ok_and(|offset| offset > self.values.len()) {
                let allowed = "at least the one before and at most the number of values";
                return Err(ShapeError::Value { name: "offsets", index, allowed, actual: offset });
            }
            lowest = offset;
        }
        Ok(self.offsets.len().saturating_sub(1))
    }

    /// Where a text begins, or at the number of texts where the last one ends. Only of texts that were counted without an error.
    pub(super) fn begin(&self, text: usize) -> usize {
        self.offsets.get(text).map_or(0, |offset| offset.to_i64() as usize)
    }

    /// A text; see [`Self::begin`].
    pub(super) fn get(&self, text: usize) -> &[u8] {
        &self.values[self.begin(text)..self.begin(text + 1)]
    }
}

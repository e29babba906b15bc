//! Shapes that belong together, and the division of work that follows from them.

use super::{Attention, Documents, Heads, Mask};
use crate::launch::ShapeError;
use std::ops::Range;

/// Widest head.
pub(super) const WIDEST: usize = 256;

impl Attention {
    /// Heads of queries for one of keys.
    pub(super) fn group(&self) -> usize {
        self.query_heads.checked_div(self.key_heads).unwrap_or(0)
    }

    pub(super) fn check(&self) -> Result<(), ShapeError> {
        if self.width == 0 || self.width > WIDEST {
            return Err(ShapeError::Dimension { name: "width", allowed: "1 to 256", actual: self.width });
        }
        if self.key_heads == 0 {
            return Err(ShapeError::Dimension { name: "key_heads", allowed: "at least 1", actual: 0 });
        }
        if self.query_heads == 0 || !self.query_heads.is_multiple_of(self.key_heads) {
            let allowed = "a multiple of the heads of keys, and not 0";
            return Err(ShapeError::Dimension { name: "query_heads", allowed, actual: self.query_heads });
        }
        Ok(())
    }
}

impl<B> Heads<B> {
    /// Checks that a buffer of `len` elements reaches to the last element.
    pub(super) fn check_read(
        &self,
        name: &'static str,
        len: usize,
        [rows, heads, width]: [usize; 3],
    ) -> Result<(), ShapeError> {
        if rows == 0 {
            return Ok(());
        }
        let beyond = || ShapeError::Dimension { name, allowed: "less than 2^63 elements", actual: usize::MAX };
        let last = (rows - 1).checked_mul(self.row_stride);
        let last = last.and_then(|last| last.checked_add((heads - 1).checked_mul(self.head_stride)?));
        let expected = last.and_then(|last| last.checked_add(width)).ok_or_else(beyond)?;
        if len < expected { Err(ShapeError::Length { name, expected, actual: len }) } else { Ok(()) }
    }

    /// The same, and that no two rows or heads share an element.
    pub(super) fn check_write(
        &self,
        name: &'static str,
        len: usize,
        shape @ [rows, heads, width]: [usize; 3],
    ) -> Result<(), ShapeError> {
        self.check_read(name, len, shape)?;
        // Either rows hold heads or heads hold rows. Products of the numbers that were checked do not overflow.
        let (row, head) = (self.row_stride, self.head_stride);
        let apart = |inner: usize, stride: usize, outer: usize, outer_stride: usize| {
            let extent = inner.saturating_sub(1).saturating_mul(stride) + width;
            (inner <= 1 || stride >= width) && (outer <= 1 || outer_stride >= extent)
        };
        if rows == 0 || apart(heads, head, rows, row) || apart(rows, row, heads, head) {
            return Ok(());
        }
        Err(ShapeError::Dimension { name, allowed: "a stride that keeps rows and heads apart", actual: row.min(head) })
    }

    /// The elements of a head of a row.
    pub(super) const fn range(&self, row: usize, head: usize, width: usize) -> Range<usize> {
        let start = row * self.row_stride + head * self.head_stride;
        start..start + width
    }
}

impl Documents<&[i64]> {
    /// Checks the offsets, and returns the number of documents.
    pub(super) fn check(&self) -> Result<usize, ShapeError> {
        let lists =
            [("query_offsets", self.query_offsets, self.query_rows), ("key_offsets", self.key_offsets, self.key_rows)];
        for (name, offsets, rows) in lists {
            let mut before = 0;
            for (index, &offset) in offsets.iter().enumerate() {
                let first_or_last = index == 0 || index + 1 == offsets.len();
                let fits = usize::try_from(offset).is_ok_and(|offset| offset <= rows);
                let right = match index {
                    0 => offset == 0,
                    _ => offset >= before && fits,
                };
                let complete = index + 1 < offsets.len() || usize::try_from(offset).is_ok_and(|offset| offset == rows);
                if !right || (first_or_last && !complete) {
                    let allowed = "from 0, not falling, to the number of rows";
                    return Err(ShapeError::Value { name, index, allowed, actual: offset });
                }
                before = offset;
            }
            if offsets.is_empty() && rows > 0 {
                return Err(ShapeError::Length { name, expected: 2, actual: 0 });
            }
        }
        if self.query_offsets.len() != self.key_offsets.len() {
            let (expected, actual) = (self.query_offsets.len(), self.key_offsets.len());
            return Err(ShapeError::Length { name: "key_offsets", expected, actual });
        }
        Ok(self.query_offsets.len().saturating_sub(1))
    }

    /// The rows of a document; offsets were checked.
    pub(super) const fn document(&self, number: usize) -> Document {
        Document {
            queries: self.query_offsets[number] as usize..self.query_offsets[number + 1] as usize,
            keys: self.key_offsets[number] as usize..self.key_offsets[number + 1] as usize,
        }
    }
}

/// The rows of one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Document {
    pub(super) queries: Range<usize>,
    pub(super) keys: Range<usize>,
}

impl Document {
    /// The keys that a query sees, both counted from the beginning of the document. Neither end falls from a query to the next.
    pub(super) fn visible(&self, mask: Mask, query: usize) -> Range<usize> {
        let keys = self.keys.len();
        // The position plus the number of queries, so that it is not negative.
        let (position, queries) = (query + keys, self.queries.len());
        let end = mask
            .right
            .map_or(keys, |right| (position.saturating_add(right).saturating_add(1)).saturating_sub(queries).min(keys));
        let start = mask.left.map_or(0, |left| position.saturating_sub(queries.saturating_add(left)).min(keys));
        start.min(end)..end
    }
}

/// Numbers tasks: document after document, and within each head after head, `pieces` of a document for each head.
#[derive(Debug)]
pub(super) struct Tasks {
    /// Tasks before each document, and all of them at the end.
    starts: Vec<usize>,
    heads: usize,
}

impl Tasks {
    pub(super) fn new(documents: usize, heads: usize, pieces: impl Fn(usize) -> usize) -> Self {
        let mut total = 0;
        let mut starts = vec![0];
        starts.extend((0..documents).map(|document| {
            total += pieces(document) * heads;
            total
        }));
        Self { starts, heads }
    }

    pub(super) fn count(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Document, head and piece of a task.
    pub(super) fn find(&self, task: usize) -> (usize, usize, usize) {
        let document = self.starts.partition_point(|&start| start <= task) - 1;
        let pieces = (self.starts[document + 1] - self.starts[document]) / self.heads;
        let within = task - self.starts[document];
        (document, within / pieces, within % pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::{Document, Documents, Heads, Mask, Tasks};

    #[test]
    fn queries_see_what_the_mask_says() {
        let masks =
            [Mask::ALL, Mask::CAUSAL, Mask::window(2, 1), Mask::window(0, 0), Mask { left: Some(3), right: None }];
        for mask in masks {
            for (queries, keys) in [(0, 3), (5, 5), (3, 9), (7, 2), (1, 40), (4, 0)] {
                let document = Document { queries: 0..queries, keys: 0..keys };
                let mut before = 0..0;
                for query in 0..queries {
                    let position = query as i64 + keys as i64 - queries as i64;
                    let sees = |key: i64| {
                        mask.left.is_none_or(|left| key >= position - left as i64)
                            && mask.right.is_none_or(|right| key <= position + right as i64)
                    };
                    let visible = document.visible(mask, query);
                    for key in 0..keys {
                        assert_eq!(visible.contains(&key), sees(key as i64), "{mask:?} {queries} {keys} {query} {key}");
                    }
                    assert!(visible.start <= visible.end && visible.end <= keys);
                    assert!(visible.start >= before.start && visible.end >= before.end);
                    before = visible;
                }
            }
        }
        let far = Document { queries: 0..2, keys: 0..2 };
        assert_eq!(far.visible(Mask::window(usize::MAX, usize::MAX), 1), 0..2);
    }

    #[test]
    fn tasks_are_numbered_once() {
        let pieces = [2, 0, 3, 1];
        let tasks = Tasks::new(4, 2, |document| pieces[document]);
        assert_eq!(tasks.count(), 12);
        let found: Vec<_> = (0..12).map(|task| tasks.find(task)).collect();
        let expected: Vec<_> = (0..4)
            .flat_map(|document| {
                (0..2).flat_map(move |head| (0..pieces[document]).map(move |piece| (document, head, piece)))
            })
            .collect();
        assert_eq!(found, expected);
        assert_eq!(Tasks::new(0, 2, |_| 1).count(), 0);
    }

    #[test]
    fn offsets_and_strides_are_checked() {
        let check = |queries: &[i64], keys: &[i64]| {
            Documents { query_rows: 4, key_rows: 4, query_offsets: queries, key_offsets: keys }.check()
        };
        assert_eq!(check(&[0, 1, 4], &[0, 4, 4]), Ok(2));
        let wrong: [&[i64]; 7] = [&[], &[0], &[1, 4], &[0, 3], &[0, 5], &[0, 3, 2, 4], &[0, -1, 4]];
        for offsets in wrong {
            assert!(check(offsets, &[0, 4]).is_err() && check(&[0, 4], offsets).is_err(), "{offsets:?}");
        }
        assert!(check(&[0, 4], &[0, 2, 4]).is_err());

        let heads = |row_stride, head_stride| Heads { buffer: (), row_stride, head_stride };
        let shape = [3, 2, 4];
        assert!(heads(8, 4).check_write("o", 24, shape).is_ok());
        assert!(heads(8, 4).check_write("o", 23, shape).is_err());
        assert!(heads(4, 12).check_write("o", 24, shape).is_ok());
        assert!(heads(7, 4).check_write("o", 99, shape).is_err());
        assert!(heads(0, 4).check_write("o", 99, shape).is_err());
        assert!(heads(0, 4).check_read("o", 8, shape).is_ok());
        assert!(heads(usize::MAX, 4).check_read("o", 8, shape).is_err());
    }
}

//! `tokenize` with `chunk`: one row per window of a text.
//!
//! A window holds up to `length` ids, special tokens included, and begins `overlap` ids of text before the end of the one
//! before it. The last window is the first that reaches the end, so it may be shorter and no window lies wholly inside
//! another. A text without ids still gives one window. The text itself is left out of the rows, or a book would be
//! repeated in each of its windows; the other columns are repeated.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, UInt32Array, UInt64Array};
use arrow_select::take::take;

use super::lists::IdLists;
use super::tokenize::{ChunkConfig, KIND, Shared};
use crate::Result;
use crate::columns::TextColumn;
use crate::operator::{Output, Pass};
use crate::require_column;

/// Windows per batch given out, so that one long text does not make one huge batch.
const ROWS: usize = 8192;

pub(super) struct ChunkPass {
    shared: Arc<Shared>,
    /// Ids of text in a window, special tokens left out.
    content: usize,
    overlap: usize,
    ids: Vec<u32>,
    lists: IdLists,
    /// For each window its row in the batch and its number in the text.
    rows: Vec<u64>,
    numbers: Vec<u32>,
    /// Rows of the batch whose last window is in `lists`.
    complete: u64,
    /// Rows of earlier batches.
    rows_before: u64,
}

impl ChunkPass {
    pub(super) fn new(shared: Arc<Shared>, chunk: ChunkConfig) -> Self {
        let tokenizer = &shared.tokenizer;
        let special =
            if shared.config.special_tokens { tokenizer.prefix().len() + tokenizer.suffix().len() } else { 0 };
        Self {
            content: chunk.length - special,
            overlap: chunk.overlap,
            ids: Vec::new(),
            lists: IdLists::new(tokenizer.vocab_size()),
            rows: Vec::new(),
            numbers: Vec::new(),
            complete: 0,
            rows_before: 0,
            shared,
        }
    }

    fn push_text(&mut self, batch: &RecordBatch, row: usize, text: &str, output: &mut Output) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let stream_row = self.rows_before + row as u64;
        let failed = |message: String| shared.failed(stream_row, message);
        let tokenizer = &shared.tokenizer;
        tokenizer.encode(text, false, &mut self.ids).map_err(|error| failed(error.to_string()))?;
        shared.check_length(stream_row, &self.ids)?;
        let (prefix, suffix) =
            if shared.config.special_tokens { (tokenizer.prefix(), tokenizer.suffix()) } else { (&[][..], &[][..]) };
        for (number, window) in windows(self.ids.len(), self.content, self.overlap).enumerate() {
            let length = prefix.len() + window.len() + suffix.len();
            if self.lists.len() == ROWS || !self.lists.fits(length) {
                self.give_out(batch, output)?;
            }
            for part in [prefix, &self.ids[window], suffix] {
                self.lists.extend(part);
            }
            self.lists.end();
            self.rows.push(row as u64);
            self.numbers.push(u32::try_from(number).map_err(|_| failed("more than 2³² windows".to_owned()))?);
        }
        Ok(())
    }

    fn give_out(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()> {
        if self.lists.len() == 0 {
            return Ok(());
        }
        let (text, _) = require_column(KIND, batch.schema_ref(), &self.shared.config.column)?;
        let rows = UInt64Array::from(std::mem::take(&mut self.rows));
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(batch.num_columns() + 1);
        for (index, column) in batch.columns().iter().enumerate() {
            if index != text {
                columns.push(take(column, &rows, None)?);
            }
        }
        columns.push(self.lists.finish()?);
        columns.push(Arc::new(UInt32Array::from(std::mem::take(&mut self.numbers))));
        output.keep_as(RecordBatch::try_new(Arc::clone(&self.shared.schema), columns)?, self.complete);
        self.complete = 0;
        Ok(())
    }
}

impl Pass for ChunkPass {
    fn push(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()> {
        let texts = TextColumn::of(KIND, batch, &self.shared.config.column)?;
        for (row, text) in texts.iter().enumerate() {
            match text {
                Some(text) => self.push_text(batch, row, text, output)?,
                None => {
                    self.lists.null();
                    self.rows.push(row as u64);
                    self.numbers.push(0);
                }
            }
            self.complete += 1;
        }
        self.give_out(batch, output)?;
        self.rows_before += batch.num_rows() as u64;
        Ok(())
    }
}

/// The windows over `ids` ids: `content` long, each beginning `overlap` before the end of the last.
pub(super) fn windows(ids: usize, content: usize, overlap: usize) -> impl Iterator<Item = Range<usize>> {
    let step = content - overlap;
    let count = ids.saturating_sub(content).div_ceil(step) + 1;
    (0..count).map(move |number| number * step..(number * step + content).min(ids))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::single_range_in_vec_init, reason = "a case lists its windows, and some have one")]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn windows_cover_a_text() {
        let cases: [(usize, usize, usize, &[Range<usize>]); 8] = [
            (0, 4, 0, &[0..0]),
            (3, 4, 0, &[0..3]),
            (4, 4, 0, &[0..4]),
            (5, 4, 0, &[0..4, 4..5]),
            (8, 4, 0, &[0..4, 4..8]),
            (8, 4, 2, &[0..4, 2..6, 4..8]),
            (9, 4, 2, &[0..4, 2..6, 4..8, 6..9]),
            (5, 4, 3, &[0..4, 1..5]),
        ];
        for (ids, content, overlap, expected) in cases {
            let found: Vec<_> = windows(ids, content, overlap).collect();
            assert_eq!(found, expected, "{ids} ids, {content} long, {overlap} over");
        }
    }

    proptest! {
        #[test]
        fn no_id_is_lost_and_no_window_is_inside_another(ids in 1usize..500, content in 1usize..40, over in 0usize..39) {
            let overlap = over.min(content - 1);
            let found: Vec<_> = windows(ids, content, overlap).collect();
            prop_assert_eq!(found[0].start, 0);
            prop_assert_eq!(found[found.len() - 1].end, ids);
            for pair in found.windows(2) {
                prop_assert_eq!(pair[0].len(), content);
                prop_assert_eq!(pair[0].end - pair[1].start, overlap);
                prop_assert!(pair[1].end > pair[0].end);
            }
        }
    }
}

//! `tokenize` with `pack`: whole texts behind each other in sequences of a fixed largest length.
//!
//! A text goes into the current sequence if it fits; if not, the sequence is finished and the text begins the next one.
//! Texts are never split and never change places, so the result depends on the order of the rows alone, and the sequences
//! of a split come out in the order of their first texts. A trainer that keeps the texts of a sequence apart (positions
//! that start anew, attention within each text) finds their borders in `<name>_lengths`.

use std::sync::Arc;

use arrow_array::RecordBatch;

use super::lists::IdLists;
use super::tokenize::{KIND, PackConfig, Shared, TooLong};
use crate::Result;
use crate::columns::TextColumn;
use crate::operator::{Output, Pass};

/// The length column holds 32-bit integers, whatever the tokenizer.
const ANY_LENGTH: usize = u32::MAX as usize;

pub(super) struct PackPass {
    shared: Arc<Shared>,
    pack: PackConfig,
    ids: Vec<u32>,
    /// The sequence that is being filled: ids and the length of each text.
    sequence: Vec<u32>,
    lengths: Vec<u32>,
    /// Finished sequences, and the rows they hold.
    lists: IdLists,
    length_lists: IdLists,
    rows: u64,
    /// Rows of earlier batches.
    rows_before: u64,
}

impl PackPass {
    pub(super) fn new(shared: Arc<Shared>, pack: PackConfig) -> Self {
        Self {
            pack,
            ids: Vec::new(),
            sequence: Vec::new(),
            lengths: Vec::new(),
            lists: IdLists::new(shared.tokenizer.vocab_size()),
            length_lists: IdLists::new(ANY_LENGTH),
            rows: 0,
            rows_before: 0,
            shared,
        }
    }

    fn finish_sequence(&mut self, output: &mut Output) -> Result<()> {
        if self.lengths.is_empty() {
            return Ok(());
        }
        if !self.lists.fits(self.sequence.len()) || !self.length_lists.fits(self.lengths.len()) {
            self.give_out(output)?;
        }
        self.lists.extend(&self.sequence);
        self.lists.end();
        self.length_lists.extend(&self.lengths);
        self.length_lists.end();
        self.rows += self.lengths.len() as u64;
        self.sequence.clear();
        self.lengths.clear();
        Ok(())
    }

    fn give_out(&mut self, output: &mut Output) -> Result<()> {
        if self.lists.len() == 0 {
            return Ok(());
        }
        let columns = vec![self.lists.finish()?, self.length_lists.finish()?];
        output.keep_as(RecordBatch::try_new(Arc::clone(&self.shared.schema), columns)?, self.rows);
        self.rows = 0;
        Ok(())
    }
}

impl Pass for PackPass {
    fn push(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()> {
        let texts = TextColumn::of(KIND, batch, &self.shared.config.column)?;
        let limit = self.pack.length;
        for (row, text) in texts.iter().enumerate() {
            let Some(text) = text else {
                output.reject(batch.slice(row, 1), "no text");
                continue;
            };
            let stream_row = self.rows_before + row as u64;
            self.shared.encode(stream_row, text, &mut self.ids)?;
            let length = self.ids.len();
            if length > limit {
                let message = format!("the text has {length} tokens, a sequence at most {limit}");
                match self.pack.too_long {
                    TooLong::Error => return Err(self.shared.failed(stream_row, message)),
                    TooLong::Quarantine => output.quarantine(batch.slice(row, 1), message),
                }
                continue;
            }
            if self.sequence.len() + length > limit {
                self.finish_sequence(output)?;
            }
            self.sequence.extend_from_slice(&self.ids);
            // At most `limit`, and ids fit into 32-bit offsets, so the length does, too.
            self.lengths.push(u32::try_from(length).unwrap_or(u32::MAX));
        }
        self.rows_before += batch.num_rows() as u64;
        self.give_out(output)
    }

    fn finish(&mut self, output: &mut Output) -> Result<()> {
        self.finish_sequence(output)?;
        self.give_out(output)
    }
}

//! Rows of a batch as documents.

use arrow_array::RecordBatch;

use super::KIND;
use super::documents::Document;
use super::prepared::Prepared;
use crate::{OperatorError, Result, TextColumn};

/// The texts of a batch as documents, in the order of the rows, and for each row whether it has one; the first row has this number in its stream.
pub(super) fn documents(
    prepared: &Prepared,
    column: &str,
    batch: &RecordBatch,
    first_row: u64,
) -> Result<(Vec<Document>, Vec<bool>)> {
    let texts = TextColumn::of(KIND, batch, column)?;
    let reader = &prepared.reader;
    let (mut documents, mut present) = (Vec::with_capacity(texts.len()), Vec::with_capacity(texts.len()));
    let mut ids = Vec::new();
    for (row, text) in (first_row..).zip(texts.iter()) {
        present.push(text.is_some());
        let Some(text) = text else { continue };
        let failed = |message: String| OperatorError::Row { kind: KIND.to_owned(), row, message };
        reader.tokenizer.encode(text, true, &mut ids).map_err(|error| failed(error.to_string()))?;
        ids.truncate(reader.context_length);
        documents.push(Document::new(ids.clone(), 1, prepared.config.reduction.into()));
    }
    Ok((documents, present))
}

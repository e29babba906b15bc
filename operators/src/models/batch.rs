//! Texts of a batch as token ids, one behind the other without padding.

use gristmill_kernels::linear_ce::IGNORED;

use super::error::{ModelError, Result};

/// Token ids of several documents, packed: document d has `offsets[d]..offsets[d + 1]`.
///
/// ```
/// use gristmill_operators::models::Batch;
///
/// let mut batch = Batch::default();
/// batch.push(&[5, 6, 7]);
/// batch.push(&[8]);
/// assert_eq!((batch.documents(), batch.tokens()), (2, 4));
/// ```
#[derive(Clone, Debug)]
pub struct Batch {
    ids: Vec<u32>,
    positions: Vec<i32>,
    offsets: Vec<i64>,
}

impl Default for Batch {
    fn default() -> Self {
        Self { ids: Vec::new(), positions: Vec::new(), offsets: vec![0] }
    }
}

impl Batch {
    /// One document.
    pub fn of(ids: &[u32]) -> Self {
        let mut batch = Self::default();
        batch.push(ids);
        batch
    }

    /// Adds a document, whose tokens have positions from 0 on.
    pub fn push(&mut self, ids: &[u32]) {
        self.push_at(ids, 0);
    }

    /// Adds tokens that continue a document of so many tokens.
    pub(crate) fn push_at(&mut self, ids: &[u32], start: usize) {
        self.ids.extend_from_slice(ids);
        let position = |position: usize| i32::try_from(position).unwrap_or(i32::MAX);
        self.positions.extend((start..start + ids.len()).map(position));
        self.offsets.push(self.ids.len() as i64);
    }

    /// Number of documents.
    pub fn documents(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Number of tokens of all documents.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// All token ids, `[tokens]`.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Where documents begin, `[documents + 1]`.
    pub fn offsets(&self) -> &[i64] {
        &self.offsets
    }

    /// Each token's position in its document, `[tokens]`.
    pub(crate) fn positions(&self) -> &[i32] {
        &self.positions
    }

    /// The token that each token's row predicts, `[tokens]`: that of the next row. The last of a document predicts nothing.
    pub(crate) fn targets(&self) -> Vec<i64> {
        let mut targets: Vec<i64> = self.ids.iter().skip(1).map(|&id| i64::from(id)).collect();
        targets.resize(self.tokens(), IGNORED);
        for &end in &self.offsets[1..] {
            if end > 0 {
                targets[end as usize - 1] = IGNORED;
            }
        }
        targets
    }

    /// Losses at the rows that predict, moved to the tokens that are predicted.
    pub(crate) fn by_token(mut losses: Vec<f32>) -> Vec<f32> {
        let shift = losses.len().min(1);
        losses.rotate_right(shift);
        losses
    }

    /// Whether a model with so many tokens and positions can take it.
    pub(crate) fn check(&self, vocabulary: usize, positions: Option<usize>) -> Result<()> {
        if let Some(index) = self.ids.iter().position(|&id| id as usize >= vocabulary) {
            let allowed = format!("an id below {vocabulary}, the size of the vocabulary,");
            return Err(ModelError::Input { what: "token id", index, value: self.ids[index].into(), allowed });
        }
        let Some(most) = positions else { return Ok(()) };
        // As many as the document has up to its last token here, with those that it continues.
        let length = |document: &[i64]| match document[1] {
            end if end > document[0] => i64::from(self.positions[end as usize - 1]) + 1,
            _ => 0,
        };
        let long = self.offsets.windows(2).position(|document| length(document) > most as i64);
        long.map_or(Ok(()), |index| {
            let value = length(&self.offsets[index..index + 2]);
            let allowed = format!("at most {most}, as many positions as the model has,");
            Err(ModelError::Input { what: "number of tokens of document", index, value, allowed })
        })
    }
}

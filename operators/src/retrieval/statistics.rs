//! How often terms occur in a corpus.

use std::collections::BTreeMap;

use super::lexicon::Lexicon;
use super::terms::{TermScratch, Terms};
use crate::tokens::EncodeError;

/// How many documents a corpus has, how many terms, and how often each occurs.
///
/// Everything is a whole number and is added up, so statistics of parts of a corpus give those of the whole, in whatever
/// order. Memory grows with the number of distinct terms: their text and about 50 bytes for each.
///
/// ```
/// use gristmill_operators::retrieval::{CorpusStatistics, Terms};
///
/// let statistics = CorpusStatistics::of(&Terms::whitespace(), ["a fox and a dog", "a cat"])?;
/// assert_eq!((statistics.documents(), statistics.occurrences()), (2, 7));
/// assert_eq!((statistics.documents_with("a"), statistics.occurrences_of("a")), (2, 3));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct CorpusStatistics {
    pub(super) documents: u64,
    pub(super) occurrences: u64,
    pub(super) lexicon: Lexicon,
    /// By the number of the term.
    pub(super) counts: Vec<Counts>,
    /// Of terms that are not in the lexicon only how many there are, by the number of documents that they are in.
    pub(super) others: BTreeMap<u64, u64>,
}

/// How often a term occurs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Documents with the term.
    pub(super) documents: u64,
    /// Occurrences in all documents.
    pub(super) occurrences: u64,
    /// The document that was counted last, from 1.
    last: u64,
}

impl CorpusStatistics {
    /// Statistics of documents.
    ///
    /// # Errors
    /// A text that the tokenizer cannot encode.
    pub fn of<T: AsRef<str>>(terms: &Terms, documents: impl IntoIterator<Item = T>) -> Result<Self, EncodeError> {
        let mut statistics = Self::default();
        let mut scratch = TermScratch::default();
        for document in documents {
            statistics.add(terms, document.as_ref(), &mut scratch)?;
        }
        Ok(statistics)
    }

    /// Counts a document. One without terms counts, too.
    ///
    /// # Errors
    /// A text that the tokenizer cannot encode; it is not counted.
    pub fn add(&mut self, terms: &Terms, text: &str, scratch: &mut TermScratch) -> Result<(), EncodeError> {
        let number = self.documents + 1;
        let (lexicon, counts) = (&mut self.lexicon, &mut self.counts);
        let mut length = 0;
        terms.each(text, scratch, |term| {
            length += 1;
            let slot = lexicon.intern(term);
            if slot == counts.len() {
                counts.push(Counts::default());
            }
            let count = &mut counts[slot];
            count.occurrences += 1;
            count.documents += u64::from(count.last != number);
            count.last = number;
        })?;
        self.documents = number;
        self.occurrences += length;
        Ok(())
    }

    /// Adds what was counted elsewhere for a term.
    pub(super) fn add_term(&mut self, term: &str, documents: u64, occurrences: u64) {
        let slot = self.lexicon.intern(term);
        if slot == self.counts.len() {
            self.counts.push(Counts::default());
        }
        self.counts[slot].documents += documents;
        self.counts[slot].occurrences += occurrences;
    }

    /// Number of documents.
    #[must_use]
    pub fn documents(&self) -> u64 {
        self.documents
    }

    /// Number of terms of all documents, repeated ones each time.
    #[must_use]
    pub fn occurrences(&self) -> u64 {
        self.occurrences
    }

    /// Terms of a document on average; 0 where there is none.
    #[must_use]
    pub fn average_length(&self) -> f64 {
        if self.documents == 0 { 0.0 } else { self.occurrences as f64 / self.documents as f64 }
    }

    /// Number of distinct terms.
    #[must_use]
    pub fn terms(&self) -> u64 {
        self.lexicon.len() as u64 + self.others.values().sum::<u64>()
    }

    /// Number of documents with a term.
    #[must_use]
    pub fn documents_with(&self, term: &str) -> u64 {
        self.lexicon.get(term).map_or(0, |slot| self.counts[slot].documents)
    }

    /// Number of occurrences of a term in all documents.
    #[must_use]
    pub fn occurrences_of(&self, term: &str) -> u64 {
        self.lexicon.get(term).map_or(0, |slot| self.counts[slot].occurrences)
    }

    /// How many terms are in so many documents, by the number of documents.
    pub(super) fn by_documents(&self) -> BTreeMap<u64, u64> {
        let mut histogram = self.others.clone();
        for count in &self.counts {
            *histogram.entry(count.documents).or_default() += 1;
        }
        histogram
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn documents_are_counted_once_for_a_term() {
        let documents = ["b a b", "", "b", "c c c"];
        let statistics = CorpusStatistics::of(&Terms::whitespace(), documents).unwrap();
        assert_eq!((statistics.documents(), statistics.occurrences(), statistics.terms()), (4, 7, 3));
        assert_eq!(statistics.average_length(), 1.75);
        let of = |term| (statistics.documents_with(term), statistics.occurrences_of(term));
        assert_eq!((of("a"), of("b"), of("c"), of("d")), ((1, 1), (2, 3), (1, 3), (0, 0)));
        assert_eq!(statistics.by_documents(), BTreeMap::from([(1, 2), (2, 1)]));
        assert_eq!(CorpusStatistics::default().average_length(), 0.0);
    }
}

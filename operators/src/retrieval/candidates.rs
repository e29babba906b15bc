//! The best documents of a small corpus for each query.

use std::sync::Arc;

use super::index::{QueryIndex, Scorer};
use crate::config::invalid;
use crate::{OperatorError, Result};

/// A document that a query found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Position of the document, from 0.
    pub document: usize,
    /// Its score.
    pub score: f64,
}

/// For each of an index's scores the `k` documents with the highest, in order of score and, among equals, of position.
///
/// `truths` are the documents that must be among them, one for each score: one that is not takes the last place. Documents
/// are looked at one after the other and not kept.
///
/// # Errors
/// `k` of 0, another number of truths than of scores, a truth that is no document, and a text that the tokenizer cannot encode.
///
/// ```
/// use std::sync::Arc;
/// use gristmill_operators::retrieval::{Bm25, CorpusStatistics, Queries, QueryIndex, Terms, candidates};
///
/// let documents = ["red fox", "brown dog", "brown fox", "grey cat", "blue bird"];
/// let terms = Terms::whitespace();
/// let statistics = CorpusStatistics::of(&terms, documents)?;
/// let index = QueryIndex::bm25(&terms, &statistics, Bm25::default(), &Queries::new(["brown fox"]))?;
/// let index = Arc::new(index);
/// let found = |truths| -> Result<Vec<usize>, _> {
///     candidates(&index, documents, 3, truths).map(|found| found[0].iter().map(|one| one.document).collect())
/// };
/// assert_eq!(found(None)?, [2, 0, 1]);
/// assert_eq!(found(Some(&[4]))?, [2, 0, 4]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn candidates<T: AsRef<str>>(
    index: &Arc<QueryIndex>,
    documents: impl IntoIterator<Item = T>,
    k: usize,
    truths: Option<&[usize]>,
) -> Result<Vec<Vec<Candidate>>> {
    const KIND: &str = "candidates";
    let queries = index.names().len();
    if k == 0 {
        return Err(invalid(KIND, "k", "0 is not allowed; a query finds at least one document"));
    }
    if let Some(truths) = truths.filter(|truths| truths.len() != queries) {
        return Err(invalid(KIND, "truths", format!("{} true documents for {queries} queries", truths.len())));
    }
    let mut scorer = Scorer::new(Arc::clone(index));
    let mut best: Vec<Vec<Candidate>> = vec![Vec::new(); queries];
    let mut of_truths = vec![None; queries];
    for (document, text) in documents.into_iter().enumerate() {
        let scores = scorer.score(text.as_ref()).map_err(|error| OperatorError::Row {
            kind: KIND.to_owned(),
            row: document as u64,
            message: error.to_string(),
        })?;
        for (query, &score) in scores.iter().enumerate() {
            if truths.is_some_and(|truths| truths[query] == document) {
                of_truths[query] = Some(Candidate { document, score });
            }
            let best = &mut best[query];
            // Later documents come behind those that are as good.
            let place = best.partition_point(|better| better.score >= score);
            if place < k {
                best.truncate(k - 1);
                best.insert(place, Candidate { document, score });
            }
        }
    }
    for (query, (best, truth)) in best.iter_mut().zip(of_truths).enumerate() {
        let Some(wanted) = truths.map(|truths| truths[query]) else { break };
        let truth = truth.ok_or_else(|| {
            invalid(KIND, "truths", format!("query {query} has the true document {wanted}, which is not there"))
        })?;
        if best.iter().all(|found| found.document != wanted) {
            best.pop();
            best.push(truth);
        }
    }
    Ok(best)
}

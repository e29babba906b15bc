//! Which originals a row is compared with.

use std::sync::Arc;

use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;

use super::KIND;
use super::samples::{elements, id_of, is_id};
use super::study::Originals;
use crate::config::invalid;
use crate::retrieval::{self, Bm25, CorpusStatistics, Queries, QueryIndex, Terms};
use crate::tokens::EncodeError;
use crate::{OperatorError, Result};

/// An original that a row is compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    /// Its row in the table of originals.
    pub(super) row: usize,
    /// What the search gives for it; `None` where candidates are given.
    pub(super) bm25: Option<f64>,
}

/// Finds originals by the words of their questions.
#[derive(Debug)]
pub(super) struct Search {
    terms: Terms,
    statistics: CorpusStatistics,
    questions: Vec<String>,
}

impl Search {
    /// BM25 over words between white space, as they are written.
    pub(super) fn over(questions: Vec<String>) -> Result<Self> {
        let terms = Terms::whitespace();
        let statistics = CorpusStatistics::of(&terms, &questions).map_err(failed)?;
        Ok(Self { terms, statistics, questions })
    }

    /// The originals with the highest scores, ties by row. Where the true one is not among them it takes the place of the last.
    pub(super) fn best(&self, question: &str, top: usize, truth: Option<usize>) -> Result<Vec<Candidate>> {
        let queries = Queries::new([question]);
        let index = QueryIndex::bm25(&self.terms, &self.statistics, Bm25::default(), &queries).map_err(failed)?;
        let truths = truth.as_ref().map(std::slice::from_ref);
        let found = retrieval::candidates(&Arc::new(index), &self.questions, top, truths)?;
        let candidate = |found: retrieval::Candidate| Candidate { row: found.document, bm25: Some(found.score) };
        Ok(found.into_iter().flatten().map(candidate).collect())
    }
}

fn failed(error: EncodeError) -> OperatorError {
    invalid(KIND, "originals", error.to_string())
}

/// Checks the type of a column of candidates.
pub(super) fn check(column: &str, found: &DataType) -> Result<()> {
    if let DataType::List(item) | DataType::LargeList(item) = found
        && is_id(item.data_type())
    {
        return Ok(());
    }
    Err(OperatorError::ColumnType {
        kind: KIND.to_owned(),
        column: column.to_owned(),
        found: found.to_string(),
        expected: "a list of texts or whole numbers, the ids of originals".to_owned(),
    })
}

/// The candidates that a row names, in its order.
pub(super) fn given(column: &ArrayRef, row: usize, originals: &Originals) -> Result<Vec<Candidate>, String> {
    let ids = elements(column, row).filter(|_| column.is_valid(row)).ok_or("it has no list of candidates")?;
    let mut rows = Vec::with_capacity(ids.len());
    for place in 0..ids.len() {
        let id = id_of(&ids, place).ok_or_else(|| format!("candidate {place} is null"))?;
        let row = originals.row(&id).ok_or_else(|| format!("candidate '{id}' is not among the originals"))?;
        if rows.contains(&row) {
            return Err(format!("candidate '{id}' is named twice"));
        }
        rows.push(row);
    }
    if rows.is_empty() {
        return Err("its list of candidates is empty".to_owned());
    }
    Ok(rows.into_iter().map(|row| Candidate { row, bm25: None }).collect())
}

//! Scores of documents against queries, one document at a time.
//!
//! The inverted index is that of the queries: for each term the queries that have it. So a document costs its own length
//! and the queries that share a term with it, and no document is kept. Scores are sums of products of what a term counts in the
//! document and in the query, so the mean over a group of queries is a sum with mean weights, and costs as one query.
//! Sums are taken in the order in which terms come in a document, which is the same whatever stands around it.

use std::sync::Arc;

use super::bm25::Bm25;
use super::lexicon::Lexicon;
use super::queries::{Aggregate, Queries};
use super::statistics::CorpusStatistics;
use super::terms::{TermScratch, Terms};
use super::vectors::{TermVectors, Weights};
use crate::tokens::EncodeError;

/// Queries made ready for documents to be compared with. Shared between threads.
///
/// ```
/// use std::sync::Arc;
/// use gristmill_operators::retrieval::{Bm25, CorpusStatistics, Queries, QueryIndex, Scorer, Terms};
///
/// let documents = ["a fox", "a dog", "a cat and a fox"];
/// let terms = Terms::whitespace();
/// let statistics = CorpusStatistics::of(&terms, documents)?;
/// let index = QueryIndex::bm25(&terms, &statistics, Bm25::default(), &Queries::new(["dog", "cat fox"]))?;
/// let mut scorer = Scorer::new(Arc::new(index));
/// let scores = scorer.score("a dog")?;
/// assert!(scores[0] > 0.5 && scores[1] == 0.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct QueryIndex {
    terms: Terms,
    lexicon: Lexicon,
    measure: Measure,
    /// The postings of each term of the lexicon are those from its place to that of the next.
    places: Vec<usize>,
    postings: Vec<Posting>,
    /// How many sums postings go to.
    columns: usize,
    /// Which sums each score is the largest of, where it is not a sum itself.
    nearest: Option<Vec<Vec<usize>>>,
    names: Vec<String>,
}

/// What a term counts in a query or in the mean of several.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Posting {
    column: usize,
    weight: f64,
}

/// What terms count in a document.
#[derive(Clone, Debug)]
enum Measure {
    Okapi { parameters: Bm25, average_length: f64, idf: Vec<f64> },
    Frequency,
    TfIdf { idf: Vec<f64> },
}

/// How often a query has the terms of the lexicon, in the order in which they come first.
type Counted = Vec<(usize, u64)>;

impl QueryIndex {
    /// Scores by Okapi BM25. Statistics are those of the documents; of other terms they give other scores.
    ///
    /// # Errors
    /// A query that the tokenizer cannot encode.
    pub fn bm25(
        terms: &Terms,
        statistics: &CorpusStatistics,
        parameters: Bm25,
        queries: &Queries,
    ) -> Result<Self, EncodeError> {
        let mut lexicon = Lexicon::default();
        let counted = count(terms, &mut lexicon, true, queries)?;
        let floor = parameters.floor(statistics);
        let idf = (0..lexicon.len())
            .map(|slot| Bm25::idf(statistics, statistics.documents_with(lexicon.term(slot)), floor))
            .collect();
        let measure = Measure::Okapi { parameters, average_length: statistics.average_length(), idf };
        let vectors = counted.into_iter().map(|query| query.into_iter().map(|(slot, n)| (slot, n as f64)).collect());
        Ok(Self::new(terms, lexicon, measure, vectors.collect(), queries))
    }

    /// Scores by the cosine of vectors over terms, from 0 to 1; that of a text without terms that count is 0.
    ///
    /// # Errors
    /// A query that the tokenizer cannot encode.
    pub fn cosine(vectors: &TermVectors, queries: &Queries) -> Result<Self, EncodeError> {
        let terms = &vectors.terms;
        let (lexicon, counted, measure) = match &vectors.weights {
            Weights::Frequency => {
                let mut lexicon = Lexicon::default();
                let counted = count(terms, &mut lexicon, true, queries)?;
                (lexicon, counted, Measure::Frequency)
            }
            Weights::Vocabulary { lexicon, idf } => {
                let mut lexicon = lexicon.clone();
                let counted = count(terms, &mut lexicon, false, queries)?;
                (lexicon, counted, Measure::TfIdf { idf: idf.clone() })
            }
        };
        let unit = |query: Counted| -> Vec<(usize, f64)> {
            let weighted: Vec<(usize, f64)> =
                query.into_iter().map(|(slot, count)| (slot, measure.weight(slot, count))).collect();
            let norm = weighted.iter().map(|(_, weight)| weight * weight).sum::<f64>().sqrt();
            weighted.into_iter().map(|(slot, weight)| (slot, weight / norm)).collect()
        };
        let units = counted.into_iter().map(unit).collect();
        Ok(Self::new(terms, lexicon, measure, units, queries))
    }

    /// Names of the scores that a document gets.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    fn new(
        terms: &Terms,
        lexicon: Lexicon,
        measure: Measure,
        vectors: Vec<Vec<(usize, f64)>>,
        queries: &Queries,
    ) -> Self {
        let sizes = queries.sizes();
        let mut of_terms: Vec<Vec<Posting>> = vec![Vec::new(); lexicon.len()];
        for (number, vector) in vectors.into_iter().enumerate() {
            let score = queries.scores[number];
            let (column, share) = match queries.aggregate {
                Aggregate::Mean => (score, sizes[score] as f64),
                Aggregate::None | Aggregate::Nearest => (number, 1.0),
            };
            for (slot, weight) in vector {
                of_terms[slot].push(Posting { column, weight: weight / share });
            }
        }
        let mut places = vec![0];
        let mut postings: Vec<Posting> = Vec::new();
        for mut of_term in of_terms {
            let begin = postings.len();
            // A stable sort: the weights of a group are added in the order of its queries.
            of_term.sort_by_key(|posting| posting.column);
            for posting in of_term {
                match postings[begin..].last_mut() {
                    Some(last) if last.column == posting.column => last.weight += posting.weight,
                    _ => postings.push(posting),
                }
            }
            places.push(postings.len());
        }
        let nearest = (queries.aggregate == Aggregate::Nearest).then(|| {
            let mut groups = vec![Vec::new(); sizes.len()];
            queries.scores.iter().enumerate().for_each(|(number, &score)| groups[score].push(number));
            groups
        });
        let columns = if queries.aggregate == Aggregate::Mean { sizes.len() } else { queries.scores.len() };
        let names = queries.names().to_vec();
        Self { terms: terms.clone(), lexicon, measure, places, postings, columns, nearest, names }
    }
}

impl Measure {
    /// What a term counts in a vector.
    fn weight(&self, slot: usize, count: u64) -> f64 {
        match self {
            Self::TfIdf { idf } => count as f64 * idf[slot],
            Self::Frequency | Self::Okapi { .. } => count as f64,
        }
    }
}

/// Counts the terms of queries; those that the lexicon does not have are added to it if `grow`, and left out otherwise.
fn count(terms: &Terms, lexicon: &mut Lexicon, grow: bool, queries: &Queries) -> Result<Vec<Counted>, EncodeError> {
    let mut scratch = TermScratch::default();
    let mut counts = Vec::new();
    let count = |text: &String| {
        let mut order = Vec::new();
        terms.each(text, &mut scratch, |term| {
            let slot = if grow { Some(lexicon.intern(term)) } else { lexicon.get(term) };
            let Some(slot) = slot else { return };
            if slot >= counts.len() {
                counts.resize(slot + 1, 0);
            }
            if counts[slot] == 0 {
                order.push(slot);
            }
            counts[slot] += 1;
        })?;
        Ok(order.into_iter().map(|slot| (slot, std::mem::take(&mut counts[slot]))).collect())
    };
    queries.texts.iter().map(count).collect()
}

/// Compares documents with the queries of an index, one after the other. One per thread.
#[derive(Debug)]
pub struct Scorer {
    index: Arc<QueryIndex>,
    scratch: TermScratch,
    /// How often the document has each term of the lexicon.
    counts: Vec<u64>,
    /// The terms of the lexicon that it has, in the order in which they come first.
    found: Vec<usize>,
    /// Terms of the document that are not in the lexicon, where they count.
    others: Lexicon,
    other_counts: Vec<u64>,
    sums: Vec<f64>,
    scores: Vec<f64>,
}

impl Scorer {
    /// A scorer that has seen no document.
    #[must_use]
    pub fn new(index: Arc<QueryIndex>) -> Self {
        Self {
            scratch: TermScratch::default(),
            counts: vec![0; index.lexicon.len()],
            found: Vec::new(),
            others: Lexicon::default(),
            other_counts: Vec::new(),
            sums: vec![0.0; index.columns],
            scores: vec![0.0; index.names.len()],
            index,
        }
    }

    /// Scores of a document, in the order of the names. A document without terms has scores of 0.
    ///
    /// # Errors
    /// A text that the tokenizer cannot encode.
    pub fn score(&mut self, text: &str) -> Result<&[f64], EncodeError> {
        let index = &*self.index;
        let length = match index.measure {
            Measure::Frequency => self.count_all(text)?,
            Measure::Okapi { .. } | Measure::TfIdf { .. } => self.count_known(text)?,
        };
        let index = &*self.index;
        self.sums.fill(0.0);
        let mut squares = 0.0;
        for slot in self.found.drain(..) {
            let count = std::mem::take(&mut self.counts[slot]);
            let weight = match &index.measure {
                Measure::Okapi { parameters, average_length, idf } => {
                    idf[slot] * parameters.saturation(count, length, *average_length)
                }
                measure => measure.weight(slot, count),
            };
            squares += weight * weight;
            for posting in &index.postings[index.places[slot]..index.places[slot + 1]] {
                self.sums[posting.column] += posting.weight * weight;
            }
        }
        if !matches!(index.measure, Measure::Okapi { .. }) {
            squares += self.other_counts.iter().map(|&count| count as f64 * count as f64).sum::<f64>();
            let norm = squares.sqrt();
            if norm > 0.0 {
                self.sums.iter_mut().for_each(|sum| *sum /= norm);
            }
        }
        let Some(groups) = &index.nearest else { return Ok(&self.sums) };
        for (score, group) in self.scores.iter_mut().zip(groups) {
            *score = group.iter().map(|&query| self.sums[query]).fold(f64::NEG_INFINITY, f64::max);
        }
        Ok(&self.scores)
    }

    /// Counts the terms of the lexicon; the number of all terms of the text.
    fn count_known(&mut self, text: &str) -> Result<u64, EncodeError> {
        let (index, counts, found) = (&*self.index, &mut self.counts, &mut self.found);
        let mut length = 0;
        index.terms.each(text, &mut self.scratch, |term| {
            length += 1;
            if let Some(slot) = index.lexicon.get(term) {
                if counts[slot] == 0 {
                    found.push(slot);
                }
                counts[slot] += 1;
            }
        })?;
        Ok(length)
    }

    /// The same, and counts the other terms, too.
    fn count_all(&mut self, text: &str) -> Result<u64, EncodeError> {
        let (index, counts, found) = (&*self.index, &mut self.counts, &mut self.found);
        let (others, other_counts) = (&mut self.others, &mut self.other_counts);
        others.clear();
        other_counts.clear();
        let mut length = 0;
        index.terms.each(text, &mut self.scratch, |term| {
            length += 1;
            if let Some(slot) = index.lexicon.get(term) {
                if counts[slot] == 0 {
                    found.push(slot);
                }
                counts[slot] += 1;
                return;
            }
            let other = others.intern(term);
            if other == other_counts.len() {
                other_counts.push(0);
            }
            other_counts[other] += 1;
        })?;
        Ok(length)
    }
}

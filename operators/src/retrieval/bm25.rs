//! Okapi BM25.

use super::statistics::CorpusStatistics;

/// Parameters of Okapi BM25, as `BM25Okapi` of the Python package `rank_bm25` has it.
///
/// The score of a document for a query is the sum, over the terms of the query, repeated ones each time, of
/// `idf · f (k1 + 1) / (f + k1 (1 − b + b · length / average length))`, where `f` is the number of times that the document
/// has the term, `length` the number of the document's terms and `idf = ln(N − n + 0.5) − ln(n + 0.5)` for a term in `n` of
/// `N` documents. A negative `idf`, of a term in more than half of the documents, is replaced by `epsilon` times the mean
/// over all terms of the corpus (before the replacement). Terms that the corpus does not have add nothing.
///
/// Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond (2009); the floor is that of Trotman,
/// Puurula and Burgess, Improvements to BM25 and Language Models Examined (2014).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bm25 {
    /// How slowly a term's repetitions saturate; at least 0.
    pub k1: f64,
    /// How much long documents are held back, from 0 (not) to 1.
    pub b: f64,
    /// Share of the mean `idf` that terms get whose own is negative; at least 0.
    pub epsilon: f64,
}

impl Default for Bm25 {
    fn default() -> Self {
        Self { k1: 1.5, b: 0.75, epsilon: 0.25 }
    }
}

impl Bm25 {
    /// A parameter that is out of range, with a message.
    pub(super) fn out_of_range(&self) -> Option<(&'static str, String)> {
        let allowed = |name, value: f64, fits: bool, range: &str| {
            (!fits || !value.is_finite()).then(|| (name, format!("{value} is not allowed; allowed are {range}")))
        };
        allowed("k1", self.k1, self.k1 >= 0.0, "numbers of at least 0")
            .or_else(|| allowed("b", self.b, (0.0..=1.0).contains(&self.b), "numbers from 0 to 1"))
            .or_else(|| allowed("epsilon", self.epsilon, self.epsilon >= 0.0, "numbers of at least 0"))
    }

    /// What a term counts that `documents_with` of the documents have, with `floor` in place of a negative value.
    pub(super) fn idf(statistics: &CorpusStatistics, documents_with: u64, floor: f64) -> f64 {
        if documents_with == 0 {
            return 0.0;
        }
        let idf = Self::plain_idf(statistics.documents(), documents_with);
        if idf < 0.0 { floor } else { idf }
    }

    /// What terms get whose own `idf` is negative.
    pub(super) fn floor(&self, statistics: &CorpusStatistics) -> f64 {
        // Over numbers of documents in order, and not over terms, so that the sum has one order.
        let (sum, terms) = statistics.by_documents().into_iter().fold((0.0, 0), |(sum, all), (documents, terms)| {
            (sum + terms as f64 * Self::plain_idf(statistics.documents(), documents), all + terms)
        });
        if terms == 0 { 0.0 } else { self.epsilon * (sum / terms as f64) }
    }

    fn plain_idf(documents: u64, documents_with: u64) -> f64 {
        let (documents, with) = (documents as f64, documents_with as f64);
        (documents - with + 0.5).ln() - (with + 0.5).ln()
    }

    /// What an occurrence is multiplied with: `idf` aside, the weight of a term that a document of `length` terms has
    /// `count` times.
    pub(super) fn saturation(&self, count: u64, length: u64, average_length: f64) -> f64 {
        let count = count as f64;
        let held_back = self.k1 * (1.0 - self.b + self.b * length as f64 / average_length);
        count * (self.k1 + 1.0) / (count + held_back)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::retrieval::Terms;

    #[test]
    fn frequent_terms_get_a_share_of_the_mean() {
        let statistics = CorpusStatistics::of(&Terms::whitespace(), ["a b", "a c", "a d", "e"]).unwrap();
        // a is in 3 of 4 documents, the other four terms in one.
        let rare = 3.5_f64.ln() - 1.5_f64.ln();
        let mean = (4.0 * rare + (1.5_f64.ln() - 3.5_f64.ln())) / 5.0;
        let floor = Bm25::default().floor(&statistics);
        assert!((floor - 0.25 * mean).abs() < 1e-15);
        assert_eq!(Bm25::idf(&statistics, 3, floor), floor);
        assert!((Bm25::idf(&statistics, 1, floor) - rare).abs() < 1e-15);
        // Half of the documents: 0 is not negative.
        assert_eq!((Bm25::idf(&statistics, 2, floor), Bm25::idf(&statistics, 0, floor)), (0.0, 0.0));
        assert_eq!(Bm25::default().floor(&CorpusStatistics::default()), 0.0);
    }

    #[test]
    fn repetitions_saturate() {
        let bm25 = Bm25::default();
        assert!((bm25.saturation(2, 6, 4.0) - 2.0 * 2.5 / (2.0 + 1.5 * (0.25 + 0.75 * 1.5))).abs() < 1e-15);
        assert_eq!(Bm25 { k1: 0.0, ..bm25 }.saturation(7, 6, 4.0), 1.0);
    }

    #[test]
    fn parameters_have_ranges() {
        let bm25 = Bm25::default();
        for (parameters, key) in [
            (Bm25 { k1: -0.1, ..bm25 }, "k1"),
            (Bm25 { k1: f64::INFINITY, ..bm25 }, "k1"),
            (Bm25 { b: 1.1, ..bm25 }, "b"),
            (Bm25 { b: f64::NAN, ..bm25 }, "b"),
            (Bm25 { epsilon: -1.0, ..bm25 }, "epsilon"),
        ] {
            assert_eq!(parameters.out_of_range().unwrap().0, key);
        }
        assert_eq!(bm25.out_of_range(), None);
    }
}

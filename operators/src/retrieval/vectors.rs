//! Texts as vectors over terms.

use std::cmp::Reverse;
use std::num::NonZeroUsize;

use super::lexicon::Lexicon;
use super::statistics::CorpusStatistics;
use super::terms::Terms;

/// How texts become vectors whose cosines are scores.
#[derive(Clone, Debug)]
pub struct TermVectors {
    pub(super) terms: Terms,
    pub(super) weights: Weights,
}

#[derive(Clone, Debug)]
pub(super) enum Weights {
    /// Every term of a text counts as often as it occurs.
    Frequency,
    /// Only the terms of a vocabulary count, each times a number of its own.
    Vocabulary { lexicon: Lexicon, idf: Vec<f64> },
}

impl TermVectors {
    /// Vectors of how often each term occurs, over the terms of documents and queries together. That counts may be divided
    /// by a text's length does not show in cosines.
    #[must_use]
    pub fn token_frequency(terms: Terms) -> Self {
        Self { terms, weights: Weights::Frequency }
    }

    /// Vectors of `count · idf` with `idf = ln((1 + N) / (1 + n)) + 1` for a term in `n` of `N` documents: `TfidfVectorizer` of
    /// scikit-learn with its defaults, where `terms` are [`Terms::words`].
    ///
    /// Of the terms of the corpus the `max_features` with the most occurrences count, all where it is absent. Which of
    /// several terms with as many occurrences come in is left open by scikit-learn, whose sort is not stable and
    /// differs between processors; here it is those that come first by their characters.
    #[must_use]
    pub fn tf_idf(terms: Terms, statistics: &CorpusStatistics, max_features: Option<NonZeroUsize>) -> Self {
        let mut chosen = statistics.lexicon.sorted();
        chosen.sort_by_key(|&term| Reverse(statistics.counts[term].occurrences));
        chosen.truncate(max_features.map_or(usize::MAX, NonZeroUsize::get));
        let mut lexicon = Lexicon::default();
        let mut idf = Vec::with_capacity(chosen.len());
        for term in chosen {
            lexicon.intern(statistics.lexicon.term(term));
            let with = statistics.counts[term].documents as f64;
            idf.push(((1.0 + statistics.documents() as f64) / (1.0 + with)).ln() + 1.0);
        }
        Self { terms, weights: Weights::Vocabulary { lexicon, idf } }
    }

    /// What an occurrence of a term counts; absent for terms that do not count.
    #[must_use]
    pub fn weight(&self, term: &str) -> Option<f64> {
        match &self.weights {
            Weights::Frequency => Some(1.0),
            Weights::Vocabulary { lexicon, idf } => lexicon.get(term).map(|slot| idf[slot]),
        }
    }

    /// How many terms count; absent where all do.
    #[must_use]
    pub fn features(&self) -> Option<usize> {
        match &self.weights {
            Weights::Frequency => None,
            Weights::Vocabulary { idf, .. } => Some(idf.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn frequent_terms_count_and_ties_go_by_the_alphabet() {
        let terms = Terms::words();
        let statistics = CorpusStatistics::of(&terms, ["zz zz bb", "dd cc", "aa"]).unwrap();
        let of = |limit| {
            let vectors = TermVectors::tf_idf(terms.clone(), &statistics, NonZeroUsize::new(limit));
            let kept: Vec<&str> =
                ["aa", "bb", "cc", "dd", "zz"].into_iter().filter(|term| vectors.weight(term).is_some()).collect();
            assert_eq!(vectors.features(), Some(kept.len()));
            kept.join(" ")
        };
        assert_eq!((of(0), of(1), of(3)), ("aa bb cc dd zz".to_owned(), "zz".to_owned(), "aa bb zz".to_owned()));
        assert_eq!(of(9), "aa bb cc dd zz");
        let vectors = TermVectors::tf_idf(terms.clone(), &statistics, None);
        assert_eq!((vectors.weight("zz"), vectors.weight("xx")), (Some(2_f64.ln() + 1.0), None));
        let vectors = TermVectors::token_frequency(terms);
        assert_eq!((vectors.weight("xx"), vectors.features()), (Some(1.0), None));
    }
}

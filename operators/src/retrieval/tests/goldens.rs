//! Scores of `rank_bm25` and scikit-learn: `benches/peers/retrieval_values.py` makes the files of `testdata`.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::retrieval::{
    Aggregate, Bm25, Candidate, CorpusStatistics, Queries, QueryIndex, Scorer, TermVectors, Terms, candidates,
};
use crate::tokens::Tokenizer;

/// What the expected values were made with.
#[derive(Debug)]
struct Setting {
    documents: Vec<String>,
    queries: Queries,
    tokens: Terms,
    features: Option<NonZeroUsize>,
}

/// The index that a name of the expected values stands for.
fn index(name: &str, setting: &Setting) -> Arc<QueryIndex> {
    let Setting { documents, queries, tokens, features } = setting;
    let (whitespace, words) = (Terms::whitespace(), Terms::words());
    let of = |terms: &Terms| CorpusStatistics::of(terms, documents).unwrap();
    let bm25 = |terms: &Terms, bm25: Bm25| QueryIndex::bm25(terms, &of(terms), bm25, queries);
    let frequency = |terms: &Terms| QueryIndex::cosine(&TermVectors::token_frequency(terms.clone()), queries);
    let tf_idf = |terms: &Terms, statistics: CorpusStatistics, features| {
        QueryIndex::cosine(&TermVectors::tf_idf(terms.clone(), &statistics, features), queries)
    };
    let made = match name {
        "bm25 whitespace" => bm25(&whitespace, Bm25::default()),
        "bm25 words" => bm25(&words, Bm25::default()),
        "bm25 tokens" => bm25(tokens, Bm25::default()),
        "bm25 parameters" => bm25(&words, Bm25 { k1: 0.9, b: 0.4, epsilon: 0.1 }),
        "frequency words" => frequency(&words),
        "frequency tokens" => frequency(tokens),
        "tfidf" => tf_idf(&words, of(&words), None),
        "tfidf features" => tf_idf(&words, of(&words), *features),
        "tfidf both" => {
            let both = CorpusStatistics::of(&words, documents.iter().chain(queries.texts())).unwrap();
            tf_idf(&words, both, None)
        }
        "tfidf tokens" => tf_idf(tokens, of(tokens), None),
        other => panic!("nothing is known of '{other}'"),
    };
    Arc::new(made.unwrap())
}

/// Scores `[documents, queries]`.
fn scores(index: &Arc<QueryIndex>, documents: &[String]) -> Vec<Vec<f64>> {
    let mut scorer = Scorer::new(Arc::clone(index));
    documents.iter().map(|document| scorer.score(document).unwrap().to_vec()).collect()
}

#[track_caller]
fn close(found: f64, expected: f64, what: impl FnOnce() -> String) {
    assert!((found - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{}: {found}, not {expected}", what());
}

fn tokens(path: &Path, limit: u32) -> Terms {
    let tokenizer = Tokenizer::from_bytes("tokenizer", &std::fs::read(path).unwrap()).unwrap();
    Terms::tokens(tokenizer, "", NonZeroU32::new(limit))
}

#[derive(Debug, Deserialize)]
pub(super) struct Table {
    pub(super) tokenizer: String,
    pub(super) limit: u32,
    features: usize,
    pub(super) documents: Vec<String>,
    pub(super) queries: Vec<String>,
    pub(super) groups: Vec<String>,
    pub(super) scores: std::collections::BTreeMap<String, Vec<Vec<f64>>>,
}

impl Table {
    pub(super) fn read() -> Self {
        serde_json::from_str(include_str!("../testdata/table.json")).unwrap()
    }

    pub(super) fn tokenizer_file(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tokenizers").join(&self.tokenizer)
    }

    fn setting(&self, queries: Queries) -> Setting {
        Setting {
            documents: self.documents.clone(),
            queries,
            tokens: tokens(&self.tokenizer_file(), self.limit),
            features: NonZeroUsize::new(self.features),
        }
    }
}

#[test]
fn every_score_of_the_table_is_that_of_the_other_program() {
    let table = Table::read();
    let setting = table.setting(Queries::new(&table.queries));
    assert_eq!(table.scores.len(), 10);
    for (name, expected) in &table.scores {
        let found = scores(&index(name, &setting), &setting.documents);
        assert_eq!(found.len(), expected.len());
        for (row, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert_eq!(found.len(), expected.len());
            for (query, (&found, &expected)) in found.iter().zip(expected).enumerate() {
                close(found, expected, || format!("{name}, document {row}, query {query}"));
            }
        }
    }
}

#[test]
fn groups_are_means_and_maxima_of_the_single_scores() {
    let table = Table::read();
    for (aggregate, expected) in [
        (Aggregate::Mean, (|group: &[f64]| group.iter().sum::<f64>() / group.len() as f64) as fn(&[f64]) -> f64),
        (Aggregate::Nearest, |group| group.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
    ] {
        let setting = table.setting(Queries::grouped(&table.queries, &table.groups, aggregate));
        for (name, single) in &table.scores {
            let index = index(name, &setting);
            assert_eq!(index.names(), ["F", "G", "corn"]);
            for (row, (found, single)) in scores(&index, &setting.documents).iter().zip(single).enumerate() {
                for (name_of_group, &found) in index.names().iter().zip(found) {
                    let members = single.iter().zip(&table.groups).filter(|(_, group)| *group == name_of_group);
                    let members: Vec<f64> = members.map(|(&score, _)| score).collect();
                    close(found, expected(&members), || format!("{name}, {aggregate:?}, document {row}"));
                }
            }
        }
    }
}

#[test]
fn candidates_are_the_best_documents_and_the_truth() {
    let table = Table::read();
    // Each document twice, so that there are as many ties as there can be.
    let documents: Vec<String> = table.documents.iter().chain(&table.documents).cloned().collect();
    let setting = Setting { documents: documents.clone(), ..table.setting(Queries::new(&table.queries)) };
    let truths: Vec<usize> = (0..table.queries.len()).map(|query| query * 5).collect();
    for name in table.scores.keys() {
        let index = index(name, &setting);
        let all = scores(&index, &documents);
        for k in [1, 5, 48, 60] {
            let found = candidates(&index, &documents, k, None).unwrap();
            let forced = candidates(&index, &documents, k, Some(&truths)).unwrap();
            for query in 0..table.queries.len() {
                let of = |document: usize| Candidate { document, score: all[document][query] };
                let mut expected: Vec<Candidate> = (0..documents.len()).map(of).collect();
                expected
                    .sort_by(|one, other| other.score.total_cmp(&one.score).then(one.document.cmp(&other.document)));
                expected.truncate(k);
                assert_eq!(found[query], expected, "{name}, {k}");
                if expected.iter().all(|found| found.document != truths[query]) {
                    *expected.last_mut().unwrap() = of(truths[query]);
                }
                assert_eq!(forced[query], expected, "{name}, {k}");
            }
        }
    }
    let index = index("bm25 words", &setting);
    for (k, truths, says) in [
        (0, None, "'k': 0 is not allowed"),
        (1, Some(&truths[1..]), "7 true documents for 8 queries"),
        (1, Some(&[0, 0, 0, 0, 0, 0, 0, 48]), "query 7 has the true document 48, which is not there"),
    ] {
        let message = candidates(&index, &documents, k, truths).unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
    }
}

/// Sums of scores, and the best documents, of a few hundred texts in many languages.
#[derive(Debug, Deserialize)]
struct Summary {
    documents: Vec<f64>,
    queries: Vec<f64>,
    best: Vec<Vec<(usize, f64)>>,
}

#[derive(Debug, Deserialize)]
struct Sample {
    limit: u32,
    features: usize,
    scores: std::collections::BTreeMap<String, Summary>,
}

#[test]
fn scores_of_a_sample_of_the_corpus_are_those_of_the_other_program() {
    let data = std::env::var_os("GRISTMILL_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"), PathBuf::from);
    let Ok(lines) = std::fs::read_to_string(data.join("corpus/sample.jsonl")) else {
        println!("skipped: no data at {}", data.display());
        return;
    };
    let sample: Sample = serde_json::from_str(include_str!("../testdata/sample.json")).unwrap();
    let rows = sample.scores["tfidf"].documents.len();
    let text = |line: &str| serde_json::from_str::<Value>(line).unwrap()["text"].as_str().unwrap().to_owned();
    let documents: Vec<String> = lines.lines().take(rows).map(text).collect();
    let queries = documents.iter().skip(7).step_by(25).map(|document| document.chars().take(200).collect::<String>());
    let setting = Setting {
        queries: Queries::new(queries),
        tokens: tokens(&data.join("tokenizers/gpt2.json"), sample.limit),
        features: NonZeroUsize::new(sample.features),
        documents,
    };
    assert!(rows >= 200 && sample.scores.len() == 10);
    for (name, expected) in &sample.scores {
        let index = index(name, &setting);
        let found = scores(&index, &setting.documents);
        for (row, (found, &expected)) in found.iter().zip(&expected.documents).enumerate() {
            close(found.iter().sum(), expected, || format!("{name}, document {row}"));
        }
        for (query, &expected) in expected.queries.iter().enumerate() {
            close(found.iter().map(|row| row[query]).sum(), expected, || format!("{name}, query {query}"));
        }
        let best = candidates(&index, &setting.documents, 5, None).unwrap();
        for (query, (best, expected)) in best.iter().zip(&expected.best).enumerate() {
            for (place, (found, &(document, score))) in best.iter().zip(expected).enumerate() {
                let what = || format!("{name}, query {query}, place {place}");
                close(found.score, score, what);
                // Sums in another order can be apart in their last digits, and change places.
                let tied = expected.iter().filter(|(_, other)| (other - score).abs() < 1e-9).count() > 1;
                assert!(found.document == document || tied, "{}: {} and not {document}", what(), found.document);
            }
        }
    }
}

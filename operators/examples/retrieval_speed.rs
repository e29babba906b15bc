//! Scores texts against queries by the terms that they share, so that other programs can be compared.
//!
//! `retrieval_speed`. Reads one JSON object from its input, `{"texts": ["…"], "queries": ["…"], "method": "bm25", "terms": "words", "passes": 3}`, and
//! answers with `{"statistics": 0.5, "index": 0.1, "scores": 0.5, "values": [[…], …]}`: the shortest times of the passes in seconds, of the processor where
//! the system can tell, for counting the corpus, for making the queries ready, and for comparing every text with every query; and the scores of
//! each text. Both of the stages that read texts split them into terms. `method` is `bm25`, `tfidf` or `token_frequency`, `terms` is `whitespace` or `words`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a benchmark fails by panicking")]

#[path = "../../kernels/examples/shared/processor_time.rs"]
mod processor_time;

use std::sync::Arc;
use std::time::Duration;

use gristmill_operators::retrieval::{Bm25, CorpusStatistics, Queries, QueryIndex, Scorer, TermVectors, Terms};
use processor_time::now;
use serde::Deserialize;
use serde_json::json;

#[derive(Deserialize)]
struct Request {
    texts: Vec<String>,
    queries: Vec<String>,
    method: String,
    terms: String,
    passes: usize,
}

fn main() {
    let request: Request = serde_json::from_reader(std::io::stdin().lock()).unwrap();
    let terms = match request.terms.as_str() {
        "whitespace" => Terms::whitespace(),
        "words" => Terms::words(),
        other => panic!("terms are 'whitespace' or 'words', not '{other}'"),
    };
    let queries = Queries::new(&request.queries);
    let mut shortest = [Duration::MAX; 3];
    let mut values = vec![0.0; request.texts.len() * request.queries.len()];
    for _ in 0..request.passes {
        let begun = now();
        let statistics = CorpusStatistics::of(&terms, &request.texts).unwrap();
        let counted = now();
        let index = match request.method.as_str() {
            "bm25" => QueryIndex::bm25(&terms, &statistics, Bm25::default(), &queries),
            "tfidf" => QueryIndex::cosine(&TermVectors::tf_idf(terms.clone(), &statistics, None), &queries),
            "token_frequency" => QueryIndex::cosine(&TermVectors::token_frequency(terms.clone()), &queries),
            other => panic!("a method is 'bm25', 'tfidf' or 'token_frequency', not '{other}'"),
        };
        let mut scorer = Scorer::new(Arc::new(index.unwrap()));
        let ready = now();
        for (text, values) in request.texts.iter().zip(values.chunks_exact_mut(request.queries.len())) {
            values.copy_from_slice(scorer.score(text).unwrap());
        }
        let done = now();
        for (shortest, time) in shortest.iter_mut().zip([counted - begun, ready - counted, done - ready]) {
            *shortest = time.min(*shortest);
        }
    }
    let [statistics, index, scores] = shortest.map(|time| time.as_secs_f64());
    let values: Vec<&[f64]> = values.chunks_exact(request.queries.len()).collect();
    println!("{}", json!({"statistics": statistics, "index": index, "scores": scores, "values": values}));
}

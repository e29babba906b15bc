//! What was put into a corpus is found.

use serde_json::json;

use super::{corpus, model, queries, score, table, texts_as_queries, word_tokenizer};
use crate::models::tests::reference;

/// Language models of all architectures.
const SMALL: [&str; 10] = [
    "small/gpt2",
    "small/llama-biases",
    "small/llama-dynamic",
    "small/llama-linear",
    "small/llama-longrope",
    "small/llama-yarn",
    "small/mistral-window",
    "small/neox-sequential",
    "small/qwen2-window",
    "small/qwen3",
];

/// The row with the largest score of a query.
fn best(scores: &[Vec<f32>], query: usize) -> usize {
    (0..scores.len()).max_by(|&a, &b| scores[a][query].total_cmp(&scores[b][query])).unwrap()
}

#[test]
fn the_copy_of_a_query_is_its_nearest_row_with_every_architecture() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = word_tokenizer(folder.path());
    let words: Vec<String> = (0..12_u32)
        .map(|row| (0..9).map(|k| format!("w{}", (row * 37 + k * k * (row + 3)) % 64)).collect::<Vec<_>>().join(" "))
        .collect();
    let rows: Vec<Option<&str>> = words.iter().map(|text| Some(text.as_str())).collect();
    let (_kept, wanted) = texts_as_queries(&[&words[7], &words[2], &words[10]]);
    for name in SMALL {
        let model = reference(name).unwrap();
        for dimension in [0, 8] {
            let config = json!({
                "model": model, "tokenizer": tokenizer, "queries": wanted, "method": "cosine", "dimension": dimension,
            });
            let scores = score(config, &table(&rows));
            for (query, row) in [(0, 7), (1, 2), (2, 10)] {
                assert_eq!(best(&scores, query), row, "{name}, dimension {dimension}: {scores:?}");
                assert!((scores[row][query] - 1.0).abs() < 1e-5, "{name}: {}", scores[row][query]);
            }
        }
    }
    for name in ["llama", "llama3", "qwen2", "olmo", "olmo2", "gpt-neox"] {
        let Some(model) = reference(name) else { continue };
        let (_kept, wanted) = texts_as_queries(&[super::TEXTS[5], super::TEXTS[1]]);
        for method in ["cosine", "representation"] {
            let scores = score(json!({"model": model, "queries": wanted, "method": method}), &corpus());
            assert_eq!([best(&scores, 0), best(&scores, 1)], [5, 1], "{name}, {method}");
        }
    }
}

#[test]
fn a_fact_is_found_by_its_prompt_and_completion() {
    let facts = ["Alva was born in Oslo", "Boris was born in Kyiv", "Chen was born in Wuhan", "Dana was born in Turin"];
    let rows = facts.map(Some);
    let lines = [("Chen was born in", " Wuhan"), ("Alva was born in", " Oslo")];
    let lines = lines.map(|(prompt, completion)| json!({"prompt": prompt, "completion": completion}));
    let (_kept, wanted) = queries(&lines);
    for method in ["cosine", "dot", "identity"] {
        let scores = score(json!({"model": model(), "queries": wanted, "method": method}), &table(&rows));
        assert_eq!([best(&scores, 0), best(&scores, 1)], [2, 0], "{method}: {scores:?}");
    }
}

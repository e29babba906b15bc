//! What pipelines need: models, and texts that they read.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use serde_json::{Map, json};

use crate::shapes::{bert_base, llama_1b, modernbert_large, neox_160m, write};

/// Words that the tokenizer knows.
const WORDS: u64 = 30_000;

/// Files of texts.
const FILES: usize = 8;

/// Writes a model, a tokenizer of words, texts of so many tokens in Parquet, and queries.
pub(crate) fn write_corpus(folder: &Path, shape: &str, texts: usize, length: usize) {
    let shape = match shape {
        "bert" => bert_base(),
        "modernbert" => modernbert_large(),
        "160m" => neox_160m(),
        "1b" => llama_1b(),
        other => panic!("{other}: bert, modernbert, 160m and 1b are allowed"),
    };
    write(&shape, &folder.join("model"));
    let words: Map<String, serde_json::Value> = (0..WORDS).map(|word| (format!("w{word}"), json!(word))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
    });
    std::fs::write(folder.join("model/tokenizer.json"), tokenizer.to_string()).unwrap();
    let mut state = 1_u64;
    let mut text = |length: usize| {
        let mut text = String::new();
        for _ in 0..length {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let _written = write!(text, "w{} ", (state >> 33) % WORDS);
        }
        text
    };
    // Several files, so that several are read at once.
    let each = texts.div_ceil(FILES).max(1);
    for (number, first) in (0..texts).step_by(each).enumerate() {
        let ids = first..texts.min(first + each);
        let rows: Vec<String> = ids.clone().map(|_| text(length)).collect();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("id", Arc::new(Int64Array::from_iter_values(ids.map(|id| id as i64)))),
            ("text", Arc::new(StringArray::from_iter_values(rows))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let file = std::fs::File::create(folder.join(format!("texts-{number:02}.parquet"))).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }
    let queries: Vec<String> =
        (0..100).map(|id| json!({"id": id, "prompt": text(30), "completion": text(10)}).to_string()).collect();
    std::fs::write(folder.join("queries.jsonl"), queries.join("\n")).unwrap();
}

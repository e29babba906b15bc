//! The `blocklist` operator against Aho-Corasick's DFA on the same text, in bytes of text per second on one core.
//!
//! `words …` are dictionary words, many of which occur; `reversed …` are such words read backwards, which hardly do. The
//! operator lists all terms (`all`) or stops as soon as the verdict is certain (`first`); the automaton counts all occurrences.
//! The corpus is found through `GRISTMILL_DATA` (default `../shared/data` beside the workspace); without it, nothing is measured.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "a benchmark fails by panicking")]

use std::path::PathBuf;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gristmill_operators::{OperatorSpec, Registry, Resources, apply};
use serde_json::{Value, json};

fn blocklist(criterion: &mut Criterion) {
    let data = std::env::var_os("GRISTMILL_DATA")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data")), PathBuf::from);
    let Ok(corpus) = std::fs::read_to_string(data.join("corpus/sample.jsonl")) else {
        println!("skipped: no corpus at {}", data.display());
        return;
    };
    let texts: Vec<String> = corpus
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["text"].as_str().unwrap().to_owned())
        .collect();
    let bytes: usize = texts.iter().map(String::len).sum();
    let column = Arc::new(StringArray::from_iter_values(&texts)) as ArrayRef;
    let batch = RecordBatch::try_from_iter([("text", column)]).unwrap();
    let listed = std::fs::read_to_string(data.join("reference/blocklist/terms.txt")).unwrap();
    let words = std::fs::read_to_string(data.join("words/words_alpha.txt")).unwrap();
    let words: Vec<&str> = words.lines().map(str::trim).filter(|word| !word.is_empty()).collect();
    let spread = |count: usize| -> Vec<String> {
        (0..count).map(|number| words[number * words.len() / count].to_owned()).collect()
    };
    let reversed = |count: usize| -> Vec<String> {
        let long: Vec<&str> = words.iter().copied().filter(|word| word.len() >= 6).collect();
        (0..count).map(|number| long[number * long.len() / count].chars().rev().collect()).collect()
    };
    let lists = [
        ("listed 1988", listed.lines().map(str::to_owned).collect()),
        ("words 2000", spread(2_000)),
        ("words 6000", spread(6_000)),
        ("words 100000", spread(100_000)),
        ("reversed 2000", reversed(2_000)),
        ("reversed 6000", reversed(6_000)),
        ("reversed 100000", reversed(100_000)),
    ];

    let mut group = criterion.benchmark_group("blocklist");
    group.sample_size(10).throughput(Throughput::Bytes(bytes as u64));
    for (name, terms) in lists {
        let terms: Vec<String> = terms;
        let list = tempfile::Builder::new().suffix(".txt").tempfile().unwrap();
        std::fs::write(list.path(), terms.join("\n")).unwrap();
        for listing in ["all", "first"] {
            let spec = OperatorSpec::new("blocklist", json!({"terms": list.path(), "case": "ascii", "list": listing}));
            let operator = Registry::standard().bind(&spec, &batch.schema(), &Resources::local()).unwrap();
            group.bench_function(BenchmarkId::new(format!("operator, {listing}"), name), |bencher| {
                bencher.iter(|| apply(operator.as_ref(), [batch.clone()]).unwrap());
            });
        }
        let automaton = AhoCorasick::builder()
            .kind(Some(AhoCorasickKind::DFA))
            .match_kind(MatchKind::Standard)
            .ascii_case_insensitive(true)
            .build(&terms)
            .unwrap();
        group.bench_function(BenchmarkId::new("aho-corasick DFA", name), |bencher| {
            bencher.iter(|| texts.iter().map(|text| automaton.find_overlapping_iter(text).count()).sum::<usize>());
        });
    }
    group.finish();
}

criterion_group!(benches, blocklist);
criterion_main!(benches);

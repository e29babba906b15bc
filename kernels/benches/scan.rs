//! `Scanner` against Aho-Corasick's DFA on the same text in the same run: the two take turns, so that a noisy machine disturbs
//! both alike, and the fastest of many turns counts. Time is that of the processor, not of the clock on the wall, where the
//! system can tell.
//!
//! The corpus is found through `GRISTMILL_DATA` (default `../shared/data` beside the workspace); without it, nothing is measured.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark fails by panicking")]

#[path = "../examples/shared/processor_time.rs"]
mod processor_time;

use std::hint::black_box;
use std::path::PathBuf;
use std::time::Duration;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use gristmill_kernels::scan::{ScanOptions, ScanRequest, ScanResults, Scanner};
use processor_time::now;

const TURNS: usize = 9;

fn main() {
    let data = std::env::var_os("GRISTMILL_DATA")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data")), PathBuf::from);
    let Ok(corpus) = std::fs::read_to_string(data.join("corpus/sample.jsonl")) else {
        println!("skipped: no corpus at {}", data.display());
        return;
    };
    let documents: Vec<String> = corpus
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["text"].as_str().unwrap().to_owned())
        .collect();
    let english = std::fs::read_to_string(data.join("text/tinyshakespeare.txt")).unwrap();
    let small: Vec<String> = english.as_bytes().chunks(355).map(|text| String::from_utf8_lossy(text).into()).collect();
    let words = std::fs::read_to_string(data.join("words/words_alpha.txt")).unwrap();
    let words: Vec<&str> = words.lines().map(str::trim).filter(|word| !word.is_empty()).collect();
    let listed = std::fs::read_to_string(data.join("reference/blocklist/terms.txt")).unwrap();

    let lists: Vec<(&str, Vec<String>)> = vec![
        ("listed 1988", listed.lines().map(str::to_owned).collect()),
        ("words 200", spread(&words, 200)),
        ("words 2000", spread(&words, 2_000)),
        ("words 6000", spread(&words, 6_000)),
        ("words 6000 of 5 letters up", spread(&longer(&words, 5), 6_000)),
        ("words 100000", spread(&words, 100_000)),
        ("words 100000 of 8 letters up", spread(&longer(&words, 8), 100_000)),
        // Words read backwards: the letters are those of ordinary words, and the long ones do not occur.
        ("reversed 2000", spread(&longer(&words, 6), 2_000).iter().map(|w| w.chars().rev().collect()).collect()),
        ("reversed 6000", spread(&longer(&words, 6), 6_000).iter().map(|w| w.chars().rev().collect()).collect()),
        ("reversed 100000", spread(&longer(&words, 6), 100_000).iter().map(|w| w.chars().rev().collect()).collect()),
    ];
    // `ONLY` selects lists by a part of their names.
    let only = std::env::var("ONLY").unwrap_or_default();
    for (name, terms) in lists.iter().filter(|(name, _)| name.contains(&only)) {
        let options = ScanOptions { ignore_ascii_case: true, isolated_from: None };
        let begun = now();
        let scanner = Scanner::new(terms, &options).unwrap();
        let built = now().saturating_sub(begun);
        let begun = now();
        let automaton = AhoCorasick::builder()
            .kind(Some(AhoCorasickKind::DFA))
            .match_kind(MatchKind::Standard)
            .ascii_case_insensitive(true)
            .build(terms)
            .unwrap();
        println!(
            "{name}: built in {built:.1?}, {} KiB; the automaton in {:.1?}, {} KiB",
            scanner.memory() >> 10,
            now().saturating_sub(begun),
            automaton.memory_usage() >> 10
        );
        for (corpus, texts) in
            [("corpus", &documents), ("English", &vec![english.clone()]), ("English, small documents", &small)]
        {
            measure(corpus, texts, terms.len(), &scanner, &automaton);
        }
    }
}

fn measure(corpus: &str, texts: &[String], terms: usize, scanner: &Scanner, automaton: &AhoCorasick) {
    let bytes: usize = texts.iter().map(String::len).sum();
    let documents: Vec<&[u8]> = texts.iter().map(String::as_bytes).collect();
    let mut results = ScanResults::default();
    let mut counts = vec![0u64; terms];
    let (mut ours, mut theirs) = (Duration::MAX, Duration::MAX);
    let mut occurrences = (0, 0);
    for _ in 0..TURNS {
        let begun = now();
        scanner.scan(&documents, ScanRequest::default(), &mut results);
        ours = ours.min(now().saturating_sub(begun));
        occurrences.0 =
            (0..documents.len()).flat_map(|document| results.hits(document)).map(|hit| hit.occurrences).sum();

        let begun = now();
        let mut found = 0;
        for document in &documents {
            // Counts alone: less than the distinct terms of each document, which the scanner gives.
            for occurrence in automaton.find_overlapping_iter(document) {
                counts[occurrence.pattern().as_usize()] += 1;
                found += 1;
            }
        }
        theirs = theirs.min(now().saturating_sub(begun));
        occurrences.1 = found;
    }
    black_box(&counts);
    assert_eq!(occurrences.0, occurrences.1, "the two differ in what they find");
    let rate = |time: Duration| bytes as f64 / time.as_secs_f64() / 1e9;
    println!(
        "  {corpus:26} {:8.1} occurrences/KiB   {:6.3} GB/s   automaton {:6.3} GB/s   ratio {:5.2}",
        occurrences.0 as f64 * 1024.0 / bytes as f64,
        rate(ours),
        rate(theirs),
        rate(ours) / rate(theirs)
    );
}

fn longer<'a>(words: &[&'a str], length: usize) -> Vec<&'a str> {
    words.iter().copied().filter(|word| word.len() >= length).collect()
}

/// `count` of the words, evenly over the list.
fn spread(words: &[&str], count: usize) -> Vec<String> {
    (0..count).map(|number| words[number * words.len() / count].to_owned()).collect()
}

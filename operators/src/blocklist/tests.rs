#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::path::PathBuf;

use arrow_array::cast::AsArray;
use arrow_array::types::{UInt32Type, UInt64Type};
use arrow_array::{Array, StringArray};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{Registry, apply, conformance};

/// One row of output.
#[derive(Clone, Debug, Default, PartialEq)]
struct Row {
    verdict: bool,
    terms: Vec<String>,
    distinct: u32,
    occurrences: Option<u64>,
    counts: Vec<u64>,
    spans: Vec<(u32, u64, u64)>,
}

fn list_file(terms: &[&str]) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(".txt").tempfile().unwrap();
    std::fs::write(file.path(), terms.join("\n")).unwrap();
    file
}

fn configure(list: &tempfile::NamedTempFile, config: &Value) -> Value {
    let mut config = config.clone();
    config["terms"] = json!(list.path());
    config
}

/// Runs the operator on one batch, with the configuration's `terms` set to a file of these.
fn run(terms: &[&str], config: &Value, texts: &[Option<&str>]) -> Vec<Row> {
    let list = list_file(terms);
    let batch =
        RecordBatch::try_from_iter([("text", Arc::new(StringArray::from(texts.to_vec())) as ArrayRef)]).unwrap();
    let spec = OperatorSpec::new(KIND, configure(&list, config));
    let operator = Registry::standard().bind(&spec, &batch.schema(), &Resources::local()).unwrap();
    let output = apply(operator.as_ref(), [batch]).unwrap();
    assert_eq!(output.batches.len(), 1);
    rows(&output.batches[0])
}

fn rows(batch: &RecordBatch) -> Vec<Row> {
    let metadata = batch["blocklist_metadata"].as_struct();
    let list = |name: &str, row: usize| metadata.column_by_name(name).map(|column| column.as_list::<i32>().value(row));
    (0..batch.num_rows())
        .map(|row| Row {
            verdict: batch["blocklist"].as_boolean().value(row),
            terms: list("terms", row).unwrap().as_string::<i32>().iter().map(|term| term.unwrap().to_owned()).collect(),
            distinct: metadata["distinct"].as_primitive::<UInt32Type>().value(row),
            occurrences: metadata
                .column_by_name("occurrences")
                .map(|column| column.as_primitive::<UInt64Type>().value(row)),
            counts: list("counts", row)
                .map(|counts| counts.as_primitive::<UInt64Type>().values().to_vec())
                .unwrap_or_default(),
            spans: list("spans", row)
                .map(|spans| {
                    let spans = spans.as_struct();
                    let terms = spans["term"].as_primitive::<UInt32Type>();
                    let (start, end) =
                        (spans["start"].as_primitive::<UInt64Type>(), spans["end"].as_primitive::<UInt64Type>());
                    (0..spans.len()).map(|span| (terms.value(span), start.value(span), end.value(span))).collect()
                })
                .unwrap_or_default(),
        })
        .collect()
}

#[test]
fn conforms() {
    let list = list_file(&["fox", "dog", "dol", "知识", "o", "στ", "i\u{307}stanbul", "é", "👩", "ipsum dolor"]);
    for config in [
        json!({}),
        json!({"min_distinct": 1, "list": "all"}),
        json!({"match": "word", "case": "ascii", "counts": true}),
        json!({"match": "word", "spans": true}),
        json!({"case": "exact", "counts": true, "spans": true, "min_distinct": 3}),
    ] {
        conformance::check(&BlocklistKind, &configure(&list, &config));
    }
}

#[test]
fn terms_are_found() {
    let all = |extra: Value| {
        let mut config = json!({"list": "all", "min_distinct": 1});
        config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        config
    };
    let (word, ascii, exact) = (json!({"match": "word"}), json!({"case": "ascii"}), json!({"case": "exact"}));
    let cases: Vec<(Value, &[&str], &str, &[&str])> = vec![
        (json!({}), &["fox", "dog"], "A Foxglove", &["fox"]),
        (json!({}), &["b", "a", "ab"], "xab", &["b", "a", "ab"]),
        (json!({}), &["STRASSE", "straße"], "Die STRAẞE", &["straße"]),
        // İ becomes two characters, of which a term may name one.
        (json!({}), &["istanbul", "i\u{307}stanbul", "İST"], "İstanbul", &["i\u{307}stanbul", "İST"]),
        (json!({}), &["i", "\u{307}"], "İ", &["i", "\u{307}"]),
        (json!({}), &["ΟΔΟΣ"], "Οδος", &["ΟΔΟΣ"]),
        (json!({}), &["ΟΔΟΣ"], "ΟΔΟΣ.", &["ΟΔΟΣ"]),
        // The sigma of the term is final and that of the text is not.
        (json!({}), &["ΟΔΟΣ"], "ΟΔΟΣΑ", &[]),
        (json!({}), &["kelvin"], "\u{212a}elvin", &["kelvin"]),
        (json!({}), &["привет"], "ПРИВЕТ", &["привет"]),
        (json!({}), &["ß"], "SS", &[]),
        (ascii.clone(), &["привет", "fox"], "ПРИВЕТ FOX", &["fox"]),
        (ascii, &["É", "x"], "é X", &["x"]),
        (exact, &["fox", "Fox"], "Fox", &["Fox"]),
        (word.clone(), &["fox"], "foxes", &[]),
        (word.clone(), &["fox"], "foxes and a fox.", &["fox"]),
        (word.clone(), &["fox"], "fox_", &[]),
        (word.clone(), &["fox"], "fox-trot", &["fox"]),
        (word.clone(), &["cafe"], "cafe\u{301}", &[]),
        (word.clone(), &["fox"], "fox²", &[]),
        (word.clone(), &["fox"], "ⅷfox", &[]),
        (word.clone(), &["fox"], "fox٣ ٣fox", &[]),
        (word.clone(), &["fox"], "fox\u{203f}", &["fox"]),
        (word.clone(), &["fox"], "Ⓐfox", &["fox"]),
        (word.clone(), &["知识"], "知识就是力量", &[]),
        (word.clone(), &["知识"], "（知识）", &["知识"]),
        (word.clone(), &["i"], "İ", &[]),
        (word.clone(), &["👩"], "a👩b", &[]),
        (word, &["👩"], "a 👩\u{200d}👧", &["👩"]),
    ];
    for (extra, terms, text, expected) in cases {
        let found = run(terms, &all(extra.clone()), &[Some(text)]);
        assert_eq!(found[0].terms, expected, "{terms:?} in {text} with {extra}");
        assert_eq!((found[0].verdict, found[0].distinct as usize), (!expected.is_empty(), expected.len()));
    }
}

#[test]
fn the_verdict_needs_enough_distinct_terms() {
    let texts = [Some("fox fox fox"), Some("fox dog"), None, Some(""), Some("cow dog fox")];
    for (min_distinct, expected) in [
        (1, [true, true, false, false, true]),
        (2, [false, true, false, false, true]),
        (3, [false, false, false, false, true]),
        (4, [false; 5]),
    ] {
        for list in ["first", "all"] {
            let config = json!({"min_distinct": min_distinct, "list": list});
            let found = run(&["fox", "dog", "cow", "fox", "FOX"], &config, &texts);
            assert_eq!(found.iter().map(|row| row.verdict).collect::<Vec<_>>(), expected, "{config}");
        }
    }
}

#[test]
fn the_first_terms_are_those_that_end_first() {
    let terms = ["last", "abc", "bc", "xabcd", "c", "zebra"];
    for (text, expected) in [
        // Three end together: the first of the list are named, in its order.
        ("zebra abc", &["abc", "zebra"][..]),
        ("abc", &["abc", "bc"]),
        ("xabcd", &["abc", "bc"]),
        ("last abc last", &["last", "abc"]),
        ("zebra", &["zebra"]),
    ] {
        let found = run(&terms, &json!({"min_distinct": 2}), &[Some(text)]);
        assert_eq!(found[0].terms, expected, "{text}");
        assert_eq!(found[0].distinct as usize, expected.len());
    }
}

#[test]
fn occurrences_are_counted_and_located() {
    let config = json!({"counts": true, "spans": true});
    let found = run(&["ana", "İb", "banana"], &config, &[Some("Banana aİB"), None]);
    let expected = Row {
        verdict: true,
        terms: ["ana", "İb", "banana"].map(str::to_owned).to_vec(),
        distinct: 3,
        occurrences: Some(4),
        counts: vec![2, 1, 1],
        spans: vec![(2, 0, 6), (0, 1, 4), (0, 3, 6), (1, 8, 11)],
    };
    assert_eq!(found, [expected, Row { occurrences: Some(0), ..Row::default() }]);
}

#[test]
fn wrong_configurations_are_refused() {
    for (config, expected) in [
        (json!({"terms": "a.txt", "min_distinct": 0}), "'min_distinct': 0 would make every verdict true"),
        (json!({"terms": "a.txt", "min_distinct": -1}), "min_distinct"),
        (
            json!({"terms": "a.txt", "match": "words"}),
            "'match': 'words' is not allowed, did you mean 'word'?; allowed: substring, word",
        ),
        (json!({"terms": "a.txt", "case": "lower"}), "'lower' is not allowed; allowed: unicode, ascii, exact"),
        (json!({"terms": "a.txt", "list": "first", "spans": true}), "'list': 'first' stops before"),
        (json!({"terms": "a.txt", "min_distinkt": 2}), "did you mean 'min_distinct'"),
        (json!({}), "terms"),
    ] {
        let error = BlocklistKind.complete(&config).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let complete = |config: Value| BlocklistKind.complete(&config).unwrap()["list"].clone();
    assert_eq!(complete(json!({"terms": "a.txt"})), "first");
    assert_eq!(complete(json!({"terms": "a.txt", "counts": true})), "all");
}

#[test]
fn binding_checks_columns_and_resources() {
    let batch = conformance::text_batch();
    let list = list_file(&["fox"]);
    for (name, config, expected) in [
        (KIND, json!({"terms": list.path(), "column": "txt"}), "did you mean 'text'"),
        (KIND, json!({"terms": list.path(), "column": "id"}), "type Int64"),
        ("label", json!({"terms": list.path()}), "already has a column 'label'"),
        (KIND, json!({"terms": "/nowhere/terms.txt"}), "cannot use '/nowhere/terms.txt'"),
    ] {
        let spec = OperatorSpec::new(KIND, config).named(name);
        let error = Registry::standard().bind(&spec, &batch.schema(), &Resources::local()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }

    let spec = OperatorSpec::new(KIND, json!({"terms": list.path()}));
    let operator = Registry::standard().bind(&spec, &batch.schema(), &Resources::local()).unwrap();
    let identity = &operator.resources()[0];
    assert_eq!(identity.hash, blake3::hash(b"fox").to_hex().to_string());
    assert_eq!(operator.inputs(), ["text"]);
}

#[test]
fn a_document_of_ten_megabytes_is_a_normal_row() {
    let mut text = "the quick brown cat jumps over the lazy hen. ".repeat(230_000);
    text.push_str("Fox, Dog");
    let found =
        run(&["fox", "dog", "quick"], &json!({"min_distinct": 3, "counts": true, "spans": true}), &[Some(&text)]);
    assert_eq!(found[0].counts, [1, 1, 230_000]);
    assert_eq!(found[0].spans.last(), Some(&(1, text.len() as u64 - 3, text.len() as u64)));
}

/// The definition, word for word.
fn naive(terms: &[String], text: &str, word: bool) -> Vec<String> {
    let text = text.to_lowercase();
    let is_word =
        |character: Option<char>| character.is_some_and(|character| "abkσςi\u{307}ßé知1_".contains(character));
    let occurs = |term: &str| {
        text.char_indices().any(|(start, _)| {
            text[start..].starts_with(term)
                && (!word
                    || !(is_word(text[..start].chars().next_back())
                        || is_word(text[start + term.len()..].chars().next())))
        })
    };
    let mut seen = std::collections::HashSet::new();
    terms.iter().filter(|term| seen.insert(term.to_lowercase()) && occurs(&term.to_lowercase())).cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn agrees_with_the_definition(
        terms in prop::collection::vec("[abAB]{1,5}|[abΣσİßẞÉé知1_\u{212a}]{1,4}|[ab .]{0,3}a", 1..12),
        texts in prop::collection::vec("[abABΣςσİßẞÉé知1_\u{212a} .]{0,60}", 1..6),
        word in any::<bool>(),
    ) {
        let config = json!({"list": "all", "match": if word { "word" } else { "substring" }});
        let listed: Vec<&str> = terms.iter().map(String::as_str).collect();
        let given: Vec<Option<&str>> = texts.iter().map(|text| Some(text.as_str())).collect();
        for (row, text) in run(&listed, &config, &given).into_iter().zip(&texts) {
            let expected = naive(&terms, text, word);
            prop_assert_eq!(row.verdict, expected.len() >= 2);
            prop_assert_eq!(row.terms, expected);
        }
    }
}

fn data() -> PathBuf {
    std::env::var_os("GRISTMILL_DATA")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data")), PathBuf::from)
}

/// A thousand documents in many languages, 1,988 terms, judged by an independent program.
#[cfg(feature = "parquet")]
#[test]
fn every_document_of_the_reference_is_judged_alike() {
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    let folder = data();
    let Ok(expected) = std::fs::File::open(folder.join("reference/blocklist/expected.parquet")) else {
        println!("skipped: no data at {}", folder.display());
        return;
    };
    let list = folder.join("reference/blocklist/terms.txt");
    let numbers: std::collections::HashMap<String, u32> =
        std::fs::read_to_string(&list).unwrap().lines().map(str::to_owned).zip(0..).collect();
    let corpus = std::fs::read_to_string(folder.join("corpus/sample.jsonl")).unwrap();
    let documents: Vec<Value> = corpus.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let texts = StringArray::from_iter_values(documents.iter().map(|document| document["text"].as_str().unwrap()));
    let batch = RecordBatch::try_from_iter([("text", Arc::new(texts) as ArrayRef)]).unwrap();
    let judged = |matching: &str| {
        let config = json!({"terms": list, "case": "ascii", "match": matching, "counts": true});
        let spec = OperatorSpec::new(KIND, config);
        let operator = Registry::standard().bind(&spec, &batch.schema(), &Resources::local()).unwrap();
        rows(&apply(operator.as_ref(), [batch.clone()]).unwrap().batches[0])
    };
    let (substring, word) = (judged("substring"), judged("word"));

    let mut row = 0;
    for expected in ParquetRecordBatchReaderBuilder::try_new(expected).unwrap().build().unwrap() {
        let expected = expected.unwrap();
        for index in 0..expected.num_rows() {
            let id = documents[row]["id"].as_str().unwrap();
            assert_eq!(expected["id"].as_string::<i32>().value(index), id);
            for (column, found) in [("substring_terms", &substring), ("word_terms", &word)] {
                let expected = expected[column].as_list::<i32>().value(index);
                let found: Vec<u32> = found[row].terms.iter().map(|term| numbers[term]).collect();
                assert_eq!(found, expected.as_primitive::<UInt32Type>().values().to_vec(), "{column} of {id}");
            }
            let occurrences = expected["substring_occurrences"].as_primitive::<UInt32Type>().value(index);
            assert_eq!(substring[row].occurrences, Some(u64::from(occurrences)), "{id}");
            row += 1;
        }
    }
    assert_eq!(row, documents.len());
}

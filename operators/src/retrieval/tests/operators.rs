//! The operators, with the statistics that they learn.

use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_array::{ArrayRef, RecordBatch, StringArray};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::goldens::Table;
use crate::operator::{Operator, OperatorKind, OperatorSpec, Output, apply};
use crate::retrieval::{Bm25Kind, TermCosineKind};
use crate::{Registry, Resources, Result, conformance, scores, tables};

/// A folder with the queries of the table, by number, name and group.
fn folder(table: &Table) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let rows = table.queries.iter().zip(&table.groups).enumerate();
    let lines: Vec<String> = rows
        .map(|(number, (text, group))| json!({"text": text, "group": group, "number": number}).to_string())
        .collect();
    std::fs::write(folder.path().join("queries.jsonl"), lines.join("\n")).unwrap();
    folder
}

fn path(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).to_str().unwrap().to_owned()
}

fn batch(texts: &[Option<&str>]) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable([("text", Arc::new(StringArray::from(texts.to_vec())) as ArrayRef, true)])
        .unwrap()
}

fn documents(table: &Table) -> RecordBatch {
    batch(&table.documents.iter().map(|text| Some(text.as_str())).collect::<Vec<_>>())
}

/// Does what a host does: learns what the step lacks from streams of rows, and binds it.
fn bind(spec: &OperatorSpec, streams: &[RecordBatch], folder: &TempDir) -> Result<Arc<dyn Operator>> {
    let registry = Registry::standard();
    let resources = Resources::local();
    let mut spec = registry.complete(spec)?;
    let kind = registry.kind(&spec.kind)?;
    if let Some(fit) = kind.fit(&spec.config)? {
        let learner = registry.bind(&fit.spec, &streams[0].schema(), &resources)?;
        let mut parts = Vec::new();
        for stream in streams {
            parts.extend(apply(learner.as_ref(), [stream.clone()])?.batches.into_iter().map(Ok));
        }
        let content = registry.kind(&fit.spec.kind)?.combine(&fit.spec, &mut parts.into_iter())?;
        let file = path(folder, "statistics.arrow");
        std::fs::write(&file, tables::write_arrow(&content)?).unwrap();
        spec.config[fit.key] = file.into();
        assert_eq!(kind.fit(&spec.config)?, None, "asks for what it has");
    }
    registry.bind(&spec, &streams[0].schema(), &resources)
}

fn rows(output: &Output, column: &str) -> Vec<Option<Vec<f32>>> {
    let of = |batch: &RecordBatch| -> Vec<Option<Vec<f32>>> {
        let list = batch[column].as_fixed_size_list();
        list.iter().map(|row| row.map(|row| row.as_primitive::<Float32Type>().values().to_vec())).collect()
    };
    output.batches.iter().flat_map(of).collect()
}

#[test]
fn columns_have_the_scores_of_the_other_programs() {
    let table = Table::read();
    let folder = folder(&table);
    let queries = json!({"path": path(&folder, "queries.jsonl"), "id": "number"});
    let rows_in = documents(&table);
    let tokens = json!({"tokenizer": table.tokenizer_file(), "limit": table.limit});
    let features = json!({"weighting": "tfidf", "max_features": 36});
    for (name, kind, config) in [
        ("bm25 whitespace", "bm25", json!({})),
        ("bm25 words", "bm25", json!({"terms": "words"})),
        ("bm25 tokens", "bm25", json!({"terms": tokens.clone()})),
        ("bm25 parameters", "bm25", json!({"terms": "words", "k1": 0.9, "b": 0.4, "epsilon": 0.1})),
        ("frequency words", "term_cosine", json!({"weighting": "token_frequency"})),
        ("frequency tokens", "term_cosine", json!({"weighting": "token_frequency", "terms": tokens.clone()})),
        ("tfidf", "term_cosine", json!({})),
        ("tfidf features", "term_cosine", features),
        ("tfidf both", "term_cosine", json!({"count_queries": true})),
        ("tfidf tokens", "term_cosine", json!({"terms": tokens})),
    ] {
        let mut config = config;
        config["queries"] = queries.clone();
        let spec = OperatorSpec::new(kind, config).named("score");
        let operator = bind(&spec, std::slice::from_ref(&rows_in), &folder).unwrap();
        let field = operator.output_schema().field_with_name("score").unwrap();
        assert_eq!(scores::queries(field).unwrap(), ["0", "1", "2", "3", "4", "5", "6", "7"]);
        let found = rows(&apply(operator.as_ref(), [rows_in.clone()]).unwrap(), "score");
        let expected = &table.scores[name];
        assert_eq!(found.len(), expected.len());
        for (row, (found, expected)) in found.into_iter().zip(expected).enumerate() {
            for (found, &expected) in found.unwrap().into_iter().zip(expected) {
                let apart = (f64::from(found) - expected).abs();
                assert!(apart <= 1e-9 + f64::from(f32::EPSILON) * expected.abs(), "{name}, row {row}: {apart}");
            }
        }
        let resources = operator.resources().len();
        let expected = 1 + usize::from(name.ends_with("tokens")) + usize::from(!name.starts_with("frequency"));
        assert_eq!(resources, expected, "{name}: identities");
        assert_eq!(operator.inputs(), ["text"]);
    }
}

#[test]
fn scores_do_not_depend_on_splits() {
    let table = Table::read();
    let folder = folder(&table);
    let rows_in = documents(&table);
    let queries = json!({"path": path(&folder, "queries.jsonl"), "group": "group", "aggregate": "mean"});
    for (kind, config) in [
        ("bm25", json!({"queries": queries, "terms": "words"})),
        ("term_cosine", json!({"queries": queries, "max_features": 20})),
    ] {
        let spec = OperatorSpec::new(kind, config);
        let of = |streams: &[RecordBatch]| {
            let operator = bind(&spec, streams, &folder).unwrap();
            let field = operator.output_schema().field_with_name(kind).unwrap();
            assert_eq!(scores::queries(field).unwrap(), ["F", "G", "corn"]);
            let file = std::fs::read(path(&folder, "statistics.arrow")).unwrap();
            (rows(&apply(operator.as_ref(), streams.iter().cloned()).unwrap(), kind), file)
        };
        let expected = of(std::slice::from_ref(&rows_in));
        for cut in [1, 7, 20] {
            assert_eq!(of(&[rows_in.slice(0, cut), rows_in.slice(cut, rows_in.num_rows() - cut)]), expected);
        }
        let single: Vec<RecordBatch> = (0..rows_in.num_rows()).map(|row| rows_in.slice(row, 1)).collect();
        assert_eq!(of(&single), expected);
    }
}

#[test]
fn null_texts_have_no_scores_and_texts_without_terms_have_scores_of_0() {
    let table = Table::read();
    let folder = folder(&table);
    let queries = json!({"path": path(&folder, "queries.jsonl"), "aggregate": "nearest"});
    let with = batch(&[Some("the river"), None, Some(""), Some("a wheel")]);
    let without = batch(&[Some("the river"), Some(""), Some("a wheel")]);
    for (kind, config) in [
        ("bm25", json!({"queries": queries})),
        ("term_cosine", json!({"queries": queries})),
        ("term_cosine", json!({"queries": queries, "weighting": "token_frequency"})),
    ] {
        let spec = OperatorSpec::new(kind, config);
        let of = |rows_in: &RecordBatch| {
            let operator = bind(&spec, std::slice::from_ref(rows_in), &folder).unwrap();
            let field = operator.output_schema().field_with_name(kind).unwrap();
            assert_eq!(scores::queries(field).unwrap(), ["nearest"]);
            rows(&apply(operator.as_ref(), [rows_in.clone()]).unwrap(), kind)
        };
        let found = of(&with);
        assert_eq!((&found[1], &found[2]), (&None, &Some(vec![0.0])));
        assert!(found[0].as_ref().unwrap()[0] > 0.0);
        let scored: Vec<_> = found.into_iter().filter(Option::is_some).collect();
        assert_eq!(scored, of(&without), "{kind}: a null text is no document");
    }
}

#[test]
fn conforms() {
    let table = Table::read();
    let folder = folder(&table);
    std::fs::write(path(&folder, "fox.jsonl"), "{\"text\": \"the quick fox\"}\n{\"text\": \"知识就是力量 lorem\"}\n")
        .unwrap();
    let queries = json!({"path": path(&folder, "fox.jsonl")});
    let suite = conformance::text_batch();
    for (kind, config) in [
        (&Bm25Kind as &dyn OperatorKind, json!({"queries": queries, "terms": "words"})),
        (&TermCosineKind, json!({"queries": queries})),
        (&TermCosineKind, json!({"queries": queries, "weighting": "token_frequency", "terms": "whitespace"})),
    ] {
        let spec = OperatorSpec::new(kind.name(), config);
        let operator = bind(&spec, std::slice::from_ref(&suite), &folder).unwrap();
        conformance::check(kind, &operator.spec().config);
    }
}

/// The message of an error.
#[track_caller]
fn refused(kind: &str, config: Value, folder: &TempDir, says: &str) {
    let rows_in = batch(&[Some("the river")]);
    let message = bind(&OperatorSpec::new(kind, config), &[rows_in], folder).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains(says), "{message}");
}

#[test]
fn wrong_input_is_refused() {
    let table = Table::read();
    let folder = folder(&table);
    let file = |name: &str, content: &str| {
        std::fs::write(path(&folder, name), content).unwrap();
        path(&folder, name)
    };
    let good = path(&folder, "queries.jsonl");
    let of = |path: &str, more: Value| {
        let mut queries = json!({"path": path});
        more.as_object().unwrap().iter().for_each(|(key, value)| queries[key] = value.clone());
        json!({"queries": queries})
    };
    let mut with = of(&good, json!({}));
    for (key, value, says) in [
        ("k1", json!(-1), "'k1': -1 is not allowed; allowed are numbers of at least 0"),
        ("b", json!(2), "'b': 2 is not allowed; allowed are numbers from 0 to 1"),
        ("epsilon", json!("x"), "'epsilon': expected a number, found \"x\""),
        ("terms", json!("tokens"), "'tokens' is not allowed; allowed are 'whitespace', 'words'"),
        ("column", json!("texts"), "no column 'texts', did you mean 'text'?"),
        ("statistics", json!("/nowhere.arrow"), "/nowhere.arrow"),
    ] {
        let mut config = with.clone();
        config[key] = value;
        refused("bm25", config, &folder, says);
    }
    with["weighting"] = json!("token_frequency");
    for (key, value) in [("max_features", json!(10)), ("count_queries", json!(true)), ("statistics", json!("a.arrow"))]
    {
        let mut config = with.clone();
        config[key] = value;
        refused("term_cosine", config, &folder, &format!("'{key}': this is for 'weighting: tfidf'"));
    }
    for (name, content, more, says) in [
        ("none.jsonl", "", json!({}), "the table has no row"),
        ("null.jsonl", "{\"text\": \"a\"}\n{\"text\": null}", json!({}), "row 1: no value in column 'text'"),
        ("type.jsonl", "{\"text\": 1}", json!({}), "column 'text' has type Int64"),
        ("name.jsonl", "{\"txt\": \"a\"}", json!({}), "no column 'text', did you mean 'txt'?"),
        (
            "same.jsonl",
            "{\"text\": \"a\", \"id\": 3}\n{\"text\": \"b\", \"id\": 3}",
            json!({"id": "id"}),
            "rows 0 and 1",
        ),
        ("float.jsonl", "{\"text\": \"a\", \"id\": 0.5}", json!({"id": "id"}), "column 'id' has type Float64"),
        ("empty.jsonl", "{\"text\": \"a\"}\n{\"text\": \" \"}", json!({}), "row 1: the query \" \" has no term"),
        ("group.jsonl", "{\"text\": \"a\"}", json!({"group": "text"}), "groups are for 'aggregate: mean'"),
    ] {
        let path = file(name, content);
        refused("bm25", of(&path, more), &folder, says);
    }
    // Without what the host learns.
    let spec = OperatorSpec::new("bm25", of(&good, json!({})));
    let schema = batch(&[]).schema();
    let message = Registry::standard().bind(&spec, &schema, &Resources::local()).unwrap_err().to_string();
    assert!(message.contains("'statistics': the key is missing"), "{message}");
}

#[test]
fn statistics_of_another_corpus_fit_if_their_terms_do() {
    let table = Table::read();
    let folder = folder(&table);
    let of = |more: Value| {
        let mut config = json!({"queries": {"path": path(&folder, "queries.jsonl")}});
        more.as_object().unwrap().iter().for_each(|(key, value)| config[key] = value.clone());
        config
    };
    let corpus = documents(&table);
    let tokens = |limit: u32| json!({"tokenizer": table.tokenizer_file(), "limit": limit});
    for (made_with, other, says) in [
        (json!("words"), json!("whitespace"), r#""words"; those of the step are "whitespace""#),
        (json!("whitespace"), tokens(4), r#""whitespace"; those of the step are {"tokenizer":"#),
        (tokens(4), tokens(5), r#""limit":4}; those of the step are {"tokenizer":"#),
    ] {
        let spec = OperatorSpec::new("bm25", of(json!({"terms": made_with})));
        let operator = bind(&spec, std::slice::from_ref(&corpus), &folder).unwrap();
        let kept = path(&folder, "kept.arrow");
        std::fs::rename(path(&folder, "statistics.arrow"), &kept).unwrap();
        for kind in ["bm25", "term_cosine"] {
            refused(kind, of(json!({"terms": other, "statistics": kept})), &folder, says);
        }
        // Other documents, with the statistics of the corpus.
        let spec = OperatorSpec::new("bm25", of(json!({"terms": made_with, "statistics": kept})));
        let again = bind(&spec, &[batch(&[Some("x")])], &folder).unwrap();
        assert!(!Path::new(&path(&folder, "statistics.arrow")).exists(), "it learned what it was given");
        let rows_of = |operator: &dyn Operator| rows(&apply(operator, [corpus.slice(0, 3)]).unwrap(), "bm25");
        assert_eq!(rows_of(again.as_ref()), rows_of(operator.as_ref()));
    }
}

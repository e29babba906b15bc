//! The operators `count_tokens` and `tokenize`.

use arrow_array::cast::AsArray;
use arrow_array::types::{UInt16Type, UInt32Type};
use arrow_array::{Array, ListArray};
use serde_json::json;

use super::*;
use crate::operator::{OperatorKind, OperatorSpec, Output, RowEffect, apply};
use crate::{OperatorError, Registry, conformance};

fn with_tokenizer(name: &str, mut config: Value) -> Value {
    config["tokenizer"] = json!(fixture_path(name).to_str().unwrap());
    config
}

fn run(kind: &str, config: &Value, batches: &[RecordBatch]) -> crate::Result<Output> {
    let spec = OperatorSpec::new(kind, config.clone()).named("tokens");
    let operator = Registry::standard().bind(&spec, &batches[0].schema(), &Resources::local())?;
    let output = apply(operator.as_ref(), batches.iter().cloned())?;
    assert!(output.batches.iter().all(|batch| batch.schema_ref() == operator.output_schema()));
    Ok(output)
}

/// The lists of a column over all batches.
fn lists(output: &Output, column: &str) -> Vec<Option<Vec<u32>>> {
    let list = |lists: &ListArray, row| {
        let values = lists.value(row);
        let wide = match values.as_primitive_opt::<UInt16Type>() {
            Some(values) => values.values().iter().map(|&id| u32::from(id)).collect(),
            None => values.as_primitive::<UInt32Type>().values().to_vec(),
        };
        lists.is_valid(row).then_some(wide)
    };
    let columns = output.batches.iter().map(|batch| batch.column_by_name(column).expect("column").as_list::<i32>());
    columns.flat_map(|lists| (0..lists.len()).map(|row| list(lists, row)).collect::<Vec<_>>()).collect()
}

#[test]
fn both_kinds_conform_under_every_configuration() {
    for name in FIXTURES {
        conformance::check(&CountTokensKind, &with_tokenizer(name, json!({})));
        conformance::check(&CountTokensKind, &with_tokenizer(name, json!({"special_tokens": true})));
        let configurations = [
            json!({}),
            json!({"special_tokens": false}),
            json!({"truncate": 9}),
            json!({"chunk": {"length": 8}}),
            json!({"chunk": {"length": 12, "overlap": 5}, "special_tokens": false}),
            json!({"pack": {"length": 64, "too_long": "quarantine"}}),
            json!({"pack": {"length": 20_000}}),
            json!({"pack": {"length": 30}, "truncate": 20}),
        ];
        for configuration in configurations {
            conformance::check(&TokenizeKind, &with_tokenizer(name, configuration));
        }
    }
}

#[test]
fn counts_are_lengths_of_the_ids() {
    let texts = [Some("the quick brown fox"), None, Some(""), Some("fox <|endoftext|>")];
    for special_tokens in [false, true] {
        let config = with_tokenizer("tiny-wordpiece", json!({"special_tokens": special_tokens}));
        let counted = run("count_tokens", &config, &[batch(&texts)]).unwrap();
        let tokenized = run("tokenize", &config, &[batch(&texts)]).unwrap();
        let counts = counted.batches[0].column_by_name("tokens").unwrap().as_primitive::<UInt32Type>();
        let lengths: Vec<Option<u32>> =
            lists(&tokenized, "tokens").iter().map(|ids| ids.as_ref().map(|ids| ids.len() as u32)).collect();
        assert_eq!(counts.iter().collect::<Vec<_>>(), lengths);
        assert_eq!(lengths[1], None);
        assert_eq!(lengths[2], Some(if special_tokens { 2 } else { 0 }));
    }
}

#[test]
fn counters_are_used_again_by_later_passes() {
    let table = batch(&[Some("the quick brown fox"), None]);
    let spec = OperatorSpec::new("count_tokens", with_tokenizer("tiny-bpe", json!({})));
    let operator = Registry::standard().bind(&spec, &table.schema(), &Resources::local()).unwrap();
    let first = apply(operator.as_ref(), [table.clone()]).unwrap();
    let again = apply(operator.as_ref(), [table.clone(), table]).unwrap();
    assert_eq!(first.batches[0], again.batches[0]);
    assert_eq!(first.batches[0], again.batches[1]);
}

#[test]
fn a_text_is_cut_inside_its_special_tokens() {
    let text = "the quick brown fox jumps over the lazy dog";
    let tokenizer = fixture("tiny-wordpiece");
    let plain = encode(&tokenizer, text, false);
    for length in [3, 5, plain.len() + 1, plain.len() + 2, plain.len() + 3] {
        let output =
            run("tokenize", &with_tokenizer("tiny-wordpiece", json!({"truncate": length})), &[batch(&[Some(text)])])
                .unwrap();
        let expected = [tokenizer.prefix(), &plain[..plain.len().min(length - 2)], tokenizer.suffix()].concat();
        assert_eq!(lists(&output, "tokens"), [Some(expected)], "{length}");
    }
}

#[test]
fn windows_carry_special_tokens_and_the_other_columns() {
    let texts = [Some("the quick brown fox jumps over the lazy dog"), None, Some("")];
    let tokenizer = fixture("tiny-wordpiece");
    let plain = encode(&tokenizer, texts[0].unwrap(), false);
    let config = with_tokenizer("tiny-wordpiece", json!({"chunk": {"length": 7, "overlap": 2}}));
    let output = run("tokenize", &config, &[batch(&texts)]).unwrap();
    let (prefix, suffix) = (tokenizer.prefix(), tokenizer.suffix());

    let mut expected = Vec::new();
    let mut start = 0;
    loop {
        let end = (start + 5).min(plain.len());
        expected.push(Some([prefix, &plain[start..end], suffix].concat()));
        if end == plain.len() {
            break;
        }
        start += 3;
    }
    let windows = expected.len();
    assert!(windows > 2);
    expected.extend([None, Some([prefix, suffix].concat())]);
    assert_eq!(lists(&output, "tokens"), expected);
    let numbers = output.batches[0].column_by_name("tokens_chunk").unwrap().as_primitive::<UInt32Type>();
    let expected: Vec<u32> = (0..windows as u32).chain([0, 0]).collect();
    assert_eq!(numbers.values(), &expected[..]);
    let ids: Vec<_> = output.batches[0].column_by_name("id").unwrap().as_string::<i32>().iter().flatten().collect();
    assert_eq!(ids[windows - 1..], ["row 0", "row 1", "row 2"]);
    assert!(output.batches[0].column_by_name("text").is_none());
    assert_eq!(output.kept, 3);
}

#[test]
fn a_text_with_more_windows_than_a_batch_holds_comes_in_several_batches() {
    let text = "fox dog ".repeat(6000);
    let config = with_tokenizer("tiny-wordpiece", json!({"chunk": {"length": 1}, "special_tokens": false}));
    let output = run("tokenize", &config, &[batch(&[Some("fox"), Some(&text), Some("dog")])]).unwrap();
    assert!(output.batches.len() > 1);
    assert_eq!(output.kept, 3);
    let tokenizer = fixture("tiny-wordpiece");
    let ids = encode(&tokenizer, &format!("fox {text} dog"), false);
    let windows: Vec<u32> = lists(&output, "tokens").into_iter().flatten().flatten().collect();
    assert_eq!(windows, ids);
}

/// The rule, as written down: whole samples until the next would exceed the length.
fn packed(texts: &[Vec<u32>], length: usize) -> Vec<Vec<Vec<u32>>> {
    let mut sequences: Vec<Vec<Vec<u32>>> = Vec::new();
    for ids in texts.iter().filter(|ids| ids.len() <= length) {
        match sequences.last_mut() {
            Some(last) if last.iter().map(Vec::len).sum::<usize>() + ids.len() <= length => last.push(ids.clone()),
            _ => sequences.push(vec![ids.clone()]),
        }
    }
    sequences
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn packing_follows_the_rule(
        words in proptest::collection::vec(proptest::option::weighted(0.9, 0usize..14), 1..40),
        length in 1usize..30,
        rows in 1usize..10,
    ) {
        let texts: Vec<Option<String>> = words.iter().map(|words| words.map(|words| "fox ".repeat(words))).collect();
        let texts: Vec<Option<&str>> = texts.iter().map(Option::as_deref).collect();
        let tokenizer = fixture("tiny-wordpiece");
        let ids: Vec<Vec<u32>> = texts.iter().flatten().map(|text| encode(&tokenizer, text, true)).collect();
        let config = with_tokenizer("tiny-wordpiece", json!({"pack": {"length": length, "too_long": "quarantine"}}));
        let table = batch(&texts);
        let batches: Vec<_> = (0..texts.len())
            .step_by(rows)
            .map(|start| table.slice(start, rows.min(texts.len() - start)))
            .collect();
        let output = run("tokenize", &config, &batches).unwrap();

        let expected = packed(&ids, length);
        let sequences: Vec<_> = expected.iter().map(|texts| Some(texts.concat())).collect();
        let lengths: Vec<_> =
            expected.iter().map(|texts| Some(texts.iter().map(|ids| ids.len() as u32).collect())).collect();
        prop_assert_eq!(lists(&output, "tokens"), sequences);
        prop_assert_eq!(lists(&output, "tokens_lengths"), lengths);
        prop_assert_eq!(output.rows_rejected(), texts.iter().filter(|text| text.is_none()).count() as u64);
        prop_assert_eq!(output.rows_quarantined(), ids.iter().filter(|ids| ids.len() > length).count() as u64);
        prop_assert_eq!(output.accounted(), texts.len() as u64);
    }
}

#[test]
fn a_text_that_is_too_long_to_pack_stops_the_run_or_is_set_aside() {
    let batches = [batch(&[Some("fox"), Some("dog")]), batch(&[None, Some("fox fox fox fox"), Some("fox")])];
    let config = with_tokenizer("tiny-wordpiece", json!({"special_tokens": false, "pack": {"length": 3}}));
    let error = run("tokenize", &config, &batches).expect_err("stops");
    assert!(matches!(error, OperatorError::Row { row: 3, .. }), "{error}");
    let expected = format!("the text has {} tokens, a sequence at most 3", {
        encode(&fixture("tiny-wordpiece"), "fox fox fox fox", false).len()
    });
    assert!(error.to_string().contains(&expected), "{error}");

    let config = with_tokenizer(
        "tiny-wordpiece",
        json!({"special_tokens": false, "pack": {"length": 3, "too_long": "quarantine"}}),
    );
    let output = run("tokenize", &config, &batches).unwrap();
    assert_eq!(output.quarantined.len(), 1);
    assert_eq!(output.quarantined[0].error, expected);
    assert_eq!(output.rejected[0].reason, "no text");
    assert_eq!(output.accounted(), 5);
}

#[test]
fn the_row_effect_says_what_happens_to_rows() {
    let cases = [
        (json!({}), RowEffect::Same),
        (json!({"truncate": 8}), RowEffect::Same),
        (json!({"chunk": {"length": 8}}), RowEffect::Any),
        (json!({"pack": {"length": 8}}), RowEffect::Any),
    ];
    let table = batch(&[Some("fox")]);
    for (config, expected) in cases {
        let spec = OperatorSpec::new("tokenize", with_tokenizer("tiny-bpe", config));
        let operator = Registry::standard().bind(&spec, &table.schema(), &Resources::local()).unwrap();
        assert_eq!(operator.row_effect(), expected);
        assert_eq!(operator.resources().len(), 1);
        assert_eq!(operator.resources()[0].location, spec.config["tokenizer"].as_str().unwrap());
    }
}

#[test]
fn wrong_values_are_refused_with_what_is_allowed() {
    let cases = [
        ("tokenize", json!({"truncate": 0}), "'truncate': 0 keeps nothing"),
        ("tokenize", json!({"truncate": 2}), "'truncate': 2 leaves no room for text beside 2 special tokens"),
        ("tokenize", json!({"truncate": -1}), "truncate"),
        ("tokenize", json!({"chunk": {"length": 0}}), "'chunk.length': 0 is no window"),
        ("tokenize", json!({"chunk": {"length": 4, "overlap": 4}}), "'chunk.overlap': 4 is not less than the length 4"),
        ("tokenize", json!({"chunk": {"length": 4, "overlap": 2}}), "'chunk.length': 4 leaves no room for new text"),
        ("tokenize", json!({"chunk": {"size": 4}}), "chunk"),
        ("tokenize", json!({"chunk": {"length": 9}, "pack": {"length": 9}}), "cannot be combined with pack"),
        ("tokenize", json!({"chunk": {"length": 9}, "truncate": 9}), "cannot be combined with truncate"),
        ("tokenize", json!({"pack": {"length": 0}}), "'pack.length': 0 is no sequence"),
        ("tokenize", json!({"pack": {"length": u32::MAX}}), "'pack.length': 4294967295 is more than"),
        ("tokenize", json!({"pack": {"length": 8, "too_long": "cut"}}), "cut"),
        ("tokenize", json!({"pack": {"length": 8}, "truncate": 9}), "'truncate': 9 is longer than a packed sequence"),
        ("tokenize", json!({"column": "txt"}), "no column 'txt', did you mean 'text'?"),
        ("count_tokens", json!({"column": "txt"}), "no column 'txt', did you mean 'text'?"),
        ("count_tokens", json!({"special_token": true}), "did you mean 'special_tokens'?"),
    ];
    for (kind, config, expected) in cases {
        let config = with_tokenizer("tiny-wordpiece", config);
        let error = run(kind, &config, &[batch(&[Some("fox")])]).expect_err("refused").to_string();
        assert!(error.contains(expected), "{config}: {error}");
    }
}

#[test]
fn a_missing_tokenizer_is_named() {
    for kind in ["count_tokens", "tokenize"] {
        let error = run(kind, &json!({}), &[batch(&[Some("fox")])]).expect_err("refused").to_string();
        assert!(error.contains("tokenizer"), "{error}");
        let config = json!({"tokenizer": "./no/such/tokenizer.json"});
        let error = run(kind, &config, &[batch(&[Some("fox")])]).expect_err("refused").to_string();
        assert!(error.contains("./no/such/tokenizer.json"), "{error}");
    }
}

#[test]
fn a_text_the_vocabulary_cannot_spell_stops_the_run_with_its_row() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let tokenizer = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null, "decoder": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": {"fox": 0, "dog": 1}, "unk_token": "[UNK]"}
    });
    std::fs::write(file.path(), tokenizer.to_string()).unwrap();
    let config = json!({"tokenizer": file.path().to_str().unwrap()});
    let batches = [batch(&[Some("fox dog")]), batch(&[None, Some("cat")])];
    for kind in ["count_tokens", "tokenize"] {
        let error = run(kind, &config, &batches).expect_err("stops");
        assert!(matches!(error, OperatorError::Row { row: 2, .. }), "{error}");
    }
}

#[test]
fn examples_name_their_kind_and_parse() {
    let kinds: [&dyn OperatorKind; 2] = [&CountTokensKind, &TokenizeKind];
    for kind in kinds {
        assert!(kind.example().starts_with(&format!("{}: ", kind.name())));
        assert!(kind.config_schema()["properties"]["tokenizer"].is_object());
    }
}

//! The columns that come out, whatever becomes of rows without an answer.

use std::sync::Arc;
use std::time::Duration;

use arrow_array::BooleanArray;
use arrow_array::types::{Int64Type, UInt32Type};

use super::*;
use crate::conformance;
use crate::guard::{Guarded, RowPredicate};
use crate::models::tests::reference;
use crate::scoring::{GenerateKind, JudgeKind};

#[test]
fn conformance_suite() {
    let digits = Scripted::new(|body, _| {
        let text = asked(body);
        match text.len() % 3 {
            0 => Reply::text("[1]"),
            1 => Reply::text("no digit"),
            _ => Reply::status(400, "{\"error\": {\"message\": \"too long\"}}"),
        }
    });
    for more in [
        json!({}),
        json!({"on_error": "keep", "parse": {"regex": {"pattern": "(.)", "true_values": ["n"]}}}),
        json!({"on_error": "quarantine", "max_characters": 20, "prompt": "{{ label }}: {{ text }} ({{ id + 1 }})"}),
    ] {
        conformance::check_with(&JudgeKind, &config(more), &digits.resources());
    }
    let words = Scripted::new(|body, _| match body["prompt"].as_str() {
        Some(prompt) => {
            let body = json!({"choices": [{"text": prompt.to_uppercase(), "finish_reason": "length"}]});
            Reply::status(200, &body.to_string())
        }
        None if asked(body).len().is_multiple_of(2) => Reply::text(&format!("re: {}", asked(body))),
        None => Reply::status(422, "no"),
    });
    for more in [json!({}), json!({"chat": false, "temperature": 0.7, "seed": 3}), json!({"on_error": "quarantine"})] {
        conformance::check_with(&GenerateKind, &config(more), &words.resources());
    }
}

/// Five rows: judged, null, refused by the endpoint, answered without a digit, answered with something that is no answer.
fn troubled() -> (RecordBatch, Resources) {
    let network = Scripted::new(|body, _| match asked(body) {
        "fox" => Reply::text("I say [1]."),
        "long" => Reply::status(400, "{\"error\": {\"message\": \"the prompt is too long\"}}"),
        "vague" => Reply::text("perhaps"),
        // When others have been answered.
        _ => Reply::status(200, "<html>a proxy</html>").after(Duration::from_millis(300)),
    });
    (table(&[Some("fox"), None, Some("long"), Some("vague"), Some("html")]), network.resources())
}

/// A configuration with which requests are sent once.
fn once(mut more: Value) -> Value {
    more["endpoint"] = json!({"attempts": 1});
    config(more)
}

#[test]
fn rows_without_a_verdict_go_where_the_configuration_says() {
    let (batch, resources) = troubled();
    for (on_error, expected) in
        [("filter", [true, false, true, true, true]), ("keep", [true, false, false, false, false])]
    {
        let judged = run("judge", once(json!({"on_error": on_error})), &batch, &resources);
        assert_eq!(verdicts(&judged), expected, "{on_error}");
        assert_eq!(metadata(&judged, "judge_metadata", "judgment"), ["1", "", "", "", ""]);
        assert_eq!(metadata(&judged, "judge_metadata", "completion"), ["I say [1].", "", "", "perhaps", ""]);
        let errors = metadata(&judged, "judge_metadata", "error");
        assert_eq!((errors[0].as_str(), errors[1].as_str()), ("", ""));
        assert_eq!(errors[2], "status 400: the prompt is too long");
        assert!(errors[3].contains("no digit"), "{}", errors[3]);
        assert!(errors[4].contains("is no JSON") && errors[4].contains("<html>"), "{}", errors[4]);
    }
    assert!(verdicts(&run("judge", once(json!({})), &batch, &resources))[2], "the default closes the filter");

    let screened = output("judge", once(json!({"on_error": "quarantine"})), &batch, &resources).unwrap();
    let kept: Vec<i64> = screened.batches[0]["id"].as_primitive::<Int64Type>().values().to_vec();
    assert_eq!((kept, screened.rows_quarantined()), (vec![0, 1], 3));
    let quarantined: Vec<(u64, &str)> =
        screened.quarantined.iter().map(|gone| (gone.positions[0], gone.error.as_str())).collect();
    assert_eq!(quarantined[0], (2, "status 400: the prompt is too long"));
    assert_eq!((quarantined[1].0, quarantined[2].0), (3, 4));

    let message = error("judge", once(json!({"on_error": "fail"})), &batch, &resources);
    assert_eq!(message, "judge: row 2: status 400: the prompt is too long");
}

#[test]
fn generated_texts_stand_beside_all_other_columns() {
    let (batch, resources) = troubled();
    let written = run("generate", once(json!({})), &batch, &resources);
    assert_eq!(written.columns()[..2], batch.columns()[..]);
    let texts: Vec<Option<&str>> = written["generate"].as_string::<i32>().iter().collect();
    assert_eq!(texts, [Some("I say [1]."), None, None, Some("perhaps"), None]);
    let metadata = written["generate_metadata"].as_struct();
    assert_eq!((0..5).map(|row| metadata.is_null(row)).collect::<Vec<_>>(), [false, true, false, false, false]);
    let finish: Vec<Option<&str>> = metadata["finish"].as_string::<i32>().iter().collect();
    assert_eq!(finish, [Some("stop"), Some(""), Some(""), Some("stop"), Some("")]);
    let tokens: Vec<Option<u32>> = metadata["tokens"].as_primitive::<UInt32Type>().iter().collect();
    assert_eq!(tokens, [Some(10), None, None, Some(7), None]);
    assert_eq!(metadata["prompt_tokens"].as_primitive::<UInt32Type>().value(0), 7);
    let errors = metadata["error"].as_string::<i32>();
    assert_eq!(errors.value(2), "status 400: the prompt is too long");
    let message = error("generate", once(json!({"on_error": "fail"})), &batch, &resources);
    assert!(message.contains("row 2: status 400"), "{message}");
}

/// Rows whose id is not divisible by three.
#[derive(Debug)]
struct Some2of3;

impl RowPredicate for Some2of3 {
    fn inputs(&self) -> Vec<String> {
        vec!["id".to_owned()]
    }

    fn evaluate(&self, batch: &RecordBatch) -> crate::Result<BooleanArray> {
        let ids = batch["id"].as_primitive::<Int64Type>();
        Ok(ids.values().iter().map(|id| Some(id % 3 != 0)).collect())
    }
}

#[test]
fn in_a_cascade_rows_that_are_not_asked_about_have_defaults_and_quarantined_ones_leave() {
    let network = Scripted::new(|body, _| match asked(body).parse::<u32>().unwrap() % 5 {
        0 => Reply::status(400, "odd"),
        number => Reply::text(&format!("[{}]", number % 2)),
    });
    let texts: Vec<String> = (0..40).map(|number| number.to_string()).collect();
    let batch = table(&texts.iter().map(|text| Some(text.as_str())).collect::<Vec<_>>());
    for rows in [1, 3, 7, 40] {
        let spec = OperatorSpec::new("judge", config(json!({"on_error": "quarantine"})));
        let operator = Registry::standard().bind(&spec, &batch.schema(), &network.resources()).unwrap();
        let guarded = Guarded::try_new(operator, Arc::new(Some2of3)).unwrap();
        let pieces = (0..40).step_by(rows).map(|start| batch.slice(start, rows.min(40 - start)));
        let output = apply(&guarded, pieces).unwrap();
        assert_eq!(output.accounted(), 40);
        let mut ids = Vec::new();
        for batch in &output.batches {
            let verdicts = batch["judge"].as_boolean();
            let completions = metadata(batch, "judge_metadata", "completion");
            for (row, &id) in batch["id"].as_primitive::<Int64Type>().values().iter().enumerate() {
                ids.push(id);
                assert_eq!(completions[row].is_empty(), id % 3 == 0, "{id}");
                assert_eq!(verdicts.value(row), id % 3 != 0 && id % 5 % 2 == 1, "{id}");
            }
        }
        let expected: Vec<i64> = (0..40).filter(|id| id % 3 == 0 || id % 5 != 0).collect();
        assert_eq!(ids, expected, "{rows} rows a batch");
    }
    assert!(network.bodies().iter().all(|body| asked(body).parse::<u32>().unwrap() % 3 != 0));
}

#[test]
fn bad_configurations_are_named() {
    let network = Scripted::new(foxes);
    let (batch, resources) = (table(&[Some("a")]), network.resources());
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name)
    };
    let without_template = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(reference("llama").unwrap().join(name), without_template.path().join(name)).unwrap();
    }
    for (kind, more, expected) in [
        ("judge", json!({"endpoint": {"url": "host:8000"}}), "'endpoint.url': not an address"),
        ("judge", json!({"endpoint": {"url": "http://me:pass@host/v1"}}), "the address holds credentials"),
        ("judge", json!({"endpoint": {"url": "http://host/v1?key=1"}}), "without '?' and '#'"),
        ("judge", json!({"endpoint": {"model": ""}}), "'endpoint.model': the name is empty"),
        ("judge", json!({"endpoint": {"concurrency": 0}}), "'endpoint.concurrency': 0; 1 to 4096 are allowed"),
        ("judge", json!({"endpoint": {"attempts": 0}}), "'endpoint.attempts': 0; 1 to 1000"),
        ("judge", json!({"endpoint": {"timeout": 0}}), "'endpoint.timeout': 0 seconds"),
        ("judge", json!({"endpoint": {"requests_per_minute": 0}}), "'endpoint.requests_per_minute': 0"),
        ("judge", json!({"endpoint": {"body": {"stream": true}}}), "'stream' is set by this program"),
        ("judge", json!({"endpoint": {"modle": "m"}}), "unknown field `modle`"),
        ("judge", json!({"endpoint": {"key_env": "NO_SUCH"}}), "the environment variable 'NO_SUCH' is not set"),
        ("judge", json!({"model": "m"}), "'endpoint' is given, too"),
        ("judge", json!({"adapter": "a"}), "an endpoint has its own"),
        ("judge", json!({"endpoint": null}), "nobody is named who answers"),
        ("judge", json!({"endpoint": null, "model": "m", "cache": "c"}), "are not kept; leave 'cache' out"),
        ("judge", json!({"max_tokens": 0}), "'max_tokens': 0; at least 1"),
        ("judge", json!({"on_error": "kep"}), "'kep' is not allowed, did you mean 'keep'?"),
        ("judge", json!({"parse": {"regex": {"pattern": "(", "true_values": ["a"]}}}), "parse.regex.pattern"),
        ("judge", json!({"prompt": "a", "prompt_file": "b"}), "'prompt' is given, too"),
        ("judge", json!({"system": "a", "system_file": "b"}), "'system' is given, too"),
        ("judge", json!({"prompt": "{{ text"}), "'prompt': the template, line 1"),
        ("judge", json!({"prompt": "a\n{{ txet }}"}), "no column 'txet', did you mean 'text'?"),
        ("judge", json!({"prompt_file": "nowhere.txt"}), "cannot use 'nowhere.txt'"),
        ("judge", json!({"system_file": file("a.json", "[]")}), "expected an object"),
        (
            "judge",
            json!({"system_file": file("b.json", "{\"messages\": [{\"role\": \"user\"}]}")}),
            "missing field `content`",
        ),
        ("judge", json!({"system_file": file("c.txt", " ")}), "the file is empty"),
        ("judge", json!({"system_file": file("d.json", "{\"messages\": []}")}), "'messages' is empty"),
        ("judge", json!({"prompt": ""}), "'prompt': the text is empty"),
        ("judge", json!({"system": " "}), "'system': the text is empty"),
        ("judge", json!({"prompt": "{{ text | nofilter }}"}), "'prompt': the template, line 1"),
        ("judge", json!({"parse": {"json": {"field": "a..b"}}}), "'parse.json.field': \"a..b\""),
        ("judge", json!({"cache": ""}), "'cache': the location is empty"),
        ("judge", json!({"precision": "nf4"}), "'precision': an endpoint has its own"),
        ("judge", json!({"tokenizer": "t"}), "'tokenizer': an endpoint has its own"),
        ("judge", json!({"endpoint": null, "model": without_template.path()}), "has no chat template"),
        ("judge", json!({"column": "body"}), "no column 'body'"),
        ("judge", json!({"column": "id"}), "column 'id' has type Int64"),
        ("judge", json!({"cut_at": ""}), "'cut_at': the marker is empty"),
        ("judge", json!({"max_characters": 0}), "'max_characters': 0"),
        ("judge", json!({"max_text_tokens": 5}), "Name the 'tokenizer'"),
        ("generate", json!({"temperature": -1}), "'temperature': -1; 0 or more"),
        ("generate", json!({"top_p": 0}), "'top_p': 0; more than 0"),
        ("generate", json!({"stop": [""]}), "'stop': one of the texts is empty"),
        ("generate", json!({"chat": false, "system": "a"}), "has no system message"),
    ] {
        let message = error(kind, config(more.clone()), &batch, &resources);
        assert!(message.contains(expected), "{more}: {message}");
        assert!(!message.contains("pass"), "{message}");
    }
    let message = error("judge", config(json!({})), &batch, &Resources::local());
    assert!(message.contains("gives operators no network"), "{message}");
    assert_eq!(network.number(), 0);
}

//! What cannot be measured, and what messages say of it.

use super::*;

fn error(config: &Value, batch: &RecordBatch) -> String {
    run(config, std::slice::from_ref(batch)).unwrap_err().to_string()
}

/// A row with these messages.
fn row(messages: Value) -> RecordBatch {
    RecordBatch::try_from_iter([
        ("id", Arc::new(StringArray::from(vec!["mill_0"])) as ArrayRef),
        ("messages", Arc::new(StringArray::from(vec![messages.to_string()]))),
    ])
    .unwrap()
}

#[test]
fn rows_that_cannot_be_measured_are_named_or_put_aside() {
    let (_folder, config) = study();
    let user = json!({"role": "user", "content": "Which grain?"});
    let answer = |content: &str| json!({"role": "assistant", "content": content});
    for (messages, says) in [
        (json!([]), "has no message"),
        (json!([user]), "the last message is of 'user'"),
        (json!({}), "not a JSON list"),
        (json!([user, {"role": "assistant"}]), "missing field `content`"),
        (json!([user, answer(&"grain ".repeat(200))]), "the model has 128 positions"),
        (json!([answer("Rye.")]), "no message of the user"),
    ] {
        let batch = row(messages);
        let message = error(&config, &batch);
        assert!(message.contains("gradient_pairs: row 0: ") && message.contains(says), "{message}");
        let config = with(&config, json!({"on_error": "quarantine"}));
        let spec = OperatorSpec::new("gradient_pairs", config);
        let operator = Registry::standard().bind(&spec, &batch.schema(), &Resources::local()).unwrap();
        let output = apply(operator.as_ref(), [rows(&REWRITTEN[..2]), batch]).unwrap();
        assert_eq!((output.rows(), output.quarantined[0].positions.as_slice()), (2, [2].as_slice()));
        assert!(output.quarantined[0].error.contains(says));
    }
    // A template that writes nothing behind the marker leaves an answer without tokens.
    let empty = RecordBatch::try_from_iter([
        ("id", Arc::new(StringArray::from(vec!["mill_0"])) as ArrayRef),
        ("messages", Arc::new(StringArray::from(vec!["What?"]))),
        ("answer", Arc::new(StringArray::from(vec![""]))),
    ])
    .unwrap();
    let texts = with(&config, json!({"prompt": "messages", "answer": "answer"}));
    let message = error(&texts, &empty);
    assert!(message.contains("the answer has no tokens"), "{message}");

    // The true original does not exist, or is not named.
    let other = RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(StringArray::from(vec![Some("mill_70")])) as ArrayRef, true),
        ("messages", Arc::clone(&rows(&REWRITTEN[..1])["messages"]), true),
    ])
    .unwrap();
    assert!(error(&config, &other).contains("its id 'mill_70' is not among the originals"));
    let nameless = RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(StringArray::from(vec![None::<&str>])) as ArrayRef, true),
        ("messages", Arc::clone(&rows(&REWRITTEN[..1])["messages"]), true),
    ])
    .unwrap();
    assert!(error(&config, &nameless).contains("its id is null"));
}

#[test]
fn candidates_that_do_not_exist_or_come_twice_are_errors() {
    let (_folder, config) = study();
    let config = with(&config, json!({"candidates": "like"}));
    for (ids, says) in [
        (Some(vec![Some("mill_1"), Some("mill_9")]), "candidate 'mill_9' is not among the originals"),
        (Some(vec![Some("mill_1"), Some("mill_1")]), "candidate 'mill_1' is named twice"),
        (Some(vec![None]), "candidate 0 is null"),
        (Some(vec![]), "its list of candidates is empty"),
        (None, "it has no list of candidates"),
    ] {
        let mut lists = arrow_array::builder::ListBuilder::new(arrow_array::builder::StringBuilder::new());
        match ids {
            Some(ids) => lists.append_value(ids),
            None => lists.append_null(),
        }
        let all = rows(&REWRITTEN[..1]);
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("id", Arc::clone(&all["id"]), false),
            ("messages", Arc::clone(&all["messages"]), false),
            ("like", Arc::new(lists.finish()) as ArrayRef, true),
        ])
        .unwrap();
        let message = error(&config, &batch);
        assert!(message.contains(says), "{message}");
    }
    let message = error(&with(&config, json!({"candidates": "id"})), &rows(&REWRITTEN));
    assert!(message.contains("column 'id' has type Utf8, expected a list"), "{message}");
}

#[test]
fn originals_that_cannot_be_used_are_errors_before_any_row() {
    let (folder, config) = study();
    let path = folder.path().join("bad.json");
    let sample = |id: Value, answer: Value| json!({"id": id, "messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": answer}]});
    let good = sample(json!("a"), json!("A"));
    for (content, says) in [
        (json!([good, good]), "row 1 ('a'): row 0 has the same id"),
        (json!([good, sample(json!(null), json!("A"))]), "row 1 has no id"),
        (json!([good, sample(json!("b"), json!(null))]), "row 1 ('b'): message 1 has no content"),
        (json!([good, {"id": "b"}]), "row 1 ('b'): there is no sample"),
        (
            json!([good, {"id": "b", "messages": [{"role": "assistant", "content": "A"}]}]),
            "row 1 has no message of the user",
        ),
        (json!([{"id": "a", "messages": "[]"}]), "row 0 ('a'): the conversation has no message"),
        (json!([{"id": 1.5, "messages": "[]"}]), "column 'id' has type Float64"),
        (json!([{"name": "a", "messages": "[]"}]), "no column 'id'"),
        (json!([{"id": "a", "messages": [1]}]), "column 'messages' has type"),
    ] {
        std::fs::write(&path, content.to_string()).unwrap();
        let message = error(&with(&config, json!({"originals": {"path": path}})), &rows(&REWRITTEN));
        assert!(message.contains("bad.json") && message.contains(says), "{says}: {message}");
    }
}

#[test]
fn configurations_that_mean_nothing_are_errors() {
    let (folder, config) = study();
    let path = config["originals"]["path"].clone();
    for (changes, says) in [
        (json!({"top": 0}), "'top': 0; at least 1 is allowed"),
        (json!({"messages": "messages", "answer": "id"}), "give one of the two"),
        (json!({"prompt": "id"}), "'answer': 'prompt' is given without it"),
        (json!({"originals": {"path": path, "prompt": "id"}}), "'originals.answer'"),
        (json!({"tensors": {"include": ["no*"]}}), "no parameter matches [\"no*\"]"),
        (json!({"projection": {"shares": []}}), "no share is given"),
        (json!({"projection": {"shares": [0.0]}}), "shares above 0 and at most 1"),
        (json!({"projection": {"shares": [1.5]}}), "shares above 0 and at most 1"),
        (json!({"precision": "nf4"}), "weights in four bits have none"),
        (json!({"messages": "no"}), "no column 'no'"),
        (json!({"messages": "id", "truth": "ids"}), "no column 'ids'"),
        (json!({"model": fixture("bert-classifier")}), "without the head of a language model"),
        (json!({"originals": {"path": "/nowhere.jsonl"}}), "/nowhere.jsonl"),
    ] {
        let message = error(&with(&config, changes), &rows(&REWRITTEN));
        assert!(message.contains(says), "{says}: {message}");
    }
    // Messages need a template; texts do not.
    let copy = folder.path().join("model");
    std::fs::create_dir(&copy).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(fixture("llama").join(name), copy.join(name)).unwrap();
    }
    let message = error(&with(&config, json!({"model": copy})), &rows(&REWRITTEN));
    assert!(message.contains("no chat template"), "{message}");
}

#[test]
fn a_template_that_rewrites_what_was_asked_is_refused() {
    let source = "{% for m in messages %}{{ messages | length }} {{ m.content }}\n{% endfor %}";
    let encoder = Encoder { template: Some(ChatTemplate::new(source, []).unwrap()), ..encoder() };
    let message = encoder.encode(&conversation("a", "b")).unwrap_err();
    assert!(message.contains("it is not known where the answer begins"), "{message}");
}

#[test]
fn losses_that_are_not_numbers_are_errors_of_rows() {
    let (folder, config) = study();
    let copy = folder.path().join("model");
    std::fs::create_dir(&copy).unwrap();
    for name in ["config.json", "tokenizer.json", "chat_template.jinja"] {
        std::fs::copy(fixture("llama").join(name), copy.join(name)).unwrap();
    }
    // One weight is not a number, and so is every loss.
    let mut weights = std::fs::read(fixture("llama").join("model.safetensors")).unwrap();
    let last = weights.len() - 4;
    weights[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(copy.join("model.safetensors"), weights).unwrap();
    let message = error(&with(&config, json!({"model": copy})), &rows(&REWRITTEN));
    assert_eq!(message, "gradient_pairs: row 0: the loss of its sample is NaN, and has no gradient");
}

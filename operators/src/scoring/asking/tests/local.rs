//! The operators over a model in this process.

use std::path::PathBuf;

use super::*;
use crate::conformance;
use crate::models::generate::Limits;
use crate::scoring::asking::{Answerer, Input, LocalModel, Message, Request, Sampling};
use crate::scoring::{GenerateKind, JudgeKind, Precision};

/// A small model that speaks in turns.
fn model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let from = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/models/llama");
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(from.join(name), folder.path().join(name)).unwrap();
    }
    let template = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:";
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    folder
}

#[test]
fn conformance_suite() {
    let folder = model();
    let short = json!({"model": folder.path(), "max_characters": 40});
    let with = |more: Value| {
        let mut config = short.clone();
        more.as_object().unwrap().iter().for_each(|(key, value)| config[key] = value.clone());
        config
    };
    conformance::check(&GenerateKind, &with(json!({"max_tokens": 3})));
    conformance::check(&GenerateKind, &with(json!({"max_tokens": 3, "chat": false, "temperature": 1.0, "seed": 5})));
    conformance::check(&JudgeKind, &with(json!({"system": "s", "on_error": "quarantine"})));
}

#[test]
fn a_model_in_this_process_answers_what_the_operator_asks() {
    let folder = model();
    let location = folder.path().to_str().unwrap();
    let batch = table(&[Some("one two three"), None, Some("four")]);
    let settings = json!({"model": location, "system": "Go on.", "prompt": "{{ id }} {{ text }}", "max_tokens": 6});
    let written = run("generate", settings, &batch, &Resources::local());
    let own = LocalModel::load(location, None, None, Precision::F32, Limits::default(), &Resources::local()).unwrap();
    let sampling = Sampling { max_tokens: 6, temperature: 0.0, top_p: 1.0, stop: Vec::new(), seed: None };
    let message = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
    let requests = ["0 one two three", "2 four"].map(|prompt| Request {
        input: Input::Messages(vec![message("system", "Go on."), message("user", prompt)]),
        sampling: sampling.clone(),
    });
    let answers: Vec<_> = own.answer(&requests).into_iter().map(Result::unwrap).collect();
    let texts = written["generate"].as_string::<i32>();
    assert_eq!((texts.value(0), texts.value(2)), (answers[0].text.as_str(), answers[1].text.as_str()));
    assert!(texts.is_null(1) && !answers[0].text.is_empty());
    assert_eq!(metadata(&written, "generate_metadata", "finish")[0], answers[0].finish.as_str());

    std::fs::remove_file(folder.path().join("chat_template.jinja")).unwrap();
    let message = error("judge", json!({"model": location}), &batch, &Resources::local());
    assert!(message.contains("has no chat template"), "{message}");
}

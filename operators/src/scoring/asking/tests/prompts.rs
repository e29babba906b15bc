//! What is sent.

use std::path::Path;

use arrow_array::types::Int32Type;
use arrow_array::{ArrayRef, BooleanArray, Float32Array, Int8Array, LargeStringArray, ListArray, StringViewArray};

use super::*;

fn sent(kind: &str, more: Value, batch: &RecordBatch) -> Vec<Post> {
    let network = Scripted::new(|body, _| match body.get("prompt") {
        Some(_) => Reply::status(200, "{\"choices\": [{\"text\": \"1\"}]}"),
        None => Reply::text("1"),
    });
    // One after the other, so that they come in the order of the rows.
    let mut config = config(more);
    config["endpoint"]["concurrency"] = 1.into();
    run(kind, config, batch, &network.resources());
    let posts = network.posts.lock().unwrap();
    posts.iter().map(|(_, post)| post.clone()).collect()
}

fn bodies(kind: &str, more: Value, batch: &RecordBatch) -> Vec<Value> {
    sent(kind, more, batch).iter().map(|post| serde_json::from_slice(&post.body).unwrap()).collect()
}

#[test]
fn requests_hold_what_is_configured_and_no_more() {
    let batch = table(&[Some("hello")]);
    let posts = sent("judge", json!({"endpoint": {"key_env": "LM_KEY", "timeout": 1.5}}), &batch);
    assert_eq!(posts[0].url, "http://host:8000/v1/chat/completions");
    assert_eq!(posts[0].bearer.as_ref().unwrap().reveal(), KEY);
    assert_eq!(posts[0].timeout, Duration::from_millis(1500));
    assert_eq!(
        bodies("judge", json!({"system": "Judge."}), &batch)[0],
        json!({"model": "m", "messages": [{"role": "system", "content": "Judge."}, {"role": "user", "content": "hello"}],
            "max_tokens": 5, "temperature": 0.0})
    );
    let more = json!({"temperature": 0.7, "top_p": 0.9, "stop": ["\n"], "seed": 42, "max_tokens": 9,
        "endpoint": {"body": {"max_tokens": null, "max_completion_tokens": 9, "chat_template_kwargs": {"thinking": false}}}});
    assert_eq!(
        bodies("generate", more, &batch)[0],
        json!({"model": "m", "messages": [{"role": "user", "content": "hello"}], "temperature": 0.7, "top_p": 0.9,
            "stop": ["\n"], "seed": 42, "max_completion_tokens": 9, "chat_template_kwargs": {"thinking": false}})
    );
    let posts = sent("generate", json!({"chat": false, "prompt": "{{ text }} world\n"}), &batch);
    assert_eq!(posts[0].url, "http://host:8000/v1/completions");
    let body: Value = serde_json::from_slice(&posts[0].body).unwrap();
    assert_eq!(body["prompt"], "hello world\n");
    assert!(posts[0].bearer.is_none() && body.get("messages").is_none());
}

#[test]
fn files_hold_templates_system_messages_and_prefixes() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name)
    };
    let batch = table(&[Some("it")]);
    let txt = file("system.txt", "Line one.\nLine {{ two }}.\n");
    let template = file("prompt.j2", "Is {{ text }}?\n");
    let body = &bodies("judge", json!({"system_file": txt, "prompt_file": template}), &batch)[0];
    // The system message is no template.
    assert_eq!(body["messages"][0], json!({"role": "system", "content": "Line one.\nLine {{ two }}.\n"}));
    assert_eq!(body["messages"][1]["content"], "Is it?\n");
    let messages = json!([{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "[0]"}]);
    let prefix = file("shots.json", &json!({"messages": messages}).to_string());
    let body = &bodies("judge", json!({"system_file": prefix}), &batch)[0];
    assert_eq!(body["messages"].as_array().unwrap()[..3], messages.as_array().unwrap()[..]);
    assert_eq!(body["messages"][3], json!({"role": "user", "content": "it"}));

    // What was read is part of the run's fingerprint.
    let network = Scripted::new(foxes);
    let spec = OperatorSpec::new("judge", config(json!({"system_file": prefix, "prompt_file": template})));
    let operator = Registry::standard().bind(&spec, &batch.schema(), &network.resources()).unwrap();
    let identities = operator.resources();
    let locations: Vec<&str> = identities.iter().map(|identity| identity.location.as_str()).collect();
    assert_eq!(locations.iter().map(Path::new).collect::<Vec<_>>(), [&template, &prefix]);
}

#[test]
fn texts_are_cut_at_the_marker_at_tokens_and_at_characters() {
    let asked_of = |more: Value, text: &str| {
        let bodies = bodies("judge", more, &table(&[Some(text)]));
        asked(&bodies[0]).to_owned()
    };
    for (more, text, expected) in [
        (json!({"cut_at": "##"}), "a ## b ## c", "a "),
        (json!({"cut_at": "##"}), "a # b", "a # b"),
        (json!({"max_characters": 3}), "añö€x", "añö"),
        (json!({"max_characters": 3}), "añö", "añö"),
        (json!({"max_characters": 1, "cut_at": "ñ"}), "añö", "a"),
        (json!({"cut_at": "a"}), "abc", ""),
    ] {
        assert_eq!(asked_of(more, text), expected, "{text}");
    }
    let tokenizer = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/data/tokenizer.json");
    let (own, _) = crate::tokens::Tokenizer::load(tokenizer, &Resources::local()).unwrap();
    let text = "The quick brown fox jumps over the lazy dog, again and again and again.";
    let mut ids = Vec::new();
    own.encode(text, false, &mut ids).unwrap();
    assert!(ids.len() > 7);
    let cut = asked_of(json!({"tokenizer": tokenizer, "max_text_tokens": 7}), text);
    assert!(text.starts_with(&cut) && cut.len() < text.len(), "{cut}");
    assert_eq!(cut, own.decode(&ids[..7]).unwrap());
    assert_eq!(asked_of(json!({"tokenizer": tokenizer, "max_text_tokens": ids.len()}), text), text);
}

#[test]
fn templates_read_every_column_they_name() {
    let list: ListArray = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None, Some(3)])]);
    let columns: [(&str, ArrayRef); 7] = [
        ("body", Arc::new(StringArray::from(vec!["<b> & \"c\" {{ x }}"]))),
        ("title", Arc::new(StringViewArray::from(vec!["T"]))),
        ("url", Arc::new(LargeStringArray::from(vec![None::<&str>]))),
        ("small", Arc::new(Int8Array::from(vec![-3]))),
        ("score", Arc::new(Float32Array::from(vec![0.5]))),
        ("flag", Arc::new(BooleanArray::from(vec![true]))),
        ("list", Arc::new(list)),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let prompt = "{{ text }}|{{ title }}|{{ url }}|{{ url is none }}|{{ small + 1 }}|{{ score }}|{{ flag }}|{{ list | length }}|{% for x in list %}{{ x }},{% endfor %}|{{ body | upper }}";
    let more = json!({"column": "body", "prompt": prompt});
    let expected = "<b> & \"c\" {{ x }}|T|None|True|-2|0.5|True|3|1,None,3,|<B> & \"C\" {{ X }}";
    assert_eq!(asked(&bodies("judge", more.clone(), &batch)[0]), expected);
    let network = Scripted::new(foxes);
    let operator =
        Registry::standard().bind(&OperatorSpec::new("judge", config(more)), &batch.schema(), &network.resources());
    let mut inputs = operator.unwrap().inputs();
    inputs.sort();
    assert_eq!(inputs, ["body", "flag", "list", "score", "small", "title", "url"]);

    let dates: ArrayRef = Arc::new(arrow_array::Date32Array::from(vec![0]));
    let batch =
        RecordBatch::try_from_iter([("text", Arc::new(StringArray::from(vec!["a"])) as _), ("day", dates)]).unwrap();
    let message = error("judge", config(json!({"prompt": "{{ text }} {{ day }}"})), &batch, &network.resources());
    assert!(message.contains("column 'day' has type Date32"), "{message}");

    // A template that has no value for a row is an error of that row.
    let batch = table(&[Some("a"), Some("b")]);
    let more = json!({"prompt": "{{ 1 // (1 - id) }}", "on_error": "fail"});
    let message = error("judge", config(more), &batch, &network.resources());
    assert!(message.starts_with("judge: row 1: the template, line 1"), "{message}");
}

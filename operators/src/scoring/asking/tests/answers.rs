//! Answers that are kept, and how many requests are sent.

use std::collections::BTreeSet;

use super::*;
use crate::OperatorError;

#[test]
fn equal_requests_are_asked_once_and_kept_answers_never_again() {
    let folder = tempfile::tempdir().unwrap();
    let network = Scripted::new(foxes);
    let batch = table(&[Some("fox"), Some("dog"), Some("fox"), None, Some("dog"), Some("fox"), Some("cat")]);
    let expected = [true, false, true, false, false, true, false];
    assert_eq!(verdicts(&run("judge", config(json!({})), &batch, &network.resources())), expected);
    assert_eq!(network.number(), 3);

    let kept = |more: Value| {
        let mut settings = config(more);
        settings["cache"] = json!(folder.path());
        let network = Scripted::new(foxes);
        assert_eq!(verdicts(&run("judge", settings, &batch, &network.resources())), expected);
        network.number()
    };
    assert_eq!(kept(json!({})), 3);
    assert_eq!(kept(json!({})), 0);
    // How the endpoint is reached and how an answer is read have no part in it; what is asked has.
    assert_eq!(kept(json!({"endpoint": {"concurrency": 1, "attempts": 2, "timeout": 5, "key_env": "LM_KEY"}})), 0);
    assert_eq!(kept(json!({"parse": {"regex": {"pattern": "(.)]", "true_values": ["1"]}}})), 0);
    assert_eq!(kept(json!({"endpoint": {"model": "n"}})), 3);
    assert_eq!(kept(json!({"endpoint": {"url": "http://other/v1"}})), 3);
    assert_eq!(kept(json!({"endpoint": {"body": {"top_k": 1}}})), 3);
    assert_eq!(kept(json!({"max_tokens": 6})), 3);
    assert_eq!(kept(json!({"system": "s"})), 3);
    assert_eq!(kept(json!({})), 0);
}

#[test]
fn passes_side_by_side_share_limits_and_answers() {
    let network = Scripted::new(|_, _| Reply::text("[1]").after(Duration::from_millis(5)));
    let texts: Vec<String> = (0..60).map(|number| number.to_string()).collect();
    let batch = table(&texts.iter().map(|text| Some(text.as_str())).collect::<Vec<_>>());
    let folder = tempfile::tempdir().unwrap();
    let settings = config(json!({"endpoint": {"concurrency": 7}, "cache": folder.path()}));
    let spec = OperatorSpec::new("judge", settings);
    let operator = Registry::standard().bind(&spec, &batch.schema(), &network.resources()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let judged = apply(operator.as_ref(), [batch.clone()]).unwrap().batches.remove(0);
                assert_eq!(verdicts(&judged), [true; 60]);
            });
        }
    });
    assert_eq!(network.number(), 60);
    assert_eq!(*network.under_way.lock().unwrap(), (0, 7));
}

#[test]
fn requests_of_a_minute_are_bounded() {
    let network = Scripted::new(foxes);
    let batch = table(&[Some("a"), Some("b"), Some("c"), Some("d")]);
    run("judge", config(json!({"endpoint": {"requests_per_minute": 600}})), &batch, &network.resources());
    let posts = network.posts.lock().unwrap();
    for (number, (time, _)) in posts.iter().enumerate() {
        // The rate counts from when a request is let go, which is before it is seen here.
        assert!(
            *time - posts[0].0 + Duration::from_millis(60) >= Duration::from_millis(100 * number as u64),
            "{number}"
        );
    }
}

#[test]
fn in_a_run_answers_are_kept_in_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let network = Scripted::new(foxes);
    let resources = network.resources().for_run(&format!("file://{}", folder.path().display()));
    let batch = table(&[Some("a")]);
    let operator =
        Registry::standard().bind(&OperatorSpec::new("judge", config(json!({}))), &batch.schema(), &resources).unwrap();
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none(), "binding makes nothing");
    apply(operator.as_ref(), [batch.clone()]).unwrap();
    assert_eq!(std::fs::read_dir(folder.path().join("_run/answers")).unwrap().count(), 1);
    run("judge", config(json!({})), &batch, &resources);
    assert_eq!(network.number(), 1);
}

#[test]
fn a_place_that_cannot_keep_answers_ends_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let network = Scripted::new(foxes);
    let batch = table(&[Some("a"), Some("b")]);
    for (cache, number) in [(file.to_string_lossy().into_owned(), 0), ("s3://bucket/answers".to_owned(), 0)] {
        let error = output("judge", config(json!({"cache": cache})), &batch, &network.resources()).unwrap_err();
        assert!(matches!(error, OperatorError::Outage { .. }), "{error:?}");
        assert!(error.to_string().contains(&cache), "{error}");
        assert_eq!(network.number(), number);
    }
}

#[test]
fn what_cannot_change_a_result_is_no_part_of_a_run() {
    let registry = Registry::standard();
    let identity = |kind: &str, more: Value| {
        let spec = registry.complete(&OperatorSpec::new(kind, config(more))).unwrap();
        registry.kind(kind).unwrap().identity(&spec.config).to_string()
    };
    for kind in ["judge", "generate"] {
        let plain = identity(kind, json!({}));
        let operation = json!({"cache": "c", "endpoint": {"concurrency": 3, "attempts": 2, "timeout": 5, "key_env": "K", "requests_per_minute": 9}});
        assert_eq!(identity(kind, operation), plain);
        let changes = [
            json!({"endpoint": {"url": "http://h"}}),
            json!({"endpoint": {"model": "n"}}),
            json!({"endpoint": {"body": {"a": 1}}}),
            json!({"on_error": "fail"}),
            json!({"prompt": "p"}),
            json!({"max_tokens": 77}),
        ];
        let others: BTreeSet<String> = changes.into_iter().map(|change| identity(kind, change)).collect();
        assert!(others.len() == 6 && !others.contains(&plain));
    }
}

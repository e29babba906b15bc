//! An endpoint that fails: what is sent again, and what ends the run.

use super::*;
use crate::OperatorError;

fn elapsed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let result = work();
    (result, begun.elapsed())
}

#[test]
fn what_may_pass_is_sent_again_and_nothing_else() {
    for (reply, is_repeated) in [
        ((|| Reply::status(408, "")) as fn() -> Reply, true),
        (|| Reply::status(409, ""), true),
        (|| Reply::status(429, ""), true),
        (|| Reply::status(500, ""), true),
        (|| Reply::status(503, ""), true),
        (Reply::lost, true),
        (|| Reply(Duration::ZERO, Err(PostError::Timeout(Duration::from_secs(1)))), true),
        (|| Reply::status(400, ""), false),
        (|| Reply::status(413, ""), false),
        (|| Reply::status(422, ""), false),
        (|| Reply::status(200, "{}"), true),
        (|| Reply::status(200, "<html>"), true),
        (|| Reply::status(200, "{\"choices\": []}"), true),
        (
            || {
                Reply::status(
                    200,
                    "{\"choices\": [{\"message\": {\"content\": null}, \"finish_reason\": \"tool_calls\"}]}",
                )
            },
            false,
        ),
    ] {
        let network = Scripted::new(move |_, before| if before == 0 { reply() } else { Reply::text("[0]") });
        let judged = run("judge", config(json!({})), &table(&[Some("a")]), &network.resources());
        let error = &metadata(&judged, "judge_metadata", "error")[0];
        assert_eq!(
            (network.number(), verdicts(&judged)[0]),
            if is_repeated { (2, false) } else { (1, true) },
            "{error}"
        );
        assert_eq!(error.is_empty(), is_repeated, "{error}");
    }
}

#[test]
fn attempts_are_bounded_and_waits_grow() {
    let network = Scripted::new(|_, _| Reply::status(500, "{\"error\": \"out of memory\"}"));
    let batch = table(&[Some("a")]);
    let (error, time) =
        elapsed(|| error("judge", config(json!({"endpoint": {"attempts": 3}})), &batch, &network.resources()));
    assert_eq!(network.number(), 3);
    let expected = "the endpoint answers nothing: status 500: out of memory, at the last of 3 attempts";
    assert!(error.contains(expected), "{error}");
    let posts = network.posts.lock().unwrap();
    let waits: Vec<Duration> = posts.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(waits[0] >= Duration::from_millis(100) && waits[1] >= Duration::from_millis(200), "{waits:?}");
    assert!(time < Duration::from_secs(5));
}

#[test]
fn the_wait_that_a_server_names_holds_for_all_requests() {
    let network = Scripted::new(|body, before| match (asked(body), before) {
        ("first", 0) => Reply::status(429, "slow down").retry_after(Duration::from_millis(700)),
        _ => Reply::text("[0]").after(Duration::from_millis(50)),
    });
    let batch = table(&[Some("first"), Some("second"), Some("third")]);
    let one = config(json!({"endpoint": {"concurrency": 1}}));
    assert_eq!(verdicts(&run("judge", one, &batch, &network.resources())), [false; 3]);
    let posts = network.posts.lock().unwrap();
    assert_eq!(posts.len(), 4);
    assert!(posts[1..].iter().all(|(time, _)| *time - posts[0].0 >= Duration::from_millis(690)));
}

#[test]
fn what_every_request_would_meet_ends_the_run() {
    let batch = table(&[Some("a"), Some("b"), Some("c")]);
    for (status, expected) in
        [(401, "status 401: no"), (403, "status 403: no"), (404, "status 404: no"), (307, "status 307: no")]
    {
        let network = Scripted::new(move |_, _| Reply::status(status, "no"));
        let one = config(json!({"endpoint": {"concurrency": 1}, "on_error": "keep"}));
        let error = output("judge", one, &batch, &network.resources()).unwrap_err();
        assert!(matches!(error, OperatorError::Outage { .. }), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(network.number(), 1, "nothing more is sent");
    }
    let network = Scripted::new(|_, _| Reply::lost());
    let error =
        output("judge", config(json!({"endpoint": {"attempts": 2}})), &batch, &network.resources()).unwrap_err();
    assert!(matches!(error, OperatorError::Outage { .. }), "{error:?}");
    assert!(error.to_string().contains("the endpoint answers nothing: connection refused"), "{error}");

    // Where others are answered, it is the request that is at fault.
    let network = Scripted::new(|body, _| match asked(body) {
        "a" => Reply::lost(),
        "b" => Reply::status(403, "flagged").after(Duration::from_millis(500)),
        _ => Reply::text("[0]"),
    });
    let judged = run("judge", config(json!({"endpoint": {"attempts": 2}})), &batch, &network.resources());
    assert_eq!(verdicts(&judged), [true, true, false]);
    let errors = metadata(&judged, "judge_metadata", "error");
    assert_eq!(errors[..2], ["connection refused, at the last of 2 attempts", "status 403: flagged"]);
}

#[test]
fn a_program_that_stops_sends_nothing_more_and_stores_what_is_under_way() {
    let folder = tempfile::tempdir().unwrap();
    let network = Scripted::new(|_, _| Reply::text("[1]").after(Duration::from_millis(300)));
    let texts: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    let batch = table(&texts.iter().map(|text| Some(text.as_str())).collect::<Vec<_>>());
    let settings = config(json!({"cache": folder.path(), "endpoint": {"concurrency": 4}}));
    let error = std::thread::scope(|scope| {
        let running = scope.spawn(|| output("judge", settings.clone(), &batch, &network.resources()).unwrap_err());
        while network.number() < 4 {
            std::thread::sleep(Duration::from_millis(5));
        }
        *network.stops.lock().unwrap() = true;
        running.join().unwrap()
    });
    assert!(error.to_string().contains("about to stop"), "{error}");
    assert_eq!((network.number(), network.under_way.lock().unwrap().0), (4, 0));
    // The next process asks for the rest.
    *network.stops.lock().unwrap() = false;
    assert_eq!(verdicts(&run("judge", settings, &batch, &network.resources())), [true; 20]);
    assert_eq!(network.number(), 20);
}

#[test]
fn a_key_is_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let network = Scripted::new(|body, _| match asked(body) {
        "a" => Reply::text("[1]"),
        _ => Reply::status(400, &format!("{{\"error\": {{\"message\": \"bad key {KEY} here\"}}}}")),
    });
    let batch = table(&[Some("a"), Some("b")]);
    let settings = config(json!({"cache": folder.path(), "endpoint": {"key_env": "LM_KEY"}}));
    let spec = OperatorSpec::new("judge", settings);
    let operator = Registry::standard().bind(&spec, &batch.schema(), &network.resources()).unwrap();
    let judged = apply(operator.as_ref(), [batch.clone()]).unwrap().batches.remove(0);
    assert_eq!(metadata(&judged, "judge_metadata", "error")[1], "status 400: bad key *** here");
    assert!(!format!("{operator:?} {:?}", network.posts.lock().unwrap()).contains(KEY));
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(KEY.len()).any(|window| window == KEY.as_bytes()));
    }
    // Nor is a part of it where a long message is cut.
    let network = Scripted::new(|_, _| Reply::status(400, &format!("{}{KEY}", "x".repeat(200 - KEY.len() / 2))));
    let judged =
        run("judge", config(json!({"endpoint": {"key_env": "LM_KEY"}})), &table(&[Some("a")]), &network.resources());
    let shown = &metadata(&judged, "judge_metadata", "error")[0];
    assert!(!shown.contains(&KEY[..KEY.len() / 2]) && shown.contains("x***"), "{shown}");
    let network = Scripted::new(|_, _| Reply::status(401, &format!("wrong key {KEY}")));
    let message = error("judge", config(json!({"endpoint": {"key_env": "LM_KEY"}})), &batch, &network.resources());
    assert!(message.contains("wrong key ***"), "{message}");
}

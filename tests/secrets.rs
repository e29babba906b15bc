//! Credentials in locations are used and never shown: not in messages, logs, plans, records or reports.

use serde_json::json;
use wiremock::matchers::{header, method, path, query_param};
use wiremock::{Mock, MockServer};

use crate::support::{Ran, Served, TERMS, Workspace, holds, lines, rows};

const SECRETS: [&str; 4] = ["pa55word", "0123abcdsignature", "4567efghsignature", "cGE1NXdvcmQ"];

fn check(ran: &Ran, what: &str) {
    for secret in SECRETS {
        assert!(!ran.out.contains(secret), "{what} prints {secret}:\n{}", ran.out);
        assert!(!ran.err.contains(secret), "{what} prints {secret}:\n{}", ran.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_in_addresses_are_used_and_not_shown() {
    let workspace = Workspace::new();
    let server = MockServer::start().await;
    for (name, text) in [("/a.jsonl", lines(0, 50)), ("/terms.txt", TERMS.to_owned())] {
        for (verb, signature) in [("GET", SECRETS[1]), ("HEAD", SECRETS[1]), ("GET", SECRETS[2]), ("HEAD", SECRETS[2])]
        {
            Mock::given(method(verb))
                .and(path(name))
                .and(query_param("X-Amz-Signature", signature))
                // me:pa55word
                .and(header("authorization", "Basic bWU6cGE1NXdvcmQ="))
                .respond_with(Served(text.clone()))
                .mount(&server)
                .await;
        }
    }
    let address = |name: &str| {
        let host = server.uri().replace("http://", "http://me:pa55word@");
        format!("{host}{name}?X-Amz-Signature=0123abcdsignature")
    };
    let source = json!({"path": address("/a.jsonl")});
    let blocklist = json!({"name": "flagged", "terms": address("/terms.txt")});
    let good = json!({
        "source": source,
        "steps": [{"blocklist": blocklist}, {"filter": {"keep": "NOT flagged"}}],
        "sink": {"parquet": {"path": "out", "rejected": true}},
    });
    // JSON on one line is YAML, too, and so every error shows the line with the addresses.
    workspace.write("p.yaml", good.to_string());
    let run = |arguments: &[&str], code: i32| {
        let mut command = workspace.gristmill(arguments);
        let ran = Ran::of(tokio::task::block_in_place(|| command.env("GRISTMILL_LOG", "trace").output()).unwrap());
        assert_eq!(ran.code, code, "{arguments:?}: {}", ran.err);
        check(&ran, &format!("{arguments:?}"));
        ran
    };
    for arguments in [&["validate", "p.yaml"][..], &["plan", "p.yaml"], &["plan", "p.yaml", "--json"]] {
        run(arguments, 0);
    }
    assert_eq!(run(&["run", "p.yaml", "--json"], 0).json()["rows_in"], 50);
    run(&["status", "out"], 0);
    run(&["status", "out", "--json"], 0);
    for secret in SECRETS {
        assert_eq!(holds(&workspace.path("out"), secret), None, "{secret} is recorded");
    }
    assert_eq!(rows(&workspace.path("out"), "data").len(), 42);
    // The same run goes on with credentials that were renewed, since they are no part of it.
    workspace.write("renewed.yaml", good.to_string().replace(SECRETS[1], SECRETS[2]));
    run(&["run", "renewed.yaml", "--quiet"], 0);

    for (from, to) in [
        ("\"source\"", "\"sorce\""),
        ("\"keep\"", "\"kep\""),
        ("NOT flagged", "NOT flaged"),
        ("\"path\":\"out\"", "\"path\":\"http://me:pa55word@host/out\""),
        ("/terms.txt", "/term.txt"),
        ("/a.jsonl", "/b.jsonl"),
        ("\"rejected\"", "[\"rejected\""),
    ] {
        let text = good.to_string();
        assert!(text.contains(from), "{from} in {text}");
        workspace.write("wrong.yaml", text.replace(from, to));
        for command in ["validate", "run", "plan"] {
            run(&[command, "wrong.yaml"], 2);
        }
    }
    for (key, name) in
        [("steps.0.terms", "/other.txt"), ("source.path", "/other.jsonl"), ("steps.0.trms", "/terms.txt")]
    {
        let changed = format!("{key}={}", address(name));
        let ran = run(&["run", "p.yaml", &changed], 2);
        assert!(ran.err.contains("command line: '"), "{}", ran.err);
    }
    // A long password must not be shown because the text is cut in front of what ends it.
    let long = format!("source.path=ftp://me:{}@host/a.jsonl", "pa55word".repeat(40));
    run(&["run", "p.yaml", &long], 2);
}

//! Runs on S3: a server in this process that honours conditional puts, and the binary as its client.

use std::process::{Command, Stdio};

use crate::kills::{corpus, kills, torment};
use crate::support::{Ran, Workspace, holds, parts, pipeline};

#[path = "../datasets/tests/common/s3.rs"]
pub mod server;

/// The binary with what it needs to know of the server.
pub fn client(workspace: &Workspace, endpoint: &str, arguments: &[&str]) -> Command {
    let mut command = workspace.gristmill(arguments);
    command.envs(server::variables(endpoint));
    command
}

/// A corpus on local disk, a bucket with nothing in it, and the parts of an undisturbed local run.
fn prepared() -> (Workspace, String) {
    let workspace = Workspace::new();
    corpus(&workspace);
    workspace.write("calm.yaml", pipeline("corpus/*.jsonl", "calm"));
    workspace.run(&["run", "calm.yaml", "--quiet"], 0);
    std::fs::create_dir_all(workspace.path("s3/bucket")).unwrap();
    let endpoint = server::serve(&workspace.path("s3"));
    (workspace, endpoint)
}

#[test]
fn a_run_from_s3_to_s3() {
    let (workspace, endpoint) = prepared();
    std::fs::create_dir_all(workspace.path("s3/bucket/corpus")).unwrap();
    for entry in std::fs::read_dir(workspace.path("corpus")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, workspace.path("s3/bucket/corpus").join(path.file_name().unwrap())).unwrap();
    }
    workspace.write("s3.yaml", pipeline("s3://bucket/corpus/*.jsonl", "s3://bucket/run"));
    let ran = Ran::of(client(&workspace, &endpoint, &["run", "s3.yaml", "--json"]).output().unwrap());
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(ran.json()["rows_in"], 6000);
    assert_eq!(parts(&workspace.path("s3/bucket/run")), parts(&workspace.path("calm")));

    let status = Ran::of(client(&workspace, &endpoint, &["status", "s3://bucket/run", "--json"]).output().unwrap());
    assert_eq!((status.code, &status.json()["state"]), (0, &"finished".into()), "{}", status.err);
}

/// Keys and session tokens of the environment are in no log of any level, no output, no error and no file of a run.
#[test]
fn keys_of_the_environment_are_not_shown() {
    const TOKEN: &str = "sessiontokenthatnobodymaysee";
    let (workspace, endpoint) = prepared();
    workspace.write("s3.yaml", pipeline("corpus/*.jsonl", "s3://bucket/run"));
    workspace.write("wrong.yaml", pipeline("s3://nobucket/x/*.jsonl", "s3://bucket/other"));
    for arguments in [
        &["validate", "s3.yaml"][..],
        &["plan", "s3.yaml"],
        &["run", "s3.yaml", "--json"],
        &["status", "s3://bucket/run"],
        &["inspect", "s3://bucket/run"],
        &["run", "s3.yaml", "steps.0.min_distinct=1"],
        &["run", "wrong.yaml"],
        &["status", "s3://bucket/nowhere"],
    ] {
        let mut command = client(&workspace, &endpoint, arguments);
        command.env("GRISTMILL_LOG", "trace").env("AWS_SESSION_TOKEN", TOKEN);
        let ran = Ran::of(command.output().unwrap());
        assert!(!ran.err.is_empty(), "{arguments:?} logs nothing");
        for secret in [server::ACCESS_KEY_ID, server::SECRET_ACCESS_KEY, TOKEN] {
            assert!(!ran.err.contains(secret) && !ran.out.contains(secret), "{arguments:?} shows {secret}");
        }
    }
    for secret in [server::ACCESS_KEY_ID, server::SECRET_ACCESS_KEY, TOKEN] {
        assert_eq!(holds(&workspace.path("s3/bucket"), secret), None, "{secret} is recorded");
    }
}

#[test]
fn wrong_credentials_are_named_without_being_shown() {
    let (workspace, endpoint) = prepared();
    workspace.write("s3.yaml", pipeline("corpus/*.jsonl", "s3://bucket/run"));
    let output =
        client(&workspace, &endpoint, &["run", "s3.yaml"]).env("AWS_SECRET_ACCESS_KEY", "not-the-secret").output();
    let ran = Ran::of(output.unwrap());
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.err.contains("AWS_"), "{}", ran.err);
    assert!(!ran.err.contains("not-the-secret"), "{}", ran.err);
}

#[test]
fn a_killed_run_on_s3_ends_like_an_undisturbed_one() {
    let (workspace, endpoint) = prepared();
    workspace.write("s3.yaml", pipeline("corpus/*.jsonl", "s3://bucket/run"));
    let start = |workers: usize| {
        client(&workspace, &endpoint, &["run", "s3.yaml", "--json", "--workers", &workers.to_string()])
    };
    let fresh = || {
        assert_eq!(parts(&workspace.path("s3/bucket/run")), parts(&workspace.path("calm")));
        std::fs::remove_dir_all(workspace.path("s3/bucket/run")).unwrap();
    };
    let killed = torment(start, 2, kills(), fresh);
    assert_eq!(parts(&workspace.path("s3/bucket/run")), parts(&workspace.path("calm")));
    println!("killed {killed} times on S3");
}

#[test]
fn two_drivers_on_s3_agree() {
    let (workspace, endpoint) = prepared();
    workspace.write("s3.yaml", pipeline("corpus/*.jsonl", "s3://bucket/run"));
    let drivers: Vec<_> = (0..2)
        .map(|_| client(&workspace, &endpoint, &["run", "s3.yaml", "--quiet"]).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    for driver in drivers {
        let ran = Ran::of(driver.wait_with_output().unwrap());
        assert_eq!(ran.code, 0, "{}", ran.err);
    }
    assert_eq!(parts(&workspace.path("s3/bucket/run")), parts(&workspace.path("calm")));
}

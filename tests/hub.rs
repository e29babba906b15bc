//! Whole pipelines over data sets of the Hub, through the binary, against a look-alike of it.

use std::path::Path;
use std::process::Command;

use serde_json::json;
use wiremock::matchers::{header, method, path, path_regex};
use wiremock::{Mock, MockServer, ResponseTemplate};

use self::server::HubServer;
use crate::kills::{same_parts, torment};
use crate::support::{Ran, Served, TERMS, Workspace, holds, lines, parts, pipeline, rows};

#[path = "../datasets/tests/common/hub.rs"]
mod server;

const CARD: &str = "---\nconfigs:\n- config_name: en\n  default: true\n  data_files:\n  - split: train\n    path: en/train-*.jsonl\n  \
                    - split: test\n    path: en/test.jsonl\n- config_name: de\n  data_files: de/*.jsonl\n---\n# Notes\n";

/// A data set with a card and two configurations, and the parts of an undisturbed run over the same files on local disk.
fn prepared() -> Workspace {
    let workspace = Workspace::new();
    workspace.write("terms.txt", TERMS);
    let data = "root/datasets/org/notes";
    workspace.write(&format!("{data}/README.md"), CARD);
    for file in 0..4 {
        workspace.write(&format!("{data}/en/train-{file}.jsonl"), lines(file * 1500, 1500));
    }
    workspace.write(&format!("{data}/en/test.jsonl"), lines(0, 70));
    workspace.write(&format!("{data}/de/a.jsonl"), lines(0, 30));
    workspace.write("calm.yaml", pipeline(&format!("{data}/en/train-*.jsonl"), "calm"));
    workspace.run(&["run", "calm.yaml", "--quiet"], 0);
    workspace
}

fn serve(workspace: &Workspace, faults: Option<(u32, f64)>) -> Option<HubServer> {
    HubServer::start(&workspace.path("root"), faults)
}

/// The binary with the settings of a Hub client.
fn client(workspace: &Workspace, endpoint: &str, arguments: &[&str]) -> Command {
    let mut command = workspace.gristmill(arguments);
    command.env("HF_ENDPOINT", endpoint).env("HOME", workspace.path("home"));
    command
}

fn run(command: &mut Command, code: i32) -> Ran {
    let ran = Ran::of(command.output().unwrap());
    assert_eq!(ran.code, code, "--- out\n{}\n--- err\n{}", ran.out, ran.err);
    ran
}

#[test]
fn a_pipeline_over_files_of_the_hub() {
    let workspace = prepared();
    for (faults, patterns) in [
        (
            None,
            vec![
                "hf://datasets/org/notes/en/train-*.jsonl",
                "hf://datasets/org/notes@main/en/train-{0..3}.jsonl",
                "hf://datasets/org/notes",
            ],
        ),
        (Some((3, 0.1)), vec!["hf://datasets/org/notes@main/en/train-*.jsonl"]),
    ] {
        let Some(server) = serve(&workspace, faults) else { return };
        for pattern in patterns {
            workspace.write("hub.yaml", pipeline(pattern, "hub"));
            let mut command = client(&workspace, &server.endpoint, &["run", "hub.yaml", "--json", "--workers", "3"]);
            let report = run(command.env("HF_TOKEN", "hf_secretsecretsecret"), 0).json();
            assert_eq!(report["rows_in"], 6000, "{pattern}");
            same_parts(&workspace.path("hub"), &workspace.path("calm"));
            assert_eq!(holds(&workspace.path("hub"), "hf_secret"), None, "{pattern}");
            std::fs::remove_dir_all(workspace.path("hub")).unwrap();
        }
    }
}

#[test]
fn a_data_set_by_name_with_configuration_and_split() {
    let workspace = prepared();
    let Some(server) = serve(&workspace, None) else { return };
    let source = |more: &str| {
        format!(
            "source: {{path: hf://datasets/org/notes{more}}}\nsteps: [filter: {{keep: id >= 0}}]\nsink: {{parquet: {{path: out}}}}\n"
        )
    };
    for (more, expected) in [
        ("", 6000),
        (", split: test", 70),
        (", config: de", 30),
        (", config: en, split: train+test", 6070),
        ("@main/de", 30),
    ] {
        workspace.write("p.yaml", source(more));
        let mut command = client(&workspace, &server.endpoint, &["run", "p.yaml", "--json", "--fresh"]);
        assert_eq!(run(&mut command, 0).json()["rows_in"], expected, "{more}");
    }
    for (more, message) in [
        (", split: tests", "did you mean 'test'?"),
        (", config: fr", "there are: en, de"),
        ("@v9/en/*.jsonl", "the repository has no such revision"),
        ("/en/trian-*.jsonl", "holds 5 names"),
    ] {
        workspace.write("p.yaml", source(more));
        let ran = run(&mut client(&workspace, &server.endpoint, &["run", "p.yaml"]), 2);
        assert!(ran.err.contains("p.yaml:1:") && ran.err.contains(message), "{more}: {}", ran.err);
    }
}

#[test]
fn a_killed_run_over_the_hub_ends_like_an_undisturbed_one() {
    let workspace = prepared();
    let Some(server) = serve(&workspace, Some((5, 0.03))) else { return };
    workspace.write("hub.yaml", pipeline("hf://datasets/org/notes/en/train-*.jsonl", "hub"));
    let start = |workers: usize| {
        client(&workspace, &server.endpoint, &["run", "hub.yaml", "--json", "--workers", &workers.to_string()])
    };
    let fresh = || {
        same_parts(&workspace.path("hub"), &workspace.path("calm"));
        std::fs::remove_dir_all(workspace.path("hub")).unwrap();
    };
    let killed = torment(start, 3, 6, fresh);
    same_parts(&workspace.path("hub"), &workspace.path("calm"));
    println!("killed {killed} times over the Hub");
}

/// Without network only the cache of the Hub's own tools is read, and files have the identity they have with network.
#[test]
fn a_run_goes_on_without_network() {
    let workspace = prepared();
    let Some(server) = serve(&workspace, None) else { return };
    workspace.write("hub.yaml", pipeline("hf://datasets/org/notes/en/train-*.jsonl", "hub"));
    let plan = run(&mut client(&workspace, &server.endpoint, &["plan", "hub.yaml", "--json"]), 0).json();
    let files = plan["files"].as_array().unwrap();
    run(&mut client(&workspace, &server.endpoint, &["run", "hub.yaml", "--quiet"]), 0);

    let url = files[0]["url"].as_str().unwrap();
    let commit = url.split_once('@').unwrap().1.split('/').next().unwrap();
    let cached = "cache/datasets--org--notes";
    workspace.write(&format!("{cached}/refs/main"), commit);
    for file in files {
        let name = file["url"].as_str().unwrap().rsplit('/').next().unwrap();
        let blob = format!("{cached}/blobs/{}", file["etag"].as_str().unwrap());
        workspace.write(&blob, std::fs::read(workspace.path("root/datasets/org/notes/en").join(name)).unwrap());
        let link = workspace.path(&format!("{cached}/snapshots/{commit}/en/{name}"));
        std::fs::create_dir_all(link.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(workspace.path(&blob), link).unwrap();
    }
    drop(server);
    let offline = |arguments: &[&str]| {
        let mut command = client(&workspace, "http://127.0.0.1:9", arguments);
        command.env("HF_HUB_OFFLINE", "1").env("HF_HUB_CACHE", workspace.path("cache"));
        command
    };
    let again = run(&mut offline(&["run", "hub.yaml", "--json"]), 0);
    assert!(again.err.contains("\"resumed\":60"), "{}", again.err);
    let anew = run(&mut offline(&["run", "hub.yaml", "--json", "--fresh"]), 0);
    assert_eq!(anew.json()["folder"].as_str().unwrap().rsplit('/').next(), Some("hub-2"));
    same_parts(&workspace.path("hub-2"), &workspace.path("calm"));
    let mut absent = offline(&["run", "hub.yaml", "source.path=hf://datasets/org/other/*.jsonl"]);
    let ran = run(&mut absent, 2);
    assert!(ran.err.contains("HF_HUB_OFFLINE"), "{}", ran.err);
}

/// A repository that asks for a token: refused by name without one, read with one, and the token is nowhere to be seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_gated_data_set_and_its_token() {
    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    const TOKEN: &str = "hf_abcdefghijklmnopqrstuvwxyz";
    let workspace = Workspace::new();
    workspace.write("terms.txt", TERMS);
    let hub = MockServer::start().await;
    let text = lines(0, 50);
    let bearer = format!("Bearer {TOKEN}");
    Mock::given(path("/api/datasets/o/n/revision/main"))
        .and(header("authorization", bearer.as_str()))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!({"sha": COMMIT})))
        .mount(&hub)
        .await;
    let tree = json!([{"type": "file", "oid": "aaaa", "size": text.len(), "path": "a.jsonl"}]);
    Mock::given(method("GET"))
        .and(path_regex(format!("^/api/datasets/o/n/tree/{COMMIT}")))
        .and(header("authorization", bearer.as_str()))
        .respond_with(ResponseTemplate::new(200).set_body_json(tree))
        .mount(&hub)
        .await;
    Mock::given(path(format!("/datasets/o/n/resolve/{COMMIT}/a.jsonl")))
        .and(header("authorization", bearer.as_str()))
        .respond_with(Served(text))
        .mount(&hub)
        .await;
    let gated = ResponseTemplate::new(401)
        .insert_header("x-error-code", "GatedRepo")
        .set_body_json(json!({"error": "Access to dataset o/n is restricted."}));
    Mock::given(path_regex(".*")).respond_with(gated).mount(&hub).await;

    workspace.write("p.yaml", pipeline("hf://datasets/o/n/a.jsonl", "out"));
    for (token, code) in [(None, 1), (Some("hf_thiswasrevokedlongago"), 1), (Some(TOKEN), 0)] {
        for arguments in [vec!["run", "p.yaml"], vec!["plan", "p.yaml"], vec!["validate", "p.yaml", "--json"]] {
            let mut command = client(&workspace, &hub.uri(), &arguments);
            command.env("GRISTMILL_LOG", "trace");
            command.envs(token.map(|token| ("HF_TOKEN", token)));
            let ran = tokio::task::block_in_place(|| run(&mut command, code));
            assert_eq!(ran.err.contains("HF_TOKEN"), code != 0, "{arguments:?}: {}", ran.err);
            if let Some(token) = token {
                assert!(!ran.err.contains(token) && !ran.out.contains(token), "{arguments:?} shows the token");
            }
        }
    }
    assert_eq!(rows(&workspace.path("out"), "data").len(), 42);
    assert_eq!(holds(&workspace.path("out"), TOKEN), None);
    assert!(parts(Path::new(&workspace.path("out"))).len() > 1);
}

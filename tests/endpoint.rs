//! `judge` against an endpoint that fails at random, in runs that are killed and stopped: the result is that of an undisturbed run, and no
//! request is answered twice but those that were under way when a run was killed.

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow_array::cast::AsArray;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use wiremock::matchers::{header, method, path};
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

use crate::kills::kills;
use crate::support::{Ran, TERMS, Workspace, holds, lines, parts, read_parquet, rows};

const KEY: &str = "sk-9f8e7d6c5b4a";
const ROWS: usize = 400;
const CONCURRENCY: usize = 8;

/// A language model that finds pests, and has nothing to say of note 13.
#[derive(Clone)]
struct Model {
    random: Arc<Mutex<StdRng>>,
    fails: bool,
    /// How often each prompt was answered.
    answered: Arc<Mutex<HashMap<String, usize>>>,
}

impl Model {
    async fn serve(fails: bool) -> (MockServer, Self) {
        let random = Arc::new(Mutex::new(StdRng::seed_from_u64(5)));
        let model = Self { random, fails, answered: Arc::default() };
        let server = MockServer::start().await;
        Mock::given(method("POST"))
            .and(path("/v1/chat/completions"))
            .and(header("authorization", format!("Bearer {KEY}").as_str()))
            .respond_with(model.clone())
            .mount(&server)
            .await;
        (server, model)
    }

    fn prompts(&self) -> usize {
        self.answered.lock().unwrap().len()
    }

    /// Answers beyond the first of each prompt.
    fn repeated(&self) -> usize {
        self.answered.lock().unwrap().values().map(|times| times - 1).sum()
    }
}

impl Respond for Model {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!((&body["model"], &body["temperature"], &body["max_tokens"]), (&json!("m"), &json!(0.0), &json!(5)));
        let prompt = body["messages"][1]["content"].as_str().unwrap();
        let (luck, delay) = {
            let mut random = self.random.lock().unwrap();
            (random.random_range(0..10), Duration::from_millis(random.random_range(10..60)))
        };
        match luck {
            0 | 1 if self.fails => return ResponseTemplate::new(500).set_delay(delay),
            2 if self.fails => return ResponseTemplate::new(429).insert_header("retry-after", "0.03"),
            _ => {}
        }
        *self.answered.lock().unwrap().entry(prompt.to_owned()).or_default() += 1;
        let text = match prompt {
            prompt if prompt.contains("note 13:") => "I cannot say.",
            prompt if prompt.contains("weevil") => "The answer is [1]",
            _ => "[0]",
        };
        let message = json!({"role": "assistant", "content": text});
        let answer =
            json!({"choices": [{"message": message, "finish_reason": "stop"}], "usage": {"completion_tokens": 3}});
        ResponseTemplate::new(200).set_body_json(answer).set_delay(delay)
    }
}

/// A pipeline that asks about every row whose id is not divisible by 5.
fn pipeline(workspace: &Workspace, server: &MockServer, sink: &str) -> String {
    workspace.write("terms.txt", TERMS);
    workspace.write("question.txt", "Is the text about pests? Answer [1] or [0].");
    workspace.write("corpus/a.jsonl", lines(0, ROWS));
    let endpoint = format!("{{url: \"{}/v1\", model: m, key_env: LM_KEY, concurrency: {CONCURRENCY}}}", server.uri());
    let text = format!(
        "source: {{path: corpus/a.jsonl, split_size: 40 rows}}\nsteps:\n  - judge: {{name: lm_filter, endpoint: {endpoint}, system_file: \
         question.txt, prompt: \"Text: {{{{ text }}}}\", when: id % 5 <> 0}}\n  - filter: {{keep: NOT lm_filter, reason: pests}}\nsink: \
         {{parquet: {{path: {sink}, rejected: true}}}}\n"
    );
    let file = format!("{sink}.yaml");
    workspace.write(&file, text);
    file
}

fn start(workspace: &Workspace, file: &str, workers: usize) -> Command {
    let mut command = workspace.gristmill(&["run", file, "--json", "--workers", &workers.to_string()]);
    command.env("LM_KEY", KEY).env("GRISTMILL_LOG", "trace");
    command
}

/// Runs to the end; the key is nowhere to be seen.
fn finish(workspace: &Workspace, file: &str, sink: &str) -> Value {
    let ran = Ran::of(start(workspace, file, 2).output().unwrap());
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(!ran.err.contains(KEY) && !ran.out.contains(KEY));
    assert_eq!(holds(&workspace.path(sink), KEY), None);
    ran.json()
}

/// Starts runs and ends them by `signal` at random moments, until so many were ended; then lets one run to its end.
fn torment(workspace: &Workspace, file: &str, signal: &str, times: usize) -> usize {
    let mut random = StdRng::seed_from_u64(11);
    let mut ended = 0;
    for _ in 0..times {
        let mut child = start(workspace, file, random.random_range(1..=3))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(random.random_range(20..450)));
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "a run that was not ended failed: {status}");
            break;
        }
        Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        child.wait().unwrap();
        ended += 1;
    }
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_pays_again_only_for_what_was_under_way() {
    let workspace = Workspace::new();
    let (calm, _) = Model::serve(false).await;
    let (server, model) = Model::serve(true).await;
    tokio::task::block_in_place(|| {
        finish(&workspace, &pipeline(&workspace, &calm, "calm"), "calm");
        let file = pipeline(&workspace, &server, "killed");
        let killed = torment(&workspace, &file, "-KILL", kills());
        let report = finish(&workspace, &file, "killed");
        assert!(killed > 2, "{killed}");
        assert_eq!(parts(&workspace.path("killed")), parts(&workspace.path("calm")));
        let asked = ROWS - ROWS / 5;
        assert_eq!(model.prompts(), asked, "nothing is lost");
        assert!(model.repeated() <= CONCURRENCY * killed, "{} after {killed} kills", model.repeated());
        println!("{killed} kills, {} of {asked} prompts answered again", model.repeated());
        assert_eq!(report["rows_in"], ROWS);
        // Ids that are divisible by 7 hold pests, note 13 has no verdict.
        let flagged = (0..ROWS).filter(|id| id % 5 != 0 && (id % 7 == 0 || *id == 13)).count();
        assert_eq!(report["rows_rejected"], flagged);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_run_pays_for_nothing_again_and_may_go_on_in_another_way() {
    let workspace = Workspace::new();
    let (calm, _) = Model::serve(false).await;
    let (server, model) = Model::serve(true).await;
    tokio::task::block_in_place(|| {
        finish(&workspace, &pipeline(&workspace, &calm, "calm"), "calm");
        let file = pipeline(&workspace, &server, "stopped");
        let stopped = torment(&workspace, &file, "-TERM", kills()) + torment(&workspace, &file, "-INT", kills());
        assert!(stopped > 2, "{stopped}");
        // A whole run of a second sink over the answers that are there, with other limits, and refused with another model.
        let mut other = start(&workspace, &file, 1);
        other.args(["steps.0.endpoint.model=n"]);
        let ran = Ran::of(other.output().unwrap());
        assert_eq!(ran.code, 2, "{}", ran.err);
        let mut slower = start(&workspace, &file, 1);
        slower.args(["steps.0.endpoint.concurrency=3", "steps.0.endpoint.attempts=20"]);
        let ran = Ran::of(slower.output().unwrap());
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert_eq!(parts(&workspace.path("stopped")), parts(&workspace.path("calm")));
        assert_eq!((model.prompts(), model.repeated()), (ROWS - ROWS / 5, 0), "after {stopped} stops");
        println!("{stopped} stops, nothing answered again");

        let again = pipeline(&workspace, &server, "again");
        let text = std::fs::read_to_string(workspace.path(&again)).unwrap();
        workspace.write(&again, text.replace("system_file", "cache: stopped/_run/answers, system_file"));
        finish(&workspace, &again, "again");
        assert_eq!(parts(&workspace.path("again")), parts(&workspace.path("calm")));
        assert_eq!(model.repeated(), 0);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_cascade_only_what_the_blocklist_flagged_is_asked_about() {
    let workspace = Workspace::new();
    let (server, model) = Model::serve(false).await;
    tokio::task::block_in_place(|| {
        let file = pipeline(&workspace, &server, "out");
        let text = std::fs::read_to_string(workspace.path(&file)).unwrap();
        let text = text
            .replace("steps:\n", "steps:\n  - blocklist: {name: word_filter, terms: terms.txt}\n")
            .replace("when: id % 5 <> 0", "when: word_filter")
            .replace("  - filter: {keep: NOT lm_filter, reason: pests}\n", "");
        workspace.write(&file, text);
        let report = finish(&workspace, &file, "out");
        let flagged = ROWS.div_ceil(7);
        assert_eq!((model.prompts(), model.repeated(), &report["rows_out"]), (flagged, 0, &json!(ROWS)));
        let files = std::fs::read_dir(workspace.path("out/data")).unwrap();
        for batch in files.flat_map(|file| read_parquet(&file.unwrap().path())) {
            let (words, verdicts) = (batch["word_filter"].as_boolean(), batch["lm_filter"].as_boolean());
            let metadata = batch["lm_filter_metadata"].as_struct();
            for row in 0..batch.num_rows() {
                let said = |field: &str| metadata[field].as_string::<i32>().value(row).to_owned();
                assert_eq!(verdicts.value(row), words.value(row));
                let expected = if words.value(row) { ["1", "The answer is [1]", ""] } else { ["", "", ""] };
                assert_eq!(["judgment", "completion", "error"].map(said), expected);
            }
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_cannot_be_judged_are_quarantined_and_an_outage_ends_the_run() {
    let workspace = Workspace::new();
    let (server, _) = Model::serve(false).await;
    tokio::task::block_in_place(|| {
        let file = pipeline(&workspace, &server, "out");
        let mut command = start(&workspace, &file, 2);
        command.arg("steps.0.on_error=quarantine");
        let ran = Ran::of(command.output().unwrap());
        assert_eq!((ran.code, &ran.json()["rows_quarantined"]), (0, &json!(1)), "{}", ran.err);
        let gone = rows(&workspace.path("out"), "quarantine").remove(0);
        assert_eq!((gone["step"].as_str().unwrap(), gone["id"].as_str().unwrap()), ("lm_filter", "13"));
        assert!(gone["error"].as_str().unwrap().contains("no digit"), "{gone}");

        // Nobody listens at port 1; the key that the server wants is another one.
        for (name, change, expected) in [
            ("nobody", "steps.0.endpoint.url=http://127.0.0.1:1/v1", "the endpoint answers nothing"),
            ("key", "steps.0.endpoint.key_env=PATH", "status 404"),
        ] {
            let mut command = start(&workspace, &file, 2);
            command.args([change, "steps.0.endpoint.attempts=2", &format!("sink.parquet.path={name}")]);
            let ran = Ran::of(command.output().unwrap());
            assert_eq!(ran.code, 1, "{}", ran.err);
            assert!(ran.err.contains(expected), "{}", ran.err);
        }
        let mut command = workspace.gristmill(&["validate", &file]);
        let ran = Ran::of(command.env_remove("LM_KEY").output().unwrap());
        assert_eq!(ran.code, 2, "{}", ran.err);
        assert!(ran.err.contains("the environment variable 'LM_KEY' is not set"), "{}", ran.err);
    });
}

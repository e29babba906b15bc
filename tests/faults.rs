//! Runs over stores that fail: every row once, the sums hold, and the parts are those of an undisturbed run.
//!
//! Two stores fail here. One is a script around a store in memory, driven through the library, that can lose, cut and refuse
//! any one call below all retries. The other is an S3 server that the binary talks to.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::TryStreamExt;
use gristmill::datasets::run::RunPlan;
use gristmill::datasets::run::fault_store::{Call, Fault, FaultStore, Rule};
use gristmill::datasets::{StoreOptions, Stores};
use gristmill::operators::Resources;
use gristmill::pipelines::run::{self, Observer, Progress, RunOptions, RunReport, Unobserved};
use gristmill::pipelines::{Environment, PipelineError, PipelineFile, UnderWay};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::kills::corpus;
use crate::s3::server;
use crate::support::{Ran, TERMS, Workspace, lines, parts, pipeline};

const ROWS: usize = 600;

/// A bucket in memory with a corpus, behind a store that fails as it is told.
struct Bucket {
    inner: Arc<InMemory>,
    faults: FaultStore,
    environment: Environment,
}

impl Bucket {
    async fn new(faults: impl FnOnce(Arc<InMemory>) -> FaultStore) -> Self {
        let inner = Arc::new(InMemory::new());
        for file in 0..2 {
            let text = lines(file * ROWS / 2, ROWS / 2);
            inner.put(&format!("corpus/{file}.jsonl").into(), text.into()).await.unwrap();
        }
        let faults = faults(Arc::clone(&inner));
        let stores = Stores::new(StoreOptions::default());
        stores.register("s3://bucket", Arc::new(faults.clone())).unwrap();
        let registry = Environment::local().registry;
        Self {
            inner,
            faults,
            environment: Environment {
                registry,
                stores,
                resources: Resources::local(),
                under_way: UnderWay::default(),
            },
        }
    }

    async fn run(&self, file: &PipelineFile, observer: Arc<dyn Observer>) -> Result<RunReport, PipelineError> {
        run::run(file, &self.environment, &RunOptions { workers: 2, fresh: false }, observer).await
    }

    /// Bytes of `data` and `rejected` by folder and split; two parts of one split are an error.
    async fn parts(&self) -> BTreeMap<String, Vec<u8>> {
        let mut parts = BTreeMap::new();
        for folder in ["data", "rejected", "quarantine"] {
            let listed: Vec<_> = self.inner.list(Some(&format!("run/{folder}").into())).try_collect().await.unwrap();
            for meta in listed {
                let name = meta.location.filename().unwrap();
                let key = format!("{folder}/{}", name.split('-').next().unwrap());
                let bytes = self.inner.get(&meta.location).await.unwrap().bytes().await.unwrap();
                assert!(parts.insert(key, bytes.to_vec()).is_none(), "two parts: {name}");
            }
        }
        parts
    }
}

/// Lets a store fail from the moment on at which the run is planned.
struct Saboteur {
    store: FaultStore,
    rules: Mutex<Vec<Rule>>,
}

impl Observer for Saboteur {
    fn started(&self, _folder: &str, _plan: &RunPlan, _resumed: u64, _progress: &Arc<Progress>) {
        self.store.script(std::mem::take(&mut *self.rules.lock().unwrap()));
    }
}

fn definition(terms: &Path, attempts: u32) -> PipelineFile {
    let text = pipeline("s3://bucket/corpus/*.jsonl", "s3://bucket/run").replace("terms.txt", terms.to_str().unwrap());
    PipelineFile::parse("p.yaml", &format!("{text}attempts: {attempts}\n"), &[] as &[&str]).unwrap()
}

fn check(report: &RunReport, name: &str) {
    let flagged = ROWS.div_ceil(7) as u64;
    let rows = (report.rows_in, report.rows_out, report.rows_rejected, report.rows_quarantined);
    assert_eq!(rows, (ROWS as u64, ROWS as u64 - flagged, flagged, 0), "{name}");
}

/// Faults that pass are outlasted; those that do not, end the run by name, and the same call goes on afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn every_scripted_fault_is_survived() {
    let workspace = Workspace::new();
    let terms = workspace.write("terms.txt", TERMS);
    let calm = Bucket::new(|inner| FaultStore::new(inner)).await;
    check(&calm.run(&definition(&terms, 3), Arc::new(Unobserved)).await.unwrap(), "calm");
    let expected = calm.parts().await;
    assert_eq!(expected.len(), 12);

    let many = |call, path: &str, fault| vec![Rule { times: 3, ..Rule::once(call, path, fault).after(1) }];
    // What goes wrong, and the text that a run which ends by it names; none where it is outlasted.
    let cases: Vec<(&str, Vec<Rule>, Option<&str>)> = vec![
        ("lost answers of commits", many(Call::Create, "_run/commits", Fault::LoseAnswer), None),
        ("lost answer of the plan", vec![Rule::once(Call::Create, "_run/plan", Fault::LoseAnswer)], None),
        ("lost answer of the manifest", vec![Rule::once(Call::Create, "_run/manifest", Fault::LoseAnswer)], None),
        ("409 with nothing there", many(Call::Create, "_run/commits", Fault::Status(409)), None),
        ("412 with nothing there", many(Call::Create, "_run/commits", Fault::Status(412)), None),
        ("503 on commits", many(Call::Create, "_run/commits", Fault::Status(503)), None),
        ("429 on parts", many(Call::Put, "run/data", Fault::Status(429)), None),
        ("500 on parts", many(Call::Put, "run/data", Fault::Status(500)), None),
        ("lost answers of parts", many(Call::Put, "run/rejected", Fault::LoseAnswer), None),
        ("429 on reads", many(Call::Get, "corpus/", Fault::Status(429)), None),
        ("503 on reads", many(Call::Get, "corpus/", Fault::Status(503)), None),
        ("lost connections on reads", many(Call::Get, "corpus/", Fault::FailBefore), None),
        ("bodies of the source that break off", many(Call::Get, "corpus/", Fault::Truncate(777)), None),
        ("bodies of the source that end early", many(Call::Get, "corpus/", Fault::TruncateSilently(777)), None),
        ("slow reads", many(Call::Get, "corpus/", Fault::Stall(Duration::from_millis(200))), None),
        ("listings that break off", vec![Rule::once(Call::List, "_run/commits", Fault::Truncate(1))], None),
        ("403 on reads", vec![Rule::always(Call::Get, "corpus/1", Fault::Status(403)).after(1)], Some("AWS_PROFILE")),
        (
            "404 on reads",
            vec![Rule::always(Call::Get, "corpus/1", Fault::Status(404)).after(1)],
            Some("does not exist"),
        ),
        (
            "416 on reads",
            vec![Rule::always(Call::Get, "corpus/1", Fault::Status(416)).after(1)],
            Some("corpus/1.jsonl"),
        ),
        ("500 for good", vec![Rule::always(Call::Put, "run/data", Fault::Status(500)).after(2)], Some("run/data")),
        (
            "403 on commits",
            vec![Rule::always(Call::Create, "_run/commits", Fault::Status(403)).after(2)],
            Some("commits"),
        ),
    ];
    let checks = cases.into_iter().map(|(name, rules, ends)| {
        let (terms, expected) = (terms.clone(), expected.clone());
        tokio::spawn(async move {
            let bucket = Bucket::new(|inner| FaultStore::new(inner)).await;
            // Planning reads the source, too, and is not repeated by itself.
            let (of_source, others): (Vec<Rule>, Vec<Rule>) =
                rules.into_iter().partition(|rule| rule.path.starts_with("corpus/"));
            bucket.faults.script(others);
            let file = definition(&terms, if ends.is_some() { 1 } else { 5 });
            let saboteur = Saboteur { store: bucket.faults.clone(), rules: Mutex::new(of_source) };
            let ended = bucket.run(&file, Arc::new(saboteur)).await;
            assert!(bucket.faults.faults() > 0, "{name}: nothing went wrong");
            let report = match (ended, ends) {
                (Ok(report), None) => report,
                (Err(error), Some(message)) => {
                    assert!(error.to_string().contains(message), "{name}: {error}");
                    assert!(!error.is_usage(), "{name}: {error}");
                    bucket.faults.calm();
                    bucket.run(&file, Arc::new(Unobserved)).await.unwrap()
                }
                (Ok(_), Some(_)) => panic!("{name}: the run ended well"),
                (Err(error), None) => panic!("{name}: {error}"),
            };
            check(&report, name);
            assert!(bucket.parts().await == expected, "{name}: other parts");
        })
    });
    for check in checks.collect::<Vec<_>>() {
        check.await.unwrap();
    }
}

/// Any call may go wrong in any way that may pass, also those of planning; whoever gives the command again gets there.
#[tokio::test(flavor = "multi_thread")]
async fn chance_is_survived() {
    let workspace = Workspace::new();
    let terms = workspace.write("terms.txt", TERMS);
    let calm = Bucket::new(|inner| FaultStore::new(inner)).await;
    calm.run(&definition(&terms, 3), Arc::new(Unobserved)).await.unwrap();
    let expected = calm.parts().await;
    let checks = (0..8).map(|seed| {
        let (terms, expected) = (terms.clone(), expected.clone());
        tokio::spawn(async move {
            let bucket = Bucket::new(|inner| FaultStore::by_chance(inner, seed, 4, 25)).await;
            let file = definition(&terms, 4);
            let mut starts = 0;
            let report = loop {
                starts += 1;
                match bucket.run(&file, Arc::new(Unobserved)).await {
                    Ok(report) => break report,
                    Err(error) => assert!(starts < 26, "seed {seed} after {starts} starts: {error}"),
                }
            };
            assert!(bucket.faults.faults() >= 5, "seed {seed}: only {} faults", bucket.faults.faults());
            check(&report, &format!("seed {seed}"));
            bucket.faults.calm();
            bucket.run(&file, Arc::new(Unobserved)).await.unwrap();
            assert!(bucket.parts().await == expected, "seed {seed}: other parts");
        })
    });
    for check in checks.collect::<Vec<_>>() {
        check.await.unwrap();
    }
}

/// A part that goes up in pieces: pieces that are refused, lost or slow, and an upload whose completion is not answered.
#[tokio::test(flavor = "multi_thread")]
async fn large_parts_survive_faults_of_their_pieces() {
    let mut random = StdRng::seed_from_u64(1);
    let mut text = String::new();
    for id in 0..6 {
        // Letters that do not compress well, so that the part is larger than one piece.
        let body: String = (0..4_000_000).map(|_| char::from(random.random_range(b'0'..=b'z'))).collect();
        text.push_str(&serde_json::json!({"id": id, "text": body}).to_string());
        text.push('\n');
    }
    let definition =
        "source: {path: s3://bucket/large/a.jsonl}\nsink: {parquet: {path: s3://bucket/run, level: 1}}\nattempts: 4\n";
    let file = PipelineFile::parse("p.yaml", definition, &[] as &[&str]).unwrap();
    let mut expected = None;
    for (name, rules) in [
        ("calm", vec![]),
        ("refused", vec![Rule::once(Call::UploadPart, "run/data", Fault::Status(503))]),
        ("begun in vain", vec![Rule::once(Call::Begin, "run/data", Fault::Status(500))]),
        ("lost piece", vec![Rule::once(Call::UploadPart, "run/data", Fault::LoseAnswer)]),
        ("slow", vec![Rule::once(Call::UploadPart, "run/data", Fault::Stall(Duration::from_millis(200)))]),
        ("lost completion", vec![Rule::once(Call::Complete, "run/data", Fault::LoseAnswer)]),
    ] {
        let bucket = Bucket::new(|inner| FaultStore::new(inner)).await;
        bucket.inner.put(&"large/a.jsonl".into(), text.clone().into()).await.unwrap();
        bucket.faults.script(rules);
        let report = bucket.run(&file, Arc::new(Unobserved)).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((report.rows_in, report.rows_out), (6, 6), "{name}");
        assert_eq!(bucket.faults.faults(), usize::from(name != "calm"), "{name}");
        let uploads = bucket.faults.calls().iter().filter(|(call, _)| *call == Call::UploadPart).count();
        assert!(uploads >= 2, "{name}: {uploads} pieces");
        let parts = bucket.parts().await;
        assert!(*expected.get_or_insert_with(|| parts.clone()) == parts, "{name}: other parts");
    }
}

/// Rewrites a file of the source when the run is planned and before it is read.
struct Meddler {
    store: Arc<InMemory>,
    runtime: tokio::runtime::Handle,
}

impl Observer for Meddler {
    fn started(&self, _folder: &str, _plan: &RunPlan, _resumed: u64, _progress: &Arc<Progress>) {
        let path = "corpus/1.jsonl".into();
        let put = self.store.put(&path, lines(7, ROWS / 2).into());
        tokio::task::block_in_place(|| self.runtime.block_on(put)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_between_plan_and_read_is_named() {
    let workspace = Workspace::new();
    let terms = workspace.write("terms.txt", TERMS);
    let bucket = Bucket::new(|inner| FaultStore::new(inner)).await;
    let meddler = Meddler { store: Arc::clone(&bucket.inner), runtime: tokio::runtime::Handle::current() };
    let error = bucket.run(&definition(&terms, 3), Arc::new(meddler)).await.unwrap_err().to_string();
    assert!(error.contains("3 of 6 splits failed"), "{error}");
    assert!(error.contains("corpus/1.jsonl' has changed since the run was planned"), "{error}");
    let parts = bucket.parts().await;
    assert!(parts.keys().all(|part| part.ends_with("/00000") || part.ends_with("/00001") || part.ends_with("/00002")));
}

/// The binary against an S3 server that refuses, delays, cuts and loses answers.
#[test]
fn a_run_on_an_s3_server_that_fails() {
    let workspace = Workspace::new();
    corpus(&workspace);
    workspace.write("calm.yaml", pipeline("corpus/*.jsonl", "calm"));
    workspace.run(&["run", "calm.yaml", "--quiet"], 0);
    std::fs::create_dir_all(workspace.path("s3/bucket/corpus")).unwrap();
    for file in 0..4 {
        let name = format!("corpus/{file}.jsonl");
        std::fs::copy(workspace.path(&name), workspace.path("s3/bucket").join(&name)).unwrap();
    }
    let endpoint = server::serve_with_faults(&workspace.path("s3"), 11, 0.06);
    workspace.write("s3.yaml", pipeline("s3://bucket/corpus/*.jsonl", "s3://bucket/run"));
    let mut command = workspace.gristmill(&["run", "s3.yaml", "--json", "--workers", "4"]);
    let ran = Ran::of(command.envs(server::variables(&endpoint)).output().unwrap());
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(ran.json()["rows_in"], 6000);
    assert!(parts(&workspace.path("s3/bucket/run")) == parts(&workspace.path("calm")));
}

/// A web server that refuses, wants to wait or is broken, whatever is tried: the file, the status and the way out are named,
/// and nothing of the credentials in the address.
#[tokio::test(flavor = "multi_thread")]
async fn a_web_server_that_fails_for_good_is_named() {
    let server = wiremock::MockServer::start().await;
    let cases = [
        (401, 1, "no access to", "status 401 Unauthorized"),
        (403, 1, "no access to", "a signed query that is valid now"),
        (404, 2, "p404.yaml:1:10: source: '", "does not exist"),
        (409, 1, "", "status 409 Conflict"),
        (416, 1, "has changed", "status 416"),
        (429, 1, "failed for now: status 429 Too Many Requests", "after 10 retries"),
        (500, 1, "failed for now: status 500 Internal Server Error", "after 10 retries"),
        (503, 1, "failed for now: status 503 Service Unavailable", "after 10 retries"),
    ];
    let checks = cases.map(|(status, code, says, also)| {
        let uri = server.uri();
        async move {
            let address = format!("{uri}/{status}.jsonl");
            let workspace = Workspace::new();
            let signed = address.replace("http://", "http://me:pa55word@") + "?X-Amz-Signature=0123abcdsignature";
            let file = format!("p{status}.yaml");
            let text = format!("source: {{path: \"{signed}\"}}\nsink: {{parquet: {{path: out}}}}\nattempts: 1\n");
            workspace.write(&file, text);
            let mut command = workspace.gristmill(&["run", &file]);
            let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
            let ran = Ran::of(output);
            assert_eq!(ran.code, code, "{status}: {}", ran.err);
            for part in [says, also, &format!("'{address}'")] {
                assert!(ran.err.contains(part), "{status}: no {part:?} in {}", ran.err);
            }
            for hidden in ["pa55word", "signature", "max_retries", "Generic"] {
                assert!(!ran.err.contains(hidden), "{status}: {hidden} in {}", ran.err);
            }
        }
    });
    for (status, ..) in cases {
        wiremock::Mock::given(wiremock::matchers::path(format!("/{status}.jsonl")))
            .respond_with(wiremock::ResponseTemplate::new(status))
            .mount(&server)
            .await;
    }
    futures::future::join_all(checks).await;
}

/// A server that sends the begin of every body and then hangs up.
#[test]
fn a_web_server_that_cuts_every_body_is_named() {
    use std::io::{BufRead, BufReader, Write};

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/a.jsonl", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let lines = BufReader::new(socket.try_clone().unwrap()).lines().map_while(Result::ok);
            let request: Vec<String> =
                lines.take_while(|line| !line.is_empty()).map(|line| line.to_lowercase()).collect();
            let range = request.iter().find_map(|line| line.strip_prefix("range: bytes=")?.split_once('-'));
            let (status, length) = match range {
                Some((from, last)) => {
                    let (from, last): (u64, u64) = (from.parse().unwrap(), last.parse().unwrap_or(3999));
                    let range = format!("206 Partial Content\r\nContent-Range: bytes {from}-{last}/4000");
                    (range, last + 1 - from)
                }
                None => ("200 OK".to_owned(), 4000),
            };
            let body = if request[0].starts_with("head") { "" } else { "{\"id\": 1, \"text\": \"on" };
            let head = format!("HTTP/1.1 {status}\r\nETag: \"a\"\r\nContent-Length: {length}\r\nConnection: close");
            // A client that goes away is no concern of the test.
            let _ = write!(socket, "{head}\r\n\r\n{body}");
        }
    });
    let workspace = Workspace::new();
    workspace
        .write("p.yaml", format!("source: {{path: \"{address}\"}}\nsink: {{parquet: {{path: out}}}}\nattempts: 1\n"));
    let ran = workspace.run(&["run", "p.yaml"], 1);
    assert!(ran.err.contains(&format!("'{address}' failed for now: ")), "{}", ran.err);
    assert!(!workspace.path("out/_run/manifest.parquet").exists(), "half a file is no file");
}

//! The Hub as a program uses it: against a look-alike of it, and against scripted answers.

#![cfg(feature = "hf")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

mod common;

use std::fs;
use std::path::Path;
use std::time::Duration;

use common::hub::HubServer;
use futures::TryStreamExt;
use gristmill_datasets::{
    DatasetError, Environment, FoundFile, ListOptions, RetryPolicy, StoreOptions, Stores, store_error,
};
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode};
use rstest::rstest;
use wiremock::matchers::{header, header_exists, method, path, query_param};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn stores(variables: &[(&str, &str)]) -> Stores {
    let mut all = vec![("HOME", "/nonexistent")];
    all.extend_from_slice(variables);
    Stores::new(StoreOptions {
        environment: Environment::of(all),
        retry: RetryPolicy {
            most_retries: 8,
            first_wait: Duration::from_millis(5),
            longest_wait: Duration::from_millis(50),
            longest_named_wait: Duration::from_millis(1_500),
        },
        ..StoreOptions::default()
    })
}

/// Bytes that tell their position.
fn content(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    (0..size)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

const CARD: &str = "---\nlicense: mit\nconfigs:\n- config_name: en\n  default: true\n  data_files:\n  - split: train\n    path: en/part-*.jsonl\n  \
                    - split: test\n    path: en/held-out.jsonl\n- config_name: de\n  data_files: de/*.jsonl\n---\n# Title\n";

fn repositories(root: &Path) {
    let files: [(&str, Vec<u8>); 14] = [
        ("datasets/org/plain/data/train-00000-of-00002.parquet", content(1, 300_000)),
        ("datasets/org/plain/data/train-00001-of-00002.parquet", content(2, 100_001)),
        ("datasets/org/plain/data/test-00000-of-00001.parquet", content(3, 5_000)),
        ("datasets/org/plain/README.md", b"# No configurations".to_vec()),
        ("datasets/org/card/README.md", CARD.as_bytes().to_vec()),
        ("datasets/org/card/en/part-1.jsonl", content(4, 2_000)),
        ("datasets/org/card/en/part-0.jsonl", content(5, 2_000)),
        ("datasets/org/card/en/held-out.jsonl", content(6, 10)),
        ("datasets/org/card/de/a.jsonl", content(7, 10)),
        ("datasets/org/card/de/empty.jsonl", Vec::new()),
        ("datasets/org/odd/a [1] é%20#.csv", content(8, 50)),
        ("datasets/org/odd/deep/er/b.csv", content(9, 50)),
        ("datasets/org/none/picture.png", content(10, 50)),
        ("models/org/model/tokenizer.json", b"{}".to_vec()),
    ];
    for (file, bytes) in files {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

fn names(files: &[FoundFile]) -> Vec<&str> {
    files.iter().map(FoundFile::name).collect()
}

async fn counts(endpoint: &str) -> serde_json::Value {
    gristmill_datasets::install_crypto_provider();
    let answer = reqwest::get(format!("{endpoint}/_counts")).await.unwrap().bytes().await.unwrap();
    serde_json::from_slice(&answer).unwrap()
}

async fn check_bytes(stores: &Stores, files: &[FoundFile], root: &Path) {
    for file in files {
        let (_, path) = file.url.split_once("@").unwrap();
        let (commit, path) = path.split_once('/').unwrap();
        assert_eq!(commit.len(), 40, "the address names the commit");
        let expected = fs::read(root.join(path)).unwrap();
        assert_eq!(file.size, expected.len() as u64);
        assert_eq!(stores.read_all(&file.url).await.unwrap(), expected);
        let (store, path) = stores.open(&file.url).unwrap();
        if expected.len() > 1_000 {
            let length = expected.len() as u64;
            let ranges = [0..10, 7..1_000, length - 8..length, 500..length];
            for (bytes, range) in store.get_ranges(&path, &ranges).await.unwrap().iter().zip(&ranges) {
                assert_eq!(bytes, &expected[range.start as usize..range.end as usize]);
            }
            let suffix = GetOptions { range: Some(GetRange::Suffix(8)), ..GetOptions::default() };
            let result = store.get_opts(&path, suffix).await.unwrap();
            assert_eq!(result.meta.size, length);
            assert_eq!(result.bytes().await.unwrap(), &expected[expected.len() - 8..]);
        }
        assert_eq!(store.head(&path).await.unwrap().size, file.size);
    }
}

#[rstest]
#[case::calm(None)]
#[case::faults(Some((7, 0.25)))]
#[case::other_faults(Some((8, 0.25)))]
#[tokio::test]
async fn reads_what_the_hub_holds(#[case] faults: Option<(u32, f64)>) {
    let folder = tempfile::tempdir().unwrap();
    repositories(folder.path());
    let Some(server) = HubServer::start(folder.path(), faults) else { return };
    let stores = stores(&[("HF_ENDPOINT", &server.endpoint), ("HF_TOKEN", "hf_secret")]);
    let pattern = "hf://datasets/org/plain/data/train-*.parquet".to_owned();
    let files = stores.list(&[pattern], &ListOptions::default()).await.unwrap();
    assert_eq!(names(&files), ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]);
    assert_eq!(files[0].etag.as_ref().unwrap().len(), 64, "large files are identified by their SHA-256");
    check_bytes(&stores, &files, &folder.path().join("datasets/org/plain")).await;
    let model = stores.read_all("hf://org/model/tokenizer.json").await.unwrap();
    assert_eq!(model, "{}");
    if faults.is_none() {
        let counts = counts(&server.endpoint).await;
        let resolved = counts["GET resolve"].as_u64().unwrap();
        assert_eq!(resolved, 3, "one request for each file goes through the Hub: {counts}");
        assert!(counts["GET cdn"].as_u64().unwrap() > 3);
        assert!(counts["GET api"].as_u64().unwrap() <= 3, "{counts}");
    }
}

#[rstest]
#[case("hf://datasets/org/odd/**/*.csv", &["a [1] é%20#.csv", "b.csv"])]
#[case("hf://datasets/org/odd/a [1] é%20#.csv", &["a [1] é%20#.csv"])]
#[case("hf://datasets/org/odd/deep", &["b.csv"])]
#[case("hf://datasets/org/odd/deep/", &["b.csv"])]
#[case("hf://datasets/org/odd@main/*", &["a [1] é%20#.csv"])]
#[case("hf://datasets/org/odd/**", &["a [1] é%20#.csv", "b.csv"])]
#[case("hf://datasets/org/plain/data/t{est,rain}-00000*", &["test-00000-of-00001.parquet", "train-00000-of-00002.parquet"])]
#[tokio::test]
async fn patterns(#[case] pattern: &str, #[case] expected: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    repositories(folder.path());
    let Some(server) = HubServer::start(folder.path(), None) else { return };
    let stores = stores(&[("HF_ENDPOINT", &server.endpoint)]);
    let files = stores.list(&[pattern.to_owned()], &ListOptions::default()).await.unwrap();
    assert_eq!(names(&files), expected);
    for file in &files {
        assert_eq!(stores.find(&file.url).await.unwrap(), *file);
        assert_eq!(stores.read_all(&file.url).await.unwrap().len() as u64, file.size, "{}", file.url);
    }
}

#[rstest]
#[case::sharded("org/plain", None, None, Ok("train-00000-of-00002.parquet|train-00001-of-00002.parquet"))]
#[case::sharded_split("org/plain", None, Some("test"), Ok("test-00000-of-00001.parquet"))]
#[case::sum(
    "org/plain",
    None,
    Some("test+train"),
    Ok("test-00000-of-00001.parquet|train-00000-of-00002.parquet|train-00001-of-00002.parquet")
)]
#[case::default_config("org/card", None, None, Ok("part-0.jsonl|part-1.jsonl"))]
#[case::card_split("org/card", Some("en"), Some("test"), Ok("held-out.jsonl"))]
#[case::only_split("org/card", Some("de"), None, Ok("a.jsonl|empty.jsonl"))]
#[case::no_split(
    "org/card",
    Some("en"),
    Some("tests"),
    Err("has no 'tests', did you mean 'test'?; there are: train, test")
)]
#[case::no_config("org/card", Some("fr"), None, Err("has no 'fr'; there are: en, de"))]
#[case::all_files("org/odd", None, None, Ok("a [1] é%20#.csv|b.csv"))]
#[case::nothing("org/none", None, None, Err("holds no file of a known format"))]
#[case::no_repository("org/absent", None, None, Err("there is no such repository, or it is private"))]
#[tokio::test]
async fn data_sets_by_name(
    #[case] name: &str,
    #[case] config: Option<&str>,
    #[case] split: Option<&str>,
    #[case] expected: Result<&str, &str>,
) {
    let folder = tempfile::tempdir().unwrap();
    repositories(folder.path());
    let Some(server) = HubServer::start(folder.path(), None) else { return };
    let stores = stores(&[("HF_ENDPOINT", &server.endpoint)]);
    let found = stores.hub_files(name, None, config, split).await;
    let options = ListOptions { config: config.map(Into::into), split: split.map(Into::into), paths_file: None };
    let listed = stores.list(&[format!("hf://datasets/{name}")], &options).await;
    match expected {
        Ok(expected) => {
            assert_eq!(names(&found.unwrap()).join("|"), expected);
            assert_eq!(names(&listed.unwrap()).join("|"), expected);
        }
        Err(message) => {
            let (found, listed) = (found.unwrap_err().to_string(), listed.unwrap_err().to_string());
            assert!(found.contains(message), "{found}");
            assert_eq!(found, listed);
        }
    }
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    repositories(folder.path());
    let Some(server) = HubServer::start(folder.path(), None) else { return };
    let stores = stores(&[("HF_ENDPOINT", &server.endpoint)]);
    let cases = [
        ("hf://datasets/org/plain/data/tran-00000-of-00002.parquet", "did you mean 'train-00000-of-00002.parquet'"),
        ("hf://datasets/org/plain/data/*.csv", "holds 3 names, 3 of them of files of known formats"),
        ("hf://datasets/org/plain@v9/data/*.csv", "the repository has no such revision"),
        ("hf://datasets/org/plain/nowhere/x.csv", "'hf://datasets/org/plain' holds 2 names"),
    ];
    for (url, message) in cases {
        let error = stores.list(&[url.to_owned()], &ListOptions::default()).await.unwrap_err();
        assert!(matches!(error, DatasetError::NotFound { .. }), "{error:?}");
        assert!(error.to_string().contains(message), "{error}");
    }
    let error = stores.read_all("hf://datasets/org/plain/absent").await.unwrap_err();
    assert!(matches!(error, DatasetError::NotFound { .. }), "{error:?}");
}

// Scripted answers.

async fn revision(server: &MockServer) {
    Mock::given(method("GET"))
        .and(path("/api/datasets/o/n/revision/main"))
        .respond_with(ResponseTemplate::new(200).set_body_json(serde_json::json!({"sha": COMMIT, "private": false})))
        .expect(1)
        .mount(server)
        .await;
}

fn resolve_path(file: &str) -> String {
    format!("/datasets/o/n/resolve/{COMMIT}/{file}")
}

/// The content server: another host as far as the Hub client can tell.
fn elsewhere(server: &MockServer, path: &str) -> String {
    format!("{}{path}", server.uri().replace("127.0.0.1", "localhost"))
}

#[tokio::test]
async fn the_token_stays_on_the_hub() {
    let (hub, content) = (MockServer::start().await, MockServer::start().await);
    revision(&hub).await;
    Mock::given(method("GET"))
        .and(path(resolve_path("a.bin")))
        .and(header("authorization", "Bearer hf_secret"))
        .respond_with(ResponseTemplate::new(307).insert_header("location", "/api/resolve-cache/a.bin"))
        .expect(1)
        .mount(&hub)
        .await;
    Mock::given(method("GET"))
        .and(path("/api/resolve-cache/a.bin"))
        .and(header("authorization", "Bearer hf_secret"))
        .respond_with(
            ResponseTemplate::new(302)
                .insert_header("location", elsewhere(&content, "/blob?sig=1"))
                .insert_header("x-linked-size", "5")
                .insert_header("x-linked-etag", "\"abc\""),
        )
        .expect(1)
        .mount(&hub)
        .await;
    Mock::given(method("GET"))
        .and(path("/blob"))
        .respond_with(ResponseTemplate::new(302).insert_header("location", format!("{}/back", hub.uri())))
        .mount(&content)
        .await;
    Mock::given(method("GET"))
        .and(path("/back"))
        .respond_with(ResponseTemplate::new(200).set_body_string("hello"))
        .mount(&hub)
        .await;
    let stores = stores(&[("HF_ENDPOINT", &hub.uri()), ("HF_TOKEN", "hf_secret")]);
    assert_eq!(stores.read_all("hf://datasets/o/n/a.bin").await.unwrap(), "hello");
    let has_token = |request: &Request| request.headers.contains_key("authorization");
    assert!(!content.received_requests().await.unwrap().iter().any(has_token), "another host sees no token");
    let back =
        hub.received_requests().await.unwrap().into_iter().find(|request| request.url.path() == "/back").unwrap();
    assert!(!has_token(&back), "nor does the Hub when another host leads there");
}

#[tokio::test]
async fn an_address_that_ended_is_asked_for_anew() {
    let (hub, content) = (MockServer::start().await, MockServer::start().await);
    revision(&hub).await;
    for (blob, times) in [("/first", 1), ("/second", 10)] {
        Mock::given(method("GET"))
            .and(path(resolve_path("a.bin")))
            .respond_with(ResponseTemplate::new(302).insert_header("location", elsewhere(&content, blob)))
            .up_to_n_times(times)
            .mount(&hub)
            .await;
    }
    let part =
        |text: &str| ResponseTemplate::new(206).insert_header("content-range", "bytes 0-1/4").set_body_string(text);
    Mock::given(path("/first")).respond_with(part("ab")).up_to_n_times(2).mount(&content).await;
    Mock::given(path("/first")).respond_with(ResponseTemplate::new(403)).mount(&content).await;
    Mock::given(path("/second")).respond_with(part("ab")).mount(&content).await;
    let stores = stores(&[("HF_ENDPOINT", &hub.uri())]);
    let (store, path) = stores.open("hf://datasets/o/n/a.bin").unwrap();
    for _ in 0..5 {
        assert_eq!(store.get_range(&path, 0..2).await.unwrap(), "ab");
    }
    let resolved =
        hub.received_requests().await.unwrap().iter().filter(|request| request.url.path().contains("resolve")).count();
    assert_eq!(resolved, 2);
    assert_eq!(content.received_requests().await.unwrap().len(), 2 + 1 + 3);
}

#[tokio::test]
async fn many_readers_of_a_file_ask_the_hub_once() {
    let (hub, content) = (MockServer::start().await, MockServer::start().await);
    revision(&hub).await;
    Mock::given(method("GET"))
        .and(path(resolve_path("a.bin")))
        .respond_with(
            ResponseTemplate::new(302)
                .insert_header("location", elsewhere(&content, "/blob"))
                .set_delay(Duration::from_millis(50)),
        )
        .expect(1)
        .mount(&hub)
        .await;
    Mock::given(path("/blob"))
        .respond_with(ResponseTemplate::new(206).insert_header("content-range", "bytes 0-1/4").set_body_string("ab"))
        .expect(16)
        .mount(&content)
        .await;
    let stores = stores(&[("HF_ENDPOINT", &hub.uri())]);
    let (store, path) = stores.open("hf://datasets/o/n/a.bin").unwrap();
    let reads = (0..16).map(|_| store.get_range(&path, 0..2));
    for bytes in futures::future::join_all(reads).await {
        assert_eq!(bytes.unwrap(), "ab");
    }
}

#[rstest]
#[case(401, &[("x-error-code", "RepoNotFound")], "NotFound", "set HF_TOKEN")]
#[case(403, &[("x-error-code", "GatedRepo"), ("x-error-message", "Access to dataset o/n is restricted")], "Denied", "accept the terms")]
#[case(404, &[("x-error-code", "EntryNotFound")], "NotFound", "does not exist")]
#[case(404, &[], "NotFound", "does not exist")]
#[case(416, &[], "Changed", "shorter")]
#[case(429, &[], "Transient", "status 429")]
#[case(503, &[], "Transient", "status 503")]
#[case(400, &[], "Store", "status 400")]
#[tokio::test]
async fn answers_of_the_hub(
    #[case] status: u16,
    #[case] headers: &[(&str, &str)],
    #[case] variant: &str,
    #[case] message: &str,
) {
    let hub = MockServer::start().await;
    revision(&hub).await;
    let mut answer = ResponseTemplate::new(status);
    for (name, value) in headers {
        answer = answer.insert_header(*name, *value);
    }
    Mock::given(path(resolve_path("a.bin"))).respond_with(answer).mount(&hub).await;
    let stores = stores(&[("HF_ENDPOINT", &hub.uri()), ("HF_TOKEN", "hf_abcdefghijklmnopqrstuvwxyz")]);
    let error = stores.read_all("hf://datasets/o/n/a.bin").await.unwrap_err();
    assert!(format!("{error:?}").starts_with(variant), "{error:?}");
    assert!(error.to_string().contains(message), "{error}");
    assert!(!error.to_string().contains("abcdefgh"), "{error}");
}

#[tokio::test]
async fn a_wait_that_the_hub_names_holds_back_all_requests() {
    let hub = MockServer::start().await;
    Mock::given(path("/api/datasets/o/n/revision/main"))
        .respond_with(ResponseTemplate::new(429).insert_header("ratelimit", "\"api\";r=0;t=1"))
        .up_to_n_times(1)
        .mount(&hub)
        .await;
    revision(&hub).await;
    Mock::given(path(resolve_path("a.bin")))
        .respond_with(ResponseTemplate::new(200).set_body_string("x"))
        .mount(&hub)
        .await;
    let stores = stores(&[("HF_ENDPOINT", &hub.uri())]);
    let begin = std::time::Instant::now();
    assert_eq!(stores.read_all("hf://datasets/o/n/a.bin").await.unwrap(), "x");
    assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn listings_are_followed_page_by_page_on_the_hub_only() {
    let entry = |path: &str| serde_json::json!({"type": "file", "path": path, "size": 3, "oid": "f00"});
    let tree = format!("/api/datasets/o/n/tree/{COMMIT}/data");
    for (next, expected) in [(None, Ok(3)), (Some("http://evil.example/api"), Err("not its own"))] {
        let hub = MockServer::start().await;
        revision(&hub).await;
        let second = next.map_or_else(|| format!("{}{tree}?cursor=2", hub.uri()), str::to_owned);
        Mock::given(path(tree.as_str()))
            .and(query_param("cursor", "2"))
            .and(header_exists("authorization"))
            .respond_with(ResponseTemplate::new(200).set_body_json([entry("data/c.csv"), entry("data/d.txt")]))
            .mount(&hub)
            .await;
        Mock::given(path(tree.as_str()))
            .and(query_param("recursive", "false"))
            .respond_with(
                ResponseTemplate::new(200)
                    .insert_header("link", format!("<{second}>; rel=\"next\""))
                    .set_body_json([entry("data/b.csv"), entry("data/a.csv")]),
            )
            .mount(&hub)
            .await;
        let stores = stores(&[("HF_ENDPOINT", &hub.uri()), ("HF_TOKEN", "secret")]);
        let listed = stores.list(&["hf://datasets/o/n/data/*.csv".to_owned()], &ListOptions::default()).await;
        match expected {
            Ok(count) => {
                let listed = listed.unwrap();
                assert_eq!(listed.len(), count);
                assert_eq!(listed[0].url, format!("hf://datasets/o/n@{COMMIT}/data/a.csv"));
                assert_eq!(listed[0].etag.as_deref(), Some("f00"));
            }
            Err(message) => assert!(listed.unwrap_err().to_string().contains(message)),
        }
    }
}

#[tokio::test]
async fn a_listing_that_leads_out_is_refused() {
    let hub = MockServer::start().await;
    revision(&hub).await;
    Mock::given(path(format!("/api/datasets/o/n/tree/{COMMIT}")))
        .respond_with(ResponseTemplate::new(200).set_body_json(serde_json::json!([
            {"type": "file", "path": "../../.ssh/keys.csv", "size": 3, "oid": "f00"}
        ])))
        .mount(&hub)
        .await;
    let stores = stores(&[("HF_ENDPOINT", &hub.uri())]);
    let error = stores.list(&["hf://datasets/o/n/**/*.csv".to_owned()], &ListOptions::default()).await.unwrap_err();
    assert!(error.to_string().contains("\"../../.ssh/keys.csv\""), "{error}");
}

#[tokio::test]
async fn the_converted_copy_is_the_last_resort() {
    let hub = MockServer::start().await;
    revision(&hub).await;
    let converted = "f".repeat(40);
    Mock::given(path("/api/datasets/o/n/revision/refs%2Fconvert%2Fparquet"))
        .respond_with(ResponseTemplate::new(200).set_body_json(serde_json::json!({"sha": converted})))
        .mount(&hub)
        .await;
    let file = |path: &str| serde_json::json!({"type": "file", "path": path, "size": 3, "oid": "f00"});
    Mock::given(path(format!("/api/datasets/o/n/tree/{COMMIT}")))
        .respond_with(ResponseTemplate::new(200).set_body_json([file("script.py")]))
        .mount(&hub)
        .await;
    Mock::given(path(format!("/api/datasets/o/n/tree/{converted}")))
        .respond_with(ResponseTemplate::new(200).set_body_json([
            file("en/train/0001.parquet"),
            file("en/train/0000.parquet"),
            file("big/partial-train/0000.parquet"),
        ]))
        .mount(&hub)
        .await;
    let stores = stores(&[("HF_ENDPOINT", &hub.uri())]);
    let found = stores.hub_files("o/n", None, Some("en"), None).await.unwrap();
    assert_eq!(found[0].url, format!("hf://datasets/o/n@{converted}/en/train/0000.parquet"));
    assert_eq!(found.len(), 2);
    let error = stores.hub_files("o/n", None, None, None).await.unwrap_err().to_string();
    assert!(error.contains("big, en"), "{error}");
    let error = stores.hub_files("o/n", None, Some("big"), None).await.unwrap_err().to_string();
    assert!(error.contains("converted only the first part"), "{error}");
    let found = stores.hub_files("o/n", None, Some("big"), Some("partial-train")).await.unwrap();
    assert_eq!(found.len(), 1);
    let options = ListOptions { config: Some("en".into()), ..ListOptions::default() };
    let found = stores.list(&["hf://datasets/o/n@~parquet".to_owned()], &options).await.unwrap();
    assert_eq!(found.len(), 2);
}

#[cfg(unix)]
#[tokio::test]
async fn without_network_only_the_cache_is_read() {
    let cache = tempfile::tempdir().unwrap();
    let repo = cache.path().join("datasets--o--n");
    let snapshot = repo.join("snapshots").join(COMMIT);
    for folder in [repo.join("refs"), repo.join("blobs"), snapshot.join("data")] {
        fs::create_dir_all(folder).unwrap();
    }
    fs::write(repo.join("refs/main"), COMMIT).unwrap();
    for (name, tag) in [("train-0.csv", "aaaa"), ("test-0.csv", "bbbb")] {
        fs::write(repo.join("blobs").join(tag), format!("rows of {name}")).unwrap();
        std::os::unix::fs::symlink(format!("../../../blobs/{tag}"), snapshot.join("data").join(name)).unwrap();
    }
    let cache = cache.path().to_str().unwrap();
    let offline = stores(&[("HF_HUB_CACHE", cache), ("HF_HUB_OFFLINE", "1"), ("HF_ENDPOINT", "http://127.0.0.1:9")]);
    let found = offline.list(&["hf://datasets/o/n/data/*.csv".to_owned()], &ListOptions::default()).await.unwrap();
    assert_eq!(names(&found), ["test-0.csv", "train-0.csv"]);
    assert_eq!(found[0].url, format!("hf://datasets/o/n@{COMMIT}/data/test-0.csv"));
    assert_eq!(found[0].etag.as_deref(), Some("bbbb"), "the same identity as with network");
    assert_eq!(offline.read_all(&found[1].url).await.unwrap(), "rows of train-0.csv");
    let (store, path) = offline.open(&found[1].url).unwrap();
    assert_eq!(store.get_range(&path, 5..7).await.unwrap(), "of");
    assert_eq!(store.head(&path).await.unwrap().e_tag.as_deref(), Some("aaaa"));
    assert_eq!(names(&offline.hub_files("o/n", None, None, None).await.unwrap()), ["train-0.csv"]);
    for url in
        ["hf://datasets/o/n/data/absent.csv", "hf://datasets/o/other/data/a.csv", "hf://datasets/o/n@v2/data/a.csv"]
    {
        let error = offline.read_all(url).await.unwrap_err();
        assert!(matches!(error, DatasetError::NotFound { .. }), "{error:?}");
        assert!(error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
    }
    // With network, what is there is not fetched again.
    let hub = MockServer::start().await;
    revision(&hub).await;
    let online = stores(&[("HF_HUB_CACHE", cache), ("HF_ENDPOINT", &hub.uri())]);
    assert_eq!(online.read_all("hf://datasets/o/n/data/test-0.csv").await.unwrap(), "rows of test-0.csv");
    assert_eq!(hub.received_requests().await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_hub_is_not_written_to() {
    let stores = stores(&[]);
    let (store, path) = stores.open(&format!("hf://datasets/o/n@{COMMIT}/a")).unwrap();
    let error = store.put_opts(&path, "x".into(), PutMode::Create.into()).await.unwrap_err();
    let message = store_error("hf://datasets/o/n/a", error).to_string();
    assert!(message.contains("read only"), "{message}");
    let deleted = store.delete_stream(Box::pin(futures::stream::iter([Ok(path)]))).try_collect::<Vec<_>>().await;
    assert!(deleted.is_err());
}

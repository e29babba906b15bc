//! Stores as a program uses them: local folders, S3, web servers.

#![cfg(all(feature = "s3", unix))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

mod common;

use std::fs;
use std::path::Path;
use std::time::Duration;

use gristmill_datasets::{DatasetError, Environment, ListOptions, RetryPolicy, StoreOptions, Stores, store_error};
use object_store::{ObjectStore, ObjectStoreExt, PutMode};
use rstest::rstest;
use wiremock::matchers::{header, method, path, query_param};
use wiremock::{Mock, MockServer, ResponseTemplate};

fn stores(variables: impl IntoIterator<Item = (String, String)>) -> Stores {
    Stores::new(StoreOptions {
        environment: Environment::of(variables),
        retry: RetryPolicy {
            most_retries: 3,
            first_wait: Duration::from_millis(5),
            longest_wait: Duration::from_millis(20),
            ..RetryPolicy::default()
        },
        ..StoreOptions::default()
    })
}

fn local() -> Stores {
    stores([("HOME".to_owned(), "/nonexistent".to_owned())])
}

const FILES: [&str; 18] = [
    "data/train-00000.jsonl.zst",
    "data/train-00001.jsonl.zst",
    "data/train-00010.jsonl.zst",
    "data/test.jsonl.gz",
    "data/README.md",
    "data/.hidden.jsonl",
    "data/sub/a.parquet",
    "data/sub/deep/b.parquet",
    "data/_run/commit.parquet",
    "data/.git/c.parquet",
    "data/_part.csv",
    "data/odd [1] é%20#x.json",
    "saved/dataset_dict.json",
    "saved/train/state.json",
    "saved/train/dataset_info.json",
    "saved/train/data-0.arrow",
    "states/state.json",
    "states/ohio.json",
];

fn corpus(root: &Path) {
    for file in FILES {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file).unwrap();
    }
}

const PATTERNS: [(&str, &[&str]); 14] = [
    (
        "data/train-*.jsonl.zst",
        &["data/train-00000.jsonl.zst", "data/train-00001.jsonl.zst", "data/train-00010.jsonl.zst"],
    ),
    ("data/train-{00001..00003}.jsonl.zst", &["data/train-00001.jsonl.zst"]),
    (
        "data/t*.jsonl.{gz,zst}",
        &[
            "data/test.jsonl.gz",
            "data/train-00000.jsonl.zst",
            "data/train-00001.jsonl.zst",
            "data/train-00010.jsonl.zst",
        ],
    ),
    ("data/**/*.parquet", &["data/sub/a.parquet", "data/sub/deep/b.parquet"]),
    ("data/*/*.parquet", &["data/sub/a.parquet"]),
    ("data/_run/*.parquet", &["data/_run/commit.parquet"]),
    ("data/.hidden.jsonl", &["data/.hidden.jsonl"]),
    ("data/train-0000?.jsonl.zst", &["data/train-00000.jsonl.zst", "data/train-00001.jsonl.zst"]),
    ("data/odd [1] é%20#x.json", &["data/odd [1] é%20#x.json"]),
    (
        "data",
        &[
            "data/_part.csv",
            "data/odd [1] é%20#x.json",
            "data/sub/a.parquet",
            "data/sub/deep/b.parquet",
            "data/test.jsonl.gz",
            "data/train-00000.jsonl.zst",
            "data/train-00001.jsonl.zst",
            "data/train-00010.jsonl.zst",
        ],
    ),
    ("data/sub/", &["data/sub/a.parquet", "data/sub/deep/b.parquet"]),
    ("data/sub/**", &["data/sub/a.parquet", "data/sub/deep/b.parquet"]),
    ("saved", &["saved/train/data-0.arrow"]),
    ("states/*.json", &["states/ohio.json", "states/state.json"]),
];

/// The same table on every store that can be listed.
async fn check_patterns(stores: &Stores, base: &str) {
    for (pattern, expected) in PATTERNS {
        // Only addresses of files are percent-encoded.
        let pattern = if base.starts_with("file:") { pattern.replace('%', "%25") } else { pattern.to_owned() };
        let found = stores.list(&[format!("{base}{pattern}")], &ListOptions::default()).await.unwrap();
        let mut names = Vec::new();
        for file in &found {
            let bytes = stores.read_all(&file.url).await.unwrap();
            assert_eq!(file.size, bytes.len() as u64, "{pattern}");
            // Each file holds its own path.
            names.push(String::from_utf8(bytes.to_vec()).unwrap());
        }
        assert_eq!(names, expected, "{pattern}");
    }
}

#[tokio::test]
async fn patterns_in_folders() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    check_patterns(&local(), &format!("{}/", folder.path().display())).await;
    check_patterns(&local(), &format!("file://{}/", folder.path().display()).replace('%', "%25")).await;
}

#[tokio::test]
async fn patterns_in_memory() {
    let stores = local();
    for file in FILES {
        let (store, path) = stores.open(&format!("memory:///{file}")).unwrap();
        store.put(&path, file.into()).await.unwrap();
    }
    check_patterns(&stores, "memory:///").await;
}

#[tokio::test]
async fn patterns_in_s3() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("bucket")).unwrap();
    let stores = stores(common::s3::variables(&common::s3::serve(folder.path())));
    for file in FILES {
        let (store, path) = stores.open(&format!("s3://bucket/{file}")).unwrap();
        store.put(&path, file.into()).await.unwrap();
    }
    check_patterns(&stores, "s3://bucket/").await;
    let found = stores.list(&["s3://bucket/data/test.jsonl.gz".to_owned()], &ListOptions::default()).await.unwrap();
    assert!(found[0].etag.is_some(), "S3 files are identified by their tag");
}

#[tokio::test]
async fn creating_a_key_twice_fails_on_s3() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("bucket")).unwrap();
    let stores = stores(common::s3::variables(&common::s3::serve(folder.path())));
    let (store, path) = stores.open("s3://bucket/run/commits/00001").unwrap();
    store.put_opts(&path, "first".into(), PutMode::Create.into()).await.unwrap();
    let error = store.put_opts(&path, "second".into(), PutMode::Create.into()).await.unwrap_err();
    assert!(matches!(error, object_store::Error::AlreadyExists { .. }), "{error}");
    assert_eq!(stores.read_all("s3://bucket/run/commits/00001").await.unwrap(), "first");
}

#[tokio::test]
async fn wrong_keys_are_named_without_being_shown() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("bucket")).unwrap();
    let mut variables = common::s3::variables(&common::s3::serve(folder.path()));
    variables.push(("AWS_SECRET_ACCESS_KEY".to_owned(), "wrong-secret".to_owned()));
    let error = stores(variables).read_all("s3://bucket/a").await.unwrap_err();
    assert!(matches!(error, DatasetError::Denied { .. }), "{error:?}");
    let message = error.to_string();
    assert!(message.contains("AWS_PROFILE") && !message.contains("wrong-secret"), "{message}");
}

/// Where a cloud machine would give credentials, nothing answers, or something that knows of none.
#[rstest]
#[case(None)]
#[case(Some(403))]
#[case(Some(404))]
#[tokio::test]
async fn no_credentials_at_all_are_named_at_once(#[case] answer: Option<u16>) {
    let server = MockServer::start().await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let metadata = match answer {
        None => format!("http://{closed}"),
        Some(status) => {
            Mock::given(wiremock::matchers::any()).respond_with(ResponseTemplate::new(status)).mount(&server).await;
            server.uri()
        }
    };
    let variables = [("AWS_METADATA_ENDPOINT", metadata), ("HOME", "/nonexistent".to_owned())];
    let stores = stores(variables.map(|(name, value)| (name.to_owned(), value)));
    let begin = std::time::Instant::now();
    let error = stores.read_all("s3://bucket/a").await.unwrap_err();
    assert!(matches!(error, DatasetError::Denied { .. }), "{error:?}");
    assert!(
        error.to_string().contains("no credentials are set") && error.to_string().contains("AWS_PROFILE"),
        "{error}"
    );
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn one_file_is_found_by_its_own_letters() {
    let folder = tempfile::tempdir().unwrap();
    let endpoint = common::s3::serve(folder.path());
    fs::create_dir(folder.path().join("bucket")).unwrap();
    let stores = stores(common::s3::variables(&endpoint));
    for base in ["memory:///in".to_owned(), "s3://bucket/in".to_owned(), format!("{}/in", folder.path().display())] {
        let url = format!("{base}/a[1]*.csv");
        let (store, path) = stores.open(&url).unwrap();
        store.put(&path, "abc".into()).await.unwrap();
        let found = stores.find(&url).await.unwrap();
        assert_eq!((found.size, found.name()), (3, "a[1]*.csv"));
        let error = stores.find(&format!("{base}/a*.csv")).await.unwrap_err();
        assert!(matches!(error, DatasetError::NotFound { .. }), "{error:?}");
    }
}

#[rstest]
#[case::near("data/tran-00000.jsonl.zst", "did you mean 'train-00000.jsonl.zst'")]
#[case::pattern("data/*.feather", "names, 6 of them of files of known formats, such as")]
#[case::no_folder("nothing/here.csv", "' holds ")]
#[tokio::test]
async fn nothing_found_says_what_is_there(#[case] pattern: &str, #[case] hint: &str) {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    let stores = local();
    let url = format!("{}/{pattern}", folder.path().display());
    let error = stores.list(&[url], &ListOptions::default()).await.unwrap_err();
    assert!(matches!(error, DatasetError::NotFound { .. }), "{error:?}");
    assert!(error.to_string().contains(hint), "{error}");
    for file in FILES {
        let (store, path) = stores.open(&format!("memory:///{file}")).unwrap();
        store.put(&path, file.into()).await.unwrap();
    }
    let error = stores.list(&[format!("memory:///{pattern}")], &ListOptions::default()).await.unwrap_err();
    assert!(matches!(error, DatasetError::NotFound { .. }), "{error:?}");
    assert!(error.to_string().contains(hint) || pattern.starts_with("nothing"), "{error}");
}

#[tokio::test]
async fn order_of_patterns_is_kept_and_duplicates_go() {
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    let base = folder.path().display();
    let list = folder.path().join("list.txt");
    fs::write(&list, format!("# more\n\n{base}/data/_part.csv\r\n{base}/data/test.jsonl.gz\n")).unwrap();
    let options = ListOptions { paths_file: Some(list.display().to_string()), ..ListOptions::default() };
    let patterns = [format!("{base}/data/test.jsonl.gz"), format!("{base}/data/t*")];
    let found = local().list(&patterns, &options).await.unwrap();
    let names: Vec<&str> = found.iter().map(|file| file.name()).collect();
    let expected =
        ["test.jsonl.gz", "train-00000.jsonl.zst", "train-00001.jsonl.zst", "train-00010.jsonl.zst", "_part.csv"];
    assert_eq!(names, expected);
    assert!(found.iter().all(|file| file.modified_ms.is_some()), "the time of the change identifies local files");
}

#[tokio::test]
async fn a_remote_paths_file_names_files_beside_it() {
    let stores = local();
    for (file, text) in [("lists/a.csv", "x"), ("lists/paths.txt", "a.csv\n")] {
        let (store, path) = stores.open(&format!("memory:///{file}")).unwrap();
        store.put(&path, text.into()).await.unwrap();
    }
    let options = ListOptions { paths_file: Some("memory:///lists/paths.txt".into()), ..ListOptions::default() };
    let found = stores.list(&[], &options).await.unwrap();
    assert_eq!(found[0].url, "memory:///lists/a.csv");
}

/// Whoever can write a list somewhere in the network cannot have files of this machine read by it.
#[rstest]
#[case("/etc/hosts")]
#[case("~/.ssh/keys.csv")]
#[case("../../keys.csv")]
#[case("deeper/../../keys.csv")]
#[case("file:///etc/hosts")]
#[case("FILE:///etc/hosts")]
#[tokio::test]
async fn a_remote_paths_file_that_leads_out_is_refused(#[case] line: &str) {
    let stores = local();
    for (file, text) in [("lists/a.csv", "x".to_owned()), ("lists/paths.txt", format!("# two\na.csv\n{line}\n"))] {
        let (store, path) = stores.open(&format!("memory:///{file}")).unwrap();
        store.put(&path, text.into()).await.unwrap();
    }
    let options = ListOptions { paths_file: Some("memory:///lists/paths.txt".into()), ..ListOptions::default() };
    let error = stores.list(&[], &options).await.unwrap_err();
    let DatasetError::Malformed { location, message } = &error else { panic!("{error:?}") };
    assert_eq!(location, "memory:///lists/paths.txt");
    assert!(message.contains(&format!("line 3: '{line}' leads out")), "{message}");
    assert!(message.contains("s3://"), "{message}");
}

#[rstest]
#[case::empty(&[], "it is empty")]
#[case::hidden(&[".notes.csv"], "it is empty")]
#[case::others(&["notes.doc", "picture.png"], "it has 2 names, such as 'notes.doc'")]
#[tokio::test]
async fn a_folder_without_data_says_what_is_there(#[case] names: &[&str], #[case] hint: &str) {
    let folder = tempfile::tempdir().unwrap();
    let stores = local();
    for name in names {
        fs::write(folder.path().join(name), "x").unwrap();
    }
    let error = stores.list(&[folder.path().display().to_string()], &ListOptions::default()).await.unwrap_err();
    assert!(matches!(error, DatasetError::NoData { .. }), "{error:?}");
    let message = error.to_string();
    assert!(message.starts_with(&format!("'file://{}' holds no file", folder.path().display())), "{message}");
    assert!(message.contains(".parquet, .jsonl") && message.ends_with(hint), "{message}");
    if names.len() < 2 {
        return;
    }
    for name in names {
        let (store, path) = stores.open(&format!("memory:///bare/{name}")).unwrap();
        store.put(&path, "x".into()).await.unwrap();
    }
    let error = stores.list(&["memory:///bare/".to_owned()], &ListOptions::default()).await.unwrap_err();
    assert!(matches!(&error, DatasetError::NoData { location, .. } if location == "memory:///bare/"), "{error:?}");
    assert!(error.to_string().ends_with(hint), "{error}");
}

#[tokio::test]
async fn a_pipe_is_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("a.jsonl");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let error = local().list(&[pipe.display().to_string()], &ListOptions::default()).await.unwrap_err();
    assert!(matches!(error, DatasetError::Location { .. }), "{error:?}");
    assert!(error.to_string().contains("a.jsonl") && error.to_string().contains("is a pipe"), "{error}");
}

#[tokio::test]
async fn a_selection_without_a_data_set_is_refused() {
    let options = ListOptions { split: Some("train".into()), ..ListOptions::default() };
    let error = local().list(&["/data/x".to_owned()], &options).await.unwrap_err();
    assert!(matches!(&error, DatasetError::Setting { key, .. } if key == "split"), "{error:?}");
}

#[tokio::test]
async fn unreadable_folders_are_errors() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    corpus(folder.path());
    let closed = folder.path().join("data/sub");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    let is_superuser = fs::read_dir(&closed).is_ok();
    let result = local().list(&[folder.path().display().to_string()], &ListOptions::default()).await;
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
    if is_superuser {
        println!("skipped: this user may read everything");
        return;
    }
    assert!(matches!(result, Err(DatasetError::Denied { .. })), "{result:?}");
}

#[tokio::test]
async fn web_files_are_found_by_head_or_by_their_first_byte() {
    let server = MockServer::start().await;
    Mock::given(method("HEAD"))
        .and(path("/a.jsonl"))
        .respond_with(ResponseTemplate::new(200).insert_header("etag", "\"e\"").set_body_string("{}{}"))
        .mount(&server)
        .await;
    Mock::given(method("HEAD"))
        .and(path("/signed.jsonl"))
        .respond_with(ResponseTemplate::new(403))
        .mount(&server)
        .await;
    Mock::given(method("GET"))
        .and(path("/signed.jsonl"))
        .and(query_param("X-Amz-Signature", "s3cr3t"))
        .and(header("range", "bytes=0-0"))
        .respond_with(ResponseTemplate::new(206).insert_header("content-range", "bytes 0-0/11").set_body_string("{"))
        .mount(&server)
        .await;
    Mock::given(method("GET"))
        .and(path("/signed.jsonl"))
        .and(query_param("X-Amz-Signature", "s3cr3t"))
        .respond_with(ResponseTemplate::new(200).set_body_string("{\"a\":1}\n{}\n"))
        .mount(&server)
        .await;
    let stores = local();
    let urls =
        [format!("{}/a.jsonl", server.uri()), format!("{}/signed.jsonl?part=1&X-Amz-Signature=s3cr3t", server.uri())];
    let found = stores.list(&urls, &ListOptions::default()).await.unwrap();
    assert_eq!((found[0].size, found[0].etag.as_deref()), (4, Some("\"e\"")));
    assert_eq!(found[1].size, 11);
    assert_eq!(found[1].url, format!("{}/signed.jsonl?part=1", server.uri()), "the signature is not recorded");
    assert_eq!(stores.read_all(&found[1].url).await.unwrap().len(), 11, "but used");
}

#[rstest]
#[case(404, "NotFound")]
#[case(401, "Denied")]
#[case(403, "Denied")]
#[case(400, "Store")]
#[case(409, "Store")]
#[case(416, "Changed")]
#[case(429, "Transient")]
#[case(500, "Transient")]
#[case(503, "Transient")]
#[tokio::test]
async fn answers_of_web_servers(#[case] status: u16, #[case] variant: &str) {
    let server = MockServer::start().await;
    Mock::given(method("GET")).respond_with(ResponseTemplate::new(status).set_body_string("no")).mount(&server).await;
    let error = local().read_all(&format!("{}/a?token=s3cr3t", server.uri())).await.unwrap_err();
    assert!(format!("{error:?}").starts_with(variant), "{error:?}");
    assert!(!error.to_string().contains("s3cr3t"), "{error}");
    let requests = server.received_requests().await.unwrap().len();
    assert_eq!(requests, if variant == "Transient" { 4 } else { 1 }, "what may pass is tried again");
}

/// A server that is silent for longer than it may be is tried again, and then named.
#[tokio::test]
async fn a_server_that_is_too_slow_is_named() {
    let server = MockServer::start().await;
    let slow = ResponseTemplate::new(200).set_body_string("x").set_delay(Duration::from_secs(20));
    Mock::given(method("GET")).respond_with(slow).mount(&server).await;
    let stores = Stores::new(StoreOptions {
        read_timeout: Duration::from_millis(100),
        retry: RetryPolicy { most_retries: 1, first_wait: Duration::from_millis(5), ..RetryPolicy::default() },
        environment: Environment::of([("HOME", "/nonexistent")]),
        ..StoreOptions::default()
    });
    let url = format!("{}/a", server.uri());
    let error = stores.read_all(&url).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert!(error.to_string().starts_with(&format!("'{url}' failed for now: ")), "{error}");
    assert!(error.to_string().contains("after 1 retry"), "{error}");
    assert_eq!(server.received_requests().await.unwrap().len(), 2);
}

/// A bucket whose listing names keys that climb: nothing outside of the bucket is opened by them.
#[tokio::test]
async fn a_listing_of_s3_that_leads_out_is_refused() {
    let server = MockServer::start().await;
    let listing = "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>false</IsTruncated><Contents>\
                   <Key>data/../../../etc/keys.csv</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified>\
                   <ETag>\"a\"</ETag><Size>3</Size></Contents></ListBucketResult>";
    Mock::given(method("GET"))
        .and(query_param("list-type", "2"))
        .respond_with(ResponseTemplate::new(200).set_body_string(listing))
        .mount(&server)
        .await;
    let stores = stores(common::s3::variables(&server.uri()));
    let error = stores.list(&["s3://bucket/data/**/*.csv".to_owned()], &ListOptions::default()).await.unwrap_err();
    let message = error.to_string();
    assert!(message.contains("s3://bucket/data/") && message.contains("data/../../../etc/keys.csv"), "{message}");
    let asked = server.received_requests().await.unwrap();
    assert!(asked.iter().all(|request| request.url.query().is_some_and(|query| query.contains("list-type"))));
}

#[tokio::test]
async fn a_named_wait_is_obeyed() {
    let server = MockServer::start().await;
    Mock::given(method("GET"))
        .respond_with(ResponseTemplate::new(429).insert_header("retry-after", "1"))
        .up_to_n_times(1)
        .mount(&server)
        .await;
    Mock::given(method("GET")).respond_with(ResponseTemplate::new(200).set_body_string("x")).mount(&server).await;
    let begin = std::time::Instant::now();
    assert_eq!(local().read_all(&format!("{}/a", server.uri())).await.unwrap(), "x");
    assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_server_that_is_not_there_may_come_back() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = local().read_all(&format!("http://{free}/a")).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
}

#[test]
fn connections_live_on_the_given_runtime() {
    let io = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = io.block_on(MockServer::start());
    io.block_on(
        Mock::given(method("GET")).respond_with(ResponseTemplate::new(200).set_body_string("x")).mount(&server),
    );
    let stores = Stores::new(StoreOptions { io_runtime: Some(io.handle().clone()), ..StoreOptions::default() });
    let own = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (store, path) = stores.open(&format!("{}/a", server.uri())).unwrap();
    let result = own.block_on(async { store.get(&path).await.map_err(|error| store_error("http", error)) }).unwrap();
    assert_eq!(own.block_on(result.bytes()).unwrap(), "x");
}

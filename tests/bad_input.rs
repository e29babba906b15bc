//! Bad input: a named error or a quarantined row, never a lost row, never a panic.

use std::io::Write;

use serde_json::json;

use crate::support::{Ran, TERMS, Workspace, lines, parts, pipeline, rows};

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn parquet_bytes() -> Vec<u8> {
    let texts =
        arrow_array::StringArray::from_iter_values((0..3000).map(|row| format!("text {row} {}", "x".repeat(row % 97))));
    let batch = arrow_array::RecordBatch::try_from_iter([("text", std::sync::Arc::new(texts) as _)]).unwrap();
    let mut bytes = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

/// A definition that is wrong: exit code 2, a place, and what is allowed.
#[test]
fn wrong_definitions_name_place_and_remedy() {
    let workspace = Workspace::new();
    workspace.write("terms.txt", TERMS);
    workspace.write("corpus/a.jsonl", lines(0, 5));
    let good = pipeline("corpus/*.jsonl", "out");
    for (from, to, parts) in [
        ("blocklist:", "blocklst:", vec!["p.yaml:4:5:", "unknown operator 'blocklst'", "did you mean 'blocklist'?"]),
        (
            "terms: terms.txt",
            "terms: terms.txt, min_distnct: 3",
            vec!["p.yaml:4:35:", "did you mean 'min_distinct'?", "allowed keys: terms, column,"],
        ),
        ("terms: terms.txt", "terms: term.txt", vec!["p.yaml:4:17:", "/term.txt' does not exist"]),
        (
            "terms: terms.txt",
            "terms: terms.txt, min_distinct: many",
            vec!["p.yaml:4:35:", "'min_distinct': expected a whole number of at least 0, found \"many\""],
        ),
        (
            "terms: terms.txt",
            "terms: terms.txt, match: wrd",
            vec!["p.yaml:4:35:", "'match': 'wrd' is not allowed, did you mean 'word'?; allowed: substring, word"],
        ),
        (
            "terms: terms.txt",
            "terms: terms.txt, column: txt",
            vec!["p.yaml:4:35:", "no column 'txt'", "did you mean 'text'?", "columns: id, text, lang"],
        ),
        ("terms: terms.txt", "min_distinct: 2", vec!["p.yaml:4:5:", "the key 'terms' is missing"]),
        ("NOT blocklist", "NOT bloklist", vec!["p.yaml:6:14:", "did you mean 'blocklist'?"]),
        ("NOT blocklist", "blocklist +", vec!["p.yaml:6:14:", "no SQL expression", "found: the end in 'blocklist +'"]),
        (
            "NOT blocklist",
            "\"regexp_like(text, '(a')\"",
            vec!["p.yaml:6:14:", "the regular expression '(a' does not compile: unclosed group, in 'regexp_like"],
        ),
        ("NOT blocklist", "lenth(text) > 2", vec!["p.yaml:6:14:", "did you mean 'length'?"]),
        ("NOT blocklist", "count(*) > 2", vec!["p.yaml:6:14:", "the function 'count' needs other rows"]),
        ("corpus/*.jsonl", "corpus/*.jsnl", vec!["p.yaml:2:10:", "no file matches", "/corpus/*.jsnl'", "'a.jsonl'"]),
        ("corpus/*.jsonl", "gs://bucket/a.jsonl", vec!["p.yaml:2:10:", "gs://bucket/a.jsonl", "feature 'gcs'"]),
        ("corpus/*.jsonl", "ftp://host/a.jsonl", vec!["p.yaml:2:10:", "'ftp' is unknown; allowed are"]),
        (
            "split_size: 100 rows",
            "split_size: 0.0001",
            vec!["p.yaml:2:34:", "0.0001", "allowed are a size such as 64MB"],
        ),
        (
            "split_size: 100 rows",
            "limit: -1",
            vec!["p.yaml:2:34:", "source.limit: expected a whole number", "found -1"],
        ),
        (
            "split_size: 100 rows",
            "split: train",
            vec!["p.yaml:2:34:", "'train' selects nothing here", "key of a .json"],
        ),
        ("split_size: 100 rows", "batch_rows: 0", vec!["p.yaml:2:34:", "allowed: 1 or more"]),
        ("split_size: 100 rows", "text: txt", vec!["p.yaml:2:34:", "no column 'txt', did you mean 'text'?"]),
        ("path: \"corpus/*.jsonl\"", "path: {a: 1}", vec!["p.yaml:2:10:", "expected a path or a list of paths"]),
        ("path: \"out\"", "path: \"https://example.org/out\"", vec!["p.yaml:7:18:", "nothing can be written there"]),
        ("rejected: true", "rejectd: true", vec!["p.yaml:7:31:", "did you mean 'rejected'?"]),
        ("rejected: true", "rejected: perhaps", vec!["p.yaml:7:31:", "expected true or false, found \"perhaps\""]),
        ("rejected: true", "level: 99", vec!["p.yaml:7:31:", "99", "1 to 22"]),
        (
            "rejected: true",
            "compression: zip",
            vec!["p.yaml:7:31:", "'zip' is not allowed; allowed: zstd, snappy, lz4"],
        ),
    ] {
        assert!(good.contains(from), "{from}");
        workspace.write("p.yaml", good.replace(from, to));
        for command in ["run", "validate"] {
            let ran = workspace.run(&[command, "p.yaml"], 2);
            for part in &parts {
                assert!(ran.err.contains(part), "{command} with {to:?}: no {part:?} in\n{}", ran.err);
            }
        }
    }
    let ran = workspace.run(&["run", "q.yaml"], 2);
    assert!(ran.err.contains("did you mean './p.yaml'?"), "{}", ran.err);
    workspace.run(&["run"], 2);
    workspace.run(&["run", "p.yaml", "--workers", "0"], 2);
}

/// What the command line sets is named as it was typed; the file is not blamed for it.
#[test]
fn wrong_overrides_are_named() {
    let workspace = Workspace::new();
    workspace.write("terms.txt", TERMS);
    workspace.write("corpus/a.jsonl", lines(0, 5));
    workspace.write("p.yaml", pipeline("corpus/*.jsonl", "out"));
    for (assignment, message) in [
        ("source.limit=many", "source.limit: expected a whole number of at least 0, found \"many\""),
        ("source.limt=3", "unknown key 'limt', did you mean 'limit'?"),
        ("sorce.limit=3", "unknown key 'sorce', did you mean 'source'?"),
        ("source=corpus", "source: expected a map of keys and values, found \"corpus\""),
        ("source.path=nowhere/*.jsonl", "/nowhere/*.jsonl'"),
        ("source.text=txt", "no column 'txt', did you mean 'text'?; columns: id, text, lang"),
        ("steps.0.min_distinct=0", "'min_distinct': 0 would make every verdict true; at least 1 is allowed"),
        ("steps.0.blocklist.min_distnct=3", "did you mean 'min_distinct'?"),
        ("steps.2.keep=NOT bloklist", "no column 'bloklist', did you mean 'blocklist'?"),
        ("steps.7.keep=true", "'steps.7': no such element; there are 3, counted from 0"),
        ("sink.parquet.level=99", "99 is no level of zstd, which has 1 to 22"),
        ("sink.parquet.rejected=perhaps", "expected true or false, found \"perhaps\""),
        ("attempts=0", "allowed: 1 or more"),
        ("max_quarantined=1.5", "1.5 is not between 0 and 1"),
        ("limit", "'limit' is not an override; write dotted.key=value"),
    ] {
        for command in ["run", "plan", "validate"] {
            let ran = workspace.run(&[command, "p.yaml", assignment], 2);
            assert!(ran.err.starts_with("error: command line: '"), "{command} {assignment}: {}", ran.err);
            assert!(ran.err.contains(message), "{command} {assignment}: no {message:?} in {}", ran.err);
            assert!(!ran.err.contains("p.yaml:"), "{command} {assignment}: {}", ran.err);
        }
    }
    assert!(!workspace.path("out").exists());
}

/// Files that would grow beyond all bounds (the first to ten thousand million values) are refused with a place.
#[test]
fn definitions_that_explode_are_refused() {
    let workspace = Workspace::new();
    workspace.write("corpus/a.jsonl", lines(0, 5));
    let good = "source: {path: corpus}\nsink: {parquet: {path: out}}\n";
    let mut bomb = String::from("a: &a [x, x, x, x, x, x, x, x, x, x]\n");
    for (name, of) in ('b'..='j').zip('a'..) {
        bomb.push_str(&format!("{name}: &{name} [{}]\n", vec![format!("*{of}"); 10].join(", ")));
    }
    let deep = format!("steps: {}{}\n", "[".repeat(100_000), "]".repeat(100_000));
    let long = format!("description: {}\n", "x".repeat(5 << 20));
    for (name, text, message) in
        [("bomb", bomb, "p.yaml:6:"), ("deep", deep, "p.yaml:3:"), ("long", long, "a pipeline file may have")]
    {
        workspace.write("p.yaml", format!("{}{text}", if name == "bomb" { "" } else { good }));
        let ran = workspace.run(&["run", "p.yaml"], 2);
        assert!(ran.err.contains(message), "{name}: {}", ran.err);
        assert!(ran.err.len() < 2_000, "{name}: {} bytes of error", ran.err.len());
    }
}

/// Rows that cannot be read go to quarantine with error, position and bytes; the others go through.
#[test]
fn bad_rows_are_quarantined_and_counted() {
    let deep = format!("{{\"id\": 3, \"text\": \"t\", \"lang\": {}1{}}}", "[".repeat(2000), "]".repeat(2000));
    for (name, bad, says) in [
        ("malformed", b"{\"id\": 3, \"text\": ".to_vec(), "not complete"),
        ("no object", b"[1, 2]".to_vec(), "expected {"),
        ("invalid UTF-8", b"{\"id\": 3, \"text\": \"\xff\xfe\", \"lang\": \"en\"}".to_vec(), "UTF-8"),
        ("another type", b"{\"id\": 3, \"text\": {\"a\": 1}, \"lang\": \"en\"}".to_vec(), "expected string"),
        ("too deep", deep.into_bytes(), "deep"),
    ] {
        let workspace = Workspace::new();
        workspace.write("terms.txt", TERMS);
        let mut bytes = lines(0, 3).into_bytes();
        let offset = bytes.len();
        bytes.extend_from_slice(&bad);
        bytes.push(b'\n');
        bytes.extend_from_slice(lines(4, 6).as_bytes());
        workspace.write("corpus/a.jsonl", bytes);
        workspace.write("p.yaml", pipeline("corpus/*.jsonl", "out"));
        let report = workspace.run(&["run", "p.yaml", "--json"], 0).json();
        assert_eq!((&report["rows_in"], &report["rows_quarantined"]), (&json!(10), &json!(1)), "{name}");
        let aside = rows(&workspace.path("out"), "quarantine");
        assert_eq!(aside.len(), 1, "{name}");
        assert_eq!(aside[0]["offset"], offset, "{name}");
        assert!(aside[0]["source"].as_str().unwrap().ends_with("/corpus/a.jsonl"), "{name}");
        assert!(aside[0]["error"].as_str().unwrap().contains(says), "{name}: {}", aside[0]["error"]);
        assert_eq!((&aside[0]["step"], &aside[0]["row"]), (&json!("read"), &json!(3)), "{name}");
        assert_eq!(aside[0]["length"], bad.len(), "{name}");
        let raw: String = bad.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(aside[0]["raw"], raw, "{name}: the very bytes are kept");
        let kept = rows(&workspace.path("out"), "data").len() + rows(&workspace.path("out"), "rejected").len();
        assert_eq!(kept, 9, "{name}");
        // The share that is allowed decides the exit code; the run itself is complete.
        let strict = workspace.run(&["run", "p.yaml", "max_quarantined=0.05"], 3);
        assert!(strict.err.contains("1 of 10 rows were quarantined"), "{}", strict.err);
        workspace.run(&["run", "p.yaml", "max_quarantined=0.1", "--quiet"], 0);
    }
}

/// A file that is damaged as a whole fails its splits by name; splits of other files are done, and a mended file is taken up.
#[test]
fn damaged_files_fail_by_name() {
    let parquet = parquet_bytes();
    let cut = |bytes: &[u8], keep: f64| bytes[..(bytes.len() as f64 * keep) as usize].to_vec();
    let zstd = zstd::encode_all(lines(0, 3000).as_bytes(), 3).unwrap();
    let mut corrupt_footer = parquet.clone();
    let length = corrupt_footer.len();
    corrupt_footer[length - 40..length - 8].fill(0xff);
    let gzip = cut(&gzip(&lines(0, 3000)), 0.6);
    let (gzip_end, parquet_end) = (gzip.len(), parquet.len() * 6 / 10);
    for (name, bytes, says, at_planning) in [
        ("a.jsonl.gz", gzip, format!("truncated gzip data: the file ends at byte {gzip_end},"), false),
        ("a.jsonl.zst", cut(&zstd, 0.6), "truncated zstd data: the file ends at byte ".to_owned(), false),
        ("a.parquet", cut(&parquet, 0.6), format!("the file ends at byte {parquet_end} without the 'PAR1'"), true),
        ("b.parquet", corrupt_footer, "is damaged: ".to_owned(), true),
        ("c.parquet", Vec::new(), "0 bytes are too few for a Parquet file".to_owned(), true),
        ("d.parquet", b"<!DOCTYPE html><html></html>".to_vec(), "this is a web page".to_owned(), true),
    ] {
        let workspace = Workspace::new();
        workspace.write("corpus/good.jsonl", lines(0, 50));
        workspace.write(&format!("corpus/{name}"), bytes);
        workspace.write(
            "p.yaml",
            "source: {path: corpus}\nsteps: [derive: {n: character_length(text)}]\nsink: {parquet: {path: out}}\n",
        );
        let ran = workspace.run(&["run", "p.yaml"], 1);
        assert!(ran.err.contains(&format!("/corpus/{name}' is malformed: ")), "{name}: {}", ran.err);
        assert!(ran.err.contains(&says), "{name}: no {says:?} in {}", ran.err);
        assert!(!ran.err.contains("Parquet error"), "{name}: {}", ran.err);
        if !at_planning {
            let status = workspace.run(&["status", "out", "--json"], 0).json();
            assert_eq!((&status["committed"], &status["finished"]), (&json!(1), &json!(false)), "{name}");
            assert!(status["failed"][0]["error"].as_str().unwrap().contains(name), "{status}");
        }
    }
}

#[test]
fn nothing_to_read() {
    let workspace = Workspace::new();
    workspace
        .write("p.yaml", "source: {path: corpus}\nsteps: [filter: {keep: id >= 0}]\nsink: {parquet: {path: out}}\n");
    let check = |says: &str| {
        let ran = workspace.run(&["run", "p.yaml"], 2);
        assert!(ran.err.starts_with("error: p.yaml:1:10: ") && ran.err.contains(says), "no {says:?} in {}", ran.err);
    };
    check("/corpus' does not exist");
    std::fs::create_dir(workspace.path("corpus")).unwrap();
    check("/corpus' holds no file of a known format (.parquet, .jsonl");
    check("it is empty");
    workspace.write("corpus/notes.doc", "x");
    check("it has 1 name, such as 'notes.doc'");
    workspace.write("corpus/empty.jsonl", "");
    workspace.write("corpus/lines.jsonl", lines(0, 4));
    assert_eq!(workspace.run(&["run", "p.yaml", "--json"], 0).json()["rows_in"], 4);
}

/// Two of the texts are null, all ids are equal, and one document has 100 MB.
#[test]
fn nulls_duplicate_ids_and_a_huge_document() {
    let workspace = Workspace::new();
    workspace.write("terms.txt", TERMS);
    let huge = format!(
        "{{\"id\": 1, \"text\": \"{} weevil {} moth\"}}\n",
        "grain ".repeat(8_400_000),
        "flour ".repeat(8_400_000)
    );
    workspace.write(
        "corpus/a.jsonl",
        format!("{{\"id\": 1, \"text\": null}}\n{{\"id\": 1}}\n{huge}{{\"id\": 1, \"text\": \"moth weevil\"}}\n"),
    );
    workspace.write("p.yaml", pipeline("corpus/*.jsonl", "out"));
    let report = workspace.run(&["run", "p.yaml", "--json"], 0).json();
    assert_eq!((&report["rows_in"], &report["rows_rejected"], &report["rows_out"]), (&json!(4), &json!(2), &json!(2)));
    let kept = rows(&workspace.path("out"), "data");
    assert!(kept.iter().all(|row| row.get("text").is_none_or(serde_json::Value::is_null)), "{kept:?}");
    assert!(kept.iter().all(|row| row["id"] == 1), "equal ids stay as they are: {kept:?}");
    let rejected = rows(&workspace.path("out"), "rejected");
    let lengths: Vec<usize> = rejected.iter().map(|row| row["text"].as_str().unwrap().len()).collect();
    assert_eq!(lengths, [6 * 8_400_000 + 8 + 6 * 8_400_000 + 5, 11], "a large text is whole");
}

/// A file that may not be read, and a link that leads nowhere: named, and the run goes on when they are mended.
#[test]
fn files_that_cannot_be_read() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::process::CommandExt;

    /// The user that owns nothing.
    const NOBODY: u32 = 65534;

    let workspace = Workspace::new();
    workspace.write("corpus/a.jsonl", lines(0, 50));
    workspace.write("p.yaml", "source: {path: \"corpus/*.jsonl\"}\nsink: {parquet: {path: out}}\n");
    symlink(workspace.path("nowhere"), workspace.path("corpus/b.jsonl")).unwrap();
    let ran = workspace.run(&["run", "p.yaml"], 2);
    assert!(ran.err.contains("b.jsonl"), "{}", ran.err);
    std::fs::remove_file(workspace.path("corpus/b.jsonl")).unwrap();

    let closed = workspace.write("corpus/c.jsonl", lines(50, 50));
    let mode = |path: &std::path::Path, bits| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(bits)).unwrap();
    };
    mode(&closed, 0);
    let mut command = workspace.gristmill(&["run", "p.yaml"]);
    if std::fs::File::open(&closed).is_ok() {
        // The superuser may read everything, so somebody else runs it.
        mode(&workspace.path(""), 0o777);
        command.uid(NOBODY).gid(NOBODY);
    }
    match command.output() {
        Err(error) => println!("skipped: nobody else can run the program here: {error}"),
        Ok(output) => {
            let ran = Ran::of(output);
            assert_eq!(ran.code, 1, "{}", ran.err);
            assert!(ran.err.contains("no access to 'file://") && ran.err.contains("/corpus/c.jsonl'"), "{}", ran.err);
            assert!(ran.err.contains("Permission denied") && ran.err.contains("who may read"), "{}", ran.err);
        }
    }
    mode(&closed, 0o644);
    assert_eq!(workspace.run(&["run", "p.yaml", "--json"], 0).json()["rows_in"], 100);
}

/// A SQL expression that has no value for a row names the file, the row, the value and the way out; the run goes on with a
/// definition that has one.
#[test]
fn a_value_that_sql_cannot_use_is_named() {
    let workspace = Workspace::new();
    workspace.write("corpus/a.jsonl", "{\"id\": 1, \"text\": \"17\"}\n{\"id\": 2, \"text\": \"many\"}\n");
    workspace.write("corpus/b.jsonl", "{\"id\": 3, \"text\": \"18\"}\n");
    let text = "source: {path: corpus}\nsteps: [derive: {n: CAST(text AS INT)}]\nsink: {parquet: {path: out}}\n";
    workspace.write("p.yaml", text);
    let ran = workspace.run(&["run", "p.yaml", "--quiet"], 1);
    for says in [
        "1 of 2 splits failed",
        "/corpus/a.jsonl': step 'derive': 'CAST(text AS INT)': Cannot cast string 'many'",
        "TRY_CAST gives null instead",
        "in the row {\"text\":\"many\"}",
    ] {
        assert!(ran.err.contains(says), "no {says:?} in {}", ran.err);
    }
    let status = workspace.run(&["status", "out"], 0);
    assert!(status.out.contains("was given up") && status.out.contains("{\"text\":\"many\"}"), "{}", status.out);
    workspace.write("p.yaml", text.replace("CAST", "TRY_CAST"));
    let refused = workspace.run(&["run", "p.yaml"], 2);
    assert!(refused.err.contains("is of another run") && refused.err.contains("--fresh"), "{}", refused.err);
    assert_eq!(workspace.run(&["run", "p.yaml", "--fresh", "--json"], 0).json()["rows_out"], 3);
}

/// Clocks that jump decide nothing: neither files and records from the future or from before 1970 nor a plan that is newer
/// than its records keep a run from going on where it was.
#[test]
fn a_clock_that_jumps() {
    let workspace = Workspace::new();
    workspace.write("terms.txt", TERMS);
    workspace.write("corpus/a.jsonl", lines(0, 300));
    workspace.write("corpus/b.jsonl", lines(300, 300));
    let (past, future) = (
        std::time::UNIX_EPOCH - std::time::Duration::from_secs(1_000_000),
        std::time::UNIX_EPOCH + std::time::Duration::from_secs(7_000_000_000),
    );
    let set = |path: &std::path::Path, time| std::fs::File::open(path).unwrap().set_modified(time).unwrap();
    set(&workspace.path("corpus/a.jsonl"), past);
    set(&workspace.path("corpus/b.jsonl"), future);
    workspace.write("calm.yaml", pipeline("corpus/*.jsonl", "calm"));
    workspace.write("p.yaml", pipeline("corpus/*.jsonl", "out"));
    workspace.run(&["run", "calm.yaml", "--quiet"], 0);
    workspace.run(&["run", "p.yaml", "--quiet"], 0);
    std::fs::remove_file(workspace.path("out/_run/manifest.parquet")).unwrap();
    for (index, entry) in std::fs::read_dir(workspace.path("out/_run/commits")).unwrap().enumerate() {
        let path = entry.unwrap().path();
        match index % 3 {
            0 => std::fs::remove_file(path).unwrap(),
            1 => set(&path, past),
            _ => set(&path, future),
        }
    }
    set(&workspace.path("out/_run/plan.parquet"), future);
    let ran = workspace.run(&["run", "p.yaml", "--json"], 0);
    assert!(ran.err.contains("\"resumed\":4"), "{}", ran.err);
    assert_eq!(ran.json()["rows_in"], 600);
    assert!(parts(&workspace.path("out")) == parts(&workspace.path("calm")));
}

/// A source file that changes between planning and reading is noticed, not mixed in.
#[test]
fn a_file_that_changes_under_the_run() {
    let workspace = Workspace::new();
    workspace.write("corpus/a.jsonl", lines(0, 3000));
    workspace.write("p.yaml", "source: {path: corpus, split_size: 100 rows}\nsteps: [derive: {n: character_length(text)}]\nsink: {parquet: {path: out}}\nattempts: 1\n");
    workspace.run(&["run", "p.yaml", "--quiet"], 0);
    // A run in the middle: commits are taken away, and then the file changes.
    for entry in std::fs::read_dir(workspace.path("out/_run/commits")).unwrap().skip(5) {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    std::fs::remove_file(workspace.path("out/_run/manifest.parquet")).unwrap();
    workspace.write("corpus/a.jsonl", lines(1, 3000));
    let ran = workspace.run(&["run", "p.yaml"], 2);
    assert!(ran.err.contains("is of another run") && ran.err.contains("/corpus/a.jsonl"), "{}", ran.err);
}

/// The run folder inside of the source: the second start would read what the first wrote.
#[test]
fn an_output_inside_of_the_source_is_refused() {
    let workspace = Workspace::new();
    workspace.write("corpus/a.jsonl", lines(0, 5));
    for (source, sink) in [("corpus", "corpus"), ("corpus", "corpus/out"), ("./**", "out")] {
        workspace.write("p.yaml", format!("source: {{path: {source}}}\nsink: {{parquet: {{path: {sink}}}}}\n"));
        for command in ["run", "plan", "validate"] {
            let ran = workspace.run(&[command, "p.yaml"], 2);
            assert!(ran.err.starts_with("error: p.yaml:2:18: sink: the run folder '"), "{source}: {}", ran.err);
            assert!(ran.err.contains("name a folder elsewhere"), "{source}: {}", ran.err);
        }
    }
}

/// A look at a file passes over no row in silence, and a single file is looked at like a pattern.
#[test]
fn a_look_names_rows_that_cannot_be_read() {
    let workspace = Workspace::new();
    let good = lines(0, 2);
    workspace.write("a.jsonl", format!("{good}{{broken\n"));
    let looked = workspace.run(&["inspect", "a.jsonl", "--json"], 0);
    assert_eq!(looked.out.lines().count(), 2);
    let says = format!("/a.jsonl': the row at byte {} cannot be read: ", good.len());
    assert!(looked.err.starts_with("note: 'file://") && looked.err.contains(&says), "{}", looked.err);
    let status = workspace.run(&["status", "a.jsonl"], 1);
    assert!(status.err.contains("the folder holds no run"), "{}", status.err);
    workspace.write("p.yaml", "source: {path: p.yaml}\nsink: {parquet: {path: out}}\n");
    let ran = workspace.run(&["run", "p.yaml"], 2);
    assert!(
        ran.err.contains("p.yaml:1:10: ") && ran.err.contains("set source.format to one of parquet"),
        "{}",
        ran.err
    );
}

#[test]
fn an_output_that_cannot_be_written() {
    let workspace = Workspace::new();
    workspace.write("corpus/a.jsonl", lines(0, 5));
    workspace.write("blocked", "a file, not a folder");
    workspace.write("p.yaml", "source: {path: corpus}\nsink: {parquet: {path: blocked/out}}\n");
    let ran = workspace.run(&["run", "p.yaml"], 1);
    assert!(ran.err.contains("blocked/out"), "{}", ran.err);
}

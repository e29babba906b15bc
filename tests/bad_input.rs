//! Bad input: a named error or a quarantined row, never a lost row, never a panic.

use std::io::Write;

use serde_json::json;

use crate::support::{TERMS, Workspace, lines, parts, pipeline, rows};

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
        ("blocklist:", "blocklst:", vec!["p.yaml:4:", "unknown operator 'blocklst'", "did you mean 'blocklist'?"]),
        ("terms: terms.txt", "terms: terms.txt, min_distnct: 3", vec!["p.yaml:4:", "did you mean 'min_distinct'?"]),
        ("terms: terms.txt", "terms: term.txt", vec!["p.yaml:4:", "term.txt"]),
        ("terms: terms.txt", "terms: terms.txt, min_distinct: many", vec!["p.yaml:4:", "min_distinct", "many"]),
        (
            "terms: terms.txt",
            "terms: terms.txt, column: txt",
            vec!["p.yaml:4:", "no column 'txt'", "did you mean 'text'?"],
        ),
        ("NOT blocklist", "NOT bloklist", vec!["p.yaml:6:", "did you mean 'blocklist'?"]),
        ("NOT blocklist", "blocklist +", vec!["p.yaml:6:", "blocklist +"]),
        ("NOT blocklist", "\"regexp_like(text, '(a')\"", vec!["p.yaml:6:", "unclosed group"]),
        ("NOT blocklist", "lenth(text) > 2", vec!["p.yaml:6:", "did you mean 'length'?"]),
        ("corpus/*.jsonl", "corpus/*.jsnl", vec!["p.yaml:2:", "corpus/*.jsnl"]),
        ("split_size: 100 rows", "split_size: 0.0001", vec!["p.yaml:2:", "0.0001"]),
        ("split_size: 100 rows", "limit: -1", vec!["p.yaml:2:", "limit", "-1"]),
        ("path: \"out\"", "path: \"https://example.org/out\"", vec!["p.yaml:7:", "nothing can be written there"]),
        ("rejected: true", "rejectd: true", vec!["p.yaml:7:", "did you mean 'rejected'?"]),
        ("rejected: true", "level: 99", vec!["p.yaml:7:", "99"]),
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
    for (name, bad) in [
        ("malformed", b"{\"id\": 3, \"text\": ".to_vec()),
        ("no object", b"[1, 2]".to_vec()),
        ("invalid UTF-8", b"{\"id\": 3, \"text\": \"\xff\xfe\", \"lang\": \"en\"}".to_vec()),
        ("another type", b"{\"id\": 3, \"text\": {\"a\": 1}, \"lang\": \"en\"}".to_vec()),
        ("too deep", deep.into_bytes()),
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
        assert!(!aside[0]["error"].as_str().unwrap().is_empty(), "{name}");
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
    for (name, bytes, at_planning) in [
        ("a.jsonl.gz", cut(&gzip(&lines(0, 3000)), 0.6), false),
        ("a.jsonl.zst", cut(&zstd, 0.6), false),
        ("a.parquet", cut(&parquet, 0.6), true),
        ("b.parquet", corrupt_footer, true),
        ("c.parquet", Vec::new(), true),
    ] {
        let workspace = Workspace::new();
        workspace.write("corpus/good.jsonl", lines(0, 50));
        workspace.write(&format!("corpus/{name}"), bytes);
        workspace.write(
            "p.yaml",
            "source: {path: corpus}\nsteps: [derive: {n: character_length(text)}]\nsink: {parquet: {path: out}}\n",
        );
        let ran = workspace.run(&["run", "p.yaml"], 1);
        assert!(ran.err.contains(name), "{name}: {}", ran.err);
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
    assert!(workspace.run(&["run", "p.yaml"], 2).err.contains("corpus"));
    std::fs::create_dir(workspace.path("corpus")).unwrap();
    assert!(workspace.run(&["run", "p.yaml"], 2).err.contains("corpus"));
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
}

/// A file that may not be read, and a link that leads nowhere: named, and the run goes on when they are mended.
#[test]
fn files_that_cannot_be_read() {
    use std::os::unix::fs::{PermissionsExt, symlink};

    let workspace = Workspace::new();
    workspace.write("corpus/a.jsonl", lines(0, 50));
    workspace.write("p.yaml", "source: {path: \"corpus/*.jsonl\"}\nsink: {parquet: {path: out}}\n");
    symlink(workspace.path("nowhere"), workspace.path("corpus/b.jsonl")).unwrap();
    let ran = workspace.run(&["run", "p.yaml"], 2);
    assert!(ran.err.contains("b.jsonl"), "{}", ran.err);
    std::fs::remove_file(workspace.path("corpus/b.jsonl")).unwrap();

    let closed = workspace.write("corpus/c.jsonl", lines(50, 50));
    let mode = |bits| std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(bits)).unwrap();
    mode(0);
    if std::fs::File::open(&closed).is_ok() {
        println!("skipped: this user may read every file");
    } else {
        let ran = workspace.run(&["run", "p.yaml"], 1);
        assert!(ran.err.contains("c.jsonl") && ran.err.contains("ermission denied"), "{}", ran.err);
    }
    mode(0o644);
    assert_eq!(workspace.run(&["run", "p.yaml", "--json"], 0).json()["rows_in"], 100);
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
    assert!(ran.err.contains("a.jsonl"), "{}", ran.err);
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

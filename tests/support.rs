//! What the tests share: a folder with a corpus, the binary, and a look at what a run left behind.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use arrow_array::RecordBatch;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tempfile::TempDir;

/// A folder of its own for one test.
pub struct Workspace {
    folder: TempDir,
}

impl Workspace {
    pub fn new() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// The binary, in this folder, with an environment that holds no settings of the machine's.
    pub fn gristmill(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gristmill"));
        command.current_dir(self.folder.path()).args(arguments);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["GRISTMILL_", "HF_", "AWS_"].iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(&name);
            }
        }
        command
    }

    /// Runs the binary and expects an exit code.
    pub fn run(&self, arguments: &[&str], code: i32) -> Ran {
        let ran = Ran::of(self.gristmill(arguments).output().unwrap());
        assert_eq!(ran.code, code, "{arguments:?}\n--- out\n{}\n--- err\n{}", ran.out, ran.err);
        ran
    }
}

/// What a command printed.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }
}

/// JSON lines with ids `first..first + rows`; every seventh text holds two terms of [`TERMS`].
pub fn lines(first: usize, rows: usize) -> String {
    let mut text = String::new();
    for id in first..first + rows {
        let words = ["wheat", "rye", "mill", "stone", "flour", "sack", "river", "wheel"];
        let body: Vec<&str> = (0..20 + id % 30).map(|word| words[(id * 31 + word * 7) % words.len()]).collect();
        let flagged = if id % 7 == 0 { "weevil and moth" } else { "nothing" };
        writeln!(text, "{{\"id\": {id}, \"text\": \"note {id}: {} {flagged}\", \"lang\": \"en\"}}", body.join(" "))
            .unwrap();
    }
    text
}

pub const TERMS: &str = "weevil\nmoth\nbeetle\n";

/// A pipeline over `source` that flags, counts and filters, in small splits.
pub fn pipeline(source: &str, sink: &str) -> String {
    format!(
        "name: test\nsource: {{path: \"{source}\", split_size: 100 rows}}\nsteps:\n  - blocklist: {{terms: terms.txt}}\n  - derive: {{characters: character_length(text)}}\n  - filter: {{keep: NOT blocklist, reason: flagged}}\nsink: {{parquet: {{path: \"{sink}\", rejected: true}}}}\n"
    )
}

/// A file as a web server gives it: whole, or a range of it.
pub struct Served(pub String);

impl wiremock::Respond for Served {
    fn respond(&self, request: &wiremock::Request) -> wiremock::ResponseTemplate {
        let (text, length) = (&self.0, self.0.len());
        let range = request.headers.get("range").and_then(|range| range.to_str().ok()?.strip_prefix("bytes="));
        let Some((from, to)) = range.and_then(|range| range.split_once('-')) else {
            return wiremock::ResponseTemplate::new(200)
                .insert_header("etag", "\"aaaa\"")
                .set_body_string(text.clone());
        };
        let (from, end) = match (from.parse::<usize>(), to.parse::<usize>()) {
            (Ok(from), Ok(last)) => (from, length.min(last + 1)),
            (Ok(from), Err(_)) => (from, length),
            (Err(_), last) => (length - length.min(last.unwrap()), length),
        };
        wiremock::ResponseTemplate::new(206)
            .insert_header("etag", "\"aaaa\"")
            .insert_header("content-range", format!("bytes {from}-{}/{length}", end - 1))
            .set_body_string(text[from..end].to_owned())
    }
}

/// Files of a run folder's `data` and `rejected` by split number: what a run gave.
pub fn parts(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut parts = BTreeMap::new();
    for kind in ["data", "rejected", "quarantine"] {
        let Ok(entries) = std::fs::read_dir(folder.join(kind)) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let split = name.split('-').next().unwrap();
            let previous = parts.insert(format!("{kind}/{split}"), std::fs::read(&path).unwrap());
            assert!(previous.is_none(), "two parts of split {split} in {kind}");
        }
    }
    parts
}

/// The first file below a folder whose name or bytes hold `text`.
pub fn holds(folder: &Path, text: &str) -> Option<PathBuf> {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let inside = if path.is_dir() {
            holds(&path, text)
        } else {
            let mut bytes = std::fs::read(&path).unwrap();
            if path.extension().is_some_and(|extension| extension == "parquet") {
                // Columns may be compressed.
                bytes.extend(format!("{:?}", read_parquet(&path)).bytes());
            }
            bytes.windows(text.len()).any(|window| window == text.as_bytes()).then(|| path.clone())
        };
        if inside.is_some() || path.to_string_lossy().contains(text) {
            return inside.or(Some(path));
        }
    }
    None
}

/// Rows of a Parquet file.
pub fn read_parquet(path: &Path) -> Vec<RecordBatch> {
    let file = std::fs::File::open(path).unwrap();
    ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap().map(Result::unwrap).collect()
}

/// Rows of all parts of a kind, in order, as JSON.
pub fn rows(folder: &Path, kind: &str) -> Vec<serde_json::Value> {
    let Ok(entries) = std::fs::read_dir(folder.join(kind)) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut rows = Vec::new();
    for batch in paths.iter().flat_map(|path| read_parquet(path)) {
        let mut writer = arrow_json::LineDelimitedWriter::new(Vec::new());
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
        let bytes = writer.into_inner();
        rows.extend(
            bytes
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
                .map(|line| serde_json::from_slice(line).unwrap()),
        );
    }
    rows
}

/// Larger data, where it is at hand; a test that needs it says that it was skipped otherwise.
pub fn data() -> Option<PathBuf> {
    let folder = std::env::var_os("GRISTMILL_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"), PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: no data at {}", folder.display());
    None
}

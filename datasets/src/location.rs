//! Where a file, a folder or a pattern of files lies.
//!
//! A location is written as people write it (`./dir/**/*.jsonl.zst`, `s3://bucket/key*`, `hf://datasets/org/name@main/x`)
//! and is kept apart into what selects a store and what selects something in it. The second part is verbatim, never
//! percent-encoded, except where the scheme itself says so (`file://`, `http://`): a key may hold any character, and one
//! that comes from a listing must open again.
//!
//! A location may carry credentials (user information, a signed query). They stay inside the value and are used for
//! access; neither `Display` nor `Debug` show them.

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use url::Url;

use crate::stores::redact::{public_query, redact};
use crate::{DatasetError, Result};

const ALLOWED: &str = "allowed are a path on this machine, file://, s3://, gs://, az:// or abfss://, http(s)://, \
                       hf://datasets/<owner>/<name>[@<revision>]/<path>, hf://models/… and memory://";

/// A parsed location. The last part of each kind may hold wildcards; what they mean is up to
/// [`Stores::list`](crate::Stores::list).
///
/// # Example
/// ```
/// use gristmill_datasets::Location;
///
/// let location: Location = "hf://datasets/org/name@~parquet/default/train/*.parquet".parse()?;
/// assert_eq!(location.to_string(), "hf://datasets/org/name@refs%2Fconvert%2Fparquet/default/train/*.parquet");
/// let location: Location = "https://me:secret@host/data.jsonl?X-Amz-Signature=0f".parse()?;
/// assert_eq!(location.to_string(), "https://host/data.jsonl");
/// # Ok::<(), gristmill_datasets::DatasetError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Location {
    /// A path on this machine.
    File {
        /// Absolute, without `.` and `..`.
        path: String,
    },
    /// An object in the memory of this process, for tests.
    Memory {
        /// The key.
        path: String,
    },
    /// An object of Amazon S3 or a compatible service.
    S3 {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
    },
    /// An object of Google Cloud Storage.
    Gcs {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
    },
    /// A blob of Azure Blob Storage or Data Lake Storage.
    Azure {
        /// The storage account, where the location names it; otherwise `AZURE_STORAGE_ACCOUNT_NAME` does.
        account: Option<String>,
        /// The container or file system.
        container: String,
        /// The key.
        key: String,
    },
    /// One file of a web server.
    Http {
        /// The address, with the credentials that were written.
        url: Url,
    },
    /// A repository of the Hugging Face Hub, or files in one.
    Hub(HubLocation),
}

/// A repository of the Hub, a revision and a path in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HubLocation {
    /// What kind of repository.
    pub kind: HubKind,
    /// `owner/name`, or the bare name of an old repository.
    pub repo: String,
    /// Branch, tag, reference or commit; the main branch where absent.
    pub revision: Option<String>,
    /// Path or pattern in the repository; empty for the repository as a whole.
    pub path: String,
}

/// The kinds of repositories of the Hub that hold readable files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HubKind {
    /// A data set.
    Dataset,
    /// A model.
    Model,
}

impl Location {
    /// Reads a location. A path without a scheme is relative to the working directory.
    ///
    /// # Errors
    /// [`DatasetError::Location`] says what is wrong and what is allowed.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.is_empty() {
            return Err(refuse(text, format!("is empty; {ALLOWED}")));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Self::File { path: absolute(text)? });
        };
        match scheme.to_ascii_lowercase().as_str() {
            "file" => parse_file(text, rest),
            "memory" => Ok(Self::Memory { path: rest.trim_start_matches('/').to_owned() }),
            "s3" | "s3a" => {
                bucket_and_key(text, rest, "s3://<bucket>/<key>").map(|(bucket, key)| Self::S3 { bucket, key })
            }
            "gs" => bucket_and_key(text, rest, "gs://<bucket>/<key>").map(|(bucket, key)| Self::Gcs { bucket, key }),
            "az" | "azure" | "abfs" | "abfss" => parse_azure(text, rest),
            "http" | "https" => parse_http(text),
            "hf" => HubLocation::parse(text, rest).map(Self::Hub),
            other => Err(refuse(text, format!("the scheme '{other}' is unknown; {ALLOWED}"))),
        }
    }

    /// The part that may hold wildcards: the path or key.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::File { path } | Self::Memory { path } => path,
            Self::S3 { key, .. } | Self::Gcs { key, .. } | Self::Azure { key, .. } => key,
            Self::Http { url } => url.path(),
            Self::Hub(location) => &location.path,
        }
    }

    /// The same store with another path or key.
    #[must_use]
    pub fn with_path(&self, new_path: &str) -> Self {
        let mut location = self.clone();
        match &mut location {
            Self::File { path } | Self::Memory { path } => new_path.clone_into(path),
            Self::S3 { key, .. } | Self::Gcs { key, .. } | Self::Azure { key, .. } => new_path.clone_into(key),
            Self::Http { url } => url.set_path(new_path),
            Self::Hub(hub) => new_path.clone_into(&mut hub.path),
        }
        location
    }

    /// Whether the location can be written to, as far as its kind goes.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        !matches!(self, Self::Http { .. } | Self::Hub(_))
    }
}

impl FromStr for Location {
    type Err = DatasetError;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path } => write!(formatter, "file://{}", encode_file_path(path)),
            Self::Memory { path } => write!(formatter, "memory:///{path}"),
            Self::S3 { bucket, key } => write!(formatter, "s3://{bucket}/{key}"),
            Self::Gcs { bucket, key } => write!(formatter, "gs://{bucket}/{key}"),
            Self::Azure { account: Some(account), container, key } => {
                write!(formatter, "abfss://{container}@{account}.dfs.core.windows.net/{key}")
            }
            Self::Azure { account: None, container, key } => write!(formatter, "az://{container}/{key}"),
            Self::Http { url } => {
                let mut shown = url.clone();
                // Neither fails for http: such URLs have a host.
                let _ = shown.set_username("");
                let _ = shown.set_password(None);
                shown.set_query(url.query().and_then(public_query).as_deref());
                shown.set_fragment(None);
                write!(formatter, "{shown}")
            }
            Self::Hub(location) => write!(formatter, "{location}"),
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Location({self})")
    }
}

impl HubLocation {
    fn parse(text: &str, rest: &str) -> Result<Self> {
        let allowed = "allowed are hf://datasets/<owner>/<name>[@<revision>][/<path>] and \
                       hf://[models/]<owner>/<name>[@<revision>]/<path>";
        let (kind, rest) = match rest.split_once('/').unwrap_or((rest, "")) {
            ("datasets", rest) => (HubKind::Dataset, rest),
            ("models", rest) => (HubKind::Model, rest),
            ("buckets", _) => {
                return Err(refuse(
                    text,
                    "storage buckets of the Hub are reached through their S3 gateway: set AWS_ENDPOINT_URL to \
                     https://s3.hf.co/<owner> and write s3://<bucket>/<key>"
                        .to_owned(),
                ));
            }
            ("spaces", _) => return Err(refuse(text, format!("a space holds no data; {allowed}"))),
            _ => (HubKind::Model, rest),
        };
        let mut segments = rest.splitn(3, '/');
        let (first, second, tail) =
            (segments.next().unwrap_or_default(), segments.next().unwrap_or_default(), segments.next());
        // Old repositories have one name only; a revision behind the first segment, or nothing behind it, tells them.
        let (repo, after) = if first.contains('@') || second.is_empty() {
            (String::new(), rest)
        } else {
            (format!("{first}/"), &rest[first.len() + 1..])
        };
        let name_end = after.find(['@', '/']).unwrap_or(after.len());
        let (name, after) = after.split_at(name_end);
        let repo = format!("{repo}{name}");
        if tail.is_some_and(|tail| tail.starts_with('/')) {
            return Err(refuse(text, format!("there is an empty part in the path; {allowed}")));
        }
        if !is_repo_name(&repo) {
            return Err(refuse(text, format!("'{}' is no repository name; {allowed}", redact(&repo))));
        }
        let (revision, path) = match after.strip_prefix('@') {
            Some(after) => {
                let (revision, path) = split_revision(after);
                if revision.is_empty() {
                    return Err(refuse(text, format!("there is no revision after '@'; {allowed}")));
                }
                (Some(revision), path)
            }
            None => (None, after),
        };
        Ok(Self { kind, repo, revision, path: path.trim_start_matches('/').to_owned() })
    }

    /// The revision to ask the Hub for.
    #[must_use]
    pub fn revision_or_main(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }
}

impl fmt::Display for HubLocation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "hf://{}/{}", self.kind.plural(), self.repo)?;
        if let Some(revision) = &self.revision {
            write!(formatter, "@{}", revision.replace('/', "%2F"))?;
        }
        if !self.path.is_empty() {
            write!(formatter, "/{}", self.path)?;
        }
        Ok(())
    }
}

impl HubKind {
    /// The name of the kind in addresses and in the local cache: `datasets` or `models`.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::Dataset => "datasets",
            Self::Model => "models",
        }
    }
}

fn refuse(text: &str, message: String) -> DatasetError {
    DatasetError::Location { location: redact(text), message }
}

/// Makes a path absolute and free of `.` and `..`. What comes before a `..` may be a symbolic link, so that part is asked
/// of the file system where it exists.
fn absolute(text: &str) -> Result<String> {
    let expanded = match text.strip_prefix("~/") {
        Some(rest) => match std::env::home_dir() {
            Some(home) => home.join(rest),
            None => return Err(refuse(text, "there is no home folder for '~'".to_owned())),
        },
        None => PathBuf::from(text),
    };
    let path = std::path::absolute(&expanded).map_err(|error| refuse(text, error.to_string()))?;
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                clean = std::fs::canonicalize(&clean).unwrap_or(clean);
                clean.pop();
            }
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    let mut clean = path_text(text, &clean)?;
    // A trailing slash says that a folder is meant.
    if text.ends_with('/') && !clean.ends_with('/') {
        clean.push('/');
    }
    Ok(clean)
}

fn path_text(text: &str, path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| refuse(text, "the path is not valid UTF-8".to_owned()))
}

fn parse_file(text: &str, rest: &str) -> Result<Location> {
    let path = rest.strip_prefix("localhost/").map_or_else(|| rest.to_owned(), |path| format!("/{path}"));
    if !path.starts_with('/') {
        return Err(refuse(text, "a file:// location names an absolute path, as in file:///folder/file".to_owned()));
    }
    let decoded = percent_decode_str(&path)
        .decode_utf8()
        .map_err(|_| refuse(text, "the percent-encoded path is not valid UTF-8".to_owned()))?;
    Ok(Location::File { path: absolute(&decoded)? })
}

/// Percent-encodes what would not survive in a URL; letters of all scripts stay readable.
fn encode_file_path(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len());
    for character in path.chars() {
        if character.is_ascii_control() || matches!(character, '%' | '?' | '#' | ' ') {
            encoded.push_str(&format!("%{:02X}", u32::from(character)));
        } else {
            encoded.push(character);
        }
    }
    encoded
}

fn bucket_and_key(text: &str, rest: &str, form: &str) -> Result<(String, String)> {
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.contains('@') || bucket.contains(':') {
        return Err(refuse(
            text,
            format!("credentials and hosts come from the environment, not from the location; write {form}"),
        ));
    }
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if bucket.is_empty() || !bucket.bytes().all(valid) {
        return Err(refuse(text, format!("'{bucket}' is no bucket name; write {form}")));
    }
    Ok((bucket.to_owned(), key.to_owned()))
}

fn parse_azure(text: &str, rest: &str) -> Result<Location> {
    let form = "write az://<container>/<path> or abfss://<container>@<account>.dfs.core.windows.net/<path>";
    let (authority, key) = rest.split_once('/').unwrap_or((rest, ""));
    let (container, account) = match authority.split_once('@') {
        Some((container, host)) => (container, Some(host.split('.').next().unwrap_or(host).to_owned())),
        None => (authority, None),
    };
    let valid = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'$'))
    };
    if !valid(container) || account.as_deref().is_some_and(|account| !valid(account)) {
        return Err(refuse(text, form.to_owned()));
    }
    Ok(Location::Azure { account, container: container.to_owned(), key: key.to_owned() })
}

fn parse_http(text: &str) -> Result<Location> {
    let url = Url::parse(text).map_err(|error| refuse(text, error.to_string()))?;
    if url.path().ends_with('/') {
        return Err(refuse(text, "names no file of the server, and a web server cannot be listed".to_owned()));
    }
    let written_path = text.split(['?', '#']).next().unwrap_or(text);
    if written_path.contains(['*', '{']) {
        return Err(refuse(
            text,
            "a web server cannot be listed: name each file, or write the addresses into a file and set paths_file (a '*' \
             or '{' that belongs to a name is written as %2A or %7B)"
                .to_owned(),
        ));
    }
    Ok(Location::Http { url })
}

fn is_repo_name(repo: &str) -> bool {
    repo.split('/').all(|part| {
        !part.is_empty()
            && part != "."
            && part != ".."
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
    })
}

/// Splits `<revision>/<path>`. References hold slashes: `refs/convert/<name>` and `refs/pr/<number>` are recognised as
/// they are, others need `%2F` for the slash.
fn split_revision(text: &str) -> (String, &str) {
    let parts: Vec<&str> = text.splitn(4, '/').collect();
    if let ["refs", "convert" | "pr", _, ..] = parts.as_slice() {
        let reference = parts[..3].join("/");
        let path = text.get(reference.len()..).unwrap_or_default();
        return (reference, path);
    }
    let (revision, path) = text.split_once('/').unwrap_or((text, ""));
    let revision = match revision {
        "~parquet" => "refs/convert/parquet".to_owned(),
        other => percent_decode_str(other).decode_utf8_lossy().into_owned(),
    };
    (revision, path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::absolute("/data/a.jsonl", "file:///data/a.jsonl", "/data/a.jsonl")]
    #[case::dots("/data/./b/../a*.jsonl", "file:///data/a*.jsonl", "/data/a*.jsonl")]
    #[case::folder("/data/", "file:///data/", "/data/")]
    #[case::file_url("file:///data/a%20b.jsonl", "file:///data/a%20b.jsonl", "/data/a b.jsonl")]
    #[case::file_host("file://localhost/data/a", "file:///data/a", "/data/a")]
    #[case::file_glob("file:///data/**/[ab].jsonl.zst", "file:///data/**/[ab].jsonl.zst", "/data/**/[ab].jsonl.zst")]
    #[case::percent_in_name("/data/100%.csv", "file:///data/100%25.csv", "/data/100%.csv")]
    #[case::script("/data/文書.csv", "file:///data/文書.csv", "/data/文書.csv")]
    #[case::memory("memory://in/a", "memory:///in/a", "in/a")]
    #[case::s3("s3://bucket/a/b*.parquet", "s3://bucket/a/b*.parquet", "a/b*.parquet")]
    #[case::s3a("s3a://bucket/a", "s3://bucket/a", "a")]
    #[case::s3_raw_key("s3://bucket/a b%20#?.csv", "s3://bucket/a b%20#?.csv", "a b%20#?.csv")]
    #[case::s3_bucket("s3://bucket", "s3://bucket/", "")]
    #[case::gs("gs://bucket/a", "gs://bucket/a", "a")]
    #[case::az("az://files/a", "az://files/a", "a")]
    #[case::abfss("abfss://files@acc.dfs.core.windows.net/a", "abfss://files@acc.dfs.core.windows.net/a", "a")]
    #[case::http("http://host:80/a/b.jsonl?download=true#x", "http://host/a/b.jsonl?download=true", "/a/b.jsonl")]
    #[case::signed("https://u:p@host/a?id=3&X-Amz-Signature=1&X-Amz-Expires=9", "https://host/a?id=3", "/a")]
    #[case::dataset("hf://datasets/o/n", "hf://datasets/o/n", "")]
    #[case::dataset_slash("hf://datasets/o/n/", "hf://datasets/o/n", "")]
    #[case::dataset_glob(
        "hf://datasets/o/n@v1.0/data/*.parquet",
        "hf://datasets/o/n@v1.0/data/*.parquet",
        "data/*.parquet"
    )]
    #[case::parquet(
        "hf://datasets/o/n@~parquet/c/train/0.parquet",
        "hf://datasets/o/n@refs%2Fconvert%2Fparquet/c/train/0.parquet",
        "c/train/0.parquet"
    )]
    #[case::reference("hf://datasets/o/n@refs/pr/12/x@y/z", "hf://datasets/o/n@refs%2Fpr%2F12/x@y/z", "x@y/z")]
    #[case::encoded("hf://datasets/o/n@refs%2Fpr%2F12/z", "hf://datasets/o/n@refs%2Fpr%2F12/z", "z")]
    #[case::legacy("hf://datasets/squad", "hf://datasets/squad", "")]
    #[case::legacy_revision(
        "hf://datasets/squad@main/plain_text/a.parquet",
        "hf://datasets/squad@main/plain_text/a.parquet",
        "plain_text/a.parquet"
    )]
    #[case::model(
        "hf://EleutherAI/gpt-neox-20b/tokenizer.json",
        "hf://models/EleutherAI/gpt-neox-20b/tokenizer.json",
        "tokenizer.json"
    )]
    #[case::model_kind("hf://models/o/n@main/tokenizer.json", "hf://models/o/n@main/tokenizer.json", "tokenizer.json")]
    #[case::spaces_around("  s3://bucket/a  ", "s3://bucket/a", "a")]
    fn reads(#[case] text: &str, #[case] shown: &str, #[case] path: &str) {
        let location = Location::parse(text).unwrap();
        assert_eq!(location.to_string(), shown);
        assert_eq!(location.path(), path);
        let again = Location::parse(shown).unwrap();
        assert_eq!(again.to_string(), shown, "what is shown reads as the same location");
        assert_eq!(again.path(), path);
    }

    #[rstest]
    #[case("", "is empty")]
    #[case("ftp://host/a", "the scheme 'ftp' is unknown; allowed are")]
    #[case("s3:///key", "'' is no bucket name; write s3://<bucket>/<key>")]
    #[case("s3://AKIA:secret@bucket/key", "credentials and hosts come from the environment")]
    #[case("gs://bu*cket/a", "'bu*cket' is no bucket name")]
    #[case("az:///a", "write az://<container>/<path>")]
    #[case("file://data/a", "names an absolute path")]
    #[case("http://host", "names no file")]
    #[case("http://host/folder/", "cannot be listed")]
    #[case("http://host/*.jsonl", "cannot be listed: name each file")]
    #[case("http://host/a{1,2}.jsonl", "written as %2A or %7B")]
    #[case("https://u:secret@ho st/a", "invalid")]
    #[case("hf://datasets", "is no repository name; allowed are hf://datasets/<owner>/<name>")]
    #[case("hf://datasets/o/n@/a", "there is no revision after '@'")]
    #[case("hf://datasets/o/../a", "'o/..' is no repository name")]
    #[case("hf://datasets/o/n//a", "empty part")]
    #[case("hf://spaces/o/n", "a space holds no data")]
    #[case("hf://buckets/o/n", "S3 gateway")]
    fn refuses(#[case] text: &str, #[case] message: &str) {
        let error = Location::parse(text).unwrap_err();
        assert!(matches!(error, DatasetError::Location { .. }));
        assert!(error.to_string().contains(message), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn relative_paths_are_of_the_working_directory() {
        let here = std::env::current_dir().unwrap();
        let location = Location::parse("./dir/**/*.jsonl.zst").unwrap();
        assert_eq!(location.path(), here.join("dir/**/*.jsonl.zst").to_str().unwrap());
        let parent = Location::parse("../x").unwrap();
        assert_eq!(parent.path(), here.canonicalize().unwrap().parent().unwrap().join("x").to_str().unwrap());
    }

    #[cfg(unix)]
    #[test]
    fn parent_of_a_symbolic_link_is_the_parent_of_its_target() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("real/inner")).unwrap();
        std::os::unix::fs::symlink(root.join("real/inner"), root.join("link")).unwrap();
        let location = Location::parse(&format!("{}/link/../a", root.display())).unwrap();
        assert_eq!(location.path(), root.join("real/a").to_str().unwrap());
    }

    #[test]
    fn debug_hides_credentials() {
        let location = Location::parse("https://u:secret@host/a?sig=secret").unwrap();
        assert_eq!(format!("{location:?}"), "Location(https://host/a)");
    }
}

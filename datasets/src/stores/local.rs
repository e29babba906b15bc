//! Listing of folders of this machine.
//!
//! `object_store` can list local folders, but passes over broken links and cannot leave out folders in which nothing
//! matches, so folders are walked here. Links are followed; a link that leads back to a folder on the way to it is not, so
//! a loop ends. What cannot be read is an error: a corpus with a folder missing is not the corpus that was asked for.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::glob::Pattern;
use super::list::{Entry, is_data_file};
use crate::location::Location;
use crate::stores::errors::denied;
use crate::{DatasetError, Result};

/// The files that `pattern` means, in no order. Paths are absolute.
pub(super) fn walk(pattern: &Pattern) -> Result<Vec<Entry>> {
    let root = PathBuf::from(format!("/{}", pattern.root()));
    let mut found = Vec::new();
    let canonical = match fs::canonicalize(&root) {
        Ok(canonical) if canonical.is_dir() => canonical,
        Ok(_) => return Ok(found),
        Err(error) if is_absent(&error) => return Ok(found),
        Err(error) => return Err(failure(&root, &error)),
    };
    let mut waiting = vec![Folder { path: root, chain: vec![canonical] }];
    while let Some(folder) = waiting.pop() {
        let entries = fs::read_dir(&folder.path).map_err(|error| failure(&folder.path, &error))?;
        for entry in entries {
            let entry = entry.map_err(|error| failure(&folder.path, &error))?;
            visit(pattern, &folder, &entry, &mut found, &mut waiting)?;
        }
    }
    Ok(found)
}

/// The file at `path`, or nothing when a folder or nothing is there.
pub(super) fn file(path: &str) -> Result<Option<Entry>> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(None),
        Ok(metadata) if metadata.is_file() => Ok(Some(entry_of(path.to_owned(), &metadata))),
        // A pipe would be waited for without end, and has no size that splits could be cut by.
        Ok(_) => Err(DatasetError::Location {
            location: Location::File { path: path.to_owned() }.to_string(),
            message: "is a pipe, a socket or a device; only files and folders are read".to_owned(),
        }),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(failure(Path::new(path), &error)),
    }
}

/// The names in the deepest folder above `path` that exists, at most `limit`.
pub(super) fn names_beside(path: &str, limit: usize) -> (String, Vec<String>) {
    let existing = Path::new(path).ancestors().skip(1).find(|folder| folder.is_dir());
    let Some(folder) = existing else { return (String::new(), Vec::new()) };
    let folder = folder.display().to_string();
    let names = names_in(&folder, limit);
    (folder, names)
}

/// The names in a folder in order, at most `limit`.
pub(super) fn names_in(folder: &str, limit: usize) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).take(limit).collect();
    names.sort_unstable();
    names
}

struct Folder {
    path: PathBuf,
    /// The real paths of the folders from which links led here, and of this folder.
    chain: Vec<PathBuf>,
}

fn visit(
    pattern: &Pattern,
    folder: &Folder,
    entry: &fs::DirEntry,
    found: &mut Vec<Entry>,
    waiting: &mut Vec<Folder>,
) -> Result<()> {
    let path = entry.path();
    let name = entry.file_name();
    let Some(text) = path.to_str() else {
        return Err(DatasetError::Location {
            location: path.display().to_string(),
            message: "the name is not valid UTF-8".to_owned(),
        });
    };
    let kind = entry.file_type().map_err(|error| failure(&path, &error))?;
    if kind.is_dir() {
        if pattern.may_match_below(text) {
            let mut chain = folder.chain.clone();
            if let Some(current) = chain.last_mut() {
                current.push(&name);
            }
            waiting.push(Folder { path, chain });
        }
        return Ok(());
    }
    let is_wanted = pattern.matches(text);
    if kind.is_file() {
        if is_wanted {
            let metadata = entry.metadata().map_err(|error| failure(&path, &error))?;
            found.push(entry_of(text.to_owned(), &metadata));
        }
        return Ok(());
    }
    if !is_wanted && !pattern.may_match_below(text) {
        return Ok(());
    }
    // A link, or something that is neither file nor folder.
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => {
            if !pattern.may_match_below(text) {
                return Ok(());
            }
            let target = fs::canonicalize(&path).map_err(|error| failure(&path, &error))?;
            if folder.chain.iter().any(|visited| visited.starts_with(&target)) {
                tracing::warn!(link = text, "leads back to a folder on the way to it and is not followed");
                return Ok(());
            }
            let mut chain = folder.chain.clone();
            chain.push(target);
            waiting.push(Folder { path, chain });
            Ok(())
        }
        Ok(metadata) if metadata.is_file() && is_wanted => {
            found.push(entry_of(text.to_owned(), &metadata));
            Ok(())
        }
        Ok(_) => Ok(()),
        Err(error) if is_wanted && (!pattern.is_whole_folder() || is_data_file(text)) => Err(failure(&path, &error)),
        Err(_) => Ok(()),
    }
}

fn entry_of(path: String, metadata: &Metadata) -> Entry {
    let modified_ms = metadata.modified().ok().map(|time| match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
    });
    Entry { path, size: metadata.len(), etag: None, version: None, modified_ms }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn failure(path: &Path, error: &io::Error) -> DatasetError {
    let location = Location::File { path: path.display().to_string() }.to_string();
    match error.kind() {
        io::ErrorKind::PermissionDenied => denied(location, &error.to_string()),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            let is_link = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
            DatasetError::NotFound {
                location,
                hint: is_link.then(|| "it is a link to something that does not exist".to_owned()),
            }
        }
        _ => DatasetError::Store { location, message: error.to_string() },
    }
}

#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(root: &Path, pattern: &str) -> Vec<String> {
        let pattern = Pattern::new(&format!("{}/{pattern}", root.display())).unwrap();
        let mut names: Vec<String> = walk(&pattern)
            .unwrap()
            .into_iter()
            .map(|entry| Path::new(&entry.path).strip_prefix(root).unwrap().display().to_string())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn loops_of_links_end() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("a/inner")).unwrap();
        fs::create_dir_all(root.join("b")).unwrap();
        fs::write(root.join("a/x.csv"), "x").unwrap();
        fs::write(root.join("b/y.csv"), "y").unwrap();
        symlink(root.join("a"), root.join("a/inner/up")).unwrap();
        symlink(root.join("b"), root.join("a/to_b")).unwrap();
        symlink(root.join("a"), root.join("b/to_a")).unwrap();
        symlink(root.join("self"), root.join("self")).unwrap();
        let found = names(root, "**/*.csv");
        assert_eq!(found, ["a/to_b/y.csv", "a/x.csv", "b/to_a/x.csv", "b/y.csv"]);
    }

    #[test]
    fn a_broken_link_to_data_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("x.csv"), "x").unwrap();
        symlink("nowhere", folder.path().join("note.txt")).unwrap();
        assert_eq!(names(folder.path(), "**"), ["x.csv"]);
        symlink("nowhere", folder.path().join("y.csv")).unwrap();
        for pattern in ["**", "*.csv"] {
            let pattern = Pattern::new(&format!("{}/{pattern}", folder.path().display())).unwrap();
            let error = walk(&pattern).unwrap_err().to_string();
            assert!(error.contains("y.csv") && error.contains("link"), "{error}");
        }
    }

    #[test]
    fn many_files_list_quickly() {
        let folder = tempfile::tempdir().unwrap();
        for index in 0..20 {
            fs::create_dir(folder.path().join(format!("d{index}"))).unwrap();
            for file in 0..500 {
                fs::write(folder.path().join(format!("d{index}/{file}.jsonl")), "").unwrap();
            }
        }
        let begin = std::time::Instant::now();
        assert_eq!(names(folder.path(), "**/*.jsonl").len(), 10_000);
        assert!(begin.elapsed().as_secs() < 5, "{:?}", begin.elapsed());
    }
}

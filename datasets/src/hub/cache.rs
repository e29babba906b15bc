//! The folder in which the `huggingface_hub` library keeps downloaded files.
//!
//! `datasets--<owner>--<name>/refs/<revision>` holds a commit, `snapshots/<commit>/<path>` is a link to `../../blobs/<tag>`.
//! It is read and never written: what streams through here does not fill the disk.

use std::fs;
use std::path::{Path, PathBuf};

use super::tree::TreeEntry;
use crate::location::{HubKind, HubLocation};
use crate::stores::errors::denied;
use crate::{DatasetError, Result};

/// The folder of one repository in the cache.
#[derive(Clone, Debug)]
pub(crate) struct CachedRepo(PathBuf);

impl CachedRepo {
    pub(crate) fn new(cache: &Path, kind: HubKind, repo: &str) -> Self {
        Self(cache.join(format!("{}--{}", kind.plural(), repo.replace('/', "--"))))
    }

    /// The commit that a revision was when it was last downloaded.
    pub(crate) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return self.0.join("snapshots").join(revision).is_dir().then(|| revision.to_owned());
        }
        if revision.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return None;
        }
        let commit = fs::read_to_string(self.0.join("refs").join(revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// A downloaded file and its tag. `path` was checked to stay within the repository.
    pub(crate) fn file(&self, commit: &str, path: &str) -> Option<(PathBuf, Option<String>)> {
        let file = self.0.join("snapshots").join(commit).join(path);
        let tag = fs::read_link(&file)
            .ok()
            .and_then(|blob| Some(blob.file_name()?.to_str()?.to_owned()))
            .filter(|tag| !tag.is_empty());
        file.is_file().then_some((file, tag))
    }

    /// All downloaded files of a commit.
    pub(crate) fn tree(&self, commit: &str) -> Result<Vec<TreeEntry>> {
        let root = self.0.join("snapshots").join(commit);
        let mut entries = Vec::new();
        let mut waiting = vec![root.clone()];
        while let Some(folder) = waiting.pop() {
            let names = fs::read_dir(&folder).map_err(|error| unreadable(&folder, &error))?;
            for name in names {
                let path = name.map_err(|error| unreadable(&folder, &error))?.path();
                // Only files are links in a snapshot, so a loop cannot come up through folders.
                if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
                    waiting.push(path);
                    continue;
                }
                let metadata = fs::metadata(&path).map_err(|error| unreadable(&path, &error))?;
                let Some(text) = path.strip_prefix(&root).ok().and_then(Path::to_str) else { continue };
                let tag = self.file(commit, text).and_then(|(_, tag)| tag);
                entries.push(TreeEntry { path: text.to_owned(), size: metadata.len(), tag, is_folder: false });
            }
        }
        Ok(entries)
    }
}

/// Whether a revision is a commit already and not a name that moves.
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'))
}

/// What is not in the cache while nothing else may be read.
pub(crate) fn offline(location: &HubLocation) -> DatasetError {
    DatasetError::NotFound {
        location: location.to_string(),
        hint: Some("HF_HUB_OFFLINE is set and the local cache of the Hub does not hold it".to_owned()),
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> DatasetError {
    let location = path.display().to_string();
    if error.kind() == std::io::ErrorKind::PermissionDenied {
        return denied(location, &error.to_string());
    }
    DatasetError::Store { location, message: error.to_string() }
}

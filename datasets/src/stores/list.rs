//! From patterns to files.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use super::Stores;
use super::errors::store_error;
use super::glob::{Pattern, is_hidden};
use super::local;
use super::redact::redact;
use crate::formats::is_dataset_metadata;
use crate::location::Location;
use crate::{Compression, DatasetError, Format, Result, SourceFile};

/// How many patterns are resolved at the same time.
const PATTERNS_AT_ONCE: usize = 16;
/// How many folders of a store are listed at the same time.
const FOLDERS_AT_ONCE: usize = 16;
/// How many names are looked at for a hint.
const NAMES_FOR_HINT: usize = 2_000;

/// What [`Stores::list`] takes beside the patterns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// Configuration of a data set of the Hub that is given by name alone.
    pub config: Option<String>,
    /// Split of such a data set.
    pub split: Option<String>,
    /// Location of a text file with one more pattern a line. Empty lines and lines that begin with `#` are passed over.
    /// Relative paths are relative to the working directory, or to the folder of the file where that lies elsewhere.
    pub paths_file: Option<String>,
}

/// A file that a pattern stands for, as it was when it was listed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FoundFile {
    /// Absolute location without credentials; [`Stores::open`] takes it.
    pub url: String,
    /// Size in bytes.
    pub size: u64,
    /// Entity tag, where the store has one.
    pub etag: Option<String>,
    /// Version id, where the listing gives one.
    pub version: Option<String>,
    /// Time of the last change in milliseconds since 1970, where nothing better identifies the content.
    pub modified_ms: Option<i64>,
}

impl FoundFile {
    /// The name of the file, without its folder and query.
    #[must_use]
    pub fn name(&self) -> &str {
        let path =
            if self.url.starts_with("http") { self.url.split('?').next().unwrap_or_default() } else { &self.url };
        path.rsplit('/').next().unwrap_or_default()
    }

    /// The same file with how it is to be read.
    #[must_use]
    pub fn into_source(self, format: Format, compression: Compression) -> SourceFile {
        SourceFile {
            url: self.url,
            size: self.size,
            etag: self.etag,
            version: self.version,
            modified_ms: self.modified_ms,
            format,
            compression,
        }
    }
}

/// A file in one store.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Path in the store, verbatim.
    pub(crate) path: String,
    pub(crate) size: u64,
    pub(crate) etag: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) modified_ms: Option<i64>,
}

impl Entry {
    pub(crate) fn found(self, location: &Location) -> FoundFile {
        FoundFile {
            url: location.with_path(&self.path).to_string(),
            size: self.size,
            etag: self.etag,
            version: self.version,
            modified_ms: self.modified_ms,
        }
    }
}

impl Stores {
    /// Expands patterns to files.
    ///
    /// A pattern is a location whose path may hold `*`, `?`, `[…]`, `{a,b}`, `{00..31}` and `**`. A folder, or a pattern that
    /// ends in `**`, stands for all files of known formats below it. Hidden files, folders that begin with `_` and the
    /// metadata files that the `datasets` library saves are passed over unless they are spelt out. A data set of the Hub by
    /// name alone stands for the files of one configuration and split, see [`Stores::hub_files`].
    ///
    /// The order is that of the patterns, and by the bytes of the path within each; a file that was there before is left out.
    ///
    /// # Errors
    /// [`DatasetError::NotFound`] when a pattern stands for nothing, with the nearest name; [`DatasetError::Setting`] when
    /// `config` or `split` is given but no pattern is a data set by name.
    pub async fn list(&self, patterns: &[String], options: &ListOptions) -> Result<Vec<FoundFile>> {
        let mut patterns = patterns.to_vec();
        if let Some(paths_file) = &options.paths_file {
            patterns.extend(self.read_paths_file(paths_file).await?);
        }
        if patterns.is_empty() {
            return Err(DatasetError::Setting { key: "path".to_owned(), message: "names no file".to_owned() });
        }
        let locations = patterns.iter().map(|pattern| Location::parse(pattern)).collect::<Result<Vec<_>>>()?;
        check_selection(&locations, options)?;
        let lists: Vec<Vec<FoundFile>> = futures::stream::iter(locations)
            .map(|location| async move { self.list_one(&location, options).await })
            .buffered(PATTERNS_AT_ONCE)
            .try_collect()
            .await?;
        let mut seen = HashSet::new();
        Ok(lists.into_iter().flatten().filter(|file| seen.insert(file.url.clone())).collect())
    }

    /// The one file at a location, whose letters stand for themselves.
    ///
    /// # Errors
    /// [`DatasetError::NotFound`] when there is none.
    pub async fn find(&self, url: &str) -> Result<FoundFile> {
        let location = Location::parse(url)?;
        let absent = || DatasetError::NotFound { location: location.to_string(), hint: None };
        match &location {
            Location::File { path } => {
                let path = path.clone();
                let file = tokio::task::spawn_blocking(move || local::file(&path)).await.map_err(|error| {
                    DatasetError::Store { location: location.to_string(), message: error.to_string() }
                })??;
                file.map(|file| file.found(&location)).ok_or_else(absent)
            }
            #[cfg(feature = "http")]
            Location::Http { .. } => {
                self.list_one(&location, &ListOptions::default()).await?.into_iter().next().ok_or_else(absent)
            }
            #[cfg(feature = "hf")]
            Location::Hub(hub) => self.find_on_hub(hub).await,
            _ => {
                let (store, path) = self.open_location(&location)?;
                let meta = store.head(&path).await.map_err(|error| store_error(&location.to_string(), error))?;
                Ok(entry_of(&meta).found(&location))
            }
        }
    }

    async fn read_paths_file(&self, paths_file: &str) -> Result<Vec<String>> {
        let location = Location::parse(paths_file)?;
        let bytes = self.read_all(paths_file).await?;
        let text = std::str::from_utf8(&bytes).map_err(|error| DatasetError::Malformed {
            location: location.to_string(),
            message: format!("is not UTF-8 text at byte {}", error.valid_up_to()),
        })?;
        let folder = match &location {
            Location::File { .. } => None,
            other => other.to_string().rsplit_once('/').map(|(folder, _)| folder.to_owned()),
        };
        let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim).zip(1..);
        let mut paths: Vec<String> = Vec::new();
        for (line, number) in lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#')) {
            match &folder {
                // Whoever writes a list elsewhere has no say in what is read of this machine.
                Some(_) if leads_out(line) => {
                    let message = format!(
                        "line {number}: '{line}' leads out of the folder of the list; a list that does not lie on this \
                         machine names files below its folder, or locations with a scheme such as s3://",
                    );
                    return Err(DatasetError::Malformed { location: location.to_string(), message: redact(&message) });
                }
                Some(folder) if !line.contains("://") => paths.push(format!("{folder}/{line}")),
                _ => paths.push(line.to_owned()),
            }
        }
        if paths.is_empty() {
            return Err(DatasetError::Malformed {
                location: location.to_string(),
                message: "holds no path; one a line is expected".to_owned(),
            });
        }
        Ok(paths)
    }

    async fn list_one(&self, location: &Location, options: &ListOptions) -> Result<Vec<FoundFile>> {
        match location {
            Location::File { path } => {
                let (location, path) = (location.clone(), path.clone());
                tokio::task::spawn_blocking(move || list_local(&location, &path))
                    .await
                    .map_err(|error| DatasetError::Store { location: "file".to_owned(), message: error.to_string() })?
            }
            #[cfg(feature = "http")]
            Location::Http { url } => {
                let (store, path) = self.open_location(location)?;
                let meta = super::http::head(store.as_ref(), &path)
                    .await
                    .map_err(|error| store_error(&location.to_string(), error))?;
                let changed = meta.last_modified.timestamp_millis();
                // Zero stands for a server that does not say when.
                let modified_ms = (meta.e_tag.is_none() && changed != 0).then_some(changed);
                let entry = Entry { path: url.path().to_owned(), modified_ms, ..entry_of(&meta) };
                Ok(vec![entry.found(location)])
            }
            #[cfg(feature = "hf")]
            Location::Hub(hub) => self.list_hub(hub, options).await,
            _ => {
                let _ = options;
                let (store, _) = self.open_location(&location.with_path(""))?;
                list_store(location, store).await
            }
        }
    }
}

/// Whether a line of a list names a file of this machine, or climbs up from the folder of the list.
fn leads_out(line: &str) -> bool {
    let scheme = line.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    match scheme.as_deref() {
        Some(scheme) => scheme == "file",
        None => line.starts_with(['/', '~']) || line.split(['/', '\\']).any(|part| part == ".."),
    }
}

fn check_selection(locations: &[Location], options: &ListOptions) -> Result<()> {
    let by_name = |location: &Location| matches!(location, Location::Hub(hub) if hub.path.is_empty());
    let key = match (&options.config, &options.split) {
        (Some(_), _) => "config",
        (_, Some(_)) => "split",
        _ => return Ok(()),
    };
    if locations.iter().any(by_name) {
        return Ok(());
    }
    Err(DatasetError::Setting {
        key: key.to_owned(),
        message:
            "selects from a data set that is named as a whole (hf://datasets/<owner>/<name>); a path says itself which \
                  files it means"
                .to_owned(),
    })
}

fn list_local(location: &Location, path: &str) -> Result<Vec<FoundFile>> {
    if !path.ends_with('/')
        && let Some(file) = local::file(path)?
    {
        return Ok(vec![file.found(location)]);
    }
    // A folder whose name holds letters of patterns is meant as it is written.
    let pattern = if std::path::Path::new(path).is_dir() { folder_of(path) } else { pattern_of(location)? };
    let entries = select(local::walk(&pattern)?, &pattern);
    if entries.is_empty() {
        if std::path::Path::new(path).is_dir() {
            return Err(no_data_below(location, &local::names_in(path, NAMES_FOR_HINT)));
        }
        let (folder, names) = local::names_beside(path, NAMES_FOR_HINT);
        return Err(nothing(location, &folder, &names));
    }
    Ok(entries.into_iter().map(|entry| entry.found(location)).collect())
}

async fn list_store(location: &Location, store: Arc<dyn ObjectStore>) -> Result<Vec<FoundFile>> {
    let key = location.path();
    let failure = |error| store_error(&location.to_string(), error);
    let mut pattern = pattern_of(location)?;
    if let Some(literal) = pattern.literal() {
        pattern = folder_of(&literal);
        if !key.ends_with('/') && !literal.is_empty() {
            // A store has no folders, so the name tells what to look for first.
            let looks_like_folder = !is_data_file(&literal);
            if looks_like_folder {
                let entries = select(walk_store(&pattern, &store).await.map_err(failure)?, &pattern);
                if !entries.is_empty() {
                    return Ok(entries.into_iter().map(|entry| entry.found(location)).collect());
                }
            }
            let path = object_store::path::Path::parse(&literal).map_err(|error| failure(error.into()))?;
            match store.head(&path).await {
                Ok(meta) => return Ok(vec![entry_of(&meta).found(location)]),
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(failure(error)),
            }
        }
    }
    let entries = select(walk_store(&pattern, &store).await.map_err(failure)?, &pattern);
    if entries.is_empty() {
        let root = pattern.root();
        let parent = root.rsplit_once('/').map_or("", |(parent, _)| parent).to_owned();
        let mut folder = root;
        let mut names = names_in(&store, &folder).await;
        if pattern.is_whole_folder() && !names.is_empty() {
            return Err(no_data_below(location, &names));
        }
        if names.is_empty() {
            names = names_in(&store, &parent).await;
            folder = parent;
        }
        return Err(nothing(location, &folder, &names));
    }
    Ok(entries.into_iter().map(|entry| entry.found(location)).collect())
}

/// Lists folder by folder where the pattern says which, and everything below at once where it does not.
async fn walk_store(pattern: &Pattern, store: &Arc<dyn ObjectStore>) -> object_store::Result<Vec<Entry>> {
    let mut found = Vec::new();
    let mut waiting = VecDeque::from([pattern.root()]);
    while !waiting.is_empty() {
        let (deep, flat): (Vec<String>, Vec<String>) =
            waiting.drain(..).partition(|folder| pattern.any_depth_below(folder));
        for folder in deep {
            let prefix = object_store::path::Path::parse(&folder)?;
            let mut metas = store.list(Some(&prefix));
            while let Some(meta) = metas.try_next().await? {
                if pattern.matches(meta.location.as_ref()) {
                    found.push(entry_of(&meta));
                }
            }
        }
        let listings: Vec<_> = futures::stream::iter(flat)
            .map(|folder| async move {
                let prefix = object_store::path::Path::parse(&folder)?;
                store.list_with_delimiter(Some(&prefix)).await
            })
            .buffered(FOLDERS_AT_ONCE)
            .try_collect()
            .await?;
        for listing in listings {
            found.extend(listing.objects.iter().filter(|meta| pattern.matches(meta.location.as_ref())).map(entry_of));
            let folders = listing.common_prefixes.into_iter().map(String::from);
            waiting.extend(folders.filter(|folder| pattern.may_match_below(folder)));
        }
    }
    Ok(found)
}

async fn names_in(store: &Arc<dyn ObjectStore>, folder: &str) -> Vec<String> {
    let Ok(prefix) = object_store::path::Path::parse(folder) else { return Vec::new() };
    let Ok(listing) = store.list_with_delimiter(Some(&prefix)).await else { return Vec::new() };
    let objects = listing.objects.iter().filter_map(|meta| meta.location.filename());
    let folders = listing.common_prefixes.iter().filter_map(|folder| folder.filename());
    objects.chain(folders).take(NAMES_FOR_HINT).map(str::to_owned).collect()
}

fn entry_of(meta: &ObjectMeta) -> Entry {
    Entry {
        path: meta.location.to_string(),
        size: meta.size,
        etag: meta.e_tag.clone(),
        version: meta.version.clone(),
        modified_ms: None,
    }
}

/// The pattern in a location.
pub(crate) fn pattern_of(location: &Location) -> Result<Pattern> {
    Pattern::new(location.path()).map_err(|message| DatasetError::Location { location: location.to_string(), message })
}

/// The pattern of everything below a folder.
pub(crate) fn folder_of(path: &str) -> Pattern {
    Pattern::below(path)
}

/// Whether the name is that of a file of rows.
pub(crate) fn is_data_file(path: &str) -> bool {
    Format::of_name(path).is_some()
}

/// Keeps what a pattern means and sorts it by the bytes of the paths.
pub(crate) fn select(entries: Vec<Entry>, pattern: &Pattern) -> Vec<Entry> {
    let mut kept: Vec<Entry> = entries
        .into_iter()
        .filter(|entry| pattern.matches(&entry.path))
        .filter(|entry| !pattern.is_whole_folder() || is_data_file(&entry.path))
        .collect();
    if !pattern.names_file() {
        leave_out_metadata(&mut kept);
    }
    kept.sort_by(|left, right| left.path.as_bytes().cmp(right.path.as_bytes()));
    kept
}

/// Leaves out what the `datasets` library writes beside saved rows. `state.json` could be anything, so it goes only where
/// `dataset_info.json` lies beside it.
fn leave_out_metadata(entries: &mut Vec<Entry>) {
    let parts = |entry: &Entry| match entry.path.rsplit_once('/') {
        Some((folder, name)) => (folder.to_owned(), name.to_owned()),
        None => (String::new(), entry.path.clone()),
    };
    let saved: HashSet<String> =
        entries.iter().map(parts).filter(|(_, name)| name == "dataset_info.json").map(|(folder, _)| folder).collect();
    entries.retain(|entry| {
        let (folder, name) = parts(entry);
        !is_dataset_metadata(&name) || (name == "state.json" && !saved.contains(&folder))
    });
}

/// The error for a pattern that stands for nothing, with what is there instead.
pub(crate) fn nothing(location: &Location, folder: &str, names: &[String]) -> DatasetError {
    let wanted = location.path().trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let visible: Vec<&String> = names.iter().filter(|name| !is_hidden(name, true)).collect();
    let nearest = visible
        .iter()
        .map(|name| (strsim::normalized_damerau_levenshtein(wanted, name), *name))
        .max_by(|left, right| left.0.total_cmp(&right.0));
    let shown = location.with_path(folder).to_string();
    let is_literal = !location.path().contains(['*', '?', '[', '{']);
    let hint = match nearest {
        Some((likeness, name)) if is_literal && likeness > 0.6 => {
            format!("did you mean '{name}' in '{shown}'?")
        }
        Some((_, name)) => {
            let data = visible.iter().filter(|name| is_data_file(name)).count();
            let known = if data == 0 { "none".to_owned() } else { data.to_string() };
            let names = counted_names(visible.len());
            format!("'{shown}' holds {names}, {known} of them of files of known formats, such as '{name}'")
        }
        None if folder.is_empty() => "nothing is there".to_owned(),
        None => format!("'{shown}' is empty"),
    };
    DatasetError::NotFound { location: redact(&location.to_string()), hint: Some(hint) }
}

/// The error for a folder that is there and holds no file of rows, at any depth.
fn no_data_below(location: &Location, names: &[String]) -> DatasetError {
    let visible: Vec<&String> = names.iter().filter(|name| !is_hidden(name, true)).collect();
    let there = match visible.first() {
        Some(name) => format!("it has {}, such as '{name}'", counted_names(visible.len())),
        None => "it is empty".to_owned(),
    };
    DatasetError::NoData { location: redact(&location.to_string()), hint: there }
}

fn counted_names(count: usize) -> String {
    if count == 1 { "1 name".to_owned() } else { format!("{count} names") }
}

//! From a location on the Hub to files: by pattern, or by configuration and split.

use std::sync::Arc;

use super::card::{self, Config};
use super::repo::Repo;
use super::splits::{converted_splits, usual_splits};
use super::tree::TreeEntry;
use crate::location::{HubKind, HubLocation, Location};
use crate::stores::{Entry, FoundFile, ListOptions, Pattern, Stores, folder_of, nothing, pattern_of, select};
use crate::{DatasetError, Result};

const CARD: &str = "README.md";
const CONVERTED: &str = "refs/convert/parquet";

impl Stores {
    /// The files of one configuration and split of a data set of the Hub.
    ///
    /// They are those that the card of the data set declares (`configs` in the head of its `README.md`), else those that the
    /// usual names of files and folders tell, else those of the copy that the Hub converted to Parquet. `dataset` is
    /// `owner/name`; several splits are joined by `+`. Without a configuration the default one is taken, without a
    /// split the only one or `train`. The addresses of the files name the commit.
    ///
    /// # Errors
    /// [`DatasetError::Setting`] for a configuration or split that does not exist or is not clear, listing those there are;
    /// [`DatasetError::NotFound`] when there is no data set or no file in it.
    pub async fn hub_files(
        &self,
        dataset: &str,
        revision: Option<&str>,
        config: Option<&str>,
        split: Option<&str>,
    ) -> Result<Vec<FoundFile>> {
        let location = HubLocation {
            kind: HubKind::Dataset,
            repo: dataset.to_owned(),
            revision: revision.map(str::to_owned),
            path: String::new(),
        };
        // Reading what is shown checks the name.
        let Location::Hub(location) = Location::parse(&location.to_string())? else {
            return Err(DatasetError::Location {
                location: location.to_string(),
                message: "is no data set".to_owned(),
            });
        };
        let repo = self.hub()?.repo(&location);
        let tree = repo.tree("", true).await?;
        let declared = self.card(&location, &tree).await?;
        let chosen = choose_config(&location, &declared, config)?;
        let splits = match &chosen {
            Chosen::Declared(config) if !config.splits.is_empty() => declared_splits(&location, &tree, config)?,
            Chosen::Declared(config) => found_splits(&tree, &config.folder),
            Chosen::Undeclared(None) => found_splits(&tree, ""),
            // Only the converted copy can tell configurations apart that the card does not declare.
            Chosen::Undeclared(Some(_)) => Vec::new(),
        };
        if splits.iter().any(|(_, files)| !files.is_empty()) {
            let files = choose_split(&location, splits, split)?;
            return found(&repo, &location, files).await;
        }
        let is_main = location.revision.as_deref().is_none_or(|revision| revision == "main");
        if is_main {
            let copy = HubLocation { revision: Some(CONVERTED.to_owned()), ..location.clone() };
            let name = match &chosen {
                Chosen::Declared(config) => Some(config.name.as_str()),
                Chosen::Undeclared(name) => name.as_deref(),
            };
            match self.converted_files(&copy, name, split).await {
                Err(DatasetError::NotFound { .. }) => {}
                other => return other,
            }
        }
        if let Chosen::Undeclared(Some(name)) = chosen {
            return Err(DatasetError::Setting {
                key: "config".to_owned(),
                message: format!(
                    "the card of '{location}' declares no configurations, so there is no '{name}'; leave it out"
                ),
            });
        }
        Err(DatasetError::NotFound {
            location: location.to_string(),
            hint: Some(
                "the data set exists, but holds no file of a known format and has no converted copy; formats: parquet, \
                 jsonl, json, csv, tsv, arrow"
                    .to_owned(),
            ),
        })
    }

    async fn card(&self, location: &HubLocation, tree: &[TreeEntry]) -> Result<Vec<Config>> {
        if !tree.iter().any(|entry| entry.path == CARD) {
            return Ok(Vec::new());
        }
        let card = HubLocation { path: CARD.to_owned(), ..location.clone() }.to_string();
        let bytes = self.read_all(&card).await?;
        card::configs(&String::from_utf8_lossy(&bytes)).map_err(|message| DatasetError::Malformed {
            location: card,
            message: format!("the configurations in the head cannot be read: {message}; name the files by their paths"),
        })
    }

    async fn converted_files(
        &self,
        location: &HubLocation,
        config: Option<&str>,
        split: Option<&str>,
    ) -> Result<Vec<FoundFile>> {
        let repo = self.hub()?.repo(location);
        let tree = repo.tree("", true).await?;
        let converted = converted_splits(&tree);
        let mut configs: Vec<&str> = converted.iter().map(|(config, _, _)| config.as_str()).collect();
        configs.dedup();
        let config = match (config, configs.as_slice()) {
            (Some(wanted), _) => pick(location, "config", wanted, &configs)?,
            (None, []) => return Err(DatasetError::NotFound { location: location.to_string(), hint: None }),
            (None, [only]) => *only,
            (None, several) if several.contains(&"default") => "default",
            (None, several) => return Err(unclear(location, "config", several)),
        };
        let splits: Vec<(String, Vec<Entry>)> = converted
            .iter()
            .filter(|(of, _, _)| of == config)
            .map(|(_, split, files)| (split.clone(), files.iter().map(|file| entry(file)).collect()))
            .collect();
        // The Hub converts the first gigabytes of a large data set only and says so in the name of the folder. A part is not
        // what was asked for.
        let partial = splits.iter().find(|(name, _)| name.starts_with("partial-"));
        if let (Some((name, _)), false) = (partial, split.is_some_and(|split| split.starts_with("partial-"))) {
            return Err(DatasetError::Setting {
                key: "split".to_owned(),
                message: format!(
                    "the Hub converted only the first part of '{location}'; for that part write split '{name}'"
                ),
            });
        }
        let files = choose_split(location, splits, split)?;
        found(&repo, location, files).await
    }

    /// The files that a location on the Hub means.
    pub(crate) async fn list_hub(&self, location: &HubLocation, options: &ListOptions) -> Result<Vec<FoundFile>> {
        if location.path.is_empty() {
            if location.kind == HubKind::Model {
                return Err(DatasetError::Location {
                    location: location.to_string(),
                    message: "names a model as a whole; name a file in it, or write hf://datasets/… for a data set"
                        .to_owned(),
                });
            }
            // A reference to the converted copy holds one folder for each configuration.
            if location.revision.as_deref() == Some(CONVERTED) {
                return self.converted_files(location, options.config.as_deref(), options.split.as_deref()).await;
            }
            let (config, split) = (options.config.as_deref(), options.split.as_deref());
            return self.hub_files(&location.repo, location.revision.as_deref(), config, split).await;
        }
        let repo = self.hub()?.repo(location);
        let whole = Location::Hub(location.clone());
        let mut pattern = pattern_of(&whole)?;
        if let Some(literal) = pattern.literal() {
            let folder = literal.rsplit_once('/').map_or("", |(folder, _)| folder);
            let tree = repo.tree(folder, false).await?;
            let named = tree.iter().find(|entry| entry.path == literal && !entry.is_folder);
            if let Some(file) = named.filter(|_| !location.path.ends_with('/')) {
                return found(&repo, location, vec![entry(file)]).await;
            }
            pattern = folder_of(&literal);
        }
        let root = pattern.root();
        let tree = repo.tree(&root, !pattern.is_flat()).await?;
        let files = select(entries(&tree), &pattern);
        if files.is_empty() {
            return Err(self.nothing_on_hub(&repo, &whole, &pattern).await);
        }
        found(&repo, location, files).await
    }

    /// The one file at a location.
    pub(crate) async fn find_on_hub(&self, location: &HubLocation) -> Result<FoundFile> {
        let repo = self.hub()?.repo(location);
        let (size, tag) = match repo.downloaded(&location.path).await? {
            Some((file, tag)) => (std::fs::metadata(file).map(|metadata| metadata.len()).ok(), tag),
            None => {
                let content = repo.describe(&location.path).await?;
                (content.size, content.tag)
            }
        };
        let absent = || DatasetError::NotFound { location: location.to_string(), hint: None };
        let size = size.ok_or_else(absent)?;
        let entry = Entry { path: location.path.clone(), size, etag: tag, version: None, modified_ms: None };
        found(&repo, location, vec![entry]).await?.into_iter().next().ok_or_else(absent)
    }

    async fn nothing_on_hub(&self, repo: &Arc<Repo>, location: &Location, pattern: &Pattern) -> DatasetError {
        let mut folder = pattern.root();
        loop {
            let tree = match repo.tree(&folder, false).await {
                Ok(tree) => tree,
                Err(error) => return error,
            };
            let start = if folder.is_empty() { 0 } else { folder.len() + 1 };
            let mut names: Vec<String> = tree
                .iter()
                .filter_map(|entry| entry.path.get(start..))
                .map(|path| path.split('/').next().unwrap_or(path).to_owned())
                .collect();
            names.dedup();
            if !names.is_empty() || folder.is_empty() {
                return nothing(location, &folder, &names);
            }
            folder = folder.rsplit_once('/').map(|(parent, _)| parent.to_owned()).unwrap_or_default();
        }
    }
}

enum Chosen {
    Declared(Config),
    /// The card declares none; the name is what was asked for.
    Undeclared(Option<String>),
}

fn choose_config(location: &HubLocation, declared: &[Config], wanted: Option<&str>) -> Result<Chosen> {
    let names: Vec<&str> = declared.iter().map(|config| config.name.as_str()).collect();
    let chosen = match (wanted, declared) {
        (_, []) => {
            return Ok(Chosen::Undeclared(wanted.filter(|wanted| *wanted != "default").map(str::to_owned)));
        }
        (Some(wanted), _) => {
            let name = pick(location, "config", wanted, &names)?;
            declared.iter().find(|config| config.name == name)
        }
        (None, [only]) => Some(only),
        (None, several) => several
            .iter()
            .find(|config| config.is_default)
            .or_else(|| several.iter().find(|config| config.name == "default")),
    };
    chosen.cloned().map(Chosen::Declared).ok_or_else(|| unclear(location, "config", &names))
}

fn found_splits(tree: &[TreeEntry], folder: &str) -> Vec<(String, Vec<Entry>)> {
    let splits = usual_splits(tree, folder).into_iter();
    splits.map(|(split, files)| (split, files.into_iter().map(entry).collect())).collect()
}

fn declared_splits(location: &HubLocation, tree: &[TreeEntry], config: &Config) -> Result<Vec<(String, Vec<Entry>)>> {
    let mut splits = Vec::new();
    for (split, patterns) in &config.splits {
        let mut files = Vec::new();
        for text in patterns {
            let malformed = |message: String| DatasetError::Malformed {
                location: HubLocation { path: CARD.to_owned(), ..location.clone() }.to_string(),
                message: format!("configuration '{}', split '{split}': {message}", config.name),
            };
            let pattern = Pattern::new(text).map_err(malformed)?;
            let mut matched = select(entries(tree), &pattern);
            if matched.is_empty() {
                // A pattern without wildcards may name a folder.
                matched =
                    pattern.literal().map(|folder| select(entries(tree), &folder_of(&folder))).unwrap_or_default();
            }
            if matched.is_empty() {
                return Err(malformed(format!("no file matches '{text}'")));
            }
            files.extend(matched);
        }
        splits.push((split.clone(), files));
    }
    Ok(splits)
}

fn choose_split(
    location: &HubLocation,
    mut splits: Vec<(String, Vec<Entry>)>,
    wanted: Option<&str>,
) -> Result<Vec<Entry>> {
    let names: Vec<String> = splits.iter().map(|(split, _)| split.clone()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let Some(wanted) = wanted else {
        let index = match names.as_slice() {
            [_] => 0,
            several => match several.iter().position(|split| *split == "train") {
                Some(index) => index,
                None => return Err(unclear(location, "split", several)),
            },
        };
        return Ok(splits.swap_remove(index).1);
    };
    let mut files = Vec::new();
    for wanted in wanted.split('+') {
        let split = pick(location, "split", wanted.trim(), &names)?;
        files.extend(splits.iter().filter(|(name, _)| name == split).flat_map(|(_, files)| files.clone()));
    }
    Ok(files)
}

fn pick<'a>(location: &HubLocation, key: &str, wanted: &str, names: &[&'a str]) -> Result<&'a str> {
    if let Some(name) = names.iter().find(|name| **name == wanted) {
        return Ok(name);
    }
    let nearest = names
        .iter()
        .map(|name| (strsim::jaro_winkler(wanted, name), name))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, name)| format!(", did you mean '{name}'?"))
        .unwrap_or_default();
    Err(DatasetError::Setting {
        key: key.to_owned(),
        message: format!("'{location}' has no '{wanted}'{nearest}; there are: {}", names.join(", ")),
    })
}

fn unclear(location: &HubLocation, key: &str, names: &[&str]) -> DatasetError {
    DatasetError::Setting {
        key: key.to_owned(),
        message: format!("'{location}' has several, name one of: {}", names.join(", ")),
    }
}

fn entry(file: &TreeEntry) -> Entry {
    Entry { path: file.path.clone(), size: file.size, etag: file.tag.clone(), version: None, modified_ms: None }
}

fn entries(tree: &[TreeEntry]) -> Vec<Entry> {
    tree.iter().filter(|file| !file.is_folder).map(entry).collect()
}

/// Files with addresses that name the commit.
async fn found(repo: &Repo, location: &HubLocation, files: Vec<Entry>) -> Result<Vec<FoundFile>> {
    let commit = repo.commit().await?.to_owned();
    let pinned = Location::Hub(HubLocation { revision: Some(commit), ..location.clone() });
    Ok(files.into_iter().map(|file| file.found(&pinned)).collect())
}

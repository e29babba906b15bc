//! The configurations that a data set card declares.
//!
//! `README.md` begins with YAML between two lines of three dashes. Its `configs` list says which files each configuration
//! and split consists of: "Data files Configuration" in the documentation of the `datasets` library.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A configuration as the card declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) name: String,
    pub(crate) is_default: bool,
    /// The folder that the usual patterns apply to, where no files are declared.
    pub(crate) folder: String,
    /// Patterns by split, in the order of the card; empty where none are declared.
    pub(crate) splits: Vec<(String, Vec<String>)>,
}

#[derive(Deserialize)]
struct Card {
    #[serde(default)]
    configs: Option<Vec<Declared>>,
}

#[derive(Deserialize)]
struct Declared {
    #[serde(default = "default_name")]
    config_name: String,
    #[serde(default)]
    default: bool,
    #[serde(default)]
    data_dir: Option<String>,
    #[serde(default)]
    data_files: Option<DataFiles>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum DataFiles {
    One(String),
    Many(Vec<DataFile>),
    BySplit(BTreeMap<String, Patterns>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum DataFile {
    Pattern(String),
    OfSplit { split: String, path: Patterns },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Patterns {
    One(String),
    Many(Vec<String>),
}

/// Reads the configurations of a card.
///
/// # Errors
/// Says what is wrong with the YAML.
pub(crate) fn configs(card: &str) -> Result<Vec<Config>, String> {
    let Some(yaml) = front_matter(card) else { return Ok(Vec::new()) };
    let card: Card = serde_saphyr::from_str(yaml).map_err(|error| error.to_string())?;
    card.configs.unwrap_or_default().into_iter().map(config).collect()
}

fn front_matter(card: &str) -> Option<&str> {
    let card = card.trim_start_matches('\u{feff}').trim_start();
    let rest = card.strip_prefix("---")?;
    let rest = &rest[rest.find('\n')? + 1..];
    let mut end = 0;
    for line in rest.split_inclusive('\n') {
        if line.trim_end() == "---" {
            return Some(&rest[..end]);
        }
        end += line.len();
    }
    None
}

fn config(declared: Declared) -> Result<Config, String> {
    let name = declared.config_name;
    let folder = clean(declared.data_dir.as_deref().unwrap_or_default());
    let mut splits: Vec<(String, Vec<String>)> = Vec::new();
    let mut add = |split: &str, patterns: Vec<String>| match splits.iter_mut().find(|(known, _)| known == split) {
        Some((_, known)) => known.extend(patterns),
        None => splits.push((split.to_owned(), patterns)),
    };
    match declared.data_files {
        None => {}
        Some(DataFiles::One(pattern)) => add("train", vec![pattern]),
        Some(DataFiles::Many(files)) => {
            for file in files {
                match file {
                    DataFile::Pattern(pattern) => add("train", vec![pattern]),
                    DataFile::OfSplit { split, path } => add(&split, path.into_vec()),
                }
            }
        }
        Some(DataFiles::BySplit(files)) => files.into_iter().for_each(|(split, path)| add(&split, path.into_vec())),
    }
    for (_, patterns) in &mut splits {
        for pattern in patterns {
            if pattern.contains("://") {
                return Err(format!("configuration '{name}' names files outside the repository: '{pattern}'"));
            }
            let path = clean(pattern);
            *pattern = if folder.is_empty() { path } else { format!("{folder}/{path}") };
        }
    }
    Ok(Config { name, is_default: declared.default, folder, splits })
}

fn clean(path: &str) -> String {
    path.trim_start_matches("./").trim_matches('/').trim_matches('.').to_owned()
}

fn default_name() -> String {
    "default".to_owned()
}

impl Patterns {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(pattern) => vec![pattern],
            Self::Many(patterns) => patterns,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::no_yaml("# Title", "")]
    #[case::not_closed("---\nconfigs: []\n", "")]
    #[case::no_configs("---\nlicense: mit\ntags:\n- a\n---\n# Title", "")]
    #[case::one_pattern("---\nconfigs:\n- config_name: a\n  data_files: data/*.csv\n---\n", "a: train=data/*.csv")]
    #[case::list(
        "---\nconfigs:\n- config_name: a\n  data_files: [x.csv, y.csv]\n  default: true\n---\n",
        "a (default): train=x.csv,y.csv"
    )]
    #[case::splits(
        "---\r\nconfigs:\r\n- config_name: a\r\n  data_files:\r\n  - split: train\r\n    path: ./a/train-*\r\n  - split: test\r\n    \
         path:\r\n    - a/test.csv\r\n    - b/test.csv\r\n- config_name: b\r\n  data_dir: b\r\n---\r\n",
        "a: train=a/train-* test=a/test.csv,b/test.csv; b in b:"
    )]
    #[case::map("---\nconfigs:\n- data_files: {train: a.csv, test: [b.csv]}\n---\n", "default: test=b.csv train=a.csv")]
    #[case::folder_and_files(
        "---\nconfigs:\n- config_name: a\n  data_dir: ./d/\n  data_files: '*.csv'\n---\n",
        "a in d: train=d/*.csv"
    )]
    #[case::other_keys(
        "---\ndataset_info:\n- config_name: x\n  features:\n  - name: id\n    dtype: int64\nconfigs:\n- config_name: x\n  \
         drop_labels: true\n  data_files: a.csv\n---\n",
        "x: train=a.csv"
    )]
    fn reads(#[case] card: &str, #[case] expected: &str) {
        let shown = |config: &Config| {
            let default = if config.is_default { " (default)" } else { "" };
            let folder = if config.folder.is_empty() { String::new() } else { format!(" in {}", config.folder) };
            let splits = config.splits.iter().map(|(split, patterns)| format!(" {split}={}", patterns.join(",")));
            format!("{}{default}{folder}:{}", config.name, splits.collect::<String>())
        };
        let shown: Vec<String> = configs(card).unwrap().iter().map(shown).collect();
        assert_eq!(shown.join("; "), expected);
    }

    #[rstest]
    #[case("---\nconfigs: [\n---\n", "")]
    #[case("---\nconfigs:\n- config_name: a\n  data_files: https://host/x.csv\n---\n", "outside the repository")]
    fn refuses(#[case] card: &str, #[case] message: &str) {
        let error = configs(card).unwrap_err();
        assert!(error.contains(message), "{error}");
    }
}

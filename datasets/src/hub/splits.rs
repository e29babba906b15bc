//! Which files belong to which split where nobody says so.
//!
//! The rules are those of the `datasets` library ("Structure your repository" in its documentation), tried in this order;
//! the first that finds files holds:
//!
//! 1. `data/<split>-00000-of-00012*`, any name for the split;
//! 2. a folder named after a split, or with the name of a split as a word in its name;
//! 3. a file with the name of a split as a word in its name;
//! 4. all files are of the train split.
//!
//! Where a split so found holds files of several formats, the most common one holds: a repository may keep the same rows
//! in two formats, and samples and statistics beside them.

use super::tree::TreeEntry;
use crate::formats::is_dataset_metadata;
use crate::split::Format;
use crate::stores::is_data_file;

/// The splits that have other names, too, in the order in which they are shown.
const KEYWORDS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// The files of each split below a folder, in order of their paths.
pub(crate) fn usual_splits<'a>(tree: &'a [TreeEntry], folder: &str) -> Vec<(String, Vec<&'a TreeEntry>)> {
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let mut files: Vec<(&str, &TreeEntry)> = tree
        .iter()
        .filter(|entry| !entry.is_folder)
        .filter_map(|entry| Some((entry.path.strip_prefix(&prefix)?, entry)))
        .filter(|(path, _)| is_data(path))
        .collect();
    files.sort_by(|left, right| left.0.as_bytes().cmp(right.0.as_bytes()));
    let sharded = group(&files, |path| shard_of(path).map(|split| vec![split]).unwrap_or_default());
    if !sharded.is_empty() {
        return sharded;
    }
    let by_folder = group(&files, |path| {
        let folders = path.rsplit_once('/').map_or("", |(folders, _)| folders);
        matching(|keyword| folders.split('/').any(|folder| has_word(folder, keyword, true)))
    });
    if !by_folder.is_empty() {
        return by_folder;
    }
    let by_name = group(&files, |path| {
        let name = path.rsplit('/').next().unwrap_or(path);
        matching(|keyword| has_word(name, keyword, false))
    });
    if !by_name.is_empty() {
        return by_name;
    }
    group(&files, |_| vec!["train"])
}

/// The splits of the converted copy that the Hub makes, `<config>/<split>/0000.parquet`, by configuration.
pub(crate) fn converted_splits(tree: &[TreeEntry]) -> Vec<(String, String, Vec<&TreeEntry>)> {
    let mut splits: Vec<(String, String, Vec<&TreeEntry>)> = Vec::new();
    let mut files: Vec<&TreeEntry> =
        tree.iter().filter(|entry| !entry.is_folder && entry.path.ends_with(".parquet")).collect();
    files.sort_by(|left, right| left.path.as_bytes().cmp(right.path.as_bytes()));
    for file in files {
        let mut parts = file.path.split('/');
        let (Some(config), Some(split), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        match splits.iter_mut().find(|(known, of, _)| known == config && of == split) {
            Some((_, _, files)) => files.push(file),
            None => splits.push((config.to_owned(), split.to_owned(), vec![file])),
        }
    }
    splits
}

fn is_data(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    is_data_file(path)
        && name != "config.json"
        && !is_dataset_metadata(name)
        && !name.starts_with('.')
        && !path.split('/').rev().skip(1).any(|folder| folder.starts_with('.') || folder.starts_with("__"))
}

fn group<'a, 'n>(
    files: &[(&'n str, &'a TreeEntry)],
    splits_of: impl Fn(&'n str) -> Vec<&'n str>,
) -> Vec<(String, Vec<&'a TreeEntry>)> {
    let mut groups: Vec<(String, Vec<&TreeEntry>)> = Vec::new();
    for (path, entry) in files {
        for split in splits_of(path) {
            match groups.iter_mut().find(|(known, _)| known == split) {
                Some((_, entries)) => entries.push(entry),
                None => groups.push((split.to_owned(), vec![entry])),
            }
        }
    }
    let rank = |split: &str| KEYWORDS.iter().position(|(known, _)| *known == split).unwrap_or(KEYWORDS.len());
    for (split, entries) in &mut groups {
        keep_common_format(split, entries);
    }
    groups.sort_by(|left, right| (rank(&left.0), &left.0).cmp(&(rank(&right.0), &right.0)));
    groups
}

/// Formats in the order in which they are preferred when they are equally common.
fn rank_of_format(path: &str) -> usize {
    match Format::of_name(path) {
        Some((Format::Parquet, _)) => 0,
        Some((Format::Jsonl | Format::Json, _)) => 1,
        Some((Format::Csv | Format::Tsv, _)) => 2,
        Some((Format::Arrow, _)) => 3,
        None => 4,
    }
}

fn keep_common_format(split: &str, entries: &mut Vec<&TreeEntry>) {
    let mut counts = [0_usize; 5];
    for entry in entries.iter() {
        counts[rank_of_format(&entry.path)] += 1;
    }
    let most = counts.iter().copied().max().unwrap_or_default();
    if most == entries.len() {
        return;
    }
    let common = counts.iter().position(|count| *count == most).unwrap_or_default();
    let (kept, left_out): (Vec<_>, Vec<_>) = entries.drain(..).partition(|entry| rank_of_format(&entry.path) == common);
    let first = left_out.first().map(|entry| entry.path.as_str()).unwrap_or_default();
    tracing::warn!(
        split,
        files = left_out.len(),
        first,
        "files of less common formats are left out; name files by path to choose"
    );
    *entries = kept;
}

fn matching(has: impl Fn(&str) -> bool) -> Vec<&'static str> {
    KEYWORDS
        .iter()
        .filter(|(_, keywords)| keywords.iter().any(|keyword| has(keyword)))
        .map(|(split, _)| *split)
        .collect()
}

/// The split in `data/<split>-00000-of-00012…`, when a dot follows somewhere.
fn shard_of(path: &str) -> Option<&str> {
    let name = path.strip_prefix("data/").filter(|name| !name.contains('/'))?;
    let is_number = |text: &str| text.len() >= 5 && text.as_bytes()[..5].iter().all(u8::is_ascii_digit);
    let of = name.rfind("-of-")?;
    let (front, back) = (&name[..of], &name[of + 4..]);
    let (split, number) = front.rsplit_once('-')?;
    let is_shard = number.len() == 5 && is_number(number) && is_number(back) && back.contains('.');
    (is_shard && !split.is_empty()).then_some(split)
}

/// Whether `keyword` stands in `name` as a word: between the ends, digits, spaces and `-`, `.`, `_`. In the name of a file
/// something follows the word, be it the ending.
fn has_word(name: &str, keyword: &str, may_end: bool) -> bool {
    let is_boundary = |character: char| matches!(character, '-' | '.' | '_' | ' ') || character.is_ascii_digit();
    name.match_indices(keyword).any(|(start, _)| {
        let before = name[..start].chars().next_back();
        let after = name[start + keyword.len()..].chars().next();
        before.is_none_or(is_boundary) && after.map_or(may_end, is_boundary)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn tree(paths: &[&str]) -> Vec<TreeEntry> {
        paths.iter().map(|path| TreeEntry { path: (*path).to_owned(), size: 1, tag: None, is_folder: false }).collect()
    }

    #[rstest]
    #[case::sharded(
        &[
            "README.md",
            "data/train-00001-of-00002-ab.parquet",
            "data/train-00000-of-00002-cd.parquet",
            "data/odd_one-00000-of-00001.parquet",
            "data/test-00000-of-00001.parquet",
            "extra/train.csv",
        ],
        "train: data/train-00000-of-00002-cd.parquet data/train-00001-of-00002-ab.parquet; \
         test: data/test-00000-of-00001.parquet; odd_one: data/odd_one-00000-of-00001.parquet"
    )]
    #[case::folders(
        &["train/a.csv", "train/deep/b.csv", "my-dev-set/c.csv", "x.csv"],
        "train: train/a.csv train/deep/b.csv; validation: my-dev-set/c.csv"
    )]
    #[case::names(
        &["train.jsonl", "a/my_test_1.jsonl.gz", "evaluation.jsonl"],
        "train: train.jsonl; test: a/my_test_1.jsonl.gz evaluation.jsonl"
    )]
    #[case::words_only(&["trainer.csv", "contest.csv"], "train: contest.csv trainer.csv")]
    #[case::all(
        &["b.parquet", "a/c.parquet", ".gitattributes", ".hidden/d.parquet", "__pycache__/e.json", "config.json", "x.png"],
        "train: a/c.parquet b.parquet"
    )]
    #[case::two_formats(&["a.csv", "a.parquet", "b.parquet", "stats.json"], "train: a.parquet b.parquet")]
    #[case::same_rows_twice(&["train.csv", "train.parquet", "test.csv"], "train: train.parquet; test: test.csv")]
    #[case::kin(&["a.jsonl", "b.json.gz", "c.csv"], "train: a.jsonl b.json.gz")]
    #[case::nothing(&["README.md", "script.py"], "")]
    fn finds_splits(#[case] paths: &[&str], #[case] expected: &str) {
        let tree = tree(paths);
        let found: Vec<String> = usual_splits(&tree, "")
            .into_iter()
            .map(|(split, files)| {
                let files: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
                format!("{split}: {}", files.join(" "))
            })
            .collect();
        assert_eq!(found.join("; "), expected);
    }

    #[test]
    fn a_folder_is_a_world_of_its_own() {
        let tree = tree(&["a/train.csv", "b/train.csv"]);
        let found = usual_splits(&tree, "b");
        assert_eq!(found[0].1[0].path, "b/train.csv");
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn reads_the_converted_copy() {
        let tree = tree(&["en/train/0001.parquet", "en/train/0000.parquet", "de/test/0000.parquet", "README.md"]);
        let found: Vec<_> = converted_splits(&tree)
            .into_iter()
            .map(|(config, split, files)| (config, split, files.len(), files[0].path.clone()))
            .collect();
        assert_eq!(
            found,
            [
                ("de".to_owned(), "test".to_owned(), 1, "de/test/0000.parquet".to_owned()),
                ("en".to_owned(), "train".to_owned(), 2, "en/train/0000.parquet".to_owned()),
            ]
        );
    }
}

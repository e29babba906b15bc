//! What files a repository holds.

use std::sync::Arc;

use reqwest::header::{HeaderMap, LINK};
use serde::Deserialize;
use url::Url;

use super::repo::Repo;
use crate::{DatasetError, Result};

/// How many entries one page of a listing holds; the Hub gives up to this many.
const PAGE: &str = "1000";

/// A file or folder of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TreeEntry {
    pub(crate) path: String,
    pub(crate) size: u64,
    /// SHA-256 of a large file, git's hash of a small one: what the Hub gives as `ETag` for its content.
    pub(crate) tag: Option<String>,
    pub(crate) is_folder: bool,
}

#[derive(Deserialize)]
struct Answered {
    r#type: String,
    path: String,
    #[serde(default)]
    size: u64,
    oid: Option<String>,
    lfs: Option<LargeFile>,
}

#[derive(Deserialize)]
struct LargeFile {
    oid: String,
    size: Option<u64>,
}

impl Repo {
    /// The entries below a folder, at any depth or directly in it. Each listing is asked for once.
    pub(crate) async fn tree(&self, folder: &str, is_deep: bool) -> Result<Arc<Vec<TreeEntry>>> {
        let commit = self.commit().await?;
        // While one caller lists, others that want the same wait instead of asking again.
        let mut trees = self.trees.lock().await;
        let known = [("", true), (folder, true), (folder, is_deep)];
        if let Some(tree) = known.iter().find_map(|(folder, deep)| trees.get(&((*folder).to_owned(), *deep))) {
            return Ok(Arc::clone(tree));
        }
        if self.client.settings.is_offline {
            let cached = self.cached.as_ref().map_or_else(|| Ok(Vec::new()), |cached| cached.tree(commit))?;
            let tree = Arc::new(cached);
            trees.insert((String::new(), true), Arc::clone(&tree));
            return Ok(tree);
        }
        let tree = Arc::new(self.fetch_tree(commit, folder, is_deep).await?);
        trees.insert((folder.to_owned(), is_deep), Arc::clone(&tree));
        Ok(tree)
    }

    async fn fetch_tree(&self, commit: &str, folder: &str, is_deep: bool) -> Result<Vec<TreeEntry>> {
        let location = self.location(folder);
        let mut parts = vec!["api", self.kind.plural()];
        parts.extend(self.id.split('/'));
        parts.extend(["tree", commit]);
        parts.extend(folder.split('/').filter(|part| !part.is_empty()));
        let mut url = self.client.address(parts);
        url.query_pairs_mut()
            .append_pair("recursive", if is_deep { "true" } else { "false" })
            .append_pair("expand", "false")
            .append_pair("limit", PAGE);
        let mut entries = Vec::new();
        let mut next = Some(url);
        while let Some(url) = next {
            let (page, headers): (Vec<Answered>, HeaderMap) = match self.client.get_json(url.clone(), &location).await {
                // The folder does not exist; that the repository does was asked before.
                Err(DatasetError::NotFound { hint: None, .. }) => return Ok(Vec::new()),
                other => other?,
            };
            for entry in page {
                entries.push(checked(entry, &location)?);
            }
            next = next_page(&headers, &url);
            if let Some(next) = &next {
                // The token goes with the request, so the address is not taken from anywhere else.
                if !self.client.settings.is_of_hub(next) || *next == url {
                    return Err(DatasetError::Store {
                        location,
                        message: "the Hub names a next page that is not its own".to_owned(),
                    });
                }
            }
        }
        Ok(entries)
    }
}

/// A listing comes from others and becomes paths here: whatever would lead out of the repository is refused.
fn checked(entry: Answered, location: &str) -> Result<TreeEntry> {
    let is_safe = !entry.path.is_empty()
        && entry.path.split('/').all(|part| !matches!(part, "" | "." | ".."))
        && !entry.path.contains(['\\', '\0'])
        && !entry.path.chars().any(char::is_control);
    if !is_safe {
        return Err(DatasetError::Malformed {
            location: location.to_owned(),
            message: format!("the listing names {:?}, which is no path within the repository", entry.path),
        });
    }
    let (tag, size) = match entry.lfs {
        Some(large) => (Some(large.oid), large.size.unwrap_or(entry.size)),
        None => (entry.oid, entry.size),
    };
    Ok(TreeEntry { path: entry.path, size, tag, is_folder: entry.r#type == "directory" })
}

/// The address in `Link: <address>; rel="next"`, of possibly several links with commas between them.
fn next_page(headers: &HeaderMap, url: &Url) -> Option<Url> {
    headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok()).find_map(|links| {
        let mut rest = links;
        while let Some((address, after)) = rest.split_once('<').and_then(|(_, link)| link.split_once('>')) {
            let (parameters, _) = after.split_once('<').unwrap_or((after, ""));
            let is_next = parameters.split([';', ',']).any(|parameter| {
                parameter.trim().strip_prefix("rel=").is_some_and(|relation| relation.trim_matches('"') == "next")
            });
            if is_next {
                return url.join(address).ok();
            }
            rest = after;
        }
        None
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("<https://h/api?cursor=a%3D>; rel=\"next\"", Some("https://h/api?cursor=a%3D"))]
    #[case("</api?cursor=b>; rel=next", Some("https://h/api?cursor=b"))]
    #[case("<https://h/1>; rel=\"prev\", <https://h/3>; rel=\"next\"", Some("https://h/3"))]
    #[case("<https://h/1>; rel=\"prev\"", None)]
    #[case("nonsense", None)]
    fn next_pages(#[case] link: &str, #[case] expected: Option<&str>) {
        let headers = HeaderMap::from_iter([(LINK, link.parse().unwrap())]);
        let next = next_page(&headers, &"https://h/api/x".parse().unwrap());
        assert_eq!(next.as_ref().map(Url::as_str), expected);
    }

    #[rstest]
    #[case("../../etc/passwd")]
    #[case("/etc/passwd")]
    #[case("a/./b")]
    #[case("a//b")]
    #[case("a\\..\\b")]
    #[case("")]
    fn paths_that_lead_out_are_refused(#[case] path: &str) {
        let entry = Answered { r#type: "file".into(), path: path.into(), size: 1, oid: None, lfs: None };
        let error = checked(entry, "hf://datasets/o/n").unwrap_err();
        assert!(error.to_string().contains(&format!("{path:?}")), "{error}");
    }
}

//! One repository at one revision.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderMap, HeaderName};
use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;
use tokio::sync::OnceCell;
use url::Url;

use super::cache::{CachedRepo, is_commit, offline};
use super::client::{Retries, SharedClient, refused};
use super::tree::TreeEntry;
use crate::location::{HubKind, HubLocation};
use crate::{DatasetError, Result};

/// An address is not used any more when it expires within this time.
const MARGIN: Duration = Duration::from_secs(30);

/// Listings by folder, and whether they hold what lies deeper.
pub(crate) type Trees = HashMap<(String, bool), Arc<Vec<TreeEntry>>>;

/// What is known about a repository. Everything is asked for once and kept.
#[derive(Debug)]
pub(crate) struct Repo {
    pub(crate) client: SharedClient,
    pub(crate) kind: HubKind,
    pub(crate) id: String,
    pub(crate) revision: String,
    pub(crate) cached: Option<CachedRepo>,
    pub(crate) trees: tokio::sync::Mutex<Trees>,
    commit: OnceCell<String>,
    contents: Mutex<HashMap<String, Content>>,
    /// Held while the Hub is asked where a file is, so that many readers of a file ask once.
    asking: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// What is known about the content of a file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    /// Where the Hub redirected to, as long as that is valid.
    address: Option<Url>,
    pub(crate) tag: Option<String>,
    pub(crate) size: Option<u64>,
}

/// An open answer with the bytes from `start` on of a file of `size` bytes.
pub(crate) struct Opened {
    pub(crate) response: Response,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) size: u64,
    pub(crate) tag: Option<String>,
}

#[derive(Deserialize)]
struct Info {
    sha: Option<String>,
}

impl Repo {
    pub(crate) fn new(client: SharedClient, location: &HubLocation) -> Self {
        let cache = client.settings.cache.as_deref();
        Self {
            cached: cache.map(|cache| CachedRepo::new(cache, location.kind, &location.repo)),
            client,
            kind: location.kind,
            id: location.repo.clone(),
            revision: location.revision_or_main().to_owned(),
            trees: tokio::sync::Mutex::default(),
            commit: OnceCell::new(),
            contents: Mutex::default(),
            asking: Mutex::default(),
        }
    }

    /// The commit that the revision stands for. It is found once, so a repository that changes in the meantime stays what
    /// it was for this process.
    pub(crate) async fn commit(&self) -> Result<&str> {
        self.commit.get_or_try_init(|| self.find_commit()).await.map(String::as_str)
    }

    async fn find_commit(&self) -> Result<String> {
        let cached = || self.cached.as_ref().and_then(|cached| cached.commit(&self.revision));
        if self.client.settings.is_offline {
            return cached().ok_or_else(|| offline(&self.hub_location("")));
        }
        if is_commit(&self.revision) {
            return Ok(self.revision.clone());
        }
        let mut parts = vec!["api", self.kind.plural()];
        parts.extend(self.id.split('/'));
        parts.extend(["revision", &self.revision]);
        let location = self.location("");
        let (info, _): (Info, _) = self.client.get_json(self.client.address(parts), &location).await?;
        match info.sha {
            Some(sha) if is_commit(&sha) => Ok(sha),
            _ => Err(DatasetError::Store {
                location,
                message: "the Hub does not say which commit the revision is".to_owned(),
            }),
        }
    }

    /// The location of a path, at the revision as it was asked for.
    pub(crate) fn location(&self, path: &str) -> String {
        self.hub_location(path).to_string()
    }

    fn hub_location(&self, path: &str) -> HubLocation {
        let revision = (self.revision != "main").then(|| self.revision.clone());
        HubLocation { kind: self.kind, repo: self.id.clone(), revision, path: path.to_owned() }
    }

    /// A file that was downloaded before. Without a network that is the only place to look.
    pub(crate) async fn downloaded(&self, path: &str) -> Result<Option<(PathBuf, Option<String>)>> {
        let commit = self.commit().await?;
        let found = self.cached.as_ref().and_then(|cached| cached.file(commit, path));
        if found.is_none() && self.client.settings.is_offline {
            return Err(offline(&self.hub_location(path)));
        }
        Ok(found)
    }

    /// Size and tag of a file, from what is known or by asking.
    pub(crate) async fn describe(&self, path: &str) -> Result<Content> {
        let known = self.contents.lock().get(path).cloned();
        if let Some(content) = known.filter(|content| content.size.is_some()) {
            return Ok(content);
        }
        let commit = self.commit().await?;
        let trees = self.trees.lock().await;
        let listed = trees.values().find_map(|tree| tree.iter().find(|entry| entry.path == path && !entry.is_folder));
        if let Some(entry) = listed {
            return Ok(Content { address: None, tag: entry.tag.clone(), size: Some(entry.size) });
        }
        drop(trees);
        let location = self.location(path);
        let mut retries = Retries::new(&self.client.retry);
        let url = self.resolve_address(commit, path);
        let answer = self.client.get(Method::HEAD, url, None, &location, &mut retries).await?;
        let status = answer.response.status();
        if !status.is_success() && !status.is_redirection() {
            return Err(refused(&location, answer.response).await);
        }
        let headers = answer.described.as_ref().unwrap_or(answer.response.headers());
        let content = Content { address: None, ..described(headers) };
        let size = content.size.or_else(|| number(headers, "content-length").filter(|_| status.is_success()));
        self.remember(path, &content);
        match size {
            Some(size) => Ok(Content { size: Some(size), ..content }),
            None => Err(DatasetError::Store { location, message: "the Hub does not tell the size".to_owned() }),
        }
    }

    /// Opens a range of a file, or the whole. `range` is in the form of the header, such as `bytes=0-99`.
    pub(crate) async fn open(&self, path: &str, range: Option<&str>, retries: &mut Retries) -> Result<Opened> {
        let commit = self.commit().await?;
        let location = self.location(path);
        if let Some(opened) = self.open_known(path, range, &location, retries).await? {
            return Ok(opened);
        }
        let asking = Arc::clone(self.asking.lock().entry(path.to_owned()).or_default());
        let _asking = asking.lock().await;
        if let Some(opened) = self.open_known(path, range, &location, retries).await? {
            return Ok(opened);
        }
        let url = self.resolve_address(commit, path);
        let answer = self.client.get(Method::GET, url, range, &location, retries).await?;
        if let Some(headers) = &answer.described {
            self.remember(path, &Content { address: answer.content.clone(), ..described(headers) });
        }
        self.opened(path, range, answer.response, &location).await
    }

    /// Opens a file where it was found before, if that address is still good.
    async fn open_known(
        &self,
        path: &str,
        range: Option<&str>,
        location: &str,
        retries: &mut Retries,
    ) -> Result<Option<Opened>> {
        let known = self.contents.lock().get(path).and_then(|content| content.address.clone());
        let Some(address) = known.filter(is_valid_now) else { return Ok(None) };
        let response = self.client.send(&Method::GET, &address, range, false, location, retries).await?;
        if response.status().is_success() || response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return self.opened(path, range, response, location).await.map(Some);
        }
        // It was valid for a time only, or leads on: the Hub is asked for the way again.
        self.forget_address(path, &address);
        Ok(None)
    }

    async fn opened(&self, path: &str, range: Option<&str>, response: Response, location: &str) -> Result<Opened> {
        let status = response.status();
        if !status.is_success() {
            return Err(refused(location, response).await);
        }
        let known = self.contents.lock().get(path).cloned().unwrap_or_default();
        let malformed =
            |message: &str| DatasetError::Store { location: location.to_owned(), message: message.to_owned() };
        let (start, end, size) = if status == StatusCode::PARTIAL_CONTENT {
            response
                .headers()
                .get(CONTENT_RANGE)
                .and_then(|value| value.to_str().ok())
                .and_then(content_range)
                .ok_or_else(|| malformed("the answer does not say which range it holds"))?
        } else if range.is_some() {
            return Err(malformed("the server does not know ranges"));
        } else {
            let size = known
                .size
                .or_else(|| number(response.headers(), "content-length"))
                .ok_or_else(|| malformed("the answer does not tell its size"))?;
            (0, size, size)
        };
        if known.size.is_some_and(|known| known != size) {
            return Err(DatasetError::Changed {
                location: location.to_owned(),
                message: format!("it has {size} bytes, the Hub said {}", known.size.unwrap_or_default()),
            });
        }
        let tag = known.tag.or_else(|| tag_of(response.headers(), ETAG));
        Ok(Opened { response, start, end, size, tag })
    }

    fn resolve_address(&self, commit: &str, path: &str) -> Url {
        let mut parts: Vec<&str> = match self.kind {
            HubKind::Dataset => vec![self.kind.plural()],
            HubKind::Model => Vec::new(),
        };
        parts.extend(self.id.split('/'));
        parts.extend(["resolve", commit]);
        parts.extend(path.split('/'));
        self.client.address(parts)
    }

    fn remember(&self, path: &str, content: &Content) {
        self.contents.lock().insert(path.to_owned(), content.clone());
    }

    fn forget_address(&self, path: &str, address: &Url) {
        if let Some(content) = self.contents.lock().get_mut(path) {
            // Another reader may have got a new one by now.
            if content.address.as_ref() == Some(address) {
                content.address = None;
            }
        }
    }
}

/// What the redirect of the Hub says about a file.
fn described(headers: &HeaderMap) -> Content {
    let linked = HeaderName::from_static("x-linked-etag");
    Content {
        address: None,
        tag: tag_of(headers, linked).or_else(|| tag_of(headers, ETAG)),
        size: number(headers, "x-linked-size"),
    }
}

fn tag_of(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.trim_start_matches("W/").trim_matches('"').to_owned()).filter(|tag| !tag.is_empty())
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// Reads `bytes 0-99/1000` as begin, end (exclusive) and size.
fn content_range(value: &str) -> Option<(u64, u64, u64)> {
    let (range, size) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, size): (u64, u64, u64) = (first.parse().ok()?, last.parse().ok()?, size.parse().ok()?);
    (first <= last && last < size).then_some((first, last + 1, size))
}

/// Whether a signed address can still be used: the usual signing schemes say in the query until when.
fn is_valid_now(url: &Url) -> bool {
    let Some(expires) = expires(url) else { return true };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now + MARGIN < expires
}

/// The time since 1970 at which a signed address ends.
fn expires(url: &Url) -> Option<Duration> {
    let mut signed_at = None;
    let mut lasts = None;
    for (name, value) in url.query_pairs() {
        match name.as_ref() {
            "Expires" => return value.parse().ok().map(Duration::from_secs),
            "X-Amz-Date" => {
                let at = chrono::NaiveDateTime::parse_from_str(&value, "%Y%m%dT%H%M%SZ").ok()?;
                signed_at = u64::try_from(at.and_utc().timestamp()).ok();
            }
            "X-Amz-Expires" => lasts = value.parse::<u64>().ok(),
            _ => {}
        }
    }
    Some(Duration::from_secs(signed_at? + lasts?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("https://cdn/x?Expires=1700000000&Signature=a", Some(1_700_000_000))]
    #[case("https://cdn/x?X-Amz-Date=20231114T221320Z&X-Amz-Expires=3600", Some(1_700_003_600))]
    #[case("https://cdn/x?X-Amz-Expires=3600", None)]
    #[case("https://cdn/x?sig=1", None)]
    fn knows_when_addresses_end(#[case] url: &str, #[case] seconds: Option<u64>) {
        let url = url.parse().unwrap();
        assert_eq!(expires(&url), seconds.map(Duration::from_secs));
        assert_eq!(is_valid_now(&url), seconds.is_none(), "those that say so have ended long ago");
    }

    #[rstest]
    #[case("bytes 0-99/1000", Some((0, 100, 1000)))]
    #[case("bytes 990-999/1000", Some((990, 1000, 1000)))]
    #[case("bytes 990-1000/1000", None)]
    #[case("bytes */1000", None)]
    #[case("0-99/1000", None)]
    fn reads_content_ranges(#[case] value: &str, #[case] expected: Option<(u64, u64, u64)>) {
        assert_eq!(content_range(value), expected);
    }
}

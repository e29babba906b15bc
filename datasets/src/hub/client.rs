//! Requests to the Hub and to the servers it redirects to.
//!
//! The Hub counts requests, and answers 429 when there were too many in five minutes. So a wait that it names holds back all
//! requests of this process, and what was learned from a request is kept: the commit of a revision, the listing, and the
//! address that the content of a file was redirected to.
//!
//! The token goes to the Hub's own server only. Redirects are therefore followed here and not by the HTTP client.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng;
use reqwest::header::{HeaderMap, HeaderName, LOCATION, RANGE};
use reqwest::redirect::Policy;
use reqwest::{Method, Response, StatusCode};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use url::Url;

use super::settings::Settings;
use crate::stores::errors::{concise, denied, shorten};
use crate::stores::network::{client, on_runtime, retry_after};
use crate::stores::{RetryPolicy, StoreOptions, redact};
use crate::{DatasetError, Result};

const MOST_REDIRECTS: usize = 5;
/// Waits from this on are shown to whoever runs the program.
const SHOWN: Duration = Duration::from_secs(2);

/// The connection to the Hub.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) settings: Settings,
    pub(crate) retry: RetryPolicy,
    http: reqwest::Client,
    io_runtime: Option<Handle>,
    at_once: Semaphore,
    paused_until: Mutex<Option<Instant>>,
}

/// An answer, and where the content was found if not on the Hub itself.
pub(crate) struct Answer {
    pub(crate) response: Response,
    pub(crate) content: Option<Url>,
    /// The headers of the redirect that the Hub gave, which describe the file.
    pub(crate) described: Option<HeaderMap>,
}

impl Client {
    pub(crate) fn new(options: &StoreOptions) -> Result<Self> {
        Ok(Self {
            settings: Settings::of(&options.environment)?,
            retry: options.retry.clone(),
            http: client(options.read_timeout, Policy::none())?,
            io_runtime: options.io_runtime.clone(),
            at_once: Semaphore::new(options.hub_requests.max(1)),
            paused_until: Mutex::new(None),
        })
    }

    /// An address on the Hub from its parts, each percent-encoded where needed.
    pub(crate) fn address<'a>(&self, parts: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.settings.endpoint.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(parts);
        }
        url
    }

    /// Asks the Hub and reads the answer as a whole.
    pub(crate) async fn get_json<T: serde::de::DeserializeOwned>(
        &self,
        url: Url,
        location: &str,
    ) -> Result<(T, HeaderMap)> {
        let mut retries = Retries::new(&self.retry);
        loop {
            let answer = self.get(Method::GET, url.clone(), None, location, &mut retries).await?;
            if !answer.response.status().is_success() {
                return Err(refused(location, answer.response).await);
            }
            let headers = answer.response.headers().clone();
            match answer.response.bytes().await {
                Ok(bytes) => {
                    return serde_json::from_slice(&bytes).map(|value| (value, headers)).map_err(|error| {
                        DatasetError::Store {
                            location: location.to_owned(),
                            message: format!("the Hub gave an answer of an unknown form: {error}"),
                        }
                    });
                }
                Err(error) => retries.wait(None, location, &concise(&error)).await?,
            }
        }
    }

    /// Sends a request to the Hub, with the token, and follows redirects: on the Hub with the token, elsewhere without.
    /// Answers that may pass are waited out; any other answer is returned, whatever its status.
    pub(crate) async fn get(
        &self,
        method: Method,
        url: Url,
        range: Option<&str>,
        location: &str,
        retries: &mut Retries,
    ) -> Result<Answer> {
        let mut url = url;
        let mut content = None;
        let mut described = None;
        for _ in 0..=MOST_REDIRECTS {
            // Once elsewhere, the token stays away, also if the way leads back.
            let with_token = content.is_none() && self.settings.is_of_hub(&url);
            let response = self.send(&method, &url, range, with_token, location, retries).await?;
            if !response.status().is_redirection() {
                return Ok(Answer { response, content, described });
            }
            let target = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let Some(next) = target.and_then(|target| url.join(target).ok()) else {
                return Err(DatasetError::Store {
                    location: location.to_owned(),
                    message: format!("status {} without a usable address", response.status().as_u16()),
                });
            };
            if content.is_none() && !self.settings.is_of_hub(&next) {
                content = Some(next.clone());
                described = Some(response.headers().clone());
                if method == Method::HEAD {
                    return Ok(Answer { response, content, described });
                }
            }
            url = next;
        }
        Err(DatasetError::Store {
            location: location.to_owned(),
            message: format!("more than {MOST_REDIRECTS} redirects"),
        })
    }

    /// Sends one request until there is an answer that does not say "later".
    pub(crate) async fn send(
        &self,
        method: &Method,
        url: &Url,
        range: Option<&str>,
        with_token: bool,
        location: &str,
        retries: &mut Retries,
    ) -> Result<Response> {
        loop {
            self.wait_for_pause().await;
            let mut request = self.http.request(method.clone(), url.clone());
            if let Some(range) = range {
                request = request.header(RANGE, range);
            }
            if let Some(authorization) = self.settings.authorization.as_ref().filter(|_| with_token) {
                request = request.header(reqwest::header::AUTHORIZATION, authorization.clone());
            }
            let sent = {
                let _permit = self.at_once.acquire().await;
                on_runtime(self.io_runtime.as_ref(), request.send()).await
            };
            let (named, message) = match sent {
                Ok(Ok(response)) if !is_later(response.status()) => return Ok(response),
                Ok(Ok(response)) => {
                    let named = named_wait(response.headers());
                    if response.status() == StatusCode::TOO_MANY_REQUESTS {
                        self.pause(named.map(|wait| wait.min(self.retry.longest_named_wait)));
                    }
                    (named, format!("status {}", response.status()))
                }
                Ok(Err(error)) if error.is_builder() => {
                    return Err(DatasetError::Store { location: location.to_owned(), message: concise(&error) });
                }
                Ok(Err(error)) => (None, concise(&error.without_url())),
                Err(error) => (None, error.to_string()),
            };
            retries.wait(named, location, &message).await?;
        }
    }

    fn pause(&self, wait: Option<Duration>) {
        if let Some(wait) = wait {
            let until = Instant::now() + wait;
            let mut paused = self.paused_until.lock();
            if paused.is_none_or(|paused| paused < until) {
                *paused = Some(until);
            }
        }
    }

    async fn wait_for_pause(&self) {
        let until = *self.paused_until.lock();
        if let Some(until) = until {
            tokio::time::sleep_until(until).await;
        }
    }
}

/// Counts attempts and waits between them.
#[derive(Clone, Debug)]
pub(crate) struct Retries {
    policy: RetryPolicy,
    done: usize,
}

impl Retries {
    pub(crate) fn new(policy: &RetryPolicy) -> Self {
        Self { policy: policy.clone(), done: 0 }
    }

    /// Something arrived, so the next failure is a new one.
    pub(crate) fn reset(&mut self) {
        self.done = 0;
    }

    /// Waits before the next attempt, or gives up with what went wrong.
    pub(crate) async fn wait(&mut self, named: Option<Duration>, location: &str, message: &str) -> Result<()> {
        if self.done >= self.policy.most_retries {
            return Err(DatasetError::Transient {
                location: location.to_owned(),
                message: format!("{message}, after {} retries", self.done),
            });
        }
        let wait = match named {
            Some(named) => named.min(self.policy.longest_named_wait),
            None => {
                let factor = 2_u32.saturating_pow(u32::try_from(self.done).unwrap_or(u32::MAX));
                let longest = self.policy.first_wait.saturating_mul(factor).min(self.policy.longest_wait);
                longest.mul_f64(rand::rng().random_range(0.5..=1.0))
            }
        };
        self.done += 1;
        let (retry, seconds) = (self.done, wait.as_secs_f32());
        // Whoever waits for long should know what for.
        if wait >= SHOWN {
            tracing::warn!(location, message, retry, seconds, "asking again");
        } else {
            tracing::info!(location, message, retry, seconds, "asking again");
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

/// The error for an answer with a status that no repetition changes.
pub(crate) async fn refused(location: &str, response: Response) -> DatasetError {
    let status = response.status();
    let of_header = |name: &'static str| {
        response.headers().get(HeaderName::from_static(name)).and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    let code = of_header("x-error-code").unwrap_or_default();
    let said = of_header("x-error-message");
    let said = match said {
        Some(said) => said,
        None => response.text().await.unwrap_or_default(),
    };
    let location = location.to_owned();
    let message = shorten(&redact(&format!("status {}{}", status.as_u16(), phrase(&said))));
    match (status.as_u16(), code.as_str()) {
        (_, "RepoNotFound") => DatasetError::NotFound {
            location,
            hint: Some(
                "there is no such repository, or it is private: set HF_TOKEN to a token that may read it".to_owned(),
            ),
        },
        (_, "RevisionNotFound") => {
            DatasetError::NotFound { location, hint: Some("the repository has no such revision".to_owned()) }
        }
        (_, "EntryNotFound") | (404 | 410, _) => DatasetError::NotFound { location, hint: None },
        (401 | 403, _) => denied(location, &message),
        (416, _) => DatasetError::Changed { location, message: "it is shorter than it was".to_owned() },
        _ => DatasetError::Store { location, message },
    }
}

fn phrase(said: &str) -> String {
    let said = said.trim();
    // The Hub answers `{"error": "…"}`; pages of other servers say nothing that helps.
    let error = serde_json::from_str::<serde_json::Value>(said)
        .ok()
        .and_then(|value| value.get("error").and_then(|error| error.as_str()).map(str::to_owned));
    match error {
        Some(error) => format!(": {error}"),
        None if said.is_empty() || said.starts_with('<') => String::new(),
        None => format!(": {said}"),
    }
}

fn is_later(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// `Retry-After`, or the time until the window of `RateLimit: "…";r=0;t=55` ends.
fn named_wait(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(wait) = text("retry-after").and_then(retry_after) {
        return Some(wait);
    }
    let parameters = text("ratelimit")?;
    let parameter = |name: &str| {
        parameters.split(';').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('=')?.parse::<u64>().ok())
    };
    (parameter("r")? == 0).then_some(())?;
    parameter("t").map(Duration::from_secs)
}

/// Shared by all stores of the Hub.
pub(crate) type SharedClient = Arc<Client>;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(&[("retry-after", "7")], Some(7))]
    #[case(&[("ratelimit", "\"resolvers\";r=0;t=55")], Some(55))]
    #[case(&[("ratelimit", "\"api\";r=3;t=55")], None)]
    #[case(&[("retry-after", "2"), ("ratelimit", "\"api\";r=0;t=55")], Some(2))]
    #[case(&[], None)]
    fn named_waits(#[case] headers: &[(&'static str, &str)], #[case] seconds: Option<u64>) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        assert_eq!(named_wait(&map), seconds.map(Duration::from_secs));
    }

    #[tokio::test(start_paused = true)]
    async fn waits_grow_and_end() {
        let policy = RetryPolicy {
            most_retries: 4,
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_secs(3),
            longest_named_wait: Duration::from_secs(60),
        };
        let mut retries = Retries::new(&policy);
        for longest in [1.0, 2.0, 3.0, 3.0] {
            let begin = Instant::now();
            retries.wait(None, "hf://x", "no").await.unwrap();
            let waited = begin.elapsed().as_secs_f64();
            assert!(waited >= longest / 2.0 - 0.01 && waited <= longest + 0.01, "{waited} of {longest}");
        }
        assert!(retries.wait(None, "hf://x", "no").await.unwrap_err().is_transient());
        retries.reset();
        let begin = Instant::now();
        retries.wait(Some(Duration::from_secs(1_000)), "hf://x", "no").await.unwrap();
        assert_eq!(begin.elapsed().as_secs(), 60, "a named wait is bounded, too");
    }
}

//! How all network stores reach their servers: one HTTP client, connections kept and shared between stores.
//!
//! Two things differ from what `object_store` does by itself. A request is bounded by the time between two reads and not by
//! its whole duration, because a slow consumer may take hours over one large file. And an answer 429 or 503 that says
//! when to come back is obeyed before the retry logic of `object_store` sees it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::redirect::Policy;
use tokio::runtime::Handle;

use super::RetryPolicy;
use super::errors::concise;
use crate::{DatasetError, Result};

const USER_AGENT: &str = concat!("gristmill/", env!("CARGO_PKG_VERSION"));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// How long the metadata service of a cloud machine may take. It is next to the machine; elsewhere nothing answers.
const METADATA_TIMEOUT: Duration = Duration::from_secs(3);
/// Where the metadata services of the clouds give credentials.
const METADATA_PATHS: [&str; 4] =
    ["/latest/api/token", "/latest/meta-data/", "/computeMetadata/v1/", "/metadata/identity/oauth2/"];

/// There are no credentials in the settings, and no cloud machine around this process to ask for some.
#[derive(Debug, thiserror::Error)]
#[error("no credentials are set, and this is no cloud machine with a role that gives some")]
pub(crate) struct NoCredentials;

/// Makes a client. Proxies come from `HTTPS_PROXY` and its like, certificates from the system.
pub(crate) fn client(read_timeout: Duration, redirects: Policy) -> Result<reqwest::Client> {
    super::install_crypto_provider();
    reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(read_timeout)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .tcp_keepalive(Duration::from_secs(60))
        .redirect(redirects)
        .build()
        .map_err(|error| DatasetError::Store { location: "network".to_owned(), message: concise(&error) })
}

/// Gives the stores of `object_store` the shared client.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    pub(crate) client: reqwest::Client,
    pub(crate) io_runtime: Option<Handle>,
    pub(crate) retry: RetryPolicy,
    /// What every request is authorised with, where the store does not sign requests itself. It goes to no other host.
    pub(crate) authorization: Option<HeaderValue>,
}

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Service { connector: self.clone(), failures: AtomicU32::new(0) }))
    }
}

#[derive(Debug)]
struct Service {
    connector: Connector,
    /// Requests in a row that had no answer.
    failures: AtomicU32,
}

/// So many requests without an answer, and every so many more, are shown to whoever runs the program: `object_store` repeats them without a word.
const SHOWN_FAILURES: u32 = 4;

impl Service {
    fn count(&self, host: &str, answer: &Result<HttpResponse, HttpError>) {
        let Err(error) = answer else {
            self.failures.store(0, Ordering::Relaxed);
            return;
        };
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if failures.is_multiple_of(SHOWN_FAILURES) {
            tracing::warn!(host, failures, message = concise(error), "the store does not answer; asking again");
        }
    }
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let Connector { client, io_runtime, retry, authorization } = &self.connector;
        let (client, host) = (client.clone(), request.uri().host().unwrap_or_default().to_owned());
        if let Some(authorization) = authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        if METADATA_PATHS.iter().any(|path| request.uri().path().starts_with(path)) {
            // Without this, a machine outside a cloud would try for minutes to get a role before it says what is missing.
            let answer = tokio::time::timeout(METADATA_TIMEOUT, client.call(request)).await;
            return match answer {
                // Something else answers in its place, or there is no role: an error of its own would blame the store.
                Ok(Ok(response))
                    if response.status().is_client_error() && response.status() != StatusCode::TOO_MANY_REQUESTS =>
                {
                    Err(HttpError::new(HttpErrorKind::Unknown, NoCredentials))
                }
                Ok(Ok(response)) => Ok(response),
                _ => Err(HttpError::new(HttpErrorKind::Unknown, NoCredentials)),
            };
        }
        let answer = on_runtime(io_runtime.as_ref(), async move { client.call(request).await })
            .await
            .unwrap_or_else(|error| Err(HttpError::new(HttpErrorKind::Interrupted, error)));
        self.count(&host, &answer);
        let response = answer?;
        if matches!(response.status().as_u16(), 429 | 503) {
            let named = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
            if let Some(wait) = named.and_then(retry_after) {
                let wait = wait.min(retry.longest_named_wait);
                tracing::info!(seconds = wait.as_secs_f32(), "the store asks to wait before the next request");
                tokio::time::sleep(wait).await;
            }
        }
        Ok(response)
    }
}

/// Runs a request where I/O belongs. The task that drives the connection stays on that runtime, so that reading goes on
/// while the threads of the caller compute; the body is handed over with backpressure.
pub(crate) async fn on_runtime<T: Send + 'static>(
    runtime: Option<&Handle>,
    request: impl Future<Output = T> + Send + 'static,
) -> Result<T, tokio::task::JoinError> {
    match runtime {
        Some(runtime) => AbortOnDrop(runtime.spawn(request)).join().await,
        None => Ok(request.await),
    }
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> AbortOnDrop<T> {
    async fn join(mut self) -> Result<T, tokio::task::JoinError> {
        (&mut self.0).await
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Reads a `Retry-After` header: seconds, or a date.
#[must_use]
pub fn retry_after(value: &str) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let at = chrono::DateTime::parse_from_rfc2822(value).ok()?;
    Some((at.to_utc() - chrono::Utc::now()).to_std().unwrap_or_default())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn reads_retry_after() {
        assert_eq!(retry_after("3"), Some(Duration::from_secs(3)));
        assert_eq!(retry_after(" 0 "), Some(Duration::ZERO));
        assert_eq!(retry_after("-1"), None);
        assert_eq!(retry_after("soon"), None);
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        let later = chrono::Utc::now() + chrono::TimeDelta::seconds(100);
        let wait = retry_after(&later.to_rfc2822()).unwrap();
        assert!((97..=100).contains(&wait.as_secs()), "{wait:?}");
    }
}

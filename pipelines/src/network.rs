//! The network of operators: posts over HTTP, driven by the runtime that does all reading and writing.

use std::error::Error;
use std::sync::OnceLock;
use std::time::Duration;

use gristmill_datasets::Environment;
use gristmill_operators::network::{Hold, Network, Post, PostDone, PostError, Posted, Secret};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use tokio::runtime::Handle;

use crate::under_way::UnderWay;

const USER_AGENT: &str = concat!("gristmill/", env!("CARGO_PKG_VERSION"));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// Posts over HTTP.
#[derive(Debug)]
pub(crate) struct HttpNetwork {
    client: OnceLock<reqwest::Client>,
    runtime: Handle,
    variables: Environment,
    under_way: UnderWay,
}

impl HttpNetwork {
    /// Requests run on `runtime`, secrets come from `variables`.
    pub(crate) fn new(runtime: Handle, variables: Environment, under_way: UnderWay) -> Self {
        Self { client: OnceLock::new(), runtime, variables, under_way }
    }

    fn client(&self) -> Result<reqwest::Client, PostError> {
        if let Some(client) = self.client.get() {
            return Ok(client.clone());
        }
        gristmill_datasets::install_crypto_provider();
        // A redirected post would become a request without a body. What answers so is not the endpoint.
        let client = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .tcp_keepalive(Duration::from_secs(60))
            .redirect(Policy::none())
            .build()
            .map_err(|error| PostError::Unsendable(chain(&error)))?;
        Ok(self.client.get_or_init(|| client).clone())
    }
}

impl Network for HttpNetwork {
    fn post(&self, post: Post, done: PostDone) {
        match self.client() {
            Ok(client) => drop(self.runtime.spawn(async move { done(send(client, post).await) })),
            Err(error) => done(Err(error)),
        }
    }

    fn secret(&self, variable: &str) -> Option<Secret> {
        self.variables.get(variable).map(Secret::new)
    }

    fn hold(&self) -> Option<Hold> {
        Some(Box::new(self.under_way.begin()?))
    }
}

async fn send(client: reqwest::Client, post: Post) -> Result<Posted, PostError> {
    let mut request =
        client.post(&post.url).header(CONTENT_TYPE, "application/json").timeout(post.timeout).body(post.body);
    if let Some(bearer) = &post.bearer {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", bearer.reveal())).map_err(|_| {
            PostError::Unsendable("the key holds a character that cannot be sent, such as a line end".to_owned())
        })?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    let failed = |error: reqwest::Error| {
        let error = error.without_url();
        if error.is_timeout() && !error.is_connect() {
            PostError::Timeout(post.timeout)
        } else if error.is_builder() {
            PostError::Unsendable(chain(&error))
        } else {
            PostError::Connection(chain(&error))
        }
    };
    let response = request.send().await.map_err(failed)?;
    let status = response.status().as_u16();
    let named = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = named.and_then(gristmill_datasets::retry_after);
    let body = response.bytes().await.map_err(failed)?;
    Ok(Posted { status, retry_after, body })
}

/// An error with its causes, without repeating what a cause says already.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

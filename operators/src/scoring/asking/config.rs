//! What a configuration says of the language model that is asked.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::endpoint::Endpoint;
use super::{Answerer, LocalModel};
use crate::config::invalid;
use crate::models::generate::Limits;
use crate::scoring::Precision;
use crate::{Resources, Result};

/// An endpoint that speaks the protocol of OpenAI, such as vLLM, SGLang, llama.cpp, Ollama, or OpenAI itself.
///
/// Nothing but the address, the model's name and `body` can change an answer. The other settings may change between a run and its resumption.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EndpointConfig {
    /// The address that `/chat/completions` is appended to, such as `http://localhost:8000/v1`.
    pub url: String,
    /// The model's name, as the endpoint knows it.
    pub model: String,
    /// The environment variable that holds the key. Without it no key is sent. The key is in no record, log or message.
    #[serde(default)]
    pub key_env: Option<String>,
    /// Requests under way at the same time in one process, at most 4096.
    #[serde(default = "default_concurrency")]
    pub concurrency: usize,
    /// Requests begun in a minute at most, repeated ones counted.
    #[serde(default)]
    pub requests_per_minute: Option<u32>,
    /// Seconds until a response must be there, at most 86400.
    #[serde(default = "default_timeout")]
    pub timeout: f64,
    /// How often a request is sent at most. It is repeated after a timeout, a lost connection and the statuses 408, 409, 429 and 5xx, after waits that
    /// double from 0.2 to 30 seconds, or after the wait that the server names. The ten of the default take a minute and a half of waiting.
    #[serde(default = "default_attempts")]
    pub attempts: u32,
    /// Further keys of the request's body, for settings that only some endpoints know. `null` leaves a key out that would be sent:
    /// `{max_tokens: null, max_completion_tokens: 16}`.
    #[serde(default)]
    pub body: Map<String, Value>,
}

fn default_concurrency() -> usize {
    16
}

fn default_timeout() -> f64 {
    120.0
}

fn default_attempts() -> u32 {
    10
}

/// Keys of `endpoint` that cannot change an answer.
const OPERATION: [&str; 5] = ["key_env", "concurrency", "requests_per_minute", "timeout", "attempts"];

/// The configuration without what cannot change a result: how an endpoint is reached, and where answers are kept.
pub(in crate::scoring) fn identity(config: &Value) -> Value {
    let mut config = config.clone();
    if let Some(map) = config.as_object_mut() {
        map.shift_remove("cache");
        if let Some(endpoint) = map.get_mut("endpoint").and_then(Value::as_object_mut) {
            OPERATION.iter().for_each(|key| drop(endpoint.shift_remove(*key)));
        }
    }
    config
}

/// Who answers, as a configuration names them.
pub(in crate::scoring) struct BackEnd<'a> {
    pub(in crate::scoring) kind: &'static str,
    pub(in crate::scoring) endpoint: Option<&'a EndpointConfig>,
    pub(in crate::scoring) model: Option<&'a str>,
    pub(in crate::scoring) adapter: Option<&'a str>,
    pub(in crate::scoring) tokenizer: Option<&'a str>,
    pub(in crate::scoring) precision: Precision,
    pub(in crate::scoring) cache: Option<&'a str>,
    /// Whether texts are cut after so many tokens of `tokenizer`.
    pub(in crate::scoring) max_text_tokens: Option<usize>,
    /// Whether prompts are messages to answer.
    pub(in crate::scoring) chat: bool,
}

impl BackEnd<'_> {
    /// Refuses what contradicts itself; needs no file and no network.
    pub(in crate::scoring) fn check(&self) -> Result<()> {
        if self.cache == Some("") {
            return Err(invalid(self.kind, "cache", "the location is empty; leave 'cache' out for the run's folder"));
        }
        match (self.endpoint, self.model) {
            (Some(_), Some(_)) => Err(invalid(
                self.kind,
                "model",
                "'endpoint' is given, too; the model of an endpoint is 'endpoint.model', and 'model' is one of this process",
            )),
            (None, None) => Err(invalid(
                self.kind,
                "",
                "nobody is named who answers; give 'endpoint: {url: …, model: …}', or 'model' with a folder, URL or repository",
            )),
            (Some(_), None) if self.adapter.is_some() => Err(invalid(
                self.kind,
                "adapter",
                "an endpoint has its own; an adapter belongs to a 'model' in this process",
            )),
            (Some(_), None) if self.precision != Precision::default() => Err(invalid(
                self.kind,
                "precision",
                "an endpoint has its own; a precision belongs to a 'model' in this process",
            )),
            (Some(_), None) if self.tokenizer.is_some() && self.max_text_tokens.is_none() => Err(invalid(
                self.kind,
                "tokenizer",
                "an endpoint has its own; here it only counts tokens for 'max_text_tokens', which is not given",
            )),
            (Some(endpoint), None) => endpoint.check(self.kind),
            (None, Some(_)) if self.cache.is_some() => {
                Err(invalid(self.kind, "cache", "answers of a model in this process are not kept; leave 'cache' out"))
            }
            (None, Some(_)) => Ok(()),
        }
    }

    /// The one who answers.
    pub(in crate::scoring) fn open(&self, resources: &Resources) -> Result<Arc<dyn Answerer>> {
        self.check()?;
        match (self.endpoint, self.model) {
            (Some(endpoint), _) => Ok(Arc::new(Endpoint::new(self.kind, endpoint, self.cache, resources)?)),
            (None, model) => {
                let model = model.unwrap_or_default();
                let (adapter, tokenizer, limits) = (self.adapter, self.tokenizer, Limits::default());
                let answerer = LocalModel::load(model, adapter, tokenizer, self.precision, limits, resources)?;
                if self.chat && !answerer.has_chat_template() {
                    let message = format!(
                        "'{model}' has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json); a model that \
                         follows instructions has one. 'generate' with 'chat: false' needs none"
                    );
                    return Err(invalid(self.kind, "model", message));
                }
                Ok(Arc::new(answerer))
            }
        }
    }
}

impl EndpointConfig {
    fn check(&self, kind: &str) -> Result<()> {
        let wrong = |key: &str, message: String| Err(invalid(kind, &format!("endpoint.{key}"), message));
        let rest = self.url.strip_prefix("https://").or_else(|| self.url.strip_prefix("http://"));
        let Some(rest) = rest.filter(|rest| !rest.is_empty() && !rest.starts_with('/')) else {
            // The address may hold credentials, so it is not repeated.
            return wrong("url", "not an address; give one that begins with http:// or https://".to_owned());
        };
        if rest.split('/').next().unwrap_or_default().contains('@') {
            return wrong(
                "url",
                "the address holds credentials; put the key into an environment variable and name it in 'key_env'"
                    .to_owned(),
            );
        }
        if rest.contains(['?', '#']) {
            return wrong(
                "url",
                "give the address without '?' and '#'; '/chat/completions' is appended to it".to_owned(),
            );
        }
        if rest.contains(char::is_whitespace) {
            return wrong("url", "the address holds white space".to_owned());
        }
        if self.model.is_empty() {
            return wrong("model", "the name is empty".to_owned());
        }
        if self.concurrency == 0 || self.concurrency > 4096 {
            return wrong("concurrency", format!("{}; 1 to 4096 are allowed", self.concurrency));
        }
        if self.attempts == 0 || self.attempts > 1000 {
            return wrong("attempts", format!("{}; 1 to 1000 are allowed", self.attempts));
        }
        if self.requests_per_minute == Some(0) {
            return wrong("requests_per_minute", "0; at least 1 is allowed".to_owned());
        }
        // Also where it is not a number.
        if !(self.timeout > 0.0 && self.timeout <= 86_400.0) {
            return wrong("timeout", format!("{} seconds; more than 0 and at most 86400 are allowed", self.timeout));
        }
        for key in ["model", "messages", "prompt", "stream", "n"] {
            if self.body.contains_key(key) {
                return wrong("body", format!("'{key}' is set by this program and cannot be given here"));
            }
        }
        Ok(())
    }
}

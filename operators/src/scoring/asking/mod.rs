//! Asking a language model for text: what is asked, what comes back, and who answers.
//!
//! The operators `judge` and `generate` make a [`Request`] of each row and give all requests of a batch to an [`Answerer`] at once:
//! a model in this process, or an endpoint elsewhere. They do not know which.

mod config;
mod endpoint;
mod keys;
mod local;
mod operator;
mod prompt;
mod row;
#[cfg(test)]
mod tests;

use std::fmt::Debug;

use serde::{Deserialize, Serialize};

pub use self::config::EndpointConfig;
pub(super) use self::config::{BackEnd, identity};
pub(super) use self::keys::asking_config;
pub use self::local::LocalModel;
pub(super) use self::operator::{Asking, Columns, OnError, Row};
pub(super) use self::prompt::Prompting;
use crate::ResourceIdentity;

/// What a language model is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// What the model reads.
    pub input: Input,
    /// How its answer is made.
    pub sampling: Sampling,
}

/// What the model reads.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// A conversation, put into text by the model's chat template with the marker that begins an answer behind it. Never empty.
    Messages(Vec<Message>),
    /// A text that the model continues as it stands, without a chat template; special tokens are added as its tokenizer does.
    Prompt(String),
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, or what else the model's template knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

/// How an answer is made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// The answer ends after so many tokens; at least 1.
    pub max_tokens: u32,
    /// Logits are divided by this before a token is drawn; 0 takes the likeliest token, and then `top_p` and `seed` have no effect.
    pub temperature: f32,
    /// A token is drawn from the likeliest ones whose probabilities sum to at least this, in (0, 1].
    pub top_p: f32,
    /// The answer ends before the first of these texts, which is not part of it.
    pub stop: Vec<String>,
    /// Where random draws begin. An answer depends on the request and this seed, never on requests beside it; left out, a model in this
    /// process takes 0, and an endpoint what it likes.
    pub seed: Option<u64>,
}

/// What a language model answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The text, without special tokens.
    pub text: String,
    /// Why it ends.
    pub finish: Finish,
    /// Tokens that were read, where the answerer says so.
    pub prompt_tokens: Option<u32>,
    /// Tokens that were written, where the answerer says so.
    pub tokens: Option<u32>,
}

/// Why an answer ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model ended it, or a stop text came.
    Stop,
    /// It reached `max_tokens`, or the model's context is full.
    Length,
    /// Another reason of an endpoint, such as `content_filter`, as the endpoint says it.
    #[serde(untagged)]
    Other(String),
}

impl Finish {
    /// `stop`, `length`, or the endpoint's own word.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Other(reason) => reason,
        }
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// This request has no answer, others may have one: too long a prompt, a server that fails, an answer that cannot be read. The operators'
    /// `on_error` says what becomes of the row.
    #[error("{0}")]
    Request(String),
    /// No request can have an answer: a wrong key, an unknown model, a store of answers that cannot be written. The run ends.
    #[error("{0}")]
    Answerer(String),
}

/// A language model, wherever it is.
pub trait Answerer: Debug + Send + Sync {
    /// One result for each request, in order. An answer does not depend on the requests beside it.
    fn answer(&self, requests: &[Request]) -> Vec<Result<Answer, AskError>>;

    /// What influences the answers, for the run's fingerprint; without secrets.
    fn identities(&self) -> Vec<ResourceIdentity>;
}

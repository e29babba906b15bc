//! Chat templates: how a model wants a conversation written as one text.
//!
//! A template is a program in Jinja beside the tokenizer. It is read as transformers reads it, in this order: `chat_template.jinja`, then
//! `chat_template` of `tokenizer_config.json`, a text, or a list of named ones of which the one called `default` is taken. It runs in the environment that
//! transformers gives it (blocks trimmed, loop controls, `{% generation %}`, `raise_exception`, `strftime_now`, `tojson` as Python writes JSON,
//! Python's methods of texts, lists and dicts), with `messages`, `add_generation_prompt`, and the special tokens by their names (`bos_token`,
//! `eos_token`, …). `tools` and `documents` are none.
//!
//! `strftime_now` gives the machine's local time, as in transformers: a template that calls it makes other texts on other days.

mod environment;
mod json;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde::Serialize;

use super::error::{ModelError, Result};
use super::files::ModelFiles;
use crate::tokens::Tokenizer;
use crate::{ResourceIdentity, Resources};

const FILE: &str = "chat_template.jinja";
const CONFIG: &str = "tokenizer_config.json";
const KEY: &str = "chat_template";
/// The template that is taken of several.
const DEFAULT: &str = "default";

/// A model's chat template with its special tokens.
///
/// ```
/// use gristmill_operators::models::chat::ChatTemplate;
/// use serde_json::json;
///
/// let template = ChatTemplate::new(
///     "{% for m in messages %}[{{ m.role }}] {{ m.content.strip() }}{{ eos_token }}{% endfor %}",
///     [("eos_token".to_owned(), "</s>".to_owned())],
/// )?;
/// let text = template.render(&[json!({"role": "user", "content": "Good morning "})], true)?;
/// assert_eq!(text, "[user] Good morning</s>");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: BTreeMap<String, String>,
}

/// What is wrong with a template, or with a conversation that it does not take.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The template says that it does not take the conversation.
    #[error("the chat template refuses the conversation: {0}")]
    Refused(String),
    /// The template cannot be read, or fails.
    #[error("chat template: {0}")]
    Template(String),
}

impl ChatTemplate {
    /// A template of its text, and special tokens by the names that it has for them.
    ///
    /// # Errors
    /// A text that is not a template.
    pub fn new(source: &str, special_tokens: impl IntoIterator<Item = (String, String)>) -> Result<Self, ChatError> {
        let environment = environment::environment(source).map_err(failed)?;
        Ok(Self { environment, special_tokens: special_tokens.into_iter().collect() })
    }

    /// The template of the model at a location; `None` where there is none. The identities are those of the files that were read.
    ///
    /// # Errors
    /// A file that cannot be read as what it is, or several templates of which none is called `default`.
    pub fn load(location: &str, resources: &Resources) -> Result<(Option<Self>, Vec<ResourceIdentity>)> {
        let files = ModelFiles::new(location, resources);
        let config = files.read_if_there(CONFIG)?;
        let path = files.path(CONFIG);
        let malformed = |message: String| ModelError::Malformed { path: path.clone(), message };
        let config: serde_json::Value = match &config {
            Some(bytes) => serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?,
            None => serde_json::Value::Null,
        };
        let (source, source_path) = match files.read_if_there(FILE)? {
            Some(bytes) => {
                let path = files.path(FILE);
                let text = String::from_utf8(bytes.to_vec());
                let text =
                    text.map_err(|error| ModelError::Malformed { path: path.clone(), message: error.to_string() })?;
                (Some(text), path)
            }
            None => (in_config(&config).map_err(malformed)?, path),
        };
        let Some(source) = source else { return Ok((None, files.identities())) };
        let mut special_tokens = special_tokens(&config);
        if let Some(bytes) = files.read_if_there("special_tokens_map.json")? {
            let path = files.path("special_tokens_map.json");
            let map = serde_json::from_slice(&bytes)
                .map_err(|error| ModelError::Malformed { path, message: error.to_string() })?;
            for (name, token) in self::special_tokens(&map) {
                special_tokens.entry(name).or_insert(token);
            }
        }
        let template = Self::new(&source, special_tokens)
            .map_err(|error| ModelError::Malformed { path: source_path, message: error.to_string() })?;
        Ok((Some(template), files.identities()))
    }

    /// The text of a conversation: messages with `role`, `content` and what else the template knows. With `answer` the marker that begins an
    /// answer of the model stands at the end, where the template has one.
    ///
    /// # Errors
    /// A conversation that the template refuses or cannot put into text.
    pub fn render<M: Serialize>(&self, messages: &[M], answer: bool) -> Result<String, ChatError> {
        let none = || Value::from(());
        let own = context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt => answer,
            tools => none(),
            documents => none(),
        };
        let values = context! { ..own, ..Value::from(Serde(&self.special_tokens)) };
        let template = self.environment.get_template(environment::NAME).map_err(failed)?;
        template.render(values).map_err(failed)
    }

    /// Token ids of a text that was rendered: special tokens are those that the template writes, and none is added, as transformers
    /// tokenises a chat.
    ///
    /// # Errors
    /// A text that the tokenizer cannot encode.
    pub fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        tokenizer.encode(text, false, &mut ids)?;
        Ok(ids)
    }
}

/// The template in `tokenizer_config.json`.
fn in_config(config: &serde_json::Value) -> Result<Option<String>, String> {
    use serde_json::Value;
    let list = match config.get(KEY) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(source)) => return Ok(Some(source.clone())),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(format!("'{KEY}' is {other}, and a text or a list of named ones is expected")),
    };
    let text = |entry: &Value, key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
    let named: Option<Vec<_>> = list.iter().map(|entry| text(entry, "name").zip(text(entry, "template"))).collect();
    let named = named.ok_or_else(|| format!("'{KEY}' is a list, and each element needs a 'name' and a 'template'"))?;
    let names: Vec<String> = named.iter().map(|(name, _)| name.clone()).collect();
    match named.into_iter().find(|(name, _)| name == DEFAULT) {
        Some((_, source)) => Ok(Some(source)),
        None if names.is_empty() => Ok(None),
        None => Err(format!("'{KEY}' has the templates {}, and none is called '{DEFAULT}'", names.join(", "))),
    }
}

/// Special tokens by name: texts, or objects with the text as `content`.
fn special_tokens(config: &serde_json::Value) -> BTreeMap<String, String> {
    let entries = config.as_object().into_iter().flatten();
    // What transformers 5 knows beside the usual ones stands in an object of its own.
    let more = config.get("extra_special_tokens").and_then(serde_json::Value::as_object).into_iter().flatten();
    entries
        .filter(|(name, _)| name.ends_with("_token"))
        .chain(more)
        .filter_map(|(name, token)| {
            let text = token.as_str().or_else(|| token.get("content")?.as_str())?;
            Some((name.clone(), text.to_owned()))
        })
        .collect()
}

fn failed(error: Error) -> ChatError {
    // An error within a macro or block is the cause of one about that.
    let mut innermost = &error;
    while let Some(cause) = std::error::Error::source(innermost).and_then(|cause| cause.downcast_ref::<Error>()) {
        innermost = cause;
    }
    if innermost.kind() == ErrorKind::InvalidOperation
        && let Some(message) = innermost.detail().and_then(|detail| detail.strip_prefix(environment::RAISED))
    {
        return ChatError::Refused(message.to_owned());
    }
    let line = innermost.line().map(|line| format!(" (line {line})")).unwrap_or_default();
    ChatError::Template(format!("{innermost}{line}"))
}

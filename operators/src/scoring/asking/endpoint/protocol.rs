//! The bodies of requests and responses: OpenAI's `chat/completions` and `completions`.
//!
//! <https://platform.openai.com/docs/api-reference/chat/create>, <https://platform.openai.com/docs/api-reference/completions/create>.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::super::config::EndpointConfig;
use super::super::{Answer, Finish, Input, Request};
use crate::network::Secret;
use crate::records::RecordKey;

/// So many characters of a response are shown in a message.
const SHOWN: usize = 200;

/// A request as it is sent.
#[derive(Clone, Debug)]
pub(super) struct Encoded {
    pub(super) url: String,
    pub(super) body: Bytes,
    /// BLAKE3 of address and body, which say all that an answer depends on.
    pub(super) key: RecordKey,
}

/// The request in the endpoint's words.
pub(super) fn encode(endpoint: &EndpointConfig, request: &Request) -> Encoded {
    let mut body = Map::new();
    body.insert("model".to_owned(), endpoint.model.clone().into());
    let path = match &request.input {
        Input::Messages(messages) => {
            body.insert("messages".to_owned(), json!(messages));
            "chat/completions"
        }
        Input::Prompt(prompt) => {
            body.insert("prompt".to_owned(), prompt.clone().into());
            "completions"
        }
    };
    let sampling = &request.sampling;
    body.insert("max_tokens".to_owned(), sampling.max_tokens.into());
    body.insert("temperature".to_owned(), decimal(sampling.temperature));
    if sampling.temperature > 0.0 && sampling.top_p < 1.0 {
        body.insert("top_p".to_owned(), decimal(sampling.top_p));
    }
    if !sampling.stop.is_empty() {
        body.insert("stop".to_owned(), json!(sampling.stop));
    }
    if let Some(seed) = sampling.seed {
        body.insert("seed".to_owned(), seed.into());
    }
    for (key, value) in &endpoint.body {
        match value {
            Value::Null => drop(body.shift_remove(key)),
            value => drop(body.insert(key.clone(), value.clone())),
        }
    }
    let url = format!("{}/{path}", endpoint.url.trim_end_matches('/'));
    let body = Bytes::from(Value::Object(body).to_string());
    let mut hasher = blake3::Hasher::new_derive_key("gristmill 2026-11 answer of an endpoint");
    // The context changes whenever the form in which answers are kept does.
    hasher.update(url.as_bytes()).update(&[0]).update(&body);
    Encoded { url, body, key: *hasher.finalize().as_bytes() }
}

/// The number as it was written, 0.7, and not as the nearest double to the nearest float.
fn decimal(number: f32) -> Value {
    number.to_string().parse::<f64>().ok().and_then(serde_json::Number::from_f64).map_or(Value::Null, Value::Number)
}

/// Why a response of status 200 gives no answer. The message holds no secret.
#[derive(Debug)]
pub(super) enum Malformed {
    /// It is no response of such an endpoint; the next one may be.
    Response(String),
    /// The model answered, and there is no text in it: a refusal, or a limit that was reached before the text began.
    Answer(String),
}

/// The answer in a response of status 200.
pub(super) fn decode(body: &[u8], secret: Option<&Secret>) -> Result<Answer, Malformed> {
    let shown = |text: &str| shown(text, secret);
    let value: Value = serde_json::from_slice(body).map_err(|error| {
        Malformed::Response(format!("the response is no JSON ({error}): {}", shown(&String::from_utf8_lossy(body))))
    })?;
    let malformed = |what: &str| format!("the response {what}: {}", shown(&value.to_string()));
    let choice = value.pointer("/choices/0").ok_or_else(|| Malformed::Response(malformed("has no 'choices[0]'")))?;
    let finish = match choice.get("finish_reason").and_then(Value::as_str) {
        Some("stop") | None => Finish::Stop,
        Some("length") => Finish::Length,
        Some(other) => Finish::Other(other.to_owned()),
    };
    let content = choice.pointer("/message/content").or_else(|| choice.get("text"));
    let text = match content {
        Some(Value::String(text)) => text.clone(),
        // A list of parts, of which those of text count.
        Some(Value::Array(parts)) => parts.iter().filter_map(|part| part.get("text")?.as_str()).collect(),
        _ => {
            let refusal = choice.pointer("/message/refusal").and_then(Value::as_str);
            let reason = refusal.map_or_else(|| format!("it ended with '{}'", finish.as_str()), shown);
            return Err(Malformed::Answer(malformed(&format!("has no text, {reason}"))));
        }
    };
    let usage = |key: &str| value.get("usage")?.get(key)?.as_u64()?.try_into().ok();
    Ok(Answer { text, finish, prompt_tokens: usage("prompt_tokens"), tokens: usage("completion_tokens") })
}

/// What a response of another status says.
pub(super) fn explain(status: u16, body: &[u8], secret: Option<&Secret>) -> String {
    let value: Option<Value> = serde_json::from_slice(body).ok();
    let message = value.as_ref().and_then(|value| {
        ["/error/message", "/message", "/detail", "/error"].iter().find_map(|path| value.pointer(path)?.as_str())
    });
    let text = message.map_or_else(|| String::from_utf8_lossy(body).into_owned(), str::to_owned);
    if text.trim().is_empty() {
        format!("status {status}")
    } else {
        format!("status {status}: {}", shown(&text, secret))
    }
}

/// The beginning of a text. A secret goes before the text is cut, so that no part of it is left.
fn shown(text: &str, secret: Option<&Secret>) -> String {
    let text = secret.map_or_else(|| text.to_owned(), |secret| secret.hide_in(text));
    let text = text.trim();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

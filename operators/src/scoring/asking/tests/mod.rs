//! `judge` and `generate` against a scripted network.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod answers;
mod columns;
mod failures;
mod local;
mod prompts;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch, StringArray};
use serde_json::{Value, json};

use crate::network::{Hold, Network, Post, PostDone, PostError, Posted, Secret};
use crate::{OperatorSpec, Registry, Resources, apply};

const KEY: &str = "sk-0123456789";

/// What the script says to a request: how long it takes, and how it ends.
pub(super) struct Reply(Duration, Result<Posted, PostError>);

impl Reply {
    /// An answer of that text.
    fn text(text: &str) -> Self {
        let body = json!({"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 7, "completion_tokens": text.len()}});
        Self::status(200, &body.to_string())
    }

    fn status(status: u16, body: &str) -> Self {
        Self(Duration::ZERO, Ok(Posted { status, retry_after: None, body: body.to_owned().into() }))
    }

    fn lost() -> Self {
        Self(Duration::ZERO, Err(PostError::Connection("connection refused".to_owned())))
    }

    fn after(mut self, wait: Duration) -> Self {
        self.0 = wait;
        self
    }

    fn retry_after(mut self, wait: Duration) -> Self {
        if let Ok(posted) = &mut self.1 {
            posted.retry_after = Some(wait);
        }
        self
    }
}

/// A network whose server is a function of the request's body and of how often that body came before.
pub(super) struct Scripted {
    script: Box<dyn Fn(&Value, usize) -> Reply + Send + Sync>,
    posts: Mutex<Vec<(Instant, Post)>>,
    times: Mutex<HashMap<Vec<u8>, usize>>,
    /// Requests under way, and the most there were.
    under_way: Arc<Mutex<(usize, usize)>>,
    stops: Mutex<bool>,
}

impl Scripted {
    fn new(script: impl Fn(&Value, usize) -> Reply + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            script: Box::new(script),
            posts: Mutex::default(),
            times: Mutex::default(),
            under_way: Arc::default(),
            stops: Mutex::default(),
        })
    }

    /// Bodies, in the order in which they came.
    fn bodies(&self) -> Vec<Value> {
        self.posts.lock().unwrap().iter().map(|(_, post)| serde_json::from_slice(&post.body).unwrap()).collect()
    }

    fn number(&self) -> usize {
        self.posts.lock().unwrap().len()
    }

    fn resources(self: &Arc<Self>) -> Resources {
        Resources::local().with_network(Arc::clone(self) as Arc<dyn Network>)
    }
}

impl Network for Scripted {
    fn post(&self, post: Post, done: PostDone) {
        let body: Value = serde_json::from_slice(&post.body).unwrap();
        let before = {
            let mut times = self.times.lock().unwrap();
            let times = times.entry(post.body.to_vec()).or_default();
            *times += 1;
            *times - 1
        };
        self.posts.lock().unwrap().push((Instant::now(), post));
        let Reply(wait, result) = (self.script)(&body, before);
        std::thread::spawn(move || {
            std::thread::sleep(wait);
            done(result);
        });
    }

    fn secret(&self, variable: &str) -> Option<Secret> {
        (variable == "LM_KEY").then(|| Secret::new(KEY))
    }

    fn hold(&self) -> Option<Hold> {
        if *self.stops.lock().unwrap() {
            return None;
        }
        let mut under_way = self.under_way.lock().unwrap();
        under_way.0 += 1;
        under_way.1 = under_way.1.max(under_way.0);
        Some(Box::new(Holding(Arc::clone(&self.under_way))))
    }
}

#[derive(Debug)]
struct Holding(Arc<Mutex<(usize, usize)>>);

impl Drop for Holding {
    fn drop(&mut self) {
        self.0.lock().unwrap().0 -= 1;
    }
}

impl fmt::Debug for Scripted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Scripted")
    }
}

/// The last message of a request.
fn asked(body: &Value) -> &str {
    body["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap()
}

/// Says 1 of texts with a fox.
fn foxes(body: &Value, _: usize) -> Reply {
    Reply::text(if asked(body).contains("fox") { "[1]" } else { "[0]" })
}

/// A configuration with an endpoint; `more` is merged into it, and into its `endpoint`.
fn config(more: Value) -> Value {
    let mut config = json!({"endpoint": {"url": "http://host:8000/v1/", "model": "m"}});
    for (key, value) in more.as_object().unwrap() {
        match (key.as_str(), value.as_object()) {
            ("endpoint", Some(settings)) => {
                settings.iter().for_each(|(key, value)| config["endpoint"][key] = value.clone());
            }
            _ => config[key] = value.clone(),
        }
    }
    config
}

fn table(texts: &[Option<&str>]) -> RecordBatch {
    let ids: arrow_array::Int64Array = (0..texts.len() as i64).collect();
    RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(ids) as _, false),
        ("text", Arc::new(StringArray::from(texts.to_vec())) as _, true),
    ])
    .unwrap()
}

fn output(kind: &str, config: Value, batch: &RecordBatch, resources: &Resources) -> crate::Result<crate::Output> {
    let operator = Registry::standard().bind(&OperatorSpec::new(kind, config), &batch.schema(), resources)?;
    apply(operator.as_ref(), [batch.clone()])
}

fn run(kind: &str, config: Value, batch: &RecordBatch, resources: &Resources) -> RecordBatch {
    output(kind, config, batch, resources).unwrap().batches.remove(0)
}

fn error(kind: &str, config: Value, batch: &RecordBatch, resources: &Resources) -> String {
    output(kind, config, batch, resources).unwrap_err().to_string()
}

fn verdicts(batch: &RecordBatch) -> Vec<bool> {
    let verdicts = batch["judge"].as_boolean();
    assert_eq!(verdicts.null_count(), 0);
    verdicts.values().iter().collect()
}

/// A text field of the metadata.
fn metadata(batch: &RecordBatch, column: &str, field: &str) -> Vec<String> {
    let fields = batch[column].as_struct();
    fields[field].as_string::<i32>().iter().map(|text| text.unwrap_or("null").to_owned()).collect()
}

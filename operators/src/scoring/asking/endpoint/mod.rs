//! A language model behind an endpoint.
//!
//! One thread for each bound step decides which request is sent when (`dispatcher`); the host's network carries them. Requests of all splits of
//! a process go through it, so `concurrency` and `requests_per_minute` hold for the process. A request that is asked while an equal
//! one is under way waits for that one's answer.
//!
//! Where answers are kept, each is stored before anybody sees it, under a key made of everything that it depends on. A request that was answered once is
//! never sent again by any process that looks in the same place later: processes that work at the same time see one another's answers within a second. What can be paid
//! for twice are requests that were under way when a process was killed, and those whose response was lost on the way: at most `concurrency` for each kill. A request keeps its place among the `concurrency` until its
//! answer is stored.

mod dispatcher;
mod pace;
mod protocol;

use std::collections::HashMap;
use std::fmt;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use self::dispatcher::{Dispatcher, Event, Waiter};
use super::config::EndpointConfig;
use super::{Answer, Answerer, AskError, Request};
use crate::config::invalid;
use crate::network::{Network, Secret};
use crate::{OperatorError, ResourceIdentity, Resources, Result};

/// Where answers are kept in the folder of a run, if the configuration names no other place.
const ANSWERS: &str = "_run/answers";

/// An endpoint.
pub(super) struct Endpoint {
    config: EndpointConfig,
    network: Arc<dyn Network>,
    key: Option<Secret>,
    cache: Option<String>,
    resources: Resources,
    /// Started by the first request, so that binding a step opens and makes nothing.
    dispatcher: Mutex<Option<Sender<Event>>>,
}

impl Endpoint {
    pub(super) fn new(
        kind: &'static str,
        config: &EndpointConfig,
        cache: Option<&str>,
        resources: &Resources,
    ) -> Result<Self> {
        let network = resources.network().ok_or_else(|| {
            invalid(
                kind,
                "endpoint",
                "this host gives operators no network; only a 'model' in this process can be asked",
            )
        })?;
        let key = match &config.key_env {
            Some(variable) => Some(network.secret(variable).ok_or_else(|| {
                invalid(kind, "endpoint.key_env", format!("the environment variable '{variable}' is not set"))
            })?),
            None => None,
        };
        let in_run = || resources.run_folder().map(|folder| format!("{}/{ANSWERS}", folder.trim_end_matches('/')));
        Ok(Self {
            config: config.clone(),
            network: Arc::clone(network),
            key,
            cache: cache.map(str::to_owned).or_else(in_run),
            resources: resources.clone(),
            dispatcher: Mutex::new(None),
        })
    }

    fn dispatcher(&self) -> Result<Sender<Event>, AskError> {
        let mut dispatcher = self.dispatcher.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(events) = &*dispatcher {
            return Ok(events.clone());
        }
        let failed = |message: String| AskError::Answerer(message);
        let records = match &self.cache {
            Some(cache) => Some(self.resources.open_records(cache).map_err(|error| match error {
                OperatorError::Resource { location, message } => {
                    failed(format!("answers cannot be kept in '{location}': {message}"))
                }
                other => failed(other.to_string()),
            })?),
            None => None,
        };
        let (sender, events) = channel();
        let work = Dispatcher::new(dispatcher::Settings {
            network: Arc::clone(&self.network),
            records,
            bearer: self.key.clone(),
            concurrency: self.config.concurrency,
            per_minute: self.config.requests_per_minute,
            timeout: Duration::from_secs_f64(self.config.timeout),
            attempts: self.config.attempts,
            events: sender.clone(),
        });
        std::thread::Builder::new()
            .name("gristmill-endpoint".to_owned())
            .spawn(move || work.run(&events))
            .map_err(|error| failed(format!("the thread that sends requests cannot be started: {error}")))?;
        *dispatcher = Some(sender.clone());
        Ok(sender)
    }
}

impl Answerer for Endpoint {
    fn answer(&self, requests: &[Request]) -> Vec<Result<Answer, AskError>> {
        if requests.is_empty() {
            return Vec::new();
        }
        let events = match self.dispatcher() {
            Ok(events) => events,
            Err(error) => return vec![Err(error); requests.len()],
        };
        let (answers, receiver) = channel();
        // The first of equal requests stands for all, also where its answer would be there and forgotten before the next one is sent.
        let mut firsts = HashMap::new();
        let (mut first_of, mut asked) = (Vec::with_capacity(requests.len()), Vec::with_capacity(requests.len()));
        for (place, request) in requests.iter().enumerate() {
            let encoded = protocol::encode(&self.config, request);
            let first = *firsts.entry(encoded.key).or_insert(place);
            first_of.push(first);
            if first == place {
                asked.push((encoded, Waiter { place, answers: answers.clone() }));
            }
        }
        drop(answers);
        // Where the thread has ended, its ends of the waiters are gone, and the places stay empty.
        let _ = events.send(Event::Ask(asked));
        let mut results: Vec<Option<Result<Answer, AskError>>> = vec![None; requests.len()];
        for (place, result) in receiver {
            results[place] = Some(result);
        }
        let lost = || Err(AskError::Answerer("the thread that sends requests has ended".to_owned()));
        first_of.into_iter().map(|first| results[first].clone().unwrap_or_else(lost)).collect()
    }

    /// None: address and model stand in the configuration, and what the endpoint makes of them cannot be seen from here.
    fn identities(&self) -> Vec<ResourceIdentity> {
        Vec::new()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        let dispatcher = self.dispatcher.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(events) = dispatcher.take() {
            let _ = events.send(Event::Close);
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Endpoint")
            .field("url", &self.config.url)
            .field("model", &self.config.model)
            .field("cache", &self.cache)
            .finish_non_exhaustive()
    }
}

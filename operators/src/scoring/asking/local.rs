//! A model in this process that answers.

use std::sync::Arc;

use super::{Answer, Answerer, AskError, Finish, Input, Request};
use crate::models::chat::{ChatError, ChatTemplate};
use crate::models::generate::{self, Completion, Generator, Limits, Overflow, Prompt, end_tokens};
use crate::models::{Model, ModelError};
use crate::scoring::device::Device;
use crate::scoring::loaded;
use crate::scoring::reader::{COMPUTE, Precision, unusable};
use crate::tokens::Tokenizer;
use crate::{OperatorError, ResourceIdentity, Resources, Result};

/// A language model of a Hugging Face folder, with its tokenizer, its chat template, and the tokens with which it ends texts.
///
/// All requests that are asked together are worked on side by side, and an answer has the same bits as if it were asked alone. Where tokens are
/// drawn, random numbers follow from the request's seed and what the model reads, so that requests with one seed do not draw alike.
///
/// A prompt and an answer that need more positions than the model has end with [`Finish::Length`]; a prompt that leaves no position free is an error of its
/// request.
#[derive(Debug)]
pub struct LocalModel {
    model: Arc<Model>,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    ends: Vec<u32>,
    limits: Limits,
    location: String,
    identities: Vec<ResourceIdentity>,
}

impl LocalModel {
    /// Loads a model: a folder with `config.json` and safetensors, a URL of one, or a repository on the Hugging Face Hub,
    /// with the adapter of peft that is named, if one is. The tokenizer is the one beside it, if no other is named. `limits` bound memory and do not change answers.
    ///
    /// # Errors
    /// Files that cannot be read or are not supported, a model that is not a language model, or a tokenizer of another.
    pub fn load(
        location: &str,
        adapter: Option<&str>,
        tokenizer: Option<&str>,
        precision: Precision,
        limits: Limits,
        resources: &Resources,
    ) -> Result<Self> {
        let (model, mut identities) = loaded::load("model", location, adapter, precision, Device::Cpu, resources)?;
        let (tokenizer, identity) = Tokenizer::load(tokenizer.unwrap_or(location), resources)?;
        identities.push(identity);
        let failed = |error| unusable(location, &error);
        let refused = |message: String| OperatorError::Resource { location: location.to_owned(), message };
        Generator::new(&model, &tokenizer, &[], limits).map_err(failed)?;
        if tokenizer.vocab_size() > model.vocabulary() {
            let (tokens, last) = (model.vocabulary(), tokenizer.vocab_size() - 1);
            return Err(refused(format!(
                "its vocabulary has {tokens} tokens, and the tokenizer gives ids up to {last}; they do not belong together"
            )));
        }
        let (template, more) = ChatTemplate::load(location, resources).map_err(failed)?;
        identities.extend(more);
        let (ends, more) = end_tokens(location, resources).map_err(failed)?;
        identities.extend(more);
        // Some files are read more than once.
        let mut seen = std::collections::HashSet::new();
        identities.retain(|identity| seen.insert(identity.location.clone()));
        Ok(Self { model, tokenizer, template, ends, limits, location: location.to_owned(), identities })
    }

    /// Whether messages can be put into a text for it.
    #[must_use]
    pub fn has_chat_template(&self) -> bool {
        self.template.is_some()
    }

    fn prompt(&self, request: &Request) -> Result<Prompt, AskError> {
        let ids = match &request.input {
            Input::Prompt(text) => encode(&self.tokenizer, text),
            Input::Messages(messages) => {
                let template = self.template.as_ref().ok_or_else(|| {
                    let message =
                        "has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json)";
                    AskError::Answerer(format!("{}: the model {message}", self.location))
                })?;
                let text = template.render(messages, true).map_err(|error| match error {
                    ChatError::Refused(_) | ChatError::Template(_) => AskError::Request(error.to_string()),
                })?;
                ChatTemplate::encode(&self.tokenizer, &text)
            }
        };
        let ids = ids.map_err(|error| of_request(&error))?;
        let sampling = &request.sampling;
        let mut key = blake3::Hasher::new();
        ids.iter().for_each(|id| {
            key.update(&id.to_le_bytes());
        });
        let mut first = [0; 8];
        first.copy_from_slice(&key.finalize().as_bytes()[..8]);
        Ok(Prompt {
            ids,
            sampling: generate::Sampling {
                temperature: sampling.temperature,
                top_k: None,
                top_p: sampling.top_p,
                seed: sampling.seed.unwrap_or(0),
            },
            key: u64::from_le_bytes(first),
            most: sampling.max_tokens as usize,
            stop: sampling.stop.clone(),
            log_probabilities: false,
            overflow: Overflow::EndWithModel,
        })
    }
}

/// Token ids of a text that is to be continued. The tokens that the tokenizer puts before texts stand before it, unless the text begins with
/// them: no text has BOS twice. Those behind texts are left out, since the text goes on.
fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, ModelError> {
    let mut ids = Vec::new();
    tokenizer.encode(text, false, &mut ids)?;
    if !ids.starts_with(tokenizer.prefix()) {
        ids.splice(0..0, tokenizer.prefix().iter().copied());
    }
    Ok(ids)
}

impl Answerer for LocalModel {
    fn answer(&self, requests: &[Request]) -> Vec<Result<Answer, AskError>> {
        let mut prompts = Vec::with_capacity(requests.len());
        let mut results: Vec<Option<Result<Answer, AskError>>> = Vec::with_capacity(requests.len());
        for request in requests {
            let prompt = self.prompt(request);
            results.push(prompt.map(|prompt| prompts.push(prompt)).err().map(Err));
        }
        let written = Generator::new(&self.model, &self.tokenizer, &self.ends, self.limits)
            .and_then(|generator| generator.write(COMPUTE, &prompts, |_, _| {}));
        let mut written = match written {
            Ok(written) => written.into_iter(),
            Err(error) => {
                let error = AskError::Answerer(format!("{}: {error}", self.location));
                return requests.iter().map(|_| Err(error.clone())).collect();
            }
        };
        let answer = |result: crate::models::Result<Completion>| match result {
            Ok(completion) => Ok(answer_of(completion)),
            Err(error) => Err(of_request(&error)),
        };
        let answers = results.into_iter().map(|result| result.or_else(|| written.next().map(answer)));
        answers.flatten().collect()
    }

    fn identities(&self) -> Vec<ResourceIdentity> {
        self.identities.clone()
    }
}

/// What is wrong with one request; its number among others is not part of it.
fn of_request(error: &ModelError) -> AskError {
    AskError::Request(match error {
        ModelError::Input { what, value, allowed, .. } => format!("{what} is {value}, and {allowed} is allowed"),
        ModelError::NotNumbers { .. } => "the model's logits after the prompt are not numbers".to_owned(),
        other => other.to_string(),
    })
}

fn answer_of(completion: Completion) -> Answer {
    let count = |tokens: usize| Some(u32::try_from(tokens).unwrap_or(u32::MAX));
    Answer {
        finish: match completion.finish {
            generate::Finish::End | generate::Finish::Stop => Finish::Stop,
            generate::Finish::Length => Finish::Length,
        },
        prompt_tokens: count(completion.prompt_tokens),
        tokens: count(completion.ids.len()),
        text: completion.text,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::super::{Message, Sampling};
    use super::{Answerer, AskError, Finish, Input, Limits, LocalModel, Precision, Request};
    use crate::Resources;
    use crate::models::tests::reference;

    const SAMPLING: Sampling = Sampling { max_tokens: 6, temperature: 0.0, top_p: 1.0, stop: Vec::new(), seed: None };

    /// A copy of the fixture, which has no chat template, and with one.
    fn folder(template: Option<&str>) -> tempfile::TempDir {
        let (from, to) = (reference("llama").unwrap(), tempfile::tempdir().unwrap());
        for name in ["config.json", "model.safetensors", "tokenizer.json"] {
            std::fs::copy(from.join(name), to.path().join(name)).unwrap();
        }
        std::fs::write(to.path().join("tokenizer_config.json"), r#"{"bos_token": {"content": "<s>"}}"#).unwrap();
        if let Some(template) = template {
            std::fs::write(to.path().join("chat_template.jinja"), template).unwrap();
        }
        to
    }

    fn load(folder: &tempfile::TempDir) -> LocalModel {
        let location = folder.path().to_string_lossy();
        LocalModel::load(&location, None, None, Precision::F32, Limits::default(), &Resources::local()).unwrap()
    }

    fn message(role: &str, content: &str) -> Message {
        Message { role: role.to_owned(), content: content.to_owned() }
    }

    #[test]
    fn requests_are_answered_as_if_each_were_alone() {
        let template = "{{ bos_token }}{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}\
                        {% endif %}{{ m.role }}: {{ m.content | trim }}\n{% endfor %}{% if add_generation_prompt %}A:{% endif %}";
        let folder = folder(Some(template));
        let model = load(&folder);
        let drawn = Sampling { temperature: 1.0, seed: Some(4), max_tokens: 9, ..SAMPLING };
        let chat = |content: &str| Input::Messages(vec![message("user", content)]);
        let requests = [
            Request { input: chat(" What is it? "), sampling: SAMPLING },
            // What the template makes of the first, written out: with BOS in the text or put before it by the tokenizer.
            Request { input: Input::Prompt("<s>user: What is it?\nA:".to_owned()), sampling: SAMPLING },
            Request { input: Input::Prompt("user: What is it?\nA:".to_owned()), sampling: SAMPLING },
            Request { input: Input::Messages(vec![message("tool", "4")]), sampling: SAMPLING },
            Request { input: chat("x"), sampling: drawn.clone() },
            Request { input: chat("y"), sampling: drawn.clone() },
            Request { input: chat("x"), sampling: Sampling { seed: Some(5), ..drawn.clone() } },
            Request { input: Input::Prompt("long ".repeat(400)), sampling: SAMPLING },
        ];
        let answers = model.answer(&requests);
        assert_eq!(answers.len(), requests.len());
        let good = |number: usize| answers[number].as_ref().unwrap();
        assert_eq!((good(0).finish.clone(), good(0).tokens), (Finish::Length, Some(6)));
        assert_eq!(good(0), good(1));
        assert_eq!(good(0).text, good(2).text);
        assert!(good(4) != good(6) && good(4) != good(5));
        assert_eq!(
            answers[3],
            Err(AskError::Request("the chat template refuses the conversation: no tools".to_owned()))
        );
        let Err(AskError::Request(error)) = &answers[7] else { panic!("{:?}", answers[7]) };
        assert!(error.contains("number of tokens of prompt"), "{error}");
        for (request, answer) in requests.iter().zip(&answers) {
            assert_eq!(&model.answer(std::slice::from_ref(request))[0], answer);
        }
        // A stop text that the answer has.
        let cut = good(0).text.chars().take(4).collect::<String>();
        let (before, stop) = cut.split_at(cut.char_indices().nth(2).unwrap().0);
        let stopped = Sampling { stop: vec![stop.to_owned()], ..SAMPLING };
        let answer = model.answer(&[Request { input: chat("What is it?"), sampling: stopped }]).remove(0).unwrap();
        assert!(answer.finish == Finish::Stop && before.starts_with(&answer.text), "{answer:?}");
        let names: Vec<String> = model.identities().into_iter().map(|identity| identity.location).collect();
        for name in ["config.json", "model.safetensors", "chat_template.jinja", "tokenizer_config.json"] {
            assert_eq!(names.iter().filter(|location| location.ends_with(&format!("/{name}"))).count(), 1, "{names:?}");
        }
    }

    #[test]
    fn a_model_without_a_template_answers_prompts_only() {
        let folder = folder(None);
        let model = load(&folder);
        let input = Input::Messages(vec![message("user", "Hi")]);
        let answers = model.answer(&[
            Request { input, sampling: SAMPLING },
            Request { input: Input::Prompt("Hi".to_owned()), sampling: SAMPLING },
        ]);
        let Err(AskError::Answerer(error)) = &answers[0] else { panic!("{:?}", answers[0]) };
        assert!(error.contains("has no chat template"), "{error}");
        assert!(answers[1].is_ok());
        let encoder = reference("bert-classifier").unwrap();
        let location = encoder.to_string_lossy();
        let error = LocalModel::load(&location, None, None, Precision::F32, Limits::default(), &Resources::local());
        assert!(error.unwrap_err().to_string().contains("without the head of a language model"));
    }
}

//! Text that a language model writes behind a prompt.
//!
//! A [`Generator`] takes any number of prompts and works on as many at once as its [`Limits`] allow: in each step every document that is
//! being written gets its next token, and what is left of the step's tokens goes to prompts that are still read, long ones in pieces. A
//! document that is finished makes room for the next prompt at once. What is written behind a prompt never depends on this: not on
//! the prompts beside it, nor on limits or threads, down to the bits of log-probabilities. Models whose rotary embedding
//! depends on the length of the text read each prompt in one piece for that reason (see `cache`).
//!
//! What prompts have in common at their beginning is read once, as long as one of them is being written: the others get a copy of its keys and values.
//!
//! # How a token is chosen
//!
//! By [`Sampling`]; with a temperature of 0 it is the one with the largest logit, of equal ones that with the smallest id. Else logits are changed as in
//! transformers and in its order, temperature, `top_k`, `top_p`, and a token is drawn with a number in [0, 1) that Philox4x32-10 makes of the
//! seed, the request's key and the number of the step. Defaults of a model's `generation_config.json` for sampling are not applied: what is
//! asked for is what is done.
//!
//! # Where a text ends
//!
//! With a token that ends texts ([`end_tokens`]), with the token that makes the text contain one of the `stop` strings, or after `most`
//! tokens. Stop strings are looked for in what was written, not in the prompt. The text is then cut as lm-eval does for `generate_until`:
//! for each stop string in the order given, before its first occurrence in what the ones before have left. Tokens and log-probabilities are all that were
//! written, the last one included.
//!
//! # What the text is
//!
//! What the tokenizer makes of the written tokens by themselves, without special tokens, as transformers and lm-eval decode a
//! continuation. So tokenizers that drop the space before the first word of a text drop it here, too.

mod ends;
mod run;
mod sample;
#[cfg(test)]
mod tests;
mod text;

pub use ends::end_tokens;
pub use sample::Sampling;
pub(crate) use sample::uniform;

use super::error::{ModelError, Result};
use super::{Compute, Model};
use crate::tokens::Tokenizer;

/// What is to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// The tokens to go on from; at least one.
    pub ids: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The request's own number among those with one seed: equal requests with other keys are written differently.
    pub key: u64,
    /// The most tokens to be written.
    pub most: usize,
    /// Texts that end it; empty ones are left out.
    pub stop: Vec<String>,
    /// Whether log-probabilities of the tokens are wanted.
    pub log_probabilities: bool,
    /// What is done where the model has not as many positions as the prompt and `most` tokens need.
    pub overflow: Overflow,
}

impl Prompt {
    /// The likeliest tokens behind a prompt, without stop strings.
    pub fn greedy(ids: Vec<u32>, most: usize) -> Self {
        let (stop, overflow) = (Vec::new(), Overflow::default());
        Self { ids, sampling: Sampling::GREEDY, key: 0, most, stop, log_probabilities: false, overflow }
    }
}

/// What is done where prompt and text do not fit into the model's positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The text ends where the model does, with [`Finish::Length`]; a prompt that leaves no position free is an error.
    #[default]
    EndWithModel,
    /// The first tokens of the prompt are left out, so that `most` tokens fit, as lm-eval does.
    CutPrompt,
    /// An error.
    Refuse,
}

/// Why a text ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model wrote a token that ends texts.
    End,
    /// A stop string came.
    Stop,
    /// As many tokens as wanted, or as the model has positions for.
    Length,
}

/// What was written behind a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The text, cut before stop strings.
    pub text: String,
    /// All tokens written, with one that ended the text.
    pub ids: Vec<u32>,
    /// Why it ends.
    pub finish: Finish,
    /// Tokens of the prompt that were read.
    pub prompt_tokens: usize,
    /// For each token its log-probability in nats by the model itself, before temperature, `top_k` and `top_p`; empty if not asked for.
    pub log_probabilities: Vec<f32>,
}

/// How much is done at once. Results do not depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens of a step, prompts and next tokens together. Every document that is written gets its token in each step, also where these are more.
    pub step: usize,
    /// Tokens whose keys and values are held: prompts and what may be written behind them, of all documents at once. A single one may be longer. Memory
    /// is [`Model::cache_bytes_per_token`] for each.
    pub held: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { step: 2048, held: 65_536 }
    }
}

/// A language model that writes.
///
/// ```no_run
/// use gristmill_kernels::workers::Serial;
/// use gristmill_operators::Resources;
/// use gristmill_operators::models::generate::{Generator, Limits, Prompt, end_tokens};
/// use gristmill_operators::models::{Compute, LoadOptions, Model};
/// use gristmill_operators::tokens::Tokenizer;
///
/// let (location, resources) = ("EleutherAI/pythia-160m", Resources::local());
/// let (model, _) = Model::load(location, &resources, LoadOptions::default())?;
/// let (tokenizer, _) = Tokenizer::load(location, &resources)?;
/// let (ends, _) = end_tokens(location, &resources)?;
/// let generator = Generator::new(&model, &tokenizer, &ends, Limits::default())?;
/// let mut ids = Vec::new();
/// tokenizer.encode("Grain is ground between", true, &mut ids)?;
/// let written = generator.write(Compute { workers: &Serial, threads: 1 }, &[Prompt::greedy(ids, 20)], |_, _| {})?;
/// println!("{}", written[0].as_ref().map_err(ToString::to_string)?.text);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Generator<'a> {
    model: &'a Model,
    tokenizer: &'a Tokenizer,
    ends: &'a [u32],
    limits: Limits,
}

impl<'a> Generator<'a> {
    /// A generator whose texts end with any of the tokens `ends`.
    ///
    /// # Errors
    /// A model that is not a language model.
    pub fn new(model: &'a Model, tokenizer: &'a Tokenizer, ends: &'a [u32], limits: Limits) -> Result<Self> {
        if !model.is_language_model() {
            return Err(ModelError::NotALanguageModel { kind: model.kind().to_owned() });
        }
        Ok(Self { model, tokenizer, ends, limits })
    }

    /// Writes behind each prompt; results are in the order of prompts. `each` gets the number of a prompt and the next piece of its text as
    /// soon as it is certain: no piece ends within a character, or has a part of a stop string. Pieces together are the text.
    ///
    /// # Errors
    /// What is wrong with a prompt is its own result: no tokens, one that the model does not know, sampling that means nothing, too many for the
    /// model, or tokens that cannot be decoded. The call fails where the model itself does.
    pub fn write(
        &self,
        compute: Compute<'_>,
        prompts: &[Prompt],
        each: impl FnMut(usize, &str),
    ) -> Result<Vec<Result<Completion>>> {
        run::run(*self, compute, prompts, each).map(|(written, _)| written)
    }
}

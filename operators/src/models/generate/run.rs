//! Writing behind many prompts at once: which tokens are read in a step, and what becomes of what they predict.

use std::collections::VecDeque;

use gristmill_kernels::linear_ce::{self, Ids, Scores, Tokens};

use super::text::Detokenizer;
use super::{Completion, Finish, Generator, Overflow, Prompt};
use crate::models::cache::{Cache, Continuation};
use crate::models::error::{ModelError, Result};
use crate::models::{Compute, Head, Model};

/// The fewest tokens at the beginning of two prompts for which it is worth to copy what was read of one.
const SHARED: usize = 16;

/// Rows whose logits are held at once, where tokens are drawn.
const ROWS: usize = 16;

/// A document that is being written.
struct Document<'a> {
    /// Number of its prompt.
    number: usize,
    prompt: &'a Prompt,
    cache: Cache,
    /// What was read of the prompt, and all that was written.
    ids: Vec<u32>,
    /// Tokens of the prompt.
    prompt_tokens: usize,
    /// Tokens at the end of the text.
    end: usize,
    text: Detokenizer<'a>,
    log_probabilities: Vec<f32>,
}

/// A token that was chosen, with its log-probability.
type Chosen = (u32, f32);

impl<'a> Document<'a> {
    /// What is not read yet.
    fn waiting(&self) -> &[u32] {
        &self.ids[self.cache.tokens()..]
    }

    fn written(&self) -> &[u32] {
        &self.ids[self.prompt_tokens..]
    }

    fn new(generator: Generator<'_>, number: usize, prompt: &'a Prompt) -> Result<Self> {
        let Prompt { ids, sampling, most, overflow, stop, .. } = prompt;
        sampling.check()?;
        let wrong =
            |what, value: usize, allowed| Err(ModelError::Input { what, index: number, value: value as i64, allowed });
        if ids.is_empty() {
            return wrong("number of tokens of prompt", 0, "at least one".to_owned());
        }
        let vocabulary = generator.model.vocabulary();
        if let Some(index) = ids.iter().position(|&id| id as usize >= vocabulary) {
            let allowed = format!("an id below {vocabulary}, the size of the vocabulary,");
            return Err(ModelError::Input { what: "token id", index, value: ids[index].into(), allowed });
        }
        let (mut first, mut end) = (0, ids.len().saturating_add(*most));
        let positions = generator.model.most_positions().unwrap_or(usize::MAX);
        // The last token is written and not read, so that one more fits; lm-eval does not count on it where it cuts.
        let limit = if *overflow == Overflow::CutPrompt { positions } else { positions.saturating_add(1) };
        if end > limit {
            let too_long = match overflow {
                Overflow::EndWithModel => {
                    end = limit;
                    ids.len() >= limit
                }
                Overflow::CutPrompt => {
                    first = end - limit;
                    end = limit;
                    first >= ids.len()
                }
                Overflow::Refuse => true,
            };
            if too_long {
                let room = match overflow {
                    Overflow::EndWithModel => 1,
                    _ => *most,
                };
                let allowed = format!(
                    "at most {}, so that {room} more fit into the {positions} positions of the model,",
                    limit.saturating_sub(room)
                );
                return wrong("number of tokens of prompt", ids.len(), allowed);
            }
        }
        let ids = ids[first..].to_vec();
        Ok(Self {
            number,
            prompt,
            cache: generator.model.new_cache(),
            prompt_tokens: ids.len(),
            ids,
            end,
            text: Detokenizer::new(stop),
            log_probabilities: Vec::new(),
        })
    }

    /// Takes the next token; why the text ends with it, if it does.
    fn take(
        &mut self,
        generator: Generator<'_>,
        (id, log_probability): Chosen,
        mut each: impl FnMut(usize, &str),
    ) -> Result<Option<Finish>> {
        self.ids.push(id);
        if self.prompt.log_probabilities {
            self.log_probabilities.push(log_probability);
        }
        if generator.ends.contains(&id) {
            return Ok(Some(Finish::End));
        }
        if self.text.push(generator.tokenizer, &self.ids[self.prompt_tokens..])? {
            return Ok(Some(Finish::Stop));
        }
        let piece = self.text.release();
        if !piece.is_empty() {
            each(self.number, piece);
        }
        Ok((self.ids.len() >= self.end).then_some(Finish::Length))
    }

    fn finish(self, generator: Generator<'_>, finish: Finish, mut each: impl FnMut(usize, &str)) -> Result<Completion> {
        let ids = self.written().to_vec();
        let (text, released) = self.text.finish(generator.tokenizer, &ids)?;
        if released < text.len() {
            each(self.number, &text[released..]);
        }
        let Self { prompt_tokens, log_probabilities, .. } = self;
        Ok(Completion { text, ids, finish, prompt_tokens, log_probabilities })
    }
}

/// Also gives the number of tokens that were read.
pub(super) fn run(
    generator: Generator<'_>,
    compute: Compute<'_>,
    prompts: &[Prompt],
    mut each: impl FnMut(usize, &str),
) -> Result<(Vec<Result<Completion>>, usize)> {
    let model = generator.model;
    let mut results: Vec<Option<Result<Completion>>> = prompts.iter().map(|_| None).collect();
    let mut waiting = VecDeque::new();
    for (number, prompt) in prompts.iter().enumerate() {
        match Document::new(generator, number, prompt) {
            Ok(document) if document.end == document.ids.len() => {
                results[number] = Some(document.finish(generator, Finish::Length, &mut each));
            }
            Ok(document) => waiting.push_back(document),
            Err(error) => results[number] = Some(Err(error)),
        }
    }
    let mut documents: Vec<Document<'_>> = Vec::new();
    let mut read_tokens = 0;
    loop {
        let mut held: usize = documents.iter().map(|document| document.end).sum();
        while let Some(next) = waiting.front()
            && (documents.is_empty() || held + next.end <= generator.limits.held)
        {
            held += next.end;
            documents.extend(waiting.pop_front());
        }
        if documents.is_empty() {
            break;
        }
        let waits = if model.depends_on_length() { vec![false; documents.len()] } else { share(&mut documents) };
        let counts = divide(&documents, &waits, generator.limits.step, !model.depends_on_length());
        read_tokens += counts.iter().sum::<usize>();
        let (states, complete) = read(model, compute, &mut documents, &counts)?;
        let chosen = choose(model, compute, &documents, &complete, &states)?;
        let mut chosen = complete.into_iter().zip(chosen).collect::<VecDeque<_>>();
        let mut kept = Vec::with_capacity(documents.len());
        for (number, mut document) in documents.into_iter().enumerate() {
            let Some((_, chosen)) = chosen.pop_front_if(|(of, _)| *of == number) else {
                kept.push(document);
                continue;
            };
            let prompt = document.number;
            match chosen.and_then(|chosen| document.take(generator, chosen, &mut each)) {
                Ok(None) => kept.push(document),
                Ok(Some(finish)) => results[prompt] = Some(document.finish(generator, finish, &mut each)),
                Err(error) => results[prompt] = Some(Err(error)),
            }
        }
        documents = kept;
    }
    Ok((results.into_iter().flatten().collect(), read_tokens))
}

/// Gives documents of which nothing was read what others have read of the same beginning. Which documents wait, since another is about to read
/// what they share.
fn share(documents: &mut [Document<'_>]) -> Vec<bool> {
    let mut waits = vec![false; documents.len()];
    for (number, waits) in waits.iter_mut().enumerate() {
        let (others, rest) = documents.split_at_mut(number);
        let Some((document, behind)) = rest.split_first_mut().filter(|(document, _)| document.cache.tokens() == 0)
        else {
            continue;
        };
        // The last token is read in any case, since what it predicts is wanted.
        let most = document.ids.len() - 1;
        let shared =
            |other: &Document<'_>| document.ids[..most].iter().zip(&other.ids).take_while(|(a, b)| a == b).count();
        let read = others.iter().chain(&*behind).map(|other| (shared(other).min(other.cache.beginning()), other));
        let best = read.filter(|(tokens, _)| *tokens >= SHARED).max_by_key(|(tokens, _)| *tokens);
        let read = best.map_or(0, |(tokens, _)| tokens);
        // Those before it are read first, so that of equal prompts one goes on.
        let is_more = |other: &Document<'_>| {
            let shared = shared(other);
            shared >= SHARED && shared > read && other.cache.tokens() < shared
        };
        if others.iter().any(is_more) {
            *waits = true;
        } else if let Some((tokens, other)) = best {
            document.cache = other.cache.copy_beginning(tokens);
        }
    }
    waits
}

/// How many tokens of each document are read in a step of so many.
fn divide(documents: &[Document<'_>], waits: &[bool], step: usize, in_pieces: bool) -> Vec<usize> {
    let is_written = |document: &Document<'_>| document.cache.tokens() > 0 && document.waiting().len() == 1;
    let mut left = step.saturating_sub(documents.iter().filter(|document| is_written(document)).count());
    let mut any = left < step;
    documents
        .iter()
        .zip(waits)
        .map(|(document, &waits)| {
            if waits {
                return 0;
            }
            let whole = document.waiting().len();
            if is_written(document) {
                return whole;
            }
            let count = match (in_pieces, any) {
                (true, true) => whole.min(left),
                (true, false) => whole.min(left.max(1)),
                (false, true) if whole > left => 0,
                (false, _) => whole,
            };
            left = left.saturating_sub(count);
            any |= count > 0;
            count
        })
        .collect()
}

/// Reads so many tokens of each document. Gives the last hidden state of each document that is read to its end, and their numbers.
fn read(
    model: &Model,
    compute: Compute<'_>,
    documents: &mut [Document<'_>],
    counts: &[usize],
) -> Result<(Vec<f32>, Vec<usize>)> {
    let mut continuations = Vec::with_capacity(documents.len());
    let (mut rows, mut complete) = (Vec::new(), Vec::new());
    let mut row = 0;
    for (number, (document, &count)) in documents.iter_mut().zip(counts).enumerate() {
        if count == 0 {
            continue;
        }
        row += count;
        let start = document.cache.tokens();
        if start + count == document.ids.len() {
            rows.push(row - 1);
            complete.push(number);
        }
        continuations.push(Continuation { cache: &mut document.cache, ids: &document.ids[start..start + count] });
    }
    let states = model.read_on(compute, continuations)?.unwrap_or_default();
    let width = model.hidden_size();
    let states = rows.into_iter().flat_map(|row| &states[row * width..(row + 1) * width]).copied().collect();
    Ok((states, complete))
}

/// The next token of each document in `complete`, whose last hidden states these are.
fn choose(
    model: &Model,
    compute: Compute<'_>,
    documents: &[Document<'_>],
    complete: &[usize],
    states: &[f32],
) -> Result<Vec<Result<Chosen>>> {
    let Head::LanguageModel(head) = &model.head else { return Ok(Vec::new()) };
    let width = model.hidden_size();
    let not_numbers = |document: &Document<'_>| ModelError::NotNumbers { prompt: document.number };
    let mut chosen: Vec<Option<Result<Chosen>>> = complete.iter().map(|_| None).collect();
    // The likeliest tokens are found without holding logits.
    let is_greedy = |place: &usize| documents[complete[*place]].prompt.sampling.is_greedy();
    let (greedy, drawn): (Vec<usize>, Vec<usize>) = (0..complete.len()).partition(is_greedy);
    let states_of = |places: &[usize]| -> Vec<f32> {
        places.iter().flat_map(|&place| &states[place * width..(place + 1) * width]).copied().collect()
    };
    let (best, log_probabilities) = likeliest(model, head, compute, &states_of(&greedy))?;
    for ((&place, best), log_probability) in greedy.iter().zip(best).zip(log_probabilities) {
        let id = u32::try_from(best).map_err(|_| not_numbers(&documents[complete[place]]));
        chosen[place] = Some(id.map(|id| (id, log_probability)));
    }
    for places in drawn.chunks(ROWS) {
        let logits = model.logits_of(compute, head, &states_of(places))?;
        for (&place, logits) in places.iter().zip(logits.chunks_exact(model.vocabulary())) {
            let document = &documents[complete[place]];
            let Prompt { sampling, key, log_probabilities, .. } = document.prompt;
            let id = sampling.draw(logits, *key, document.written().len()).ok_or_else(|| not_numbers(document));
            let log_probability = |id: u32| if *log_probabilities { log_softmax(logits, id) } else { 0.0 };
            chosen[place] = Some(id.map(|id| (id, log_probability(id))));
        }
    }
    Ok(chosen.into_iter().flatten().collect())
}

/// For each hidden state the token with the largest logit, -1 where there is none, and its log-probability.
fn likeliest(
    model: &Model,
    head: &linear_ce::Head,
    compute: Compute<'_>,
    states: &[f32],
) -> Result<(Vec<i32>, Vec<f32>)> {
    let rows = states.len() / model.hidden_size();
    let (mut losses, mut log_sums) = (vec![0.0; rows], vec![0.0; rows]);
    let (mut best, mut log_probabilities) = (vec![-1; rows], vec![0.0; rows]);
    let ids = vec![linear_ce::IGNORED; rows];
    let scores = Scores {
        best: Some(&mut best),
        best_log_probability: Some(&mut log_probabilities),
        ..Scores::new(&mut losses, &mut log_sums)
    };
    model.linear_ce().forward(compute.workers, states, head, Tokens { ids: Ids::I64(&ids), offsets: None }, scores)?;
    Ok((best, log_probabilities))
}

fn log_softmax(logits: &[f32], id: u32) -> f32 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - most).exp()).sum();
    (f64::from(logits[id as usize] - most) - sum.ln()) as f32
}

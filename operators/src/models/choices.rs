//! How likely continuations of contexts are, as multiple-choice tasks ask: each context is read once, whatever the number of its
//! continuations, and no logits are held.
//!
//! Continuations go on from the keys and values of their context without a copy of them (see `cache`), and numbers have the bits that
//! reading context and continuation at once gives. Models whose rotary embedding depends on the length of the text read
//! each pair at once.

use std::collections::HashMap;

use gristmill_kernels::linear_ce::{self, Ids, Scores, Tokens};

use super::batch::Batch;
use super::cache::{Cache, Continuation};
use super::error::{ModelError, Result};
use super::layers::Compute;
use super::{Head, Model};

/// A context and what may come behind it, as token ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice<'a> {
    /// What is read first; at least one token. Where nothing stands before a continuation, the token that begins texts is given here.
    pub context: &'a [u32],
    /// What is scored.
    pub continuation: &'a [u32],
}

/// How likely a continuation is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Likelihood {
    /// The sum of the log-probabilities of its tokens, in nats, each given all before it; 0 of no tokens.
    pub log_likelihood: f64,
    /// Whether each of its tokens is the likeliest at its place, of equal ones that with the smallest id.
    pub greedy: bool,
}

impl Likelihood {
    const NOTHING: Self = Self { log_likelihood: 0.0, greedy: true };

    fn add(&mut self, scored: Scored) {
        self.log_likelihood -= f64::from(scored.loss);
        self.greedy &= scored.best;
    }
}

/// A token's negative log-probability, and whether it is the likeliest.
#[derive(Clone, Copy, Debug)]
struct Scored {
    loss: f32,
    best: bool,
}

/// A context with the choices that have it.
struct Group<'a> {
    context: &'a [u32],
    members: Vec<usize>,
}

impl Model {
    /// The likelihood of each continuation behind its context; `None` where the model is not a language model. Up to `budget`
    /// tokens are read at once, at least one document.
    ///
    /// Of a context and continuation that have together more than one token above the positions of the model, the first tokens are left out, as
    /// lm-eval does: the last token is scored and not read.
    ///
    /// # Errors
    /// A context without tokens, a continuation longer than the model, or a token that it does not know.
    pub fn likelihoods(
        &self,
        compute: Compute<'_>,
        choices: &[Choice<'_>],
        budget: usize,
    ) -> Result<Option<Vec<Likelihood>>> {
        let Head::LanguageModel(head) = &self.head else { return Ok(None) };
        self.expect_cpu("likelihoods of choices")?;
        let scorer = Scorer { model: self, head, compute, budget: budget.max(1) };
        let choices = choices.iter().enumerate().map(|(index, choice)| self.fit(index, *choice));
        let choices = choices.collect::<Result<Vec<_>>>()?;
        if self.depends_on_length() { scorer.apart(&choices) } else { scorer.together(&choices) }.map(Some)
    }

    /// A choice without the tokens at its beginning for which there is no position.
    fn fit<'a>(&self, index: usize, choice: Choice<'a>) -> Result<Choice<'a>> {
        let Choice { context, continuation } = choice;
        let wrong = |what, value: usize, allowed| Err(ModelError::Input { what, index, value: value as i64, allowed });
        if context.is_empty() {
            return wrong("number of tokens of context", 0, "at least one".to_owned());
        }
        if let Some(&id) = continuation.last()
            && id as usize >= self.vocabulary()
        {
            let allowed = format!("an id below {}, the size of the vocabulary,", self.vocabulary());
            return wrong("last token id of continuation", id as usize, allowed);
        }
        let most = self.most_positions().unwrap_or(usize::MAX);
        if continuation.len() > most {
            let allowed = format!("at most {most}, as many positions as the model has,");
            return wrong("number of tokens of continuation", continuation.len(), allowed);
        }
        let kept = most.saturating_add(1).saturating_sub(continuation.len()).min(context.len());
        Ok(Choice { context: &context[context.len() - kept..], continuation })
    }
}

/// What scoring takes.
struct Scorer<'a> {
    model: &'a Model,
    head: &'a linear_ce::Head,
    compute: Compute<'a>,
    budget: usize,
}

impl Scorer<'_> {
    /// Reads each context once.
    fn together(&self, choices: &[Choice<'_>]) -> Result<Vec<Likelihood>> {
        let mut groups: Vec<Group<'_>> = Vec::new();
        let mut numbers: HashMap<&[u32], usize> = HashMap::new();
        for (number, choice) in choices.iter().enumerate().filter(|(_, choice)| !choice.continuation.is_empty()) {
            let group = *numbers.entry(choice.context).or_insert_with(|| {
                groups.push(Group { context: choice.context, members: Vec::new() });
                groups.len() - 1
            });
            groups[group].members.push(number);
        }
        let mut likelihoods = vec![Likelihood::NOTHING; choices.len()];
        for groups in runs(&groups, self.budget, |group| group.context.len()) {
            let (states, mut caches) = self.contexts(groups)?;
            let firsts: Vec<Vec<u32>> = groups
                .iter()
                .map(|group| group.members.iter().map(|&member| choices[member].continuation[0]).collect())
                .collect();
            let members = groups.iter().flat_map(|group| &group.members);
            for (&member, scored) in members.zip(self.score(&states, &firsts)?) {
                likelihoods[member].add(scored);
            }
            let branches: Vec<(usize, usize)> = groups
                .iter()
                .enumerate()
                .flat_map(|(group, of)| of.members.iter().map(move |&member| (group, member)))
                .filter(|(_, member)| choices[*member].continuation.len() > 1)
                .collect();
            let read = |member: usize| choices[member].continuation.split_last().map_or(&[][..], |(_, read)| read);
            for branches in runs(&branches, self.budget, |(_, member)| read(*member).len()) {
                let documents: Vec<_> = branches.iter().map(|&(group, member)| (group, read(member))).collect();
                let states = self.model.branch(self.compute, &mut caches, &documents)?;
                let behind: Vec<(usize, u32)> = branches
                    .iter()
                    .flat_map(|&(_, member)| choices[member].continuation[1..].iter().map(move |&id| (member, id)))
                    .collect();
                let tokens: Vec<Vec<u32>> = behind.iter().map(|&(_, id)| vec![id]).collect();
                for ((member, _), scored) in behind.iter().zip(self.score(&states, &tokens)?) {
                    likelihoods[*member].add(scored);
                }
            }
        }
        Ok(likelihoods)
    }

    /// The last hidden state of each context, and caches to go on from.
    fn contexts(&self, groups: &[Group<'_>]) -> Result<(Vec<f32>, Vec<Cache>)> {
        let width = self.model.hidden_size();
        let mut caches: Vec<Cache> = groups.iter().map(|_| self.model.new_cache()).collect();
        // One that is longer than the budget is alone, and read in pieces.
        let mut last = Vec::new();
        let most = groups.iter().map(|group| group.context.len()).max().unwrap_or(0);
        for start in (0..most).step_by(self.budget) {
            let piece = |group: &Group<'_>| start..group.context.len().min(start + self.budget);
            let documents = caches.iter_mut().zip(groups);
            let documents =
                documents.map(|(cache, group)| Continuation { cache, ids: &group.context[piece(group)] }).collect();
            let states = self.model.read_on(self.compute, documents)?.unwrap_or_default();
            let mut row = 0;
            last.clear();
            for group in groups {
                row += piece(group).len();
                last.extend_from_slice(&states[(row - 1) * width..row * width]);
            }
        }
        Ok((last, caches))
    }

    /// Reads each context with its continuation.
    fn apart(&self, choices: &[Choice<'_>]) -> Result<Vec<Likelihood>> {
        let width = self.model.hidden_size();
        let mut likelihoods = vec![Likelihood::NOTHING; choices.len()];
        let numbers: Vec<usize> =
            (0..choices.len()).filter(|&choice| !choices[choice].continuation.is_empty()).collect();
        let length = |choice: &Choice<'_>| choice.context.len() + choice.continuation.len() - 1;
        for numbers in runs(&numbers, self.budget, |&number| length(&choices[number])) {
            let (mut batch, mut tokens, mut of) = (Batch::default(), Vec::new(), Vec::new());
            let mut rows = Vec::new();
            for &number in numbers {
                let Choice { context, continuation } = choices[number];
                let start = batch.tokens() + context.len() - 1;
                rows.push(start * width..(start + continuation.len()) * width);
                let mut ids = context.to_vec();
                ids.extend_from_slice(&continuation[..continuation.len() - 1]);
                batch.push(&ids);
                tokens.extend(continuation.iter().map(|&id| vec![id]));
                of.resize(tokens.len(), number);
            }
            let states = self.model.hidden_states(self.compute, &batch)?;
            let states: Vec<f32> = rows.into_iter().flat_map(|row| &states[row]).copied().collect();
            for (number, scored) in of.into_iter().zip(self.score(&states, &tokens)?) {
                likelihoods[number].add(scored);
            }
        }
        Ok(likelihoods)
    }

    /// Scores of some tokens behind each hidden state.
    fn score(&self, states: &[f32], tokens: &[Vec<u32>]) -> Result<Vec<Scored>> {
        let rows = tokens.len();
        let ids: Vec<i64> = tokens.iter().flatten().map(|&id| i64::from(id)).collect();
        let mut offsets = vec![0];
        offsets.extend(tokens.iter().scan(0, |sum, tokens| {
            *sum += tokens.len() as i64;
            Some(*sum)
        }));
        let (mut losses, mut log_sums, mut best) = (vec![0.0; ids.len()], vec![0.0; rows], vec![0; rows]);
        let scores = Scores { best: Some(&mut best), ..Scores::new(&mut losses, &mut log_sums) };
        let given = Tokens { ids: Ids::I64(&ids), offsets: Some(&offsets) };
        self.model.linear_ce().forward(self.compute.workers, states, self.head, given, scores)?;
        let best = tokens
            .iter()
            .zip(best)
            .flat_map(|(tokens, best)| tokens.iter().map(move |&id| i64::from(best) == i64::from(id)));
        Ok(losses.into_iter().zip(best).map(|(loss, best)| Scored { loss, best }).collect())
    }
}

/// Consecutive elements with up to so many tokens together, or one that has more.
fn runs<T>(all: &[T], budget: usize, tokens: impl Fn(&T) -> usize) -> impl Iterator<Item = &[T]> {
    let mut rest = all;
    std::iter::from_fn(move || {
        let mut sum = tokens(rest.first()?);
        let more = rest[1..].iter().take_while(|element| {
            sum = sum.saturating_add(tokens(element));
            sum <= budget
        });
        let (run, behind) = rest.split_at(1 + more.count());
        rest = behind;
        Some(run)
    })
}

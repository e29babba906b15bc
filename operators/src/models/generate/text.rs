//! The text of tokens as they come.

use crate::models::error::Result;
use crate::tokens::Tokenizer;

/// What an incomplete character is decoded to.
const INCOMPLETE: char = '\u{FFFD}';

/// Decodes tokens as they come, and looks for stop strings.
///
/// A token is decoded together with those since the last place where the text was complete, and with the ones before that place that
/// were decoded with it: tokenizers treat the first token of a text in another way than others. What ends within a character waits.
#[derive(Debug)]
pub(super) struct Detokenizer<'a> {
    stop: Vec<&'a str>,
    longest_stop: usize,
    /// What is certain.
    text: String,
    /// Tokens from `start` on are decoded, of which those up to `complete` are in the text.
    start: usize,
    complete: usize,
    /// Bytes of the text that were handed out.
    released: usize,
}

impl<'a> Detokenizer<'a> {
    pub(super) fn new(stop: &'a [String]) -> Self {
        let stop: Vec<&str> = stop.iter().map(String::as_str).filter(|stop| !stop.is_empty()).collect();
        let longest_stop = stop.iter().map(|stop| stop.len()).max().unwrap_or(0);
        Self { stop, longest_stop, text: String::new(), start: 0, complete: 0, released: 0 }
    }

    /// Takes the last of all tokens so far; whether the text has a stop string now.
    pub(super) fn push(&mut self, tokenizer: &Tokenizer, ids: &[u32]) -> Result<bool> {
        let before = tokenizer.decode(&ids[self.start..self.complete])?;
        let whole = tokenizer.decode(&ids[self.start..])?;
        let new = whole.get(before.len()..).unwrap_or_default();
        let known = self.text.len();
        self.text.push_str(new);
        // A stop string that is new ends in what is new.
        let from = self.text.floor_char_boundary(known.saturating_sub(self.longest_stop));
        let stopped = self.stop.iter().any(|stop| self.text[from..].contains(stop));
        // Of bytes in a row all become something else if a later one does not belong to a character.
        let is_byte = ids.last().is_some_and(|&id| tokenizer.is_byte(id));
        if new.is_empty() || new.ends_with(INCOMPLETE) || is_byte {
            self.text.truncate(known);
        } else {
            (self.start, self.complete) = (self.complete, ids.len());
        }
        Ok(stopped)
    }

    /// What can be handed out: it cannot become part of a stop string.
    pub(super) fn release(&mut self) -> &str {
        let kept_back = |stop: &&str| {
            let most = stop.len().min(self.text.len() - self.released);
            (1..=most).rev().find(|&length| stop.is_char_boundary(length) && self.text.ends_with(&stop[..length]))
        };
        let end = self.text.len() - self.stop.iter().filter_map(kept_back).max().unwrap_or(0);
        let start = std::mem::replace(&mut self.released, end);
        &self.text[start..end]
    }

    /// The text of all tokens, cut before stop strings, and what of it was not handed out.
    pub(super) fn finish(self, tokenizer: &Tokenizer, ids: &[u32]) -> Result<(String, usize)> {
        let mut text = tokenizer.decode(ids)?;
        for stop in self.stop {
            if let Some(end) = text.find(stop) {
                text.truncate(end);
            }
        }
        let released = text.floor_char_boundary(self.released.min(text.len()));
        Ok((text, released))
    }
}

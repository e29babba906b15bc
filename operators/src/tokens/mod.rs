//! Tokenizers, and the operators `count_tokens` and `tokenize`.
//!
//! [`Tokenizer`] wraps the tokenizer library; nothing outside its module names it. [`TokenCounter`] counts tokens without making ids,
//! [`TokenBudget`] finds where in a corpus a number of tokens is reached.

mod budget;
mod chunk;
mod count;
mod lists;
mod pack;
#[cfg(test)]
mod tests;
mod tokenize;
mod tokenizer;

pub use budget::TokenBudget;
pub use count::{CountTokensConfig, CountTokensKind};
pub use tokenize::{ChunkConfig, PackConfig, TokenizeConfig, TokenizeKind, TooLong};
pub use tokenizer::{EncodeError, TokenCounter, Tokenizer, resolve_location};

fn default_column() -> String {
    "text".to_owned()
}

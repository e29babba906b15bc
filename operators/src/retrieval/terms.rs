//! How texts become terms.

use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use super::words;
use crate::Result;
use crate::error::nearest;
use crate::resources::{ResourceIdentity, Resources};
use crate::tokens::{EncodeError, Tokenizer};

/// How texts become terms, as a configuration has it: `whitespace`, `words`, or `{tokenizer: …, limit: …}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum TermsConfig {
    /// By a rule.
    Named(NamedTerms),
    /// By a tokenizer.
    Tokens(TokensConfig),
}

/// Rules by which texts become terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NamedTerms {
    /// What stands between white space, as `str.split()` of Python has it.
    Whitespace,
    /// Runs of at least two letters, numbers and low lines, in lower case: the default of scikit-learn's vectorisers.
    Words,
}

/// Terms that are ids of tokens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokensConfig {
    /// A `tokenizer.json`, a folder with one, a URL, or a repository on the Hugging Face Hub such as
    /// `EleutherAI/gpt-neox-20b`. Special tokens are not put around a text.
    pub tokenizer: String,
    /// Only the first so many tokens of a text count; all if left out.
    #[serde(default)]
    pub limit: Option<NonZeroU32>,
}

impl<'de> Deserialize<'de> for TermsConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let allowed = "'whitespace', 'words' and a map {tokenizer: …, limit: …}";
        match Value::deserialize(deserializer)? {
            Value::String(name) if name == "whitespace" => Ok(Self::Named(NamedTerms::Whitespace)),
            Value::String(name) if name == "words" => Ok(Self::Named(NamedTerms::Words)),
            Value::String(name) => {
                let near = nearest(&name, ["whitespace", "words"]).map(|near| format!(", did you mean '{near}'?"));
                Err(D::Error::custom(format!(
                    "'{name}' is not allowed{}; allowed are {allowed}",
                    near.unwrap_or_default()
                )))
            }
            map @ Value::Object(_) => {
                TokensConfig::deserialize(map).map(Self::Tokens).map_err(|error| D::Error::custom(error.to_string()))
            }
            other => Err(D::Error::custom(format!("{other} is not allowed; allowed are {allowed}"))),
        }
    }
}

/// Makes terms of texts. Cheap to clone and safe to share between threads.
///
/// ```
/// use gristmill_operators::retrieval::{TermScratch, Terms};
///
/// let mut found = Vec::new();
/// Terms::words().each("A Fox, a dog", &mut TermScratch::default(), |term| found.push(term.to_owned()))?;
/// assert_eq!(found, ["fox", "dog"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Terms {
    rule: Rule,
    settings: String,
}

#[derive(Clone, Debug)]
enum Rule {
    Whitespace,
    Words,
    Tokens { tokenizer: Tokenizer, limit: Option<NonZeroU32> },
}

/// Working memory of [`Terms::each`], for use again and again.
#[derive(Clone, Debug, Default)]
pub struct TermScratch {
    ids: Vec<u32>,
    lowered: String,
}

impl Terms {
    /// What stands between white space.
    #[must_use]
    pub fn whitespace() -> Self {
        Self { rule: Rule::Whitespace, settings: json!("whitespace").to_string() }
    }

    /// Runs of at least two word characters, in lower case.
    #[must_use]
    pub fn words() -> Self {
        Self { rule: Rule::Words, settings: json!("words").to_string() }
    }

    /// Ids of tokens, as decimal numbers. `hash` tells tokenizers apart whose statistics must not be mixed.
    #[must_use]
    pub fn tokens(tokenizer: Tokenizer, hash: &str, limit: Option<NonZeroU32>) -> Self {
        let settings = json!({"tokenizer": hash, "limit": limit}).to_string();
        Self { rule: Rule::Tokens { tokenizer, limit }, settings }
    }

    /// The terms that a configuration asks for, with the identity of the tokenizer where there is one.
    ///
    /// # Errors
    /// A tokenizer that cannot be read.
    pub fn load(config: &TermsConfig, resources: &Resources) -> Result<(Self, Option<ResourceIdentity>)> {
        match config {
            TermsConfig::Named(NamedTerms::Whitespace) => Ok((Self::whitespace(), None)),
            TermsConfig::Named(NamedTerms::Words) => Ok((Self::words(), None)),
            TermsConfig::Tokens(TokensConfig { tokenizer, limit }) => {
                let (tokenizer, identity) = Tokenizer::load(tokenizer, resources)?;
                Ok((Self::tokens(tokenizer, &identity.hash, *limit), Some(identity)))
            }
        }
    }

    /// What tells these terms from others, as JSON: statistics made with other settings are of other terms.
    #[must_use]
    pub fn settings(&self) -> &str {
        &self.settings
    }

    /// Visits the terms of a text in order, repeated ones each time.
    ///
    /// # Errors
    /// A text that the tokenizer cannot encode, before any term was visited.
    pub fn each(&self, text: &str, scratch: &mut TermScratch, mut visit: impl FnMut(&str)) -> Result<(), EncodeError> {
        match &self.rule {
            Rule::Whitespace => text.split(words::is_space).filter(|term| !term.is_empty()).for_each(visit),
            Rule::Words => words::words(text, &mut scratch.lowered, visit),
            Rule::Tokens { tokenizer, limit } => {
                tokenizer.encode(text, false, &mut scratch.ids)?;
                let limit = limit.map_or(usize::MAX, |limit| limit.get() as usize);
                for &id in scratch.ids.iter().take(limit) {
                    let mut digits = [0; 10];
                    visit(decimal(id, &mut digits));
                }
            }
        }
        Ok(())
    }
}

/// A number in digits.
fn decimal(mut number: u32, digits: &mut [u8; 10]) -> &str {
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    std::str::from_utf8(&digits[start..]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn of(terms: &Terms, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        terms.each(text, &mut TermScratch::default(), |term| found.push(term.to_owned())).unwrap();
        found
    }

    fn animals() -> Tokenizer {
        let json = br#"{
          "version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null, "decoder": null,
          "pre_tokenizer": {"type": "WhitespaceSplit"},
          "model": {"type": "WordLevel", "vocab": {"fox": 10, "dog": 4294967295}, "unk_token": "fox"}
        }"#;
        Tokenizer::from_bytes("animals.json", json).unwrap()
    }

    #[test]
    fn rules_give_terms_in_order() {
        assert_eq!(of(&Terms::whitespace(), " The\u{1c}fox,\n\tthe\u{3000}fox "), ["The", "fox,", "the", "fox"]);
        assert_eq!(of(&Terms::words(), "The fox, the"), ["the", "fox", "the"]);
        let tokens = |limit| Terms::tokens(animals(), "abc", NonZeroU32::new(limit));
        assert_eq!(of(&tokens(0), "fox dog cat"), ["10", "4294967295", "10"]);
        assert_eq!(of(&tokens(2), "fox dog cat"), ["10", "4294967295"]);
        assert_eq!(tokens(2).settings(), r#"{"tokenizer":"abc","limit":2}"#);
        assert_eq!(decimal(0, &mut [0; 10]), "0");
    }

    #[test]
    fn configurations_say_what_is_allowed() {
        let read = |value: Value| serde_json::from_value::<TermsConfig>(value);
        for value in [json!("words"), json!("whitespace"), json!({"tokenizer": "gpt2", "limit": null})] {
            assert_eq!(serde_json::to_value(read(value.clone()).unwrap()).unwrap(), value);
        }
        for (value, says) in [
            (json!("word"), "did you mean 'words'?"),
            (json!(3), "3 is not allowed; allowed are 'whitespace', 'words' and a map"),
            (json!({"tokeniser": "gpt2"}), "unknown field `tokeniser`"),
            (json!({"tokenizer": "gpt2", "limit": 0}), "nonzero"),
        ] {
            let message = read(value).unwrap_err().to_string();
            assert!(message.contains(says), "{message}");
        }
    }
}

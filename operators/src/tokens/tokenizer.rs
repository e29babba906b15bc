//! The tokenizer: nothing outside this module names the tokenizer library.
//!
//! A [`Tokenizer`] is a `tokenizer.json` made ready for encoding. It runs the library's own stages (added tokens,
//! normaliser, pre-tokenizer, model), so ids are the library's. What a file says about truncation and padding is
//! switched off: operators cut and pad only where their own configuration asks for it.

mod added;
mod cache;
mod canonical;
mod counter;
mod cuts;
mod encoder;
mod merges;
mod normal;
mod stages;
mod vocabulary;

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokenizers::pipeline::PipelineToken;

pub use self::counter::TokenCounter;
use self::encoder::Encoder;
use self::merges::Merges;
use self::stages::Stages;
use self::vocabulary::VocabularyFile;
use crate::resources::{ResourceIdentity, Resources};
use crate::{OperatorError, Result};

/// A text that the tokenizer cannot encode, such as one with a character that a vocabulary without an unknown token
/// does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot tokenize the text: {0}")]
pub struct EncodeError(String);

/// A tokenizer read from a `tokenizer.json`.
///
/// Cheap to clone and safe to share between threads.
///
/// ```
/// use gristmill_operators::tokens::Tokenizer;
///
/// let json = br#"{
///   "version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null, "decoder": null,
///   "pre_tokenizer": {"type": "WhitespaceSplit"},
///   "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "fox": 1, "dog": 2}, "unk_token": "[UNK]"}
/// }"#;
/// let tokenizer = Tokenizer::from_bytes("animals.json", json)?;
/// let mut ids = Vec::new();
/// tokenizer.encode("fox dog fox", false, &mut ids)?;
/// assert_eq!(ids, [1, 2, 1]);
/// assert_eq!(tokenizer.counter().count("fox dog fox", false)?, 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Tokenizer {
    shared: Arc<Shared>,
}

/// What all clones of a tokenizer use.
struct Shared {
    /// What counting needs where the library's model is not needed.
    counting: Option<Counting>,
    /// The whole file, made ready when it is first needed.
    whole: OnceLock<Result<Stages, EncodeError>>,
    /// The text of the file, in the form that the library writes.
    canonical: String,
    splits_at_spaces: bool,
    location: String,
    /// The largest id, added tokens left out.
    largest_id: Option<u32>,
    /// Tokens that stand for one byte each.
    byte_tokens: HashSet<u32>,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    /// Encoders that no thread uses right now. Their caches are warm.
    idle: Mutex<Vec<Encoder>>,
}

/// The stages before the model, and the merges of a byte-level BPE model.
struct Counting {
    stages: Stages,
    merges: Merges,
}

impl Counting {
    /// Absent where the library has to be asked.
    fn new(file: VocabularyFile) -> Option<Self> {
        let merges = Merges::new(file.byte_pairs()?)?;
        let pipeline = tokenizers::from_json(&file.without_merges().ok()?).ok()?;
        Some(Self { stages: Stages::new(pipeline, false), merges })
    }
}

impl Shared {
    /// The stages of the whole file.
    fn stages(&self) -> Result<&Stages, EncodeError> {
        let whole = self.whole.get_or_init(|| {
            let pipeline = tokenizers::from_json(&self.canonical).map_err(failed)?;
            Ok(Stages::new(pipeline, self.splits_at_spaces))
        });
        whole.as_ref().map_err(EncodeError::clone)
    }
}

impl Tokenizer {
    /// Reads the text of a `tokenizer.json`. `location` is only named in errors.
    pub fn from_bytes(location: &str, json: &[u8]) -> Result<Self> {
        let failed = |message: String| OperatorError::Resource { location: location.to_owned(), message };
        let json = std::str::from_utf8(json).map_err(|error| failed(format!("not a tokenizer.json: {error}")))?;
        let canonical =
            canonical::canonical(json).map_err(|message| failed(format!("not a tokenizer.json: {message}")))?;
        let file: std::result::Result<VocabularyFile, _> = serde_json::from_str(&canonical);
        let splits_at_spaces = file.as_ref().is_ok_and(VocabularyFile::splits_at_spaces);
        let largest_id = file.as_ref().ok().and_then(VocabularyFile::largest_id);
        let byte_tokens = file.as_ref().map(VocabularyFile::byte_tokens).unwrap_or_default();
        let unreadable = file.as_ref().err().map(|error| format!("cannot read its vocabulary: {error}"));
        let counting = file.ok().and_then(Counting::new);
        let mut shared = Shared {
            counting,
            whole: OnceLock::new(),
            canonical,
            splits_at_spaces,
            location: location.to_owned(),
            largest_id,
            byte_tokens,
            prefix: Vec::new(),
            suffix: Vec::new(),
            idle: Mutex::new(Vec::new()),
        };
        let stages = match &shared.counting {
            Some(counting) => &counting.stages,
            None => {
                shared.stages().map_err(|error| failed(format!("this tokenizer.json is not supported: {}", error.0)))?
            }
        };
        if let Some(message) = unreadable {
            return Err(failed(message));
        }
        let template = &stages.pipeline.get_post_processor().single;
        let ids = |run: &[(PipelineToken, u8)]| run.iter().map(|(token, _)| token.id()).collect();
        let (prefix, suffix) = (ids(&template.prefix), ids(&template.suffix));
        (shared.prefix, shared.suffix) = (prefix, suffix);
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Reads the tokenizer that a configuration names: see [`resolve_location`]. The identity carries the location as it
    /// is written there.
    pub fn load(location: &str, resources: &Resources) -> Result<(Self, ResourceIdentity)> {
        let (bytes, identity) = resources.read(&resolve_location(location))?;
        let tokenizer = Self::from_bytes(&identity.location, &bytes)?;
        Ok((tokenizer, ResourceIdentity { location: location.to_owned(), ..identity }))
    }

    /// Puts the ids of `text` into `ids`, in place of what was there. With `special_tokens` the ids that the file's
    /// post-processor adds stand around them (`[CLS]`, `<s>`, …). Special tokens written out in the text are recognised in
    /// either case, as the library does by default.
    pub fn encode(&self, text: &str, special_tokens: bool, ids: &mut Vec<u32>) -> Result<(), EncodeError> {
        let shared = &*self.shared;
        let stages = shared.stages()?;
        let idle = || shared.idle.lock().unwrap_or_else(PoisonError::into_inner);
        ids.clear();
        if special_tokens {
            ids.extend_from_slice(&shared.prefix);
        }
        let waiting = idle().pop();
        let mut encoder = waiting.unwrap_or_else(|| Encoder::new(stages));
        let encoded = encoder.encode(stages, text, ids);
        idle().push(encoder);
        if special_tokens {
            ids.extend_from_slice(&shared.suffix);
        }
        encoded
    }

    /// The text of ids, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String, EncodeError> {
        self.shared.stages()?.pipeline.decode(ids, true).map_err(failed)
    }

    /// The text of one id by itself, special tokens spelt out.
    pub fn decode_token(&self, id: u32) -> Result<String, EncodeError> {
        self.shared.stages()?.pipeline.decode(&[id], false).map_err(failed)
    }

    /// Whether a token stands for one byte, so that its text depends on the bytes beside it.
    #[cfg(feature = "models")]
    pub(crate) fn is_byte(&self, id: u32) -> bool {
        self.shared.byte_tokens.contains(&id)
    }

    /// A counter, which finds the number of tokens much faster than encoding does. One per thread.
    #[must_use]
    pub fn counter(&self) -> TokenCounter {
        TokenCounter::new(self.clone())
    }

    /// One more than the largest id, added tokens included.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        let added = self.shared.stages().ok().and_then(|stages| stages.largest_added);
        self.shared.largest_id.max(added).map_or(0, |largest| largest as usize + 1)
    }

    /// The ids that encoding with special tokens puts before a text.
    #[must_use]
    pub fn prefix(&self) -> &[u32] {
        &self.shared.prefix
    }

    /// The ids that encoding with special tokens puts after a text.
    #[must_use]
    pub fn suffix(&self) -> &[u32] {
        &self.shared.suffix
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Tokenizer")
            .field("location", &self.shared.location)
            .field("largest_id", &self.shared.largest_id)
            .field("prefix", &self.shared.prefix)
            .field("suffix", &self.shared.suffix)
            .finish_non_exhaustive()
    }
}

/// Where the `tokenizer.json` that a configuration names is read from. In this order:
///
/// 1. a URL (`hf://`, `s3://`, `https://`, …) that ends in `.json` is read as it is, any other URL is a folder;
/// 2. a file or folder that exists on the local disk;
/// 3. `name` or `owner/name`, with an optional `@revision`, is a repository on the Hugging Face Hub;
/// 4. anything else is a path, and reading it says what is wrong.
///
/// In a folder or repository the file is `tokenizer.json`. The Hub is reached through the host's [`Resources`], as
/// `hf://owner/name/tokenizer.json`.
#[must_use]
pub fn resolve_location(location: &str) -> String {
    let in_folder = |folder: &str| format!("{}/tokenizer.json", folder.trim_end_matches('/'));
    if location.contains("://") {
        return if location.ends_with(".json") { location.to_owned() } else { in_folder(location) };
    }
    let path = Path::new(location);
    if path.is_dir() {
        return in_folder(location);
    }
    if path.exists() || !is_hub_id(location) {
        return location.to_owned();
    }
    in_folder(&format!("hf://{location}"))
}

fn failed(error: tokenizers::Error) -> EncodeError {
    EncodeError(error.to_string())
}

fn is_hub_id(location: &str) -> bool {
    let name = location.split_once('@').map_or(location, |(name, _)| name);
    let parts: Vec<&str> = name.split('/').collect();
    let is_part = |part: &&str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|character| character.is_ascii_alphanumeric() || "-_.".contains(character))
    };
    parts.len() <= 2 && parts.iter().all(is_part) && !location.ends_with(".json")
}

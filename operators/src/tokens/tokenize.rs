//! `tokenize`: turns a text column into token ids.
//!
//! One configuration, three shapes of output:
//!
//! * by default one list per row, behind the input's columns, cut at `truncate` if that is given;
//! * with `chunk`, one row per window of a text ([`chunk`](super::chunk));
//! * with `pack`, one row per sequence of whole texts ([`pack`](super::pack)).
//!
//! All lengths count the special tokens, as they do in the Hugging Face libraries.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::chunk::ChunkPass;
use super::lists::{IdLists, id_type, list_type};
use super::pack::PackPass;
use super::tokenizer::Tokenizer;
use crate::columns::TextColumn;
use crate::config::invalid;
use crate::operator::{Operator, OperatorKind, OperatorSpec, Output, Pass, RowEffect, extend_batch, extend_schema};
use crate::resources::{ResourceIdentity, Resources};
use crate::{OperatorError, Result, config, require_column};

pub(super) const KIND: &str = "tokenize";

/// Longest list that Arrow's 32-bit offsets allow.
const LONGEST: usize = i32::MAX as usize;

/// The kind `tokenize`.
#[derive(Clone, Copy, Debug)]
pub struct TokenizeKind;

/// Configuration of `tokenize`.
///
/// | | rows out | columns out |
/// |---|---|---|
/// | default | one for each row | the input's, then `<name>` |
/// | `chunk` | one for each window | the input's without the text, then `<name>` and `<name>_chunk` (UInt32, the window's number in its text, from 0) |
/// | `pack` | one for each sequence | `<name>` and `<name>_lengths` (List of UInt32, the lengths of the texts in the sequence, in order) |
///
/// `<name>` is a list of the smallest unsigned integers that hold every id of the tokenizer: UInt8, UInt16 or UInt32.
/// A null text gives a null list; `pack` rejects the row instead, with the reason `no text`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenizeConfig {
    /// A `tokenizer.json`, a folder with one, a URL, or a repository on the Hugging Face Hub such as
    /// `EleutherAI/gpt-neox-20b`.
    pub tokenizer: String,
    /// The text column.
    #[serde(default = "super::default_column")]
    pub column: String,
    /// Whether to put the special tokens around each text (or window) that the tokenizer defines, as the Hugging Face
    /// libraries do by default.
    #[serde(default = "default_special_tokens")]
    pub special_tokens: bool,
    /// Keeps at most so many ids of a text, special tokens included; ids are cut from the end of the text.
    #[serde(default)]
    pub truncate: Option<usize>,
    /// Cuts texts into windows.
    #[serde(default)]
    pub chunk: Option<ChunkConfig>,
    /// Puts whole texts behind each other into sequences.
    #[serde(default)]
    pub pack: Option<PackConfig>,
}

/// How `tokenize` cuts a text into windows.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChunkConfig {
    /// Most ids in a window, special tokens included.
    pub length: usize,
    /// How many ids of the text a window repeats from the end of the one before.
    #[serde(default)]
    pub overlap: usize,
}

/// How `tokenize` packs texts into sequences.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PackConfig {
    /// Most ids in a sequence.
    pub length: usize,
    /// What happens to a text with more ids than that.
    #[serde(default)]
    pub too_long: TooLong,
}

/// What `pack` does with a text that is longer than a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TooLong {
    /// The run stops.
    #[default]
    Error,
    /// The row is set aside with an error.
    Quarantine,
}

fn default_special_tokens() -> bool {
    true
}

impl OperatorKind for TokenizeKind {
    fn name(&self) -> &'static str {
        KIND
    }

    fn summary(&self) -> &'static str {
        "turn a text column into token ids: whole, in windows, or packed into sequences"
    }

    fn example(&self) -> &'static str {
        "tokenize: {tokenizer: EleutherAI/gpt-neox-20b, pack: {length: 2048, too_long: quarantine}}"
    }

    fn config_schema(&self) -> Value {
        config::schema::<TokenizeConfig>()
    }

    fn complete(&self, config: &Value) -> Result<Value> {
        check_lengths(&config::parse(KIND, config)?)?;
        config::complete::<TokenizeConfig>(KIND, config)
    }

    fn bind(&self, spec: &OperatorSpec, input: &SchemaRef, resources: &Resources) -> Result<Arc<dyn Operator>> {
        let config: TokenizeConfig = config::parse(KIND, &spec.config)?;
        check_lengths(&config)?;
        TextColumn::check(KIND, input, &config.column)?;
        let (tokenizer, identity) = Tokenizer::load(&config.tokenizer, resources)?;
        check_room(&config, &tokenizer)?;
        let schema = output_schema(spec, &config, input, tokenizer.vocab_size())?;
        let shared = Arc::new(Shared { config, schema, tokenizer });
        Ok(Arc::new(Tokenize { spec: spec.clone(), identity, shared }))
    }
}

#[derive(Debug)]
struct Tokenize {
    spec: OperatorSpec,
    identity: ResourceIdentity,
    shared: Arc<Shared>,
}

/// What the operator and its passes have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: TokenizeConfig,
    pub(super) schema: SchemaRef,
    pub(super) tokenizer: Tokenizer,
}

impl Shared {
    /// Puts the ids of a text into `ids`: with special tokens if the configuration says so, and cut as it says.
    pub(super) fn encode(&self, row: u64, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let special_tokens = self.config.special_tokens;
        self.tokenizer.encode(text, special_tokens, ids).map_err(|error| self.failed(row, error.to_string()))?;
        self.check_length(row, ids)?;
        if let Some(longest) = self.config.truncate.filter(|&longest| longest < ids.len()) {
            let suffix = if special_tokens { self.tokenizer.suffix() } else { &[] };
            ids.truncate(longest - suffix.len());
            ids.extend_from_slice(suffix);
        }
        Ok(())
    }

    /// An error for a text with more ids than a list can hold.
    pub(super) fn check_length(&self, row: u64, ids: &[u32]) -> Result<()> {
        if ids.len() <= LONGEST {
            return Ok(());
        }
        Err(self.failed(row, format!("the text has {} tokens, a list holds at most {LONGEST}", ids.len())))
    }

    /// An error about one row.
    pub(super) fn failed(&self, row: u64, message: String) -> OperatorError {
        OperatorError::Row { kind: KIND.to_owned(), row, message }
    }
}

impl Operator for Tokenize {
    fn spec(&self) -> &OperatorSpec {
        &self.spec
    }

    fn output_schema(&self) -> &SchemaRef {
        &self.shared.schema
    }

    fn inputs(&self) -> Vec<String> {
        vec![self.shared.config.column.clone()]
    }

    fn row_effect(&self) -> RowEffect {
        if self.shared.config.chunk.is_some() || self.shared.config.pack.is_some() {
            return RowEffect::Any;
        }
        RowEffect::Same
    }

    fn resources(&self) -> Vec<ResourceIdentity> {
        vec![self.identity.clone()]
    }

    fn start(&self) -> Result<Box<dyn Pass>> {
        let shared = Arc::clone(&self.shared);
        if let Some(chunk) = shared.config.chunk {
            return Ok(Box::new(ChunkPass::new(shared, chunk)));
        }
        if let Some(pack) = shared.config.pack {
            return Ok(Box::new(PackPass::new(shared, pack)));
        }
        let lists = IdLists::new(shared.tokenizer.vocab_size());
        Ok(Box::new(RowPass { shared, lists, ids: Vec::new(), rows: 0 }))
    }
}

/// One list per row.
struct RowPass {
    shared: Arc<Shared>,
    lists: IdLists,
    ids: Vec<u32>,
    /// Rows of earlier batches.
    rows: u64,
}

impl Pass for RowPass {
    fn push(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()> {
        let texts = TextColumn::of(KIND, batch, &self.shared.config.column)?;
        for (row, text) in texts.iter().enumerate() {
            let Some(text) = text else {
                self.lists.null();
                continue;
            };
            let stream_row = self.rows + row as u64;
            self.shared.encode(stream_row, text, &mut self.ids)?;
            // A batch of very long texts may need more than one list array.
            if !self.lists.fits(self.ids.len()) {
                self.give_out(batch, row, output)?;
            }
            self.lists.extend(&self.ids);
            self.lists.end();
        }
        self.give_out(batch, batch.num_rows(), output)?;
        self.rows += batch.num_rows() as u64;
        Ok(())
    }
}

impl RowPass {
    /// Gives out the rows before `end` whose lists are built.
    fn give_out(&mut self, batch: &RecordBatch, end: usize, output: &mut Output) -> Result<()> {
        let rows = self.lists.len();
        let lists = self.lists.finish()?;
        output.keep(extend_batch(&batch.slice(end - rows, rows), &self.shared.schema, vec![lists])?);
        Ok(())
    }
}

/// Errors in the configuration that show without the tokenizer.
fn check_lengths(config: &TokenizeConfig) -> Result<()> {
    if config.truncate == Some(0) {
        return Err(invalid(KIND, "truncate", "0 keeps nothing; give at least 1"));
    }
    if let Some(chunk) = config.chunk {
        if chunk.length == 0 {
            return Err(invalid(KIND, "chunk.length", "0 is no window; give at least 1"));
        }
        if chunk.overlap >= chunk.length {
            let message = format!("{} is not less than the length {}", chunk.overlap, chunk.length);
            return Err(invalid(KIND, "chunk.overlap", message));
        }
        for (other, given) in [("truncate", config.truncate.is_some()), ("pack", config.pack.is_some())] {
            if given {
                return Err(invalid(KIND, "chunk", format!("cannot be combined with {other}; leave one of them out")));
            }
        }
    }
    if let Some(pack) = config.pack {
        if pack.length == 0 {
            return Err(invalid(KIND, "pack.length", "0 is no sequence; give at least 1"));
        }
        if pack.length > LONGEST {
            return Err(invalid(KIND, "pack.length", format!("{} is more than {LONGEST}", pack.length)));
        }
        if let Some(longest) = config.truncate.filter(|&longest| longest > pack.length) {
            let message = format!("{longest} is longer than a packed sequence of {}", pack.length);
            return Err(invalid(KIND, "truncate", message));
        }
    }
    Ok(())
}

/// Errors in the configuration that depend on how many special tokens the tokenizer adds.
fn check_room(config: &TokenizeConfig, tokenizer: &Tokenizer) -> Result<()> {
    let special = if config.special_tokens { tokenizer.prefix().len() + tokenizer.suffix().len() } else { 0 };
    if let Some(longest) = config.truncate.filter(|&longest| longest <= special) {
        let message = format!("{longest} leaves no room for text beside {special} special tokens");
        return Err(invalid(KIND, "truncate", message));
    }
    if let Some(chunk) = config.chunk.filter(|chunk| chunk.length <= special + chunk.overlap) {
        let message = format!(
            "{} leaves no room for new text beside {special} special tokens and an overlap of {}",
            chunk.length, chunk.overlap
        );
        return Err(invalid(KIND, "chunk.length", message));
    }
    Ok(())
}

fn output_schema(
    spec: &OperatorSpec,
    config: &TokenizeConfig,
    input: &SchemaRef,
    vocab_size: usize,
) -> Result<SchemaRef> {
    let (index, _) = require_column(KIND, input, &config.column)?;
    let ids = list_type(id_type(vocab_size));
    if config.pack.is_some() {
        let lengths = Field::new(format!("{}_lengths", spec.name), list_type(DataType::UInt32), false);
        return Ok(Arc::new(Schema::new(vec![Field::new(&spec.name, ids, false), lengths])));
    }
    let ids = Field::new(&spec.name, ids, input.field(index).is_nullable());
    if config.chunk.is_none() {
        return extend_schema(spec, input, vec![ids]);
    }
    let chunk = Field::new(format!("{}_chunk", spec.name), DataType::UInt32, false);
    let kept: Vec<_> = (0..input.fields().len()).filter(|&column| column != index).collect();
    extend_schema(spec, &Arc::new(input.project(&kept)?), vec![ids, chunk])
}

//! `count_tokens`: adds the number of tokens of a text column.
//!
//! The count is the number of ids that `tokenize` would give; see [`TokenCounter`] for how it is found without them. The
//! operator looks at single rows. Where a budget of tokens is reached is a question to the whole corpus in order, which
//! [`TokenBudget`](super::TokenBudget) answers over the finished counts.

use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::builder::UInt32Builder;
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, SchemaRef};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::tokenizer::{TokenCounter, Tokenizer};
use crate::columns::TextColumn;
use crate::operator::{Operator, OperatorKind, OperatorSpec, Output, Pass, RowEffect, extend_batch, extend_schema};
use crate::resources::{ResourceIdentity, Resources};
use crate::{OperatorError, Result, config, require_column};

const KIND: &str = "count_tokens";

/// The kind `count_tokens`.
#[derive(Clone, Copy, Debug)]
pub struct CountTokensKind;

/// Configuration of `count_tokens`.
///
/// Adds `<name>` (UInt32), null where the text is null.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CountTokensConfig {
    /// A `tokenizer.json`, a folder with one, a URL, or a repository on the Hugging Face Hub such as
    /// `EleutherAI/gpt-neox-20b`.
    pub tokenizer: String,
    /// The text column.
    #[serde(default = "super::default_column")]
    pub column: String,
    /// Whether to count the special tokens that the tokenizer puts around a text.
    #[serde(default)]
    pub special_tokens: bool,
}

impl OperatorKind for CountTokensKind {
    fn name(&self) -> &'static str {
        KIND
    }

    fn summary(&self) -> &'static str {
        "count the tokens of a text column"
    }

    fn example(&self) -> &'static str {
        "count_tokens: {tokenizer: EleutherAI/gpt-neox-20b}"
    }

    fn config_schema(&self) -> Value {
        config::schema::<CountTokensConfig>()
    }

    fn complete(&self, config: &Value) -> Result<Value> {
        config::complete::<CountTokensConfig>(KIND, config)
    }

    fn bind(&self, spec: &OperatorSpec, input: &SchemaRef, resources: &Resources) -> Result<Arc<dyn Operator>> {
        let config: CountTokensConfig = config::parse(KIND, &spec.config)?;
        TextColumn::check(KIND, input, &config.column)?;
        let (index, _) = require_column(KIND, input, &config.column)?;
        let field = Field::new(&spec.name, DataType::UInt32, input.field(index).is_nullable());
        let schema = extend_schema(spec, input, vec![field])?;
        let (tokenizer, identity) = Tokenizer::load(&config.tokenizer, resources)?;
        let shared = Shared { config, schema, tokenizer, idle: Mutex::new(Vec::new()) };
        Ok(Arc::new(CountTokens { spec: spec.clone(), identity, shared: Arc::new(shared) }))
    }
}

#[derive(Debug)]
struct CountTokens {
    spec: OperatorSpec,
    identity: ResourceIdentity,
    shared: Arc<Shared>,
}

/// What the operator and its passes have in common.
#[derive(Debug)]
struct Shared {
    config: CountTokensConfig,
    schema: SchemaRef,
    tokenizer: Tokenizer,
    /// Counters of finished passes. Their caches are warm, so the next split begins where the last one ended.
    idle: Mutex<Vec<TokenCounter>>,
}

impl Operator for CountTokens {
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
        RowEffect::Same
    }

    fn resources(&self) -> Vec<ResourceIdentity> {
        vec![self.identity.clone()]
    }

    fn start(&self) -> Result<Box<dyn Pass>> {
        let idle = self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let counter = idle.unwrap_or_else(|| self.shared.tokenizer.counter());
        Ok(Box::new(CountTokensPass { shared: Arc::clone(&self.shared), counter: Some(counter), rows: 0 }))
    }
}

struct CountTokensPass {
    shared: Arc<Shared>,
    /// Present until the pass is dropped.
    counter: Option<TokenCounter>,
    /// Rows of earlier batches.
    rows: u64,
}

impl Pass for CountTokensPass {
    fn push(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()> {
        let config = &self.shared.config;
        let texts = TextColumn::of(KIND, batch, &config.column)?;
        let counter = self.counter.get_or_insert_with(|| self.shared.tokenizer.counter());
        let mut counts = UInt32Builder::with_capacity(batch.num_rows());
        for (row, text) in (self.rows..).zip(texts.iter()) {
            let failed = |message: String| OperatorError::Row { kind: KIND.to_owned(), row, message };
            let Some(text) = text else {
                counts.append_null();
                continue;
            };
            let count = counter.count(text, config.special_tokens).map_err(|error| failed(error.to_string()))?;
            let count =
                u32::try_from(count).map_err(|_| failed(format!("{count} tokens, a count is at most {}", u32::MAX)))?;
            counts.append_value(count);
        }
        self.rows += batch.num_rows() as u64;
        let counts: ArrayRef = Arc::new(counts.finish());
        output.keep(extend_batch(batch, &self.shared.schema, vec![counts])?);
        Ok(())
    }
}

impl Drop for CountTokensPass {
    fn drop(&mut self) {
        if let Some(counter) = self.counter.take() {
            self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner).push(counter);
        }
    }
}

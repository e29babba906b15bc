//! `bm25` and `term_cosine`: scores of texts against queries.
//!
//! Both add a column of scores, one for each query or group of queries. A null text has no scores; a text without terms has
//! scores of 0, so it is ranked, and ranked last but for texts that also share nothing with the query. Scores are
//! computed in f64 and rounded to f32 at the end.

use std::num::NonZeroUsize;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_buffer::{NullBuffer, NullBufferBuilder};
use arrow_schema::SchemaRef;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bm25::Bm25;
use super::index::{QueryIndex, Scorer};
use super::lexicon::Lexicon;
use super::queries::{Queries, QueryTable};
use super::statistics::CorpusStatistics;
use super::terms::{NamedTerms, TermScratch, Terms, TermsConfig};
use super::vectors::TermVectors;
use super::{fit, table};
use crate::columns::TextColumn;
use crate::config::{self, invalid};
use crate::operator::{
    Fit, Operator, OperatorKind, OperatorSpec, Output, Pass, RowEffect, extend_batch, extend_schema,
};
use crate::resources::{ResourceIdentity, Resources};
use crate::{OperatorError, Result, scores, tables};

const BM25: &str = "bm25";
const COSINE: &str = "term_cosine";

/// The kind `bm25`.
#[derive(Clone, Copy, Debug)]
pub struct Bm25Kind;

/// The kind `term_cosine`.
#[derive(Clone, Copy, Debug)]
pub struct TermCosineKind;

/// Configuration of `bm25`.
///
/// Adds `<name>`, a column of scores by Okapi BM25 ([`Bm25`]): FixedSizeList of Float32, null where the text is null.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bm25Config {
    /// The queries.
    pub queries: QueryTable,
    /// The text column.
    #[serde(default = "super::default_column")]
    pub column: String,
    /// How texts become terms: `whitespace`, `words`, or `{tokenizer: …, limit: …}`.
    #[serde(default = "whitespace")]
    pub terms: TermsConfig,
    /// How slowly a term's repetitions saturate; at least 0.
    #[serde(default = "k1")]
    pub k1: f64,
    /// How much long documents are held back, from 0 to 1.
    #[serde(default = "b")]
    pub b: f64,
    /// Share of the mean weight that terms get which are in more than half of the documents.
    #[serde(default = "epsilon")]
    pub epsilon: f64,
    /// Statistics of the corpus, as `term_statistics` makes them; learned from the rows of the step if left out.
    #[serde(default)]
    pub statistics: Option<String>,
}

/// Configuration of `term_cosine`.
///
/// Adds `<name>`, a column of cosines of vectors over terms ([`TermVectors`]): FixedSizeList of Float32, null where the text
/// is null.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TermCosineConfig {
    /// The queries.
    pub queries: QueryTable,
    /// The text column.
    #[serde(default = "super::default_column")]
    pub column: String,
    /// How texts become terms: `whitespace`, `words`, or `{tokenizer: …, limit: …}`.
    #[serde(default = "words")]
    pub terms: TermsConfig,
    /// What an occurrence of a term counts.
    #[serde(default)]
    pub weighting: Weighting,
    /// With `tfidf`, how many terms count at most: those with the most occurrences; 5,000 if left out.
    #[serde(default)]
    pub max_features: Option<NonZeroUsize>,
    /// With `tfidf`, whether the queries are counted as documents of the corpus, too.
    #[serde(default)]
    pub count_queries: bool,
    /// With `tfidf`, statistics of the corpus, as `term_statistics` makes them; learned from the rows of the step if left
    /// out.
    #[serde(default)]
    pub statistics: Option<String>,
}

/// What an occurrence of a term counts in a vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Weighting {
    /// As much as any other.
    TokenFrequency,
    /// More the fewer documents have the term, as in scikit-learn's `TfidfVectorizer`.
    #[default]
    Tfidf,
}

const MAX_FEATURES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4999);

fn whitespace() -> TermsConfig {
    TermsConfig::Named(NamedTerms::Whitespace)
}

fn words() -> TermsConfig {
    TermsConfig::Named(NamedTerms::Words)
}

fn k1() -> f64 {
    Bm25::default().k1
}

fn b() -> f64 {
    Bm25::default().b
}

fn epsilon() -> f64 {
    Bm25::default().epsilon
}

impl Bm25Config {
    fn parameters(&self) -> Bm25 {
        Bm25 { k1: self.k1, b: self.b, epsilon: self.epsilon }
    }
}

impl OperatorKind for Bm25Kind {
    fn name(&self) -> &'static str {
        BM25
    }

    fn summary(&self) -> &'static str {
        "score a text column against queries by Okapi BM25"
    }

    fn example(&self) -> &'static str {
        "bm25: {queries: {path: queries.jsonl, text: text, id: id}, terms: words}"
    }

    fn config_schema(&self) -> Value {
        config::schema::<Bm25Config>()
    }

    fn complete(&self, config: &Value) -> Result<Value> {
        let parsed: Bm25Config = config::parse(BM25, config)?;
        parsed.queries.check(BM25)?;
        if let Some((key, message)) = parsed.parameters().out_of_range() {
            return Err(invalid(BM25, key, message));
        }
        config::complete::<Bm25Config>(BM25, config)
    }

    fn fit(&self, config: &Value) -> Result<Option<Fit>> {
        let config: Bm25Config = config::parse(BM25, config)?;
        config.statistics.is_none().then(|| fit::fit(&config.column, &config.terms)).transpose()
    }

    fn bind(&self, spec: &OperatorSpec, input: &SchemaRef, resources: &Resources) -> Result<Arc<dyn Operator>> {
        let config: Bm25Config = config::parse(BM25, &spec.config)?;
        let step = Step::new(BM25, input, &config.queries, &config.column, &config.terms, resources)?;
        let keep = step.query_terms()?;
        let (statistics, read) = step.statistics(config.statistics.as_deref(), Some(&keep), resources)?;
        let index = QueryIndex::bm25(&step.terms, &statistics, config.parameters(), &step.queries);
        let index = index.map_err(|error| invalid(BM25, "queries", error.to_string()))?;
        step.operator(spec, input, &config.column, index, Some(read))
    }
}

impl OperatorKind for TermCosineKind {
    fn name(&self) -> &'static str {
        COSINE
    }

    fn summary(&self) -> &'static str {
        "score a text column against queries by the cosine of term frequencies or tf-idf"
    }

    fn example(&self) -> &'static str {
        "term_cosine: {queries: {path: queries.jsonl, text: text, id: id}, weighting: tfidf}"
    }

    fn config_schema(&self) -> Value {
        config::schema::<TermCosineConfig>()
    }

    fn complete(&self, config: &Value) -> Result<Value> {
        let mut parsed: TermCosineConfig = config::parse(COSINE, config)?;
        parsed.queries.check(COSINE)?;
        match parsed.weighting {
            Weighting::Tfidf => {
                parsed.max_features.get_or_insert(MAX_FEATURES);
            }
            Weighting::TokenFrequency => {
                let given = [
                    ("max_features", parsed.max_features.is_some()),
                    ("count_queries", parsed.count_queries),
                    ("statistics", parsed.statistics.is_some()),
                ];
                if let Some((key, _)) = given.into_iter().find(|(_, given)| *given) {
                    return Err(invalid(
                        COSINE,
                        key,
                        "this is for 'weighting: tfidf'; token frequencies need no corpus",
                    ));
                }
            }
        }
        serde_json::to_value(parsed).map_err(|error| invalid(COSINE, "", error.to_string()))
    }

    fn fit(&self, config: &Value) -> Result<Option<Fit>> {
        let config: TermCosineConfig = config::parse(COSINE, config)?;
        let needed = config.weighting == Weighting::Tfidf && config.statistics.is_none();
        needed.then(|| fit::fit(&config.column, &config.terms)).transpose()
    }

    fn bind(&self, spec: &OperatorSpec, input: &SchemaRef, resources: &Resources) -> Result<Arc<dyn Operator>> {
        let config: TermCosineConfig = config::parse(COSINE, &spec.config)?;
        let step = Step::new(COSINE, input, &config.queries, &config.column, &config.terms, resources)?;
        step.query_terms()?;
        let unusable = |error: crate::tokens::EncodeError| invalid(COSINE, "queries", error.to_string());
        let (vectors, read) = match config.weighting {
            Weighting::TokenFrequency => (TermVectors::token_frequency(step.terms.clone()), None),
            Weighting::Tfidf => {
                let (mut statistics, read) = step.statistics(config.statistics.as_deref(), None, resources)?;
                if config.count_queries {
                    let mut scratch = TermScratch::default();
                    for text in step.queries.texts() {
                        statistics.add(&step.terms, text, &mut scratch).map_err(unusable)?;
                    }
                }
                (TermVectors::tf_idf(step.terms.clone(), &statistics, config.max_features), Some(read))
            }
        };
        let index = QueryIndex::cosine(&vectors, &step.queries).map_err(unusable)?;
        step.operator(spec, input, &config.column, index, read)
    }
}

/// What both kinds bind alike.
struct Step {
    kind: &'static str,
    terms: Terms,
    queries: Queries,
    resources: Vec<ResourceIdentity>,
}

impl Step {
    fn new(
        kind: &'static str,
        input: &SchemaRef,
        table: &QueryTable,
        column: &str,
        terms: &TermsConfig,
        resources: &Resources,
    ) -> Result<Self> {
        TextColumn::check(kind, input, column)?;
        let (terms, tokenizer) = Terms::load(terms, resources)?;
        let (queries, mut identities) = Queries::read(kind, table, resources)?;
        identities.extend(tokenizer);
        Ok(Self { kind, terms, queries, resources: identities })
    }

    /// The terms of all queries; an error where a query has none, as it would find nothing.
    fn query_terms(&self) -> Result<Lexicon> {
        let mut lexicon = Lexicon::default();
        let mut scratch = TermScratch::default();
        for (row, text) in self.queries.texts().iter().enumerate() {
            let mut terms = 0_u64;
            let visited = self.terms.each(text, &mut scratch, |term| {
                lexicon.intern(term);
                terms += 1;
            });
            let failed = |message: String| invalid(self.kind, "queries", format!("row {row}: {message}"));
            visited.map_err(|error| failed(error.to_string()))?;
            if terms == 0 {
                return Err(failed(format!("the query {text:?} has no term; at least one is needed")));
            }
        }
        Ok(lexicon)
    }

    fn statistics(
        &self,
        location: Option<&str>,
        keep: Option<&Lexicon>,
        resources: &Resources,
    ) -> Result<(CorpusStatistics, ResourceIdentity)> {
        let location = location.ok_or_else(|| {
            let message = "the key is missing; it names statistics of the corpus, as term_statistics makes them";
            invalid(self.kind, "statistics", message)
        })?;
        let (bytes, identity) = resources.read(location)?;
        let batches = tables::read_arrow(location, bytes)?;
        Ok((table::read(location, &batches, self.terms.settings(), keep)?, identity))
    }

    fn operator(
        self,
        spec: &OperatorSpec,
        input: &SchemaRef,
        column: &str,
        index: QueryIndex,
        statistics: Option<ResourceIdentity>,
    ) -> Result<Arc<dyn Operator>> {
        let schema = extend_schema(spec, input, vec![scores::field(&spec.name, index.names())?])?;
        let mut resources = self.resources;
        resources.extend(statistics);
        let shared = Shared { kind: self.kind, column: column.to_owned(), schema, index: Arc::new(index) };
        Ok(Arc::new(Scores { spec: spec.clone(), resources, shared: Arc::new(shared) }))
    }
}

#[derive(Debug)]
struct Scores {
    spec: OperatorSpec,
    resources: Vec<ResourceIdentity>,
    shared: Arc<Shared>,
}

/// What the operator and its passes have in common.
#[derive(Debug)]
struct Shared {
    kind: &'static str,
    column: String,
    schema: SchemaRef,
    index: Arc<QueryIndex>,
}

impl Operator for Scores {
    fn spec(&self) -> &OperatorSpec {
        &self.spec
    }

    fn output_schema(&self) -> &SchemaRef {
        &self.shared.schema
    }

    fn inputs(&self) -> Vec<String> {
        vec![self.shared.column.clone()]
    }

    fn row_effect(&self) -> RowEffect {
        RowEffect::Same
    }

    fn resources(&self) -> Vec<ResourceIdentity> {
        self.resources.clone()
    }

    fn start(&self) -> Result<Box<dyn Pass>> {
        let scorer = Scorer::new(Arc::clone(&self.shared.index));
        Ok(Box::new(ScoresPass { shared: Arc::clone(&self.shared), scorer, rows: 0 }))
    }
}

struct ScoresPass {
    shared: Arc<Shared>,
    scorer: Scorer,
    /// Rows of earlier batches.
    rows: u64,
}

impl Pass for ScoresPass {
    fn push(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()> {
        let shared = &*self.shared;
        let queries = shared.index.names().len();
        let texts = TextColumn::of(shared.kind, batch, &shared.column)?;
        let mut values = Vec::with_capacity(texts.len() * queries);
        let mut valid = NullBufferBuilder::new(texts.len());
        for (row, text) in (self.rows..).zip(texts.iter()) {
            let Some(text) = text else {
                valid.append_null();
                values.resize(values.len() + queries, 0.0);
                continue;
            };
            let scores = self.scorer.score(text).map_err(|error| OperatorError::Row {
                kind: shared.kind.to_owned(),
                row,
                message: error.to_string(),
            })?;
            valid.append_non_null();
            values.extend(scores.iter().map(|&score| score as f32));
        }
        self.rows += batch.num_rows() as u64;
        let valid: Option<NullBuffer> = valid.finish();
        let column: ArrayRef = Arc::new(scores::column(queries, values, valid)?);
        output.keep(extend_batch(batch, &shared.schema, vec![column])?);
        Ok(())
    }
}

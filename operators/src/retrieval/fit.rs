//! `term_statistics`: how often terms occur in a column of texts, for [`bm25`](super::Bm25Kind) and
//! [`term_cosine`](super::TermCosineKind).
//!
//! A pass counts the texts of its stream and gives the counts out as a table, sorted by term: at the end, and before that
//! whenever 1,048,576 distinct terms or 64 MiB of their text have come together, so that the memory of a pass is bounded.
//! Such tables add up to the statistics of the corpus, whatever its splits are; adding up takes the memory of all distinct terms.
//! Everything is exact: the mean that BM25 needs is one over all terms, so none is left out.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::statistics::CorpusStatistics;
use super::table;
use super::terms::{NamedTerms, TermScratch, Terms, TermsConfig};
use crate::columns::TextColumn;
use crate::config;
use crate::operator::{Fit, Operator, OperatorKind, OperatorSpec, Output, Pass, RowEffect};
use crate::resources::{ResourceIdentity, Resources};
use crate::{OperatorError, Result};

const KIND: &str = "term_statistics";

/// The kind `term_statistics`.
#[derive(Clone, Copy, Debug)]
pub struct TermStatisticsKind;

/// Configuration of `term_statistics`.
///
/// Gives tables of the columns `term` (LargeUtf8), `documents` and `occurrences` (UInt64) and `settings` (Utf8). The row
/// without a term has the number of documents and of all terms. A null text is no document; one without terms is.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TermStatisticsConfig {
    /// The text column.
    #[serde(default = "super::default_column")]
    pub column: String,
    /// How texts become terms.
    #[serde(default = "default_terms")]
    pub terms: TermsConfig,
}

fn default_terms() -> TermsConfig {
    TermsConfig::Named(NamedTerms::Whitespace)
}

/// What a step has to learn that needs statistics of a column under its key `statistics`.
pub(super) fn fit(column: &str, terms: &TermsConfig) -> Result<Fit> {
    let config = TermStatisticsConfig { column: column.to_owned(), terms: terms.clone() };
    let config = serde_json::to_value(config).map_err(|error| config::invalid(KIND, "", error.to_string()))?;
    let spec = OperatorSpec { version: TermStatisticsKind.version(), ..OperatorSpec::new(KIND, config) };
    Ok(Fit { spec, key: "statistics", rows: None })
}

impl OperatorKind for TermStatisticsKind {
    fn name(&self) -> &'static str {
        KIND
    }

    fn is_step(&self) -> bool {
        false
    }

    fn summary(&self) -> &'static str {
        "count the terms of a corpus, for bm25 and term_cosine"
    }

    fn example(&self) -> &'static str {
        "term_statistics: {column: text, terms: words}"
    }

    fn config_schema(&self) -> Value {
        config::schema::<TermStatisticsConfig>()
    }

    fn complete(&self, config: &Value) -> Result<Value> {
        config::complete::<TermStatisticsConfig>(KIND, config)
    }

    fn combine(
        &self,
        spec: &OperatorSpec,
        parts: &mut dyn Iterator<Item = Result<RecordBatch>>,
    ) -> Result<Vec<RecordBatch>> {
        let (statistics, settings) = table::add_up(parts, |message| config::invalid(&spec.kind, "", message))?;
        table::write(&statistics, settings.as_deref())
    }

    fn bind(&self, spec: &OperatorSpec, input: &SchemaRef, resources: &Resources) -> Result<Arc<dyn Operator>> {
        let config: TermStatisticsConfig = config::parse(KIND, &spec.config)?;
        TextColumn::check(KIND, input, &config.column)?;
        let (terms, identity) = Terms::load(&config.terms, resources)?;
        Ok(Arc::new(TermStatistics { spec: spec.clone(), column: config.column, terms, identity }))
    }
}

#[derive(Debug)]
struct TermStatistics {
    spec: OperatorSpec,
    column: String,
    terms: Terms,
    identity: Option<ResourceIdentity>,
}

impl Operator for TermStatistics {
    fn spec(&self) -> &OperatorSpec {
        &self.spec
    }

    fn output_schema(&self) -> &SchemaRef {
        table::schema()
    }

    fn inputs(&self) -> Vec<String> {
        vec![self.column.clone()]
    }

    fn row_effect(&self) -> RowEffect {
        RowEffect::Any
    }

    fn resources(&self) -> Vec<ResourceIdentity> {
        self.identity.iter().cloned().collect()
    }

    fn start(&self) -> Result<Box<dyn Pass>> {
        Ok(Box::new(StatisticsPass::new(&self.column, &self.terms, Limit::default())))
    }
}

/// How much a pass holds.
#[derive(Clone, Copy, Debug)]
struct Limit {
    terms: usize,
    bytes: usize,
}

impl Default for Limit {
    fn default() -> Self {
        Self { terms: 1 << 20, bytes: 64 << 20 }
    }
}

struct StatisticsPass {
    column: String,
    terms: Terms,
    limit: Limit,
    statistics: CorpusStatistics,
    scratch: TermScratch,
    /// Rows that were pushed, and those of them that stand behind tables given out.
    rows: u64,
    given_out: u64,
}

impl StatisticsPass {
    fn new(column: &str, terms: &Terms, limit: Limit) -> Self {
        Self {
            column: column.to_owned(),
            terms: terms.clone(),
            limit,
            statistics: CorpusStatistics::default(),
            scratch: TermScratch::default(),
            rows: 0,
            given_out: 0,
        }
    }

    fn give_out(&mut self, output: &mut Output) -> Result<()> {
        for batch in table::write(&self.statistics, Some(self.terms.settings()))? {
            output.keep_as(batch, self.rows - self.given_out);
            self.given_out = self.rows;
        }
        self.statistics = CorpusStatistics::default();
        Ok(())
    }
}

impl Pass for StatisticsPass {
    fn push(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()> {
        for text in TextColumn::of(KIND, batch, &self.column)?.iter() {
            if let Some(text) = text {
                self.statistics.add(&self.terms, text, &mut self.scratch).map_err(|error| OperatorError::Row {
                    kind: KIND.to_owned(),
                    row: self.rows,
                    message: error.to_string(),
                })?;
            }
            self.rows += 1;
            let lexicon = &self.statistics.lexicon;
            if lexicon.len() >= self.limit.terms || lexicon.text_bytes() >= self.limit.bytes {
                self.give_out(output)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, output: &mut Output) -> Result<()> {
        self.give_out(output)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::conformance;

    /// All tables of a pass over batches, under a limit.
    fn tables(limit: Limit, batches: &[RecordBatch]) -> (Vec<RecordBatch>, u64) {
        let mut pass = StatisticsPass::new("text", &Terms::words(), limit);
        let mut output = Output::default();
        batches.iter().for_each(|batch| pass.push(batch, &mut output).unwrap());
        pass.finish(&mut output).unwrap();
        (output.batches, output.kept)
    }

    fn combined(parts: Vec<RecordBatch>) -> Vec<RecordBatch> {
        let spec = fit("text", &TermsConfig::Named(NamedTerms::Words)).unwrap().spec;
        TermStatisticsKind.combine(&spec, &mut parts.into_iter().map(Ok)).unwrap()
    }

    #[test]
    fn splits_and_limits_do_not_show() {
        let rows = conformance::text_batch();
        let expected = combined(tables(Limit::default(), std::slice::from_ref(&rows)).0);
        let first = &expected[0];
        // Two of the 14 texts of the suite are null.
        let totals = (first.column(1).as_ref(), first.column(2).as_ref());
        let of = |array: &dyn arrow_array::Array| {
            arrow_array::cast::AsArray::as_primitive::<arrow_array::types::UInt64Type>(array).value(0)
        };
        assert_eq!(of(totals.0), rows.num_rows() as u64 - 2);
        assert!(of(totals.1) > 1600);
        for limit in [Limit { terms: 1, bytes: usize::MAX }, Limit { terms: 7, bytes: 20 }] {
            for split in 0..=rows.num_rows() {
                let (mut parts, kept) = tables(limit, &[rows.slice(0, split)]);
                let (rest, kept_of_rest) = tables(limit, &[rows.slice(split, rows.num_rows() - split)]);
                assert!(parts.len() + rest.len() > 3, "the limit was not reached");
                assert_eq!(kept + kept_of_rest, rows.num_rows() as u64);
                parts.extend(rest);
                assert_eq!(combined(parts), expected, "{limit:?}, {split}");
            }
        }
    }

    #[test]
    fn nothing_gives_totals_of_nothing() {
        let (batches, kept) = tables(Limit::default(), &[]);
        assert_eq!((batches.len(), batches[0].num_rows(), kept), (1, 1, 0));
        assert_eq!(combined(Vec::new())[0].num_rows(), 1);
    }

    #[test]
    fn conforms() {
        conformance::check(&TermStatisticsKind, &Value::Null);
        conformance::check(&TermStatisticsKind, &serde_json::json!({"terms": "words"}));
    }
}

//! An operator of the tests that learns from the corpus before it scores: `overlap` counts words of queries in a text, weighted by how rare they are.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use gristmill::operators::{
    Fit, Operator, OperatorKind, OperatorSpec, Output, Pass, ResourceIdentity, Resources, Result, RowEffect,
    TextColumn, config, scores, tables,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Scores texts. `statistics` is learned from the first `fit_rows` rows.
#[derive(Debug)]
pub struct Overlap;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OverlapConfig {
    queries: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    statistics: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fit_rows: Option<u64>,
}

/// Counts the rows in which words are; what `Overlap` learns.
#[derive(Debug)]
pub struct OverlapCounts;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CountsConfig {
    queries: Vec<String>,
}

impl OperatorKind for Overlap {
    fn name(&self) -> &'static str {
        "overlap"
    }

    fn summary(&self) -> &'static str {
        "score texts by words of queries"
    }

    fn example(&self) -> &'static str {
        "overlap: {queries: [wheat]}"
    }

    fn config_schema(&self) -> Value {
        config::schema::<OverlapConfig>()
    }

    fn complete(&self, config: &Value) -> Result<Value> {
        config::complete::<OverlapConfig>(self.name(), config)
    }

    fn fit(&self, config: &Value) -> Result<Option<Fit>> {
        let config: OverlapConfig = config::parse(self.name(), config)?;
        let spec = OperatorSpec::new("overlap_counts", json!({"queries": config.queries}));
        Ok(config.statistics.is_none().then_some(Fit { spec, key: "statistics", rows: config.fit_rows }))
    }

    fn bind(&self, spec: &OperatorSpec, input: &SchemaRef, resources: &Resources) -> Result<Arc<dyn Operator>> {
        let config: OverlapConfig = config::parse(self.name(), &spec.config)?;
        TextColumn::check(self.name(), input, "text")?;
        let location = config.statistics.as_deref().unwrap_or_default();
        let (bytes, identity) = resources.read(location)?;
        let table = tables::read_arrow(location, bytes)?.remove(0);
        let counts = table["rows"].as_primitive::<UInt64Type>();
        let total = counts.value(config.queries.len()) as f64;
        let weights = (0..config.queries.len()).map(|query| (total / (1.0 + counts.value(query) as f64)).ln() as f32);
        let mut fields = input.fields().to_vec();
        fields.push(Arc::new(scores::field(&spec.name, &config.queries)?));
        Ok(Arc::new(BoundOverlap {
            spec: spec.clone(),
            weights: weights.collect(),
            words: config.queries,
            schema: Arc::new(Schema::new(fields)),
            identity,
        }))
    }
}

#[derive(Clone, Debug)]
struct BoundOverlap {
    spec: OperatorSpec,
    words: Vec<String>,
    weights: Vec<f32>,
    schema: SchemaRef,
    identity: ResourceIdentity,
}

impl Operator for BoundOverlap {
    fn spec(&self) -> &OperatorSpec {
        &self.spec
    }

    fn output_schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn inputs(&self) -> Vec<String> {
        vec!["text".to_owned()]
    }

    fn row_effect(&self) -> RowEffect {
        RowEffect::Same
    }

    fn resources(&self) -> Vec<ResourceIdentity> {
        vec![self.identity.clone()]
    }

    fn start(&self) -> Result<Box<dyn Pass>> {
        Ok(Box::new(self.clone()))
    }
}

impl Pass for BoundOverlap {
    fn push(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()> {
        let texts = TextColumn::of("overlap", batch, "text")?;
        let mut values = Vec::new();
        for text in texts.iter() {
            for (word, weight) in self.words.iter().zip(&self.weights) {
                let count = text.unwrap_or_default().split(' ').filter(|other| *other == word).count() as f32;
                let is_number = !text.unwrap_or_default().contains("not-a-number");
                values.push(if is_number { count * weight } else { f32::NAN });
            }
        }
        let valid = texts.iter().map(|text| text.is_some()).collect::<Vec<_>>();
        let column = scores::column(self.words.len(), values, Some(valid.into()))?;
        let mut columns = batch.columns().to_vec();
        columns.push(Arc::new(column));
        output.keep(RecordBatch::try_new(Arc::clone(&self.schema), columns)?);
        Ok(())
    }
}

fn counts_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("word", DataType::Utf8, false), Field::new("rows", DataType::UInt64, false)]))
}

fn counts_batch(words: &[String], counts: Vec<u64>) -> Result<RecordBatch> {
    let words = StringArray::from_iter_values(words.iter().map(String::as_str).chain([""]));
    Ok(RecordBatch::try_new(counts_schema(), vec![Arc::new(words) as ArrayRef, Arc::new(UInt64Array::from(counts))])?)
}

impl OperatorKind for OverlapCounts {
    fn name(&self) -> &'static str {
        "overlap_counts"
    }

    fn is_step(&self) -> bool {
        false
    }

    fn summary(&self) -> &'static str {
        "count rows with words"
    }

    fn example(&self) -> &'static str {
        "overlap_counts: {queries: [wheat]}"
    }

    fn config_schema(&self) -> Value {
        config::schema::<CountsConfig>()
    }

    fn complete(&self, config: &Value) -> Result<Value> {
        config::complete::<CountsConfig>(self.name(), config)
    }

    fn combine(
        &self,
        spec: &OperatorSpec,
        parts: &mut dyn Iterator<Item = Result<RecordBatch>>,
    ) -> Result<Vec<RecordBatch>> {
        let config: CountsConfig = config::parse(self.name(), &spec.config)?;
        let mut counts = vec![0; config.queries.len() + 1];
        for part in parts {
            let part = part?;
            // A part is the whole of what one stream gave.
            assert_eq!(part.num_rows(), counts.len());
            let more = part["rows"].as_primitive::<UInt64Type>();
            counts.iter_mut().zip(more.values()).for_each(|(count, more)| *count += more);
        }
        Ok(vec![counts_batch(&config.queries, counts)?])
    }

    fn bind(&self, spec: &OperatorSpec, input: &SchemaRef, _: &Resources) -> Result<Arc<dyn Operator>> {
        let CountsConfig { queries: words } = config::parse(self.name(), &spec.config)?;
        TextColumn::check(self.name(), input, "text")?;
        let counts = vec![0; words.len() + 1];
        Ok(Arc::new(BoundCounts { spec: spec.clone(), words, counts, schema: counts_schema() }))
    }
}

#[derive(Clone, Debug)]
struct BoundCounts {
    spec: OperatorSpec,
    words: Vec<String>,
    counts: Vec<u64>,
    schema: SchemaRef,
}

impl Operator for BoundCounts {
    fn spec(&self) -> &OperatorSpec {
        &self.spec
    }

    fn output_schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn inputs(&self) -> Vec<String> {
        vec!["text".to_owned()]
    }

    fn row_effect(&self) -> RowEffect {
        RowEffect::Any
    }

    fn start(&self) -> Result<Box<dyn Pass>> {
        Ok(Box::new(self.clone()))
    }
}

impl Pass for BoundCounts {
    fn push(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()> {
        for text in TextColumn::of("overlap_counts", batch, "text")?.iter() {
            let words =
                self.words.iter().map(|word| text.is_some_and(|text| text.split(' ').any(|other| other == word)));
            self.counts.iter_mut().zip(words.chain([true])).for_each(|(count, is_in)| *count += u64::from(is_in));
        }
        output.kept += batch.num_rows() as u64;
        Ok(())
    }

    fn finish(&mut self, output: &mut Output) -> Result<()> {
        output.batches.push(counts_batch(&self.words, std::mem::take(&mut self.counts))?);
        Ok(())
    }
}

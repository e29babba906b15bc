//! The operator: documents of a batch forward and back, and columns from what comes out.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::builder::{Float64Builder, UInt32Builder};
use arrow_array::{ArrayRef, BooleanArray, FixedSizeListArray, Float32Array, RecordBatch, StructArray};
use arrow_buffer::{BooleanBuffer, NullBuffer};
use arrow_schema::{DataType, Field, Fields, SchemaRef};
use arrow_select::filter::filter_record_batch;
use serde_json::Value;

use super::config::{GradientConfig, Norms};
use super::description::SketchDescription;
use super::documents::{self, Document, Row};
use crate::config::{self, invalid};
use crate::influence::batches::{KEPT_BYTES, batch_tokens};
use crate::influence::sketch::{NormsOf, Projector, RowsOf, Sketch};
use crate::models::gradients::{Backward, Loss, TokenLoss, token_weights};
use crate::models::{Batch, ModelError};
use crate::operator::{Operator, OperatorKind, OperatorSpec, Output, Pass, RowEffect, extend_batch, extend_schema};
use crate::scoring::device;
use crate::scoring::reader::{COMPUTE, Reader, Reading};
use crate::{ResourceIdentity, Resources, Result};

pub(super) const KIND: &str = "gradient";

/// Numbers of a batch of rows that goes out, at most, unless a single row has more.
const BATCH_NUMBERS: usize = 1 << 24;

/// The kind `gradient`.
#[derive(Clone, Copy, Debug)]
pub struct GradientKind;

impl OperatorKind for GradientKind {
    fn name(&self) -> &'static str {
        KIND
    }

    fn summary(&self) -> &'static str {
        "gradients of a language model's losses on texts, projected to few numbers, with loss and norms"
    }

    fn example(&self) -> &'static str {
        "gradient: {model: EleutherAI/pythia-160m, dimension: 16, context_length: 1024, output: f16}"
    }

    fn config_schema(&self) -> Value {
        config::schema::<GradientConfig>()
    }

    fn complete(&self, config: &Value) -> Result<Value> {
        config::complete::<GradientConfig>(KIND, config)
    }

    fn identity(&self, config: &Value) -> Value {
        device::identity(config)
    }

    fn bind(&self, spec: &OperatorSpec, input: &SchemaRef, resources: &Resources) -> Result<Arc<dyn Operator>> {
        let config: GradientConfig = config::parse(KIND, &spec.config)?;
        documents::check(KIND, &config, input)?;
        let reading = Reading {
            model: &config.model,
            adapter: config.adapter.as_deref(),
            tokenizer: config.tokenizer.as_deref(),
            column: &config.column,
            precision: config.precision,
            device: config.device,
            context_length: config.context_length,
            preferred_length: None,
        };
        let reader = Reader::for_gradients(KIND, reading, resources)?;
        reader.expect_language_model(&config.model)?;
        let sketch = Sketch::new(&reader.model, &config.sketch());
        let sketch = sketch.map_err(|message| invalid(KIND, "dimension", message))?;
        let description = SketchDescription::new(&config, &reader, &sketch);
        let fields = metadata_fields(config.norms, sketch.modules().len())?;
        let added = vec![
            description.field(&spec.name)?,
            Field::new(format!("{}_metadata", spec.name), DataType::Struct(fields.clone()), true),
        ];
        let schema = extend_schema(spec, input, added)?;
        let shared = Arc::new(Shared { schema, config, reader, sketch, description, fields });
        Ok(Arc::new(Gradient { spec: spec.clone(), shared }))
    }
}

#[derive(Debug)]
struct Gradient {
    spec: OperatorSpec,
    shared: Arc<Shared>,
}

/// What all passes share.
#[derive(Debug)]
struct Shared {
    schema: SchemaRef,
    config: GradientConfig,
    reader: Reader,
    sketch: Sketch,
    description: SketchDescription,
    /// Of the metadata.
    fields: Fields,
}

impl Operator for Gradient {
    fn spec(&self) -> &OperatorSpec {
        &self.spec
    }

    fn output_schema(&self) -> &SchemaRef {
        &self.shared.schema
    }

    fn inputs(&self) -> Vec<String> {
        let GradientConfig { column, answer, span, .. } = &self.shared.config;
        let of_span = span.iter().flat_map(documents::columns);
        [column.as_str()].into_iter().chain(answer.as_deref()).chain(of_span).map(str::to_owned).collect()
    }

    fn row_effect(&self) -> RowEffect {
        RowEffect::Screened
    }

    fn resources(&self) -> Vec<ResourceIdentity> {
        self.shared.reader.resources()
    }

    fn start(&self) -> Result<Box<dyn Pass>> {
        Ok(Box::new(GradientPass { shared: Arc::clone(&self.shared), rows: 0 }))
    }
}

struct GradientPass {
    shared: Arc<Shared>,
    /// Rows of earlier batches.
    rows: u64,
}

impl Pass for GradientPass {
    fn push(&mut self, batch: &RecordBatch, output: &mut Output) -> Result<()> {
        let shared = &*self.shared;
        let rows = documents::read(KIND, &shared.config, &shared.reader, batch)?;
        let mut start = 0;
        loop {
            let (mut end, mut numbers) = (start, 0_usize);
            while end < rows.len() {
                numbers = numbers.saturating_add(shared.count(&rows[end]).saturating_mul(shared.sketch.width()));
                if end > start && numbers > BATCH_NUMBERS {
                    break;
                }
                end += 1;
            }
            shared.go_through(&batch.slice(start, end - start), &rows[start..end], self.rows + start as u64, output)?;
            start = end;
            if start >= rows.len() {
                break;
            }
        }
        self.rows += batch.num_rows() as u64;
        Ok(())
    }
}

/// What came of a row.
#[derive(Clone, Debug, Default)]
struct Measured {
    loss: f64,
    targets: usize,
    norms: Vec<f64>,
    norm: f64,
}

/// Rows on their way to columns.
struct Results {
    /// Numbers of all rows of the input, one behind the other.
    values: Vec<f32>,
    /// Where those of each row are, in `values`.
    places: Vec<Range<usize>>,
    measured: Vec<Measured>,
    /// Why rows are quarantined.
    errors: Vec<Option<String>>,
}

impl Shared {
    /// How many rows of the sketch a row of the input has.
    fn count(&self, row: &Row) -> usize {
        match (row, self.config.per_token) {
            (Row::Unreadable(_), _) | (Row::Null, true) => 0,
            (Row::Document(document), true) => document.places(),
            (Row::Null | Row::Document(_), false) => 1,
        }
    }

    fn go_through(&self, batch: &RecordBatch, rows: &[Row], first_row: u64, output: &mut Output) -> Result<()> {
        let results = self.compute(rows)?;
        for (row, error) in results.errors.iter().enumerate() {
            if let Some(error) = error {
                output.quarantine_at(batch.slice(row, 1), error.clone(), first_row + row as u64);
            }
        }
        let kept: Vec<usize> = (0..rows.len()).filter(|&row| results.errors[row].is_none()).collect();
        let added = self.columns(rows, &kept, results)?;
        let batch = if kept.len() == rows.len() {
            batch.clone()
        } else {
            let mut mask = vec![false; rows.len()];
            kept.iter().for_each(|&row| mask[row] = true);
            filter_record_batch(batch, &BooleanArray::from(mask))?
        };
        output.keep(extend_batch(&batch, &self.schema, added)?);
        Ok(())
    }

    fn compute(&self, rows: &[Row]) -> Result<Results> {
        let width = self.sketch.width();
        let mut end = 0;
        let places: Vec<Range<usize>> = rows
            .iter()
            .map(|row| {
                let start = end;
                end += self.count(row) * width;
                start..end
            })
            .collect();
        let errors = rows.iter().map(|row| match row {
            Row::Unreadable(message) => Some(message.clone()),
            Row::Null | Row::Document(_) => None,
        });
        let mut results = Results {
            values: vec![0.0; end],
            places,
            measured: vec![Measured::default(); rows.len()],
            errors: errors.collect(),
        };
        let model = &self.reader.model;
        let failed = |error: ModelError| invalid(KIND, "model", error.to_string());
        let mut backward = Backward::new(model).map_err(failed)?.with_kept_bytes(KEPT_BYTES);
        let rows_of = if self.config.per_token { RowsOf::Tokens } else { RowsOf::Documents };
        let norms_of = if self.config.norms == Norms::None { NormsOf::Nothing } else { NormsOf::Modules };
        let mut projector = Projector::new(&self.sketch).with_rows(rows_of).with_norms(norms_of);
        let mut waiting: Vec<(usize, &Document)> = Vec::new();
        let (mut tokens, most) = (0, batch_tokens(model));
        for (number, row) in rows.iter().enumerate() {
            // Nothing is computed where there is nothing to predict: all stays 0.
            let Row::Document(document) = row else { continue };
            if document.targets.is_empty() {
                continue;
            }
            if tokens + document.ids.len() > most {
                self.run(&mut backward, &mut projector, std::mem::take(&mut waiting), &mut results).map_err(failed)?;
                tokens = 0;
            }
            tokens += document.ids.len();
            waiting.push((number, document));
        }
        self.run(&mut backward, &mut projector, waiting, &mut results).map_err(failed)?;
        Ok(results)
    }

    /// Runs documents forward and back in one batch, again without those whose loss is not finite; in two, where a device has too little memory for one.
    fn run(
        &self,
        backward: &mut Backward<'_>,
        projector: &mut Projector<'_>,
        mut documents: Vec<(usize, &Document)>,
        results: &mut Results,
    ) -> std::result::Result<(), ModelError> {
        while !documents.is_empty() {
            let mut batch = Batch::default();
            documents.iter().for_each(|(_, document)| batch.push(&document.ids));
            let weights = token_weights(&batch, self.config.reduction.into(), |document, token| {
                documents[document].1.targets.contains(&token)
            });
            projector.prepare(&batch);
            let loss = Loss::Tokens(TokenLoss { weights: &weights, targets: None });
            let losses = match backward.run(COMPUTE, &batch, loss, projector) {
                Err(ModelError::NotFinite { document, loss }) => {
                    let (row, _) = documents.remove(document);
                    results.errors[row] = Some(format!("the loss is {loss}"));
                    continue;
                }
                Err(error) if error.is_out_of_memory() && documents.len() > 1 => {
                    let others = documents.split_off(documents.len() / 2);
                    self.run(backward, projector, documents, results)?;
                    return self.run(backward, projector, others, results);
                }
                run => run?,
            };
            for (number, &(row, document)) in documents.iter().enumerate() {
                let rows = match self.config.per_token {
                    false => number..number + 1,
                    true => {
                        let start = batch.offsets()[number] as usize;
                        start..start + document.places()
                    }
                };
                let width = self.sketch.width();
                let values = &projector.rows()[rows.start * width..rows.end * width];
                let norm = projector.norm(number).unwrap_or(0.0);
                let unstorable = values.chunks_exact(width).find_map(|row| self.description.unstorable(row));
                let infinite = || (!norm.is_finite()).then(|| format!("the norm of the gradient is {norm}"));
                if let Some(error) = unstorable.or_else(infinite) {
                    results.errors[row] = Some(error);
                    continue;
                }
                results.values[results.places[row].clone()].copy_from_slice(values);
                results.measured[row] = Measured {
                    loss: losses.documents[number],
                    targets: losses.targets[number],
                    norms: projector.module_norms(number).collect(),
                    norm,
                };
            }
            return Ok(());
        }
        Ok(())
    }

    /// The columns of the rows that are kept.
    fn columns(&self, rows: &[Row], kept: &[usize], results: Results) -> Result<Vec<ArrayRef>> {
        let Results { values, places, measured, .. } = results;
        let values = if kept.len() == rows.len() {
            values
        } else {
            kept.iter().flat_map(|&row| &values[places[row].clone()]).copied().collect()
        };
        let valid = BooleanBuffer::collect_bool(kept.len(), |row| matches!(rows[kept[row]], Row::Document(_)));
        let valid = Some(NullBuffer::new(valid)).filter(|valid| valid.null_count() > 0);
        let lengths: Vec<usize> = kept.iter().map(|&row| self.count(&rows[row])).collect();
        let sketch = self.description.encode(values, &lengths, valid.clone())?;

        let of_row = || kept.iter().map(|&row| &measured[row]);
        let count = |number: usize| {
            u32::try_from(number).map_err(|_| invalid(KIND, "column", format!("a text of {number} tokens is too long")))
        };
        let mut losses = Float64Builder::with_capacity(kept.len());
        let (mut tokens, mut truncated) = (UInt32Builder::new(), UInt32Builder::new());
        for &row in kept {
            losses.append_value(measured[row].loss);
            tokens.append_value(count(measured[row].targets)?);
            truncated.append_value(match &rows[row] {
                Row::Document(document) => count(document.truncated)?,
                Row::Null | Row::Unreadable(_) => 0,
            });
        }
        let mut columns: Vec<ArrayRef> =
            vec![Arc::new(losses.finish()), Arc::new(tokens.finish()), Arc::new(truncated.finish())];
        if self.config.norms != Norms::None {
            columns.push(Arc::new(arrow_array::Float64Array::from_iter_values(of_row().map(|row| row.norm))));
        }
        if self.config.norms == Norms::Modules {
            let modules = self.sketch.modules().len();
            let norms = of_row()
                .flat_map(|row| (0..modules).map(move |module| row.norms.get(module).map_or(0.0, |&n| n as f32)));
            let norms = Arc::new(Float32Array::from_iter_values(norms));
            let size =
                i32::try_from(modules).map_err(|_| invalid(KIND, "modules", format!("{modules} are too many")))?;
            columns.push(Arc::new(FixedSizeListArray::try_new(item(), size, norms, None)?));
        }
        let metadata = StructArray::try_new_with_length(self.fields.clone(), columns, valid, kept.len())?;
        Ok(vec![sketch, Arc::new(metadata)])
    }
}

fn metadata_fields(norms: Norms, modules: usize) -> Result<Fields> {
    let mut fields = vec![
        Field::new("loss", DataType::Float64, false),
        Field::new("tokens", DataType::UInt32, false),
        Field::new("truncated", DataType::UInt32, false),
    ];
    if norms != Norms::None {
        fields.push(Field::new("norm", DataType::Float64, false));
    }
    if norms == Norms::Modules {
        let size = i32::try_from(modules).map_err(|_| invalid(KIND, "modules", format!("{modules} are too many")))?;
        fields.push(Field::new("module_norms", DataType::FixedSizeList(item(), size), false));
    }
    Ok(fields.into())
}

fn item() -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Float32, false))
}

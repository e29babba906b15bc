//! Where the rows of a batch come from: texts that a model reads, or a column of projected gradients.

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, UInt32Type};
use arrow_array::{Array, RecordBatch};
use arrow_schema::Schema;

use super::KIND;
use super::candidates::key;
use super::documents::{Document, Made};
use super::engine::{Engine, values_of};
use super::prepared::{Prepared, score};
use crate::config::invalid;
use crate::influence::gradient::documents::{self, Row};
use crate::influence::gradient::{GradientConfig, SketchDescription};
use crate::{Result, require_column};

/// Numbers of projected gradients that are decoded at a time, at most, unless a single row has more.
const NUMBERS: usize = 1 << 22;

/// Where rows come from.
#[derive(Debug)]
pub(super) enum Source {
    /// The model reads texts, as this says.
    Texts(GradientConfig),
    /// A column that `gradient` made.
    Stored { column: String, description: SketchDescription },
}

/// What became of a row: nothing where it is null, or what is wrong with it.
pub(super) type Scored = Option<Result<Made, String>>;

impl Source {
    /// As a configuration says, given the schema of the rows.
    ///
    /// # Errors
    /// Columns that are not there or of another type; gradients by another model, of another loss, or projected otherwise.
    pub(super) fn of(prepared: &Prepared, input: &Schema) -> Result<Self> {
        let config = &prepared.config;
        let Some(column) = &config.gradients else {
            documents::check(KIND, &config.gradient(), input)?;
            return Ok(Self::Texts(config.gradient()));
        };
        let (index, _) = require_column(KIND, input, column)?;
        let wrong = |message: String| invalid(KIND, "gradients", message);
        let description = SketchDescription::of(input.field(index)).map_err(|error| wrong(error.to_string()))?;
        if description.per_token {
            return Err(wrong(format!("column '{column}' has gradients of tokens; those of texts are needed")));
        }
        if let Some(expected) = &prepared.description {
            let same = description.expect_same(expected);
            same.map_err(|message| wrong(format!("column '{column}' cannot be compared with the queries: {message}")))?;
        }
        Ok(Self::Stored { column: column.clone(), description })
    }

    /// Names of the columns that are read.
    pub(super) fn inputs(&self) -> Vec<String> {
        match self {
            Self::Texts(config) => documents::inputs(config),
            Self::Stored { column, .. } => vec![column.clone()],
        }
    }

    /// What becomes of the rows of a batch, in their order.
    pub(super) fn score(&self, prepared: &Prepared, batch: &RecordBatch) -> Result<Vec<Scored>> {
        match self {
            Self::Texts(config) => texts(prepared, config, batch),
            Self::Stored { column, description } => stored(prepared, column, description, batch),
        }
    }
}

fn texts(prepared: &Prepared, config: &GradientConfig, batch: &RecordBatch) -> Result<Vec<Scored>> {
    let rows = documents::read(KIND, config, &prepared.reader, batch)?;
    let reduction = config.reduction.into();
    let mut all = Vec::new();
    let mut scored: Vec<Scored> = Vec::with_capacity(rows.len());
    let mut places = Vec::new();
    let mut weights = Vec::new();
    for row in rows {
        scored.push(match row {
            Row::Null => None,
            Row::Unreadable(message) => Some(Err(message)),
            Row::Document(document) => {
                let document = Document::new(document.ids, document.targets, reduction);
                let weight = prepared.chosen.as_ref().map_or(Some(1.0), |chosen| chosen.weight(&key(&document)));
                if let Some(weight) = weight {
                    places.push(scored.len());
                    weights.push(weight);
                    all.push(document);
                }
                None
            }
        });
    }
    let made = score(prepared, &all);
    let made = made.map_err(|error| invalid(KIND, "model", error.to_string()))?;
    for ((place, weight), made) in places.into_iter().zip(weights).zip(made) {
        scored[place] = Some(made.map(|made| Made { weight, ..made }));
    }
    Ok(scored)
}

fn stored(
    prepared: &Prepared,
    column: &str,
    description: &SketchDescription,
    batch: &RecordBatch,
) -> Result<Vec<Scored>> {
    let Engine::Sketch { products, .. } = &prepared.engine else {
        return Err(invalid(KIND, "gradients", "the method has no use for it"));
    };
    let (index, _) = require_column(KIND, batch.schema_ref(), column)?;
    let (array, width) = (batch.column(index), products.width());
    let metadata = batch.column_by_name(&format!("{column}_metadata")).and_then(|column| column.as_struct_opt());
    let losses = metadata.and_then(|rows| rows.column_by_name("loss")?.as_primitive_opt::<Float64Type>());
    let tokens = metadata.and_then(|rows| rows.column_by_name("tokens")?.as_primitive_opt::<UInt32Type>());
    let each = (NUMBERS / width.max(1)).max(1);
    let mut scored: Vec<Scored> = Vec::with_capacity(array.len());
    for start in (0..array.len()).step_by(each) {
        let part = array.slice(start, each.min(array.len() - start));
        let values = description.decode(&part)?.values;
        let wrong = values.chunks_exact(width.max(1)).map(|row| {
            let wrong = row.iter().find(|value| !value.is_finite());
            wrong.map(|value| format!("column '{column}' has {value}"))
        });
        let wrong = wrong.collect();
        let values = values_of(values, width, wrong, Some(products));
        let values = values.map_err(|error| invalid(KIND, "gradients", error.to_string()))?;
        for (row, values) in (start..).zip(values) {
            scored.push(array.is_valid(row).then(|| {
                values.map(|values| Made {
                    loss: losses.map(|losses| losses.value(row)),
                    tokens: tokens.map(|tokens| tokens.value(row) as usize),
                    weight: 1.0,
                    values,
                })
            }));
        }
    }
    Ok(scored)
}

//! Second moments of gradients: of each element, as Adam keeps them and diagonal preconditioners read them, or of rows and columns, as Adafactor keeps them
//! (Shazeer and Stern, *Adafactor*, 2018).

use std::collections::BTreeMap;

use super::error::Result;
use super::factors::{Factor, Factors, Statistic};
use super::layer::{Layer, Layers};
use crate::influence::sketch::Sketch;
use crate::models::gradients::{Gradient, Tap};
use crate::models::{Compute, ModelError, Parameter};

/// Which second moments are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MomentsOf {
    /// Of each element.
    Elements,
    /// Means over rows and columns.
    RowsAndColumns,
}

/// Sums of squared gradients of documents, in double precision, document after document.
#[derive(Debug)]
pub struct SecondMoments {
    layers: Layers,
    of: MomentsOf,
    /// By the index of the parameter.
    sums: BTreeMap<usize, Sums>,
    gradient: Vec<f32>,
}

#[derive(Debug)]
struct Sums {
    layer: Layer,
    documents: u64,
    elements: Vec<f64>,
    rows: Vec<f64>,
    columns: Vec<f64>,
}

impl SecondMoments {
    /// Of these layers.
    pub const fn new(layers: Layers, of: MomentsOf) -> Self {
        Self { layers, of, sums: BTreeMap::new(), gradient: Vec::new() }
    }

    /// The sums, in the order of the model's parameters.
    pub fn into_factors(self) -> Factors {
        let of = self.of;
        let each = self.sums.into_values().flat_map(|Sums { layer, documents, elements, rows, columns }| {
            let (outputs, width) = (layer.outputs, layer.columns);
            let factor = |statistic, shape, values| Factor::new(&layer, statistic, documents, shape, values);
            match of {
                MomentsOf::Elements => vec![factor(Statistic::SecondMoment, [outputs, width], elements)],
                MomentsOf::RowsAndColumns => vec![
                    factor(Statistic::RowSecondMoment, [1, outputs], rows),
                    factor(Statistic::ColumnSecondMoment, [1, width], columns),
                ],
            }
        });
        each.collect()
    }
}

impl Tap for SecondMoments {
    fn wants(&self, parameter: &Parameter) -> bool {
        self.layers.take(parameter)
    }

    fn take(&mut self, compute: Compute<'_>, gradient: &Gradient<'_>) -> Result<(), ModelError> {
        let Some(rows) = self.layers.rows(gradient) else { return Ok(()) };
        let (outputs, width) = (rows.layer.outputs, rows.layer.columns);
        let (elements, lines) = match self.of {
            MomentsOf::Elements => (outputs * width, [0; 2]),
            MomentsOf::RowsAndColumns => (0, [outputs, width]),
        };
        let sums = self.sums.entry(rows.index).or_insert_with(|| Sums {
            layer: rows.layer.clone(),
            documents: 0,
            elements: vec![0.0; elements],
            rows: vec![0.0; lines[0]],
            columns: vec![0.0; lines[1]],
        });
        for document in 0..rows.documents() {
            rows.gradient(compute, document, &mut self.gradient)?;
            sums.documents += 1;
            match self.of {
                MomentsOf::Elements => {
                    let pairs = sums.elements.iter_mut().zip(&self.gradient);
                    pairs.for_each(|(sum, &value)| *sum += f64::from(value).powi(2));
                }
                MomentsOf::RowsAndColumns => add_means(&self.gradient, &mut sums.rows, &mut sums.columns),
            }
        }
        Ok(())
    }
}

/// Adds the means of the squares of each row and of each column.
fn add_means(gradient: &[f32], rows: &mut [f64], columns: &mut [f64]) {
    let (height, width) = (rows.len() as f64, columns.len() as f64);
    for (sum, values) in rows.iter_mut().zip(gradient.chunks_exact(columns.len().max(1))) {
        let mut of_row = 0.0;
        for (column, &value) in columns.iter_mut().zip(values) {
            let square = f64::from(value).powi(2);
            of_row += square;
            *column += square / height;
        }
        *sum += of_row / width;
    }
}

/// What Adafactor's second moments V = r cᵀ / r̄ make of gradients: g / √V, as vectors that rows and columns are multiplied with.
///
/// The rule is that of bergson: 1e-30 is added to each moment, `rows` is √r̄ / √r, and `columns` is 1 / √c.
#[derive(Clone, Debug, PartialEq)]
pub struct AdafactorScales {
    /// For δ, `[outputs]`.
    pub rows: Vec<f32>,
    /// For x, `[columns]`.
    pub columns: Vec<f32>,
}

impl AdafactorScales {
    /// Of a layer.
    ///
    /// # Errors
    /// A layer without these statistics, of no document, or with values that are not finite.
    pub fn of(factors: &Factors, module: &str) -> Result<Self> {
        const LEAST: f64 = 1e-30;
        let moments = |statistic| -> Result<Vec<f64>> {
            Ok(factors.get(module, statistic)?.mean()?.iter().map(|value| value + LEAST).collect())
        };
        let (rows, columns) = (moments(Statistic::RowSecondMoment)?, moments(Statistic::ColumnSecondMoment)?);
        let root = super::symmetric::mean(&rows).sqrt();
        Ok(Self {
            rows: rows.iter().map(|row| (root / row.sqrt()) as f32).collect(),
            columns: columns.iter().map(|column| (1.0 / column.sqrt()) as f32).collect(),
        })
    }
}

/// Multiplies what Adafactor's second moments make of gradients into both sides of a projection, at no cost for each token. An error is a message.
pub(crate) fn scale_by_second_moments(sketch: &mut Sketch, factors: &Factors) -> std::result::Result<(), String> {
    for number in 0..sketch.modules().len() {
        let scales = AdafactorScales::of(factors, &sketch.modules()[number].name).map_err(|error| error.to_string())?;
        let [rows, columns] =
            [scales.rows, scales.columns].map(|scales| scales.into_iter().map(f64::from).collect::<Vec<_>>());
        sketch.scale_sides(number, Some(&rows), Some(&columns))?;
    }
    Ok(())
}

/// What Adam's second moments make of gradients: factors 1 / (√E\[g²\] + 1e-8), `[outputs, columns]`, as in bergson.
///
/// # Errors
/// A layer without second moments, of no document, or with values that are not finite.
pub fn adam_scales(factors: &Factors, module: &str) -> Result<Vec<f32>> {
    let moments = factors.get(module, Statistic::SecondMoment)?.mean()?;
    Ok(moments.iter().map(|moment| (1.0 / (moment.sqrt() + 1e-8)) as f32).collect())
}

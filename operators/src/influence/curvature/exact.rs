//! Scores of documents against queries without any projection of the documents' gradients.
//!
//! The score of a document with gradients g against a query with preconditioned gradients q is Σ ⟨q, g⟩ over layers. Two forms of a query:
//!
//! | form | work for each layer, T tokens of D documents, n queries | error |
//! |---|---|---|
//! | whole matrices | T·O·I for gradients, D·n·O·I for products | none |
//! | factors of rank r, q ≈ Σₖ uₖ vₖᵀ | T·n·r·(O + I) for u·δ and v·x, T·n·r for Σₜ Σₖ (uₖ·δₜ)(vₖ·xₜ) | what the rank leaves out |
//!
//! The gradient of a document is made once, for all queries, and never whole: it is made in tiles of some rows that stay in the cache, those of all documents of a
//! batch next to one another, and each tile is multiplied with the same rows of all queries.
//!
//! Products are in single precision, sums over tiles, layers and (with factors) tokens in double precision and in fixed order. A document has the same bits in
//! any batch.

use std::collections::BTreeMap;
use std::sync::Arc;

use gristmill_kernels::gemm::{Layout, MatmulOptions, Matrix, MatrixMut, PackedWeights, Precision, Values};

use super::error::{CurvatureError, Result};
use super::layer::{Layers, Rows};
use super::queries::{ModuleGradients, QueryGradients};
use super::rotation::matmul;
use super::symmetric::Eigen;
use crate::models::gradients::{Gradient, Tap};
use crate::models::{Compute, ModelError, Parameter};

/// Elements of a document's gradient that are made at a time, as far as rows allow.
const TILE: usize = 16_384;

/// Tokens that are multiplied with factors at a time.
const TOKENS: usize = 256;

/// Scores documents against queries: a [`Tap`], which adds up the scores of a batch's documents over layers. Clones share the queries.
#[derive(Clone, Debug)]
pub struct ExactScorer {
    layers: Layers,
    queries: usize,
    /// By the index of the parameter.
    modules: Arc<BTreeMap<usize, Form>>,
    /// `[documents, queries]` of the batch that is on its way.
    scores: Vec<f64>,
    scratch: Scratch,
}

/// The queries of one layer.
#[derive(Debug)]
enum Form {
    Whole {
        /// Rows of a tile.
        rows: usize,
        /// For each tile `[queries, rows · columns]`.
        tiles: Vec<PackedWeights>,
    },
    Factors {
        rank: usize,
        /// uₖ of all queries, `[queries · rank, outputs]`.
        left: PackedWeights,
        /// vₖ of all queries, `[queries · rank, columns]`.
        right: PackedWeights,
    },
}

#[derive(Clone, Debug, Default)]
struct Scratch {
    tile: Vec<f32>,
    products: Vec<f32>,
    left: Vec<f32>,
    right: Vec<f32>,
}

impl ExactScorer {
    /// For queries whose gradients were preconditioned, as whole matrices. They take 4 bytes for each query and parameter.
    ///
    /// # Errors
    /// Gradients that are not finite.
    pub fn whole(queries: QueryGradients) -> Result<Self> {
        let (layers, count, gradients) = queries.into_parts();
        let mut modules = BTreeMap::new();
        // What was packed is not kept as it was.
        for (index, module) in gradients {
            expect_finite(&module, 0)?;
            modules.insert(index, Form::of_whole(count, &module)?);
        }
        Ok(Self::of(layers, count, modules))
    }

    /// The same as the nearest matrices of this rank: qᵣ = U Uᵀ q, where U are the first r left singular vectors of q (Eckart and Young, 1936), or
    /// q V Vᵀ where there are fewer columns than rows. They come from the eigenvectors of q qᵀ or qᵀ q in double precision.
    ///
    /// Where there are too many queries to be held whole, [`LowRankQueries`] takes some at a time.
    ///
    /// # Errors
    /// Gradients that are not finite, and an iteration that does not converge.
    pub fn low_rank(queries: QueryGradients, rank: usize) -> Result<Self> {
        let mut all = LowRankQueries::new(rank);
        all.add(queries)?;
        all.into_scorer()
    }

    fn of(layers: Layers, queries: usize, modules: BTreeMap<usize, Form>) -> Self {
        Self { layers, queries, modules: Arc::new(modules), scores: Vec::new(), scratch: Scratch::default() }
    }

    /// How many queries there are.
    pub const fn queries(&self) -> usize {
        self.queries
    }

    /// Bytes of the queries.
    pub fn memory(&self) -> usize {
        let of_form = |form: &Form| match form {
            Form::Whole { tiles, .. } => tiles.iter().map(PackedWeights::memory).sum(),
            Form::Factors { left, right, .. } => left.memory() + right.memory(),
        };
        self.modules.values().map(of_form).sum()
    }

    /// Scores of the batch that was run, `[documents, queries]`, and begins anew.
    pub fn take_scores(&mut self, documents: usize) -> Vec<f32> {
        let mut scores = std::mem::take(&mut self.scores);
        scores.resize(documents * self.queries, 0.0);
        scores.into_iter().map(|score| score as f32).collect()
    }
}

impl Form {
    fn of_whole(queries: usize, module: &ModuleGradients) -> Result<Self> {
        let (outputs, columns) = (module.layer.outputs, module.layer.columns);
        let rows = (TILE / columns.max(1)).clamp(1, outputs.max(1));
        let elements = outputs * columns;
        let tile = |first: usize| {
            let count = rows.min(outputs - first) * columns;
            let layout = Layout { rows: queries, columns: count, row_stride: elements, column_stride: 1 };
            let values = Values::F32(&module.values[first * columns..]);
            PackedWeights::pack(Matrix::strided(values, layout)?, Precision::F32)
        };
        let tiles = (0..outputs).step_by(rows).map(tile).collect::<Result<Vec<_>, _>>();
        Ok(Self::Whole { rows, tiles: tiles.map_err(ModelError::from)? })
    }
}

/// Queries as matrices of low rank, of which only those that are being added are held whole.
#[derive(Debug)]
pub struct LowRankQueries {
    rank: usize,
    layers: Option<Layers>,
    count: usize,
    /// By the index of the parameter.
    modules: BTreeMap<usize, FactorsOf>,
}

/// Of all queries, by one layer.
#[derive(Debug)]
struct FactorsOf {
    rank: usize,
    outputs: usize,
    columns: usize,
    /// `[queries · rank, outputs]`.
    left: Vec<f32>,
    /// `[queries · rank, columns]`.
    right: Vec<f32>,
}

impl LowRankQueries {
    /// None yet.
    pub const fn new(rank: usize) -> Self {
        Self { rank, layers: None, count: 0, modules: BTreeMap::new() }
    }

    /// Adds queries whose gradients were preconditioned, behind those that there are; they are of the same layers.
    ///
    /// # Errors
    /// Gradients that are not finite, and an iteration that does not converge.
    pub fn add(&mut self, queries: QueryGradients) -> Result<()> {
        let (layers, count, gradients) = queries.into_parts();
        for (index, module) in gradients {
            expect_finite(&module, self.count)?;
            let (outputs, columns) = (module.layer.outputs, module.layer.columns);
            let rank = self.rank.min(outputs).min(columns);
            let empty = FactorsOf { rank, outputs, columns, left: Vec::new(), right: Vec::new() };
            let all = self.modules.entry(index).or_insert(empty);
            for matrix in module.values.chunks_exact((outputs * columns).max(1)) {
                let [left, right] = factors(&module.layer.name, matrix, outputs, columns, rank)?;
                all.left.extend(left);
                all.right.extend(right);
            }
        }
        self.layers.get_or_insert(layers);
        self.count += count;
        Ok(())
    }

    /// What scores documents against them.
    ///
    /// # Errors
    /// No queries were added.
    pub fn into_scorer(self) -> Result<ExactScorer> {
        let Self { layers, count, modules, .. } = self;
        let pack = |values: &[f32], rows, width| {
            let packed = Matrix::row_major(Values::F32(values), rows, width);
            packed.and_then(|matrix| PackedWeights::pack(matrix, Precision::F32)).map_err(ModelError::from)
        };
        let form = |FactorsOf { rank, outputs, columns, left, right }| -> Result<Form> {
            let rows = count * rank;
            Ok(Form::Factors { rank, left: pack(&left, rows, outputs)?, right: pack(&right, rows, columns)? })
        };
        let modules = modules.into_iter().map(|(index, factors)| Ok((index, form(factors)?)));
        let modules = modules.collect::<Result<_>>()?;
        Ok(ExactScorer::of(layers.ok_or(CurvatureError::NoQueries)?, count, modules))
    }
}

impl Tap for ExactScorer {
    fn wants(&self, parameter: &Parameter) -> bool {
        self.layers.take(parameter) && self.modules.contains_key(&parameter.index())
    }

    fn take(&mut self, compute: Compute<'_>, gradient: &Gradient<'_>) -> Result<(), ModelError> {
        let Some(rows) = self.layers.rows(gradient) else { return Ok(()) };
        let Some(form) = self.modules.get(&rows.index) else { return Ok(()) };
        self.scores.resize(rows.documents() * self.queries, 0.0);
        match form {
            Form::Whole { rows: height, tiles } => {
                whole(compute, &rows, *height, tiles, &mut self.scores, &mut self.scratch)
            }
            Form::Factors { rank, left, right } => {
                low_rank(compute, &rows, *rank, [left, right], &mut self.scores, &mut self.scratch)
            }
        }
    }
}

/// Adds ⟨q, g⟩ of a layer for each document and query.
fn whole(
    compute: Compute<'_>,
    rows: &Rows<'_>,
    height: usize,
    tiles: &[PackedWeights],
    scores: &mut [f64],
    scratch: &mut Scratch,
) -> Result<(), ModelError> {
    let (outputs, columns, documents) = (rows.layer.outputs, rows.layer.columns, rows.documents());
    let options = MatmulOptions { threads: compute.threads, ..MatmulOptions::default() };
    // xᵀ of each document is packed once for all tiles.
    let packed = (0..documents).map(|document| {
        let tokens = rows.range(document).len();
        let x = Matrix::row_major(Values::F32(rows.x(document)), tokens, columns)?.transposed();
        PackedWeights::pack(x, Precision::F32)
    });
    let packed = packed.collect::<Result<Vec<_>, _>>()?;
    for (number, tile) in tiles.iter().enumerate() {
        let first = number * height;
        let count = height.min(outputs - first);
        let elements = count * columns;
        scratch.tile.resize(documents * elements, 0.0);
        for ((document, x), gradient) in packed.iter().enumerate().zip(scratch.tile.chunks_exact_mut(elements.max(1))) {
            let tokens = rows.range(document).len();
            let delta =
                super::layer::columns(rows.delta(document), tokens, outputs, first..first + count)?.transposed();
            x.matmul(delta, MatrixMut::row_major(gradient, count, columns)?, &options)?;
        }
        matmul(compute, tile, &scratch.tile, documents, &mut scratch.products)?;
        scores.iter_mut().zip(&scratch.products).for_each(|(score, &product)| *score += f64::from(product));
    }
    Ok(())
}

/// Adds Σₜ Σₖ (uₖ·δₜ)(vₖ·xₜ) of a layer for each document and query.
fn low_rank(
    compute: Compute<'_>,
    rows: &Rows<'_>,
    rank: usize,
    [left, right]: [&PackedWeights; 2],
    scores: &mut [f64],
    scratch: &mut Scratch,
) -> Result<(), ModelError> {
    let (outputs, columns) = (rows.layer.outputs, rows.layer.columns);
    let queries = left.outputs() / rank.max(1);
    let mut document = 0;
    for first in (0..rows.count()).step_by(TOKENS) {
        let tokens = TOKENS.min(rows.count() - first);
        let delta = &rows.delta[first * outputs..(first + tokens) * outputs];
        let x = &rows.x[first * columns..(first + tokens) * columns];
        matmul(compute, left, delta, tokens, &mut scratch.left)?;
        matmul(compute, right, x, tokens, &mut scratch.right)?;
        let pairs =
            scratch.left.chunks_exact((queries * rank).max(1)).zip(scratch.right.chunks_exact((queries * rank).max(1)));
        for (token, (of_left, of_right)) in (first..).zip(pairs) {
            while rows.range(document).end <= token {
                document += 1;
            }
            let scores = &mut scores[document * queries..(document + 1) * queries];
            let pairs = of_left.chunks_exact(rank).zip(of_right.chunks_exact(rank));
            for (score, (left, right)) in scores.iter_mut().zip(pairs) {
                *score += f64::from(left.iter().zip(right).map(|(a, b)| a * b).sum::<f32>());
            }
        }
    }
    Ok(())
}

/// Factors of the nearest matrix of a rank: `[rank, outputs]` and `[rank, columns]`, whose products add up to it.
fn factors(module: &str, matrix: &[f32], outputs: usize, columns: usize, rank: usize) -> Result<[Vec<f32>; 2]> {
    let values: Vec<f64> = matrix.iter().map(|&value| f64::from(value)).collect();
    let matrix = faer::MatRef::from_row_major_slice(&values, outputs, columns);
    let wide = outputs <= columns;
    let small = outputs.min(columns);
    let square = if wide { matrix * matrix.transpose() } else { matrix.transpose() * matrix };
    let square: Vec<f64> = (0..small * small).map(|place| square[(place / small, place % small)]).collect();
    let eigen = Eigen::of(module, "the product of a query's gradient with itself", &square, small)?;
    // The last columns are those of the largest eigenvalues.
    let vectors = faer::MatRef::from_row_major_slice(&eigen.vectors, small, small);
    let vectors = vectors.subcols(small - rank, rank);
    let other = if wide { vectors.transpose() * matrix } else { vectors.transpose() * matrix.transpose() };
    let rows = |value: &dyn Fn(usize, usize) -> f64, width: usize| -> Vec<f32> {
        (0..rank).flat_map(|k| (0..width).map(move |i| (k, i))).map(|(k, i)| value(k, i) as f32).collect()
    };
    let of_vectors = rows(&|k, i| vectors[(i, k)], small);
    let of_other = rows(&|k, i| other[(k, i)], outputs.max(columns));
    Ok(if wide { [of_vectors, of_other] } else { [of_other, of_vectors] })
}

/// `before` is how many queries come before those of the module.
fn expect_finite(module: &ModuleGradients, before: usize) -> Result<()> {
    let Some(place) = module.values.iter().position(|value| !value.is_finite()) else { return Ok(()) };
    let (columns, elements) = (module.layer.columns.max(1), module.layer.elements().max(1));
    Err(CurvatureError::NotFinite {
        module: module.layer.name.clone(),
        what: format!("the gradient of query {}", before + place / elements),
        row: place % elements / columns,
        column: place % columns,
        value: f64::from(module.values[place]),
    })
}

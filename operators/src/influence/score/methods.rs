//! From queries to what scores documents.

use std::ops::Range;

use gristmill_kernels::gemm::GemmError;

use super::KIND;
use super::adam::{AdamState, Rule};
use super::config::{InfluenceConfig, Method, Pooling};
use super::documents::{Collect, Document, Made, Values, run};
use super::engine::{Engine, Sketched, represent};
use super::products::{Products, Transform};
use crate::config::invalid;
use crate::influence::curvature::{
    Curvature, CurvatureError, Damping, ExactScorer, Factors, Grams, KfacSides, Layer, Layers, LowRankQueries, Power,
    QueryGradients, data_inf, gram_power, mix_grams, scale_by_second_moments,
};
use crate::influence::queries::Queries;
use crate::influence::sketch::{Projector, Sketch};
use crate::models::gradients::{Gradient, Tap};
use crate::models::{Batch, Compute, Model, ModelError, Parameter};
use crate::scoring::reader::COMPUTE;
use crate::{OperatorError, ResourceIdentity, Resources, Result};

/// Bytes of whole gradients of queries that are held at a time, at most, unless a single one has more.
const QUERY_BYTES: usize = 1 << 30;

/// What a method is made from.
pub(super) struct Ingredients<'a> {
    pub(super) config: &'a InfluenceConfig,
    pub(super) model: &'a Model,
    pub(super) queries: Queries,
    /// What was learned from a corpus, for methods that need it.
    pub(super) statistics: Option<Factors>,
    /// K-FAC, in whose basis the eigenvalues of EK-FAC were learned, or Gram matrices.
    pub(super) factors: Option<Factors>,
    /// Second moments that gradients are divided by.
    pub(super) moments: Option<Factors>,
    /// What reads the state of an optimiser.
    pub(super) resources: &'a Resources,
    /// Gets what else was read.
    pub(super) identities: &'a mut Vec<ResourceIdentity>,
}

impl Ingredients<'_> {
    /// Computes the gradients, or hidden states, of the queries, and makes of them what the method needs.
    ///
    /// # Errors
    /// A projection that the model's layers do not allow; statistics that do not belong to them; a query whose loss or gradient is not finite.
    pub(super) fn engine(mut self) -> Result<Engine> {
        let config = self.config;
        let reduction = config.reduction.into();
        let documents = self.queries.queries.iter();
        let documents: Vec<Document> = documents
            .map(|query| Document::new(query.ids.clone(), query.first_target..query.ids.len(), reduction))
            .collect();
        match config.method {
            Method::Dot | Method::Cosine => {
                let sketch = self.sketch()?;
                let transform = Transform { unit: config.method == Method::Cosine, ..Transform::default() };
                self.products(sketch, &documents, |_, _| Ok((None, transform)))
            }
            Method::Trackstar => {
                let (sketch, statistics) = (self.sketch()?, self.statistics()?);
                self.products(sketch, &documents, |sketch, queries| self.trackstar(sketch, queries, statistics))
            }
            Method::DataInf => {
                let (sketch, gram, statistics) = (self.sketch()?, self.factors()?, self.statistics()?);
                self.products(sketch, &documents, |sketch, _| {
                    let mut transform = Transform::default();
                    let damping = self.damping().factor;
                    for module in sketch.modules() {
                        let size = module.size();
                        let inverse = data_inf(gram, statistics, &module.name, size, damping).map_err(statistic)?;
                        transform.add_block(module.offset, size, &inverse).map_err(product)?;
                    }
                    Ok((Some(transform), Transform::default()))
                })
            }
            Method::Less => {
                let unit = || Transform { unit: true, ..Transform::default() };
                let engine = self.products(self.sketch()?, &documents, |_, _| Ok((None, unit())))?;
                let Engine::Sketch { sketch, products } = engine else { return Ok(engine) };
                let state = self.adam(&sketch)?;
                Ok(Engine::Adam { sketch, state, products })
            }
            Method::Kfac => {
                let mut sketch = self.sketch()?;
                self.fold(&mut sketch)?;
                let transform = Transform { unit: config.normalize == Some(true), ..Transform::default() };
                self.products(sketch, &documents, |_, _| Ok((None, transform)))
            }
            Method::KfacExact | Method::Ekfac | Method::Diagonal | Method::Identity => self.exact(&documents),
            Method::Representation => {
                let (layer, pool) = (config.layer, config.pooling.unwrap_or(Pooling::Mean).into());
                if layer.is_some_and(|layer| layer > self.model.layers()) {
                    let message = format!("{}; the model has 0 to {}", layer.unwrap_or(0), self.model.layers());
                    return Err(invalid(KIND, "layer", message));
                }
                let made = represent(self.model, &documents, layer, pool, None).map_err(|error| self.failed(&error))?;
                let transform = Transform { unit: true, ..Transform::default() };
                let mut vectors = self.vectors(0, made)?;
                let width = self.model.hidden_size();
                let products = transform
                    .apply(&mut vectors, width)
                    .and_then(|()| Products::new(vectors, width, transform, self.queries.aggregation.clone()));
                Ok(Engine::Representation { layer, pool, products: products.map_err(product)? })
            }
        }
    }

    fn sketch(&self) -> Result<Sketch> {
        let mut sketch = Sketch::new(self.model, &self.config.gradient().sketch())
            .map_err(|message| invalid(KIND, "dimension", message))?;
        if let Some(moments) = &self.moments {
            scale_by_second_moments(&mut sketch, moments)
                .map_err(|message| invalid(KIND, "second_moments", message))?;
        }
        Ok(sketch)
    }

    fn adam(&mut self, sketch: &Sketch) -> Result<AdamState> {
        let InfluenceConfig { optimizer, betas, epsilon, .. } = self.config;
        let (Some(optimizer), Some(betas), Some(epsilon)) = (optimizer, *betas, *epsilon) else {
            return Err(invalid(KIND, "optimizer", "the key is missing"));
        };
        let rule = Rule { betas, epsilon };
        let (state, identities) = AdamState::read(optimizer, rule, self.model, sketch, self.resources)
            .map_err(|error| invalid(KIND, "optimizer", error.to_string()))?;
        self.identities.extend(identities);
        Ok(state)
    }

    fn statistics(&self) -> Result<&Factors> {
        self.statistics.as_ref().ok_or_else(|| invalid(KIND, "statistics", "the key is missing"))
    }

    fn factors(&self) -> Result<&Factors> {
        self.factors.as_ref().ok_or_else(|| invalid(KIND, "factors", "the key is missing"))
    }

    fn damping(&self) -> Damping {
        self.config.damping.unwrap_or_default()
    }

    /// Scores as products with projected gradients. `transforms` says, given the gradients of the queries, what they become, and what those of rows become; the same
    /// where it says one alone.
    fn products(
        &self,
        sketch: Sketch,
        documents: &[Document],
        transforms: impl FnOnce(&Sketch, &[f32]) -> Result<(Option<Transform>, Transform)>,
    ) -> Result<Engine> {
        let mut collect = Sketched { projector: Projector::new(&sketch), products: None };
        let made = run(self.model, documents, &mut collect).map_err(|error| self.failed(&error))?;
        let mut vectors = self.vectors(0, made)?;
        let (of_queries, of_rows) = transforms(&sketch, &vectors)?;
        let width = sketch.width();
        let products = of_queries
            .as_ref()
            .unwrap_or(&of_rows)
            .apply(&mut vectors, width)
            .and_then(|()| Products::new(vectors, width, of_rows, self.queries.aggregation.clone()));
        Ok(Engine::Sketch { products: products.map_err(product)?, sketch })
    }

    /// H^-½ on both sides, or H⁻¹ for queries alone where vectors are not scaled to length 1.
    fn trackstar(
        &self,
        sketch: &Sketch,
        queries: &[f32],
        statistics: &Factors,
    ) -> Result<(Option<Transform>, Transform)> {
        let mut grams = Grams::default();
        for module in sketch.modules() {
            let rows = queries.chunks_exact(sketch.width().max(1));
            let own: Vec<f32> =
                rows.flat_map(|row| &row[module.offset..module.offset + module.size()]).copied().collect();
            grams.add(&module.name, &own, module.size()).map_err(statistic)?;
        }
        let mixed = match self.config.mixing {
            Some(mixing) => mix_grams(&grams.into_factors(), statistics, mixing.into()).map_err(statistic)?.0,
            None => statistics.clone(),
        };
        let unit = self.config.normalize == Some(true);
        let power = if unit { Power::InverseRoot } else { Power::Inverse };
        let mut transform = Transform { unit, ..Transform::default() };
        for module in sketch.modules() {
            let matrix = gram_power(&mixed, &module.name, module.size(), self.damping(), power).map_err(statistic)?;
            transform.add_block(module.offset, module.size(), &matrix).map_err(product)?;
        }
        Ok(if unit { (None, transform) } else { (Some(transform), Transform::default()) })
    }

    /// Multiplies K-FAC into the sides of a sketch.
    fn fold(&self, sketch: &mut Sketch) -> Result<()> {
        let statistics = self.statistics()?;
        for number in 0..sketch.modules().len() {
            let module = &sketch.modules()[number];
            let (name, outputs, columns) = (module.name.clone(), module.outputs, module.inputs);
            let layer = Layer { name, outputs, columns, bias: false };
            let sides = KfacSides::of(statistics, &layer, self.damping().factor).map_err(statistic)?;
            let folded = sketch.multiply_sides(number, Some(&sides.left), Some(&sides.right));
            folded.map_err(|message| invalid(KIND, "statistics", message))?;
        }
        Ok(())
    }

    fn layers(&self) -> Result<Layers> {
        Layers::of(self.model, &self.config.modules, self.config.bias)
            .map_err(|message| invalid(KIND, "modules", message))
    }

    fn exact(&self, documents: &[Document]) -> Result<Engine> {
        let aggregation = &self.queries.aggregation;
        let (layers, rank) = (self.layers()?, self.config.rank);
        let at_once = match rank {
            None if !aggregation.combines() => documents.len(),
            _ => self.queries_at_once()?,
        };
        let curvature = match self.config.method {
            Method::Diagonal => Curvature::Diagonal(self.statistics()?),
            Method::KfacExact => Curvature::Kfac(self.statistics()?),
            Method::Ekfac => Curvature::Ekfac { kfac: self.factors()?, lambda: self.statistics()? },
            _ => Curvature::Identity,
        };
        let (mut whole, mut of_low_rank) = (None, LowRankQueries::new(rank.unwrap_or_default()));
        let mut take = |mut queries: QueryGradients| -> Result<()> {
            curvature.precondition(COMPUTE, self.damping(), &mut queries).map_err(statistic)?;
            match rank {
                Some(_) => of_low_rank.add(queries).map_err(statistic)?,
                None => whole = Some(queries),
            }
            Ok(())
        };
        let (shares, mut combined) = (aggregation.shares(), None::<QueryGradients>);
        for (number, some) in documents.chunks(at_once.max(1)).enumerate() {
            let first = number * at_once;
            let mut collect = Gathered(QueryGradients::new(layers.clone()));
            let made = run(self.model, some, &mut collect).map_err(|error| self.failed(&error))?;
            self.vectors(first, made)?;
            // Where each query is scored by itself its gradient is what it is.
            if !aggregation.combines() {
                take(collect.0)?;
                continue;
            }
            let sums = collect.0.combined(&within(&shares, first..first + some.len()));
            match &mut combined {
                Some(combined) => combined.add(&sums),
                none => *none = Some(sums),
            }
        }
        combined.map_or(Ok(()), take)?;
        let scorer = match whole {
            Some(queries) => ExactScorer::whole(queries),
            None => of_low_rank.into_scorer(),
        };
        Ok(Engine::Exact { scorer: scorer.map_err(statistic)?, aggregation: aggregation.clone() })
    }

    /// How many queries' gradients are held whole where they need not all be.
    fn queries_at_once(&self) -> Result<usize> {
        let taken = self.config.modules.of(self.model).map_err(|message| invalid(KIND, "modules", message))?;
        let bytes = taken.iter().map(|(_, parameter)| parameter.elements()).sum::<usize>() * size_of::<f32>();
        Ok((QUERY_BYTES / bytes.max(1)).max(1))
    }

    /// The vectors of queries, one behind the other; so many come before them.
    fn vectors(&self, before: usize, made: Vec<Result<Made, String>>) -> Result<Vec<f32>> {
        let path = &self.config.queries.path;
        let mut vectors = Vec::new();
        for (number, made) in (before..).zip(made) {
            let failed = |message| OperatorError::Resource {
                location: path.clone(),
                message: format!("row {number}: it cannot be scored with this model: {message}"),
            };
            vectors.extend(made.map_err(failed)?.values.numbers);
        }
        Ok(vectors)
    }

    fn failed(&self, error: &ModelError) -> OperatorError {
        OperatorError::Resource { location: self.config.model.clone(), message: error.to_string() }
    }
}

/// What is said of some queries, which are numbered from the first of them on.
fn within(shares: &[Vec<(usize, f64)>], queries: Range<usize>) -> Vec<Vec<(usize, f64)>> {
    let of_some = |parts: &Vec<(usize, f64)>| {
        let some = parts.iter().filter(|(query, _)| queries.contains(query));
        some.map(|&(query, share)| (query - queries.start, share)).collect()
    };
    shares.iter().map(of_some).collect()
}

/// Gathers the whole gradients of queries.
struct Gathered(QueryGradients);

impl Tap for Gathered {
    fn wants(&self, parameter: &Parameter) -> bool {
        self.0.wants(parameter)
    }

    fn take(&mut self, compute: Compute<'_>, gradient: &Gradient<'_>) -> Result<(), ModelError> {
        self.0.take(compute, gradient)
    }
}

impl Collect for Gathered {
    fn prepare(&mut self, _: &Batch) {}

    fn collect(&mut self, documents: usize) -> Result<Vec<Result<Values, String>>, ModelError> {
        // What is not finite is found where the scorer is made.
        Ok((0..documents).map(|_| Ok(self.nothing())).collect())
    }

    fn nothing(&self) -> Values {
        Values::default()
    }

    fn held(&self) -> usize {
        0
    }
}

fn statistic(error: CurvatureError) -> OperatorError {
    invalid(KIND, "statistics", error.to_string())
}

fn product(error: GemmError) -> OperatorError {
    invalid(KIND, "queries", error.to_string())
}

#[cfg(test)]
mod tests {
    use super::within;

    #[test]
    fn shares_of_some_queries_count_from_the_first_of_them() {
        let shares = [vec![(0, 0.5), (2, 0.5)], vec![(1, 1.0)]];
        assert_eq!(within(&shares, 0..2), [vec![(0, 0.5)], vec![(1, 1.0)]]);
        assert_eq!(within(&shares, 2..3), [vec![(0, 0.5)], vec![]]);
    }
}

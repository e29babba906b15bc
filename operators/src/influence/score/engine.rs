//! What makes scores of documents: projected gradients, whole gradients, or hidden states.

use gristmill_kernels::pool::Pool;

use super::adam::{AdamState, AdamSteps};
use super::documents::{Collect, Document, Made, Values, run};
use super::products::{Products, norm};
use crate::influence::batches::batch_tokens;
use crate::influence::curvature::ExactScorer;
use crate::influence::queries::Aggregation;
use crate::influence::sketch::{Projector, Sketch};
use crate::models::gradients::{Gradient, Projections, Tap};
use crate::models::{Batch, Compute, Model, ModelError, Parameter};
use crate::scoring::reader::COMPUTE;

/// How documents are scored against queries, which it holds.
#[derive(Debug)]
pub(super) enum Engine {
    /// Products of projected gradients.
    Sketch { sketch: Sketch, products: Products },
    /// Products of what Adam makes of gradients, projected.
    Adam { sketch: Sketch, state: AdamState, products: Products },
    /// Products of whole gradients.
    Exact { scorer: ExactScorer, aggregation: Aggregation },
    /// Products of pooled hidden states.
    Representation { layer: Option<usize>, pool: Pool, products: Products },
}

impl Engine {
    /// Scores of documents, `[names]` of each.
    pub(super) fn score(&self, model: &Model, documents: &[Document]) -> Result<Vec<Result<Made, String>>, ModelError> {
        match self {
            Self::Sketch { sketch, products } => {
                let mut collect = Sketched { projector: Projector::new(sketch), products: Some(products) };
                run(model, documents, &mut collect)
            }
            Self::Adam { sketch, state, products } => {
                run(model, documents, &mut AdamSteps::new(sketch, state, products))
            }
            Self::Exact { scorer, aggregation } => {
                run(model, documents, &mut Whole { scorer: scorer.clone(), aggregation })
            }
            Self::Representation { layer, pool, products } => {
                represent(model, documents, *layer, *pool, Some(products))
            }
        }
    }
}

/// Makes rows of a sketch, and scores of them where there are queries.
pub(super) struct Sketched<'s> {
    pub(super) projector: Projector<'s>,
    pub(super) products: Option<&'s Products>,
}

impl Tap for Sketched<'_> {
    fn wants(&self, parameter: &Parameter) -> bool {
        self.projector.wants(parameter)
    }

    fn take(&mut self, compute: Compute<'_>, gradient: &Gradient<'_>) -> Result<(), ModelError> {
        self.projector.take(compute, gradient)
    }

    fn projections(&self) -> Option<Projections<'_>> {
        self.projector.projections()
    }

    fn take_projected(&mut self, rows: Vec<f32>) -> Result<(), ModelError> {
        self.projector.take_projected(rows)
    }
}

impl Collect for Sketched<'_> {
    fn prepare(&mut self, batch: &Batch) {
        self.projector.prepare(batch);
    }

    fn collect(&mut self, documents: usize) -> Result<Vec<Result<Values, String>>, ModelError> {
        let wrong = |document: usize| {
            let (module, value) = self.projector.not_finite(document)?;
            Some(format!("its gradient by the layer {} has {value}", module.name))
        };
        let wrong: Vec<Option<String>> = (0..documents).map(wrong).collect();
        let rows = self.projector.take_rows();
        values_of(rows, self.projector.sketch().width(), wrong, self.products)
    }

    fn nothing(&self) -> Values {
        nothing(self.projector.sketch().width(), self.products)
    }

    fn held(&self) -> usize {
        self.projector.sketch().width()
    }
}

/// Numbers of rows `[rows, width]`: scores where there are products, else themselves; those that are wrong are left as what is wrong.
pub(super) fn values_of(
    mut rows: Vec<f32>,
    width: usize,
    wrong: Vec<Option<String>>,
    products: Option<&Products>,
) -> Result<Vec<Result<Values, String>>, ModelError> {
    let norms: Vec<f64> = rows.chunks_exact(width.max(1)).map(norm).collect();
    let numbers = match products {
        Some(products) => products.scores(&mut rows)?,
        None => rows,
    };
    let each = (numbers.len() / norms.len().max(1)).max(1);
    let values = wrong.into_iter().zip(norms).zip(numbers.chunks_exact(each)).map(|((wrong, norm), numbers)| {
        match (wrong, numbers.iter().find(|number| !number.is_finite())) {
            (Some(wrong), _) => Err(wrong),
            (None, Some(number)) => Err(format!("a score of it is {number}")),
            // What a product of zeros is called 0 or -0 depends on the processor.
            (None, None) if norm == 0.0 => Ok(Values { numbers: vec![0.0; each], norm: Some(norm) }),
            (None, None) => Ok(Values { numbers: numbers.to_vec(), norm: Some(norm) }),
        }
    });
    Ok(values.collect())
}

pub(super) fn nothing(width: usize, products: Option<&Products>) -> Values {
    let numbers = products.map_or(width, Products::names);
    Values { numbers: vec![0.0; numbers], norm: Some(0.0) }
}

/// Scores whole gradients.
pub(super) struct Whole<'a> {
    scorer: ExactScorer,
    aggregation: &'a Aggregation,
}

impl Tap for Whole<'_> {
    fn wants(&self, parameter: &Parameter) -> bool {
        self.scorer.wants(parameter)
    }

    fn take(&mut self, compute: Compute<'_>, gradient: &Gradient<'_>) -> Result<(), ModelError> {
        self.scorer.take(compute, gradient)
    }
}

impl Collect for Whole<'_> {
    fn prepare(&mut self, _: &Batch) {}

    fn collect(&mut self, documents: usize) -> Result<Vec<Result<Values, String>>, ModelError> {
        let scores = self.aggregation.of_products(self.scorer.take_scores(documents));
        let values = scores.chunks_exact(self.aggregation.names().len().max(1)).map(|scores| {
            let wrong = scores.iter().find(|score| !score.is_finite());
            let values = Values { numbers: scores.to_vec(), norm: None };
            wrong.map_or(Ok(values), |score| Err(format!("a score of it is {score}")))
        });
        Ok(values.collect())
    }

    fn nothing(&self) -> Values {
        Values { numbers: vec![0.0; self.aggregation.names().len()], norm: None }
    }

    fn held(&self) -> usize {
        self.aggregation.names().len()
    }
}

/// Pooled hidden states of documents: scores where there are products, else themselves.
pub(super) fn represent(
    model: &Model,
    documents: &[Document],
    layer: Option<usize>,
    pool: Pool,
    products: Option<&Products>,
) -> Result<Vec<Result<Made, String>>, ModelError> {
    let mut made = Vec::with_capacity(documents.len());
    let mut rest = documents;
    while !rest.is_empty() {
        let mut sum = 0;
        let fits = rest.iter().take_while(|document| {
            sum += document.ids.len();
            sum <= batch_tokens(model)
        });
        let (run, behind) = rest.split_at(fits.count().max(1));
        rest = behind;
        let mut batch = Batch::default();
        run.iter().for_each(|document| batch.push(&document.ids));
        let rows = model.pooled(COMPUTE, &batch, layer, pool)?;
        let width = model.hidden_size();
        let wrong = rows.chunks_exact(width.max(1)).map(|row| {
            let wrong = row.iter().find(|value| !value.is_finite());
            wrong.map(|value| format!("its hidden states have {value}"))
        });
        let wrong = wrong.collect();
        let values = values_of(rows, width, wrong, products)?;
        let of_document = |(document, values): (&Document, Result<Values, String>)| {
            values.map(|values| Made { loss: None, tokens: Some(document.ids.len()), weight: 1.0, values })
        };
        made.extend(run.iter().zip(values).map(of_document));
    }
    Ok(made)
}

//! The Gram matrix of projected gradients, and what is made of it: inverses, inverse roots, and mixtures of those of two corpora.
//!
//! With P the projected gradient of a document by a layer, H = E\[vec(P)·vec(P)ᵀ\]. Dot products are taken of H⁻¹·q and g, cosines of H^-½·q and
//! H^-½·g, since normalisation does not commute with H (Chang and others, *Scalable influence and fact tracing for large language model pretraining*, 2024).

use std::collections::BTreeMap;

use super::covariance::mirror;
use super::damping::Damping;
use super::error::{CurvatureError, Result};
use super::factors::{Factor, Factors, Statistic, expect_shape};
use super::symmetric::Eigen;

/// Sums of vec(P)·vec(P)ᵀ over documents, in double precision, document after document: 8 n² bytes for each layer with n projected values.
#[derive(Clone, Debug, Default)]
pub struct Grams {
    order: Vec<String>,
    sums: BTreeMap<String, Sums>,
}

#[derive(Clone, Debug)]
struct Sums {
    width: usize,
    statistic: Statistic,
    documents: u64,
    upper: Vec<f64>,
}

impl Grams {
    /// Adds projected gradients by a layer, `[documents, width]`.
    ///
    /// # Errors
    /// Another width than before, and values that are no whole rows.
    pub fn add(&mut self, module: &str, rows: &[f32], width: usize) -> Result<()> {
        self.add_weighted(module, rows, width, Statistic::Gram, |_| 1.0)
    }

    /// Adds the same divided by λ + ‖P‖², where `damping` is λ, the same for all of a layer: the sums are those of [`Statistic::NormalizedGram`].
    ///
    /// # Errors
    /// As of [`add`](Self::add).
    pub fn add_normalized(&mut self, module: &str, rows: &[f32], width: usize, damping: f64) -> Result<()> {
        self.add_weighted(module, rows, width, Statistic::NormalizedGram, |row| {
            (damping + row.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>()).recip()
        })
    }

    fn add_weighted(
        &mut self,
        module: &str,
        rows: &[f32],
        width: usize,
        statistic: Statistic,
        weight: impl Fn(&[f32]) -> f64,
    ) -> Result<()> {
        if !self.sums.contains_key(module) {
            self.order.push(module.to_owned());
            let sums = Sums { width, statistic, documents: 0, upper: vec![0.0; width * width] };
            self.sums.insert(module.to_owned(), sums);
        }
        let Some(sums) = self.sums.get_mut(module) else { return Ok(()) };
        if width != sums.width || !rows.len().is_multiple_of(width.max(1)) {
            let (documents, rest) = (rows.len() / width.max(1), rows.len() % width.max(1));
            let found = [documents + usize::from(rest > 0), width];
            let expected = [documents, sums.width];
            return Err(CurvatureError::Shape {
                module: module.to_owned(),
                what: "projected gradients".to_owned(),
                found,
                expected,
            });
        }
        for values in rows.chunks_exact(width.max(1)) {
            sums.documents += 1;
            let weight = weight(values);
            for (row, &value) in values.iter().enumerate() {
                let value = weight * f64::from(value);
                let to = &mut sums.upper[row * width + row..(row + 1) * width];
                to.iter_mut().zip(&values[row..]).for_each(|(sum, &other)| *sum += value * f64::from(other));
            }
        }
        Ok(())
    }

    /// The sums, in the order in which layers came first.
    pub fn into_factors(mut self) -> Factors {
        let each = self.order.into_iter().filter_map(|module| {
            let Sums { width, statistic, documents: count, mut upper } = self.sums.remove(&module)?;
            mirror(&mut upper, width);
            Some(Factor { module, statistic, rows: width, columns: width, bias: false, count, values: upper })
        });
        each.collect()
    }
}

/// The mean of the eigenvalues of the Gram matrix of a layer: its trace by its size.
///
/// # Errors
/// A layer without a Gram matrix, one of no document or that is not finite.
pub fn mean_eigenvalue(factors: &Factors, module: &str) -> Result<f64> {
    let gram = factors.get(module, Statistic::Gram)?;
    let mean = gram.mean()?;
    let diagonal = (0..gram.rows).map(|place| mean[place * gram.columns + place]);
    Ok(diagonal.sum::<f64>() / gram.rows.max(1) as f64)
}

/// The inverse of DataInf by a layer, `[n, n]`: H⁻¹ = 1/λ · (I - E\[P·Pᵀ / (λ + ‖P‖²)\]), the mean of the inverses of λI + P·Pᵀ instead of the inverse of their mean
/// (Kwon and others, *DataInf: efficiently estimating data influence in LoRA-tuned LLMs and diffusion models*, 2024). `gram` says what λ is, `damping` times the mean eigenvalue,
/// and `normalized` must have been learned with the same.
///
/// # Errors
/// A layer without these statistics or of another size, statistics of no document or that are not finite, and gradients that are all 0.
pub fn data_inf(gram: &Factors, normalized: &Factors, module: &str, width: usize, damping: f64) -> Result<Vec<f64>> {
    let lambda = damping * mean_eigenvalue(gram, module)?;
    if lambda <= 0.0 {
        return Err(CurvatureError::Singular { module: module.to_owned(), value: lambda });
    }
    let normalized = normalized.get(module, Statistic::NormalizedGram)?;
    expect_shape(normalized, [width, width])?;
    let mut inverse: Vec<f64> = normalized.mean()?.iter().map(|value| -value / lambda).collect();
    (0..width).for_each(|place| inverse[place * width + place] += 1.0 / lambda);
    Ok(inverse)
}

/// How much of an inverse is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// H⁻¹, for queries alone.
    Inverse,
    /// H^-½, for both sides.
    InverseRoot,
}

/// H⁻¹ or H^-½ of a layer, damped, `[n, n]`. [`FactoredTikhonov`](super::Inversion::FactoredTikhonov) is `damped_inverse` here, as in bergson.
///
/// # Errors
/// A layer without a Gram matrix of this size, one of no document or that is not finite, and eigenvalues that cannot be inverted.
pub fn gram_power(factors: &Factors, module: &str, width: usize, damping: Damping, power: Power) -> Result<Vec<f64>> {
    let gram = factors.get(module, Statistic::Gram)?;
    expect_shape(gram, [width, width])?;
    let eigen = Eigen::of(module, "the Gram matrix", &gram.mean()?, width)?;
    let mut multipliers = damping.multipliers(module, &eigen.values)?;
    if power == Power::InverseRoot {
        multipliers.iter_mut().for_each(|value| *value = value.sqrt());
    }
    Ok(eigen.with(&multipliers))
}

/// How much the Gram matrix of queries counts where it is mixed with that of the corpus.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mixing {
    /// This much, 0 to 1.
    Share(f64),
    /// λ = σ_corpus / (σ_queries + σ_corpus), where σ is the k-th largest eigenvalue of all layers together: so many directions that are common to the
    /// queries are weighed down. Where queries or corpus have fewer directions k is as many as both have.
    Components(usize),
}

/// An eigenvalue that is no more than this share of the largest one is taken for rounding, which of gradients in single precision is far less than the root of it.
const NO_DIRECTION: f64 = 1e-9;

/// H = λ·H_queries + (1 - λ)·H_corpus of all layers that both have, in the order of the corpus; and λ.
///
/// # Errors
/// A share that is not between 0 and 1, no layer in common, matrices of different sizes, of no document, or that are not finite.
pub fn mix_grams(queries: &Factors, corpus: &Factors, mixing: Mixing) -> Result<(Factors, f64)> {
    let grams = corpus.iter().filter(|factor| factor.statistic == Statistic::Gram);
    let both: Vec<(&Factor, &Factor)> =
        grams.filter_map(|gram| Some((queries.get(&gram.module, Statistic::Gram).ok()?, gram))).collect();
    if both.is_empty() {
        return Err(CurvatureError::Origin(
            "the Gram matrices of queries and of the corpus have no layer in common".to_owned(),
        ));
    }
    let share = match mixing {
        Mixing::Share(share) if (0.0..=1.0).contains(&share) => share,
        Mixing::Share(share) => {
            return Err(CurvatureError::Origin(format!("the share of queries is {share}; 0 to 1 is allowed")));
        }
        Mixing::Components(0) => 1.0,
        Mixing::Components(components) => {
            let pooled = |side: &dyn Fn(&(&Factor, &Factor)) -> Result<Vec<f64>>| -> Result<Vec<f64>> {
                let mut values = Vec::new();
                for pair in &both {
                    values.extend(side(pair)?);
                }
                values.sort_by(|a, b| b.total_cmp(a));
                Ok(values)
            };
            let eigenvalues = |gram: &Factor| -> Result<Vec<f64>> {
                expect_shape(gram, [gram.rows, gram.rows])?;
                Ok(Eigen::of(&gram.module, "the Gram matrix", &gram.mean()?, gram.rows)?.values)
            };
            let (of_queries, of_corpus) = (pooled(&|pair| eigenvalues(pair.0))?, pooled(&|pair| eigenvalues(pair.1))?);
            // Few queries have few directions, and what is beyond these is rounding: the last direction that both have is compared then.
            let directions = |values: &[f64]| {
                let least = NO_DIRECTION * values.first().copied().unwrap_or_default();
                values.iter().take_while(|&&value| value > least).count()
            };
            let place = components.min(directions(&of_queries)).min(directions(&of_corpus));
            match place.checked_sub(1) {
                Some(place) => of_corpus[place] / (of_queries[place] + of_corpus[place]),
                None => 0.5,
            }
        }
    };
    let mixed = both.into_iter().map(|(queries, corpus)| {
        expect_shape(queries, [corpus.rows, corpus.columns])?;
        let (of_queries, of_corpus) = (queries.mean()?, corpus.mean()?);
        let values = of_queries.iter().zip(&of_corpus).map(|(query, other)| share * query + (1.0 - share) * other);
        Ok(Factor { count: 1, values: values.collect(), ..corpus.clone() })
    });
    Ok((mixed.collect::<Result<_>>()?, share))
}

//! Figures of a table of pairs.

use serde::Serialize;

use super::greedy::{Aim, GreedyStep, greedy};
use super::similarities::{Pairs, cosine, largest};
use super::{PairRow, PairTable};

/// What a table of pairs says.
///
/// Similarities by a choice of tensors are Σ⟨g, h⟩ / (√Σ⟨g, g⟩ √Σ⟨h, h⟩) with sums over the tensors, and 0 where a gradient is 0. *Accuracy* is the share of the samples whose most similar
/// candidate is the true original (the first of equally similar ones), of those samples of which it is known, and absent where it is known of none. *Agreement* is the cosine of
/// the list of all pairs' similarities with that by all tensors.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PairReport {
    /// Number of samples.
    pub samples: usize,
    /// Number of pairs of a sample and a candidate.
    pub pairs: usize,
    /// Number of samples of which the true original is known.
    pub known: usize,
    /// The accuracy of drawing a candidate by chance.
    pub chance: Option<f64>,
    /// Share of samples whose true original is the search's first; absent where candidates were given.
    pub bm25_accuracy: Option<f64>,
    /// By all tensors together.
    pub full: Retrieval,
    /// After random projections.
    pub projections: Vec<ProjectionFigures>,
    /// By each tensor, in the order of the model.
    pub tensors: Vec<TensorFigures>,
    /// Means over the layers of a model.
    pub components: Vec<ComponentFigures>,
    /// Tensors added one at a time such that agreement is largest.
    pub by_agreement: Vec<GreedyStep>,
    /// The same for accuracy; empty where no true original is known.
    pub by_accuracy: Vec<GreedyStep>,
    /// The samples of which the tensor of the highest accuracy (of the highest agreement, where no true original is known) judges most unlike all tensors.
    pub divergent: Vec<Divergent>,
}

/// How samples find their originals.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Retrieval {
    /// Accuracy.
    pub accuracy: Option<f64>,
    /// Mean over samples of the similarity of the most similar candidate.
    pub mean_best: f64,
    /// Median of the same.
    pub median_best: f64,
    /// Ids of the samples whose most similar candidate is not the true original.
    pub wrong: Vec<String>,
}

/// How projected gradients find originals.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProjectionFigures {
    /// Number of dimensions of all tensors.
    pub dimensions: u64,
    /// Agreement with the gradients themselves.
    pub agreement: f64,
    /// As of all tensors.
    #[serde(flatten)]
    pub retrieval: Retrieval,
}

/// How a tensor finds originals.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorFigures {
    /// Its name.
    pub tensor: String,
    /// What it is in every layer: see [`component`].
    pub component: String,
    /// Accuracy.
    pub accuracy: Option<f64>,
    /// Agreement.
    pub agreement: f64,
}

/// What the tensors have in common that do the same in different layers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ComponentFigures {
    /// What they are.
    pub component: String,
    /// How many there are.
    pub tensors: usize,
    /// Mean of their accuracies.
    pub accuracy: Option<f64>,
    /// Mean of their agreements.
    pub agreement: f64,
}

/// A sample that is judged differently.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Divergent {
    /// Its id.
    pub id: String,
    /// The tensor.
    pub tensor: String,
    /// Euclidean distance of both lists of similarities.
    pub distance: f64,
    /// Ids of the candidates.
    pub candidates: Vec<String>,
    /// Their similarities by the tensor.
    pub by_tensor: Vec<f64>,
    /// Their similarities by all tensors.
    pub by_all: Vec<f64>,
}

/// The figures of a table, with so many divergent samples.
#[must_use]
pub fn report(table: &PairTable, divergent: usize) -> PairReport {
    let pairs = Pairs::new(table);
    let full = pairs.full().cosines();
    let by_tensor: Vec<Vec<f64>> = pairs.tensors.iter().map(|products| products.cosines()).collect();
    let tensors: Vec<TensorFigures> = table
        .tensors()
        .iter()
        .zip(&by_tensor)
        .map(|(name, similarities)| TensorFigures {
            tensor: name.clone(),
            component: component(name).to_owned(),
            accuracy: pairs.accuracy(similarities),
            agreement: cosine(similarities, &full),
        })
        .collect();
    let known = table.rows().iter().filter(|row| row.truth.is_some()).count();
    let values: Vec<f64> = tensors.iter().map(|tensor| tensor.accuracy.unwrap_or(tensor.agreement)).collect();
    let best = table.tensors().get(largest(&values)).zip(by_tensor.get(largest(&values)));
    PairReport {
        samples: table.rows().len(),
        pairs: pairs.count(),
        known,
        chance: mean_of_known(table, |row| 1.0 / row.candidates.len() as f64),
        bm25_accuracy: bm25_accuracy(table),
        full: retrieval(&pairs, &full),
        projections: (0..table.projections().len()).map(|number| projection(table, &pairs, &full, number)).collect(),
        components: components(&tensors),
        tensors,
        by_agreement: greedy(&pairs, table.tensors(), Aim::Agreement),
        by_accuracy: if known > 0 { greedy(&pairs, table.tensors(), Aim::Accuracy) } else { Vec::new() },
        divergent: best.map(|(name, best)| diverging(&pairs, name, best, &full, divergent)).unwrap_or_default(),
    }
}

/// What a tensor is in every layer: its name behind the number of the layer, without `.weight`; the whole name of a tensor that is in no layer.
///
/// ```
/// use gristmill_operators::analysis::pairs::component;
///
/// assert_eq!(component("model.layers.9.mlp.down_proj.weight"), "mlp.down_proj");
/// assert_eq!(component("gpt_neox.layers.0.attention.dense.bias"), "attention.dense.bias");
/// assert_eq!(component("model.embed_tokens.weight"), "model.embed_tokens");
/// ```
#[must_use]
pub fn component(tensor: &str) -> &str {
    let name = tensor.strip_suffix(".weight").unwrap_or(tensor);
    let mut rest = name;
    while let Some((segment, behind)) = rest.split_once('.') {
        if !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit()) {
            return behind;
        }
        rest = behind;
    }
    name
}

fn retrieval(pairs: &Pairs<'_>, similarities: &[f64]) -> Retrieval {
    let mut best: Vec<f64> = pairs.by_row(similarities).map(|(_, row)| row[largest(row)]).collect();
    let wrong = pairs
        .by_row(similarities)
        .filter(|(row, similarities)| row.truth.is_some_and(|truth| truth != Some(largest(similarities))))
        .map(|(row, _)| row.id.clone())
        .collect();
    let mean_best = mean(best.iter().copied()).unwrap_or(0.0);
    best.sort_by(f64::total_cmp);
    let middle =
        [best.len().saturating_sub(1) / 2, best.len() / 2].map(|place| best.get(place).copied().unwrap_or(0.0));
    Retrieval { accuracy: pairs.accuracy(similarities), mean_best, median_best: (middle[0] + middle[1]) / 2.0, wrong }
}

fn projection(table: &PairTable, pairs: &Pairs<'_>, full: &[f64], number: usize) -> ProjectionFigures {
    let candidates = table.rows().iter().flat_map(|row| &row.candidates);
    let similarities: Vec<f64> = candidates.map(|candidate| candidate.projected[number].unwrap_or(0.0)).collect();
    let agreement = cosine(&similarities, full);
    let retrieval = retrieval(pairs, &similarities);
    ProjectionFigures { dimensions: table.projections()[number], agreement, retrieval }
}

/// Absent where no sample of which the truth is known was searched for.
fn bm25_accuracy(table: &PairTable) -> Option<f64> {
    let searched = table.rows().iter().any(|row| row.candidates.iter().any(|candidate| candidate.bm25.is_some()));
    let right = |row: &PairRow| if row.truth == Some(Some(0)) { 1.0 } else { 0.0 };
    searched.then(|| mean_of_known(table, right)).flatten()
}

fn mean_of_known(table: &PairTable, of: impl Fn(&PairRow) -> f64) -> Option<f64> {
    mean(table.rows().iter().filter(|row| row.truth.is_some()).map(of))
}

fn components(tensors: &[TensorFigures]) -> Vec<ComponentFigures> {
    let mut names: Vec<&str> = Vec::new();
    for tensor in tensors {
        if !names.contains(&tensor.component.as_str()) {
            names.push(&tensor.component);
        }
    }
    let figures = |name: &str| {
        let of_component = || tensors.iter().filter(|tensor| tensor.component == name);
        ComponentFigures {
            component: name.to_owned(),
            tensors: of_component().count(),
            accuracy: mean(of_component().filter_map(|tensor| tensor.accuracy)),
            agreement: mean(of_component().map(|tensor| tensor.agreement)).unwrap_or(0.0),
        }
    };
    names.into_iter().map(figures).collect()
}

/// The samples with the largest distances, in that order; those of the same one in the order of the table.
fn diverging(pairs: &Pairs<'_>, tensor: &str, by_tensor: &[f64], full: &[f64], count: usize) -> Vec<Divergent> {
    let rows = pairs.by_row(by_tensor).zip(pairs.by_row(full));
    let mut all: Vec<Divergent> = rows
        .map(|((row, by_tensor), (_, by_all))| Divergent {
            id: row.id.clone(),
            tensor: tensor.to_owned(),
            distance: by_tensor.iter().zip(by_all).map(|(one, all)| (one - all).powi(2)).sum::<f64>().sqrt(),
            candidates: row.candidates.iter().map(|candidate| candidate.id.clone()).collect(),
            by_tensor: by_tensor.to_vec(),
            by_all: by_all.to_vec(),
        })
        .collect();
    all.sort_by(|one, other| other.distance.total_cmp(&one.distance));
    all.truncate(count);
    all
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0_u32), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

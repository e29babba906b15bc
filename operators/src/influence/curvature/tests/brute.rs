//! Everything once more with matrices of double precision that are written out.

use std::collections::BTreeMap;

use super::*;
use crate::influence::curvature::{
    AdafactorScales, Curvature, Damping, Eigen, ExactScorer, Inversion, KfacSides, Statistic, adam_scales,
};
use crate::models::gradients::{DocumentGradients, Gradient};
use crate::models::{Compute, ModelError, Parameter, ParameterKind};

/// By layer: for each document, its gradient `[outputs, columns]`.
type Each = BTreeMap<String, Vec<Vec<f64>>>;

/// Gradients of the weights and of the biases, put together from the public way to get them.
fn gradients(model: &Model, documents: &[Vec<u32>], bias: bool) -> Each {
    let mut all: BTreeMap<String, Vec<Vec<f32>>> = BTreeMap::new();
    let linear: Vec<String> = model
        .parameters()
        .filter(|parameter| parameter.kind() == ParameterKind::Linear)
        .map(|parameter| parameter.name().trim_end_matches(".weight").to_owned())
        .collect();
    let mut tap = DocumentGradients::new(
        |_| true,
        |_, parameter, gradient| {
            all.entry(parameter.name().to_owned()).or_default().push(gradient.to_vec());
            Ok(())
        },
    );
    run(model, documents, 1, &mut tap, |_| ());
    let shapes = kfac(model, &documents[..1], 1, false);
    let mut result = Each::new();
    for name in linear {
        let (outputs, inputs) = (
            shapes.get(&name, Statistic::GradientCovariance).unwrap().rows,
            shapes.get(&name, Statistic::ActivationCovariance).unwrap().rows,
        );
        let transposed = model.kind() == "gpt2";
        let biases = all.get(&format!("{name}.bias")).filter(|_| bias);
        let of_documents = all[&format!("{name}.weight")].iter().enumerate().map(|(document, weights)| {
            let mut matrix = Vec::new();
            for output in 0..outputs {
                matrix.extend((0..inputs).map(|input| {
                    f64::from(weights[if transposed { input * outputs + output } else { output * inputs + input }])
                }));
                matrix.extend(biases.map(|biases| f64::from(biases[document][output])));
            }
            matrix
        });
        result.insert(name, of_documents.collect());
    }
    result
}

/// Covariances of x (with a 1 behind) and δ over tokens, by a loop.
#[derive(Default)]
struct Loops {
    bias: bool,
    covariances: BTreeMap<String, (Vec<f64>, Vec<f64>, f64)>,
}

impl Tap for Loops {
    fn wants(&self, parameter: &Parameter) -> bool {
        parameter.kind() == ParameterKind::Linear
    }

    fn take(&mut self, _: Compute<'_>, gradient: &Gradient<'_>) -> Result<(), ModelError> {
        let Gradient::Linear(linear) = gradient else { return Ok(()) };
        let module = linear.module;
        let bias = self.bias && module.bias().is_some();
        let (outputs, columns) = (module.outputs(), module.inputs() + usize::from(bias));
        let (a, s, count) = self
            .covariances
            .entry(module.name().to_owned())
            .or_insert_with(|| (vec![0.0; columns * columns], vec![0.0; outputs * outputs], 0.0));
        for (x, delta) in linear.x.chunks_exact(module.inputs()).zip(linear.delta.chunks_exact(outputs)) {
            let x: Vec<f64> = x.iter().map(|&x| f64::from(x)).chain(bias.then_some(1.0)).collect();
            add_outer(a, &x, &x);
            let delta: Vec<f64> = delta.iter().map(|&delta| f64::from(delta)).collect();
            add_outer(s, &delta, &delta);
            *count += 1.0;
        }
        Ok(())
    }
}

fn add_outer(to: &mut [f64], a: &[f64], b: &[f64]) {
    for (to, a) in to.chunks_exact_mut(b.len()).zip(a) {
        to.iter_mut().zip(b).for_each(|(to, b)| *to += a * b);
    }
}

/// a·b, where a is m × k.
fn product(a: &[f64], b: &[f64], k: usize) -> Vec<f64> {
    let n = b.len() / k;
    a.chunks_exact(k).flat_map(|row| (0..n).map(move |j| (0..k).map(|i| row[i] * b[i * n + j]).sum())).collect()
}

fn transposed(a: &[f64], columns: usize) -> Vec<f64> {
    (0..columns).flat_map(|column| a.iter().skip(column).step_by(columns).copied()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The largest difference relative to the largest number.
fn off(got: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let most = expected.iter().fold(1e-300_f64, |most, value| most.max(value.abs()));
    got.iter().zip(expected).fold(0.0_f64, |worst, (a, b)| worst.max((a - b).abs())) / most
}

fn doubles(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

#[test]
fn covariances_and_moments_are_those_of_loops() {
    for name in MODELS {
        let model = load(name);
        let corpus = documents(&model, 7, 1);
        for bias in [false, true] {
            let mut loops = Loops { bias, ..Loops::default() };
            run(&model, &corpus, 7, &mut loops, |_| ());
            let found = kfac(&model, &corpus, 3, bias);
            assert_eq!(found.iter().len(), 2 * loops.covariances.len());
            for (module, (a, s, count)) in loops.covariances {
                let activations = found.get(&module, Statistic::ActivationCovariance).unwrap();
                let gradients = found.get(&module, Statistic::GradientCovariance).unwrap();
                assert_eq!((activations.count as f64, gradients.count as f64), (count, count));
                assert!(off(&activations.values, &a) < 1e-6 && off(&gradients.values, &s) < 1e-6, "{name} {module}");
            }
        }
        let each = gradients(&model, &corpus, false);
        let elements = moments(&model, &corpus, 2, MomentsOf::Elements);
        let lines = moments(&model, &corpus, 4, MomentsOf::RowsAndColumns);
        for (module, gradients) in each {
            let squares: Vec<f64> = (0..gradients[0].len())
                .map(|place| gradients.iter().map(|gradient| gradient[place].powi(2)).sum::<f64>() / 7.0)
                .collect();
            let moment = elements.get(&module, Statistic::SecondMoment).unwrap();
            assert_eq!(moment.count, 7);
            assert!(off(&moment.mean().unwrap(), &squares) < 1e-6, "{name} {module}");
            let (height, width) = (moment.rows, moment.columns);
            let rows: Vec<f64> =
                squares.chunks_exact(width).map(|row| row.iter().sum::<f64>() / width as f64).collect();
            let columns: Vec<f64> = transposed(&squares, width)
                .chunks_exact(height)
                .map(|column| column.iter().sum::<f64>() / height as f64)
                .collect();
            assert!(off(&lines.get(&module, Statistic::RowSecondMoment).unwrap().mean().unwrap(), &rows) < 1e-6);
            assert!(off(&lines.get(&module, Statistic::ColumnSecondMoment).unwrap().mean().unwrap(), &columns) < 1e-6);

            // What they make of a gradient is g / √V.
            let scales = AdafactorScales::of(&lines, &module).unwrap();
            let mean = rows.iter().sum::<f64>() / height as f64;
            for (row, column) in [(0, 0), (height - 1, width / 2), (height / 2, width - 1)] {
                let expected = 1.0 / ((rows[row] + 1e-30) * (columns[column] + 1e-30) / mean).sqrt();
                let got = f64::from(scales.rows[row]) * f64::from(scales.columns[column]);
                assert!((got / expected - 1.0).abs() < 1e-5, "{name} {module}: {got} {expected}");
            }
            let adam: Vec<f64> = squares.iter().map(|square| 1.0 / (square.sqrt() + 1e-8)).collect();
            let found = doubles(&adam_scales(&elements, &module).unwrap());
            assert!(found.iter().zip(&adam).all(|(a, b)| (a / b - 1.0).abs() < 1e-3), "{name} {module}");
        }
    }
}

#[test]
fn preconditioned_scores_are_those_of_explicit_matrices() {
    for name in MODELS {
        let model = load(name);
        let (corpus, asked) = (documents(&model, 6, 2), documents(&model, 3, 9));
        let bias = true;
        let (of_corpus, of_queries) = (gradients(&model, &corpus, bias), gradients(&model, &asked, bias));
        let kfac = kfac(&model, &corpus, 2, bias).with_eigenvectors().unwrap();
        let lambda = lambda(&model, &corpus, 4, bias, &kfac);
        let mut tap = SecondMoments::new(layers(&model, bias), MomentsOf::Elements);
        run(&model, &corpus, 5, &mut tap, |_| ());
        let diagonal = tap.into_factors();
        let damped = |inversion, factor| Damping { inversion, factor };
        let ekfac = Curvature::Ekfac { kfac: &kfac, lambda: &lambda };
        for (curvature, damping) in [
            (Curvature::Identity, Damping::default()),
            (Curvature::Diagonal(&diagonal), Damping::default()),
            (Curvature::Kfac(&kfac), Damping::default()),
            (Curvature::Kfac(&kfac), damped(Inversion::FactoredTikhonov, 0.1)),
            (ekfac, Damping::default()),
            (ekfac, damped(Inversion::AbsoluteDampedInverse, 0.01)),
            (ekfac, damped(Inversion::TikhonovFiltered, 0.2)),
            (ekfac, damped(Inversion::Pseudoinverse, 0.5)),
        ] {
            let mut expected = vec![0.0; corpus.len() * asked.len()];
            let mut weights = vec![0.0; expected.len()];
            for (module, queries) in &of_queries {
                let q = |statistic| kfac.get(module, statistic).unwrap();
                let (s, a) = (q(Statistic::GradientCovariance), q(Statistic::ActivationCovariance));
                let (outputs, columns) = (s.rows, a.rows);
                let eigen = |factor: &super::super::Factor| {
                    Eigen::of(module, "it", &factor.mean().unwrap(), factor.rows).unwrap()
                };
                let (s, a) = (eigen(s), eigen(a));
                let turn = |gradient: &[f64]| {
                    product(&transposed(&s.vectors, outputs), &product(gradient, &a.vectors, columns), outputs)
                };
                let grid: Vec<f64> = match curvature {
                    Curvature::Identity => vec![1.0; outputs * columns],
                    Curvature::Diagonal(_) => (0..outputs * columns)
                        .map(|place| {
                            of_corpus[module].iter().map(|gradient| gradient[place].powi(2)).sum::<f64>() / 6.0
                        })
                        .collect(),
                    Curvature::Kfac(_) => {
                        s.values.iter().flat_map(|row| a.values.iter().map(move |column| row * column)).collect()
                    }
                    Curvature::Ekfac { .. } => {
                        let turned: Vec<Vec<f64>> = of_corpus[module].iter().map(|gradient| turn(gradient)).collect();
                        (0..outputs * columns)
                            .map(|place| turned.iter().map(|gradient| gradient[place].powi(2)).sum::<f64>() / 6.0)
                            .collect()
                    }
                };
                let mean = grid.iter().sum::<f64>() / grid.len() as f64;
                let (of_s, of_a) = (s.mean(), a.mean());
                let multiply = |place: usize, value: f64| {
                    let (c, lambda) = (damping.factor, grid[place]);
                    let pi = (of_a / of_s).sqrt();
                    let root = (c * mean).sqrt();
                    match (curvature, damping.inversion) {
                        (Curvature::Identity, _) => value,
                        (_, Inversion::DampedInverse) => value / (lambda + c * mean),
                        (_, Inversion::AbsoluteDampedInverse) => value / (lambda + c),
                        (_, Inversion::TikhonovFiltered) => value * lambda / (lambda.powi(2) + (c * mean).powi(2)),
                        (_, Inversion::Pseudoinverse) => {
                            if lambda > c * mean {
                                value / lambda
                            } else {
                                0.0
                            }
                        }
                        // (S + √d / π)⁻¹ ⊗ (A + π √d)⁻¹
                        (_, Inversion::FactoredTikhonov) => {
                            value / ((s.values[place / columns] + root / pi) * (a.values[place % columns] + root * pi))
                        }
                    }
                };
                let in_basis = matches!(curvature, Curvature::Kfac(_) | Curvature::Ekfac { .. });
                for (number, query) in queries.iter().enumerate() {
                    let query = if in_basis { turn(query) } else { query.clone() };
                    let query: Vec<f64> =
                        query.iter().enumerate().map(|(place, &value)| multiply(place, value)).collect();
                    for (document, gradient) in of_corpus[module].iter().enumerate() {
                        let gradient = if in_basis { turn(gradient) } else { gradient.clone() };
                        expected[document * asked.len() + number] += dot(&query, &gradient);
                        weights[document * asked.len() + number] +=
                            (dot(&query, &query) * dot(&gradient, &gradient)).sqrt();
                    }
                }
            }
            let mut preconditioned = queries(&model, &asked, bias);
            curvature.precondition(ALONE, damping, &mut preconditioned).unwrap();
            let all_ranks =
                preconditioned.modules().map(|module| module.layer.outputs.min(module.layer.columns)).max().unwrap();
            for mut scorer in [
                ExactScorer::whole(preconditioned.clone()).unwrap(),
                ExactScorer::low_rank(preconditioned.clone(), all_ranks).unwrap(),
            ] {
                let mut batch = Vec::new();
                let mut sizes = Vec::new();
                // A scorer gives the scores of a batch at a time.
                for documents in corpus.chunks(4) {
                    run(&model, documents, 4, &mut scorer, |count| sizes.push(count));
                    batch.extend(doubles(&scorer.take_scores(documents.len())));
                }
                assert_eq!(batch.len(), expected.len());
                // Errors are those of single precision, of numbers as large as the products of norms, which cancel in the sums.
                for ((got, expected), weight) in batch.iter().zip(&expected).zip(&weights) {
                    assert!((got - expected).abs() <= 3e-6 * weight, "{name} {damping:?}: {got} {expected} {weight}");
                }
            }
        }
    }
}

#[test]
fn sides_are_the_roots_of_kfac() {
    let model = load("small/llama-biases");
    let (corpus, asked) = (documents(&model, 6, 2), documents(&model, 2, 9));
    let kfac = kfac(&model, &corpus, 2, false);
    let plain = queries(&model, &asked, false);
    let mut preconditioned = plain.clone();
    let damping = Damping { inversion: Inversion::FactoredTikhonov, factor: 0.1 };
    Curvature::Kfac(&kfac).precondition(ALONE, damping, &mut preconditioned).unwrap();
    for (plain, preconditioned) in plain.modules().zip(preconditioned.modules()) {
        let layer = &plain.layer;
        let KfacSides { left, right } = KfacSides::of(&kfac, layer, 0.1).unwrap();
        for (plain, preconditioned) in
            plain.values.chunks_exact(layer.elements()).zip(preconditioned.values.chunks_exact(layer.elements()))
        {
            let once = |gradient: &[f64]| product(&left, &product(gradient, &right, layer.columns), layer.outputs);
            let twice = once(&once(&doubles(plain)));
            assert!(off(&doubles(preconditioned), &twice) < 1e-4, "{}", layer.name);
        }
    }
}

//! Against numbers of kronfluence and bergson: `benches/peers/kronfluence_values.py` makes them.

use serde_json::Value;

use super::*;
use crate::influence::curvature::damping::FactorValues;
use crate::influence::curvature::{
    Curvature, Damping, ExactScorer, Factor, Inversion, Mixing, Power, Statistic, gram_power, mix_grams,
};

fn peers() -> Value {
    serde_json::from_str(include_str!("../testdata/peers.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().unwrap()],
    }
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

/// Relative to the largest of them.
fn expect_near(got: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let most = expected.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() <= tolerance * most, "{what}: {got}, {expected} expected");
    }
}

/// Some rows and columns of a matrix.
fn part(values: &[f64], width: usize, rows: std::ops::Range<usize>, columns: std::ops::Range<usize>) -> Vec<f64> {
    rows.flat_map(|row| values[row * width..][columns.clone()].to_vec()).collect()
}

#[test]
fn factors_and_scores_are_those_of_kronfluence() {
    for peer in peers()["kronfluence"].as_array().unwrap() {
        let name = peer["model"].as_str().unwrap();
        let model = load(name);
        let (corpus, asked) = (documents(&model, 8, 2), documents(&model, 3, 9));
        let kfac = kfac(&model, &corpus, 8, true).with_eigenvectors().unwrap();
        let lambda = lambda(&model, &corpus, 8, true, &kfac);
        let mut tap = SecondMoments::new(layers(&model, true), MomentsOf::Elements);
        run(&model, &corpus, 8, &mut tap, |_| ());
        let diagonal = tap.into_factors();
        let modules = peer["modules"].as_object().unwrap();
        for (module, expected) in modules {
            for (key, covariance, eigenvalues) in [
                ("activations", Statistic::ActivationCovariance, Statistic::ActivationEigenvalues),
                ("gradients", Statistic::GradientCovariance, Statistic::GradientEigenvalues),
            ] {
                let expected = &expected[key];
                let found = kfac.get(module, covariance).unwrap();
                let (mean, n) = (found.mean().unwrap(), found.rows);
                assert_eq!(found.count, expected["tokens"].as_u64().unwrap(), "{name} {module}");
                let trace: f64 = (0..n).map(|i| mean[i * n + i]).sum();
                let summary = [trace, norm(&mean)];
                let of_peer = [expected["trace"].as_f64().unwrap(), expected["norm"].as_f64().unwrap()];
                expect_near(&summary, &of_peer, 1e-4, &format!("{name} {module} {key}"));
                let first = part(&mean, n, 0..2, 0..6.min(n));
                expect_near(&first, &numbers(&expected["first_rows"]), 1e-4, &format!("{name} {module} {key}"));
                let found = kfac.get(module, eigenvalues).unwrap();
                let largest = &found.values[n - 8..];
                expect_near(largest, &numbers(&expected["eigenvalues"]), 1e-4, &format!("{name} {module} {key}"));
            }
            for (key, factors, statistic) in
                [("lambda", &lambda, Statistic::Lambda), ("diagonal", &diagonal, Statistic::SecondMoment)]
            {
                let expected = &expected[key];
                let found = factors.get(module, statistic).unwrap();
                let mean = found.mean().unwrap();
                let summary = [norm(&mean), crate::influence::curvature::symmetric::mean(&mean)];
                let of_peer = [expected["norm"].as_f64().unwrap(), expected["mean"].as_f64().unwrap()];
                expect_near(&summary, &of_peer, 1e-4, &format!("{name} {module} {key}"));
                let last = part(&mean, found.columns, found.rows - 2..found.rows, found.columns - 6..found.columns);
                expect_near(&last, &numbers(&expected["last_rows"]), 1e-4, &format!("{name} {module} {key}"));
            }
        }
        assert_eq!(kfac.iter().len(), 6 * modules.len());
        for expected in peer["scores"].as_array().unwrap() {
            let (strategy, damping) = (expected["strategy"].as_str().unwrap(), expected["damping"].as_f64());
            let curvature = match strategy {
                "identity" => Curvature::Identity,
                "diagonal" => Curvature::Diagonal(&diagonal),
                "kfac" => Curvature::Kfac(&kfac),
                _ => Curvature::Ekfac { kfac: &kfac, lambda: &lambda },
            };
            let damping = damping.map_or_else(Damping::default, |factor| Damping {
                inversion: Inversion::AbsoluteDampedInverse,
                factor,
            });
            let mut preconditioned = queries(&model, &asked, true);
            curvature.precondition(ALONE, damping, &mut preconditioned).unwrap();
            let mut scorer = ExactScorer::whole(preconditioned.clone()).unwrap();
            run(&model, &corpus, 8, &mut scorer, |_| ());
            let scores: Vec<f64> = scorer.take_scores(8).into_iter().map(f64::from).collect();
            let what = format!("{name} {strategy} {damping:?}");
            expect_near(&scores, &numbers(&expected["documents"]), 1e-4, &what);
        }
    }
}

#[test]
fn inversions_and_mixtures_are_those_of_bergson() {
    let peers = &peers()["bergson"];
    let square = |module: &str, values: Vec<f64>| {
        let n = values.len().isqrt();
        let (module, statistic) = (module.to_owned(), Statistic::Gram);
        Factor { module, statistic, rows: n, columns: n, bias: false, count: 1, values }
    };
    let gram: Factors = [square("m", numbers(&peers["gram"]))].into_iter().collect();
    let (activations, gradients) = (numbers(&peers["activations"]), numbers(&peers["gradients"]));
    let factors = FactorValues { gradients: &gradients, activations: &activations };
    for (inversion, expected) in peers["inversions"].as_object().unwrap() {
        let inversion = serde_json::from_value(Value::from(inversion.as_str())).unwrap();
        let damping = Damping { inversion, factor: 0.1 };
        let multipliers = damping.of_grid("m", &numbers(&peers["grid"]), Some(factors)).unwrap();
        expect_near(&multipliers, &numbers(&expected["multipliers"]), 1e-6, &format!("{inversion:?}"));
        for (power, key) in [(Power::Inverse, "inverse"), (Power::InverseRoot, "root")] {
            let found = gram_power(&gram, "m", 5, damping, power).unwrap();
            expect_near(&found, &numbers(&expected[key]), 1e-6, &format!("{inversion:?} {key}"));
        }
    }
    let grams = |key: &str| -> Factors {
        peers[key].as_object().unwrap().iter().map(|(module, values)| square(module, numbers(values))).collect()
    };
    for (components, expected) in peers["mixing"].as_object().unwrap() {
        let components = Mixing::Components(components.parse().unwrap());
        let (_, share) = mix_grams(&grams("queries"), &grams("corpus"), components).unwrap();
        assert!((share - expected.as_f64().unwrap()).abs() < 1e-6, "{components:?}: {share}");
    }
}

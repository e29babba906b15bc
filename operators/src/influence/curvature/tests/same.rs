//! The same bits however documents are put into batches, and the same sums of parts.

use super::*;
use crate::influence::curvature::{
    Curvature, CurvatureError, Damping, ExactScorer, Inversion, LowRankQueries, Statistic,
};

#[test]
fn batches_do_not_matter() {
    for name in MODELS {
        let model = load(name);
        let (corpus, asked) = (documents(&model, 9, 4), documents(&model, 5, 5));
        let factors = kfac(&model, &corpus, 1, true);
        let eigen = factors.clone().with_eigenvectors().unwrap();
        let of_lambda = lambda(&model, &corpus, 1, true, &eigen);
        let mut preconditioned = queries(&model, &asked, true);
        let curvature = Curvature::Ekfac { kfac: &eigen, lambda: &of_lambda };
        curvature.precondition(ALONE, Damping::default(), &mut preconditioned).unwrap();
        let scores = |together: usize, rank: Option<usize>| {
            let mut scorer = match rank {
                None => ExactScorer::whole(preconditioned.clone()).unwrap(),
                Some(rank) => ExactScorer::low_rank(preconditioned.clone(), rank).unwrap(),
            };
            let mut scores = Vec::new();
            for documents in corpus.chunks(together) {
                run(&model, documents, together, &mut scorer, |_| ());
                scores.extend(scorer.take_scores(documents.len()));
            }
            scores
        };
        for together in [2, 4, 9] {
            assert_eq!(kfac(&model, &corpus, together, true), factors, "{name}");
            assert_eq!(lambda(&model, &corpus, together, true, &eigen), of_lambda, "{name}");
            for of in [MomentsOf::Elements, MomentsOf::RowsAndColumns] {
                assert_eq!(moments(&model, &corpus, together, of), moments(&model, &corpus, 1, of), "{name}");
            }
            assert_eq!(scores(together, None), scores(1, None), "{name}");
            assert_eq!(scores(together, Some(2)), scores(1, Some(2)), "{name}");
        }
    }
}

#[test]
fn parts_add_up_to_the_whole() {
    let model = load("small/gpt2");
    let corpus = documents(&model, 9, 4);
    let whole = kfac(&model, &corpus, 4, false);
    let mut sum = Factors::default();
    for part in corpus.chunks(4) {
        sum.add(kfac(&model, part, 4, false)).unwrap();
    }
    for (whole, sum) in whole.iter().zip(sum.iter()) {
        assert_eq!((&whole.module, whole.statistic, whole.count), (&sum.module, sum.statistic, sum.count));
        let most = whole.values.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
        assert!(whole.values.iter().zip(&sum.values).all(|(a, b)| (a - b).abs() <= 1e-14 * most));
    }
    let eigen = whole.clone().with_eigenvectors().unwrap();
    assert!(eigen.clone().add(eigen.clone()).is_err());
    // Made anew from what is a sum.
    assert_eq!(eigen.clone().with_eigenvectors().unwrap(), eigen);
}

#[test]
fn ranks_are_nearer_the_higher_they_are() {
    let model = load("small/neox-sequential");
    let (corpus, asked) = (documents(&model, 12, 1), documents(&model, 4, 2));
    let preconditioned = queries(&model, &asked, false);
    let scores = |mut scorer: ExactScorer| {
        run(&model, &corpus, 12, &mut scorer, |_| ());
        scorer.take_scores(12)
    };
    let exact = scores(ExactScorer::whole(preconditioned.clone()).unwrap());
    let distance = |rank| {
        let scores = scores(ExactScorer::low_rank(preconditioned.clone(), rank).unwrap());
        scores.iter().zip(&exact).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
    };
    let distances: Vec<f64> = [1, 4, 64].map(distance).to_vec();
    let size = exact.iter().map(|&score| f64::from(score).powi(2)).sum::<f64>().sqrt();
    assert!(distances[0] > distances[1] && distances[1] > distances[2], "{distances:?}");
    // A gradient has no more directions than tokens.
    assert!(distances[2] < 1e-5 * size, "{distances:?} {size}");
}

#[test]
fn what_cannot_be_used_is_named() {
    let model = load("small/gpt2");
    let corpus = documents(&model, 3, 4);
    let factors = kfac(&model, &corpus, 4, false);
    let mut plain = queries(&model, &corpus, true);
    let name = plain.modules().next().unwrap().layer.name.clone();
    // Learned without biases, asked with them.
    let error = Curvature::Kfac(&factors).precondition(ALONE, Damping::default(), &mut plain).unwrap_err();
    assert!(matches!(error, CurvatureError::Shape { .. }) && error.to_string().contains(&name), "{error}");
    let mut plain = queries(&model, &corpus, false);
    let error = Curvature::Diagonal(&factors).precondition(ALONE, Damping::default(), &mut plain).unwrap_err();
    assert!(error.to_string().contains("second_moment"), "{error}");
    let of_lambda = Factors::default();
    let curvature = Curvature::Ekfac { kfac: &factors, lambda: &of_lambda };
    assert!(matches!(
        curvature.precondition(ALONE, Damping::default(), &mut plain),
        Err(CurvatureError::Missing { .. })
    ));
    let undamped = Damping { inversion: Inversion::AbsoluteDampedInverse, factor: 0.0 };
    let error = Curvature::Kfac(&factors).precondition(ALONE, undamped, &mut plain).unwrap_err();
    assert!(matches!(error, CurvatureError::Singular { .. }), "{error}");
    let negative = Damping { factor: -1.0, ..Damping::default() };
    assert!(matches!(
        Curvature::Identity.precondition(ALONE, negative, &mut plain),
        Err(CurvatureError::Damping { .. })
    ));
    let broken: Factors = factors
        .iter()
        .cloned()
        .map(|mut factor| {
            if factor.statistic == Statistic::GradientCovariance {
                factor.values[1] = f64::NAN;
            }
            factor
        })
        .collect();
    let error = broken.with_eigenvectors().unwrap_err().to_string();
    assert!(error.contains("gradient_covariance") && error.contains("NaN") && error.contains("column 1"), "{error}");
}

/// Queries that come one after another have the bits of those that come together, and sums of parts those of a sum to rounding.
#[test]
fn queries_may_come_some_at_a_time() {
    for name in MODELS {
        let model = load(name);
        let (corpus, asked) = (documents(&model, 3, 4), documents(&model, 5, 5));
        let scores = |scorer: &mut ExactScorer| {
            run(&model, &corpus, 3, scorer, |_| ());
            scorer.take_scores(corpus.len())
        };
        let together = scores(&mut ExactScorer::low_rank(queries(&model, &asked, true), 2).unwrap());
        let mut apart = LowRankQueries::new(2);
        for some in asked.chunks(2) {
            apart.add(queries(&model, some, true)).unwrap();
        }
        assert_eq!(scores(&mut apart.into_scorer().unwrap()), together, "{name}");

        let mean = queries(&model, &asked, true).combined(&[(0..5).map(|query| (query, 0.2)).collect()]);
        let mut sum = queries(&model, &asked[..2], true).combined(&[vec![(0, 0.2), (1, 0.2)]]);
        sum.add(&queries(&model, &asked[2..], true).combined(&[vec![(0, 0.2), (1, 0.2), (2, 0.2)]]));
        for (sum, mean) in sum.modules().zip(mean.modules()) {
            let largest = mean.values.iter().fold(0_f32, |most, value| most.max(value.abs()));
            for (sum, mean) in sum.values.iter().zip(&mean.values) {
                assert!((sum - mean).abs() <= 1e-6 * largest, "{name}: {sum} and {mean}");
            }
        }
    }
    assert!(matches!(LowRankQueries::new(1).into_scorer(), Err(CurvatureError::NoQueries)));
}

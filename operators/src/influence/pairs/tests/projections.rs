//! Projected gradients.

use gristmill_kernels::signs::Signs;

use super::*;
use crate::influence::pairs::ProjectionConfig;
use crate::influence::pairs::projection::{Projection, project};

/// Vectors that are neither short nor regular.
fn vector(seed: u64, len: usize) -> Vec<f32> {
    let signs = Signs::new(seed, 77);
    (0..len).map(|place| signs.sign(0, place as u64) * (1.0 + (place % 13) as f32) / 7.0).collect()
}

fn projection(shares: &[f64], scaled: bool, tensors: &[(&str, usize)]) -> Projection {
    let config = ProjectionConfig { shares: shares.to_vec(), seed: 42, scaled };
    Projection::new(&config, tensors.iter().copied()).unwrap()
}

/// Sketches of gradients, projected together.
fn sketches(projection: &Projection, tensor: usize, gradients: &[&[f32]]) -> Vec<Vec<f32>> {
    let mut sketches = vec![vec![0.0; projection.width]; gradients.len()];
    let mut parts: Vec<&mut [f32]> = sketches.iter_mut().map(Vec::as_mut_slice).collect();
    projection.project(ALONE, tensor, gradients, &mut parts).unwrap();
    sketches
}

#[test]
fn sketches_are_products_with_signs_whatever_is_projected_together() {
    let tensors = [("a.weight", 1300), ("b.weight", 70)];
    let projection = projection(&[0.5, 0.9], false, &tensors);
    assert_eq!(projection.sizes, [[512, 512], [1024, 512]]);
    assert_eq!(projection.width, 1536);
    let all: Vec<Vec<f32>> = (0..7).map(|seed| vector(seed, 1300)).collect();
    let all: Vec<&[f32]> = all.iter().map(Vec::as_slice).collect();
    let together = sketches(&projection, 0, &all);
    for (gradient, sketch) in all.iter().zip(&together) {
        assert_eq!(&sketches(&projection, 0, &[gradient])[0], sketch);
        for row in [0, 63, 64, 1023] {
            let signs = Signs::named(42, "a.weight");
            let exact: f64 =
                (0..).zip(*gradient).map(|(column, &value)| f64::from(signs.sign(row, column) * value)).sum();
            assert!((f64::from(sketch[row as usize]) - exact).abs() < 1e-3, "{row}");
        }
        assert!(sketch[1024..].iter().all(|&value| value == 0.0));
    }
    let small = vector(9, 70);
    let sketch = &sketches(&projection, 1, &[&small])[0];
    assert!(sketch[..1024].iter().all(|&value| value == 0.0) && sketch[1024..].iter().any(|&value| value != 0.0));
}

/// The mean over seeds of scaled products is that of the vectors, and their deviation is about 1/√rows.
#[test]
fn products_are_unbiased_and_errors_fall_with_the_square_root_of_dimensions() {
    let (len, seeds) = (600, 60);
    let one = vector(1, len);
    let other: Vec<f32> = one.iter().zip(vector(2, len)).map(|(one, noise)| one + 1.5 * noise).collect();
    let exact = dot(&one, &other) / (dot(&one, &one).sqrt() * dot(&other, &other).sqrt());
    let norms = dot(&one, &one).sqrt() * dot(&other, &other).sqrt();
    let mut deviations = Vec::new();
    for rows in [512, 2048, 8192] {
        let (mut sum, mut squares) = (0.0, 0.0);
        for seed in 0..seeds {
            let mut sketches = vec![vec![0.0; rows]; 2];
            let mut parts: Vec<&mut [f32]> = sketches.iter_mut().map(Vec::as_mut_slice).collect();
            project(ALONE, Signs::named(seed, "a"), &[&one, &other], &mut parts).unwrap();
            let estimate = dot(&sketches[0], &sketches[1]) / rows as f64 / norms;
            sum += estimate - exact;
            squares += (estimate - exact).powi(2);
        }
        let (mean, deviation) = (sum / seeds as f64, (squares / seeds as f64).sqrt());
        // Four deviations of the mean.
        assert!(mean.abs() < 4.0 * deviation / (seeds as f64).sqrt(), "{rows}: {mean}");
        deviations.push(deviation * (rows as f64).sqrt());
    }
    // For unit vectors it is √(1 + cos² - 2 Σ aᵢ² bᵢ²) / √rows, near 1 here.
    for deviation in deviations {
        assert!((0.7..1.45).contains(&deviation), "{deviation}");
    }
}

#[test]
fn projected_cosines_are_near_those_of_gradients() {
    let (_folder, config) = study();
    let config = with(
        &config,
        json!({"tensors": {"include": ["*.1.*"]}, "projection": {"shares": [0.01, 0.5], "scaled": true}}),
    );
    let output = run(&config, &[rows(&REWRITTEN)]).unwrap();
    let table = PairTable::read(&output, "pairs", "id").unwrap();
    let model = model("llama");
    let taken = model.parameters().filter(|parameter| parameter.name().contains(".1."));
    let elements: usize = taken.map(|parameter| parameter.elements()).sum();
    assert_eq!(table.projections().len(), 2);
    assert!(table.projections()[1] as usize > elements * 9 / 20);
    let mut errors = [0.0, 0.0];
    let mut count = 0.0;
    for candidate in table.rows().iter().flat_map(|row| &row.candidates) {
        count += 1.0;
        for (error, projected) in errors.iter_mut().zip(&candidate.projected) {
            *error += (projected.unwrap() - candidate.cosine.unwrap()).powi(2);
        }
    }
    let errors = errors.map(|error: f64| (error / count).sqrt());
    assert!(errors[1] < 0.03 && errors[1] < errors[0] && errors[0] < 0.1, "{errors:?}");

    // A size has the same numbers alone, and a sketch does not depend on others.
    let alone =
        super::table(&with(&config, json!({"projection": {"shares": [0.01], "scaled": true}})), &[rows(&REWRITTEN)]);
    for (alone, both) in alone.rows().iter().zip(table.rows()) {
        for (alone, both) in alone.candidates.iter().zip(&both.candidates) {
            assert_eq!(alone.projected[0], both.projected[0]);
        }
    }
    // Other seeds and scales give others.
    for other in [json!({"shares": [0.5], "scaled": false}), json!({"shares": [0.5], "scaled": true, "seed": 43})] {
        let other = super::table(&with(&config, json!({"projection": other})), &[rows(&REWRITTEN)]);
        let [other, own] = [&other, &table].map(|table| &table.rows()[0].candidates[0]);
        assert!(other.projected[0] != own.projected[1]);
        assert_eq!(other.cosine, own.cosine);
    }
}

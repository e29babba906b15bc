//! Gram matrices of projected gradients.

use crate::influence::curvature::{
    Damping, Factors, Grams, Inversion, Mixing, Power, Statistic, gram_power, mix_grams,
};

/// Numbers between -1 and 1 that look random.
fn noise(count: usize, seed: usize) -> Vec<f32> {
    let number = |i: usize| ((i + 1) as f64 * 12.9898 + seed as f64 * 78.233).sin() * 43758.5453;
    (0..count).map(number).map(|x| ((x - x.floor()) * 2.0 - 1.0) as f32).collect()
}

fn grams(documents: usize, seed: usize, scale: f32) -> Factors {
    let mut grams = Grams::default();
    for (module, width) in [("b", 4), ("a", 6)] {
        let rows: Vec<f32> = noise(documents * width, seed + width).into_iter().map(|value| value * scale).collect();
        // In two batches.
        let (first, rest) = rows.split_at(width * (documents / 3));
        grams.add(module, first, width).unwrap();
        grams.add(module, rest, width).unwrap();
    }
    grams.into_factors()
}

fn product(a: &[f64], b: &[f64], n: usize) -> Vec<f64> {
    (0..n * n).map(|place| (0..n).map(|k| a[place / n * n + k] * b[k * n + place % n]).sum()).collect()
}

#[test]
fn inverses_and_roots_undo_what_is_damped() {
    let factors = grams(20, 1, 1.0);
    assert_eq!(factors.iter().map(|factor| factor.module.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    let gram = factors.get("a", Statistic::Gram).unwrap();
    let rows = noise(20 * 6, 7);
    let expected: f64 = (0..20).map(|row| f64::from(rows[row * 6 + 1]) * f64::from(rows[row * 6 + 4])).sum();
    assert_eq!(gram.count, 20);
    assert!((gram.values[6 + 4] - expected).abs() < 1e-12 && gram.values[6 + 4] == gram.values[4 * 6 + 1]);

    let inverse = gram_power(&factors, "a", 6, Damping::default(), Power::Inverse).unwrap();
    let root = gram_power(&factors, "a", 6, Damping::default(), Power::InverseRoot).unwrap();
    let mut damped = gram.mean().unwrap();
    let trace: f64 = (0..6).map(|i| damped[i * 6 + i]).sum();
    (0..6).for_each(|i| damped[i * 6 + i] += 0.1 * trace / 6.0);
    for undone in [product(&damped, &inverse, 6), product(&damped, &product(&root, &root, 6), 6)] {
        for (place, value) in undone.iter().enumerate() {
            let expected = f64::from(u8::from(place / 6 == place % 6));
            assert!((value - expected).abs() < 1e-10, "{place} {value}");
        }
    }
    assert!(gram_power(&factors, "a", 5, Damping::default(), Power::Inverse).is_err());
    assert!(gram_power(&factors, "c", 5, Damping::default(), Power::Inverse).unwrap_err().to_string().contains("b, a"));
    let singular = grams(3, 1, 1.0);
    let none = Damping { inversion: Inversion::Pseudoinverse, factor: 0.001 };
    let cut = gram_power(&singular, "a", 6, none, Power::Inverse).unwrap();
    let gram = singular.get("a", Statistic::Gram).unwrap().mean().unwrap();
    // H H⁺ H = H.
    let again = product(&product(&gram, &cut, 6), &gram, 6);
    assert!(again.iter().zip(&gram).all(|(a, b)| (a - b).abs() < 1e-9));
}

#[test]
fn mixtures_follow_the_largest_eigenvalues() {
    let (queries, corpus) = (grams(20, 1, 2.0), grams(30, 2, 1.0));
    let (half, share) = mix_grams(&queries, &corpus, Mixing::Share(0.25)).unwrap();
    assert_eq!(share, 0.25);
    let value = |factors: &Factors| factors.get("b", Statistic::Gram).unwrap().mean().unwrap()[1];
    assert!((value(&half) - 0.25 * value(&queries) - 0.75 * value(&corpus)).abs() < 1e-12);

    // By hand: the third largest of the ten eigenvalues of both layers.
    let third = |factors: &Factors| {
        let eigenvalues = factors
            .iter()
            .flat_map(|gram| super::super::Eigen::of("", "", &gram.mean().unwrap(), gram.rows).unwrap().values);
        let mut all: Vec<f64> = eigenvalues.collect();
        all.sort_by(|a, b| b.total_cmp(a));
        all[2]
    };
    let (_, share) = mix_grams(&queries, &corpus, Mixing::Components(3)).unwrap();
    assert!((share - third(&corpus) / (third(&queries) + third(&corpus))).abs() < 1e-12);
    // More than there are: the least.
    let (_, least) = mix_grams(&queries, &corpus, Mixing::Components(1000)).unwrap();
    assert!((0.0..=1.0).contains(&least));
    assert_eq!(mix_grams(&queries, &corpus, Mixing::Components(0)).unwrap().1, 1.0);
    assert!(mix_grams(&queries, &corpus, Mixing::Share(1.5)).is_err());
    assert!(mix_grams(&queries, &Factors::default(), Mixing::Share(0.5)).is_err());
}

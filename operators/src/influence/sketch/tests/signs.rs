//! Where signs come from, and what they are good for on average.

use gristmill_kernels::signs::{SequentialSigns, Signs};

use super::super::SignSource;
use super::*;

#[test]
fn signs_are_those_of_the_names_that_each_program_has_for_layers() {
    let folder = reference("small/gpt2").unwrap();
    let model = load(&folder);
    let sketch = |signs, seed| Sketch::new(&model, &SketchSpec { signs, seed, ..of_dimension(4) }).unwrap();
    let module = sketch(SignSource::Gristmill, 7).modules()[1].clone();
    let in_base = module.name.strip_prefix("transformer.").unwrap_or(&module.name);
    assert!(in_base.starts_with("h."), "{in_base}");
    let row = |signs: Signs, row: u32, columns: usize| -> Vec<f32> {
        (0..columns as u64).map(|column| 0.5 * signs.sign(row, column)).collect()
    };
    for (seed, identifier) in [(0, format!("{in_base}/right")), (3, format!("{in_base}/right/seed3"))] {
        let right = sketch(SignSource::Bergson2, seed).modules()[1].right.clone().unwrap();
        assert_eq!(right[module.inputs..2 * module.inputs], row(Signs::bergson_2(&identifier), 1, module.inputs));
    }
    let left = module.left.unwrap();
    let signs = Signs::named(7, &format!("{}/left", module.name));
    assert_eq!(left[2 * module.outputs..3 * module.outputs], row(signs, 2, module.outputs));
    let left = sketch(SignSource::Bergson026, 0).modules()[1].left.clone().unwrap();
    let mut expected = vec![0.0; left.len()];
    let signs = SequentialSigns::bergson_0_26(&format!("{in_base}/left"));
    signs.fill(&gristmill_kernels::workers::Serial, module.outputs, 0, 0.5, &mut expected).unwrap();
    assert_eq!(left, expected);
}

/// Products of two documents' rows over 200 seeds: their mean is the product of the gradients within four standard errors, and their variance, which has parts in
/// 1/p and in 1/p², falls to between a half and a quarter from each p to its double (standard deviations: by 1.4 to 2; 200 seeds know them to a twentieth).
#[test]
fn products_of_rows_are_those_of_gradients_on_average_and_spread_less_with_more_rows() {
    const SEEDS: u64 = 200;
    let folder = reference("llama").unwrap();
    let model = load(&folder);
    let batch = packed(&Expected::of(&folder).texts()[..2]);
    let target = Target::of(&model, &batch);
    let mut backward = Backward::new(&model).unwrap();
    let modules = Modules { include: vec!["*.0.*".to_owned()], exclude: Vec::new() };
    let spec = |dimension, seed| SketchSpec { dimension, seed, modules: modules.clone(), ..SketchSpec::default() };
    let products = |sketch: &Sketch, backward: &mut Backward<'_>| -> [f64; 3] {
        let mut projector = Projector::new(sketch);
        run(backward, ALONE, &batch, &target, &mut projector);
        let dot = |a: usize, b: usize| {
            let rows = projector.row(a).iter().zip(projector.row(b));
            rows.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
        };
        [dot(0, 0), dot(0, 1), dot(1, 1)]
    };
    let exact = products(&Sketch::new(&model, &spec(0, 0)).unwrap(), &mut backward);
    let scale = (exact[0] * exact[2]).sqrt();
    let mut spreads = Vec::new();
    for dimension in [4, 8, 16] {
        let found: Vec<[f64; 3]> = (0..SEEDS)
            .map(|seed| products(&Sketch::new(&model, &spec(dimension, seed)).unwrap(), &mut backward))
            .collect();
        let spread = [0, 1, 2].map(|pair| {
            let mean = found.iter().map(|found| found[pair]).sum::<f64>() / SEEDS as f64;
            let variance = found.iter().map(|found| (found[pair] - mean).powi(2)).sum::<f64>() / (SEEDS - 1) as f64;
            let error = (variance / SEEDS as f64).sqrt();
            let off = mean - exact[pair];
            println!(
                "p {dimension}: product {} is {mean} on average, off by {} standard errors",
                exact[pair],
                off / error
            );
            assert!(off.abs() <= 4.0 * error, "p {dimension}: {mean} ± {error}, expected {}", exact[pair]);
            variance.sqrt() / scale
        });
        spreads.push(spread[1]);
    }
    println!("standard deviations relative to the lengths: {spreads:?}");
    for pair in spreads.windows(2) {
        let ratio = pair[0] / pair[1];
        assert!((1.25..2.25).contains(&ratio), "{spreads:?}");
    }
}

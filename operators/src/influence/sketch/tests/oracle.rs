//! Rows are L·g·Rᵀ of the gradients g that [`DocumentGradients`] gives, with products and sums in f64.

use super::super::NormsOf;
use super::*;

/// Sums of some hundred to some thousand products in f32, in another order than the gradients' own.
const TOLERANCE: f64 = 2e-5;

/// L·g·Rᵀ.
fn projected(left: &[f64], g: &[f32], right: &[f64], outputs: usize, inputs: usize) -> Vec<f64> {
    let mut half = vec![0.0; left.len() / outputs * inputs];
    for (half, left) in half.chunks_exact_mut(inputs).zip(left.chunks_exact(outputs)) {
        for (value, g) in left.iter().zip(g.chunks_exact(inputs)) {
            half.iter_mut().zip(g).for_each(|(half, &g)| *half += value * f64::from(g));
        }
    }
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    half.chunks_exact(inputs).flat_map(|half| right.chunks_exact(inputs).map(|right| dot(half, right))).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

#[test]
fn rows_are_projections_of_the_gradients_of_all_architectures() {
    let mut compared = 0;
    for (name, folder) in models() {
        let model = load(&folder);
        let batch = packed(&Expected::of(&folder).texts());
        let target = Target::of(&model, &batch);
        let mut backward = Backward::new(&model).unwrap();
        for dimension in [0, 4, 16, 33] {
            let sketch = Sketch::new(&model, &wide_enough(&model, dimension));
            let Ok(sketch) = sketch else { continue };
            let expected = gradients(&model, &sketch, &batch, &target);
            let mut projector = Projector::new(&sketch).with_norms(NormsOf::Modules);
            run(&mut backward, ALONE, &batch, &target, &mut projector);
            let mut worst = [0_f64; 2];
            for (document, gradients) in expected.iter().enumerate() {
                let row = projector.row(document);
                let norms: Vec<f64> = projector.module_norms(document).collect();
                let mut squares = 0.0;
                for ((module, g), got_norm) in sketch.modules().iter().zip(gradients).zip(norms) {
                    let got = &row[module.offset..module.offset + module.size()];
                    let expected = match (&module.left, &module.right) {
                        (Some(left), Some(right)) => {
                            projected(&wide(left), g, &wide(right), module.outputs, module.inputs)
                        }
                        _ => wide(g),
                    };
                    let what = format!("{name} with {dimension}, document {document}, {}", module.name);
                    let off = off(got, &expected);
                    assert!(off <= TOLERANCE, "{what}: off by {off:e}");
                    let square: f64 = g.iter().map(|&g| f64::from(g).powi(2)).sum();
                    squares += square;
                    let off_norm = (got_norm - square.sqrt()).abs() / square.sqrt().max(1e-30);
                    assert!(off_norm <= 1e-4, "{what}: norm {got_norm}, expected {}", square.sqrt());
                    worst = [worst[0].max(off), worst[1].max(off_norm)];
                    compared += 1;
                }
                let off = (projector.norm(document).unwrap() - squares.sqrt()).abs();
                assert!(off <= 1e-4 * squares.sqrt(), "{name}: norm of all");
            }
            println!("{name} with {dimension}: rows differ by {:e} at most, norms by {:e}", worst[0], worst[1]);
        }
    }
    assert!(compared > 500, "{compared}");
}

/// The gradients that transformers gave, where the references have them.
#[test]
fn exact_rows_are_the_gradients_of_the_references() {
    let data = std::env::var_os("GRISTMILL_DATA").map_or_else(|| "../../shared/data".into(), PathBuf::from);
    for name in ["gpt-neox", "llama", "llama3", "olmo", "olmo2", "qwen2"] {
        let folder = data.join("reference").join(name);
        let Ok(manifest) = std::fs::read(folder.join("manifest.json")) else {
            println!("skipped: there is no {}", folder.display());
            continue;
        };
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        let (expected, model) = (Expected::of(&folder), load(&folder));
        let batch = packed(&expected.texts());
        let target = Target::of(&model, &batch);
        let weights: Vec<&str> =
            manifest["full_gradients"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        let include: Vec<String> =
            weights.iter().map(|name| name.strip_suffix(".weight").unwrap().to_owned()).collect();
        let modules = Modules { include, exclude: Vec::new() };
        let sketch = Sketch::new(&model, &SketchSpec { modules, ..of_dimension(0) }).unwrap();
        let mut projector = Projector::new(&sketch);
        run(&mut Backward::new(&model).unwrap(), ALONE, &batch, &target, &mut projector);
        let mut worst = 0_f64;
        for module in sketch.modules() {
            let all = expected.floats(&format!("grad.{}.weight", module.name));
            for (document, expected) in all.chunks_exact(module.size()).enumerate() {
                let got = &projector.row(document)[module.offset..module.offset + module.size()];
                let off = off(got, &wide(expected));
                assert!(off <= 1e-4, "{name} {} document {document}: off by {off:e}", module.name);
                worst = worst.max(off);
            }
        }
        println!("{name}: differ by {worst:e} at most");
    }
}

#[test]
fn factors_and_matrices_of_sides_act_as_on_the_gradients() {
    let folder = reference("small/gpt2").unwrap();
    let model = load(&folder);
    let batch = packed(&Expected::of(&folder).texts());
    let target = Target::of(&model, &batch);
    let number = |i: usize, j: usize| f64::from(((i * 31 + j * 17 + 5) % 23) as u32) / 23.0 - 0.4;
    for dimension in [0, 8] {
        let mut sketch = Sketch::new(&model, &of_dimension(dimension)).unwrap();
        let plain = sketch.modules().to_vec();
        let expected = gradients(&model, &sketch, &batch, &target);
        // Packed, so that folding has to pack again.
        let mut projector = Projector::new(&sketch);
        run(&mut Backward::new(&model).unwrap(), ALONE, &batch, &target, &mut projector);
        let mut sides = Vec::new();
        for (index, module) in plain.iter().enumerate() {
            let [a, b] =
                [module.outputs, module.inputs].map(|len| -> Vec<f64> { (0..len).map(|i| number(i, 3)).collect() });
            let [m, n] = [module.outputs, module.inputs].map(|len| -> Vec<f64> {
                (0..len * len).map(|i| number(i / len, i % len) / (len as f64).sqrt()).collect()
            });
            sketch.multiply_sides(index, Some(&m), Some(&n)).unwrap();
            sketch.scale_sides(index, Some(&a), Some(&b)).unwrap();
            let fold = |side: &Option<Vec<f32>>, m: &[f64], scale: &[f64]| -> Vec<f64> {
                let len = scale.len();
                let product = match side {
                    None => m.to_vec(),
                    Some(side) => {
                        let row = |row: &[f32]| -> Vec<f64> {
                            (0..len).map(|j| (0..len).map(|k| f64::from(row[k]) * m[k * len + j]).sum()).collect()
                        };
                        side.chunks_exact(len).flat_map(row).collect()
                    }
                };
                product.chunks_exact(len).flat_map(|row| row.iter().zip(scale).map(|(a, b)| a * b)).collect()
            };
            sides.push([fold(&module.left, &m, &a), fold(&module.right, &n, &b)]);
        }
        let mut projector = Projector::new(&sketch);
        run(&mut Backward::new(&model).unwrap(), ALONE, &batch, &target, &mut projector);
        for (document, gradients) in expected.iter().enumerate() {
            for ((module, g), [left, right]) in sketch.modules().iter().zip(gradients).zip(&sides) {
                let expected = projected(left, g, right, module.outputs, module.inputs);
                let got = &projector.row(document)[module.offset..module.offset + module.size()];
                let off = off(got, &expected);
                assert!(off <= 1e-4, "{dimension}, {}: off by {off:e}", module.name);
            }
        }
        assert_eq!(
            sketch.scale_sides(0, Some(&[1.0]), None).unwrap_err(),
            format!("the outputs of {}: 1 factors, and {} are needed", plain[0].name, plain[0].outputs)
        );
        assert!(sketch.multiply_sides(0, None, Some(&[1.0; 3])).unwrap_err().contains("a matrix of 3 elements"));
        assert!(sketch.scale_sides(plain.len(), None, None).unwrap_err().contains("there is no layer"));
    }
}

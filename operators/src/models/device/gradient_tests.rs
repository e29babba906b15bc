//! Gradients on a device, which here is the CUDA kernels run on the CPU: against those of the CPU.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::sync::Arc;

use gristmill_kernels::device::Device;
use gristmill_kernels::launch::Float;
use gristmill_kernels_shim::ShimDevice;
use half::bf16;

use super::differentiate::Differentiate;
use super::heads::OnDevice;
use super::queue::Runner;
use super::weights::Weights;
use crate::Resources;
use crate::models::gradients::{
    Backward, DocumentGradients, Gradient, Loss, Losses, Projection, Projections, Reduction, Tap, TokenLoss,
    drawn_targets, token_weights,
};
use crate::models::tests::{ALONE, Expected, packed, reference};
use crate::models::{Batch, Compute, LoadOptions, Model, ModelError, Parameter, Precision, Result};

const ALL: usize = usize::MAX;

/// Models with everything in which the layers of language models differ.
const MODELS: [&str; 8] = [
    "small/gpt2",
    "small/llama-biases",
    "small/llama-yarn",
    "small/mistral-window",
    "small/neox-sequential",
    "small/qwen3",
    "gpt-neox",
    "olmo2",
];

fn load(folder: &Path, precision: Precision) -> Model {
    let options = LoadOptions { gradients: true, precision, ..LoadOptions::default() };
    Model::load(&folder.to_string_lossy(), &Resources::local(), options).unwrap().0
}

fn moved(mut model: Model) -> Model {
    model.move_to(&Device::new(ShimDevice::default()), ALL).unwrap();
    model
}

/// Weights and biases of the linear layers that a device differentiates.
fn of_layers(parameter: &Parameter) -> bool {
    let name = parameter.name();
    let norms = ["norm", "ln_", "layernorm", "embed", "wte", "wpe", "lm_head"];
    !norms.iter().any(|part| name.contains(part))
}

/// Two texts of the reference, and one without a target.
fn texts(folder: &Path) -> Batch {
    let mut texts = Expected::of(folder).texts();
    texts.truncate(2);
    texts.iter_mut().for_each(|text| text.truncate(24));
    texts.push(vec![3]);
    packed(&texts)
}

type Each = Vec<(usize, String, Vec<f32>)>;

fn gradients(model: &Model, batch: &Batch) -> (Losses, Each) {
    let weights = token_weights(batch, Reduction::Mean, |_, token| token % 5 != 4);
    let mut all = Each::new();
    let mut tap = DocumentGradients::new(of_layers, |document, parameter, gradient| {
        all.push((document, parameter.name().to_owned(), gradient.to_vec()));
        Ok(())
    });
    let loss = Loss::Tokens(TokenLoss { weights: &weights, targets: None });
    let losses = Backward::new(model).unwrap().run(ALONE, batch, loss, &mut tap).unwrap();
    all.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    (losses, all)
}

/// The norm of the difference, and that of what is expected.
fn off(got: &[f32], expected: &[f32]) -> (f64, f64) {
    assert_eq!(got.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let mut differences = got.iter().zip(expected).map(|(a, b)| f64::from(a - b));
    (norm(&mut differences), norm(&mut expected.iter().map(|&value| f64::from(value))))
}

fn agrees(name: &str, change: impl Fn(&mut Model)) {
    let Some(folder) = reference(name) else { return };
    let load = |precision| {
        let mut model = load(&folder, precision);
        change(&mut model);
        model
    };
    let batch = texts(&folder);
    let (losses, expected) = gradients(&load(Precision::F32), &batch);
    // In bf16 activations, gradients of them and weights are rounded to 2^-9 of themselves.
    for (precision, tolerance) in [(Precision::F32, 2e-5), (Precision::Bf16, 0.05)] {
        let (on_device, got) = gradients(&moved(load(precision)), &batch);
        assert_eq!(on_device.targets, losses.targets);
        for (got, expected) in on_device.documents.iter().zip(&losses.documents) {
            assert!((got - expected).abs() <= tolerance * expected.max(1e-3), "{name}: loss {got} and {expected}");
        }
        assert_eq!(got.len(), expected.len());
        let mut worst = 0_f64;
        for ((document, parameter, got), (_, same, expected)) in got.iter().zip(&expected) {
            assert_eq!(parameter, same);
            let (difference, norm) = off(got, expected);
            // Of keys' biases, to which scores do not react, there is nothing but rounding.
            let relative = difference / norm.max(1e-3);
            worst = worst.max(relative);
            assert!(
                relative <= tolerance,
                "{name} {precision:?} {parameter} {document}: off by {difference} of {norm}"
            );
        }
        println!("{name}: gradients in {precision:?} differ by {worst:e} at most");
    }
}

#[test]
fn gradients_are_those_of_the_cpu() {
    MODELS.iter().for_each(|name| agrees(name, |_| ()));
}

#[test]
fn clipped_queries_keys_and_values_have_no_gradient_beyond() {
    let clip = |model: &mut Model| {
        for layer in &mut model.transformer.layers {
            layer.attention.clip = Some(0.25);
        }
    };
    agrees("small/llama-biases", clip);
    agrees("small/qwen3", clip);
}

#[test]
fn a_text_has_the_same_bits_alone_and_in_a_batch() {
    for name in ["small/gpt2", "small/qwen3"] {
        let folder = reference(name).unwrap();
        let batch = texts(&folder);
        for precision in [Precision::F32, Precision::Bf16] {
            let model = moved(load(&folder, precision));
            let (losses, together) = gradients(&model, &batch);
            let mut alone = Each::new();
            for (document, rows) in batch.offsets().windows(2).enumerate() {
                let text = Batch::of(&batch.ids()[rows[0] as usize..rows[1] as usize]);
                let (of_text, each) = gradients(&model, &text);
                assert_eq!(of_text.documents[0].to_bits(), losses.documents[document].to_bits());
                alone.extend(each.into_iter().map(|(_, name, values)| (document, name, values)));
            }
            alone.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
            let bits = |each: &Each| -> Vec<u32> {
                each.iter().flat_map(|(.., values)| values.iter().map(|value| value.to_bits())).collect()
            };
            assert_eq!(bits(&together), bits(&alone), "{name} {precision:?}");
        }
    }
}

/// What a tap that projects gets of a batch.
#[derive(Default)]
struct Projected {
    version: Arc<()>,
    modules: Vec<(usize, [usize; 2], Vec<f32>, Vec<f32>)>,
    width: usize,
    rows: Vec<f32>,
}

const P: usize = 3;
const Q: usize = 5;

impl Projected {
    fn of(model: &Model) -> Self {
        let mut projected = Self::default();
        let mut state = 1_u32;
        for parameter in model.parameters().filter(|parameter| is_weight(parameter)) {
            let [outputs, inputs] = parameter.sides();
            let mut side = |rows: usize, columns: usize| -> Vec<f32> {
                let mut next = || {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    // In bf16, too, these are what they are.
                    if state >> 31 == 0 { 0.5 } else { -0.25 }
                };
                (0..rows * columns).map(|_| next()).collect()
            };
            let (left, right) = (side(P, outputs), side(Q, inputs));
            projected.modules.push((parameter.index(), [outputs, inputs], left, right));
        }
        // Something between rows' parts is left as it is.
        projected.width = projected.modules.len() * P * Q;
        projected
    }
}

fn is_weight(parameter: &Parameter) -> bool {
    of_layers(parameter) && parameter.shape().len() == 2
}

impl Tap for Projected {
    fn wants(&self, parameter: &Parameter) -> bool {
        is_weight(parameter)
    }

    fn take(&mut self, _: Compute<'_>, gradient: &Gradient<'_>) -> Result<()> {
        panic!("{} was projected", gradient.parameter().name())
    }

    fn projections(&self) -> Option<Projections<'_>> {
        let each = self.modules.iter().enumerate();
        let modules = each.map(|(number, (parameter, _, left, right))| Projection {
            parameter: *parameter,
            p: P,
            q: Q,
            offset: number * P * Q,
            left,
            right,
        });
        Some(Projections { version: &self.version, width: self.width, modules: modules.collect() })
    }

    fn take_projected(&mut self, rows: Vec<f32>) -> Result<()> {
        self.rows = rows;
        Ok(())
    }
}

/// L·g·Rᵀ of gradients that are written out.
fn by_hand(projected: &Projected, model: &Model, each: &Each, documents: usize) -> Vec<f64> {
    let mut rows = vec![0.0; documents * projected.width];
    for (document, name, gradient) in each {
        let parameter = model.parameters().find(|parameter| parameter.name() == name).unwrap();
        let place = projected.modules.iter().position(|module| module.0 == parameter.index());
        let Some(number) = place else { continue };
        let (_, [outputs, inputs], left, right) = &projected.modules[number];
        let element = |output: usize, input: usize| match parameter.is_transposed() {
            true => gradient[input * outputs + output],
            false => gradient[output * inputs + input],
        };
        for p in 0..P {
            for q in 0..Q {
                let mut sum = 0.0;
                for output in 0..*outputs {
                    for input in 0..*inputs {
                        let sides = f64::from(left[p * outputs + output]) * f64::from(right[q * inputs + input]);
                        sum += sides * f64::from(element(output, input));
                    }
                }
                rows[document * projected.width + (number * P + p) * Q + q] = sum;
            }
        }
    }
    rows
}

fn project(model: &Model, batch: &Batch, tap: &mut Projected) {
    let weights = token_weights(batch, Reduction::Mean, |_, token| token % 5 != 4);
    let loss = Loss::Tokens(TokenLoss { weights: &weights, targets: None });
    Backward::new(model).unwrap().run(ALONE, batch, loss, tap).unwrap();
}

#[test]
fn projections_are_made_on_the_device_with_sides_of_any_version() {
    for name in ["small/gpt2", "small/neox-sequential", "small/llama-biases"] {
        let folder = reference(name).unwrap();
        let batch = texts(&folder);
        for (precision, tolerance) in [(Precision::F32, 2e-5), (Precision::Bf16, 0.01)] {
            let model = moved(load(&folder, precision));
            let (_, each) = gradients(&model, &batch);
            let mut tap = Projected::of(&model);
            for round in 0..2 {
                project(&model, &batch, &mut tap);
                let expected = by_hand(&tap, &model, &each, batch.documents());
                let largest = expected.iter().fold(0_f64, |most, value| most.max(value.abs()));
                for (got, expected) in tap.rows.iter().zip(&expected) {
                    let off = (f64::from(*got) - expected).abs() / largest;
                    assert!(off <= tolerance, "{name} {precision:?} round {round}: {got} and {expected}");
                }
                assert_eq!(tap.rows.len(), expected.len());
                // Other sides are another version, and are uploaded.
                tap.modules.iter_mut().for_each(|(_, _, left, _)| left.iter_mut().for_each(|value| *value = -*value));
                tap.version = Arc::new(());
            }
        }
    }
}

/// Memory falls short of what all layers' results take: fewer are kept, and the gradients have the same bits; where not even one fits, that is the error.
#[test]
fn too_little_memory_keeps_fewer_results() {
    fn run<T: Float>(folder: &Path, limit: Option<usize>, is_first: bool) -> (Result<Vec<u32>>, usize, usize) {
        let single = load(folder, Precision::F32);
        let batch = texts(folder);
        let weights = token_weights(&batch, Reduction::Mean, |_, _| true);
        let device = Device::new(limit.map_or_else(ShimDevice::default, ShimDevice::with_memory));
        let uploaded = Weights::<T>::upload(&device, &single.transformer, &single.head).unwrap();
        let of_weights = device.memory();
        let mut model = OnDevice::new(device.clone(), uploaded);
        // What a smaller batch leaves, all its results, is not in the way of the larger one.
        let first = Batch::of(&batch.ids()[..8]);
        let mut nothing = DocumentGradients::new(is_weight, |_, _, _| Ok(()));
        let few = TokenLoss { weights: &weights[..8], targets: None };
        if !is_first {
            let _fits = model.differentiate(ALONE, &first, few, &mut nothing);
        }
        let mut bits = Vec::new();
        let mut tap = DocumentGradients::new(is_weight, |_, _, gradient| {
            bits.extend(gradient.iter().map(|value| value.to_bits()));
            Ok(())
        });
        let loss = TokenLoss { weights: &weights, targets: None };
        let ran = model.differentiate(ALONE, &batch, loss, &mut tap);
        let used = device.memory();
        model.release();
        assert_eq!(device.memory(), of_weights);
        (ran.map(|_| bits), of_weights, used)
    }
    let folder = reference("small/qwen3").unwrap();
    let (expected, of_weights, used) = run::<bf16>(&folder, None, true);
    let expected = expected.unwrap();
    let mut fitted = 0;
    for share in [95, 90, 85, 80, 75, 70, 60, 40, 20] {
        let limit = of_weights + (used - of_weights) * share / 100;
        let later = run::<bf16>(&folder, Some(limit), false).0;
        let ran = run::<bf16>(&folder, Some(limit), true).0;
        assert_eq!(later.is_ok(), ran.is_ok(), "with {share} % of the memory, behind a smaller batch");
        match ran {
            Ok(bits) => {
                assert!(bits == expected, "with {share} % of the memory");
                fitted += 1;
            }
            Err(error) => assert!(error.is_out_of_memory(), "{error}"),
        }
    }
    assert!((1..9).contains(&fitted), "{fitted} of them fitted");
}

#[test]
fn what_is_drawn_is_what_the_cpu_draws() {
    let folder = reference("small/gpt2").unwrap();
    let batch = texts(&folder);
    let draw = |model: &Model| drawn_targets(model, ALONE, &batch, 7, &[4, 5, 6]).unwrap();
    assert_eq!(draw(&moved(load(&folder, Precision::F32))), draw(&load(&folder, Precision::F32)));
}

#[test]
fn what_a_device_does_not_differentiate_is_refused() {
    let folder = reference("small/llama-biases").unwrap();
    let model = moved(load(&folder, Precision::F32));
    let batch = Batch::of(&[1, 2, 3]);
    let weights = [1.0; 3];
    let refusal = |model: &Model, loss: Loss<'_>, wants: fn(&Parameter) -> bool| {
        let mut tap = DocumentGradients::new(wants, |_, _, _| Ok(()));
        match Backward::new(model).unwrap().run(ALONE, &batch, loss, &mut tap) {
            Err(ModelError::NotOnDevice { what }) => what.to_owned(),
            other => panic!("{other:?}"),
        }
    };
    let loss = Loss::Tokens(TokenLoss { weights: &weights, targets: None });
    assert_eq!(refusal(&model, loss, |_| true), "gradients of norms, embeddings and heads");
    let classifier = reference("small/roberta-classifier").unwrap();
    let classifier = moved(load(&classifier, Precision::F32));
    assert_eq!(refusal(&classifier, Loss::Labels(&[0]), is_weight), "gradients of classifiers");

    // Nothing wanted: losses alone. No text: nothing.
    let mut nothing = DocumentGradients::new(|_| false, |_, _, _| panic!("nothing is wanted"));
    let losses = Backward::new(&model).unwrap().run(ALONE, &batch, loss, &mut nothing).unwrap();
    let expected = model.token_losses(ALONE, &batch).unwrap().unwrap();
    assert_eq!(losses.tokens, expected);
    let empty = Loss::Tokens(TokenLoss { weights: &[], targets: None });
    let losses = Backward::new(&model).unwrap().run(ALONE, &Batch::default(), empty, &mut nothing).unwrap();
    assert_eq!(losses, Losses::default());
}

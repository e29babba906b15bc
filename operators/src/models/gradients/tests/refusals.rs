//! Documents without targets, and what is refused.

use super::{
    ALONE, Backward, Loss, ParameterGradients, Reduction, Target, TokenLoss, load, reference, summed, token_weights,
};
use crate::Resources;
use crate::models::gradients::{DocumentNorms, Gradient, Tap};
use crate::models::{AdapterOptions, Apply, Batch, Compute, LoadOptions, Model, ModelError, Parameter, Result};

fn batch(documents: &[&[u32]]) -> Batch {
    let mut batch = Batch::default();
    documents.iter().for_each(|document| batch.push(document));
    batch
}

#[test]
fn documents_without_targets_have_gradients_of_zero_and_are_counted() {
    let model = load(&reference("small/qwen3").unwrap());
    let texts = batch(&[&[], &[5], &[6, 7, 8], &[9, 10]]);
    let mut weights = token_weights(&texts, Reduction::Mean, |_, _| true);
    weights[5] = 0.0;
    // That of a first token is not read.
    weights[1] = f32::NAN;
    let target = Target::Tokens(weights);
    let mut norms = DocumentNorms::new(|_| true);
    let mut backward = Backward::new(&model).unwrap();
    let losses = backward.run(ALONE, &texts, target.loss(), &mut norms).unwrap();
    assert_eq!(losses.targets, [0, 0, 2, 0]);
    assert_eq!(losses.without_targets(), 3);
    assert!(losses.documents[2] > 0.0);
    for (parameter, norms) in norms.iter() {
        assert!(
            norms[0] == 0.0 && norms[1] == 0.0 && norms[2] > 0.0 && norms[3] == 0.0,
            "{} {norms:?}",
            parameter.name()
        );
    }
    for texts in [batch(&[]), batch(&[&[]]), batch(&[&[5], &[]])] {
        let (losses, gradients) = summed(&model, &texts, &Target::of(&model, &texts));
        assert_eq!(losses.without_targets(), texts.documents());
        assert!(gradients.iter().all(|(_, gradient)| gradient.iter().all(|&value| value == 0.0)));
    }
    let model = load(&reference("small/distilbert-classifier").unwrap());
    let texts = batch(&[&[], &[5, 6]]);
    let mut norms = DocumentNorms::new(|_| true);
    let losses = Backward::new(&model).unwrap().run(ALONE, &texts, Loss::Labels(&[0, 1]), &mut norms).unwrap();
    assert_eq!((losses.targets, losses.documents[0]), (vec![0, 1], 0.0));
    assert!(norms.iter().all(|(_, norms)| norms[0] == 0.0));
}

#[test]
fn tokens_may_be_predicted_that_are_not_there() {
    let model = load(&reference("small/gpt2").unwrap());
    let texts = batch(&[&[5, 6, 7]]);
    let weights = token_weights(&texts, Reduction::Sum, |_, _| true);
    let run = |targets: Option<&[u32]>| {
        let loss = Loss::Tokens(TokenLoss { weights: &weights, targets });
        let mut nothing = ParameterGradients::new(|_| false);
        Backward::new(&model).unwrap().run(ALONE, &texts, loss, &mut nothing).unwrap().documents[0]
    };
    assert_eq!(run(None), run(Some(&[0, 6, 7])));
    // The logits of each position say what other tokens cost.
    let logits = model.logits(ALONE, &texts).unwrap().unwrap();
    let cost = |row: usize, id: usize| {
        let row = &logits[row * model.vocabulary()..(row + 1) * model.vocabulary()];
        row.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln() - f64::from(row[id])
    };
    assert!((run(Some(&[0, 9, 11])) - cost(0, 9) - cost(1, 11)).abs() < 1e-5);
}

#[test]
fn the_deltas_of_a_head_make_its_gradient() {
    struct Product(Vec<f32>);
    impl Tap for Product {
        fn wants(&self, parameter: &Parameter) -> bool {
            parameter.name() == "lm_head.weight"
        }

        fn take(&mut self, _: Compute<'_>, gradient: &Gradient<'_>) -> Result<()> {
            let Gradient::Table(table) = gradient else { panic!("a head is a table") };
            assert!(table.lookups.is_none());
            let head = table.head.as_ref().unwrap();
            let [vocabulary, width] = table.parameter.shape() else { panic!("a table") };
            self.0.resize(vocabulary * width, 0.0);
            let mut delta = vec![0.0; *vocabulary];
            for (row, state) in head.states.chunks_exact(*width).enumerate() {
                head.delta(row..row + 1, &mut delta)?;
                for (delta, to) in delta.iter().zip(self.0.chunks_exact_mut(*width)) {
                    to.iter_mut().zip(state).for_each(|(to, state)| *to += delta * state);
                }
            }
            Ok(())
        }
    }
    let model = load(&reference("small/llama-yarn").unwrap());
    let texts = batch(&[&[5, 6, 7, 8], &[9], &[9, 10, 11]]);
    let target = Target::of(&model, &texts);
    let mut product = Product(Vec::new());
    Backward::new(&model).unwrap().run(ALONE, &texts, target.loss(), &mut product).unwrap();
    let (_, all) = summed(&model, &texts, &target);
    assert!(super::off(&product.0, all.get("lm_head.weight").unwrap()) < 1e-6);
}

#[test]
fn what_cannot_be_differentiated_is_refused_by_name() {
    let folder = reference("small/llama-yarn").unwrap();
    let (plain, _) = Model::load(&folder.to_string_lossy(), &Resources::local(), LoadOptions::default()).unwrap();
    let error = Backward::new(&plain).unwrap_err();
    assert!(matches!(error, ModelError::WithoutGradients));
    assert!(error.to_string().contains("gradients: true"), "{error}");

    let options = LoadOptions { gradients: true, four_bits: true, ..LoadOptions::default() };
    let error = Model::load(&folder.to_string_lossy(), &Resources::local(), options).unwrap_err().to_string();
    assert!(error.contains("gradients are asked for, and weights in four bits have none"), "{error}");
    if let (Some(llama), Some(lora)) = (reference("llama"), reference("llama/lora")) {
        let adapter = tempfile::tempdir().unwrap();
        for (from, to) in
            [("adapter_config.json", "adapter_config.json"), ("adapter_final.safetensors", "adapter_model.safetensors")]
        {
            std::fs::copy(lora.join(from), adapter.path().join(to)).unwrap();
        }
        let location = adapter.path().to_string_lossy();
        let load = |apply| {
            let options = LoadOptions { gradients: true, ..LoadOptions::default() };
            let adapter = Some(AdapterOptions { location: &location, apply });
            Model::load_adapted(&llama.to_string_lossy(), adapter, &Resources::local(), options)
        };
        let error = load(Apply::Beside).unwrap_err().to_string();
        assert!(error.contains("an adapter beside the weights"), "{error}");
        // Merged it is a part of the weights, whose gradients have the model's own names.
        let (merged, own) = (load(Apply::Merged).unwrap().0, super::load(&llama));
        assert!(merged.parameters().eq(own.parameters()));
    }

    let (model, classifier) = (load(&folder), load(&reference("small/roberta-classifier").unwrap()));
    let texts = batch(&[&[5, 6, 7], &[8, 9]]);
    let tokens = |weights, targets| Loss::Tokens(TokenLoss { weights, targets });
    let weights = [0.0, 1.0, 1.0, 0.0, 1.0];
    let wrong = [0.0, 1.0, 1.0, 0.0, f32::INFINITY];
    for (model, loss, expected) in [
        (&model, tokens(&weights[..4], None), "weights of tokens: 4 were given, and 5 are expected"),
        (&model, tokens(&weights, Some(&[0, 1, 2])), "targets: 3 were given, and 5 are expected"),
        (&model, tokens(&weights, Some(&[0, 1, 64, 3, 4])), "target at 2 is 64, and an id below 64"),
        (&model, tokens(&wrong, None), "the loss of document 1 of the batch is inf"),
        (
            &model,
            Loss::Labels(&[0, 1]),
            "a loss of labels is asked for, and the model llama has the head of a language model",
        ),
        (
            &classifier,
            tokens(&weights, None),
            "a loss of tokens is asked for, and the model roberta has the head of a classifier",
        ),
        (&classifier, Loss::Labels(&[0]), "labels: 1 were given, and 2 are expected"),
        (&classifier, Loss::Labels(&[0, 3]), "label of document at 1 is 3, and a number below 3"),
        (&classifier, Loss::MultiLabel(&[0.0; 5]), "values of labels: 5 were given, and 6 are expected"),
        (
            &classifier,
            Loss::Regression(&[0.0, 0.0, 0.0, f32::NAN, 0.0, 0.0]),
            "the loss of document 1 of the batch is NaN",
        ),
    ] {
        let mut norms = DocumentNorms::new(|_| true);
        let error = Backward::new(model).unwrap().run(ALONE, &texts, loss, &mut norms).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(norms.iter().count(), 0, "the tap has seen nothing");
    }
    let unknown = batch(&[&[5, 64]]);
    let target = Target::of(&model, &unknown);
    let error = Backward::new(&model).unwrap().run(ALONE, &unknown, target.loss(), &mut DocumentNorms::new(|_| true));
    assert!(error.unwrap_err().to_string().contains("token id at 1 is 64"));
}

#[test]
fn what_a_tap_reports_ends_the_pass() {
    struct Full(usize);
    impl Tap for Full {
        fn wants(&self, _: &Parameter) -> bool {
            true
        }

        fn take(&mut self, _: Compute<'_>, _: &Gradient<'_>) -> Result<()> {
            self.0 += 1;
            if self.0 == 3 { Err(ModelError::Tap("the disk is full".into())) } else { Ok(()) }
        }
    }
    let model = load(&reference("small/gpt2").unwrap());
    let texts = batch(&[&[5, 6, 7]]);
    let mut tap = Full(0);
    let target = Target::of(&model, &texts);
    let error = Backward::new(&model).unwrap().run(ALONE, &texts, target.loss(), &mut tap).unwrap_err();
    assert_eq!((error.to_string().as_str(), tap.0), ("a gradient could not be taken: the disk is full", 3));
}

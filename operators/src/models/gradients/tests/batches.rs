//! The bits of a document's gradients, in whatever batch, on whatever threads, and however much is kept.

use gristmill_kernels::workers::Threads;

use super::{
    ALONE, Backward, Each, Loss, ParameterGradients, Reduction, Target, TokenLoss, each, load, models, packed, summed,
    texts, token_weights,
};
use crate::models::gradients::{Gradient, Tap};
use crate::models::{Batch, Compute, Parameter, ParameterKind, Result};

fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

fn assert_same(what: &str, a: &Each, b: &Each) {
    assert_eq!(a.len(), b.len(), "{what}");
    for ((d, name, a), (e, other, b)) in a.iter().zip(b) {
        assert_eq!((d, name), (e, other), "{what}");
        assert!(same(a, b), "{what}: {name} of document {d}");
    }
}

#[test]
fn documents_have_the_same_bits_alone_and_in_a_batch_on_threads_and_with_layers_kept() {
    for (name, folder) in models() {
        let model = load(&folder);
        let texts = texts(&folder);
        let batch = packed(&texts);
        let target = Target::of(&model, &batch);
        let mut backward = Backward::new(&model).unwrap();
        let together = each(&mut backward, ALONE, &batch, &target);
        // In memory that other batches have used.
        assert_same(&format!("{name} again"), &each(&mut backward, ALONE, &batch, &target), &together);
        for threads in [2, 4] {
            let workers = Threads::new(threads);
            let compute = Compute { workers: &workers, threads };
            let what = format!("{name} on {threads} threads");
            assert_same(&what, &each(&mut backward, compute, &batch, &target), &together);
        }
        let mut kept = Backward::new(&model).unwrap().with_kept_bytes(usize::MAX);
        assert_same(&format!("{name} with all kept"), &each(&mut kept, ALONE, &batch, &target), &together);
        for (document, text) in texts.iter().enumerate() {
            let batch = Batch::of(text);
            let target = Target::of_documents(&model, &batch, document..document + 1);
            let alone = each(&mut backward, ALONE, &batch, &target);
            let of_document: Each = together
                .iter()
                .filter(|(d, ..)| *d == document)
                .map(|(_, name, gradient)| (0, name.clone(), gradient.clone()))
                .collect();
            assert_same(&format!("{name}, document {document} alone"), &alone, &of_document);
        }
    }
}

#[test]
fn sums_do_not_depend_on_batches_and_are_those_of_documents() {
    for (name, folder) in models() {
        let model = load(&folder);
        let texts = texts(&folder);
        let batch = packed(&texts);
        let (losses, at_once) = summed(&model, &batch, &Target::of(&model, &batch));
        let mut apart = ParameterGradients::new(|_| true);
        let mut backward = Backward::new(&model).unwrap();
        let mut found = Vec::new();
        for (first, texts) in texts.chunks(3).enumerate() {
            let batch = packed(texts);
            let target = Target::of_documents(&model, &batch, 3 * first..3 * first + texts.len());
            found.extend(backward.run(ALONE, &batch, target.loss(), &mut apart).unwrap().documents);
        }
        assert_eq!(found, losses.documents, "{name}");
        for (parameter, gradient) in at_once.iter() {
            assert!(same(gradient, apart.get(parameter.name()).unwrap()), "{name} {}", parameter.name());
        }
        apart.clear();
        assert!(apart.iter().all(|(_, gradient)| gradient.iter().all(|&value| value == 0.0)));
    }
}

#[test]
fn losses_are_those_of_the_model_and_tokens_add_up_to_documents() {
    for (name, folder) in models() {
        let model = load(&folder);
        let batch = packed(&texts(&folder));
        let Some(expected) = model.token_losses(ALONE, &batch).unwrap() else { continue };
        let weights = token_weights(&batch, Reduction::Sum, |_, _| true);
        let (losses, whole) = summed(&model, &batch, &Target::Tokens(weights));
        assert!(same(&losses.tokens, &expected), "{name}");
        // Each token alone, and their sum: as per-token gradients add up to the document's.
        let weight =
            whole.iter().find(|(parameter, _)| parameter.kind() == ParameterKind::Linear).unwrap().0.name().to_owned();
        let mut parts = ParameterGradients::new(move |parameter| parameter.name() == weight);
        let mut backward = Backward::new(&model).unwrap();
        for token in 1..20 {
            let one = token_weights(&batch, Reduction::Mean, |_, number| number == token);
            let loss = Loss::Tokens(TokenLoss { weights: &one, targets: None });
            backward.run(ALONE, &batch, loss, &mut parts).unwrap();
        }
        let long = token_weights(&batch, Reduction::Sum, |_, number| number >= 20);
        let loss = Loss::Tokens(TokenLoss { weights: &long, targets: None });
        backward.run(ALONE, &batch, loss, &mut parts).unwrap();
        let (parameter, sum) = parts.iter().next().unwrap();
        let off = super::off(sum, whole.get(parameter.name()).unwrap());
        assert!(off <= 1e-5, "{name}: {off}");
    }
}

/// What is asked for, and what came in which order.
struct Recorded {
    wanted: Vec<&'static str>,
    came: Vec<String>,
    inputs: Option<Vec<f32>>,
    wants_inputs: bool,
}

impl Tap for Recorded {
    fn wants(&self, parameter: &Parameter) -> bool {
        self.wanted.iter().any(|wanted| parameter.name().contains(wanted))
    }

    fn take(&mut self, _: Compute<'_>, gradient: &Gradient<'_>) -> Result<()> {
        self.came.push(gradient.parameter().name().to_owned());
        Ok(())
    }

    fn wants_inputs(&self) -> bool {
        self.wants_inputs
    }

    fn take_inputs(&mut self, _: Compute<'_>, delta: &[f32], _: &[i64]) -> Result<()> {
        self.inputs = Some(delta.to_vec());
        Ok(())
    }
}

#[test]
fn what_is_wanted_comes_from_the_last_layer_to_the_first_with_the_same_bits_whatever_else_is_wanted() {
    for (name, folder) in models() {
        let model = load(&folder);
        let batch = packed(&texts(&folder));
        let target = Target::of(&model, &batch);
        let (_, all) = summed(&model, &batch, &target);
        let mut backward = Backward::new(&model).unwrap();
        for parameter in model.parameters() {
            let wanted = parameter.name().to_owned();
            let mut one = ParameterGradients::new(move |parameter| parameter.name() == wanted);
            backward.run(ALONE, &batch, target.loss(), &mut one).unwrap();
            assert_eq!(one.iter().count(), 1, "{name} {}", parameter.name());
            let (got, expected) = (one.get(parameter.name()).unwrap(), all.get(parameter.name()).unwrap());
            assert!(same(got, expected), "{name} {} alone", parameter.name());
        }
        let mut recorded = Recorded { wanted: vec![""], came: Vec::new(), inputs: None, wants_inputs: true };
        backward.run(ALONE, &batch, target.loss(), &mut recorded).unwrap();
        assert_eq!(recorded.came.len(), model.parameters().len(), "{name}");
        let layer_of = |name: &str| name.split('.').find_map(|part| part.parse::<usize>().ok());
        let layers: Vec<usize> = recorded.came.iter().filter_map(|name| layer_of(name)).collect();
        assert!(layers.is_sorted_by(|a, b| a >= b), "{name}: {layers:?}");
        // The gradient of the inputs, put into the rows of the tokens, is that of the embeddings where they are no head.
        let inputs = recorded.inputs.unwrap();
        assert_eq!(inputs.len(), batch.tokens() * model.hidden_size());
        let other = ["position", "type", "wpe", "rel_"];
        let table = model.parameters().find(|parameter| {
            parameter.kind() == ParameterKind::Embedding && !other.iter().any(|other| parameter.name().contains(other))
        });
        let tied =
            !model.parameters().any(|parameter| parameter.kind() == ParameterKind::Head) && model.is_language_model();
        let width = model.hidden_size();
        // Tables of another width are read through a layer.
        let table = table.filter(|table| table.shape()[1] == width);
        if let (Some(table), false) = (table, tied) {
            let mut sum = vec![0.0; table.elements()];
            for (&id, row) in batch.ids().iter().zip(inputs.chunks_exact(width)) {
                sum[id as usize * width..(id as usize + 1) * width].iter_mut().zip(row).for_each(|(a, b)| *a += b);
            }
            assert!(same(&sum, all.get(table.name()).unwrap()), "{name}");
        }
        let mut none = Recorded { wanted: Vec::new(), came: Vec::new(), inputs: None, wants_inputs: false };
        backward.run(ALONE, &batch, target.loss(), &mut none).unwrap();
        assert!(none.came.is_empty() && none.inputs.is_none());
    }
}

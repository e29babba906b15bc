//! The bits of rows in whatever batch and on whatever threads, tokens, and what is refused.

use gristmill_kernels::workers::Threads;

use super::super::{NormsOf, SignSource};
use super::*;

#[test]
fn rows_have_the_same_bits_alone_in_any_batch_and_order_and_on_threads() {
    for (name, folder) in models() {
        let model = load(&folder);
        let texts = Expected::of(&folder).texts();
        let batch = packed(&texts);
        let target = Target::of(&model, &batch);
        let mut backward = Backward::new(&model).unwrap();
        for dimension in [0, 16] {
            let Ok(sketch) = Sketch::new(&model, &wide_enough(&model, dimension)) else { continue };
            let mut projector = Projector::new(&sketch).with_norms(NormsOf::Modules);
            run(&mut backward, ALONE, &batch, &target, &mut projector);
            let together = projector.rows().to_vec();
            let norms: Vec<Vec<f64>> = (0..texts.len()).map(|d| projector.module_norms(d).collect()).collect();
            for threads in [2, 3] {
                let workers = Threads::new(threads);
                run(&mut backward, Compute { workers: &workers, threads }, &batch, &target, &mut projector);
                assert!(same(projector.rows(), &together), "{name} on {threads} threads");
            }
            let of = |document: usize| match &target {
                Target::Labels(labels) => labels[document],
                Target::Tokens(_) => 0,
            };
            // Backwards, in pairs, in memory that larger batches have used.
            let order: Vec<usize> = (0..texts.len()).rev().collect();
            for pair in order.chunks(2) {
                let batch = packed(&pair.iter().map(|&document| texts[document].clone()).collect::<Vec<_>>());
                let target = match target {
                    Target::Labels(_) => Target::Labels(pair.iter().map(|&document| of(document)).collect()),
                    Target::Tokens(_) => Target::of(&model, &batch),
                };
                run(&mut backward, ALONE, &batch, &target, &mut projector);
                for (place, &document) in pair.iter().enumerate() {
                    let width = sketch.width();
                    let what = format!("{name} with {dimension}, document {document}");
                    assert!(same(projector.row(place), &together[document * width..(document + 1) * width]), "{what}");
                    assert!(projector.module_norms(place).eq(norms[document].iter().copied()), "{what}: norms");
                }
            }
        }
    }
}

#[test]
fn tokens_sum_to_documents() {
    for name in ["small/gpt2", "small/qwen3", "llama", "small/neox-sequential"] {
        let folder = reference(name).unwrap();
        let model = load(&folder);
        let batch = packed(&Expected::of(&folder).texts());
        let target = Target::of(&model, &batch);
        let mut backward = Backward::new(&model).unwrap();
        for dimension in [0, 8] {
            let modules = Modules { include: vec!["*.1.*".to_owned()], exclude: Vec::new() };
            let sketch = Sketch::new(&model, &SketchSpec { modules, ..of_dimension(dimension) }).unwrap();
            let mut documents = Projector::new(&sketch);
            run(&mut backward, ALONE, &batch, &target, &mut documents);
            let mut tokens = Projector::new(&sketch).with_rows(RowsOf::Tokens);
            run(&mut backward, ALONE, &batch, &target, &mut tokens);
            assert_eq!(tokens.count(), batch.tokens());
            for (document, place) in batch.offsets().windows(2).enumerate() {
                let place = place[0] as usize..place[1] as usize;
                let mut sum = vec![0.0; sketch.width()];
                for token in place.clone() {
                    sum.iter_mut().zip(tokens.row(token)).for_each(|(sum, &value)| *sum += f64::from(value));
                }
                let off = off(documents.row(document), &sum);
                assert!(off <= 1e-5, "{name} with {dimension}, document {document}: {off:e}");
                // Nothing is predicted from the last token.
                assert!(tokens.row(place.end - 1).iter().all(|&value| value == 0.0), "{name}");
            }
        }
    }
}

#[test]
fn documents_without_targets_have_rows_of_zeros() {
    let folder = reference("small/gpt2").unwrap();
    let model = load(&folder);
    let sketch = Sketch::new(&model, &of_dimension(8)).unwrap();
    let mut batch = Batch::default();
    batch.push(&[5]);
    batch.push(&[5, 6, 7]);
    batch.push(&[8]);
    let target = Target::of(&model, &batch);
    let mut projector = Projector::new(&sketch).with_norms(NormsOf::Modules);
    let losses = run(&mut Backward::new(&model).unwrap(), ALONE, &batch, &target, &mut projector);
    assert_eq!(losses.targets, [0, 2, 0]);
    for (document, zero) in [(0, true), (1, false), (2, true)] {
        assert_eq!(projector.row(document).iter().all(|&value| value == 0.0), zero);
        assert_eq!(projector.norm(document).unwrap() == 0.0, zero);
        assert!(projector.not_finite(document).is_none());
    }
}

#[test]
fn a_batch_that_nothing_was_prepared_for_is_an_error() {
    let folder = reference("small/gpt2").unwrap();
    let model = load(&folder);
    let sketch = Sketch::new(&model, &of_dimension(8)).unwrap();
    let batch = Batch::of(&[5, 6, 7]);
    let target = Target::of(&model, &batch);
    let mut projector = Projector::new(&sketch);
    let error = Backward::new(&model).unwrap().run(ALONE, &batch, target.loss(), &mut projector).unwrap_err();
    assert!(error.to_string().contains("there is room for 0 and 0"), "{error}");
}

#[test]
fn projections_that_a_layer_has_not_the_size_for_are_refused_by_name() {
    let folder = reference("small/gpt2").unwrap();
    let model = load(&folder);
    let error = |spec: SketchSpec| Sketch::new(&model, &spec).unwrap_err();
    let least = Modules::default().of(&model).unwrap().iter().flat_map(|(_, p)| p.sides()).min().unwrap();
    assert!(least < 128);
    let message = error(of_dimension(least + 1));
    assert!(message.contains("the layer ") && message.contains(&format!("at most {least} are allowed")), "{message}");
    for dimension in [1, 3, 129] {
        assert_eq!(
            error(of_dimension(dimension)),
            format!("a projection of {dimension} rows; 4 to 128 are allowed, and 0 for none")
        );
    }
    let modules = Modules { include: vec!["nothing.*".to_owned()], exclude: Vec::new() };
    assert!(error(SketchSpec { modules, ..of_dimension(4) }).contains("no linear layer matches"));
    let spec = SketchSpec { signs: SignSource::Bergson026, seed: 1, ..of_dimension(4) };
    assert_eq!(error(spec), "signs of bergson-0.26 have no seed, and 1 is given; 0 is allowed");
}

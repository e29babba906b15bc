//! Likelihoods of choices against those that lm-eval's rules gave with transformers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;

use serde_json::Value;

use super::tests::{ALONE, Expected, load, reference};
use super::{Batch, Choice, Likelihood};

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The number of the largest, the first of equal ones.
fn largest(values: impl Iterator<Item = f64>) -> u64 {
    let mut best = (0, f64::NEG_INFINITY);
    for (number, value) in (0..).zip(values) {
        if value > best.1 {
            best = (number, value);
        }
    }
    best.0
}

#[test]
fn choices_are_those_of_the_references() {
    for name in ["llama", "gpt-neox"] {
        let Some(folder) = reference(name) else { continue };
        // Too large to be among the fixtures.
        let data = std::env::var_os("GRISTMILL_DATA").map_or_else(|| PathBuf::from("../../shared/data"), PathBuf::from);
        let path = data.join("reference").join(name).join("scoring.json");
        let Ok(bytes) = std::fs::read(&path) else {
            println!("skipped: there is no {}", path.display());
            continue;
        };
        let model = load(&folder, "config.json");
        let scoring: Value = serde_json::from_slice(&bytes).unwrap();
        let questions = scoring["multiple_choice"]["questions"].as_array().unwrap();
        let pairs = scoring["pairs"]["rows"].as_array().unwrap();
        let requests: Vec<&Value> = questions
            .iter()
            .flat_map(|question| question["choices"].as_array().unwrap())
            .chain(pairs.iter().flat_map(|pair| [&pair["good"], &pair["bad"]]))
            .collect();
        let texts: Vec<_> =
            requests.iter().map(|request| (ids(&request["context_ids"]), ids(&request["continuation_ids"]))).collect();
        let choices: Vec<Choice<'_>> =
            texts.iter().map(|(context, continuation)| Choice { context, continuation }).collect();
        let got = model.likelihoods(ALONE, &choices, 2048).unwrap().unwrap();
        let mut most = 0_f64;
        for (got, request) in got.iter().zip(&requests) {
            let off = (got.log_likelihood - request["logprob"].as_f64().unwrap()).abs();
            most = most.max(off);
            assert!(off <= 1e-4, "{name}: {off}");
            assert_eq!(got.greedy, request["greedy"].as_bool().unwrap());
        }
        println!("{name}: {} log-likelihoods differ by {most:e} at most", requests.len());
        let mut rest = got.iter();
        for question in questions {
            let choices = question["choices"].as_array().unwrap();
            let likelihoods: Vec<f64> = rest.by_ref().take(choices.len()).map(|got| got.log_likelihood).collect();
            let by = |count: &dyn Fn(&Value) -> usize| {
                largest(likelihoods.iter().zip(choices).map(|(likelihood, choice)| likelihood / count(choice) as f64))
            };
            assert_eq!(largest(likelihoods.iter().copied()), question["argmax"].as_u64().unwrap());
            let tokens = by(&|choice| choice["continuation_ids"].as_array().unwrap().len());
            assert_eq!(tokens, question["argmax_per_token"].as_u64().unwrap());
        }
        for pair in pairs {
            let (good, bad) = (rest.next().unwrap(), rest.next().unwrap());
            assert_eq!(good.log_likelihood > bad.log_likelihood, pair["correct"].as_bool().unwrap());
        }
        // Budgets change nothing, and a choice alone has the same bits.
        for budget in [1, 7, 100] {
            assert_eq!(model.likelihoods(ALONE, &choices, budget).unwrap().unwrap(), got, "{name} {budget}");
        }
        for (choice, got) in choices.iter().zip(&got).step_by(9) {
            let alone = model.likelihoods(ALONE, &[*choice], 2048).unwrap().unwrap();
            assert_eq!(&alone[0], got);
        }
    }
}

#[test]
fn a_choice_has_the_losses_of_its_whole_text() {
    let small = ["gpt2", "qwen2-window", "mistral-window", "llama-dynamic", "llama-longrope", "neox-sequential"];
    let large = ["llama", "llama3", "qwen2", "olmo", "olmo2", "gpt-neox"].map(str::to_owned);
    for name in small.map(|name| format!("small/{name}")).into_iter().chain(large) {
        let Some(folder) = reference(&name) else { continue };
        let (model, texts) = (load(&folder, "config.json"), Expected::of(&folder).texts());
        let mut choices = Vec::new();
        let mut expected = Vec::new();
        for text in texts.iter().filter(|text| text.len() > 5) {
            let losses = model.token_losses(ALONE, &Batch::of(text)).unwrap().unwrap();
            // Several contexts of one text, and several continuations of one context.
            for (start, end) in [(1, text.len()), (4, text.len()), (4, 5), (4, 4), (text.len() - 1, text.len())] {
                choices.push(Choice { context: &text[..start], continuation: &text[start..end] });
                let losses = losses[start..end].iter().fold(0.0, |sum, &loss| sum - f64::from(loss));
                // The last token is not read, which matters where embeddings depend on the length.
                let logits = model.logits(ALONE, &Batch::of(&text[..end - 1])).unwrap().unwrap();
                let rows = logits.chunks_exact(model.vocabulary()).zip(&text[1..end]).skip(start - 1);
                let exact = rows.fold(0.0, |sum, (logits, &id)| {
                    let exponentials: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
                    sum + f64::from(logits[id as usize]) - exponentials.ln()
                });
                expected.push((losses, exact));
            }
        }
        let got = model.likelihoods(ALONE, &choices, 50).unwrap().unwrap();
        for ((choice, got), (losses, exact)) in choices.iter().zip(&got).zip(&expected) {
            assert!((got.log_likelihood - exact).abs() <= 2e-5, "{name}: {got:?} {exact}");
            if !model.depends_on_length() {
                assert_eq!(got.log_likelihood.to_bits(), losses.to_bits(), "{name}");
            }
            if choice.continuation.is_empty() {
                assert_eq!(*got, Likelihood { log_likelihood: 0.0, greedy: true });
            }
        }
    }
}

#[test]
fn left_padded_samples_alone_have_the_references_log_probabilities() {
    for name in ["llama", "llama3", "qwen2", "olmo", "olmo2", "gpt-neox"] {
        let Some(folder) = reference(name) else { continue };
        let (model, expected) = (load(&folder, "config.json"), Expected::of(&folder));
        let (texts, left) = (expected.texts(), expected.floats("left_token_logprobs"));
        let (right, last) = (expected.floats("token_logprobs"), expected.floats("left_last_logits"));
        let width = right.len() / texts.len();
        let mut most = 0_f32;
        for (number, text) in texts.iter().enumerate() {
            let losses = model.token_losses(ALONE, &Batch::of(text)).unwrap().unwrap();
            let count = text.len() - 1;
            let right = &right[number * width..number * width + count];
            let left = &left[(number + 1) * width - count..(number + 1) * width];
            for ((loss, right), left) in losses[1..].iter().zip(right).zip(left) {
                most = most.max((loss + right).abs()).max((loss + left).abs());
            }
            let logits = model.next_logits(ALONE, &Batch::of(text)).unwrap().unwrap();
            let last = &last[number * logits.len()..(number + 1) * logits.len()];
            most = logits.iter().zip(last).fold(most, |most, (a, b)| most.max((a - b).abs()));
        }
        println!("{name}: log-probabilities and last logits of padded samples differ by {most:e} at most");
        assert!(most <= 2e-5, "{name}: {most}");
    }
}

#[test]
fn choices_that_do_not_fit_lose_their_beginning_or_are_errors() {
    let folder = reference("llama").unwrap();
    let model = load(&folder, "config.json");
    let most = model.most_positions().unwrap();
    let text: Vec<u32> = (0..2 * most as u32).map(|i| 3 + i * 7 % 1000).collect();
    let score = |context: &[u32], continuation: &[u32]| {
        model.likelihoods(ALONE, &[Choice { context, continuation }], 64).map(|all| all.unwrap()[0])
    };
    let long = score(&text[..most + 20], &text[most + 20..most + 24]).unwrap();
    assert_eq!(long, score(&text[23..most + 20], &text[most + 20..most + 24]).unwrap());
    assert!(long != score(&text[24..most + 20], &text[most + 20..most + 24]).unwrap());
    assert!(score(&text[..1], &text[1..most + 1]).is_ok());
    for (context, continuation, expected) in [
        (&[][..], &text[..2], "number of tokens of context at 0 is 0"),
        (&text[..1], &text[..most + 1], "number of tokens of continuation at 0 is"),
        (&text[..1], &[5, 1024][..], "last token id of continuation at 0 is 1024"),
        (&[1024][..], &[5, 5][..], "token id at 0 is 1024"),
        (&text[..1], &[1024, 5][..], "1024"),
    ] {
        let error = score(context, continuation).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let encoder = load(&reference("bert-classifier").unwrap(), "config.json");
    assert!(encoder.likelihoods(ALONE, &[], 64).unwrap().is_none());
}

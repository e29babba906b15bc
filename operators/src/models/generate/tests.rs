//! Texts against those that transformers wrote, and what they do not depend on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;

use gristmill_kernels::workers::Threads;
use serde_json::Value;

use super::text::Detokenizer;
use super::{Completion, Finish, Generator, Limits, Overflow, Prompt, Sampling, end_tokens};
use crate::Resources;
use crate::models::tests::{ALONE, load, reference};
use crate::models::{Compute, Continuation, Model};
use crate::tokens::Tokenizer;

/// What transformers wrote.
fn expected() -> Value {
    serde_json::from_str(include_str!("cases/generation.json")).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The model's own tokenizer, or any, where a model has none.
fn tokenizer(model: &str) -> Tokenizer {
    let folder = reference(if model.starts_with("small") { "llama" } else { model }).unwrap();
    Tokenizer::load(&folder.to_string_lossy(), &Resources::local()).unwrap().0
}

fn write(model: &Model, tokenizer: &Tokenizer, ends: &[u32], limits: Limits, prompts: &[Prompt]) -> Vec<Completion> {
    let generator = Generator::new(model, tokenizer, ends, limits).unwrap();
    let mut pieces = vec![String::new(); prompts.len()];
    let written = generator.write(ALONE, prompts, |number, piece| pieces[number].push_str(piece)).unwrap();
    let written: Vec<Completion> = written.into_iter().map(Result::unwrap).collect();
    for (completion, pieces) in written.iter().zip(&pieces) {
        assert_eq!(&completion.text, pieces, "pieces together are the text");
    }
    written
}

#[test]
fn greedy_texts_are_those_of_transformers() {
    for (name, case) in expected().as_object().unwrap() {
        let Some(folder) = reference(name) else { continue };
        let (model, tokenizer) = (load(&folder, "config.json"), tokenizer(name));
        let rows = case["rows"].as_array().unwrap();
        let prompts: Vec<Prompt> = rows
            .iter()
            .map(|row| Prompt { log_probabilities: true, ..Prompt::greedy(ids(&row["prompt"]), 20) })
            .collect();
        let written = write(&model, &tokenizer, &[], Limits::default(), &prompts);
        let mut most = 0_f32;
        for (row, written) in rows.iter().zip(&written) {
            let certain = row["certain"].as_u64().unwrap() as usize;
            assert_eq!(written.ids[..certain], ids(&row["greedy"])[..certain], "{name}");
            assert_eq!((written.finish, written.ids.len()), (Finish::Length, 20));
            let log_probabilities: Vec<f32> = serde_json::from_value(row["log_probabilities"].clone()).unwrap();
            for (got, expected) in written.log_probabilities.iter().zip(&log_probabilities).take(certain) {
                most = most.max((got - expected).abs());
            }
            if certain == 20 && row.get("text").is_some() {
                assert_eq!(written.text, row["text"].as_str().unwrap(), "{name}");
            }
        }
        println!("{name}: log-probabilities differ by {most:e} at most");
        // The fixture has four digits.
        assert!(most <= 7e-5, "{name}: {most}");
        let Some(stop) = case.get("stop") else { continue };
        let stop: Vec<String> = serde_json::from_value(stop.clone()).unwrap();
        let ends = ids(&case["ends"]);
        let with_stop: Vec<Prompt> =
            prompts.iter().map(|prompt| Prompt { stop: stop.clone(), ..prompt.clone() }).collect();
        let stopped = write(&model, &tokenizer, &[], Limits::default(), &with_stop);
        let ended = write(&model, &tokenizer, &ends, Limits::default(), &prompts);
        for (number, row) in rows.iter().enumerate() {
            let certain = row["certain"].as_u64().unwrap() as usize;
            let first = |key: &str| ids(&row["greedy"])[..row[key].as_u64().unwrap() as usize].to_vec();
            let (stopped, expected) = (&stopped[number], first("stopped"));
            let has_stop = |ids: &[u32]| {
                let text = tokenizer.decode(ids).unwrap();
                stop.iter().any(|stop| text.contains(stop))
            };
            if expected.len() < 20 && !has_stop(&expected) {
                // transformers has found a stop string that begins in the prompt.
                assert!(has_stop(&[ids(&row["prompt"]), expected.clone()].concat()), "{name}");
                assert!(stopped.ids.len() > expected.len() && stopped.ids.starts_with(&expected), "{name}");
            } else if expected.len() <= certain {
                assert_eq!(stopped.ids, expected, "{name}");
                assert_eq!(stopped.finish, if expected.len() < 20 { Finish::Stop } else { Finish::Length });
                let mut text = tokenizer.decode(&expected).unwrap();
                for stop in &stop {
                    text = text.split(stop).next().unwrap().to_owned();
                }
                assert_eq!(stopped.text, text);
            }
            let (ended, expected) = (&ended[number], first("ended"));
            if expected.len() <= certain {
                assert_eq!(ended.ids, expected, "{name}");
                assert_eq!(ended.finish, if expected.len() < 20 { Finish::End } else { Finish::Length });
            }
        }
    }
}

/// Models of every kind of mask and rotary embedding, with texts.
fn models() -> impl Iterator<Item = (String, Model, Vec<Vec<u32>>)> {
    expected().as_object().unwrap().clone().into_iter().filter_map(|(name, case)| {
        let folder = reference(&name)?;
        let texts = case["rows"].as_array().unwrap();
        let texts = texts.iter().map(|row| [ids(&row["prompt"]), ids(&row["greedy"])].concat()).collect();
        Some((name, load(&folder, "config.json"), texts))
    })
}

#[test]
fn a_document_that_goes_on_has_the_bits_of_one_that_is_read_at_once() {
    for (name, model, texts) in models() {
        if model.depends_on_length() {
            continue;
        }
        // Several times over, so that windows are left behind.
        let long: Vec<u32> = texts.iter().flatten().copied().cycle().take(60).collect();
        let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).chain([&long[..]]).collect();
        let whole = |text: &[u32]| {
            model.read_on(ALONE, vec![Continuation { cache: &mut model.new_cache(), ids: text }]).unwrap().unwrap()
        };
        let width = model.hidden_size();
        for pieces in [1, 2, 7] {
            let mut caches: Vec<_> = texts.iter().map(|_| model.new_cache()).collect();
            let mut states = vec![Vec::new(); texts.len()];
            while states.iter().zip(&texts).any(|(states, text)| states.len() < text.len() * width) {
                let documents = caches.iter_mut().zip(&texts).map(|(cache, text)| {
                    let start = cache.tokens();
                    let ids = &text[start..text.len().min(start + pieces)];
                    Continuation { cache, ids }
                });
                let documents: Vec<_> = documents.collect();
                let counts: Vec<usize> = documents.iter().map(|document| document.ids.len()).collect();
                let mut rows = model.read_on(ALONE, documents).unwrap().unwrap();
                for (states, count) in states.iter_mut().zip(counts) {
                    states.extend(rows.drain(..count * width));
                }
            }
            for (states, text) in states.iter().zip(&texts) {
                let expected = whole(text);
                assert_eq!(states.len(), expected.len());
                let same = states.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{name} in pieces of {pieces}");
            }
        }
        // And those of the forward pass without a cache.
        let logits = model.hidden_states(ALONE, &crate::models::Batch::of(&long)).unwrap();
        assert!(logits.iter().zip(&whole(&long)).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}");
    }
}

#[test]
fn a_window_forgets_what_is_before_it_without_a_change_of_bits() {
    let folder = reference("small/mistral-window").unwrap();
    let mut model = load(&folder, "config.json");
    model.transformer.most_positions = None;
    let text: Vec<u32> = (0..1000).map(|i| 4 + (i * i + 3 * i) % 60).collect();
    let at_once = model.hidden_states(ALONE, &crate::models::Batch::of(&text)).unwrap();
    let (mut cache, mut states) = (model.new_cache(), Vec::new());
    for ids in text.chunks(9) {
        states.extend(model.read_on(ALONE, vec![Continuation { cache: &mut cache, ids }]).unwrap().unwrap());
    }
    assert!(states.iter().zip(&at_once).all(|(a, b)| a.to_bits() == b.to_bits()));
    assert_eq!(cache.tokens(), 1000);
    // Of a window of 7 no more is held than two blocks of 72 and the rest of the last piece, and memory doubles.
    let held = cache.memory() / model.cache_bytes_per_token();
    assert!(held <= 512, "{held} rows");
}

#[test]
fn a_failed_call_leaves_caches_as_they_were() {
    let folder = reference("llama").unwrap();
    let model = load(&folder, "config.json");
    let mut cache = model.new_cache();
    let mut read = |ids: &[u32]| model.read_on(ALONE, vec![Continuation { cache: &mut cache, ids }]);
    read(&[1, 5, 6]).unwrap();
    let error = read(&[7, 5000]).unwrap_err().to_string();
    assert!(error.starts_with("token id at 1 is 5000, and an id below 1024"), "{error}");
    let error = read(&[7; 500]).unwrap_err().to_string();
    assert!(error.starts_with("number of tokens of document at 0 is 503, and at most"), "{error}");
    // What fails behind the first layers, as memory of a kernel might, has appended there.
    cache.append_to_first_layer(3);
    let mut read = |ids: &[u32]| model.read_on(ALONE, vec![Continuation { cache: &mut cache, ids }]);
    let states = read(&[7]).unwrap().unwrap();
    let whole = model.hidden_states(ALONE, &crate::models::Batch::of(&[1, 5, 6, 7])).unwrap();
    assert_eq!(states, whole[3 * model.hidden_size()..]);
    assert_eq!((cache.tokens(), model.cache_bytes_per_token()), (4, 2 * 2 * 2 * 16 * 4));
    let other = load(&reference("small/gpt2").unwrap(), "config.json");
    let error = other.read_on(ALONE, vec![Continuation { cache: &mut cache, ids: &[1] }]).unwrap_err().to_string();
    assert!(error.contains("a cache of this model"), "{error}");
    let encoder = load(&reference("bert-classifier").unwrap(), "config.json");
    assert!(encoder.read_on(ALONE, Vec::new()).unwrap().is_none());
    let tokenizer = tokenizer("llama");
    let error = Generator::new(&encoder, &tokenizer, &[], Limits::default()).unwrap_err().to_string();
    assert!(error.contains("'bert' without the head of a language model"), "{error}");
}

#[test]
fn texts_do_not_depend_on_neighbours_limits_or_threads() {
    let threads = Threads::new(2);
    for (name, model, texts) in models() {
        let tokenizer = tokenizer(&name);
        let prompts: Vec<Prompt> = texts
            .iter()
            .enumerate()
            .flat_map(|(number, text)| {
                let drawn = Sampling { temperature: 1.3, top_k: Some(20), top_p: 0.9, seed: 5 };
                [Sampling::GREEDY, drawn].map(|sampling| Prompt {
                    sampling,
                    key: number as u64,
                    log_probabilities: true,
                    ..Prompt::greedy(text[..text.len() / 2].to_vec(), 3 + 2 * number)
                })
            })
            .collect();
        let together = write(&model, &tokenizer, &[], Limits::default(), &prompts);
        for limits in [Limits { step: 5, held: 60 }, Limits { step: 1, held: 1 }, Limits { step: 40, held: 90 }] {
            assert_eq!(write(&model, &tokenizer, &[], limits, &prompts), together, "{name} {limits:?}");
        }
        let generator = Generator::new(&model, &tokenizer, &[], Limits::default()).unwrap();
        let compute = Compute { workers: &threads, threads: 2 };
        let on_threads = generator.write(compute, &prompts, |_, _| {}).unwrap();
        assert!(on_threads.iter().zip(&together).all(|(a, b)| a.as_ref().unwrap() == b), "{name}");
        for (prompt, together) in prompts.iter().zip(&together) {
            let alone = write(&model, &tokenizer, &[], Limits::default(), std::slice::from_ref(prompt));
            assert_eq!(&alone[0], together, "{name}");
        }
    }
}

#[test]
fn a_beginning_that_prompts_share_is_read_once() {
    for name in ["llama", "small/mistral-window", "small/gpt2"] {
        let folder = reference(name).unwrap();
        let (model, tokenizer) = (load(&folder, "config.json"), tokenizer(name));
        let beginning: Vec<u32> = (0..30).map(|i| 4 + i * 7 % 60).collect();
        let drawn = Sampling { temperature: 1.0, ..Sampling::GREEDY };
        let prompts: Vec<Prompt> = (0..8)
            .map(|number| {
                // Four equal ones, three that differ behind the beginning, and one that is another from the first token on.
                let ids = match number {
                    0..4 => beginning.clone(),
                    4..7 => [&beginning[..20], &[5, number, 6]].concat(),
                    _ => beginning.iter().rev().copied().collect(),
                };
                Prompt { sampling: drawn, key: number.into(), ..Prompt::greedy(ids, 5) }
            })
            .collect();
        let generator = Generator::new(&model, &tokenizer, &[], Limits::default()).unwrap();
        let (together, read) = super::run::run(generator, ALONE, &prompts, |_, _| {}).unwrap();
        // The first and the last whole, of the equal ones the last token, of the others three and then two, which share one more, and four written
        // tokens of each.
        assert_eq!(read, 30 + 30 + 3 + 3 + 2 * 2 + 8 * 4, "{name}");
        for (prompt, together) in prompts.iter().zip(&together) {
            let alone = write(&model, &tokenizer, &[], Limits::default(), std::slice::from_ref(prompt));
            assert_eq!(&alone[0], together.as_ref().unwrap(), "{name}");
        }
        for limits in [Limits { step: 7, held: 100 }, Limits { step: 3, held: 1000 }] {
            let others = write(&model, &tokenizer, &[], limits, &prompts);
            assert!(others.iter().zip(&together).all(|(a, b)| a == b.as_ref().unwrap()), "{name}");
        }
    }
}

#[test]
fn draws_follow_the_distribution_and_depend_on_seed_key_and_step_alone() {
    let logits = [0.3_f32, -1.0, 2.0, 0.3, 1.1, f32::NEG_INFINITY, 1.9, -3.0];
    let count = 40_000;
    for (temperature, top_k, top_p, kept) in [
        (1.0, None, 1.0, vec![0, 1, 2, 3, 4, 6, 7]),
        (0.5, None, 1.0, vec![0, 1, 2, 3, 4, 6, 7]),
        (2.0, Some(3), 1.0, vec![2, 4, 6]),
        // The fourth and the fifth are equal, so both stay.
        (1.0, Some(4), 1.0, vec![0, 2, 3, 4, 6]),
        (1.0, None, 0.69, vec![2, 6]),
        (1.0, None, 0.8, vec![2, 4, 6]),
        // After temperature: likelier ones have more.
        (0.25, None, 0.8, vec![2, 6]),
        // After top_k: of three tokens, two have less than 0.9.
        (1.0, Some(3), 0.9, vec![2, 4, 6]),
        (1.0, None, 1e-6, vec![2]),
    ] {
        let sampling = Sampling { temperature, top_k, top_p, seed: 3 };
        let weights: HashMap<u32, f64> =
            kept.iter().map(|&id| (id, f64::from(logits[id as usize] / temperature).exp())).collect();
        let sum: f64 = weights.values().sum();
        let mut drawn: HashMap<u32, f64> = HashMap::new();
        for request in 0..count {
            // Different keys, or different steps.
            let (key, step) = if request % 2 == 0 { (request, 0) } else { (7, request as usize) };
            *drawn.entry(sampling.draw(&logits, key, step).unwrap()).or_default() += 1.0;
        }
        assert!(drawn.keys().all(|id| weights.contains_key(id)), "{sampling:?}: {drawn:?}");
        let chi: f64 = weights
            .iter()
            .map(|(id, weight)| {
                let expected = weight / sum * count as f64;
                (drawn.get(id).copied().unwrap_or(0.0) - expected).powi(2) / expected
            })
            .sum();
        // Of six degrees of freedom, 27.9 is exceeded once in ten thousand times.
        assert!(chi < 27.9, "{sampling:?}: {chi}");
    }
    let sampling = Sampling { temperature: 1.0, top_k: None, top_p: 1.0, seed: 3 };
    let draws =
        |seed, key| -> Vec<_> { (0..50).map(|step| Sampling { seed, ..sampling }.draw(&logits, key, step)).collect() };
    assert_eq!(draws(3, 1), draws(3, 1));
    assert!(draws(3, 1) != draws(4, 1) && draws(3, 1) != draws(3, 2));
    assert_eq!(sampling.draw(&[0.0, f32::NAN], 0, 0), None);
    assert_eq!(sampling.draw(&[f32::NEG_INFINITY; 3], 0, 0), None);
    // Many tokens, of which few are enough: the same as sorting all of them.
    let many: Vec<f32> = (0..5000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 2e6).collect();
    for top_p in [0.01, 0.3, 0.9, 0.999] {
        let sampling = Sampling { top_p, ..sampling };
        let mut order: Vec<usize> = (0..many.len()).collect();
        order.sort_by(|&a, &b| many[b].total_cmp(&many[a]).then(a.cmp(&b)));
        let weight = |id: usize| (f64::from(many[id]) - f64::from(many[order[0]])).exp();
        let sum: f64 = order.iter().map(|&id| weight(id)).sum();
        let mut before = 0.0;
        let enough = order.iter().take_while(|&&id| {
            let more = before < f64::from(top_p) * sum;
            before += weight(id);
            more
        });
        let allowed: Vec<usize> = enough.copied().collect();
        for step in 0..500 {
            let id = sampling.draw(&many, 1, step).unwrap() as usize;
            assert!(allowed.contains(&id), "{top_p}: {id} is not among {}", allowed.len());
        }
    }
}

#[test]
fn prompts_that_do_not_fit_are_cut_or_refused_or_end_with_the_model() {
    let folder = reference("llama").unwrap();
    let (model, tokenizer) = (load(&folder, "config.json"), tokenizer("llama"));
    let positions = model.most_positions().unwrap();
    let generator = Generator::new(&model, &tokenizer, &[], Limits::default()).unwrap();
    let long: Vec<u32> = (0..positions as u32 - 4).map(|i| 3 + i * 7 % 1000).collect();
    let prompt = |ids: &[u32], most, overflow| Prompt { overflow, ..Prompt::greedy(ids.to_vec(), most) };
    let prompts = [
        prompt(&long, 20, Overflow::EndWithModel),
        prompt(&long, 20, Overflow::CutPrompt),
        prompt(&long[15..], 20, Overflow::Refuse),
        prompt(&long, 20, Overflow::Refuse),
        prompt(&long, 5, Overflow::Refuse),
        prompt(&long, positions + 1, Overflow::CutPrompt),
        prompt(&[long.clone(), vec![5; 5]].concat(), 1, Overflow::EndWithModel),
        prompt(&[], 5, Overflow::Refuse),
        prompt(&[5, 1024], 5, Overflow::Refuse),
        prompt(&[5], 0, Overflow::Refuse),
        Prompt {
            sampling: Sampling { temperature: f32::NAN, ..Sampling::GREEDY },
            ..prompt(&[5], 3, Overflow::Refuse)
        },
        Prompt { sampling: Sampling { top_p: 0.0, ..Sampling::GREEDY }, ..prompt(&[5], 3, Overflow::Refuse) },
        Prompt { sampling: Sampling { top_k: Some(0), ..Sampling::GREEDY }, ..prompt(&[5], 3, Overflow::Refuse) },
    ];
    let written = generator.write(ALONE, &prompts, |_, _| {}).unwrap();
    let good = |number: usize| written[number].as_ref().unwrap();
    assert_eq!((good(0).ids.len(), good(0).finish, good(0).prompt_tokens), (5, Finish::Length, positions - 4));
    assert_eq!((good(1).ids.len(), good(1).prompt_tokens), (20, positions - 20));
    // The prompt that was cut is the one that begins later.
    let later = write(&model, &tokenizer, &[], Limits::default(), &[prompt(&long[16..], 20, Overflow::Refuse)]);
    assert_eq!(good(1).ids, later[0].ids);
    assert_eq!((good(2).ids.len(), good(4).ids.len()), (20, 5));
    assert_eq!((good(9).ids.len(), good(9).finish, good(9).text.as_str()), (0, Finish::Length, ""));
    for (number, expected) in [
        (
            3,
            format!(
                "number of tokens of prompt at 3 is {}, and at most {}, so that 20 more fit",
                positions - 4,
                positions - 19
            ),
        ),
        (5, "number of tokens of prompt at 5".to_owned()),
        (6, format!("at most {positions}, so that 1 more fit into the {positions} positions of the model")),
        (7, "number of tokens of prompt at 7 is 0, and at least one is allowed".to_owned()),
        (8, "token id at 1 is 1024".to_owned()),
        (10, "temperature is NaN, and a number from 0 on is allowed".to_owned()),
        (11, "top_p is 0, and a number above 0 and up to 1 is allowed".to_owned()),
        (12, "top_k is 0, and a whole number above 0 is allowed".to_owned()),
    ] {
        let error = written[number].as_ref().unwrap_err().to_string();
        assert!(error.contains(&expected), "{error}");
    }
}

#[test]
fn pieces_of_text_end_at_characters_and_before_stop_strings() {
    for name in ["llama", "gpt-neox", "qwen2", "llama3"] {
        if reference(name).is_none() {
            continue;
        }
        let tokenizer = tokenizer(name);
        for text in [
            "Hello, wörld — naïve 漢字とかな 🙂👩‍👩‍👧 end",
            "  two  spaces\n\nand lines ",
            "🙂",
            "a\u{FFFD}b",
            "emoji 👍🏽 then stop here",
            "",
        ] {
            let mut ids = Vec::new();
            tokenizer.encode(text, false, &mut ids).unwrap();
            let stop = ["stop here".to_owned(), String::new(), "字と".to_owned()];
            for stop in [&[][..], &stop] {
                let mut detokenizer = Detokenizer::new(stop);
                let (mut pieces, mut taken, mut stopped) = (String::new(), 0, false);
                while taken < ids.len() && !stopped {
                    taken += 1;
                    stopped = detokenizer.push(&tokenizer, &ids[..taken]).unwrap();
                    if !stopped {
                        pieces.push_str(detokenizer.release());
                        assert!(!stop.iter().any(|stop| !stop.is_empty() && pieces.contains(stop)), "{pieces:?}");
                    }
                }
                let (whole, released) = detokenizer.finish(&tokenizer, &ids[..taken]).unwrap();
                pieces.push_str(&whole[released..]);
                assert_eq!(pieces, whole, "{name}");
                let decoded = tokenizer.decode(&ids[..taken]).unwrap();
                let found = stop.iter().any(|stop| !stop.is_empty() && decoded.contains(stop));
                assert_eq!(stopped, found, "{name}: {decoded:?}");
                if !stopped {
                    assert_eq!(whole, decoded);
                }
            }
        }
        // Bytes that are no character, and any tokens at all.
        let ids: Vec<u32> = (0..400).map(|i: u32| i.wrapping_mul(2_654_435_761) % 1000).collect();
        let (mut detokenizer, mut pieces) = (Detokenizer::new(&[]), String::new());
        for end in 1..=ids.len() {
            detokenizer.push(&tokenizer, &ids[..end]).unwrap();
            pieces.push_str(detokenizer.release());
        }
        let (whole, released) = detokenizer.finish(&tokenizer, &ids).unwrap();
        assert_eq!(whole, tokenizer.decode(&ids).unwrap());
        assert_eq!(pieces + &whole[released..], whole, "{name}");
    }
}

#[test]
fn tokens_that_end_texts_are_one_or_several_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let read = || end_tokens(&folder.path().to_string_lossy(), &Resources::local());
    assert!(read().unwrap_err().to_string().contains("config.json"));
    put("config.json", r#"{"eos_token_id": null}"#);
    assert_eq!(read().unwrap().0, [0_u32; 0]);
    put("config.json", r#"{"eos_token_id": 7}"#);
    assert_eq!(read().unwrap().0, [7]);
    put("generation_config.json", r#"{"temperature": 0.6}"#);
    assert_eq!(read().unwrap().0, [7]);
    put("generation_config.json", r#"{"eos_token_id": [128001, 128009]}"#);
    let (ends, identities) = read().unwrap();
    assert_eq!((ends, identities.len()), (vec![128_001, 128_009], 1));
    put("generation_config.json", r#"{"eos_token_id": -1}"#);
    let error = read().unwrap_err().to_string();
    assert!(
        error.contains("generation_config.json: 'eos_token_id' is -1, and a token id or a list of them"),
        "{error}"
    );
}

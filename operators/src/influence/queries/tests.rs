//! Queries of tables.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{LossOn, Queries, QueriesConfig, Query};
use crate::tokens::Tokenizer;
use crate::{Resources, Result};

fn tokenizer(name: &str) -> Tokenizer {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tokenizers").join(format!("{name}.json"));
    Tokenizer::load(path.to_str().unwrap(), &Resources::local()).unwrap().0
}

fn encode(tokenizer: &Tokenizer, text: &str, special_tokens: bool) -> Vec<u32> {
    let mut ids = Vec::new();
    tokenizer.encode(text, special_tokens, &mut ids).unwrap();
    ids
}

/// A word for each of a few ids, `[BOS]` before and `[EOS]` behind.
fn words() -> Tokenizer {
    let special = |id: u32, token: &str| json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let template = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
    let json = json!({
        "version": "1.0", "added_tokens": [special(0, "[BOS]"), special(1, "[EOS]")], "normalizer": null, "decoder": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [template("[BOS]"), {"Sequence": {"id": "A", "type_id": 0}}, template("[EOS]")],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {
                "[BOS]": {"id": "[BOS]", "ids": [0], "tokens": ["[BOS]"]},
                "[EOS]": {"id": "[EOS]", "ids": [1], "tokens": ["[EOS]"]},
            },
        },
        "model": {
            "type": "WordLevel", "unk_token": "[UNK]",
            "vocab": {"[BOS]": 0, "[EOS]": 1, "[UNK]": 2, "the": 3, "sky": 4, "is": 5, "blue": 6, "isblue": 7},
        },
    });
    Tokenizer::from_bytes("words.json", json.to_string().as_bytes()).unwrap()
}

fn read(folder: &Path, lines: &[Value], config: Value, tokenizer: &Tokenizer) -> Result<Queries> {
    let path = folder.join("queries.jsonl");
    std::fs::write(&path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    let mut config = config;
    config["path"] = path.to_str().unwrap().into();
    let config: QueriesConfig = serde_json::from_value(config).unwrap();
    Queries::read(&config.complete("influence")?, tokenizer, 20, &Resources::local()).map(|(queries, _)| queries)
}

#[test]
fn the_completion_begins_where_the_text_goes_on_otherwise_than_the_prompt() {
    let words = words();
    let of = |prompt: &str, completion: &str| Query::join(&words, prompt, completion).unwrap();
    // [BOS] the sky is blue [EOS]
    let ids = vec![0, 3, 4, 5, 6, 1];
    assert_eq!(of("the sky is", " blue"), Query { ids: ids.clone(), first_target: 4 });
    assert_eq!(of("the sky is ", "blue"), Query { ids: ids.clone(), first_target: 4 });
    assert_eq!(of("", "the sky is blue"), Query { ids: ids.clone(), first_target: 1 });
    assert_eq!(of("the", " sky is blue"), Query { ids, first_target: 2 });
    // A token in which both meet is the completion's.
    assert_eq!(of("the sky is", "blue"), Query { ids: vec![0, 3, 4, 7, 1], first_target: 3 });
}

#[test]
fn tables_give_queries() {
    let folder = tempfile::tempdir().unwrap();
    let words = words();
    let lines = [
        json!({"q": "the sky is", "a": " blue", "n": 7, "g": "x", "t": "the sky"}),
        json!({"q": "is", "a": " the sky blue", "n": 8, "g": "y", "t": "is is is"}),
        json!({"q": "", "a": "the sky", "n": 9, "g": "x", "t": "blue"}),
    ];
    let queries = |config: Value| read(folder.path(), &lines, config, &words).unwrap();
    let pairs = json!({"prompt": "q", "completion": "a"});
    let plain = queries(pairs.clone());
    assert_eq!(plain.queries.iter().map(|query| query.first_target).collect::<Vec<_>>(), [4, 2, 1]);
    assert_eq!(plain.aggregation.names(), ["0", "1", "2"]);
    let whole = queries(json!({"prompt": "q", "completion": "a", "loss_on": "all", "id": "n"}));
    assert!(whole.queries.iter().all(|query| query.first_target == 1));
    assert!(whole.queries.iter().zip(&plain.queries).all(|(whole, plain)| whole.ids == plain.ids));
    assert_eq!(whole.aggregation.names(), ["7", "8", "9"]);
    assert_eq!(queries(json!({"text": "t"})).queries[1].ids, [0, 5, 5, 5, 1]);

    // Groups in the order in which they come.
    let grouped = queries(json!({"prompt": "q", "completion": "a", "group": "g", "aggregate": "nearest"}));
    assert_eq!(grouped.aggregation.names(), ["x", "y"]);
    assert_eq!(grouped.aggregation.of_products(vec![1.0, 5.0, 2.0, -3.0, 0.0, -4.0]), [2.0, 5.0, -3.0, 0.0]);
    let mean = queries(json!({"prompt": "q", "completion": "a", "group": "g", "aggregate": "mean"}));
    assert_eq!(mean.aggregation.of_products(vec![1.5, 5.0]), [1.5, 5.0]);
    assert_eq!(mean.aggregation.shares(), [vec![(0, 0.5), (2, 0.5)], vec![(1, 1.0)]]);
    assert_eq!(plain.aggregation.shares(), [vec![(0, 1.0)], vec![(1, 1.0)], vec![(2, 1.0)]]);
    assert_eq!(mean.aggregation.vectors(vec![1.0, 2.0, 0.0, 7.0, 3.0, 4.0], 2), [2.0, 3.0, 0.0, 7.0]);
    assert_eq!(mean.aggregation.products(), 2);
    for aggregate in ["mean", "nearest"] {
        let all = queries(json!({"text": "t", "aggregate": aggregate}));
        assert_eq!(all.aggregation.names(), [aggregate]);
    }
}

#[test]
fn queries_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let words = words();
    let good = json!({"prompt": "the", "completion": " sky", "id": "a", "x": 0.5});
    let with = |changes: Value| {
        let mut row = good.clone();
        row.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        row
    };
    let long = " sky".repeat(30);
    for (rows, config, says) in [
        (vec![], json!({}), "queries.jsonl': it has no row"),
        (
            vec![good.clone()],
            json!({"prompt": "promt", "completion": "completion"}),
            "no column 'promt', did you mean 'prompt'?",
        ),
        (vec![good.clone()], json!({"text": "x"}), "column 'x' has type Float64, expected text"),
        (vec![good.clone()], json!({"id": "x"}), "column 'x' has type Float64, expected text or whole numbers"),
        (vec![good.clone(), with(json!({"completion": null}))], json!({}), "row 1 has no value in column 'completion'"),
        (vec![good.clone(), with(json!({"id": null}))], json!({"id": "id"}), "row 1 has no value in column 'id'"),
        (vec![good.clone(), good.clone()], json!({"id": "id"}), "rows 0 and 1 have the same name 'a'"),
        (
            vec![with(json!({"completion": long}))],
            json!({"id": "id"}),
            "row 0 ('a'): 33 tokens; at most 20 are allowed",
        ),
        (vec![good.clone()], json!({"text": "id", "prompt": "prompt"}), "'queries.text': a query is either"),
        (
            vec![good.clone()],
            json!({"text": "id", "loss_on": "completion"}),
            "'queries.loss_on': a text has no completion",
        ),
        (vec![good.clone()], json!({"prompt": "prompt"}), "'queries.completion': the key is missing"),
        (vec![good.clone()], json!({"completion": "prompt"}), "'queries.prompt': the key is missing"),
        (vec![good.clone()], json!({"group": "id"}), "'queries.group': groups are for"),
    ] {
        let message = read(folder.path(), &rows, config, &words).unwrap_err().to_string();
        assert!(message.contains(says), "{message}\nshould say {says}");
    }

    // Without special tokens a text of one token has nothing to predict, and neither has an empty completion.
    let plain = tokenizer("tiny-bpe");
    let one = json!({"prompt": "", "completion": "a"});
    let message = read(folder.path(), std::slice::from_ref(&one), json!({}), &plain).unwrap_err().to_string();
    assert!(message.contains("row 0 ('0'): no token to predict: the text has 1 tokens, and at least 2"), "{message}");
    let empty = json!({"prompt": "the sky is blue", "completion": ""});
    let message = read(folder.path(), &[good, empty], json!({}), &plain).unwrap_err().to_string();
    assert!(message.contains("row 1 ('1'): no token to predict: the completion is empty"), "{message}");
}

#[test]
fn defaults_are_filled_in() {
    let complete = |config: Value| serde_json::from_value::<QueriesConfig>(config).unwrap().complete("x").unwrap();
    let pairs = complete(json!({"path": "q.jsonl"}));
    assert_eq!((pairs.prompt.as_deref(), pairs.completion.as_deref()), (Some("prompt"), Some("completion")));
    assert_eq!(pairs.loss_on, Some(LossOn::Completion));
    assert_eq!(complete(serde_json::to_value(&pairs).unwrap()), pairs);
    let texts = complete(json!({"path": "q.jsonl", "text": "t"}));
    assert_eq!((texts.prompt.as_deref(), texts.loss_on), (None, Some(LossOn::All)));
    assert_eq!(complete(serde_json::to_value(&texts).unwrap()), texts);
}

proptest! {
    /// Whatever the texts: the ids are those of the whole text, all before the first target are the prompt's own, and the first target is not.
    #[test]
    fn boundaries_are_where_prompts_end(prompt in "[a-z .]{0,20}", completion in "[a-z .]{1,20}") {
        static TOKENIZERS: LazyLock<Vec<Tokenizer>> =
            LazyLock::new(|| ["tiny-bpe", "tiny-llama", "tiny-unigram", "tiny-wordpiece"].map(tokenizer).into());
        for tokenizer in &*TOKENIZERS {
            let query = Query::join(tokenizer, &prompt, &completion).unwrap();
            prop_assert_eq!(&query.ids, &encode(tokenizer, &format!("{prompt}{completion}"), true));
            let before = [tokenizer.prefix(), &encode(tokenizer, &prompt, false)].concat();
            let first = query.first_target;
            prop_assert!(first >= 1);
            if first > 1 {
                prop_assert_eq!(&query.ids[..first], &before[..first]);
                if let (Some(whole), Some(own)) = (query.ids.get(first), before.get(first)) {
                    prop_assert_ne!(whole, own);
                }
            }
        }
    }
}

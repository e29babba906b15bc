#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod operators;
mod reference;
mod sentencepiece;

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::Resources;

/// The tokenizers made for this project.
const FIXTURES: [&str; 4] = ["tiny-bpe", "tiny-llama", "tiny-unigram", "tiny-wordpiece"];

fn fixture_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tokenizers").join(format!("{name}.json"))
}

fn fixture(name: &str) -> Tokenizer {
    let path = fixture_path(name);
    Tokenizer::load(path.to_str().unwrap(), &Resources::local()).unwrap().0
}

fn batch(texts: &[Option<&str>]) -> RecordBatch {
    let ids: StringArray = (0..texts.len()).map(|row| Some(format!("row {row}"))).collect();
    let text = StringArray::from(texts.to_vec());
    RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(ids) as ArrayRef, false),
        ("text", Arc::new(text) as ArrayRef, true),
    ])
    .unwrap()
}

fn encode(tokenizer: &Tokenizer, text: &str, special_tokens: bool) -> Vec<u32> {
    // What a buffer held before must not show.
    let mut ids = vec![7; 3];
    tokenizer.encode(text, special_tokens, &mut ids).unwrap();
    ids
}

#[test]
fn ids_and_counts_are_those_of_the_python_package() {
    let expected: Value = serde_json::from_slice(&std::fs::read(fixture_path("expected")).unwrap()).unwrap();
    let texts: Vec<String> = serde_json::from_value(expected["texts"].clone()).unwrap();
    assert!(texts.len() > 10);
    for name in FIXTURES {
        let tokenizer = fixture(name);
        let mut counter = tokenizer.counter();
        for (kind, special_tokens) in [("plain", false), ("special", true)] {
            let lists: Vec<Vec<u32>> = serde_json::from_value(expected["tokenizers"][name][kind].clone()).unwrap();
            assert_eq!(lists.len(), texts.len());
            // Twice, so that the second count of each word comes from the cache.
            for (text, ids) in texts.iter().zip(&lists).chain(texts.iter().zip(&lists)) {
                assert_eq!(encode(&tokenizer, text, special_tokens), *ids, "{name}, {kind}: {text:?}");
                assert_eq!(counter.count(text, special_tokens).unwrap(), ids.len(), "{name}, {kind}: {text:?}");
            }
        }
    }
}

#[test]
fn special_tokens_stand_around_the_text() {
    let cases: [(&str, &[u32], &[u32], usize); 4] = [
        ("tiny-bpe", &[], &[], 1024),
        ("tiny-llama", &[1], &[], 1024),
        ("tiny-unigram", &[], &[1], 4096),
        ("tiny-wordpiece", &[2], &[3], 1024),
    ];
    for (name, prefix, suffix, vocab_size) in cases {
        let tokenizer = fixture(name);
        assert_eq!((tokenizer.prefix(), tokenizer.suffix()), (prefix, suffix), "{name}");
        assert_eq!(tokenizer.vocab_size(), vocab_size, "{name}");
    }
}

#[test]
fn truncation_and_padding_in_the_file_are_switched_off() {
    let mut file: Value = serde_json::from_slice(&std::fs::read(fixture_path("tiny-bpe")).unwrap()).unwrap();
    file["truncation"] =
        serde_json::json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
    file["padding"] = serde_json::json!({
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<|padding|>"
    });
    let cut = Tokenizer::from_bytes("cut.json", file.to_string().as_bytes()).unwrap();
    let plain = fixture("tiny-bpe");
    let text = "the quick brown fox jumps over the lazy dog";
    let ids = encode(&plain, text, true);
    assert!(ids.len() > 4 && ids.len() < 64);
    assert_eq!(encode(&cut, text, true), ids);
    assert_eq!(cut.counter().count(text, true).unwrap(), ids.len());
}

#[test]
fn a_file_that_is_no_tokenizer_is_refused() {
    let cases: [(&[u8], &str); 5] = [
        (b"", "not a tokenizer.json"),
        (b"\xff\xfe", "not a tokenizer.json"),
        (b"[1, 2]", "not a tokenizer.json"),
        (b"{\"version\": \"1.0\"}", "not a tokenizer.json"),
        (b"{\"version\": \"1.0\", \"model\": {\"type\": \"Nonsense\", \"vocab\": {}}}", "tokenizer.json"),
    ];
    for (bytes, message) in cases {
        let error = Tokenizer::from_bytes("some/file.json", bytes).expect_err("refused").to_string();
        assert!(error.contains("some/file.json") && error.contains(message), "{error}");
    }
}

#[test]
fn locations_are_resolved_in_the_documented_order() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let file = format!("{folder}/other.json");
    std::fs::write(&file, "{}").unwrap();
    let cases = [
        (folder.to_owned(), format!("{folder}/tokenizer.json")),
        (format!("{folder}/"), format!("{folder}/tokenizer.json")),
        (file.clone(), file.clone()),
        ("EleutherAI/gpt-neox-20b".to_owned(), "hf://EleutherAI/gpt-neox-20b/tokenizer.json".to_owned()),
        ("gpt2".to_owned(), "hf://gpt2/tokenizer.json".to_owned()),
        ("org/name@refs/pr/1".to_owned(), "hf://org/name@refs/pr/1/tokenizer.json".to_owned()),
        ("hf://org/name".to_owned(), "hf://org/name/tokenizer.json".to_owned()),
        ("s3://bucket/a/b.json".to_owned(), "s3://bucket/a/b.json".to_owned()),
        ("missing/tokenizer.json".to_owned(), "missing/tokenizer.json".to_owned()),
        ("./missing".to_owned(), "./missing".to_owned()),
        ("/missing/folder".to_owned(), "/missing/folder".to_owned()),
        ("a/b/c".to_owned(), "a/b/c".to_owned()),
    ];
    for (location, expected) in cases {
        assert_eq!(resolve_location(&location), expected, "{location}");
    }
}

/// Text with what tokenizers treat specially: literal special tokens, runs of spaces, contractions, marks, CJK, emoji,
/// digits, and words from one byte to longer than the cache keeps.
fn awkward_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-zA-Z]{1,18}",
        1 => "[a-z]{19,90}",
        4 => Just(" ".to_owned()),
        1 => " {2,30}",
        1 => "[\\r\\n\\t\u{a0}\u{3000}\u{2009}]{1,4}",
        2 => "'(s|S|t|re|VE|m|ll|d|x|re's)",
        2 => "[0-9]{1,9}",
        2 => "[-!\"#$%&()*+,./:;<=>?@_`{|}~^\\\\]{1,5}",
        2 => "[\u{300}-\u{320}\u{e0}-\u{ff}\u{391}-\u{3c9}\u{410}-\u{44f}]{1,8}",
        2 => "[\u{4e00}-\u{4e80}\u{3041}-\u{3096}\u{ac00}-\u{ac80}]{1,24}",
        1 => "[\u{1100}-\u{1112}\u{1161}-\u{1175}\u{11a8}-\u{11c2}]{1,6}",
        1 => "[\u{1f300}-\u{1f600}\u{200d}\u{fe0f}]{1,4}",
        1 => "(<\\|endoftext\\|>|\\[CLS\\]|</s>|<s>|<unk>|\\[MASK\\]|<\\|padding\\|>)",
        1 => any::<String>(),
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

/// One counter of each tokenizer for all cases, so that counts also come from what earlier cases left in the cache.
static COUNTERS: LazyLock<Mutex<Vec<(Tokenizer, TokenCounter)>>> = LazyLock::new(|| {
    let with_counter = |tokenizer: Tokenizer| (tokenizer.clone(), tokenizer.counter());
    Mutex::new(FIXTURES.map(fixture).map(with_counter).into())
});

proptest! {
    #[test]
    fn a_count_is_the_number_of_ids(text in awkward_text()) {
        for (tokenizer, counter) in COUNTERS.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            let ids = encode(tokenizer, &text, true);
            for _ in 0..2 {
                prop_assert_eq!(counter.count(&text, true).unwrap(), ids.len(), "{:?}: {:?}", tokenizer, text);
            }
        }
    }
}

//! Tokenizers in the form of those of DeBERTa-v3 and XLM-RoBERTa: sentencepiece's Unigram with its own table of normal forms.
//!
//! The two files were trained with sentencepiece 0.2.3 on a few sentences with a table of a few rules, and put together with tokenizers 0.23.3,
//! which also gave the ids.

use super::{Tokenizer, encode};
use crate::Resources;

const TEXTS: [&str; 7] = [
    "",
    " ",
    "the fox and  the dog",
    "  der Fuchs ist ＡＡ Ⅷ ﬁ  ",
    "知识\u{3000}就是\u{200b}力量\nund\tA\u{30a} x",
    "[CLS] fox [MASK]der [SEP]",
    "zzz 👩\u{200d}👩 \u{a0} fox",
];

const EXPECTED: [(&str, [&[u32]; 7]); 2] = [
    (
        "small-deberta-v3",
        [
            &[1, 2],
            &[1, 2],
            &[1, 4, 7, 8, 5, 10, 12, 37, 4, 7, 8, 5, 18, 24, 23, 2],
            &[1, 11, 6, 4, 22, 14, 15, 7, 4, 3, 4, 35, 19, 38, 45, 2],
            &[1, 4, 32, 33, 4, 30, 31, 29, 34, 4, 9, 4, 25, 4, 40, 2],
            &[1, 1, 10, 46, 11, 6, 2, 2],
            &[1, 4, 3, 4, 3, 10, 2],
        ],
    ),
    (
        "small-xlm-r",
        [
            &[0, 2],
            &[0, 2],
            &[0, 4, 7, 8, 5, 10, 12, 37, 4, 7, 8, 5, 18, 24, 23, 2],
            &[0, 11, 6, 4, 22, 14, 15, 7, 4, 3, 4, 35, 19, 38, 45, 2],
            &[0, 4, 32, 33, 4, 30, 31, 29, 34, 4, 9, 4, 25, 4, 40, 2],
            &[0, 4, 3, 36, 3, 10, 4, 3, 36, 3, 44, 5, 6, 4, 3, 36, 3, 2],
            &[0, 4, 3, 4, 3, 10, 2],
        ],
    ),
];

#[test]
fn unigram_models_with_a_table_of_normal_forms_give_the_ids_of_the_python_package() {
    for (name, rows) in EXPECTED {
        let path = format!("{}/src/tokens/tests/testdata/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let (tokenizer, _) = Tokenizer::load(&path, &Resources::local()).unwrap();
        let mut counter = tokenizer.counter();
        for (text, ids) in TEXTS.iter().zip(rows) {
            assert_eq!(encode(&tokenizer, text, true), ids, "{name}: {text:?}");
            assert_eq!(encode(&tokenizer, text, false), ids[1..ids.len() - 1], "{name}: {text:?}");
            assert_eq!(counter.count(text, true).unwrap(), ids.len(), "{name}: {text:?}");
        }
        assert_eq!((tokenizer.prefix(), tokenizer.suffix()), (&rows[0][..1], &rows[0][1..]), "{name}");
    }
}

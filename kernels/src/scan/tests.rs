#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use aho_corasick::{AhoCorasick, MatchKind};
use proptest::prelude::*;

use super::*;

/// Every occurrence, by comparing every pattern at every position.
fn naive(patterns: &[Vec<u8>], text: &[u8], options: &ScanOptions) -> Vec<Span> {
    let mut spans = Vec::new();
    for start in 0..text.len() {
        for (number, pattern) in patterns.iter().enumerate() {
            let Some(found) = text.get(start..start + pattern.len()) else { continue };
            let equal = if options.ignore_ascii_case { found.eq_ignore_ascii_case(pattern) } else { found == pattern };
            let end = start + pattern.len();
            if equal && options.isolated_from.as_ref().is_none_or(|class| class.isolates(text, start, end)) {
                spans.push(Span { start, end, pattern: number as u32 });
            }
        }
    }
    spans.sort_unstable();
    spans
}

/// Every occurrence, by overlapping search of an automaton.
fn automaton(patterns: &[Vec<u8>], text: &[u8], options: &ScanOptions) -> Vec<Span> {
    let automaton = AhoCorasick::builder()
        .match_kind(MatchKind::Standard)
        .ascii_case_insensitive(options.ignore_ascii_case)
        .build(patterns)
        .unwrap();
    let mut spans: Vec<Span> = automaton
        .find_overlapping_iter(text)
        .map(|found| Span { start: found.start(), end: found.end(), pattern: found.pattern().as_u32() })
        .filter(|span| options.isolated_from.as_ref().is_none_or(|class| class.isolates(text, span.start, span.end)))
        .collect();
    spans.sort_unstable();
    spans
}

fn hits_of(spans: &[Span], first: Option<usize>) -> Vec<Hit> {
    let mut hits: Vec<Hit> = Vec::new();
    for span in spans {
        match hits.iter_mut().find(|hit| hit.pattern == span.pattern) {
            Some(hit) => {
                hit.occurrences += 1;
                hit.first_end = hit.first_end.min(span.end);
            }
            None => hits.push(Hit { pattern: span.pattern, first_end: span.end, occurrences: 1 }),
        }
    }
    if let Some(first) = first {
        hits.sort_by_key(|hit| (hit.first_end, hit.pattern));
        hits.truncate(first);
        hits.iter_mut().for_each(|hit| hit.occurrences = 0);
    }
    hits.sort_by_key(|hit| hit.pattern);
    hits
}

fn letters() -> CharClass {
    CharClass::from_ranges([('a', 'z'), ('A', 'Z'), ('0', '9'), ('_', '_'), ('à', 'ÿ'), ('一', '龥')])
}

fn option_table() -> Vec<ScanOptions> {
    [(false, None), (true, None), (false, Some(letters())), (true, Some(letters()))]
        .into_iter()
        .map(|(ignore_ascii_case, isolated_from)| ScanOptions { ignore_ascii_case, isolated_from })
        .collect()
}

/// Windows alone, as usual, and switches of engine at many positions: after so and so many bytes of either.
fn plans() -> Vec<Plan> {
    let mut plans = vec![Plan { candidates: u32::MAX, ..Plan::default() }, Plan::default()];
    plans.extend([1, 5, 37, 64, 65, 200, 1 << 20].map(|run| Plan { candidates: 0, probe: 64, run }));
    plans
}

/// Compares all backends, plans, options and requests with what the naive search finds.
fn check(patterns: &[Vec<u8>], texts: &[&[u8]]) {
    for options in option_table() {
        let expected: Vec<Vec<Span>> = texts.iter().map(|text| naive(patterns, text, &options)).collect();
        for backend in Backend::available() {
            let mut scanner = Scanner::with_backend(patterns, &options, backend, Plan::default()).unwrap();
            for plan in plans() {
                scanner.plan = plan;
                let context = format!("{backend:?} {plan:?} {options:?} {patterns:?}");
                // Twice with the same buffers: the second scan begins in the state that the first one ends in.
                let mut results = ScanResults::default();
                for _ in 0..2 {
                    scanner.scan(texts, ScanRequest { first: None, spans: true }, &mut results);
                    assert_eq!(results.len(), texts.len());
                    for (document, spans) in expected.iter().enumerate() {
                        assert_eq!(results.spans(document), spans, "{context} {document}");
                        assert_eq!(results.hits(document), hits_of(spans, None), "{context} {document}");
                    }
                }
                for first in [1, 2, 3, 1000] {
                    let request = ScanRequest { first: NonZeroUsize::new(first), spans: true };
                    scanner.scan(texts, request, &mut results);
                    for (document, spans) in expected.iter().enumerate() {
                        assert_eq!(results.hits(document), hits_of(spans, Some(first)), "{context} first {first}");
                        assert!(results.spans(document).is_empty());
                    }
                }
            }
        }
        check_dense(patterns, texts, &expected, &options);
    }
}

/// Each engine finds the occurrences that begin in a range, whatever surrounds it: here, the automaton.
fn check_dense(patterns: &[Vec<u8>], texts: &[&[u8]], expected: &[Vec<Span>], options: &ScanOptions) {
    let scanner = Scanner::new(patterns, options).unwrap();
    let dense = Dense::new(&scanner.patterns, options.ignore_ascii_case).unwrap();
    let isolated =
        |start, end, text| options.isolated_from.as_ref().is_none_or(|class| class.isolates(text, start, end));
    for (text, spans) in texts.iter().zip(expected) {
        for (numerator, length) in
            [(0, text.len()), (1, text.len() / 2), (2, text.len() / 3), (2, 70), (1, 130), (1, 0)]
        {
            let from = text.len() * numerator / 5;
            let to = text.len().min(from + length);
            let mut found = Vec::new();
            dense.walk(text, from..to, &mut Notes::default(), |pattern, start, end| {
                found.push(Span { start, end, pattern });
            });
            found.retain(|span| isolated(span.start, span.end, text));
            found.sort_unstable();
            let inside: Vec<Span> = spans.iter().filter(|span| (from..to).contains(&span.start)).copied().collect();
            assert_eq!(found, inside, "{from}..{to} {patterns:?}");
        }
    }
}

#[test]
fn table_of_cases() {
    let long = "abcdefghij".repeat(30);
    let cases: Vec<(&str, Vec<&str>, Vec<String>)> = vec![
        ("empty text", vec!["a", "ab", "abc", "abcd"], vec![String::new()]),
        ("no document", vec!["a"], vec![]),
        ("overlapping", vec!["abab", "baba", "ab", "aba"], vec!["abababababab".into()]),
        ("prefixes", vec!["a", "ab", "abc", "abcd", "abcde", "abcdefghi"], vec!["xabcdefghijabcab".into()]),
        ("suffixes", vec!["fghi", "ghi", "hi", "i", "defghi"], vec!["abcdefghi ghi".into()]),
        ("substrings", vec!["middle", "a middle part", "dd", "iddl"], vec!["it has a middle part".into()]),
        ("duplicates", vec!["Word", "word", "WORD", "word"], vec!["word Word WORD wOrD".into()]),
        ("duplicates of one byte", vec!["x", "X"], vec!["xX".into()]),
        ("begin and end", vec!["begin", "end", "b", "d"], vec!["begin and end".into(), "begin".into(), "end".into()]),
        ("whole text", vec!["this", "thi", "th", "t"], vec!["this".into(), "thi".into(), "th".into(), "t".into()]),
        ("one byte", vec!["\0", "e", "é"], vec!["\0e\0éE".into(), "\0".into()]),
        ("NUL at the end is not padding", vec!["ab\0", "b\0\0", "ab\0\0", "\0"], vec!["ab".into(), "ab\0".into()]),
        ("300 bytes", vec![&long, &long[1..], "jabc"], vec![format!("x{long}{long}y"), long.clone(), long[1..].into()]),
        ("not quite 300 bytes", vec![&long], vec![format!("{}X{}", &long[..150], &long[151..])]),
        ("case", vec!["K", "k@[", "{z`"], vec!["K\u{212a}k k`{ k@[ K@[ {Z` [Z@".into()]),
        ("control characters are no letters", vec!["a1", "b\r\n"], vec!["a\u{11} A1 B\r\n b-*".into()]),
        ("Chinese", vec!["知识", "识", "力量", "是力"], vec!["知识就是力量。知识就是力量。".into()]),
        ("accents", vec!["éa", "naïve", "straße"], vec!["éa éab naïve naïvely ÉA Straße".into()]),
        ("emoji", vec!["👩‍👩‍👧", "👧"], vec!["👩‍👩‍👧‍👦 👧".into()]),
        ("boundaries", vec!["cat", "cat_", "a"], vec!["cat concat cat_ cat. _cat (cat) Cat a".into()]),
        ("a later occurrence is isolated", vec!["fox"], vec!["foxes foxy fox".into()]),
    ];
    for (name, patterns, texts) in cases {
        println!("{name}");
        let patterns: Vec<Vec<u8>> = patterns.iter().map(|pattern| pattern.as_bytes().to_vec()).collect();
        let texts: Vec<&[u8]> = texts.iter().map(String::as_bytes).collect();
        check(&patterns, &texts);
        for text in texts {
            for options in option_table() {
                assert_eq!(automaton(&patterns, text, &options), naive(&patterns, text, &options), "{name}");
            }
        }
    }
}

#[test]
fn every_alignment_and_length() {
    let patterns: Vec<Vec<u8>> = ["q", "qz", "qzx", "qzxj", "wqzxjk", "qzxjkvwq8"].map(|text| text.into()).into();
    let texts: Vec<Vec<u8>> = (0..300)
        .map(|before| {
            let mut text = vec![b'-'; before];
            text.extend(b"wqzxjkvwq8");
            text.extend(std::iter::repeat_n(b'-', before * 7 % 67));
            text
        })
        .collect();
    let texts: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
    check(&patterns, &texts);
}

#[test]
fn a_long_document_and_many_small_ones() {
    let patterns: Vec<Vec<u8>> = ["needle", "ha", "y n", "x"].map(|text| text.into()).into();
    let mut long = b"hay ".repeat(50_000);
    long.extend(b"needle");
    let scanner = Scanner::new(&patterns, &ScanOptions::default()).unwrap();
    let mut results = ScanResults::default();
    scanner.scan(&[&long], ScanRequest::default(), &mut results);
    let counts: Vec<(u32, u64)> = results.hits(0).iter().map(|hit| (hit.pattern, hit.occurrences)).collect();
    assert_eq!(counts, [(0, 1), (1, 50_000), (2, 1)]);
    assert_eq!(results.hits(0)[0].first_end, long.len());

    let small: Vec<&[u8]> = (0..5000).map(|number| if number % 3 == 0 { &b"needle"[..] } else { b"hx" }).collect();
    scanner.scan(&small, ScanRequest::default(), &mut results);
    for number in 0..5000 {
        let expected = if number % 3 == 0 { 0 } else { 3 };
        assert_eq!(results.hits(number).iter().map(|hit| hit.pattern).collect::<Vec<_>>(), [expected]);
    }
}

#[test]
fn an_empty_pattern_is_refused() {
    let error = Scanner::new(["a", ""], &ScanOptions::default()).unwrap_err();
    assert_eq!(error, ScanError::EmptyPattern { pattern: 1 });
}

#[test]
fn without_patterns_nothing_is_found() {
    let scanner = Scanner::new(Vec::<&str>::new(), &ScanOptions::default()).unwrap();
    let mut results = ScanResults::default();
    scanner.scan(&[b"anything at all"], ScanRequest::default(), &mut results);
    assert!(scanner.is_empty() && results.hits(0).is_empty() && !results.is_empty());
}

#[test]
fn many_patterns_agree_with_the_automaton() {
    // Five thousand patterns over a small alphabet: long chains, shared windows, occurrences everywhere.
    let mut state = 7u32;
    let mut next = |bound: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % bound
    };
    let alphabet = "abAB \u{e9}識";
    let characters: Vec<char> = alphabet.chars().collect();
    let mut string = |length: u32| -> Vec<u8> {
        (0..length).map(|_| characters[next(characters.len() as u32) as usize]).collect::<String>().into_bytes()
    };
    let patterns: Vec<Vec<u8>> = (0..5000).map(|number| string(1 + number % 14)).collect();
    let text = string(3000);
    for options in option_table() {
        let expected = automaton(&patterns, &text, &options);
        assert!(expected.len() > 3000);
        for backend in Backend::available() {
            let mut scanner = Scanner::with_backend(&patterns, &options, backend, Plan::default()).unwrap();
            for plan in plans().into_iter().step_by(3) {
                scanner.plan = plan;
                let mut results = ScanResults::default();
                scanner.scan(&[&text], ScanRequest { first: None, spans: true }, &mut results);
                assert_eq!(results.spans(0), expected, "{backend:?} {plan:?}");
            }
        }
    }
}

#[test]
fn the_automaton_is_built_when_a_text_is_dense() {
    let scanner = Scanner::new(["the", "and", "of", "in"], &ScanOptions::default()).unwrap();
    let compiled = scanner.memory();
    let mut results = ScanResults::default();
    let sparse = b"every last word ".repeat(5000);
    let dense = b"and the end of the beginning in the land ".repeat(5000);
    scanner.scan(&[&sparse[..1000], &sparse], ScanRequest::default(), &mut results);
    assert!(scanner.dense.get().is_none());
    scanner.scan(&[&dense], ScanRequest::default(), &mut results);
    assert!(scanner.memory() > compiled);
    let counts: Vec<(u32, u64)> = results.hits(0).iter().map(|hit| (hit.pattern, hit.occurrences)).collect();
    assert_eq!(counts, [(0, 15_000), (1, 10_000), (2, 5000), (3, 15_000)]);
}

#[test]
fn a_list_too_large_for_an_automaton_is_scanned_all_the_same() {
    let long = "ab".repeat(600);
    let scanner = Scanner::new([long.as_str(), "ab", "ba"], &ScanOptions::default()).unwrap();
    let text = "ab".repeat(4000);
    let mut results = ScanResults::default();
    scanner.scan(&[text.as_bytes()], ScanRequest::default(), &mut results);
    let counts: Vec<u64> = results.hits(0).iter().map(|hit| hit.occurrences).collect();
    assert_eq!(counts, [4000 - 599, 4000, 3999]);
    assert!(matches!(scanner.dense.get(), Some(None)), "1,200 bytes are more than the automaton takes");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn small_alphabet(
        patterns in prop::collection::vec("[abAB ]{1,9}|[ab知é]{1,5}", 1..20),
        texts in prop::collection::vec("[abAB 知é]{0,200}", 0..4),
    ) {
        let patterns: Vec<Vec<u8>> = patterns.into_iter().map(String::into_bytes).collect();
        let texts: Vec<&[u8]> = texts.iter().map(String::as_bytes).collect();
        check(&patterns, &texts);
    }

    #[test]
    fn any_bytes(
        patterns in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..4), 1..60),
        text in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        check(&patterns, &[&text]);
    }
}

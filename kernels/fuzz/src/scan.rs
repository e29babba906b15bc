//! The scanner against a comparison of every pattern at every position.

use std::num::{NonZeroU32, NonZeroUsize};

use gristmill_kernels::scan::{
    CharClass, Hit, Occurrences, ScanOptions, ScanRequest, ScanResults, Scanner, Span, Texts,
};
use gristmill_kernels::workers::Serial;

/// Texts are repeated up to this length: long enough for the scanner to see that they are dense and to change its engine.
const LONGEST_TEXT: usize = 6 << 10;

/// What occurrences are isolated from, where they are.
const CLASS: [(char, char); 4] = [('a', 'c'), ('A', 'C'), ('é', 'é'), ('识', '识')];

/// Reads patterns, texts and options from bytes and panics if the scanner finds anything else than the comparison.
///
/// The first bytes are: options, alphabet, repetitions, number of patterns. Then come the patterns, each with a length in front, and the
/// rest is text. Most alphabets are so small that patterns occur.
pub fn check(bytes: &[u8]) {
    let [switches, alphabet, repetitions, count, rest @ ..] = bytes else { return };
    let isolated = switches & 2 != 0;
    let options = ScanOptions {
        ignore_ascii_case: switches & 1 != 0,
        isolated_from: isolated.then(|| CharClass::from_ranges(CLASS)),
    };
    let mut rest: Vec<u8> = rest.iter().flat_map(|byte| letter(*alphabet, *byte)).collect();
    let mut patterns = Vec::new();
    for _ in 0..count % 48 {
        let Some((&length, tail)) = rest.split_first() else { break };
        let length = (usize::from(length) % 17 + 1).min(tail.len());
        if length == 0 {
            break;
        }
        patterns.push(tail[..length].to_vec());
        rest.drain(..=length);
    }
    let times = (usize::from(*repetitions) + 1).min(LONGEST_TEXT / rest.len().max(1) + 1);
    let repeated = rest.repeat(times);
    let texts: [&[u8]; 4] = [&rest, &repeated, &[], &rest[rest.len() / 2..]];

    let scanner = match Scanner::new(&patterns, &options) {
        Ok(scanner) => scanner,
        Err(error) => panic!("{error}"),
    };
    let context = |text: usize| format!("text {text}, {options:?}, {patterns:?}");
    let expected = texts.map(|text| compare(&patterns, text, options.ignore_ascii_case, isolated));
    let mut results = ScanResults::default();
    // The second scan begins in the state that the first one ends in.
    for _ in 0..2 {
        scanner.scan(&texts, ScanRequest { first: None, spans: true }, &mut results);
        for (text, spans) in expected.iter().enumerate() {
            assert_eq!(results.spans(text), spans, "{}", context(text));
            assert_eq!(results.hits(text), hits(spans, None), "{}", context(text));
        }
    }
    for first in [1, 2, 5, usize::MAX] {
        scanner.scan(&texts, ScanRequest { first: NonZeroUsize::new(first), spans: false }, &mut results);
        for (text, spans) in expected.iter().enumerate() {
            assert_eq!(results.hits(text), hits(spans, Some(first)), "the first {first} of {}", context(text));
        }
    }
    check_column(&scanner, texts, &expected);
}

/// The same texts one behind another, with bytes before and behind that are not part of any.
fn check_column(scanner: &Scanner, texts: [&[u8]; 4], expected: &[Vec<Span>; 4]) {
    let mut values = b"ab".to_vec();
    let mut offsets = vec![2_i32];
    for text in texts {
        values.extend_from_slice(text);
        offsets.push(values.len() as i32);
    }
    values.extend_from_slice(b"ab");
    let column = Texts { values: &values[..], offsets: &offsets[..] };
    for limit in [NonZeroU32::MIN, NonZeroU32::MIN.saturating_add(2), NonZeroU32::MAX] {
        let mut distinct = [0; 4];
        assert_eq!(scanner.distinct(&Serial, column, limit, &mut distinct), Ok(()));
        let hits = expected.each_ref().map(|spans| hits(spans, Some(limit.get() as usize)).len() as u32);
        assert_eq!(distinct, hits, "at most {limit}");
    }
    let mut list: Vec<(u32, i64, u32)> = Vec::new();
    for (text, spans) in expected.iter().enumerate() {
        list.extend(spans.iter().map(|span| (text as u32, span.start as i64, span.pattern)));
    }
    list.sort_unstable();
    let (mut numbers, mut patterns) = (vec![0; list.len()], vec![0; list.len()]);
    let (mut starts, mut total) = (vec![0; list.len()], [0]);
    let into =
        Occurrences { texts: &mut numbers[..], patterns: &mut patterns, starts: &mut starts[..], total: &mut total };
    assert_eq!(scanner.occurrences(&Serial, column, into), Ok(()));
    assert_eq!(total, [list.len() as i64]);
    for (place, (text, start, pattern)) in list.into_iter().enumerate() {
        assert_eq!((numbers[place], starts[place], patterns[place]), (text, start, pattern), "occurrence {place}");
    }
}

/// What a byte stands for in a text or pattern.
fn letter(alphabet: u8, byte: u8) -> Vec<u8> {
    let of = |letters: &[&str]| letters[usize::from(byte) % letters.len()].as_bytes().to_vec();
    match alphabet % 4 {
        0 => vec![byte],
        1 => of(&["a", "b"]),
        2 => of(&["a", "B", "b", " ", "é", "知"]),
        _ => of(&["a", "A", "b", "c", "d", "e", "@", "\0", "`", "{", " ", "识", "."]),
    }
}

fn compare(patterns: &[Vec<u8>], text: &[u8], ignore_case: bool, isolated: bool) -> Vec<Span> {
    let mut spans = Vec::new();
    for start in 0..text.len() {
        for (number, pattern) in patterns.iter().enumerate() {
            let end = start + pattern.len();
            let Some(found) = text.get(start..end) else { continue };
            let equal = if ignore_case { found.eq_ignore_ascii_case(pattern) } else { found == pattern };
            if equal && !(isolated && (is_member_before(text, start) || is_member_behind(text, end))) {
                spans.push(Span { start, end, pattern: number as u32 });
            }
        }
    }
    spans.sort_unstable();
    spans
}

/// Whether the bytes that end here are, for some length, one character of the class.
fn is_member_before(text: &[u8], end: usize) -> bool {
    (1..=4.min(end)).any(|length| is_member(&text[end - length..end]))
}

/// Whether the bytes that begin here are, for some length, one character of the class.
fn is_member_behind(text: &[u8], start: usize) -> bool {
    (1..=4.min(text.len() - start)).any(|length| is_member(&text[start..start + length]))
}

fn is_member(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let mut characters = text.chars();
    let (first, second) = (characters.next(), characters.next());
    second.is_none() && first.is_some_and(|character| CLASS.iter().any(|(from, to)| (*from..=*to).contains(&character)))
}

fn hits(spans: &[Span], first: Option<usize>) -> Vec<Hit> {
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

//! The table of cases. The reference looks up the bytes at every position among the patterns, for each length that they have.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::{CharClass, Occurrences, Offset, ScanOptions, Scanner, Table, Texts};
use crate::check::{AnyBuffer, Expected, Family, HostBuffer, Part, Problem, Random, Tolerance, Work};
use crate::launch::{DType, Launch, ShapeError};
use crate::workers::Workers;

pub(crate) const FAMILY: Family = Family { name: "scan", cases, benches };

/// What is asked.
#[derive(Clone, Copy, PartialEq)]
enum Question {
    /// Distinct patterns, at most so many.
    Distinct(NonZeroU32),
    /// All occurrences, with room for as many as there are and some more, or less.
    Occurrences(i64),
}

/// Patterns, compiled.
struct List {
    patterns: Vec<Vec<u8>>,
    options: ScanOptions,
    scanner: Scanner,
    table: Table,
}

#[derive(Clone)]
struct Case {
    list: Arc<List>,
    question: Question,
    /// The values begin behind so many bytes of the buffer.
    skip: usize,
    buffer: Vec<u8>,
    /// 32 or 64 bits wide.
    offsets: HostBuffer,
    /// (text, start, pattern) of all occurrences, in this order.
    expected: Vec<(usize, usize, u32)>,
}

fn list(patterns: Vec<Vec<u8>>, ignore_ascii_case: bool, isolated: bool) -> Arc<List> {
    let class = || {
        CharClass::from_ranges([('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z'), ('ß', 'ÿ'), ('一', '龥'), ('𝐀', '𝐙')])
    };
    let options = ScanOptions { ignore_ascii_case, isolated_from: isolated.then(class) };
    #[allow(clippy::expect_used, reason = "the lists of cases have neither empty nor very long patterns")]
    let (scanner, table) = {
        let scanner = Scanner::new(&patterns, &options).expect("patterns that can be compiled");
        let table = Table::new(&scanner).expect("patterns that fit the tables");
        (scanner, table)
    };
    Arc::new(List { patterns, options, scanner, table })
}

fn cases(seed: u64) -> Vec<Box<dyn Problem>> {
    let mut random = Random::new(seed);
    let mut all = Vec::new();
    let mut add = |list: &Arc<List>, texts: &[Vec<u8>], question, random: &mut Random| {
        // Bytes before and behind the texts would make occurrences if they were looked at.
        let padding = [random.below(40), random.below(40)];
        let around: Vec<u8> = list.patterns.iter().flatten().copied().cycle().take(40).collect();
        let around = |length: usize| around.get(..length).unwrap_or_default();
        let skip = random.below(17);
        let mut buffer = [vec![b'a'; skip].as_slice(), around(padding[0])].concat();
        let mut offsets = vec![(buffer.len() - skip) as i64];
        for text in texts {
            buffer.extend(text);
            offsets.push((buffer.len() - skip) as i64);
        }
        buffer.extend(around(padding[1]));
        all.push(Case::new(list, question, skip, buffer, offsets, random.below(2) == 0));
    };
    let limits = [1, 2, 3, u32::MAX].map(|limit| Question::Distinct(NonZeroU32::new(limit).unwrap_or(NonZeroU32::MIN)));
    let questions = [limits.as_slice(), &[0, 3, -1, i64::MIN].map(Question::Occurrences)].concat();

    // Every list with every way of comparing, on texts made by hand.
    let (by_hand, texts) = by_hand();
    for (number, question) in questions.iter().enumerate() {
        add(&list(by_hand.clone(), number % 2 == 0, number % 4 < 2), &texts, *question, &mut random);
    }
    // No text, texts without bytes, one byte, and no patterns.
    for (number, texts) in [vec![], vec![vec![]], vec![vec![]; 5], vec![b"x".to_vec()]].iter().enumerate() {
        let one = list(vec![b"x".to_vec(), b"ab".to_vec()], true, false);
        add(&one, texts, questions[number], &mut random);
        add(&one, texts, questions[4 + number], &mut random);
        add(&list(vec![], true, true), texts, questions[7 - number], &mut random);
    }
    // A small alphabet: chains of patterns, occurrences everywhere, all lengths from one byte on; many short texts, one long one.
    for (number, letters) in
        [&b"ab"[..], b"aAbB \xc3\xa9", b"\x80\xc3\xa9\xe7\x9f\xa5\xed\xa0 A", b"abcdefghijklm"].iter().enumerate()
    {
        let string = |length: usize, random: &mut Random| -> Vec<u8> {
            (0..length).map(|_| letters[random.below(letters.len())]).collect()
        };
        let patterns = (0..40).map(|pattern| string(1 + pattern % 9, &mut random)).collect();
        let dense = list(patterns, number % 2 == 0, number > 0);
        let tiny: Vec<_> = (0..700).map(|_| string(random.below(4), &mut random)).collect();
        let some: Vec<_> = some_texts(6, 300, &mut random, string);
        let long = vec![string(9000, &mut random)];
        for (texts, question) in [(&tiny, 1), (&tiny, 4), (&some, 0), (&some, 5), (&long, 2), (&long, 4)] {
            add(&dense, texts, questions[question], &mut random);
        }
    }
    // Lists of ordinary size.
    for (count, question) in [(900, 1), (2_000, 4), (6_000, 3), (20_000, 4)] {
        let words = words(count, &mut random);
        let texts = some_texts(9, 900, &mut random, |length, random| prose(&words, length, random));
        add(&list(words, true, false), &texts, questions[question], &mut random);
    }
    // So many tiles that their counts are added up by two blocks, all but a few of which have no texts.
    let words = words(50, &mut random);
    let begin = 1020 * 2048 + random.below(2048);
    let mut buffer = vec![b' '; begin];
    buffer.extend(prose(&words, 30_000, &mut random));
    let offsets = vec![begin as i64, begin as i64 + 20_000, buffer.len() as i64];
    buffer.extend(vec![b' '; 3000]);
    all.push(Case::new(&list(words, true, false), Question::Occurrences(0), 0, buffer, offsets, true));
    all.into_iter().map(|case| Box::new(case) as Box<dyn Problem>).collect()
}

/// Texts of lengths that find mistakes.
fn some_texts(
    count: usize,
    most: usize,
    random: &mut Random,
    text: impl Fn(usize, &mut Random) -> Vec<u8>,
) -> Vec<Vec<u8>> {
    (0..count)
        .map(|_| {
            let length = random.length(most);
            text(length, random)
        })
        .collect()
}

/// Patterns that overlap, contain one another, are equal, have bytes beyond ASCII, and are longer than a strip of a kernel.
fn by_hand() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let long = "abcdefghij".repeat(31);
    let patterns: [&[u8]; 25] = [
        b"a",
        b"ab",
        b"abc",
        b"abcd",
        b"abcde",
        b"bcdefghijabc",
        b"cde",
        b"word",
        b"Word",
        b"WORD",
        b"word",
        b"x",
        b"X",
        "é".as_bytes(),
        "éa".as_bytes(),
        "知识".as_bytes(),
        "识".as_bytes(),
        b"\xff\xfe",
        b"\x80",
        b"K",
        b"k@[",
        b"{z`",
        long.as_bytes(),
        &long.as_bytes()[1..],
        b"end",
    ];
    let texts: [&[u8]; 19] = [
        b"abcde",
        b"ab",
        b"cd",
        b"word Word WORD wOrD words sword",
        b"",
        b"",
        b"xX_x x",
        "éa éab naïve É 知识就是知识".as_bytes(),
        b"\xff\xfe\x80\x80a\xe7\x9fa",
        b"k{ k@[ K@[ {Z` [Z@",
        "x\u{10ffff}x 𝐀x x𝐀 知x \u{fffd}x".as_bytes(),
        b"a\x80a\xc3a\xed\xa0\x80a\xf0\x80\x80\x80a\xf5\x80\x80\x80a",
        b"wor",
        b"d",
        b"en",
        b"d",
        b"the end",
        b"end",
        b"e\xcc\x81a_a9a9",
    ];
    let mut texts: Vec<Vec<u8>> = texts.iter().map(|text| text.to_vec()).collect();
    texts.push(format!("x{long}{long}y{}", &long[1..]).into());
    (patterns.iter().map(|pattern| pattern.to_vec()).collect(), texts)
}

/// Words of letters as frequent as in English.
fn words(count: usize, random: &mut Random) -> Vec<Vec<u8>> {
    const LETTERS: &[u8] =
        b"eeeeeeeeeeeetttttttttaaaaaaaaooooooooiiiiiiinnnnnnnsssssshhhhhhrrrrrrddddllllcccuuummmwwffggyyppbbvkjxqz";
    (0..count)
        .map(|_| {
            let length = 4 + random.below(4) + random.below(5);
            (0..length).map(|_| LETTERS[random.below(LETTERS.len())]).collect()
        })
        .collect()
}

/// Words that mostly are not of the list, in lower and upper case.
fn prose(list: &[Vec<u8>], length: usize, random: &mut Random) -> Vec<u8> {
    let others = words(2000, random);
    let mut text = Vec::with_capacity(length + 32);
    while text.len() < length {
        let from = if random.below(40) == 0 { list } else { &others };
        let Some(word) = from.get(random.below(from.len())) else { break };
        let upper = random.below(8) == 0;
        text.extend(word.iter().map(|byte| if upper { byte.to_ascii_uppercase() } else { *byte }));
        text.push(b' ');
    }
    text.truncate(length);
    text
}

fn benches(bytes: usize) -> Vec<Box<dyn Problem>> {
    let mut all: Vec<Box<dyn Problem>> = Vec::new();
    for (count, length) in [(2_000, 3000), (6_000, 3000), (6_000, 200), (6_000, bytes), (100_000, 3000)] {
        let mut random = Random::new(1);
        let list = list(words(count, &mut random), true, false);
        let buffer = prose(&list.patterns, bytes, &mut random);
        let texts = (bytes / length).max(1);
        let offsets: Vec<i64> = (0..=texts).map(|text| (text * bytes / texts) as i64).collect();
        let limit = Question::Distinct(NonZeroU32::MIN.saturating_add(1));
        let case = Case::new(&list, limit, 0, buffer, offsets, false);
        if length == 3000 {
            all.push(Box::new(Case { question: Question::Occurrences(0), ..case.clone() }));
        }
        all.push(Box::new(case));
    }
    all
}

/// Every occurrence, by looking up the bytes at each position.
fn reference(list: &List, values: &[u8], offsets: &[i64]) -> Vec<(usize, usize, u32)> {
    let fold = |byte: u8| if list.options.ignore_ascii_case { byte.to_ascii_lowercase() } else { byte };
    let folded: Vec<u8> = values.iter().map(|byte| fold(*byte)).collect();
    let mut patterns: HashMap<Vec<u8>, Vec<u32>> = HashMap::new();
    // How patterns begin, so that most positions are passed over quickly.
    let common = list.patterns.iter().map(Vec::len).min().unwrap_or(0).min(4);
    let place = |bytes: &[u8]| {
        let hash = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        (bytes.iter().fold(0x811c_9dc5, hash) >> 12) as usize
    };
    let mut begins = vec![false; 1 << 20];
    let mut lengths = Vec::new();
    for (number, pattern) in list.patterns.iter().enumerate() {
        let pattern: Vec<u8> = pattern.iter().map(|byte| fold(*byte)).collect();
        begins[place(&pattern[..common])] = true;
        lengths.push(pattern.len());
        patterns.entry(pattern).or_default().push(number as u32);
    }
    lengths.sort_unstable();
    lengths.dedup();
    let mut found = Vec::new();
    for (number, ends) in offsets.windows(2).enumerate() {
        let (text, folded) = (ends[0] as usize..ends[1] as usize, &folded[ends[0] as usize..ends[1] as usize]);
        for start in 0..folded.len() {
            if !folded.get(start..start + common).is_some_and(|bytes| begins[place(bytes)]) {
                continue;
            }
            let begin = found.len();
            for length in &lengths {
                let Some(numbers) = folded.get(start..start + length).and_then(|bytes| patterns.get(bytes)) else {
                    continue;
                };
                let class = list.options.isolated_from.as_ref();
                if class.is_none_or(|class| class.isolates(&values[text.clone()], start, start + length)) {
                    found.extend(numbers.iter().map(|pattern| (number, start, *pattern)));
                }
            }
            found[begin..].sort_unstable();
        }
    }
    found
}

impl Case {
    fn new(list: &Arc<List>, question: Question, skip: usize, buffer: Vec<u8>, offsets: Vec<i64>, wide: bool) -> Self {
        let expected = reference(list, &buffer[skip..], &offsets);
        let offsets: HostBuffer = match offsets.iter().map(|offset| i32::try_from(*offset)).collect() {
            Ok(narrow) if !wide => HostBuffer::I32(narrow),
            _ => HostBuffer::I64(offsets),
        };
        Self { list: Arc::clone(list), question, skip, buffer, offsets, expected }
    }

    fn texts(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    fn values(&self) -> usize {
        self.buffer.len() - self.skip
    }

    fn room(&self) -> usize {
        match self.question {
            Question::Distinct(_) => 0,
            Question::Occurrences(more) => (self.expected.len() as i64).saturating_add(more).max(0) as usize,
        }
    }

    fn typed_cpu<O: Offset>(
        &self,
        workers: &dyn Workers,
        values: &[u8],
        offsets: &[O],
        outputs: &mut [HostBuffer],
    ) -> Option<Result<(), ShapeError>> {
        let texts = Texts { values, offsets };
        match (self.question, outputs) {
            (Question::Distinct(limit), [distinct, _]) => {
                Some(self.list.scanner.distinct(workers, texts, limit, distinct.u32_mut()?))
            }
            (Question::Occurrences(_), [numbers, patterns, starts, total, _]) => {
                let into = Occurrences {
                    texts: numbers.u32_mut()?,
                    patterns: patterns.u32_mut()?,
                    starts: starts.i64_mut()?,
                    total: total.i64_mut()?,
                };
                Some(self.list.scanner.occurrences(workers, texts, into))
            }
            _ => None,
        }
    }

    fn typed_launches<'a, O: Offset>(
        &self,
        inputs: &[AnyBuffer<'a>],
        outputs: &[AnyBuffer<'a>],
    ) -> Result<Vec<Launch<'a>>, ShapeError> {
        let table = inputs[0].read()?;
        let texts = Texts { values: inputs[1].read::<u8>()?.skip(self.skip), offsets: inputs[2].read::<O>()? };
        match self.question {
            Question::Distinct(limit) => {
                self.list.table.distinct_launches(table, texts, limit, outputs[0].write()?, outputs[1].write()?)
            }
            Question::Occurrences(_) => {
                let into = Occurrences {
                    texts: outputs[0].write()?,
                    patterns: outputs[1].write()?,
                    starts: outputs[2].write()?,
                    total: outputs[3].write()?,
                };
                self.list.table.occurrences_launches(table, texts, into, outputs[4].write()?)
            }
        }
    }
}

impl Problem for Case {
    fn label(&self) -> String {
        let question = match self.question {
            Question::Distinct(limit) => format!("up to {limit} distinct patterns"),
            Question::Occurrences(more) => format!("occurrences, room for {more} more"),
        };
        let options = &self.list.options;
        let case = if options.ignore_ascii_case { "any case" } else { "exact" };
        let isolated = if options.isolated_from.is_some() { ", isolated" } else { "" };
        let (patterns, texts, values) = (self.list.patterns.len(), self.texts(), self.values());
        let (skip, offsets) = (self.skip, self.offsets.dtype());
        format!("{question} of {patterns}, {case}{isolated}, {texts} texts, {values} bytes from {skip}, {offsets}")
    }

    fn inputs(&self) -> Vec<HostBuffer> {
        vec![self.list.table.words().to_vec().into(), self.buffer.clone().into(), self.offsets.clone()]
    }

    fn outputs(&self) -> Vec<HostBuffer> {
        let (zeros, room) = (HostBuffer::zeros, self.room());
        let table = &self.list.table;
        match self.question {
            Question::Distinct(limit) => {
                let workspace = table.distinct_workspace_len(self.values(), self.texts(), limit);
                vec![zeros(DType::U32, self.texts()), zeros(DType::U32, workspace)]
            }
            Question::Occurrences(_) => {
                let workspace = table.occurrences_workspace_len(self.values(), room);
                let columns = [(DType::U32, room), (DType::U32, room), (DType::I64, room), (DType::I64, 1)];
                let mut outputs: Vec<_> = columns.map(|(dtype, length)| zeros(dtype, length)).into();
                outputs.push(zeros(DType::I64, workspace));
                outputs
            }
        }
    }

    fn expected(&self) -> Vec<Expected> {
        let exact = |values: Vec<f64>| Expected::values(values, Tolerance::EXACT);
        match self.question {
            Question::Distinct(limit) => {
                let mut pairs: Vec<_> = self.expected.iter().map(|(text, _, pattern)| (*text, *pattern)).collect();
                pairs.sort_unstable();
                pairs.dedup();
                let mut distinct = vec![0_u32; self.texts()];
                pairs.iter().for_each(|(text, _)| distinct[*text] += 1);
                let limited = distinct.iter().map(|distinct| f64::from(*distinct.min(&limit.get()))).collect();
                vec![exact(limited), Expected::anything()]
            }
            Question::Occurrences(_) => {
                let room = self.room();
                let total = exact(vec![self.expected.len() as f64]);
                let column = |value: fn(&(usize, usize, u32)) -> f64| {
                    if self.expected.len() > room {
                        return Expected::anything();
                    }
                    let mut values: Vec<f64> = self.expected.iter().map(value).collect();
                    values.resize(room, 0.0);
                    exact(values)
                };
                let texts = column(|(text, ..)| *text as f64);
                let patterns = column(|(_, _, pattern)| f64::from(*pattern));
                let starts = column(|(_, start, _)| *start as f64);
                vec![texts, patterns, starts, total, Expected::anything()]
            }
        }
    }

    fn cpu(
        &self,
        workers: &dyn Workers,
        inputs: &[HostBuffer],
        outputs: &mut [HostBuffer],
    ) -> Option<Result<(), ShapeError>> {
        let values = &inputs[1].u8()?[self.skip..];
        match &inputs[2] {
            HostBuffer::I32(offsets) => self.typed_cpu(workers, values, offsets, outputs),
            HostBuffer::I64(offsets) => self.typed_cpu(workers, values, offsets, outputs),
            _ => None,
        }
    }

    fn launches<'a>(&self, inputs: &[AnyBuffer<'a>], outputs: &[AnyBuffer<'a>]) -> Result<Vec<Launch<'a>>, ShapeError> {
        if self.offsets.dtype() == DType::I64 {
            self.typed_launches::<i64>(inputs, outputs)
        } else {
            self.typed_launches::<i32>(inputs, outputs)
        }
    }

    fn parts(&self) -> Vec<Part> {
        // The text with most bytes.
        let offsets: Vec<i64> = self.offsets.to_f64().iter().map(|offset| *offset as i64).collect();
        let length = |text: &usize| offsets[text + 1] - offsets[*text];
        let Some(text) = (0..self.texts()).max_by_key(length) else { return Vec::new() };
        let buffer = self.buffer[self.skip..][offsets[text] as usize..offsets[text + 1] as usize].to_vec();
        let alone = Self::new(&self.list, self.question, 0, buffer, vec![0, length(&text)], false);
        let pieces = match self.question {
            Question::Distinct(_) => vec![(0, text..text + 1)],
            Question::Occurrences(more) if more >= 0 => {
                let begin = self.expected.partition_point(|(before, ..)| *before < text);
                let found = begin..begin + alone.expected.len();
                vec![(1, found.clone()), (2, found)]
            }
            Question::Occurrences(_) => return Vec::new(),
        };
        let question = match self.question {
            Question::Occurrences(_) => Question::Occurrences(0),
            distinct @ Question::Distinct(_) => distinct,
        };
        vec![Part { problem: Box::new(Self { question, ..alone }), pieces }]
    }

    fn work(&self) -> Work {
        let read = self.values() + self.offsets.bytes().len();
        let written = match self.question {
            Question::Distinct(_) => 4 * self.texts(),
            Question::Occurrences(_) => 16 * self.expected.len(),
        };
        Work { bytes: (read + written) as f64, operations: 0.0 }
    }
}

//! Patterns of paths.
//!
//! A pattern is matched part by part, so that a listing can leave out folders in which nothing can match. `*`, `?`, `[…]`
//! and `{a,b}` stay within one part of the path, `**` stands for any number of folders. Digits with two dots between
//! them are a range: `{00000..00127}`. As with shells and data tools, a wildcard does not match a name that begins with
//! a dot, nor a folder that begins with an underscore, unless the part of the pattern begins so, too.

/// How many alternatives the braces of one pattern may unfold to.
const MOST_ALTERNATIVES: usize = 10_000;

/// A pattern of paths, `/` between the parts.
#[derive(Debug)]
pub(crate) struct Pattern {
    text: String,
    /// More than one where the pattern has braces.
    alternatives: Vec<Vec<Part>>,
}

#[derive(Debug)]
enum Part {
    Literal(String),
    Wild(Vec<Token>),
    AnyDepth,
}

/// What stands for letters within one part.
#[derive(Debug)]
enum Token {
    /// This letter.
    Letter(char),
    /// `?`: any letter.
    Any,
    /// `*`: any letters or none.
    Run,
    /// `[a-z_]`, or `[!a-z_]` where negated.
    Class { ranges: Vec<(char, char)>, is_negated: bool },
    /// A number of so many digits between two others.
    Number { first: u64, last: u64, digits: usize },
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        if text.contains(NUMBER) {
            return Err("a path holds no NUL".to_owned());
        }
        let mut texts = vec![text.to_owned()];
        // The first choice is unfolded until there is none; `texts` stays in the order of the choices.
        let mut position = 0;
        while let Some(text) = texts.get(position) {
            let Some(braces) = Braces::find(text)? else {
                position += 1;
                continue;
            };
            let (before, after) = (text[..braces.start].to_owned(), text[braces.end..].to_owned());
            let unfolded: Vec<String> =
                braces.choices.iter().map(|choice| format!("{before}{choice}{after}")).collect();
            texts.splice(position..=position, unfolded);
            if texts.len() > MOST_ALTERNATIVES {
                return Err(format!("the braces stand for more than {MOST_ALTERNATIVES} alternatives"));
            }
        }
        let alternatives = texts.iter().map(|text| parts(text)).collect::<Result<_, _>>()?;
        Ok(Self { text: text.to_owned(), alternatives })
    }

    /// Everything below a folder, whose name is taken as it is.
    pub(crate) fn below(folder: &str) -> Self {
        let names = folder.split('/').filter(|name| !name.is_empty()).map(|name| Part::Literal(name.to_owned()));
        Self { text: folder.to_owned(), alternatives: vec![names.chain([Part::AnyDepth]).collect()] }
    }

    /// The path without wildcards, if there are none.
    pub(crate) fn literal(&self) -> Option<String> {
        let [alternative] = self.alternatives.as_slice() else { return None };
        let mut path = Vec::new();
        for part in alternative {
            match part {
                Part::Literal(name) => path.push(name.as_str()),
                _ => return None,
            }
        }
        Some(path.join("/"))
    }

    /// The folder below which all matches lie, without slashes at its ends.
    pub(crate) fn root(&self) -> String {
        let mut common: Option<Vec<&str>> = None;
        for alternative in &self.alternatives {
            let folders = alternative.iter().take(alternative.len().saturating_sub(1));
            let literal: Vec<&str> = folders
                .map_while(|part| match part {
                    Part::Literal(name) => Some(name.as_str()),
                    _ => None,
                })
                .collect();
            common = Some(match common {
                None => literal,
                Some(common) => {
                    let shared = common.iter().zip(&literal).take_while(|(left, right)| left == right).count();
                    literal[..shared].to_vec()
                }
            });
        }
        common.unwrap_or_default().join("/")
    }

    /// Whether everything below a folder is meant, as by `folder/**`.
    pub(crate) fn is_whole_folder(&self) -> bool {
        self.alternatives.iter().all(|parts| matches!(parts.last(), Some(Part::AnyDepth)))
    }

    /// Whether all matches lie directly in the root.
    #[cfg(feature = "hf")]
    pub(crate) fn is_flat(&self) -> bool {
        let depth = self.root().split('/').filter(|name| !name.is_empty()).count() + 1;
        self.alternatives.iter().all(|parts| parts.len() == depth && !matches!(parts.last(), Some(Part::AnyDepth)))
    }

    /// Whether the name of the file itself is written out, without wildcards.
    pub(crate) fn names_file(&self) -> bool {
        self.alternatives.iter().all(|parts| matches!(parts.last(), Some(Part::Literal(_))))
    }

    /// Whether the file at `path` is meant. A path that equals the pattern is, whatever its letters.
    pub(crate) fn matches(&self, path: &str) -> bool {
        let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        path.trim_start_matches('/') == self.text.trim_start_matches('/')
            || self.alternatives.iter().any(|parts| {
                let mut states = closure(parts, vec![0]);
                for (index, name) in names.iter().enumerate() {
                    states = step(parts, &states, name, index + 1 == names.len());
                }
                states.contains(&parts.len())
            })
    }

    /// Whether a file below `folder` can match.
    pub(crate) fn may_match_below(&self, folder: &str) -> bool {
        let names: Vec<&str> = folder.split('/').filter(|name| !name.is_empty()).collect();
        self.alternatives.iter().any(|parts| {
            let mut states = closure(parts, vec![0]);
            for name in &names {
                states = step(parts, &states, name, false);
            }
            states.iter().any(|state| *state < parts.len())
        })
    }

    /// Whether all folders below `folder` are of interest, to whatever depth.
    pub(crate) fn any_depth_below(&self, folder: &str) -> bool {
        let names: Vec<&str> = folder.split('/').filter(|name| !name.is_empty()).collect();
        self.alternatives.iter().any(|parts| {
            let mut states = closure(parts, vec![0]);
            for name in &names {
                states = step(parts, &states, name, false);
            }
            states.iter().any(|state| matches!(parts.get(*state), Some(Part::AnyDepth)))
        })
    }
}

/// Whether data tools pass over a name that no pattern spells out.
pub(crate) fn is_hidden(name: &str, is_file: bool) -> bool {
    name.starts_with('.') || (!is_file && name.starts_with('_'))
}

/// The positions that can be reached without consuming a name: past every `**`.
fn closure(parts: &[Part], mut states: Vec<usize>) -> Vec<usize> {
    let mut index = 0;
    while let Some(state) = states.get(index).copied() {
        if matches!(parts.get(state), Some(Part::AnyDepth)) && !states.contains(&(state + 1)) {
            states.push(state + 1);
        }
        index += 1;
    }
    states
}

fn step(parts: &[Part], states: &[usize], name: &str, is_file: bool) -> Vec<usize> {
    let mut next = Vec::new();
    for state in states {
        let reached = match parts.get(*state) {
            Some(Part::Literal(literal)) if literal == name => state + 1,
            Some(Part::Wild(tokens))
                if (!is_hidden(name, is_file) || spells_out(tokens, name)) && token_match(tokens, name) =>
            {
                state + 1
            }
            Some(Part::AnyDepth) if !is_hidden(name, is_file) => *state,
            _ => continue,
        };
        if !next.contains(&reached) {
            next.push(reached);
        }
    }
    closure(parts, next)
}

fn parts(text: &str) -> Result<Vec<Part>, String> {
    text.split('/')
        .filter(|part| !part.is_empty())
        .map(|part| {
            if part == "**" {
                return Ok(Part::AnyDepth);
            }
            if part.contains("**") {
                return Err(format!("'**' stands alone between slashes; '{part}' mixes it with other letters"));
            }
            let tokens = tokens(part)?;
            let literal: Option<String> = tokens
                .iter()
                .map(|token| match token {
                    Token::Letter(letter) => Some(*letter),
                    _ => None,
                })
                .collect();
            Ok(literal.map_or(Part::Wild(tokens), Part::Literal))
        })
        .collect()
}

fn tokens(part: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = part;
    while let Some(letter) = rest.chars().next() {
        rest = &rest[letter.len_utf8()..];
        tokens.push(match letter {
            '*' => Token::Run,
            '?' => Token::Any,
            '[' => {
                let (class, after) = class(rest).ok_or_else(|| format!("'[' in '{part}' has no ']'"))?;
                rest = after;
                class
            }
            NUMBER => {
                let (number, after) = number(rest).ok_or_else(|| format!("'{part}' is malformed"))?;
                rest = after;
                number
            }
            '\\' => {
                let escaped = rest.chars().next().unwrap_or('\\');
                rest = rest.get(escaped.len_utf8()..).unwrap_or_default();
                Token::Letter(escaped)
            }
            other => Token::Letter(other),
        });
    }
    Ok(tokens)
}

/// What follows `[`: the class and the rest. A `]` at the begin is a letter of the class.
fn class(text: &str) -> Option<(Token, &str)> {
    let body = text.strip_prefix(['!', '^']).unwrap_or(text);
    let end = body.char_indices().skip(1).find(|(_, letter)| *letter == ']')?.0;
    let letters: Vec<char> = body[..end].chars().collect();
    let mut ranges = Vec::new();
    let mut index = 0;
    while let Some(first) = letters.get(index) {
        match (letters.get(index + 1), letters.get(index + 2)) {
            (Some('-'), Some(last)) => {
                ranges.push((*first, *last));
                index += 3;
            }
            _ => {
                ranges.push((*first, *first));
                index += 1;
            }
        }
    }
    Some((Token::Class { ranges, is_negated: body.len() < text.len() }, &body[end + 1..]))
}

/// Matches letter by letter; at a dead end the last run takes one letter more.
fn token_match(tokens: &[Token], name: &str) -> bool {
    let letters: Vec<char> = name.chars().collect();
    let (mut token, mut letter) = (0, 0);
    let mut run: Option<(usize, usize)> = None;
    loop {
        match tokens.get(token) {
            Some(Token::Run) => {
                run = Some((token, letter));
                token += 1;
                continue;
            }
            Some(other) => {
                if let Some(length) = other.length_at(&letters[letter..]) {
                    token += 1;
                    letter += length;
                    continue;
                }
            }
            None if letter == letters.len() => return true,
            None => {}
        }
        let Some((begin, taken)) = run.filter(|(_, taken)| *taken < letters.len()) else { return false };
        run = Some((begin, taken + 1));
        (token, letter) = (begin + 1, taken + 1);
    }
}

impl Token {
    /// How many letters the token stands for here, if it fits.
    fn length_at(&self, letters: &[char]) -> Option<usize> {
        let letter = letters.first();
        match self {
            Self::Letter(own) => (letter? == own).then_some(1),
            Self::Any => letter.map(|_| 1),
            Self::Run => Some(0),
            Self::Class { ranges, is_negated } => {
                let letter = letter?;
                let is_inside = ranges.iter().any(|(first, last)| (first..=last).contains(&letter));
                (is_inside != *is_negated).then_some(1)
            }
            Self::Number { first, last, digits } => {
                let digits = letters.get(..*digits)?;
                let value = digits.iter().try_fold(0_u64, |value, digit| {
                    value.checked_mul(10)?.checked_add(u64::from(digit.to_digit(10)?))
                })?;
                (first..=last).contains(&&value).then_some(digits.len())
            }
        }
    }
}

/// Whether the pattern itself begins with the letter that makes a name hidden.
fn spells_out(tokens: &[Token], name: &str) -> bool {
    matches!(tokens.first(), Some(Token::Letter(letter)) if name.starts_with(*letter))
}

/// Marks a range of numbers in a pattern whose braces are unfolded; no path holds it.
const NUMBER: char = '\0';

/// A group of braces in a pattern, without the braces inside it.
struct Braces {
    start: usize,
    end: usize,
    choices: Vec<String>,
}

impl Braces {
    /// The first outermost group.
    fn find(text: &str) -> Result<Option<Self>, String> {
        let mut depth = 0_usize;
        let mut start = 0;
        let mut begins = Vec::new();
        let mut choices: Vec<String> = Vec::new();
        let mut is_escaped = false;
        for (index, letter) in text.char_indices() {
            if is_escaped {
                is_escaped = false;
                continue;
            }
            match letter {
                '\\' => is_escaped = true,
                '{' => {
                    depth += 1;
                    if depth == 1 {
                        (start, begins) = (index, vec![index + 1]);
                    }
                }
                ',' if depth == 1 => begins.push(index + 1),
                '}' if depth > 0 => {
                    depth -= 1;
                    if depth == 0 {
                        let ends = begins.iter().skip(1).map(|begin| begin - 1).chain([index]);
                        choices.extend(begins.iter().zip(ends).map(|(begin, end)| text[*begin..end].to_owned()));
                        if let [only] = choices.as_slice()
                            && let Some(numbers) = numbers(only)?
                        {
                            choices = numbers;
                        }
                        return Ok(Some(Self { start, end: index + 1, choices }));
                    }
                }
                _ => {}
            }
        }
        if depth > 0 {
            return Err(format!("'{{' in '{text}' has no '}}'"));
        }
        Ok(None)
    }
}

/// Unfolds `8..11` to one range for each number of digits, `8..9` and `10..11`. A zero in front says that all numbers have
/// as many digits as the wider end, as in shells.
fn numbers(text: &str) -> Result<Option<Vec<String>>, String> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let Some((first, last)) = text.split_once("..").filter(|(first, last)| is_number(first) && is_number(last)) else {
        return Ok(None);
    };
    let is_padded = [first, last].iter().any(|end| end.len() > 1 && end.starts_with('0'));
    let width = first.len().max(last.len());
    let bounds = first.parse::<u64>().ok().zip(last.parse::<u64>().ok()).filter(|(first, last)| first <= last);
    let Some((first, last)) = bounds else { return Err(format!("the range '{{{text}}}' does not ascend")) };
    let written = |first: u64, last: u64, digits: usize| format!("{NUMBER}{first}-{last}-{digits};");
    if is_padded {
        return Ok(Some(vec![written(first, last, width)]));
    }
    let mut ranges = Vec::new();
    let mut begin = first;
    loop {
        let digits = begin.to_string().len();
        let end =
            10_u64.checked_pow(u32::try_from(digits).unwrap_or(u32::MAX)).map_or(last, |next| (next - 1).min(last));
        ranges.push(written(begin, end, digits));
        if end == last {
            return Ok(Some(ranges));
        }
        begin = end + 1;
    }
}

/// Reads what [`numbers`] wrote.
fn number(text: &str) -> Option<(Token, &str)> {
    let (range, rest) = text.split_once(';')?;
    let mut parts = range.split('-');
    let (first, last) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some((Token::Number { first, last, digits: parts.next()?.parse().ok()? }, rest))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("a/*.jsonl", "a/b.jsonl", true)]
    #[case("a/*.jsonl", "a/b/c.jsonl", false)]
    #[case("a/*.jsonl", "a/.b.jsonl", false)]
    #[case("a/.*.jsonl", "a/.b.jsonl", true)]
    #[case("a/**/*.jsonl", "a/b.jsonl", true)]
    #[case("a/**/*.jsonl", "a/b/c/d.jsonl", true)]
    #[case("a/**/*.jsonl", "a/.git/d.jsonl", false)]
    #[case("a/**/*.jsonl", "a/_run/d.jsonl", false)]
    #[case("a/**/_run/*.jsonl", "a/x/_run/d.jsonl", true)]
    #[case("a/*/d.jsonl", "a/_run/d.jsonl", false)]
    #[case("a/_*/d.jsonl", "a/_run/d.jsonl", true)]
    #[case("a/*", "a/_part.jsonl", true)]
    #[case("**", "a/b/c", true)]
    #[case("**/c", "c", true)]
    #[case("a/**", "a/b/c", true)]
    #[case("a/**", "ab/c", false)]
    #[case("a/?.csv", "a/é.csv", true)]
    #[case("a/[0-9].csv", "a/7.csv", true)]
    #[case("a/[!0-9].csv", "a/7.csv", false)]
    #[case("a/x.{csv,json}{,.gz,.zst}", "a/x.json.zst", true)]
    #[case("a/x.{csv,json}{,.gz,.zst}", "a/x.csv", true)]
    #[case("a/x.{csv,json}{,.gz,.zst}", "a/x.tsv", false)]
    #[case("{a/b,c}/x", "a/b/x", true)]
    #[case("{a/b,c}/x", "c/x", true)]
    #[case("{a/b,c}/x", "a/x", false)]
    #[case("{a/{b,d},c}/x", "a/d/x", true)]
    #[case("t-{00008..00011}.csv", "t-00010.csv", true)]
    #[case("t-{00008..00011}.csv", "t-00012.csv", false)]
    #[case("t-{8..11}.csv", "t-9.csv", true)]
    #[case("t-{8..11}.csv", "t-09.csv", false)]
    #[case("t-{0..99999999}.csv", "t-31415926.csv", true)]
    #[case("t-{00..15}-of-{16,32}", "t-07-of-16", true)]
    #[case("t-{00..15}-of-{16,32}", "t-16-of-16", false)]
    #[case("[é-ü]x", "öx", true)]
    #[case("[]a]", "]", true)]
    #[case("[^a-c-]x", "-x", false)]
    #[case("*a*b*.c", "xxaxxbxx.c", true)]
    #[case("*a*b*.c", "xxbxxaxx.c", false)]
    #[case("*", "a.b", true)]
    #[case("{a}", "a", true)]
    #[case("{,.}x", ".x", true)]
    #[case("a[1].csv", "a1.csv", true)]
    #[case("a[1].csv", "a[1].csv", true)]
    #[case(r"a\[1\].csv", "a[1].csv", true)]
    #[case(r"a\*.csv", "ab.csv", false)]
    #[case("/abs/*.csv", "/abs/a.csv", true)]
    fn matches(#[case] pattern: &str, #[case] path: &str, #[case] expected: bool) {
        let pattern = Pattern::new(pattern).unwrap();
        assert_eq!(pattern.matches(path), expected);
        if expected && pattern.literal().is_none() {
            let folders: Vec<&str> = path.trim_start_matches('/').split('/').collect();
            for depth in 0..folders.len() {
                assert!(pattern.may_match_below(&folders[..depth].join("/")), "folder of a match is not left out");
            }
        }
    }

    #[rstest]
    #[case("a/b/*.csv", "a/b")]
    #[case("a/b*/c.csv", "a")]
    #[case("**/x", "")]
    #[case("{a/b,a/c}/d/*.csv", "a")]
    #[case("a/{b,c}/d/*.csv", "a")]
    #[case("/r/a.csv", "r")]
    fn roots(#[case] pattern: &str, #[case] root: &str) {
        assert_eq!(Pattern::new(pattern).unwrap().root(), root);
    }

    #[rstest]
    #[case("a/*/c", "a/b", true)]
    #[case("a/*/c", "a/b/d", false)]
    #[case("a/*/c", "x", false)]
    #[case("a/**/c", "a/b/d/e", true)]
    #[case("a/**/c", "a/.git", false)]
    fn leaves_out_folders(#[case] pattern: &str, #[case] folder: &str, #[case] expected: bool) {
        assert_eq!(Pattern::new(pattern).unwrap().may_match_below(folder), expected);
    }

    #[rstest]
    #[case("a/b.csv", Some("a/b.csv"))]
    #[case(r"a/\[b\].csv", Some("a/[b].csv"))]
    #[case("a/*.csv", None)]
    #[case("a/{b,c}.csv", None)]
    fn literals(#[case] pattern: &str, #[case] literal: Option<&str>) {
        assert_eq!(Pattern::new(pattern).unwrap().literal().as_deref(), literal);
    }

    #[rstest]
    #[case("a/[b.csv", "'[' in '[b.csv' has no ']'")]
    #[case("a/{b.csv", "'{' in 'a/{b.csv' has no '}'")]
    #[case("a/x**/b", "'**' stands alone between slashes; 'x**'")]
    #[case("{9..1}", "the range '{9..1}' does not ascend")]
    #[case("{a,b,c,d}{a,b,c,d}{a,b,c,d}{a,b,c,d}{a,b,c,d}{a,b,c,d}{a,b,c,d}", "more than 10000 alternatives")]
    fn refuses(#[case] pattern: &str, #[case] message: &str) {
        let error = Pattern::new(pattern).unwrap_err();
        assert!(error.contains(message), "{error}");
    }
}

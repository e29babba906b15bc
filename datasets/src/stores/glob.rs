//! Patterns of paths.
//!
//! A pattern is matched part by part, so that a listing can leave out folders in which nothing can match. `*`, `?`, `[…]`
//! and `{a,b}` stay within one part of the path, `**` stands for any number of folders. Digits with two dots between
//! them are a range: `{00000..00127}`. As with shells and data tools, a wildcard does not match a name that begins with
//! a dot, nor a folder that begins with an underscore, unless the part of the pattern begins so, too.

use globset::{GlobBuilder, GlobMatcher};

/// How many alternatives one pattern may unfold to.
const MOST_ALTERNATIVES: usize = 100_000;

/// A pattern of paths, `/` between the parts.
#[derive(Debug)]
pub(crate) struct Pattern {
    text: String,
    /// More than one where braces hold a slash.
    alternatives: Vec<Vec<Part>>,
}

#[derive(Debug)]
enum Part {
    Literal(String),
    Wild { matcher: GlobMatcher, text: String },
    AnyDepth,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        let unfolded = unfold_ranges(text)?;
        let mut texts = vec![unfolded];
        while let Some(position) = texts.iter().position(|text| brace_with_slash(text).is_some()) {
            let text = texts.remove(position);
            let Some((start, end, choices)) = brace_with_slash(&text) else { break };
            for (offset, choice) in choices.iter().enumerate() {
                texts.insert(position + offset, format!("{}{choice}{}", &text[..start], &text[end..]));
            }
            check_count(texts.len())?;
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
            Some(Part::Wild { matcher, text })
                if matcher.is_match(name)
                    && (!is_hidden(name, is_file) || text.chars().next() == name.chars().next()) =>
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
            if let Some(literal) = unescape(part) {
                return Ok(Part::Literal(literal));
            }
            GlobBuilder::new(part)
                .literal_separator(true)
                .backslash_escape(true)
                .empty_alternates(true)
                .build()
                .map(|glob| Part::Wild { matcher: glob.compile_matcher(), text: part.to_owned() })
                .map_err(|error| error.to_string())
        })
        .collect()
}

/// The text without escapes, or nothing when it holds a wildcard.
fn unescape(part: &str) -> Option<String> {
    let mut literal = String::new();
    let mut characters = part.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => literal.push(characters.next().unwrap_or('\\')),
            '*' | '?' | '[' | '{' => return None,
            other => literal.push(other),
        }
    }
    Some(literal)
}

fn check_count(count: usize) -> Result<(), String> {
    if count > MOST_ALTERNATIVES {
        return Err(format!("the braces stand for more than {MOST_ALTERNATIVES} alternatives"));
    }
    Ok(())
}

/// Rewrites `{08..11}` to `{08,09,10,11}`. The wider end says how many digits, as shells do it.
fn unfold_ranges(text: &str) -> Result<String, String> {
    let mut result = String::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        let (before, group) = rest.split_at(open);
        result.push_str(before);
        let range = group.find('}').and_then(|close| {
            let (first, last) = group[1..close].split_once("..")?;
            let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            (digits(first) && digits(last)).then_some((first, last, close))
        });
        let Some((first, last, close)) = range else {
            result.push('{');
            rest = &group[1..];
            continue;
        };
        let width = if first.starts_with('0') || last.starts_with('0') { first.len().max(last.len()) } else { 1 };
        let bounds = first.parse::<u64>().ok().zip(last.parse::<u64>().ok());
        let Some((first, last)) = bounds.filter(|(first, last)| first <= last) else {
            return Err(format!("the range '{}' does not ascend", &group[..=close]));
        };
        check_count(usize::try_from(last - first).unwrap_or(usize::MAX))?;
        let numbers: Vec<String> = (first..=last).map(|number| format!("{number:0width$}")).collect();
        result.push_str(&format!("{{{}}}", numbers.join(",")));
        rest = &group[close + 1..];
    }
    result.push_str(rest);
    Ok(result)
}

/// The first outermost group of braces that holds a slash: its begin, its end and its choices.
fn brace_with_slash(text: &str) -> Option<(usize, usize, Vec<&str>)> {
    let mut depth = 0_usize;
    let mut start = 0;
    let mut commas = Vec::new();
    let mut has_slash = false;
    let mut escaped = false;
    for (index, character) in text.char_indices() {
        if escaped {
            escaped = false;
            continue;
        }
        match character {
            '\\' => escaped = true,
            '{' => {
                depth += 1;
                if depth == 1 {
                    (start, has_slash) = (index, false);
                    commas.clear();
                }
            }
            '}' if depth > 0 => {
                depth -= 1;
                if depth == 0 && has_slash {
                    let mut choices = Vec::new();
                    let mut begin = start + 1;
                    for comma in &commas {
                        choices.push(&text[begin..*comma]);
                        begin = comma + 1;
                    }
                    choices.push(&text[begin..index]);
                    return Some((start, index + 1, choices));
                }
            }
            ',' if depth == 1 => commas.push(index),
            '/' if depth > 0 => has_slash = true,
            _ => {}
        }
    }
    None
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
    #[case("a/{b}.csv", None)]
    fn literals(#[case] pattern: &str, #[case] literal: Option<&str>) {
        assert_eq!(Pattern::new(pattern).unwrap().literal().as_deref(), literal);
    }

    #[rstest]
    #[case("a/[b.csv", "unclosed character class")]
    #[case("a/{b.csv", "unclosed alternate group")]
    #[case("a/x**/b", "'**' stands alone between slashes; 'x**'")]
    #[case("{9..1}", "the range '{9..1}' does not ascend")]
    #[case("{0..99999999}", "more than 100000 alternatives")]
    fn refuses(#[case] pattern: &str, #[case] message: &str) {
        let error = Pattern::new(pattern).unwrap_err();
        assert!(error.contains(message), "{error}");
    }
}

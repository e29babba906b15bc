//! Terms and their numbers.

use std::fmt;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

/// Distinct terms, numbered from 0 in the order in which they were met. One piece of memory holds the text of all.
#[derive(Clone, Default)]
pub(super) struct Lexicon {
    text: String,
    /// Where each term ends in `text`.
    ends: Vec<usize>,
    numbers: HashTable<usize>,
    hasher: RandomState,
}

impl Lexicon {
    /// The number of a term, which is added where it is new.
    pub(super) fn intern(&mut self, term: &str) -> usize {
        let hash = self.hasher.hash_one(term.as_bytes());
        if let Some(number) = self.find(hash, term) {
            return number;
        }
        let number = self.ends.len();
        self.text.push_str(term);
        self.ends.push(self.text.len());
        let (text, ends, hasher) = (&self.text, &self.ends, &self.hasher);
        self.numbers.insert_unique(hash, number, |&other| hasher.hash_one(term_of(text, ends, other).as_bytes()));
        number
    }

    /// The number of a term.
    pub(super) fn get(&self, term: &str) -> Option<usize> {
        self.find(self.hasher.hash_one(term.as_bytes()), term)
    }

    /// The term of a number that this lexicon gave.
    pub(super) fn term(&self, number: usize) -> &str {
        term_of(&self.text, &self.ends, number)
    }

    /// How many terms there are.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of the text of all terms.
    pub(super) fn text_bytes(&self) -> usize {
        self.text.len()
    }

    /// Forgets all terms and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
        self.numbers.clear();
    }

    /// Numbers in the order of the terms' bytes, which is that of their characters.
    pub(super) fn sorted(&self) -> Vec<usize> {
        let mut numbers: Vec<usize> = (0..self.len()).collect();
        numbers.sort_unstable_by(|&one, &other| self.term(one).cmp(self.term(other)));
        numbers
    }

    fn find(&self, hash: u64, term: &str) -> Option<usize> {
        self.numbers.find(hash, |&number| self.term(number) == term).copied()
    }
}

fn term_of<'t>(text: &'t str, ends: &[usize], number: usize) -> &'t str {
    let start = number.checked_sub(1).map_or(0, |before| ends[before]);
    &text[start..ends[number]]
}

impl fmt::Debug for Lexicon {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Lexicon").field("terms", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_keep_their_numbers() {
        let mut lexicon = Lexicon::default();
        let terms: Vec<String> = (0..5000).map(|number| format!("{}", number * 7919 % 5000)).collect();
        for _ in 0..2 {
            for (number, term) in terms.iter().enumerate() {
                assert_eq!(lexicon.intern(term), number);
            }
        }
        assert_eq!(lexicon.get("4999").map(|number| lexicon.term(number)), Some("4999"));
        assert_eq!((lexicon.get("5000"), lexicon.get(""), lexicon.len()), (None, None, 5000));
        let mut sorted = terms.clone();
        sorted.sort_unstable();
        assert_eq!(lexicon.sorted().into_iter().map(|number| lexicon.term(number)).collect::<Vec<_>>(), sorted);
        lexicon.clear();
        assert_eq!((lexicon.len(), lexicon.text_bytes(), lexicon.get("0")), (0, 0, None));
        assert_eq!((lexicon.intern(""), lexicon.intern("知"), lexicon.intern("")), (0, 1, 0));
    }
}

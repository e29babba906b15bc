//! A supervised model of fastText, and what it says of a text.

use bytes::Bytes;

use super::cursor::Cursor;
use super::dictionary::{self, Dictionary, LABEL, Settings};
use super::matrix::Matrix;
use super::tree::Tree;
use crate::{ResourceIdentity, Resources, Result};

const MAGIC: i32 = 793_712_314;

/// Features whose rows are fetched together.
const TOGETHER: usize = 32;

/// A classifier that was trained with `fasttext supervised`, in the file's form: `.bin`, or quantised `.ftz`.
///
/// A model takes the memory of its file and of tables of its words; rows are read where they lie in the file's bytes.
///
/// Probabilities are those that fastText's own program prints, to the rounding of single precision: a hundred-thousandth is added to each
/// before its logarithm is taken, so that they reach 1.00001, and those of one-vs-all and of negative sampling come from a table of 512 steps.
///
/// ```no_run
/// use gristmill_operators::Resources;
/// use gristmill_operators::fasttext::{FastText, Scratch};
///
/// let (model, _) = FastText::load("lid.176.ftz", &Resources::local())?;
/// if let Some((best, _)) = model.predict("Was ist das?", 1, None, &mut Scratch::default()) {
///     println!("{} {}", model.labels()[best[0].label], best[0].probability);
/// }
/// # Ok::<(), gristmill_operators::OperatorError>(())
/// ```
pub struct FastText {
    dictionary: Dictionary,
    input: Matrix,
    output: Matrix,
    loss: Loss,
    labels: Vec<String>,
}

/// From products with the output matrix to probabilities.
#[derive(Debug)]
enum Loss {
    Softmax,
    /// Each label by itself: one-vs-all, and negative sampling.
    Logistic,
    Hierarchical(Tree),
}

/// A label and its probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// Number of the label.
    pub label: usize,
    /// Its probability.
    pub probability: f32,
}

/// Memory of predictions, to be used for one text after another.
#[derive(Debug, Default)]
pub struct Scratch {
    words: dictionary::Memory,
    pending: Vec<u32>,
    hidden: Vec<f32>,
    /// Logarithms of probabilities.
    scores: Vec<f32>,
    best: Vec<(f32, usize)>,
}

impl FastText {
    /// Reads a model, of any size that `resources` can hold.
    ///
    /// # Errors
    /// A location that cannot be read; a file that is no supervised model of fastText of version 11 or 12, or is cut off or damaged.
    pub fn load(location: &str, resources: &Resources) -> Result<(Self, ResourceIdentity)> {
        let (bytes, identity) = resources.read(location)?;
        Ok((Self::from_bytes(location, &bytes)?, identity))
    }

    /// The same of bytes; `location` is only named in errors.
    ///
    /// # Errors
    /// As of [`FastText::load`].
    pub fn from_bytes(location: &str, bytes: &Bytes) -> Result<Self> {
        let cursor = &mut Cursor::new(location, bytes);
        let magic = cursor.i32("the mark of fastText")?;
        if magic != MAGIC {
            return Err(cursor.unexpected("the mark of fastText", magic, &MAGIC.to_string()));
        }
        let version = cursor.i32("the version")?;
        if ![11, 12].contains(&version) {
            return Err(cursor.unexpected("the version", version, "11 or 12"));
        }
        let width = cursor.count("the width of vectors")?;
        if width == 0 {
            return Err(cursor.unexpected("the width of vectors", 0, "a number above 0"));
        }
        for what in ["the window", "the number of epochs", "the least count", "the number of negatives"] {
            cursor.i32(what)?;
        }
        let word_ngrams = cursor.count("the longest run of words")?;
        let loss = cursor.i32("the loss")?;
        if !(1..=4).contains(&loss) {
            return Err(cursor.unexpected("the loss", loss, "1 to 4"));
        }
        let kind = cursor.i32("the kind of model")?;
        if kind != 3 {
            return Err(cursor.unexpected("the kind of model", kind, "3, a supervised one,"));
        }
        let buckets = cursor.count("the number of buckets")?;
        let shortest = cursor.count("the shortest character n-gram")?;
        let longest = cursor.count("the longest character n-gram")?;
        cursor.i32("the rate of updates")?;
        cursor.i64("the sampling threshold")?;
        // Supervised models of version 11 have no character n-grams, whatever they say.
        let longest = if version == 11 { 0 } else { longest };
        if buckets == 0 && (word_ngrams > 1 || longest > 0) {
            return Err(cursor.wrong("it has n-grams and no buckets for them"));
        }
        let settings = Settings { word_ngrams, buckets: buckets as u32, shortest, longest };
        let dictionary = Dictionary::read(cursor, bytes, settings)?;

        let quantised = cursor.switch("whether the input matrix is quantised")?;
        if !quantised && dictionary.is_pruned() {
            return Err(cursor.wrong("n-grams were dropped, and the input matrix is not quantised"));
        }
        let input = Matrix::read(cursor, bytes, "input matrix", width, quantised)?;
        if input.rows < dictionary.rows() {
            let (found, needed) = (input.rows, dictionary.rows());
            return Err(cursor.wrong(format!("the input matrix has {found} rows, and features need {needed}")));
        }
        let quantised_output = cursor.switch("whether the output matrix is quantised")?;
        let output = Matrix::read(cursor, bytes, "output matrix", width, quantised && quantised_output)?;
        if output.rows != dictionary.labels.len() {
            let (found, labels) = (output.rows, dictionary.labels.len());
            return Err(cursor.wrong(format!("the output matrix has {found} rows, and there are {labels} labels")));
        }
        let loss = match loss {
            1 => Loss::Hierarchical(Tree::new(&dictionary.labels).map_err(|message| cursor.wrong(message))?),
            3 => Loss::Softmax,
            _ => Loss::Logistic,
        };
        let bare = |(name, _): &(String, i64)| name.strip_prefix(LABEL).unwrap_or(name).to_owned();
        let labels = dictionary.labels.iter().map(bare).collect();
        Ok(Self { dictionary, input, output, loss, labels })
    }

    /// Names of the labels, without `__label__`.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// The `top` most probable labels of a text in falling order, and the probability of `label`, which is below the number of labels. `None`
    /// where the text has no feature that the model knows.
    ///
    /// The text is one line: line breaks count as spaces, and its end as the end of a line. Of labels that are equally probable the later one comes
    /// first, as fastText has it for one label. With hierarchical softmax labels of a probability below a hundred-thousandth are not listed.
    pub fn predict(
        &self,
        text: &str,
        top: usize,
        label: Option<usize>,
        scratch: &mut Scratch,
    ) -> Option<(Vec<Prediction>, Option<f32>)> {
        let Scratch { words, pending, hidden, scores, best } = scratch;
        hidden.clear();
        hidden.resize(self.input.width, 0.0);
        pending.clear();
        let mut features = 0_usize;
        let mut add = |rows: &mut Vec<u32>| {
            std::hint::black_box(rows.iter().fold(0, |seen, &row| seen ^ self.input.touch(row)));
            rows.iter().for_each(|&row| self.input.add(row, hidden));
            features += rows.len();
            rows.clear();
        };
        self.dictionary.features(text, words, |row| {
            pending.push(row);
            if pending.len() == TOGETHER {
                add(pending);
            }
        });
        add(pending);
        if features == 0 {
            return None;
        }
        let share = (1.0 / features as f64) as f32;
        hidden.iter_mut().for_each(|value| *value *= share);

        best.clear();
        let own = match &self.loss {
            Loss::Hierarchical(tree) => {
                tree.best(top, best, |node| self.output.dot(node, hidden));
                label.map(|label| tree.score(label, |node| self.output.dot(node, hidden)))
            }
            loss => {
                self.output.dots(hidden, scores);
                match loss {
                    Loss::Softmax => softmax(scores),
                    _ => scores.iter_mut().for_each(|score| *score = logistic(*score)),
                }
                scores.iter_mut().for_each(|score| *score = log(*score));
                for (label, &score) in scores.iter().enumerate() {
                    keep(best, top, (score, label));
                }
                label.map(|label| scores[label])
            }
        };
        let predictions = best.iter().map(|&(score, label)| Prediction { label, probability: score.exp() });
        Some((predictions.collect(), own.map(f32::exp)))
    }
}

impl std::fmt::Debug for FastText {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the bytes of the file.
        let (width, labels) = (self.input.width, self.labels.len());
        formatter.debug_struct("FastText").field("width", &width).field("labels", &labels).finish_non_exhaustive()
    }
}

/// Puts a label among the best, which are in falling order, if it belongs there; of equals the later one comes first. A score that is not a number
/// is kept as the best of all, so that it is seen.
pub(super) fn keep(best: &mut Vec<(f32, usize)>, most: usize, (score, label): (f32, usize)) {
    let behind = best.partition_point(|&(other, _)| other > score || other.is_nan());
    if behind < most {
        best.truncate(most - 1);
        best.insert(behind, (score, label));
    }
}

/// `std_log`: in double precision, rounded.
pub(super) fn log(probability: f32) -> f32 {
    (f64::from(probability) + 1e-5).ln() as f32
}

fn softmax(values: &mut [f32]) {
    let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for value in values.iter_mut() {
        *value = (*value - most).exp();
        sum += *value;
    }
    values.iter_mut().for_each(|value| *value /= sum);
}

/// The logistic function as fastText tabulates it: 512 steps from -8 to 8, and 0 and 1 beyond.
fn logistic(x: f32) -> f32 {
    if x.is_nan() || x < -8.0 {
        return if x.is_nan() { x } else { 0.0 };
    }
    if x > 8.0 {
        return 1.0;
    }
    let step = ((x + 8.0) * 512.0 / 8.0 / 2.0) as i32;
    let x = (step * 16) as f32 / 512.0 - 8.0;
    (1.0 / (1.0 + f64::from((-x).exp()))) as f32
}

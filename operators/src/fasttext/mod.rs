//! `fasttext`: labels a text with a fastText classifier (Joulin and others, 2017), such as one of languages or of quality: the cheap stage of a
//! cascade.
//!
//! With `label`, column `<name>` (Boolean, never null) is true where the label's probability is strictly greater than `threshold`, and false where the
//! text is null. Without it, column `<name>` (Utf8) is the most probable label, null where the text is null. A text of which the model
//! knows no feature has no label either; an empty text is an empty line to fastText, which has the feature of its end.
//!
//! Column `<name>_metadata` is a struct of `highest_score` (Float64), the probability of the label, or of the most probable one, which `rethreshold`
//! compares again, and of `top`, a list of structs of `label` (Utf8) and `probability` (Float64), the most probable labels in falling order.
//!
//! Probabilities are fastText's own: see [`FastText`]. The text is one line: line breaks count as spaces.
//!
//! The file's form is that of fastText 0.9 (`args.cc`, `dictionary.cc`, `densematrix.cc`, `quantmatrix.cc`, `productquantizer.cc`). It is read here
//! and not by a library, because a file that is cut off or damaged must be an error, and because rows can stay where they are in its bytes.

mod cursor;
mod dictionary;
mod matrix;
mod model;
mod operator;
mod slots;
#[cfg(test)]
mod tests;
mod tree;

pub use model::{FastText, Prediction, Scratch};
pub use operator::{FastTextConfig, FastTextKind};

//! The JSON files in which studies of gradient similarity keep their numbers.

use std::ops::Range;

use serde_json::{Map, Value, json};

use super::{KIND, PairRow, PairTable};
use crate::Result;
use crate::config::invalid;

/// What names of files are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyNames<'a> {
    /// How samples were made, such as `paraphrased`.
    pub setting: &'a str,
    /// The model's name.
    pub model: &'a str,
    /// How many samples were asked for; `None` for all.
    pub sample_size: Option<usize>,
    /// Which of the samples these are, where they are not all.
    pub part: Option<Range<usize>>,
}

/// The files of a table, with their paths below a folder. In these, samples are in the order of the numbers at the end of their ids, and candidates in the order of the search.
///
/// | file | content |
/// |---|---|
/// | `gradient_similarity/<setting>/<model>/sample_size_<size><part>.json` | sample, original: cosine |
/// | `gradient_similarity/random_projection/<setting>/<model>/sample_size_<size><part>.json` | number of dimensions, sample, original: cosine; if there are projections |
/// | `dot_products/<setting>/<model>/sample_size/<size>/dot_products<part>.json` | sample, original, tensor: ⟨g, h⟩ |
/// | `…/paraphrased_dot_products<part>.json` | sample, tensor: ⟨g, g⟩ |
/// | `…/original_dot_products<part>.json` | original, tensor: ⟨h, h⟩ of all that were candidates |
///
/// `<size>` is a number or `full`, and `<part>` empty or `_part_<start>_<end>`. A cosine is `null` where a gradient is 0.
///
/// # Errors
/// A setting or model that cannot be the name of a folder.
pub fn families(table: &PairTable, names: &FamilyNames<'_>) -> Result<Vec<(String, Value)>> {
    let FamilyNames { setting, model, sample_size, part } = names;
    for (key, name) in [("setting", setting), ("model", model)] {
        if name.is_empty() || matches!(*name, "." | "..") || name.contains(['/', '\\', '\0']) {
            return Err(invalid(KIND, key, format!("'{name}' cannot be the name of a folder")));
        }
    }
    let size = sample_size.map_or_else(|| "full".to_owned(), |size| size.to_string());
    let part = part.as_ref().map_or_else(String::new, |part| format!("_part_{}_{}", part.start, part.end));
    let folder = format!("dot_products/{setting}/{model}/sample_size/{size}");
    let mut files = vec![(
        format!("gradient_similarity/{setting}/{model}/sample_size_{size}{part}.json"),
        by_sample(table, |row| by_original(row, |place| json!(row.candidates[place].cosine))),
    )];
    if !table.projections().is_empty() {
        let of_projection = |(number, dimensions): (usize, &u64)| {
            let cosines = |row: &PairRow| by_original(row, |place| json!(row.candidates[place].projected[number]));
            (dimensions.to_string(), by_sample(table, cosines))
        };
        let content: Map<String, Value> = table.projections().iter().enumerate().map(of_projection).collect();
        files.push((
            format!("gradient_similarity/random_projection/{setting}/{model}/sample_size_{size}{part}.json"),
            Value::Object(content),
        ));
    }
    let tensors = |values: &[f64]| by_tensor(table, values);
    let mut originals: Vec<(&str, &[f64])> = table
        .rows()
        .iter()
        .flat_map(|row| &row.candidates)
        .map(|candidate| (candidate.id.as_str(), candidate.self_products.as_slice()))
        .collect();
    originals.sort_by_cached_key(|(id, _)| super::order(id));
    originals.dedup_by_key(|(id, _)| *id);
    let originals: Map<String, Value> =
        originals.into_iter().map(|(id, products)| (id.to_owned(), tensors(products))).collect();
    files.extend([
        (
            format!("{folder}/dot_products{part}.json"),
            by_sample(table, |row| by_original(row, |place| tensors(&row.candidates[place].products))),
        ),
        (format!("{folder}/paraphrased_dot_products{part}.json"), by_sample(table, |row| tensors(&row.self_products))),
        (format!("{folder}/original_dot_products{part}.json"), Value::Object(originals)),
    ]);
    Ok(files)
}

fn by_sample(table: &PairTable, of: impl Fn(&PairRow) -> Value) -> Value {
    Value::Object(table.rows().iter().map(|row| (row.id.clone(), of(row))).collect())
}

fn by_original(row: &PairRow, of: impl Fn(usize) -> Value) -> Value {
    Value::Object(row.candidates.iter().enumerate().map(|(place, one)| (one.id.clone(), of(place))).collect())
}

fn by_tensor(table: &PairTable, values: &[f64]) -> Value {
    Value::Object(table.tensors().iter().cloned().zip(values.iter().map(|&value| json!(value))).collect())
}

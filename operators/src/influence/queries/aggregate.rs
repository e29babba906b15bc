//! From scores of single queries to the scores that rows get.

use std::collections::HashMap;

use super::config::Aggregate;
use super::table::Row;

/// Which queries' scores are put together, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Aggregation {
    aggregate: Aggregate,
    /// Names of the scores, with the numbers of the queries that each is of.
    groups: Vec<(String, Vec<usize>)>,
    queries: usize,
}

impl Aggregation {
    /// Groups in the order in which they come first. The error names the rows of two queries of one name.
    pub(super) fn new(aggregate: Aggregate, rows: &[Row]) -> Result<Self, String> {
        let of_all = match aggregate {
            Aggregate::None => None,
            Aggregate::Mean => Some("mean"),
            Aggregate::Nearest => Some("nearest"),
        };
        let mut places: HashMap<&str, usize> = HashMap::new();
        let mut groups: Vec<(String, Vec<usize>)> = Vec::new();
        for (number, row) in rows.iter().enumerate() {
            let name = of_all.map_or(row.name.as_str(), |all| row.group.as_deref().unwrap_or(all));
            let place = *places.entry(name).or_insert(groups.len());
            match groups.get_mut(place) {
                None => groups.push((name.to_owned(), vec![number])),
                Some((_, members)) if of_all.is_some() => members.push(number),
                Some((_, members)) => {
                    return Err(format!("rows {} and {number} have the same name '{name}'", members[0]));
                }
            }
        }
        Ok(Self { aggregate, groups, queries: rows.len() })
    }

    /// Names of the scores.
    pub(crate) fn names(&self) -> Vec<String> {
        self.groups.iter().map(|(name, _)| name.clone()).collect()
    }

    /// What rows are multiplied with, `[products, width]`, given the vectors of queries, `[queries, width]`: means of scores that are products are
    /// products with means.
    pub(crate) fn vectors(&self, vectors: Vec<f32>, width: usize) -> Vec<f32> {
        if self.aggregate != Aggregate::Mean {
            return vectors;
        }
        let mean = |members: &[usize]| -> Vec<f32> {
            let mut sums = vec![0_f64; width];
            for &member in members {
                let vector = &vectors[member * width..(member + 1) * width];
                sums.iter_mut().zip(vector).for_each(|(sum, &value)| *sum += f64::from(value));
            }
            sums.into_iter().map(|sum| (sum / members.len() as f64) as f32).collect()
        };
        self.groups.iter().flat_map(|(_, members)| mean(members)).collect()
    }

    /// Whether queries are put together before rows are compared with them.
    pub(crate) fn combines(&self) -> bool {
        self.aggregate == Aggregate::Mean
    }

    /// How many products a row has with [`vectors`](Self::vectors).
    pub(crate) fn products(&self) -> usize {
        if self.aggregate == Aggregate::Mean { self.groups.len() } else { self.queries }
    }

    /// Scores, `[rows, names]`, of products with [`vectors`](Self::vectors), `[rows, products]`.
    pub(crate) fn of_products(&self, products: Vec<f32>) -> Vec<f32> {
        if self.aggregate != Aggregate::Nearest {
            return products;
        }
        let largest = |row: &[f32], members: &[usize]| {
            members.iter().map(|&member| row[member]).fold(f32::NEG_INFINITY, f32::max)
        };
        let rows = products.chunks_exact(self.queries.max(1));
        rows.flat_map(|row| self.groups.iter().map(move |(_, members)| largest(row, members))).collect()
    }

    /// For each product the queries that it is of, and what each counts.
    pub(crate) fn shares(&self) -> Vec<Vec<(usize, f64)>> {
        if self.aggregate != Aggregate::Mean {
            return (0..self.queries).map(|query| vec![(query, 1.0)]).collect();
        }
        let of_group = |members: &Vec<usize>| {
            let share = 1.0 / members.len() as f64;
            members.iter().map(|&member| (member, share)).collect()
        };
        self.groups.iter().map(|(_, members)| of_group(members)).collect()
    }
}

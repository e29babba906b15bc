//! How well rankings find what is relevant: recall, precision, reciprocal rank, average precision, discounted gain.
//!
//! Definitions are those of `trec_eval`: what a ranking does not list was not found, and a query of which nothing was found counts with zeros. Recall at
//! k is relevant items among the first k over all relevant ones, precision at k the same over k; reciprocal rank is one over the rank of the first relevant item;
//! average precision is the sum of the precision at the rank of each relevant item that is listed, over all relevant ones; nDCG at k is
//! `Σ relevance / log2(rank + 1)` over the first k, over that of the best order (Järvelin and Kekäläinen 2002, with the relevance itself as gain).

use std::collections::HashMap;

use serde::Serialize;

use super::{MeanEstimate, error};
use crate::Result;

/// What is relevant for queries: how relevant each item is, more than 0.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    queries: Vec<(String, HashMap<String, f64>)>,
    positions: HashMap<String, usize>,
}

impl Truth {
    /// Adds an item of relevance `relevance` for a query. An item of relevance 0 is not relevant, but its query is known.
    ///
    /// # Errors
    /// A relevance that is negative or no finite number, and an item that has another one already.
    pub fn add(&mut self, query: &str, item: &str, relevance: f64) -> Result<(), String> {
        if !(relevance.is_finite() && relevance >= 0.0) {
            return Err(format!("relevance {relevance} of '{item}' for query '{query}'; a number of at least 0 is allowed"));
        }
        let position = *self.positions.entry(query.to_owned()).or_insert_with(|| {
            self.queries.push((query.to_owned(), HashMap::new()));
            self.queries.len() - 1
        });
        if relevance == 0.0 {
            return Ok(());
        }
        match self.queries[position].1.insert(item.to_owned(), relevance) {
            Some(other) if other != relevance => Err(format!(
                "'{item}' has relevance {relevance} and {other} for query '{query}'; one for each query and item is allowed"
            )),
            _ => Ok(()),
        }
    }

    /// How many queries there are.
    #[must_use]
    pub fn queries(&self) -> usize {
        self.queries.len()
    }
}

/// What rankings list: items of each query in order.
#[derive(Clone, Debug, Default)]
pub struct Rankings {
    lists: HashMap<String, Vec<(f64, String)>>,
}

impl Rankings {
    /// Adds an item: the smaller `rank`, the earlier it is listed. Of equal ranks the one that was added first is listed first.
    pub fn add(&mut self, query: &str, item: String, rank: f64) {
        match self.lists.get_mut(query) {
            Some(list) => list.push((rank, item)),
            None => {
                self.lists.insert(query.to_owned(), vec![(rank, item)]);
            }
        }
    }
}

/// How well the ranking of one query finds what is relevant.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QueryRetrieval {
    /// The query.
    pub query: String,
    /// Items that are relevant for it.
    pub relevant: usize,
    /// Items that were listed for it.
    pub listed: usize,
    /// One over the rank of the first relevant item; 0 where none is listed.
    pub reciprocal_rank: f64,
    /// Average precision.
    pub average_precision: f64,
    /// Recall, precision, success and nDCG at each `k`.
    pub at: Vec<RetrievalAt>,
}

/// What the first `k` items of a ranking are worth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RetrievalAt {
    /// How many items count.
    pub k: usize,
    /// Share of the relevant items among the first `k`.
    pub recall: f64,
    /// Share of the first `k` that is relevant.
    pub precision: f64,
    /// 1 if one of the first `k` is relevant, else 0.
    pub success: f64,
    /// Normalised discounted cumulative gain.
    pub ndcg: f64,
}

/// Means over queries.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Retrieval {
    /// Queries with something relevant: those that count.
    pub queries: usize,
    /// Of them those without any ranked item. They count with zeros.
    pub unranked: usize,
    /// Queries with a ranking of which nothing is known to be relevant. They do not count.
    pub unjudged: usize,
    /// Mean reciprocal rank.
    pub mrr: f64,
    /// Mean average precision.
    pub map: f64,
    /// Means at each `k`.
    pub at: Vec<RetrievalAt>,
    /// Each query, in the order of the truth.
    pub each: Vec<QueryRetrieval>,
    /// Mean reciprocal rank with an interval over queries.
    pub mrr_estimate: MeanEstimate,
    /// Mean average precision with an interval over queries.
    pub map_estimate: MeanEstimate,
}

/// Compares rankings with the truth, at each of `ks`.
///
/// # Errors
/// No query of which something is relevant, a `k` of 0, and an item that is listed twice for a query.
///
/// ```
/// use gristmill_operators::analysis::{Bootstrap, Rankings, Truth, retrieval};
///
/// let (mut truth, mut rankings) = (Truth::default(), Rankings::default());
/// truth.add("q", "b", 1.0).unwrap();
/// for (rank, item) in ["a", "b", "c"].into_iter().enumerate() {
///     rankings.add("q", item.to_owned(), rank as f64);
/// }
/// let found = retrieval(&rankings, &truth, &[1, 2], Bootstrap::default())?;
/// assert_eq!((found.mrr, found.at[0].recall, found.at[1].recall), (0.5, 0.0, 1.0));
/// # Ok::<(), gristmill_operators::OperatorError>(())
/// ```
pub fn retrieval(rankings: &Rankings, truth: &Truth, ks: &[usize], bootstrap: super::Bootstrap) -> Result<Retrieval> {
    if ks.contains(&0) {
        return Err(error("k", "0 is not allowed; a number of items of at least 1 is"));
    }
    let empty = Vec::new();
    let mut each = Vec::new();
    for (query, relevant) in truth.queries.iter().filter(|(_, relevant)| !relevant.is_empty()) {
        let mut listed: Vec<&(f64, String)> = rankings.lists.get(query).unwrap_or(&empty).iter().collect();
        listed.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut seen = std::collections::HashSet::new();
        if let Some((_, twice)) = listed.iter().find(|(_, item)| !seen.insert(item.as_str())) {
            return Err(error("ranking", format!("'{twice}' is listed twice for query '{query}'")));
        }
        let gains: Vec<f64> = listed.iter().map(|(_, item)| relevant.get(item).copied().unwrap_or(0.0)).collect();
        each.push(one_query(query, &gains, relevant, ks));
    }
    let values = |of: fn(&QueryRetrieval) -> f64| -> Vec<f64> { each.iter().map(of).collect() };
    let nothing = || error("truth", "nothing is relevant for any query");
    let mrr = bootstrap.mean(&values(|query| query.reciprocal_rank)).ok_or_else(nothing)?;
    let map = bootstrap.mean(&values(|query| query.average_precision)).ok_or_else(nothing)?;
    let known = |query: &String| truth.positions.get(query).is_some_and(|&at| !truth.queries[at].1.is_empty());
    let at = ks.iter().enumerate().map(|(position, &k)| {
        let of = |of: fn(&RetrievalAt) -> f64| each.iter().map(|query| of(&query.at[position])).sum::<f64>() / each.len() as f64;
        RetrievalAt { k, recall: of(|at| at.recall), precision: of(|at| at.precision), success: of(|at| at.success), ndcg: of(|at| at.ndcg) }
    });
    Ok(Retrieval {
        queries: each.len(),
        unranked: each.iter().filter(|query| query.listed == 0).count(),
        unjudged: rankings.lists.keys().filter(|query| !known(query)).count(),
        mrr: mrr.mean,
        map: map.mean,
        at: at.collect(),
        mrr_estimate: mrr,
        map_estimate: map,
        each,
    })
}

/// `gains` are the relevances of listed items in order.
fn one_query(query: &str, gains: &[f64], relevant: &HashMap<String, f64>, ks: &[usize]) -> QueryRetrieval {
    let first = gains.iter().position(|&gain| gain > 0.0);
    let (mut found, mut precisions) = (0, 0.0);
    for (position, _) in gains.iter().enumerate().filter(|(_, gain)| **gain > 0.0) {
        found += 1;
        precisions += f64::from(found) / (position + 1) as f64;
    }
    let mut best: Vec<f64> = relevant.values().copied().collect();
    best.sort_unstable_by(|a, b| b.total_cmp(a));
    let discounted = |gains: &[f64], k: usize| -> f64 {
        gains.iter().take(k).enumerate().map(|(position, gain)| gain / ((position + 2) as f64).log2()).sum()
    };
    let at = ks.iter().map(|&k| {
        let hits = gains.iter().take(k).filter(|gain| **gain > 0.0).count();
        RetrievalAt {
            k,
            recall: hits as f64 / relevant.len() as f64,
            precision: hits as f64 / k as f64,
            success: f64::from(u8::from(hits > 0)),
            ndcg: discounted(gains, k) / discounted(&best, k),
        }
    });
    QueryRetrieval {
        query: query.to_owned(),
        relevant: relevant.len(),
        listed: gains.len(),
        reciprocal_rank: first.map_or(0.0, |position| 1.0 / (position + 1) as f64),
        average_precision: precisions / relevant.len() as f64,
        at: at.collect(),
    }
}

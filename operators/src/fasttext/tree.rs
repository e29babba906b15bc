//! The tree of hierarchical softmax: a Huffman tree of the labels' counts, built as fastText builds it.

use super::model::{keep, log};

/// Counts of nodes that are not built yet; those of labels add up to less.
const UNBUILT: i64 = 1_000_000_000_000_000;

/// Labels are nodes 0 to n - 1, inner nodes follow, the last one is the root.
#[derive(Debug)]
pub(super) struct Tree {
    labels: usize,
    /// Left and right child of inner nodes.
    children: Vec<[u32; 2]>,
    /// Parent of each node but the root, and whether it is the right child.
    parents: Vec<(u32, bool)>,
}

impl Tree {
    /// Of names and counts, of which there is at least one.
    pub(super) fn new(labels: &[(String, i64)]) -> Result<Self, String> {
        let n = labels.len();
        let mut counts = Vec::with_capacity(2 * n - 1);
        let mut total = 0_i64;
        for (name, count) in labels {
            total = total.saturating_add(*count);
            if *count < 0 || total >= UNBUILT {
                return Err(format!(
                    "the count of label '{name}' is {count}; counts from 0 to 10^15 in all are expected"
                ));
            }
            counts.push(*count);
        }
        let mut children = Vec::with_capacity(n - 1);
        let mut parents = vec![(0, false); 2 * n - 2];
        // The two smallest among the labels, from the last one on, and the inner nodes, from the first one on.
        let (mut labels_left, mut node) = (n, n);
        for inner in n..2 * n - 1 {
            let pair = [false, true].map(|right| {
                let built = counts.get(node).copied().unwrap_or(UNBUILT);
                let taken = if labels_left > 0 && counts[labels_left - 1] < built {
                    labels_left -= 1;
                    labels_left
                } else {
                    node += 1;
                    node - 1
                };
                parents[taken] = (inner as u32, right);
                taken
            });
            counts.push(counts[pair[0]] + counts[pair[1]]);
            children.push(pair.map(|child| child as u32));
        }
        Ok(Self { labels: n, children, parents })
    }

    /// The logarithm of a label's probability; `dot` is the product with the row of an inner node.
    pub(super) fn score(&self, label: usize, dot: impl Fn(usize) -> f32) -> f32 {
        let mut path = Vec::new();
        let mut node = label;
        while let Some(&(parent, right)) = self.parents.get(node) {
            path.push((parent as usize, right));
            node = parent as usize;
        }
        path.iter().rev().fold(0.0, |score, &(parent, right)| score + self.steps(parent, &dot)[usize::from(right)])
    }

    /// The best labels in falling order, those below a hundred-thousandth left out; depth first, so that whole branches are.
    pub(super) fn best(&self, most: usize, best: &mut Vec<(f32, usize)>, dot: impl Fn(usize) -> f32) {
        let lowest = log(0.0);
        let mut open = vec![(self.labels + self.children.len() - 1, 0.0_f32)];
        while let Some((node, score)) = open.pop() {
            if score < lowest || (best.len() == most && best.last().is_some_and(|&(worst, _)| score < worst)) {
                continue;
            }
            match node.checked_sub(self.labels) {
                None => keep(best, most, (score, node)),
                Some(inner) => {
                    let steps = self.steps(node, &dot);
                    let [left, right] = self.children[inner];
                    open.push((right as usize, score + steps[1]));
                    open.push((left as usize, score + steps[0]));
                }
            }
        }
    }

    /// Logarithms of the probabilities of going left and right.
    fn steps(&self, node: usize, dot: &impl Fn(usize) -> f32) -> [f32; 2] {
        let right = (1.0 / f64::from(1.0 + (-dot(node - self.labels)).exp())) as f32;
        [log(1.0 - right), log(right)]
    }
}

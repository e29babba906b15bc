//! Angles of rotary position embedding, with the scalings that let models read further than they were trained.
//!
//! Frequencies are those of `modeling_rope_utils.py` of transformers: rounded to single precision, and so are angles, since models
//! were trained with such; cosines and sines of these are exact to their last bit. Two scalings, `dynamic` and
//! `longrope`, depend on the length of the text. Here that is the length of the document itself, so that a document has the same
//! numbers whatever else is in its batch.

use std::sync::{Arc, PoisonError, RwLock};

/// What a configuration says of rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RopeSpec {
    /// The base of the frequencies.
    pub(crate) base: f64,
    /// Values of a head that are turned.
    pub(crate) rotated: usize,
    /// How frequencies are changed.
    pub(crate) scaling: Scaling,
}

/// How frequencies are changed; `trained` is the number of positions that the model was first trained with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scaling {
    Default,
    /// Positions are divided by the factor.
    Linear {
        factor: f64,
    },
    /// The base grows with the length of texts that are longer than the model was trained with (NTK-aware).
    Dynamic {
        factor: f64,
        trained: usize,
    },
    /// Low frequencies are divided by the factor, high ones left, those between mixed (Llama 3.1).
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        trained: usize,
    },
    /// The same by numbers of turns over the trained length (YaRN, Peng and others, 2023), and a sharper softmax.
    Yarn {
        factor: f64,
        trained: usize,
        fast: f64,
        slow: f64,
        whole: bool,
        attention: Option<f64>,
        mscale: Option<(f64, f64)>,
    },
    /// Each frequency has a factor of its own, one for short texts and one for long ones (LongRoPE, Ding and others, 2024).
    LongRope {
        factor: f64,
        trained: usize,
        short: Vec<f64>,
        long: Vec<f64>,
        attention: Option<f64>,
    },
}

/// Cosines and sines, `[rows, rotated / 2]`.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) cosines: Vec<f32>,
    pub(crate) sines: Vec<f32>,
}

/// Angles of a batch: a table, and each token's row of it.
#[derive(Debug)]
pub(crate) struct Angles {
    pub(crate) table: Arc<Table>,
    pub(crate) rows: Vec<i32>,
}

/// Rotary embedding of a model's layers of one kind.
#[derive(Debug)]
pub(crate) struct Rope {
    spec: RopeSpec,
    /// Frequencies of texts up to the trained length.
    frequencies: Vec<f32>,
    /// For positions from 0 on, as many as were needed so far.
    table: RwLock<Arc<Table>>,
}

impl Rope {
    pub(crate) fn new(spec: RopeSpec) -> Self {
        let frequencies = spec.frequencies(0);
        Self { spec, frequencies, table: RwLock::default() }
    }

    /// The same without the table.
    pub(crate) fn again(&self) -> Self {
        Self::new(self.spec.clone())
    }

    /// Values of a head that are turned.
    pub(crate) fn rotated(&self) -> usize {
        self.spec.rotated
    }

    /// Whether frequencies depend on how long a text is.
    pub(crate) fn depends_on_length(&self) -> bool {
        self.spec.trained_if_length_matters().is_some()
    }

    /// Angles of documents `offsets[d]..offsets[d + 1]` of tokens with these positions, from 0.
    pub(crate) fn angles(&self, positions: &[i32], offsets: &[i64]) -> Angles {
        let long = |document: &[i64]| {
            let tokens = &positions[document[0] as usize..document[1] as usize];
            let length = tokens.iter().map(|&position| position as usize + 1).max().unwrap_or(0);
            self.spec.trained_if_length_matters().is_some_and(|trained| length > trained).then_some(length)
        };
        if offsets.windows(2).all(|document| long(document).is_none()) {
            let rows = positions.iter().map(|&position| position as usize + 1).max().unwrap_or(0);
            return Angles { table: self.positions(rows), rows: positions.to_vec() };
        }
        let mut table = Table::default();
        for document in offsets.windows(2) {
            let frequencies = long(document).map(|length| self.spec.frequencies(length));
            let frequencies = frequencies.as_deref().unwrap_or(&self.frequencies);
            for &position in &positions[document[0] as usize..document[1] as usize] {
                table.push(position as usize, frequencies, self.spec.magnitude());
            }
        }
        Angles { table: Arc::new(table), rows: (0..positions.len() as i32).collect() }
    }

    /// The table of at least the first `rows` positions.
    fn positions(&self, rows: usize) -> Arc<Table> {
        let pairs = self.spec.rotated / 2;
        let enough = |table: &Table| table.cosines.len() >= rows * pairs;
        {
            let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
            if enough(&table) {
                return Arc::clone(&table);
            }
        }
        let mut current = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if !enough(&current) {
            let mut table = Table::default();
            for position in 0..rows.next_power_of_two() {
                table.push(position, &self.frequencies, self.spec.magnitude());
            }
            *current = Arc::new(table);
        }
        Arc::clone(&current)
    }
}

impl Table {
    fn push(&mut self, position: usize, frequencies: &[f32], magnitude: f64) {
        for &frequency in frequencies {
            let angle = f64::from(position as f32 * frequency);
            self.cosines.push((angle.cos() * magnitude) as f32);
            self.sines.push((angle.sin() * magnitude) as f32);
        }
    }
}

impl RopeSpec {
    /// The most positions of a model with so many by its configuration: `dynamic` multiplies them.
    pub(crate) fn longest(&self, positions: usize) -> usize {
        match self.scaling {
            Scaling::Dynamic { factor, .. } => (positions as f64 * factor.max(1.0)) as usize,
            _ => positions,
        }
    }

    /// The trained length, where texts beyond it have other frequencies.
    const fn trained_if_length_matters(&self) -> Option<usize> {
        match self.scaling {
            Scaling::Dynamic { trained, .. } | Scaling::LongRope { trained, .. } => Some(trained),
            _ => None,
        }
    }

    /// What cosines and sines are multiplied by.
    fn magnitude(&self) -> f64 {
        let sharpness = |factor: f64, scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
        match &self.scaling {
            Scaling::Yarn { attention: Some(attention), .. } | Scaling::LongRope { attention: Some(attention), .. } => {
                *attention
            }
            // A scale of zero counts as not given.
            Scaling::Yarn { factor, mscale: Some((one, all)), .. } if *one != 0.0 && *all != 0.0 => {
                sharpness(*factor, *one) / sharpness(*factor, *all)
            }
            Scaling::Yarn { factor, .. } => sharpness(*factor, 1.0),
            Scaling::LongRope { factor, trained, .. } if *factor > 1.0 => {
                (1.0 + factor.ln() / (*trained as f64).ln()).sqrt()
            }
            _ => 1.0,
        }
    }

    /// Radians from one position to the next for each pair, in a text of such a length; 0 stands for any that is not too long.
    fn frequencies(&self, length: usize) -> Vec<f32> {
        let width = self.rotated as f64;
        let exponents = || (0..self.rotated / 2).map(|pair| 2.0 * pair as f64 / width);
        let plain = |base: f64| exponents().map(move |exponent| base.powf(-exponent));
        let round = |frequency: f64| frequency as f32;
        match &self.scaling {
            Scaling::Default => plain(self.base).map(round).collect(),
            Scaling::Linear { factor } => plain(self.base).map(|frequency| round(frequency / factor)).collect(),
            Scaling::Dynamic { factor, trained } => {
                let share = length.max(*trained) as f64 / *trained as f64;
                let growth = (factor * share - (factor - 1.0)).powf(width / (width - 2.0));
                plain(self.base * growth).map(round).collect()
            }
            Scaling::Llama3 { factor, low, high, trained } => plain(self.base)
                .map(|frequency| {
                    let turns = *trained as f64 * frequency / std::f64::consts::TAU;
                    let share = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    round(if turns < *low {
                        frequency / factor
                    } else if turns > *high {
                        frequency
                    } else {
                        (1.0 - share) * frequency / factor + share * frequency
                    })
                })
                .collect(),
            Scaling::Yarn { factor, trained, fast, slow, whole, .. } => {
                // The pair that makes so many turns over the trained length.
                let pair = |turns: f64| {
                    width * (*trained as f64 / (turns * std::f64::consts::TAU)).ln() / (2.0 * self.base.ln())
                };
                let (mut first, mut last) = (pair(*fast), pair(*slow));
                if *whole {
                    (first, last) = (first.floor(), last.ceil());
                }
                let (first, mut last) = (first.max(0.0), last.min(width - 1.0));
                if first == last {
                    last += 0.001;
                }
                plain(self.base)
                    .enumerate()
                    .map(|(pair, frequency)| {
                        let kept = 1.0 - ((pair as f64 - first) / (last - first)).clamp(0.0, 1.0);
                        round(frequency / factor * (1.0 - kept) + frequency * kept)
                    })
                    .collect()
            }
            Scaling::LongRope { trained, short, long, .. } => {
                let factors = if length > *trained { long } else { short };
                plain(self.base).zip(factors).map(|(frequency, factor)| round(frequency / factor)).collect()
            }
        }
    }
}

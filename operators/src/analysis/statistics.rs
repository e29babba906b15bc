//! What a list of numbers is like: moments, quantiles, and how certain a mean is.

use serde::Serialize;

/// Count, mean, standard deviation, median and extremes of numbers. All but the count are absent where there are no numbers.
///
/// ```
/// use gristmill_operators::analysis::Summary;
///
/// let summary = Summary::of(&[4.0, 1.0, 3.0, 2.0]);
/// assert_eq!((summary.mean, summary.median), (Some(2.5), Some(2.5)));
/// assert_eq!(summary.std, Some(1.25_f64.sqrt()));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// How many numbers there are.
    pub count: usize,
    /// Their arithmetic mean.
    pub mean: Option<f64>,
    /// Their standard deviation as a population: the root of the mean squared distance from the mean, divided by `count`.
    pub std: Option<f64>,
    /// The middle number, or the mean of the two in the middle.
    pub median: Option<f64>,
    /// The smallest.
    pub min: Option<f64>,
    /// The largest.
    pub max: Option<f64>,
}

impl Summary {
    /// The summary of numbers, none of which is NaN.
    #[must_use]
    pub fn of(values: &[f64]) -> Self {
        let Some(mean) = mean(values) else { return Self::default() };
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let sorted = sorted(values);
        Self {
            count: values.len(),
            mean: Some(mean),
            std: Some((squares / values.len() as f64).sqrt()),
            median: Some(quantile_of_sorted(&sorted, 0.5)),
            min: sorted.first().copied(),
            max: sorted.last().copied(),
        }
    }
}

/// The arithmetic mean, if there are numbers.
#[must_use]
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The quantile `share` (0 to 1) of numbers, none of which is NaN, interpolated linearly between the two that are next to it, as numpy does by
/// default (Hyndman and Fan 1996, definition 7).
#[must_use]
pub fn quantile(values: &[f64], share: f64) -> Option<f64> {
    (!values.is_empty()).then(|| quantile_of_sorted(&sorted(values), share))
}

/// A mean over queries and how certain it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MeanEstimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error: the sample standard deviation (divisor `n - 1`) over the root of `n`; absent for fewer than two numbers.
    pub standard_error: Option<f64>,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

/// How a bootstrap draws.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bootstrap {
    /// How often numbers are drawn again.
    pub draws: usize,
    /// Share of the means that the interval covers, between 0 and 1.
    pub confidence: f64,
    /// The same seed gives the same interval.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { draws: 10_000, confidence: 0.95, seed: 0 }
    }
}

impl Bootstrap {
    /// The mean of numbers with its percentile interval (Efron and Tibshirani 1993, section 13.3): as many numbers are drawn with replacement, `draws`
    /// times, and the interval goes between the quantiles of their means. Nothing where there are no numbers.
    #[must_use]
    pub fn mean(&self, values: &[f64]) -> Option<MeanEstimate> {
        let mean = mean(values)?;
        let mut random = Random(self.seed);
        let mut means: Vec<f64> = (0..self.draws.max(1))
            .map(|_| {
                let sum: f64 = (0..values.len()).map(|_| values[random.below(values.len())]).sum();
                sum / values.len() as f64
            })
            .collect();
        means.sort_unstable_by(f64::total_cmp);
        let outside = (1.0 - self.confidence) / 2.0;
        Some(MeanEstimate {
            mean,
            standard_error: standard_error(values),
            low: quantile_of_sorted(&means, outside),
            high: quantile_of_sorted(&means, 1.0 - outside),
        })
    }
}

/// The standard error of the mean of numbers; absent for fewer than two.
#[must_use]
pub fn standard_error(values: &[f64]) -> Option<f64> {
    let mean = mean(values).filter(|_| values.len() > 1)?;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let count = values.len() as f64;
    Some((squares / (count - 1.0) / count).sqrt())
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

fn quantile_of_sorted(sorted: &[f64], share: f64) -> f64 {
    let place = share.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

/// SplitMix64 (Steele, Lea and Flood 2014), so that intervals do not depend on a library's generator.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `bound`. The bias of the high half of a product is below 2⁻⁴⁰ for fewer than 2²⁴ numbers.
    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn summaries_and_quantiles_are_those_of_numpy() {
        assert_eq!(Summary::of(&[]), Summary::default());
        let one = Summary::of(&[-2.0]);
        assert_eq!((one.count, one.mean, one.std, one.median), (1, Some(-2.0), Some(0.0), Some(-2.0)));
        let odd = Summary::of(&[5.0, -1.0, 2.0]);
        assert_eq!((odd.min, odd.median, odd.max, odd.std), (Some(-1.0), Some(2.0), Some(5.0), Some(6.0_f64.sqrt())));
        // numpy.quantile([1, 2, 4, 8], [0, .25, .5, .9, 1])
        let values = [8.0, 1.0, 4.0, 2.0];
        let quantiles = [0.0, 0.25, 0.5, 0.9, 1.0].map(|share| quantile(&values, share).unwrap());
        assert_eq!(quantiles[..3], [1.0, 1.75, 3.0]);
        assert!((quantiles[3] - 6.8).abs() < 1e-12 && quantiles[4] == 8.0);
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn intervals_depend_on_the_seed_only_and_cover_as_they_say() {
        let bootstrap = Bootstrap { draws: 2000, ..Bootstrap::default() };
        let values: Vec<f64> = (0..100).map(f64::from).collect();
        let estimate = bootstrap.mean(&values).unwrap();
        assert_eq!(estimate, bootstrap.mean(&values).unwrap());
        assert_ne!(estimate, Bootstrap { seed: 1, ..bootstrap }.mean(&values).unwrap());
        // The standard error is sqrt(841.67 / 100) = 2.9011; a normal interval would go 5.69 to each side. The quantiles of 2,000 means vary by about 0.2.
        assert!((estimate.standard_error.unwrap() - 2.901_149_197_588_202).abs() < 1e-12);
        assert!((estimate.low - (49.5 - 5.69)).abs() < 0.7 && (estimate.high - (49.5 + 5.69)).abs() < 0.7, "{estimate:?}");
        let narrow = Bootstrap { confidence: 0.5, ..bootstrap }.mean(&values).unwrap();
        assert!(narrow.low > estimate.low && narrow.high < estimate.high);
        assert_eq!(bootstrap.mean(&[]), None);
        let one = bootstrap.mean(&[3.0]).unwrap();
        assert_eq!((one.mean, one.standard_error, one.low, one.high), (3.0, None, 3.0, 3.0));
    }
}

//! The two tables of numbers that codes stand for, and where between them a value changes its code.

/// What the sixteen codes stand for, as parts of the largest magnitude of a block: quantiles of the normal distribution, with an exact
/// zero (Dettmers et al., 2023, appendix E).
pub const CODES: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The positive numbers of the map of scales but 1: the means of neighbours among 2^i + 1 numbers evenly spaced from 0.1 to 1, times
/// 10^(i - 6), for i from 0 to 6, in single precision (Dettmers, 2015, "8-Bit Approximations for Parallelism in Deep Learning").
#[rustfmt::skip]
#[allow(clippy::unreadable_literal, clippy::excessive_precision, reason = "numbers as another program prints them")]
const MAGNITUDES: [f32; 127] = [
    5.5000004e-7, 3.2500002e-6, 7.75e-6, 2.1249998e-5, 4.375e-5, 6.625e-5, 8.875e-5, 1.5625001e-4, 2.6875004e-4,
    3.8125002e-4, 4.9375003e-4, 6.062501e-4, 7.1875006e-4, 8.3125e-4, 9.437501e-4, 1.2812499e-3, 1.84375e-3,
    2.40625e-3, 2.96875e-3, 3.5312497e-3, 4.09375e-3, 4.6562497e-3, 5.2187503e-3, 5.78125e-3, 6.34375e-3, 6.90625e-3,
    7.46875e-3, 8.03125e-3, 8.59375e-3, 9.156249e-3, 9.71875e-3, 1.140625e-2, 1.421875e-2, 1.703125e-2, 1.9843752e-2,
    2.265625e-2, 2.546875e-2, 2.8281251e-2, 3.109375e-2, 3.390625e-2, 3.6718752e-2, 3.953125e-2, 4.2343747e-2,
    4.515625e-2, 4.796875e-2, 5.078125e-2, 5.359375e-2, 5.640625e-2, 5.9218753e-2, 6.203125e-2, 6.484375e-2,
    6.7656256e-2, 7.0468746e-2, 7.328125e-2, 7.609375e-2, 7.890625e-2, 8.171876e-2, 8.453125e-2, 8.734375e-2,
    9.015625e-2, 9.2968754e-2, 9.578126e-2, 9.859375e-2, 1.07031256e-1, 1.2109375e-1, 1.3515624e-1, 1.4921875e-1,
    1.6328125e-1, 1.7734376e-1, 1.9140625e-1, 2.0546874e-1, 2.1953125e-1, 2.3359375e-1, 2.4765624e-1, 2.6171875e-1,
    2.7578127e-1, 2.8984374e-1, 3.0390626e-1, 3.1796873e-1, 3.3203125e-1, 3.4609374e-1, 3.6015624e-1, 3.7421876e-1,
    3.8828123e-1, 4.0234375e-1, 4.1640624e-1, 4.3046874e-1, 4.4453126e-1, 4.5859373e-1, 4.7265625e-1, 4.867187e-1,
    5.0078124e-1, 5.148437e-1, 5.289062e-1, 5.4296875e-1, 5.570313e-1, 5.710938e-1, 5.8515626e-1, 5.992187e-1,
    6.1328125e-1, 6.273438e-1, 6.414063e-1, 6.5546876e-1, 6.695312e-1, 6.8359375e-1, 6.976563e-1, 7.117188e-1,
    7.2578126e-1, 7.398437e-1, 7.5390625e-1, 7.679688e-1, 7.8203124e-1, 7.9609376e-1, 8.101562e-1, 8.2421875e-1,
    8.382813e-1, 8.5234374e-1, 8.6640626e-1, 8.804687e-1, 8.9453125e-1, 9.085938e-1, 9.2265624e-1, 9.3671876e-1,
    9.507812e-1, 9.6484375e-1, 9.789063e-1, 9.9296874e-1,
];

/// What the 256 codes of scales stand for, rising: the magnitudes with both signs, 0 and 1.
pub const SCALES: [f32; 256] = {
    let mut map = [0.0; 256];
    let mut i = 0;
    while i < 127 {
        map[126 - i] = -MAGNITUDES[i];
        map[128 + i] = MAGNITUDES[i];
        i += 1;
    }
    map[255] = 1.0;
    map
};

/// A value up to the bound of a code has that code or a smaller one: the mean with the next one.
pub(super) const CODE_BOUNDS: [f32; 15] = bounds(&CODES);

/// The same of [`SCALES`].
pub(super) const SCALE_BOUNDS: [f32; 255] = bounds(&SCALES);

const fn bounds<const COUNT: usize>(map: &[f32]) -> [f32; COUNT] {
    let mut bounds = [0.0; COUNT];
    let mut i = 0;
    while i < COUNT {
        bounds[i] = (map[i] + map[i + 1]) / 2.0;
        i += 1;
    }
    bounds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_rise() {
        assert!(CODES.is_sorted_by(|a, b| a < b) && SCALES.is_sorted_by(|a, b| a < b));
        assert_eq!((SCALES[127], SCALES[255], CODES[7]), (0.0, 1.0, 0.0));
    }

    /// The construction that the comment of `MAGNITUDES` gives, in double precision.
    #[test]
    fn magnitudes_are_what_they_are_said_to_be() {
        let exact = (0..7_i32).flat_map(|i| {
            let count = f64::from(1 << i);
            (0..1 << i).map(move |j| 10_f64.powi(i - 6) * (0.1 + 0.9 * (2.0 * f64::from(j) + 1.0) / (2.0 * count)))
        });
        for (own, exact) in MAGNITUDES.iter().zip(exact) {
            assert!((f64::from(*own) / exact - 1.0).abs() < 3e-7, "{own} {exact}");
        }
    }
}

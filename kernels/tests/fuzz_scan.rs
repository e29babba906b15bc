//! The fuzz target of the scanner on stable Rust: over inputs of its own, and with proptest in place of libFuzzer. `PROPTEST_CASES`
//! sets how long the second one runs.

use gristmill_kernels::check::Random;
use proptest::prelude::*;

#[path = "../fuzz/src/scan.rs"]
#[allow(clippy::panic, unreachable_pub, reason = "a fuzz target fails by panicking; it is public in its own package")]
mod scan;

/// Every combination of options and alphabet, with few and many patterns, on short and long texts.
#[test]
fn the_scanner_finds_what_comparison_finds_in_a_corpus() {
    let mut random = Random::new(1);
    for input in [&[][..], &[0; 3], &[0; 4], &[255; 5], &[3, 1, 255, 47]] {
        scan::check(input);
    }
    for combination in 0..16 {
        for (repetitions, count) in [(0, 1), (0, 20), (1, 47), (255, 3), (255, 47)] {
            let mut input = vec![combination & 3, combination >> 2, repetitions, count];
            let length = random.length(700);
            input.extend((0..length).map(|_| random.bits() as u8));
            scan::check(&input);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_scanner_finds_what_comparison_finds(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        scan::check(&bytes);
    }
}

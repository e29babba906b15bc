//! How common a few bytes are in ordinary text, as a guide to which window of a pattern to look for.
//!
//! The estimate is a first-order model over 28 classes of bytes, taken from English prose and technical documents; bytes
//! outside ASCII get flat costs. It only steers speed: a text that it describes badly is scanned more slowly, not otherwise.

/// Costs are in eighths of a bit: a window of cost 8·n is expected once in 2ⁿ positions.
const BITS: u32 = 8;

/// What choosing a window that is looked for anyway is worth: it makes no further position a candidate.
pub(super) const REUSE: u32 = 3 * BITS;

const OTHER: usize = 26;
const DIGIT: usize = 27;

/// Estimated rarity of `window` in text, case ignored: the negative binary logarithm of its frequency, in eighths of a bit.
pub(super) fn rarity(window: &[u8]) -> u32 {
    let mut previous = None;
    window.iter().map(|byte| cost(previous.replace(*byte), *byte)).sum()
}

/// What a byte behind another one, or alone, adds to the rarity.
pub(super) fn cost(previous: Option<u8>, byte: u8) -> u32 {
    previous.map_or_else(|| start(byte), |previous| step(previous, byte))
}

fn start(byte: u8) -> u32 {
    class(byte).map_or(5 * BITS, |class| u32::from(FIRST[class]) + spread(byte))
}

fn step(previous: u8, byte: u8) -> u32 {
    match (class(previous), class(byte)) {
        (Some(before), Some(after)) => u32::from(NEXT[before][after]) + spread(byte),
        (Some(_), None) => 7 * BITS,
        (None, Some(_)) => 5 * BITS,
        // Lead bytes of one script are few, continuation bytes spread over their 64 values.
        (None, None) if byte >= 0xc0 => 3 * BITS,
        (None, None) => 5 * BITS,
    }
}

/// The class of an ASCII byte.
fn class(byte: u8) -> Option<usize> {
    match byte.to_ascii_lowercase() {
        letter @ b'a'..=b'z' => Some(usize::from(letter - b'a')),
        b'0'..=b'9' => Some(DIGIT),
        0x80.. => None,
        _ => Some(OTHER),
    }
}

/// A class of several bytes is shared by them: ten digits evenly, and what is neither letter, digit nor space is rare.
fn spread(byte: u8) -> u32 {
    match byte {
        b'0'..=b'9' => 26,
        b' ' => 2,
        other if other.is_ascii_alphabetic() => 0,
        _ => 4 * BITS,
    }
}

/// Cost of a class at any position.
#[rustfmt::skip]
const FIRST: [u8; 28] = [33, 51, 41, 42, 28, 47, 49, 41, 33, 76, 62, 40, 46, 34, 34, 44, 79, 35, 34, 30, 43, 57, 52, 66, 52, 79, 16, 52];

/// Cost of a class (inner index) behind another (outer index).
#[rustfmt::skip]
const NEXT: [[u8; 28]; 28] = [
    [93, 41, 32, 39, 101, 48, 42, 96, 40, 85, 54, 26, 38, 22, 95, 44, 110, 27, 30, 20, 48, 47, 62, 69, 47, 84, 30, 79],
    [32, 68, 58, 76, 16, 84, 91, 95, 33, 42, 83, 20, 69, 92, 30, 86, 83, 39, 47, 64, 25, 77, 120, 120, 31, 107, 28, 55],
    [25, 81, 44, 78, 24, 82, 88, 28, 37, 112, 36, 36, 69, 97, 18, 62, 88, 34, 50, 24, 38, 89, 108, 92, 56, 103, 31, 65],
    [35, 63, 67, 45, 17, 81, 68, 80, 29, 81, 60, 52, 71, 71, 33, 76, 117, 50, 41, 75, 40, 67, 76, 94, 55, 104, 9, 67],
    [39, 70, 37, 32, 48, 46, 58, 71, 54, 74, 80, 39, 42, 28, 75, 48, 57, 24, 27, 36, 76, 50, 57, 42, 58, 103, 13, 76],
    [38, 93, 55, 65, 23, 37, 90, 124, 23, 105, 111, 43, 87, 59, 20, 93, 111, 35, 66, 38, 32, 124, 124, 102, 51, 102, 16, 63],
    [37, 76, 71, 100, 20, 82, 46, 35, 29, 83, 95, 45, 69, 36, 37, 70, 110, 35, 41, 62, 36, 100, 85, 104, 68, 123, 11, 78],
    [21, 92, 107, 75, 10, 97, 95, 100, 26, 130, 102, 78, 70, 78, 28, 84, 111, 52, 67, 35, 44, 117, 97, 102, 67, 111, 25, 66],
    [43, 47, 34, 40, 40, 38, 42, 105, 81, 125, 60, 34, 38, 16, 26, 48, 76, 43, 25, 24, 90, 45, 119, 67, 138, 49, 49, 82],
    [33, 77, 47, 77, 12, 83, 95, 95, 52, 83, 77, 77, 54, 95, 30, 61, 95, 73, 14, 95, 24, 95, 60, 83, 68, 95, 48, 77],
    [32, 77, 67, 66, 13, 52, 56, 71, 30, 84, 110, 50, 91, 36, 66, 73, 97, 67, 30, 63, 35, 97, 52, 110, 62, 75, 14, 55],
    [29, 79, 71, 34, 19, 48, 79, 84, 22, 98, 71, 25, 80, 73, 29, 59, 119, 69, 41, 44, 40, 57, 66, 98, 31, 119, 23, 78],
    [20, 45, 71, 47, 16, 82, 79, 100, 31, 96, 93, 50, 40, 75, 29, 25, 113, 58, 43, 82, 37, 100, 79, 107, 56, 107, 23, 77],
    [37, 85, 33, 26, 31, 52, 25, 75, 38, 82, 61, 56, 69, 52, 32, 65, 97, 80, 30, 25, 53, 53, 67, 94, 55, 94, 16, 92],
    [59, 49, 41, 36, 61, 33, 52, 88, 55, 65, 54, 40, 33, 19, 46, 38, 115, 22, 40, 36, 30, 47, 39, 71, 73, 103, 24, 99],
    [25, 82, 65, 56, 21, 87, 70, 57, 34, 102, 77, 27, 61, 79, 27, 36, 114, 21, 36, 35, 39, 84, 108, 97, 38, 127, 30, 77],
    [93, 80, 80, 80, 67, 74, 93, 93, 80, 80, 93, 46, 80, 74, 93, 93, 74, 80, 93, 74, 1, 74, 80, 93, 93, 80, 32, 61],
    [28, 75, 48, 47, 16, 57, 46, 85, 30, 114, 54, 59, 46, 46, 28, 63, 136, 45, 35, 39, 38, 54, 75, 105, 40, 123, 19, 82],
    [40, 95, 49, 66, 25, 71, 82, 43, 32, 103, 64, 59, 63, 72, 37, 44, 87, 67, 34, 22, 38, 88, 57, 112, 52, 87, 10, 83],
    [34, 86, 58, 69, 25, 74, 95, 17, 25, 113, 95, 53, 68, 86, 28, 49, 128, 35, 41, 43, 45, 116, 63, 87, 43, 110, 18, 77],
    [42, 35, 36, 49, 33, 62, 42, 128, 38, 128, 90, 28, 37, 23, 72, 36, 128, 24, 21, 25, 109, 103, 97, 69, 87, 109, 43, 76],
    [19, 92, 81, 102, 7, 115, 80, 92, 20, 115, 82, 73, 52, 115, 40, 102, 102, 92, 76, 102, 74, 96, 102, 102, 70, 102, 44, 52],
    [27, 69, 84, 82, 21, 119, 79, 22, 16, 119, 81, 65, 85, 39, 28, 97, 106, 40, 44, 74, 119, 119, 56, 106, 119, 119, 23, 94],
    [26, 74, 32, 62, 28, 71, 93, 65, 28, 106, 106, 76, 63, 106, 80, 17, 87, 67, 76, 20, 93, 83, 106, 52, 72, 106, 19, 42],
    [57, 63, 63, 69, 48, 73, 67, 94, 49, 97, 97, 62, 53, 42, 31, 29, 107, 57, 36, 34, 85, 83, 56, 107, 97, 85, 5, 67],
    [20, 56, 74, 70, 6, 57, 59, 93, 35, 93, 70, 80, 57, 93, 45, 63, 93, 61, 59, 80, 48, 80, 70, 93, 46, 46, 34, 65],
    [32, 43, 37, 44, 45, 42, 54, 47, 35, 70, 65, 48, 43, 47, 39, 41, 78, 43, 36, 28, 50, 57, 42, 81, 65, 88, 11, 49],
    [59, 55, 58, 57, 61, 58, 94, 90, 97, 85, 92, 87, 82, 76, 107, 83, 92, 78, 63, 60, 97, 107, 88, 57, 94, 79, 11, 7],
];

#[cfg(test)]
mod tests {
    use super::rarity;

    #[test]
    fn common_windows_cost_less_than_rare_ones() {
        for (common, rare) in [("ther", "zqxj"), ("tion", "tiox"), (" the", "qthe"), ("ing ", "ing7"), ("THE ", "ZXK ")]
        {
            assert!(rarity(common.as_bytes()) < rarity(rare.as_bytes()), "{common} {rare}");
        }
        assert_eq!(rarity(b"TION"), rarity(b"tion"));
        assert_eq!(rarity(b""), 0);
    }
}

//! The shim runs kernels rightly, and finds planted mistakes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(unsafe_code, reason = "launches take addresses")]

use gristmill_kernels_shim::{Argument, Geometry, LaunchError, kernels, launch};

fn threads(block: u32) -> Geometry {
    Geometry { grid: [1, 1, 1], block: [block, 1, 1], shared_bytes: 0 }
}

fn address<T>(memory: &mut [T]) -> Argument {
    Argument::Address(memory.as_mut_ptr() as u64)
}

#[test]
fn planted_mistakes_are_found_whatever_the_order() {
    let cases: [(&str, u32, &str); 7] = [
        ("planted_missing_barrier", 256, "race"),
        ("planted_missing_second_barrier", 256, "race"),
        ("planted_divergent_barrier", 64, "divergent barrier"),
        ("planted_deadlock", 64, "deadlock"),
        ("planted_wrong_mask", 64, "not in its mask"),
        ("planted_index", 64, "shared memory `values` has 256 bytes"),
        ("planted_warp_order", 64, "race"),
    ];
    for (kernel, block, expected) in cases {
        for seed in 0..20 {
            let mut y = vec![0_f32; 256];
            let error = unsafe { launch(kernel, threads(block), &[address(&mut y)], seed) }.unwrap_err();
            let LaunchError::Fault { message, block, .. } = &error else { panic!("{error}") };
            assert!(message.contains(expected), "{kernel}, seed {seed}: {error}");
            assert_eq!(*block, [0; 3]);
            assert!(error.to_string().starts_with(&format!("{kernel}, block [0, 0, 0], thread [")), "{error}");
        }
    }
}

#[test]
fn mistakes_with_tensor_cores_and_copies_are_found() {
    let cases: [(&str, bool, &str); 4] = [
        ("planted_part_of_a_warp", false, "a part of its lanes"),
        ("planted_unaligned_copy", true, "multiple of 16 bytes"),
        ("planted_forgotten_copy", true, "never waited"),
        ("planted_early_read", true, "race"),
    ];
    #[repr(align(16))]
    struct Aligned([u16; 256]);
    let mut x = Aligned([0x3f80; 256]);
    for (kernel, reads, expected) in cases {
        let mut y = vec![0_f32; 64];
        let arguments = [address(&mut x.0), address(&mut y)];
        let arguments = if reads { &arguments[..] } else { &arguments[1..] };
        let error = unsafe { launch(kernel, threads(32), arguments, 1) }.unwrap_err();
        assert!(error.to_string().contains(expected), "{kernel}: {error}");
    }
}

/// Small whole numbers, exact in either type and in every sum.
#[test]
fn products_of_tiles_are_right_however_the_operands_lie() {
    #[repr(align(16))]
    struct Tile([u16; 256]);
    let whole = |i: usize| (i * 7 % 11) as f32 - 5.0;
    let bits = |value: f32, half: bool| -> u16 {
        if !half {
            return (value.to_bits() >> 16) as u16;
        }
        (0..=u16::MAX).find(|&bits| half_value(bits) == f64::from(value)).unwrap()
    };
    for (kernel, half) in [("correct_products_bf16", false), ("correct_products_f16", true)] {
        let tile = |f: &dyn Fn(usize, usize) -> f32| Tile(std::array::from_fn(|i| bits(f(i / 16, i % 16), half)));
        let a = |row: usize, k: usize| whole(row * 31 + k * 3);
        let b = |k: usize, column: usize| whole(k * 17 + column * 5 + 2);
        let mut tiles = [tile(&a), tile(&|k, row| a(row, k)), tile(&b), tile(&|column, k| b(k, column))];
        for inner in [16, 9, 3, 0] {
            let mut y = vec![f32::NAN; 4 * 256];
            let [left, left_transposed, right, right_transposed] = &mut tiles;
            let arguments = [
                address(&mut left.0),
                address(&mut left_transposed.0),
                address(&mut right.0),
                address(&mut right_transposed.0),
                address(&mut y),
                Argument::Int(inner),
            ];
            unsafe { launch(kernel, threads(32), &arguments, u64::from(inner)) }.unwrap();
            for (i, &value) in y.iter().enumerate() {
                let (row, column) = (i % 256 / 16, i % 16);
                let expected: f32 = (0..inner as usize).map(|k| a(row, k) * b(k, column)).sum();
                assert_eq!(value, expected, "{kernel}, way {}, row {row}, column {column}, {inner} of k", i / 256);
            }
        }
    }
    let small = |i: usize| (i * 5 % 7) as f32 - 3.0;
    let mut a = Tile(std::array::from_fn(|i| bits(small(i), false)));
    let mut y = vec![f32::NAN; 256];
    unsafe { launch("correct_chained_products", threads(32), &[address(&mut a.0), address(&mut y)], 1) }.unwrap();
    let times = |left: &[f32], right: &[f32]| -> Vec<f32> {
        let cell = |i: usize| (0..16).map(|k| left[i / 16 * 16 + k] * right[k * 16 + i % 16]).sum();
        (0..256).map(cell).collect()
    };
    let a: Vec<f32> = (0..256).map(small).collect();
    assert_eq!(y, times(&times(&a, &a), &a));
}

#[test]
fn a_fault_names_the_thread() {
    let mut y = vec![0_f32; 64];
    let error = unsafe { launch("planted_index", threads(64), &[address(&mut y)], 1) }.unwrap_err();
    assert!(error.to_string().contains("thread [63, 0, 0]"), "{error}");
    assert!(error.to_string().contains("bytes 256 to 259"), "{error}");
}

#[test]
fn dynamic_shared_memory_has_the_size_of_the_launch() {
    let mut y = vec![0_f32; 64];
    let mut geometry = threads(64);
    geometry.shared_bytes = 256;
    let arguments = [address(&mut y), Argument::Int(7)];
    unsafe { launch("planted_dynamic_index", geometry, &arguments, 1) }.unwrap();
    assert!(y.iter().all(|&value| value == 7.0));
    geometry.shared_bytes = 252;
    let error = unsafe { launch("planted_dynamic_index", geometry, &arguments, 1) }.unwrap_err();
    assert!(error.to_string().contains("has 252 bytes"), "{error}");
}

#[test]
fn unwritten_shared_memory_is_not_a_number() {
    let mut y = vec![0_f32; 64];
    unsafe { launch("planted_unwritten", threads(64), &[address(&mut y)], 1) }.unwrap();
    assert!(y.iter().all(|value| value.is_nan()));
}

#[test]
fn wrong_launches_are_refused() {
    let mut y = vec![0_f32; 256];
    let one = [address(&mut y)];
    let cases: [(&str, Geometry, &[Argument], &str); 6] = [
        ("no_such_kernel", threads(32), &one, "no such kernel"),
        ("planted_index", threads(32), &[], "kinds \"p\""),
        ("planted_index", threads(32), &[Argument::Float(1.0)], "kinds \"p\""),
        ("planted_index", threads(128), &one, "more threads"),
        ("planted_index", threads(0), &one, "1 to 1,024"),
        ("planted_index", Geometry { grid: [1, 0, 1], block: [32, 1, 1], shared_bytes: 0 }, &one, "a grid has"),
    ];
    for (kernel, geometry, arguments, expected) in cases {
        let error = unsafe { launch(kernel, geometry, arguments, 0) }.unwrap_err();
        assert!(matches!(error, LaunchError::Refused { .. }) && error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn correct_kernels_run_in_any_order() {
    for seed in 0..50 {
        let mut y = vec![0_f32; 64];
        unsafe { launch("correct_warp_order", threads(64), &[address(&mut y)], seed) }.unwrap();
        assert!(y.iter().enumerate().all(|(i, &value)| value == i as f32 + 100.0), "{y:?}");

        let mut counts = vec![0_u32; 2];
        let geometry = Geometry { grid: [5, 2, 3], block: [180, 1, 1], shared_bytes: 0 };
        unsafe { launch("correct_atomics", geometry, &[address(&mut counts)], seed) }.unwrap();
        assert_eq!(counts, [30 * 90, 30 * 90]);

        let mut y = vec![0_f32; 256];
        unsafe { launch("correct_early_return", threads(256), &[address(&mut y), Argument::Int(77)], seed) }.unwrap();
        assert_eq!(y.iter().sum::<f32>(), 77.0);

        let mut y = vec![0_i32; 64];
        unsafe { launch("correct_half_masks", threads(64), &[address(&mut y)], seed) }.unwrap();
        for (i, &value) in y.iter().enumerate() {
            let lane = i as i32 % 32;
            let expected = if lane < 16 { lane ^ 1 } else { (lane + 1).min(31) };
            assert_eq!(value, expected, "lane {lane}");
        }

        let mut y = vec![0_i32; 64];
        unsafe { launch("correct_votes", threads(64), &[address(&mut y)], seed) }.unwrap();
        assert!(y.iter().all(|&value| value == 22));
    }
}

/// Every half of either kind against a conversion by arithmetic on powers of two.
#[test]
fn halves_are_converted_with_ties_to_even() {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    let (mut brain, mut half) = (all.clone(), all);
    let (mut as_half, mut as_brain) = (vec![0_u16; 65_536], vec![0_u16; 65_536]);
    let arguments = [
        address(&mut brain),
        address(&mut half),
        address(&mut as_half),
        address(&mut as_brain),
        Argument::Long(65_536),
    ];
    let geometry = Geometry { grid: [256, 1, 1], block: [256, 1, 1], shared_bytes: 0 };
    unsafe { launch("correct_halves", geometry, &arguments, 3) }.unwrap();
    for i in 0..65_536_usize {
        let bits = i as u16;
        let value = f32::from_bits(u32::from(bits) << 16);
        let expected = round_to(f64::from(value), 11, -14, 65_504.0);
        assert!(same(half_value(as_half[i]), expected), "bf16 {bits:#x} = {value}: {:#x}", as_half[i]);
        let value = half_value(bits);
        let expected = round_to(value, 8, -126, f64::from(f32::MAX));
        let got = f64::from(f32::from_bits(u32::from(as_brain[i]) << 16));
        assert!(same(got, expected), "f16 {bits:#x} = {value}: {got}");
    }
}

fn same(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan())
}

fn half_value(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    let magnitude = match exponent {
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        0 => fraction * 2_f64.powi(-24),
        _ => (1.0 + fraction / 1024.0) * 2_f64.powi(exponent - 15),
    };
    if bits >> 15 == 1 { -magnitude } else { magnitude }
}

/// The nearest number of `digits` significant bits and a smallest normal of 2^least; beyond the largest, infinity.
fn round_to(value: f64, digits: i32, least: i32, largest: f64) -> f64 {
    if !value.is_finite() || value == 0.0 {
        return value;
    }
    let exponent = (value.abs().log2().floor() as i32).max(least);
    let unit = 2_f64.powi(exponent - digits + 1);
    let rounded = (value / unit).round_ties_even() * unit;
    if rounded.abs() > largest { f64::INFINITY.copysign(value) } else { rounded }
}

#[test]
fn all_kernels_are_named() {
    let names = kernels();
    assert!(names.iter().any(|name| name == "correct_votes"), "{names:?}");
    assert!(names.is_sorted());
}

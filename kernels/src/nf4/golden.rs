//! What bitsandbytes 0.50.2 makes of a few matrices on the CPU: `quantize_4bit` with `quant_type="nf4"` and
//! `compress_statistics=True`, and `dequantize_4bit` to each type. Long results are given by their FNV-1a hash.

use super::{BLOCK, Nf4, Quantised, Values};
use crate::check::HostBuffer;
use crate::launch::DType;
use crate::workers::Serial;
use half::{bf16, f16};

struct Golden {
    weights: Vec<f32>,
    codes: u64,
    scales: u64,
    largest: &'static [u32],
    mean: u32,
    /// In f32, bf16 and f16.
    unquantised: [u64; 3],
}

fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// Blocks whose scales differ.
fn waves(count: i64) -> Vec<f32> {
    let value = |i: i64| ((i * 7919 + i / 64 * 104_729) % 2003 - 1001) * (8 + i / 64 % 37);
    (0..count).map(|i| value(i) as f32 / 8192.0).collect()
}

/// Zeros, a block of one value, a largest magnitude below zero, and a short block.
fn special() -> Vec<f32> {
    let mut weights = vec![0.0; BLOCK];
    weights.extend([-0.75; BLOCK]);
    weights.extend((0..BLOCK).map(|i| if i == 40 { -8.0 } else { i as f32 / 16.0 }));
    weights.extend([0.5, -2.0, 1.0, 0.25, -0.125]);
    weights
}

fn golden() -> [Golden; 3] {
    [
        Golden {
            weights: special(),
            codes: 0xe282_f6a2_e2b6_c7f5,
            scales: 0x4801_537c_cf0d_bbd1,
            largest: &[0x40aa_0000],
            mean: 0x402c_0000,
            unquantised: [0x2f52_ff4c_3a26_4387, 0x86a5_c1a2_9e3b_de88, 0xe0ad_2d0e_942d_4af9],
        },
        Golden {
            weights: waves(210),
            codes: 0xdd17_0351_c163_dac5,
            scales: 0xa0b0_827f_cc41_5125,
            largest: &[0x3e0f_0800],
            mean: 0x3f8f_0100,
            unquantised: [0x4952_4e3e_57f0_665b, 0xf818_f57f_8f70_0cd4, 0x4749_9797_a488_9657],
        },
        // More scales than one group, and an odd number of values.
        Golden {
            weights: waves(300 * 64 + 35),
            codes: 0x2e6b_322d_6e75_8ccb,
            scales: 0x47bc_85c8_90e4_137a,
            largest: &[0x4010_c805; 2],
            mean: 0x4047_4ffb,
            unquantised: [0xf118_5600_6453_6be5, 0xf6f7_34b7_5fdb_9b69, 0x2c27_8147_8984_c427],
        },
    ]
}

#[test]
fn everything_is_as_bitsandbytes_has_it() {
    for golden in golden() {
        let nf4 = Nf4 { rows: 1, columns: golden.weights.len() };
        let (mut codes, mut scales) = (vec![0; nf4.code_bytes()], vec![0; nf4.blocks()]);
        let (mut largest, mut mean) = (vec![0.0; nf4.groups()], [0.0]);
        let to = Quantised {
            codes: &mut codes[..],
            scales: &mut scales[..],
            largest: &mut largest[..],
            mean: &mut mean[..],
        };
        nf4.quantise(&Serial, Values::F32(&golden.weights), to).unwrap();
        assert_eq!(fnv(&codes), golden.codes, "codes {codes:?}");
        assert_eq!(fnv(&scales), golden.scales, "scales {scales:?}");
        assert_eq!(largest.iter().map(|value| value.to_bits()).collect::<Vec<_>>(), golden.largest);
        assert_eq!(mean[0].to_bits(), golden.mean);

        let from = Quantised { codes: &codes[..], scales: &scales[..], largest: &largest[..], mean: &mean[..] };
        for (dtype, hash) in [DType::F32, DType::Bf16, DType::F16].into_iter().zip(golden.unquantised) {
            let mut weights = HostBuffer::unwritten(dtype, nf4.len());
            match &mut weights {
                HostBuffer::Bf16(to) => nf4.dequantise::<bf16>(&Serial, from, to).unwrap(),
                HostBuffer::F16(to) => nf4.dequantise::<f16>(&Serial, from, to).unwrap(),
                other => nf4.dequantise(&Serial, from, other.f32_mut().unwrap()).unwrap(),
            }
            assert_eq!(fnv(weights.bytes()), hash, "{dtype} of {} values", nf4.len());
        }
    }
}

/// The first codes of the second matrix, and where the two of a byte are.
#[test]
fn the_first_of_two_codes_is_in_the_upper_half() {
    let weights = waves(64);
    let nf4 = Nf4 { rows: 1, columns: 64 };
    let (mut codes, mut scales, mut largest, mut mean) = ([0; 32], [0], [0.0], [0.0]);
    let to =
        Quantised { codes: &mut codes[..], scales: &mut scales[..], largest: &mut largest[..], mean: &mut mean[..] };
    nf4.quantise(&Serial, Values::F32(&weights), to).unwrap();
    assert_eq!(codes[..16], [15, 238, 221, 203, 169, 135, 101, 67, 34, 17, 0, 255, 238, 220, 203, 169]);
}

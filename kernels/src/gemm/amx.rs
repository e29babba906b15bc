//! The micro-kernel for AMX: matrices of 16 rows by 64 bytes in registers, multiplied by one instruction.
//!
//! A tile of the left operand is 16 rows of 32 bf16 numbers; a tile of weights is 16 pairs of k of 16 columns, exactly as a panel
//! holds them; their product is 16 × 16 f32. Two tiles of rows by two panels use all eight tile registers: four for sums, two and two for
//! operands, so that each operand that is loaded is used twice.
//!
//! Sums stay in the tile registers from the result's first number on: a tile is loaded from the result (or from the bias, with a
//! stride of 0, which repeats it in all rows) and stored there. So there is no pass over the result besides.
//!
//! Rust has no stable intrinsics for AMX; its instructions are written as inline assembly. The compiler itself never uses the tile
//! registers. Linux hands them out on request only (`arch_prctl`, ARCH_REQ_XCOMP_PERM), since they enlarge what is saved on
//! a switch of threads; the request is made once for the process, at the first question whether the engine is available.
//!
//! Like the dot products of AVX-512, the instruction treats subnormal numbers as zero, and adds the products of a tile in its own
//! order. That order is the same for every element.

#![allow(unsafe_code, reason = "inline assembly for instructions that have no stable intrinsics")]

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

use super::driver::{Kernel, Start, Tile};
use super::element::Bf16;
use super::pack::PANEL;

/// bf16 by bf16 in tile registers.
pub(super) struct Amx;

/// Rows of a tile register.
const ROWS: usize = 16;
/// Values of k in a tile register.
const GROUP: usize = 32;

impl Kernel for Amx {
    type Left = Bf16;
    type Right = Bf16;
    const ROWS: usize = 2 * ROWS;
    const ROW_UNIT: usize = ROWS;
    const GROUP: usize = GROUP;
    const DEPTH: usize = 512;
    const BLOCK_ROWS: usize = 512;

    fn panels(_: usize) -> usize {
        2
    }

    unsafe fn enter() {
        #[repr(C, align(64))]
        struct Configuration([u8; 64]);
        let mut configuration = Configuration([0; 64]);
        // Palette 1; bytes per row of each register from byte 16 on, rows from byte 48 on.
        configuration.0[0] = 1;
        for register in 0..8 {
            configuration.0[16 + 2 * register] = 64;
            configuration.0[48 + register] = ROWS as u8;
        }
        // SAFETY: the processor has AMX and the process has leave to use it, as the caller says; the configuration is valid.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) configuration.0.as_ptr(), options(nostack, preserves_flags, readonly))
        };
    }

    unsafe fn leave() {
        // SAFETY: `enter` has configured the tiles of this thread.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
    }

    unsafe fn run(tile: &Tile<Bf16, Bf16>) {
        // SAFETY: the same conditions.
        unsafe {
            match (tile.rows > ROWS, tile.panels > 1) {
                (true, true) => two_by_two(tile),
                (true, false) => two_by_one(tile),
                (false, true) => one_by_two(tile),
                (false, false) => one_by_one(tile),
            }
        }
    }
}

/// Whether the processor has AMX for bf16, and the kernel lets this process use it.
pub(super) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| has_instructions() && permitted())
}

fn has_instructions() -> bool {
    /// Bits of EDX in leaf 7.
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    if __cpuid_count(0, 0).eax < 7 {
        return false;
    }
    let features = __cpuid_count(7, 0).edx;
    features & AMX_BF16 != 0 && features & AMX_TILE != 0
}

/// Asks Linux for the tile registers. It refuses if it does not know them, if it runs under a hypervisor that hides them, or if a
/// thread has an alternative signal stack that is too small for them.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    let answer: i64;
    // SAFETY: a system call that touches no memory of the process; it overwrites RCX and R11.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => answer,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack)
        );
    }
    answer == 0
}

/// Other systems have other ways, which are not known here.
#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// A loop over groups of k for `$rows` × `$panels` tiles. Sums are in tmm0 to tmm3, the left operand in tmm4 and tmm5, weights in tmm6
/// and tmm7; `$sum`, `$left` and `$right` list those that are used, with where they are in the result (rows of tiles, panels).
macro_rules! kernel {
    ($name:ident, rows: $rows:literal, load: [$($load:literal),*], multiply: [$($multiply:literal),*],
        sums: [$(($sum:literal, $row:literal, $panel:literal)),*]) => {
        /// # Safety
        ///
        /// As for [`Kernel::run`], with so many rows and panels.
        unsafe fn $name(tile: &Tile<Bf16, Bf16>) {
            let stride = tile.out_stride * size_of::<f32>();
            $(
                let out = tile.out.wrapping_add($row * ROWS * tile.out_stride + $panel * PANEL);
                // SAFETY: these 16 rows of 16 numbers are inside of the tile; with a stride of 0 the same 16 numbers of the bias
                // are read for each row.
                unsafe {
                    match tile.start {
                        Start::Zero => asm!(concat!("tilezero ", $sum), options(nostack, preserves_flags, nomem)),
                        Start::Bias => asm!(
                            concat!("tileloadd ", $sum, ", [{bias} + {stride}*1]"),
                            bias = in(reg) tile.bias.wrapping_add($panel * PANEL),
                            stride = in(reg) 0usize,
                            options(nostack, preserves_flags, readonly)
                        ),
                        Start::Keep => asm!(
                            concat!("tileloadd ", $sum, ", [{out} + {stride}*1]"),
                            out = in(reg) out,
                            stride = in(reg) stride,
                            options(nostack, preserves_flags, readonly)
                        ),
                    }
                }
            )*
            let groups = tile.depth / GROUP;
            if groups > 0 {
                // SAFETY: a group has ROWS · GROUP numbers of the left operand for each tile of rows, and PANEL · GROUP of
                // each panel; the pointers move by that much.
                unsafe {
                    asm!(
                        "2:",
                        $(concat!("tileloadd ", $load),)*
                        $(concat!("tdpbf16ps ", $multiply),)*
                        "add {left}, {left_step}",
                        "add {first}, 1024",
                        "add {second}, 1024",
                        "dec {groups}",
                        "jnz 2b",
                        left = inout(reg) tile.left => _,
                        first = inout(reg) tile.right => _,
                        second = inout(reg) tile.right.wrapping_add((tile.panels - 1) * tile.panel_stride) => _,
                        groups = inout(reg) groups => _,
                        row = in(reg) 64usize,
                        left_step = const $rows * 1024,
                        options(nostack, readonly)
                    );
                }
            }
            $(
                let out = tile.out.wrapping_add($row * ROWS * tile.out_stride + $panel * PANEL);
                // SAFETY: as above; no other thread uses this part of the result.
                unsafe {
                    asm!(
                        concat!("tilestored [{out} + {stride}*1], ", $sum),
                        out = in(reg) out,
                        stride = in(reg) stride,
                        options(nostack, preserves_flags)
                    );
                }
            )*
        }
    };
}

kernel!(two_by_two, rows: 2,
    load: ["tmm4, [{left} + {row}*1]", "tmm6, [{first} + {row}*1]", "tmm7, [{second} + {row}*1]",
        "tmm5, [{left} + {row}*1 + 1024]"],
    multiply: ["tmm0, tmm4, tmm6", "tmm1, tmm4, tmm7", "tmm2, tmm5, tmm6", "tmm3, tmm5, tmm7"],
    sums: [("tmm0", 0, 0), ("tmm1", 0, 1), ("tmm2", 1, 0), ("tmm3", 1, 1)]);
kernel!(two_by_one, rows: 2,
    load: ["tmm4, [{left} + {row}*1]", "tmm6, [{first} + {row}*1]", "tmm5, [{left} + {row}*1 + 1024]"],
    multiply: ["tmm0, tmm4, tmm6", "tmm2, tmm5, tmm6"],
    sums: [("tmm0", 0, 0), ("tmm2", 1, 0)]);
kernel!(one_by_two, rows: 1,
    load: ["tmm4, [{left} + {row}*1]", "tmm6, [{first} + {row}*1]", "tmm7, [{second} + {row}*1]"],
    multiply: ["tmm0, tmm4, tmm6", "tmm1, tmm4, tmm7"],
    sums: [("tmm0", 0, 0), ("tmm1", 0, 1)]);
kernel!(one_by_one, rows: 1,
    load: ["tmm4, [{left} + {row}*1]", "tmm6, [{first} + {row}*1]"],
    multiply: ["tmm0, tmm4, tmm6"],
    sums: [("tmm0", 0, 0)]);

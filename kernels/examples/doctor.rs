//! Says what this machine can run, and checks every kernel on it.
//!
//! ```sh
//! cargo run --release -p gristmill-kernels --example doctor --features cuda
//! ```
//! Ends with a code other than 0 if a kernel is wrong.

use gristmill_kernels::check::{Cpu, Machine, Outcome, check, families};
use gristmill_kernels::workers::Serial;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut healthy = true;
    println!("CPU features: {}", cpu_features().join(", "));
    healthy &= check_all(&Cpu(&Serial));
    healthy &= gpus();
    if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs all cases of all families, and says how many passed.
fn check_all(machine: &dyn Machine) -> bool {
    let mut healthy = true;
    for family in families() {
        let (mut passed, mut wrong) = (0, Vec::new());
        for problem in (family.cases)(1) {
            match check(&*problem, machine) {
                Ok(Outcome::Passed) => passed += 1,
                Ok(Outcome::NotForThisMachine) => {}
                Err(error) => wrong.push(error),
            }
        }
        println!("{}: {:<10} {passed} cases passed, {} failed", machine.name(), family.name, wrong.len());
        for error in &wrong {
            println!("  {error}");
        }
        healthy &= wrong.is_empty();
    }
    healthy
}

#[cfg(feature = "cuda")]
fn gpus() -> bool {
    use gristmill_kernels::gpu::{Gpu, count, driver_version};
    match driver_version() {
        Ok((major, minor)) => println!("NVIDIA driver: supports CUDA {major}.{minor}"),
        Err(error) => {
            println!("{error}");
            return true;
        }
    }
    let count = match count() {
        Ok(count) => count,
        Err(error) => {
            println!("{error}");
            return true;
        }
    };
    println!("GPUs: {count}");
    let mut healthy = true;
    for number in 0..count {
        let gpu = match Gpu::open(number) {
            Ok(gpu) => gpu,
            Err(error) => {
                println!("GPU {number}: {error}");
                healthy = false;
                continue;
            }
        };
        let capability =
            gpu.capability().map_or_else(|error| error.to_string(), |(major, minor)| format!("{major}.{minor}"));
        println!("GPU {number}: {}, compute capability {capability}", gpu.name());
        for family in families() {
            match gpu.load(family.name) {
                Ok(origin) => println!("  {:<10} loads from {origin:?}", family.name),
                Err(error) => {
                    println!("  {:<10} does not load: {error}", family.name);
                    healthy = false;
                }
            }
        }
        healthy &= check_all(&gpu);
    }
    healthy
}

#[cfg(not(feature = "cuda"))]
fn gpus() -> bool {
    println!("GPUs: built without the feature `cuda`");
    true
}

#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<&'static str> {
    let mut found = Vec::new();
    let mut add = |name, has| {
        if has {
            found.push(name);
        }
    };
    add("AVX2", is_x86_feature_detected!("avx2"));
    add("FMA", is_x86_feature_detected!("fma"));
    add("F16C", is_x86_feature_detected!("f16c"));
    add("AVX-512F", is_x86_feature_detected!("avx512f"));
    add("AVX-512BW", is_x86_feature_detected!("avx512bw"));
    add("AVX-512VL", is_x86_feature_detected!("avx512vl"));
    add("AVX-512BF16", is_x86_feature_detected!("avx512bf16"));
    // The standard library does not know AMX yet on this compiler; leaf 7 of CPUID does.
    let leaf = std::arch::x86_64::__cpuid_count(7, 0);
    add("AMX-TILE", leaf.edx >> 24 & 1 == 1);
    add("AMX-BF16", leaf.edx >> 22 & 1 == 1);
    found
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_features() -> Vec<&'static str> {
    vec![std::env::consts::ARCH]
}

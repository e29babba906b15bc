//! Every case of every family, on every machine: the CPU twins, the CUDA kernels run on the CPU, and a GPU where there is one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(unsafe_code, reason = "buffers are addresses")]

mod shim;

use gristmill_kernels::check::{AnyBuffer, Cpu, Family, HostBuffer, Machine, Outcome, check, families};
use gristmill_kernels::workers::{Serial, Threads};
use proptest::prelude::{ProptestConfig, any};
use proptest::proptest;
use shim::Shim;
use std::collections::BTreeSet;

fn family(name: &str) -> &'static Family {
    families().iter().find(|family| family.name == name).unwrap()
}

/// Lets the machine solve every case, and returns how many it knew.
fn check_all(family: &Family, machine: &dyn Machine, seed: u64) -> usize {
    let mut passed = 0;
    for problem in (family.cases)(seed) {
        match check(&*problem, machine) {
            Ok(Outcome::Passed) => passed += 1,
            Ok(Outcome::NotForThisMachine) => {}
            Err(error) => panic!("{}: {error}", family.name),
        }
    }
    passed
}

fn twins_have_the_bits_of_one_thread(family: &Family) {
    let threads = Threads::new(3);
    for problem in (family.cases)(2) {
        check(&*problem, &Cpu(&threads)).unwrap();
        let solve = |machine: Cpu<'_>| machine.solve(&*problem, 0).unwrap();
        let (Some(one), Some(many)) = (solve(Cpu(&Serial)), solve(Cpu(&threads))) else { continue };
        for (one, many) in one.iter().zip(&many) {
            assert_eq!(HostBuffer::first_difference(one, many), None, "{}", problem.label());
        }
    }
}

/// Launches name their kernels, whether or not they are run.
#[test]
fn every_kernel_has_a_case() {
    let mut launched = BTreeSet::new();
    for problem in families().iter().flat_map(|family| (family.cases)(1)) {
        let (inputs, outputs) = (problem.inputs(), problem.outputs());
        let views = |buffers: &[HostBuffer]| -> Vec<AnyBuffer<'_>> {
            // SAFETY: the launches are not run.
            let view = |buffer: &HostBuffer| unsafe {
                AnyBuffer::new(buffer.bytes().as_ptr() as u64, buffer.len(), buffer.dtype())
            };
            buffers.iter().map(view).collect()
        };
        let launches = problem.launches(&views(&inputs), &views(&outputs));
        launched.extend(launches.unwrap().iter().map(|launch| launch.kernel().to_owned()));
    }
    let own = |name: &String| !name.starts_with("planted_") && !name.starts_with("correct_");
    let missing: Vec<String> =
        gristmill_kernels_shim::kernels().into_iter().filter(own).filter(|name| !launched.contains(name)).collect();
    assert!(missing.is_empty(), "no case launches {missing:?}");
}

/// Tests of each family apart, so that they run side by side and can be chosen by name.
macro_rules! tests {
    ($($family:ident),* $(,)?) => {
        #[test]
        fn every_family_is_tested() {
            let names: Vec<&str> = families().iter().map(|family| family.name).collect();
            assert_eq!(names, [$(stringify!($family)),*]);
        }

        $(mod $family {
            use super::*;

            #[test]
            fn twins_are_right() {
                assert!(check_all(family(stringify!($family)), &Cpu(&Serial), 1) > 0);
            }

            #[test]
            fn twins_are_right_on_threads_and_have_the_bits_of_one() {
                twins_have_the_bits_of_one_thread(family(stringify!($family)));
            }

            #[test]
            fn cuda_kernels_are_right() {
                assert!(check_all(family(stringify!($family)), &Shim::default(), 1) > 0);
            }

            proptest! {
                #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]
                #[test]
                fn twins_are_right_for_any_seed(seed in any::<u64>()) {
                    check_all(family(stringify!($family)), &Cpu(&Serial), seed);
                }
            }

            proptest! {
                #![proptest_config(ProptestConfig { cases: 2, failure_persistence: None, ..ProptestConfig::default() })]
                #[test]
                fn cuda_kernels_are_right_for_any_seed(seed in any::<u64>()) {
                    check_all(family(stringify!($family)), &Shim::default(), seed);
                }
            }

            #[cfg(feature = "cuda")]
            #[test]
            fn a_gpu_is_right() {
                match gristmill_kernels::gpu::Gpu::open(0) {
                    Ok(gpu) => assert!(check_all(family(stringify!($family)), &gpu, 1) > 0),
                    Err(error) => println!("skipped: {error}"),
                }
            }
        })*
    };
}
tests!(adamw, attention, gemm, glu, linear_ce, nf4, norms, outer, pool, residual, rotary, scan, signs, softmax, topk);

/// Memory of a device is checked, reused, and given back.
#[test]
fn a_device_runs_launches_on_its_own_memory() {
    use gristmill_kernels::device::{Device, DeviceError};
    use gristmill_kernels::residual::clamp_launches;
    use gristmill_kernels_shim::ShimDevice;

    let device = Device::new(ShimDevice::with_memory(1000));
    let mut x = device.upload(&[-3.0_f32, 0.5, 9.0]).unwrap();
    device.run(&clamp_launches(1.0, x.write()).unwrap()).unwrap();
    assert_eq!(x.download().unwrap(), [-1.0, 0.5, 1.0]);
    assert_eq!(device.memory(), 12);
    x.resize(2).unwrap();
    assert_eq!((x.download().unwrap().len(), device.memory()), (2, 12));

    let other = Device::new(ShimDevice::default());
    let error = other.run(&clamp_launches(1.0, x.write()).unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "residual_clamp_f32 was to use memory that is not of CUDA on the CPU");
    let error = device.upload(&[0_i64; 200]).unwrap_err();
    assert_eq!(error, DeviceError::OutOfMemory { device: "CUDA on the CPU".into(), bytes: 1600 });
    drop(x);
    assert_eq!(device.memory(), 0);
    assert_eq!(device.upload(&[0_i64; 100]).unwrap().len(), 100);
}

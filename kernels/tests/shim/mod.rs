//! The CUDA kernels, run on the CPU, as a machine.
#![allow(unsafe_code, reason = "kernels take addresses")]

use gristmill_kernels::check::{AnyBuffer, HostBuffer, Machine, Problem};
use gristmill_kernels::launch::{self, DType, Launch};
use gristmill_kernels_shim::{Argument, Geometry, Variant};

/// Runs threads in an order that varies with each launch. Buffers lie between guards, so that a write beyond them is noticed, and
/// a read beyond them gives values that are not numbers.
#[derive(Debug, Default)]
pub(crate) struct Shim {
    /// Kernels to be run instead of those in the source tree.
    pub(crate) variant: Option<Variant>,
}

/// Bytes before and after a buffer.
const GUARD: usize = 4096;

struct Guarded {
    memory: Vec<u128>,
    bytes: usize,
}

impl Guarded {
    fn new(buffer: &HostBuffer) -> Self {
        let bytes = buffer.bytes().len();
        let mut guarded = Self { memory: vec![u128::MAX; (2 * GUARD + bytes).div_ceil(16)], bytes };
        guarded.contents_mut().copy_from_slice(buffer.bytes());
        guarded
    }

    fn all(&self) -> &[u8] {
        // SAFETY: numbers have no padding.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.memory.len() * 16) }
    }

    fn contents(&self) -> &[u8] {
        &self.all()[GUARD..GUARD + self.bytes]
    }

    fn contents_mut(&mut self) -> &mut [u8] {
        // SAFETY: numbers have no padding, and any bytes are numbers.
        let all: &mut [u8] =
            unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), self.memory.len() * 16) };
        &mut all[GUARD..GUARD + self.bytes]
    }

    fn view(&mut self, len: usize, dtype: DType) -> AnyBuffer<'static> {
        let address = self.contents_mut().as_mut_ptr() as u64;
        // SAFETY: the memory outlives the launches, which run before `solve` returns, and is used by them alone.
        unsafe { AnyBuffer::new(address, len, dtype) }
    }

    fn is_intact(&self) -> bool {
        let all = self.all();
        all[..GUARD].iter().chain(&all[GUARD + self.bytes..]).all(|&byte| byte == u8::MAX)
    }
}

impl Machine for Shim {
    fn name(&self) -> String {
        "CUDA on the CPU".into()
    }

    fn solve(&self, problem: &dyn Problem, round: u64) -> Result<Option<Vec<HostBuffer>>, String> {
        let (inputs, mut outputs) = (problem.inputs(), problem.outputs());
        let mut read: Vec<Guarded> = inputs.iter().map(Guarded::new).collect();
        let mut written: Vec<Guarded> = outputs.iter().map(Guarded::new).collect();
        let input_views: Vec<_> =
            read.iter_mut().zip(&inputs).map(|(memory, host)| memory.view(host.len(), host.dtype())).collect();
        let output_views: Vec<_> =
            written.iter_mut().zip(&outputs).map(|(memory, host)| memory.view(host.len(), host.dtype())).collect();
        let launches = problem.launches(&input_views, &output_views).map_err(|error| error.to_string())?;
        for (number, launch) in launches.iter().enumerate() {
            self.run(launch, round * 1000 + number as u64 + 1)?;
        }
        for (i, (memory, host)) in read.iter().zip(&inputs).enumerate() {
            if !memory.is_intact() || memory.contents() != host.bytes() {
                return Err(format!("memory at input {i} was written"));
            }
        }
        for (i, (memory, host)) in written.iter().zip(&mut outputs).enumerate() {
            if !memory.is_intact() {
                return Err(format!("memory beyond output {i} was written"));
            }
            host.bytes_mut().copy_from_slice(memory.contents());
        }
        Ok(Some(outputs))
    }
}

impl Shim {
    fn run(&self, launch: &Launch<'_>, seed: u64) -> Result<(), String> {
        let arguments: Vec<Argument> = launch
            .arguments()
            .iter()
            .map(|&argument| match argument {
                launch::Argument::Address(address) => Argument::Address(address),
                launch::Argument::I32(value) => Argument::Int(value.cast_unsigned()),
                launch::Argument::U32(value) => Argument::Int(value),
                launch::Argument::I64(value) => Argument::Long(value.cast_unsigned()),
                launch::Argument::U64(value) => Argument::Long(value),
                launch::Argument::F32(value) => Argument::Float(value),
            })
            .collect();
        let geometry = Geometry { grid: launch.grid(), block: launch.block(), shared_bytes: launch.shared_bytes() };
        let kernel = launch.kernel();
        // SAFETY: the launcher's arguments point into buffers that live until the launch has ended.
        let launched = unsafe {
            match &self.variant {
                Some(variant) => variant.launch(kernel, geometry, &arguments, seed),
                None => gristmill_kernels_shim::launch(kernel, geometry, &arguments, seed),
            }
        };
        launched.map_err(|error| error.to_string())
    }
}

//! The kernels on the CPU as a device, for tests of what is computed on one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use gristmill_kernels::device::{Backend, DeviceError};
use gristmill_kernels::launch::{self, Launch};

use crate::{Argument, Geometry, launch as run_kernel};

/// Runs launches at once, on the thread that asks. Fresh memory is not numbers.
#[derive(Debug, Default)]
pub struct ShimDevice {
    memory: Mutex<HashMap<u64, Piece>>,
    launches: AtomicU64,
    used: AtomicUsize,
    limit: Option<usize>,
}

/// Numbers that are not, with room to begin at a multiple of 256 bytes.
#[derive(Debug)]
struct Piece {
    _bytes: Vec<u8>,
    len: usize,
}

const ALIGNMENT: usize = 256;

impl ShimDevice {
    /// A device with so many bytes of memory.
    #[must_use]
    pub fn with_memory(bytes: usize) -> Self {
        Self { limit: Some(bytes), ..Self::default() }
    }

    fn memory(&self) -> MutexGuard<'_, HashMap<u64, Piece>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// SAFETY: memory is that of vectors, which are kept until they are freed; everything is done before a call returns.
unsafe impl Backend for ShimDevice {
    fn name(&self) -> String {
        "CUDA on the CPU".into()
    }

    fn allocate(&self, bytes: usize) -> Result<u64, DeviceError> {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if self.limit.is_some_and(|limit| used > limit) {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return Err(DeviceError::OutOfMemory { device: self.name(), bytes });
        }
        let memory = vec![u8::MAX; bytes + ALIGNMENT];
        let address = (memory.as_ptr() as u64).next_multiple_of(ALIGNMENT as u64);
        self.memory().insert(address, Piece { _bytes: memory, len: bytes });
        Ok(address)
    }

    unsafe fn free(&self, address: u64) {
        if let Some(piece) = self.memory().remove(&address) {
            self.used.fetch_sub(piece.len, Ordering::Relaxed);
        }
    }

    unsafe fn upload(&self, to: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        // SAFETY: the caller answers for the address.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to as *mut u8, bytes.len()) };
        Ok(())
    }

    unsafe fn download(&self, from: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        // SAFETY: the caller answers for the address.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    unsafe fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), DeviceError> {
        // SAFETY: the caller answers for the addresses.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, bytes) };
        Ok(())
    }

    unsafe fn run(&self, launch: &Launch<'_>) -> Result<(), DeviceError> {
        let arguments: Vec<Argument> = launch.arguments().iter().map(|&argument| converted(argument)).collect();
        let geometry = Geometry { grid: launch.grid(), block: launch.block(), shared_bytes: launch.shared_bytes() };
        let seed = self.launches.fetch_add(1, Ordering::Relaxed) + 1;
        // SAFETY: the caller answers for the buffers.
        unsafe { run_kernel(launch.kernel(), geometry, &arguments, seed) }
            .map_err(|error| DeviceError::Failed { device: self.name(), message: error.to_string() })
    }
}

fn converted(argument: launch::Argument) -> Argument {
    match argument {
        launch::Argument::Address(address) => Argument::Address(address),
        launch::Argument::I32(value) => Argument::Int(value.cast_unsigned()),
        launch::Argument::U32(value) => Argument::Int(value),
        launch::Argument::I64(value) => Argument::Long(value.cast_unsigned()),
        launch::Argument::U64(value) => Argument::Long(value),
        launch::Argument::F32(value) => Argument::Float(value),
    }
}

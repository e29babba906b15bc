//! Runs the CUDA kernels of `gristmill-kernels` on the CPU, for tests where there is no GPU.
//!
//! The same `.cu` files are compiled as C++. Each CUDA thread is a fiber; the threads of a block and the blocks of a grid run in
//! an order drawn from a seed. A launch takes what `cuLaunchKernel` takes, and is an error where a GPU would hang, give a
//! different answer each time, or quietly do something else: divergent barriers, deadlocks, lanes outside a mask, indices
//! outside shared memory, accesses to shared memory that no barrier separates, parameters of the wrong kind.
//! Shared memory begins as NaN in every block.
//!
//! It cannot see what is special to a GPU's instructions (tensor cores, asynchronous copies), nor the order of global memory
//! between blocks.
#![allow(unsafe_code, reason = "calls compiled C++")]

mod device;
mod variant;

pub use device::ShimDevice;
pub use variant::{Variant, VariantError};

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;

/// A launch that did not end well.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A thread did something wrong.
    #[error("{kernel}, block {block:?}, thread {thread:?}: {message}")]
    Fault {
        /// Name of the kernel.
        kernel: String,
        /// `blockIdx` of the thread that was noticed.
        block: [u32; 3],
        /// `threadIdx` of the thread that was noticed.
        thread: [u32; 3],
        /// What it did.
        message: String,
    },
    /// The launch was refused before any thread ran.
    #[error("{kernel}: {message}")]
    Refused {
        /// Name of the kernel.
        kernel: String,
        /// Why.
        message: String,
    },
}

/// One argument of a kernel.
#[derive(Clone, Copy, PartialEq)]
pub enum Argument {
    /// A pointer to memory of this process.
    Address(u64),
    /// A 4-byte integer, of either sign.
    Int(u32),
    /// An 8-byte integer, of either sign.
    Long(u64),
    /// A single-precision number.
    Float(f32),
}

impl fmt::Debug for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address:#x}"),
            Self::Int(value) => write!(f, "{value}"),
            Self::Long(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value}"),
        }
    }
}

/// Numbers of blocks and threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory of a block.
    pub shared_bytes: u32,
}

/// Runs the kernel called `kernel`, and returns when all of its threads have ended.
///
/// # Errors
/// See [`LaunchError`]. After an error, memory that the kernel writes holds anything.
///
/// # Safety
/// The addresses among the arguments must be valid for what the kernel does with them.
pub unsafe fn launch(kernel: &str, geometry: Geometry, arguments: &[Argument], seed: u64) -> Result<(), LaunchError> {
    // SAFETY: the caller answers for the addresses; linking the kernels in has no condition.
    unsafe {
        gristmill_shim_link();
        launch_by(gristmill_shim_launch, kernel, geometry, arguments, seed)
    }
}

/// Launches through the function of a library of kernels.
unsafe fn launch_by(
    function: RawLaunch,
    kernel: &str,
    geometry: Geometry,
    arguments: &[Argument],
    seed: u64,
) -> Result<(), LaunchError> {
    let refused = |message: String| LaunchError::Refused { kernel: kernel.into(), message };
    let name = CString::new(kernel).map_err(|_| refused("a name of a kernel has no zero byte".into()))?;
    let mut kinds: Vec<u8> = Vec::with_capacity(arguments.len() + 1);
    let mut values: Vec<u64> = Vec::with_capacity(arguments.len());
    for argument in arguments {
        let (kind, value) = match *argument {
            Argument::Address(address) => (b'p', address),
            Argument::Int(value) => (b'i', u64::from(value)),
            Argument::Long(value) => (b'l', value),
            Argument::Float(value) => (b'f', u64::from(value.to_bits())),
        };
        kinds.push(kind);
        values.push(value);
    }
    kinds.push(0);
    // Little-endian machines only: a 4-byte value is read from the first half of its 8 bytes.
    let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|value| std::ptr::from_mut(value).cast()).collect();
    let mut fault = RawFault { thread: [0; 3], block: [0; 3], message: [0; 512] };
    // SAFETY: the strings end in zero, there is a pointer for each kind, and the caller answers for the addresses.
    let code = unsafe {
        function(
            name.as_ptr(),
            geometry.grid.as_ptr(),
            geometry.block.as_ptr(),
            geometry.shared_bytes as usize,
            seed,
            kinds.as_ptr().cast(),
            pointers.as_mut_ptr(),
            &mut fault,
        )
    };
    // SAFETY: the message is written by snprintf, which ends it in zero.
    let message = unsafe { CStr::from_ptr(fault.message.as_ptr()) }.to_string_lossy().into_owned();
    match code {
        0 => Ok(()),
        1 => Err(LaunchError::Fault { kernel: kernel.into(), block: fault.block, thread: fault.thread, message }),
        _ => Err(refused(message)),
    }
}

/// Names of all kernels, in alphabetical order.
pub fn kernels() -> Vec<String> {
    extern "C" fn each(context: *mut c_void, name: *const c_char) {
        // SAFETY: the context is the vector below, which nothing else uses meanwhile; names are static strings.
        let (names, name) = unsafe { (&mut *context.cast::<Vec<String>>(), CStr::from_ptr(name)) };
        names.push(name.to_string_lossy().into_owned());
    }
    let mut names: Vec<String> = Vec::new();
    // SAFETY: `each` takes the context that is handed over here.
    unsafe {
        gristmill_shim_link();
        gristmill_shim_kernels(each, std::ptr::from_mut(&mut names).cast());
    }
    names.sort();
    names
}

#[repr(C)]
struct RawFault {
    thread: [u32; 3],
    block: [u32; 3],
    message: [c_char; 512],
}

type RawLaunch = unsafe extern "C" fn(
    name: *const c_char,
    grid: *const u32,
    block: *const u32,
    shared_bytes: usize,
    seed: u64,
    kinds: *const c_char,
    arguments: *mut *mut c_void,
    fault: *mut RawFault,
) -> c_int;

unsafe extern "C" {
    fn gristmill_shim_link();
    fn gristmill_shim_launch(
        name: *const c_char,
        grid: *const u32,
        block: *const u32,
        shared_bytes: usize,
        seed: u64,
        kinds: *const c_char,
        arguments: *mut *mut c_void,
        fault: *mut RawFault,
    ) -> c_int;
    fn gristmill_shim_kernels(each: extern "C" fn(*mut c_void, *const c_char), context: *mut c_void);
}

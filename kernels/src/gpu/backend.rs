//! A GPU as what owns memory and runs launches.

use super::{Gpu, GpuError, driver};
use crate::device::{Backend, DeviceError};
use crate::launch::Launch;
use cudarc::driver::sys::CUresult;
use cudarc::driver::{DriverError, result};

impl Gpu {
    /// What an error of this GPU is to whoever uses it as a device.
    fn failed(&self, error: &GpuError) -> DeviceError {
        DeviceError::Failed { device: Backend::name(self), message: error.to_string() }
    }

    fn bound(&self) -> Result<(), DeviceError> {
        self.stream.context().bind_to_thread().map_err(driver("be used from this thread")).map_err(|e| self.failed(&e))
    }
}

// SAFETY: memory is the driver's, which aligns it to 256 bytes at least; all calls go to one stream, which keeps their order. Allocating
// is not in the order of the stream, but gives memory that nothing enqueued uses: it is given back in that order, or when the stream is idle.
unsafe impl Backend for Gpu {
    /// The name of the device with its compute capability.
    fn name(&self) -> String {
        let name = self.device_name().unwrap_or_else(|_| "a GPU".into());
        self.capability().map_or_else(|_| name.clone(), |(major, minor)| format!("{name} ({major}.{minor})"))
    }

    fn allocate(&self, bytes: usize) -> Result<u64, DeviceError> {
        self.bound()?;
        let (stream, bytes) = (self.stream.cu_stream(), bytes.max(1));
        // SAFETY: the context is current on this thread, and the stream is of it.
        let allocated = unsafe {
            if self.stream.context().has_async_alloc() {
                result::malloc_async(stream, bytes)
            } else {
                result::malloc_sync(bytes)
            }
        };
        allocated.map_err(|error| match error {
            DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY) => {
                DeviceError::OutOfMemory { device: Backend::name(self), bytes }
            }
            other => self.failed(&driver("give memory")(other)),
        })
    }

    unsafe fn free(&self, address: u64) {
        if self.bound().is_err() {
            return;
        }
        // A driver that cannot take memory back has failed before; whoever asks next is told so.
        // SAFETY: the address came from the driver, and the caller does not use it again. Without a stream's order nothing may be running.
        let _lost = unsafe {
            if self.stream.context().has_async_alloc() {
                result::free_async(address, self.stream.cu_stream())
            } else {
                self.stream.synchronize().and_then(|()| result::free_sync(address))
            }
        };
    }

    unsafe fn upload(&self, to: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.bound()?;
        // SAFETY: the caller answers for the memory. Bytes of ordinary memory have been taken when the driver returns.
        let copied = unsafe { result::memcpy_htod_async(to, bytes, self.stream.cu_stream()) };
        copied.map_err(driver("copy to the device")).map_err(|error| self.failed(&error))
    }

    unsafe fn download(&self, from: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.bound()?;
        // SAFETY: the caller answers for the memory, and the bytes are there until the stream has ended, which is waited for.
        let copied = unsafe { result::memcpy_dtoh_async(bytes, from, self.stream.cu_stream()) };
        let ended = self.wait();
        copied.map_err(driver("copy from the device")).and(ended).map_err(|error| self.failed(&error))
    }

    unsafe fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), DeviceError> {
        self.bound()?;
        // SAFETY: the caller answers for both pieces of memory.
        let copied = unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) };
        copied.map_err(driver("copy within the device")).map_err(|error| self.failed(&error))
    }

    unsafe fn run(&self, launch: &Launch<'_>) -> Result<(), DeviceError> {
        self.bound()?;
        Self::run(self, launch).map_err(|error| self.failed(&error))
    }
}

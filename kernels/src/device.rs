//! Memory of a device and launches on it, safe to use: what a model is computed with.
//!
//! A [`Device`] does everything in the order in which it is asked: copies, launches, and giving back memory. So an [`Array`] may be dropped or
//! overwritten as soon as a launch that uses it has been handed over. What runs the launches is a [`Backend`]: a GPU (`gpu::Gpu`, with the feature
//! `cuda`), or in tests the same kernels run on the processor.
//!
//! Memory is kept: an array that was made shorter keeps what it has, and grows again within it, so that work on batches of varying size
//! allocates nothing after the largest one.
#![allow(unsafe_code, reason = "arrays stand for memory that the compiler cannot see")]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use crate::launch::{Argument, Buffer, BufferMut, Element, Launch, ShapeError};

/// Why a device did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// There is no such amount of memory.
    #[error("out of memory on {device}: {bytes} bytes more were asked for")]
    OutOfMemory {
        /// Name of the device.
        device: String,
        /// What was asked for.
        bytes: usize,
    },
    /// A launch that uses memory of another owner.
    #[error("{kernel} was to use memory that is not of {device}")]
    Foreign {
        /// Name of the device.
        device: String,
        /// Name of the kernel.
        kernel: &'static str,
    },
    /// The device or its driver failed.
    #[error("{device}: {message}")]
    Failed {
        /// Name of the device.
        device: String,
        /// What it says.
        message: String,
    },
    /// Shapes that a launcher refuses.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

/// What owns memory and runs launches, one after another in the order in which they are given.
///
/// # Safety
/// Memory that [`Backend::allocate`] gives must be valid until it is freed, begin at a multiple of 256 bytes, and belong to nobody else. Calls may come from any
/// thread, and take effect in their order.
pub unsafe trait Backend: Debug + Send + Sync {
    /// What results may depend on: the kind of the device.
    fn name(&self) -> String;

    /// At least one byte of memory, whatever is in it.
    ///
    /// # Errors
    /// There is not so much.
    fn allocate(&self, bytes: usize) -> Result<u64, DeviceError>;

    /// Takes memory back, behind everything that was asked for before.
    ///
    /// # Safety
    /// The address is from [`Backend::allocate`], and is not used again.
    unsafe fn free(&self, address: u64);

    /// Copies to the device. The bytes may change as soon as this returns.
    ///
    /// # Safety
    /// There is memory for so many bytes at the address.
    ///
    /// # Errors
    /// The driver fails.
    unsafe fn upload(&self, to: u64, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Copies from the device, behind everything that was asked for before.
    ///
    /// # Safety
    /// There is memory of so many bytes at the address.
    ///
    /// # Errors
    /// The driver fails, or something that was launched before did.
    unsafe fn download(&self, from: u64, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// Copies within the device, behind everything that was asked for before.
    ///
    /// # Safety
    /// There is memory of so many bytes at both addresses, and the two do not overlap.
    ///
    /// # Errors
    /// The driver fails.
    unsafe fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), DeviceError>;

    /// Enqueues a launch.
    ///
    /// # Safety
    /// All buffers of the launch are memory of this backend.
    ///
    /// # Errors
    /// The launch is refused, or something that was launched before failed.
    unsafe fn run(&self, launch: &Launch<'_>) -> Result<(), DeviceError>;
}

/// A device with its memory. Copies of it are the same device.
#[derive(Clone, Debug)]
pub struct Device {
    owner: Arc<Owner>,
}

#[derive(Debug)]
struct Owner {
    backend: Box<dyn Backend>,
    /// Bytes of each piece of memory, by its address.
    live: Mutex<BTreeMap<u64, usize>>,
}

/// Elements in memory of a device. They begin as anything.
#[derive(Debug)]
pub struct Array<T> {
    owner: Arc<Owner>,
    address: u64,
    /// Elements that there is memory for.
    capacity: usize,
    len: usize,
    element: PhantomData<T>,
}

impl Device {
    /// A device of this backend.
    pub fn new(backend: impl Backend + 'static) -> Self {
        Self { owner: Arc::new(Owner { backend: Box::new(backend), live: Mutex::default() }) }
    }

    /// What results may depend on: the kind of the device.
    pub fn name(&self) -> String {
        self.owner.backend.name()
    }

    /// Bytes of memory that arrays hold.
    pub fn memory(&self) -> usize {
        self.owner.live().values().sum()
    }

    /// An array without elements, and without memory.
    pub fn empty<T: Element>(&self) -> Array<T> {
        Array { owner: Arc::clone(&self.owner), address: 0, capacity: 0, len: 0, element: PhantomData }
    }

    /// An array of these elements.
    ///
    /// # Errors
    /// Too little memory, or a driver that fails.
    pub fn upload<T: Element>(&self, elements: &[T]) -> Result<Array<T>, DeviceError> {
        let mut array = self.empty();
        array.upload(elements)?;
        Ok(array)
    }

    /// Enqueues launches, in their order.
    ///
    /// # Errors
    /// A launch that uses memory of another device, or that the driver refuses. An error of an earlier launch can show here.
    pub fn run(&self, launches: &[Launch<'_>]) -> Result<(), DeviceError> {
        for launch in launches {
            {
                let live = self.owner.live();
                let own = |address: u64| {
                    let before = live.range(..=address).next_back();
                    before.is_some_and(|(&start, &bytes)| address - start <= bytes as u64)
                };
                let foreign = |argument: &Argument| matches!(argument, Argument::Address(address) if *address != 0 && !own(*address));
                if launch.arguments().iter().any(foreign) {
                    return Err(DeviceError::Foreign { device: self.name(), kernel: launch.kernel() });
                }
            }
            // SAFETY: the buffers begin in memory of this backend. They came from arrays that were borrowed until now, or from whoever promised
            // more; memory of arrays is given back in order.
            unsafe { self.owner.backend.run(launch) }?;
        }
        Ok(())
    }
}

impl Owner {
    fn live(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, usize>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Element> Array<T> {
    /// Number of elements.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no element.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes it so many elements long; they are anything then. Memory is allocated only where there was never so much.
    ///
    /// # Errors
    /// There is not so much memory. The array is then empty.
    pub fn resize(&mut self, len: usize) -> Result<(), DeviceError> {
        if len > self.capacity {
            self.release();
            let bytes = len.saturating_mul(size_of::<T>());
            self.address = self.owner.backend.allocate(bytes)?;
            self.owner.live().insert(self.address, bytes);
            self.capacity = len;
        }
        self.len = len;
        Ok(())
    }

    /// Overwrites it with these elements.
    ///
    /// # Errors
    /// Too little memory, or a driver that fails.
    pub fn upload(&mut self, elements: &[T]) -> Result<(), DeviceError> {
        self.resize(elements.len())?;
        if elements.is_empty() {
            return Ok(());
        }
        // SAFETY: elements are numbers without padding, of any of which the bytes can be read.
        let bytes = unsafe { std::slice::from_raw_parts(elements.as_ptr().cast(), size_of_val(elements)) };
        // SAFETY: there is memory for as many elements.
        unsafe { self.owner.backend.upload(self.address, bytes) }
    }

    /// Overwrites it with the elements of another array of the same device.
    ///
    /// # Errors
    /// An array of another device, too little memory, or a driver that fails.
    pub fn copy_from(&mut self, other: &Self) -> Result<(), DeviceError> {
        if !Arc::ptr_eq(&self.owner, &other.owner) {
            return Err(DeviceError::Foreign { device: self.owner.backend.name(), kernel: "a copy" });
        }
        self.resize(other.len)?;
        if self.is_empty() {
            return Ok(());
        }
        // SAFETY: both hold as many elements, and no two arrays share memory.
        unsafe { self.owner.backend.copy(other.address, self.address, self.len * size_of::<T>()) }
    }

    /// The elements, when all that was launched before has ended.
    ///
    /// # Errors
    /// The driver fails, or something that was launched before did.
    pub fn download(&self) -> Result<Vec<T>, DeviceError> {
        let mut elements = vec![T::default(); self.len];
        if self.is_empty() {
            return Ok(elements);
        }
        // SAFETY: elements are numbers, which any bytes are.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(elements.as_mut_ptr().cast(), size_of_val(elements.as_slice())) };
        // SAFETY: there is memory of as many elements.
        unsafe { self.owner.backend.download(self.address, bytes) }?;
        Ok(elements)
    }

    /// To be read by a launch.
    pub const fn read(&self) -> Buffer<'_, T> {
        // SAFETY: the memory holds as many elements, which any bytes are, until the array is dropped, which the device does in order.
        unsafe { Buffer::new(self.address, self.len) }
    }

    /// To be written by a launch.
    pub const fn write(&mut self) -> BufferMut<'_, T> {
        // SAFETY: as for reading; and nothing else uses the array while it is borrowed.
        unsafe { BufferMut::new(self.address, self.len) }
    }
}

impl<T> Array<T> {
    fn release(&mut self) {
        if self.capacity > 0 {
            self.owner.live().remove(&self.address);
            // SAFETY: the memory was allocated for this array, which forgets it here.
            unsafe { self.owner.backend.free(self.address) };
        }
        (self.address, self.capacity, self.len) = (0, 0, 0);
    }
}

impl<T> Drop for Array<T> {
    fn drop(&mut self) {
        self.release();
    }
}

//! Asking for memory before it is needed.

#![allow(unsafe_code, reason = "the instruction has no safe wrapper in the standard library")]

/// Brings the cache line of `slice[index]` closer. Where the processor has no such instruction, nothing happens.
#[inline(always)]
pub(crate) fn prefetch<T>(slice: &[T], index: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

        // SAFETY: the instruction reads nothing that the program sees and does not fault, whatever the address; every x86-64
        // processor has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(slice.as_ptr().wrapping_add(index).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (slice, index);
}

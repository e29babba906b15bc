//! The clock that other programs on a shared core do not disturb much.

use std::time::Duration;

/// Processor time that this thread has used.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "the standard library does not offer this clock")]
pub(crate) fn now() -> Duration {
    const THREAD_CPU_TIME: i32 = 3;
    #[repr(C)]
    struct Timespec {
        seconds: std::ffi::c_long,
        nanoseconds: std::ffi::c_long,
    }
    unsafe extern "C" {
        fn clock_gettime(clock: i32, time: *mut Timespec) -> i32;
    }
    let mut time = Timespec { seconds: 0, nanoseconds: 0 };
    // SAFETY: the C library that the standard library links has this function, and `time` is a timespec of 64-bit Linux.
    let failed = unsafe { clock_gettime(THREAD_CPU_TIME, &raw mut time) };
    assert_eq!(failed, 0, "no processor time");
    Duration::new(time.seconds as u64, time.nanoseconds as u32)
}

/// Time since the first call.
#[cfg(not(target_os = "linux"))]
pub(crate) fn now() -> Duration {
    static FIRST: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    FIRST.get_or_init(std::time::Instant::now).elapsed()
}

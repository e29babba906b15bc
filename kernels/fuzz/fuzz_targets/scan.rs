//! `cargo +nightly fuzz run scan`, in `kernels/`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    cases::scan::check(bytes);
});

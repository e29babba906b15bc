//! Kernels from changed sources, compiled while a test runs: to see that a mistake would be found.

use crate::{Argument, Geometry, LaunchError, RawLaunch, launch_by};
use std::ffi::{CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

/// Kernels of a source that is not the one in the source tree.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    launch: RawLaunch,
}

/// Why a changed source could not be used.
#[derive(Debug, thiserror::Error)]
pub enum VariantError {
    /// Files could not be written, or the compiler could not be started.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The compiler refused the source.
    #[error("the compiler refuses the source:\n{0}")]
    Compile(String),
    /// The compiled library could not be opened.
    #[error("cannot open the compiled library {0}")]
    Open(PathBuf),
}

impl Variant {
    /// Compiles `<folder>/<family>.cu` with the headers of that folder. The compiler is `$CXX`, else `c++`. The library stays
    /// loaded until the process ends.
    ///
    /// # Errors
    /// See [`VariantError`].
    pub fn compile(folder: &Path, family: &str) -> Result<Self, VariantError> {
        let shim = Path::new(env!("CARGO_MANIFEST_DIR"));
        let unit = folder.join(format!("{family}.variant.cpp"));
        fs::write(&unit, format!("#include \"{family}.cu\"\n"))?;
        let library = folder.join(format!("{family}.so"));
        let mut compiler = Command::new(std::env::var_os("CXX").unwrap_or_else(|| "c++".into()));
        compiler.args([
            "-std=c++17",
            "-O1",
            "-fPIC",
            "-shared",
            "-ffp-contract=off",
            "-w",
            "-DGRISTMILL_SHIM",
            "-Wl,-Bsymbolic",
        ]);
        compiler.arg("-I").arg(folder).arg("-I").arg(shim.join("include"));
        compiler.arg("-o").arg(&library).arg(&unit).arg(shim.join("src/runtime.cpp"));
        let result = compiler.output()?;
        if !result.status.success() {
            return Err(VariantError::Compile(String::from_utf8_lossy(&result.stderr).into_owned()));
        }
        let failed = || VariantError::Open(library.clone());
        let path = CString::new(library.as_os_str().as_bytes()).map_err(|_| failed())?;
        // SAFETY: the library was just compiled from the kernels and the runtime, whose initialisers register kernels.
        let handle = unsafe { dlopen(path.as_ptr(), RTLD_NOW) };
        if handle.is_null() {
            return Err(failed());
        }
        // SAFETY: the handle is open.
        let symbol = unsafe { dlsym(handle, c"gristmill_shim_launch".as_ptr()) };
        if symbol.is_null() {
            return Err(failed());
        }
        // SAFETY: the runtime defines a function of this type under this name.
        let launch = unsafe { std::mem::transmute::<*mut c_void, RawLaunch>(symbol) };
        Ok(Self { launch })
    }

    /// As [`crate::launch`], with these kernels.
    ///
    /// # Errors
    /// As [`crate::launch`].
    ///
    /// # Safety
    /// As [`crate::launch`].
    pub unsafe fn launch(
        &self,
        kernel: &str,
        geometry: Geometry,
        arguments: &[Argument],
        seed: u64,
    ) -> Result<(), LaunchError> {
        // SAFETY: the caller answers for the addresses.
        unsafe { launch_by(self.launch, kernel, geometry, arguments, seed) }
    }
}

const RTLD_NOW: c_int = 2;

#[link(name = "dl")]
unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

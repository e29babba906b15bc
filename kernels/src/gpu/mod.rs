//! NVIDIA GPUs, opened at run time.
//!
//! The kernels' PTX is part of this library; the driver turns it into machine code when a family is first used. Machine code
//! compiled beforehand is preferred where there is some for the device. With `GRISTMILL_KERNELS_DIR` set to a folder, the files
//! there are used instead of those in the library: `<family>.sm_<nn>.cubin`, else `<family>.ptx`, else `<family>.cu`, which is
//! compiled with NVRTC (for development; headers are looked for in that folder and in `$CUDA_HOME/include`).
#![allow(unsafe_code, reason = "launching a kernel is a call into code that the compiler cannot see")]

mod backend;
mod solve;

use crate::generated::{self, Module};
use crate::launch::{Argument, Launch, ShapeError};
use cudarc::driver::sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream, DriverError, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::{CompileOptions, Ptx, compile_ptx_with_opts};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Names a folder whose kernels are used instead of those in the library.
pub const KERNELS_DIR: &str = "GRISTMILL_KERNELS_DIR";

/// Why a GPU cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// The driver is not installed.
    #[error("no NVIDIA driver: libcuda was not found")]
    NoDriver,
    /// A call of the driver failed.
    #[error("the NVIDIA driver could not {action}: {source}")]
    Driver {
        /// What was asked.
        action: String,
        /// What it answered.
        source: DriverError,
    },
    /// A launch of a family that this library does not have.
    #[error("there are no kernels of the family `{family}`")]
    NoFamily {
        /// The family.
        family: String,
    },
    /// A file of kernels cannot be read.
    #[error("cannot read kernels from {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Kernels could not be compiled at run time.
    #[error("cannot compile {path}: {message}")]
    Compile {
        /// The source.
        path: PathBuf,
        /// What the compiler said.
        message: String,
    },
    /// Shapes that the launcher refuses.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

/// Where a family's kernels came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Machine code in this library, for this device.
    Cubin,
    /// PTX in this library.
    Ptx,
    /// A file in the folder that the environment names.
    File(PathBuf),
}

/// One GPU with a stream, on which launches run in order.
#[derive(Debug)]
pub struct Gpu {
    stream: Arc<CudaStream>,
    loaded: Mutex<Loaded>,
}

#[derive(Debug, Default)]
struct Loaded {
    modules: HashMap<&'static str, (Arc<CudaModule>, Origin)>,
    functions: HashMap<&'static str, CudaFunction>,
}

/// How many GPUs there are.
///
/// # Errors
/// No driver, or one that does not work.
pub fn count() -> Result<usize, GpuError> {
    require_driver()?;
    let count = CudaContext::device_count().map_err(driver("count devices"))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// The version of CUDA that the driver supports, such as (13, 0).
///
/// # Errors
/// No driver, or one that does not work.
pub fn driver_version() -> Result<(i32, i32), GpuError> {
    require_driver()?;
    let mut version = 0;
    // SAFETY: the driver is there, and writes one number.
    unsafe { cudarc::driver::sys::cuDriverGetVersion(&mut version) }.result().map_err(driver("tell its version"))?;
    Ok((version / 1000, version % 1000 / 10))
}

impl Gpu {
    /// Opens the GPU of this number, with a stream of its own.
    ///
    /// # Errors
    /// No driver, no such device, or a driver that fails.
    pub fn open(number: usize) -> Result<Self, GpuError> {
        require_driver()?;
        let context = CudaContext::new(number).map_err(driver(&format!("open device {number}")))?;
        let stream = context.new_stream().map_err(driver("make a stream"))?;
        Ok(Self::on(stream))
    }

    /// Runs launches on a stream of somebody else, such as a tensor library's.
    pub fn on(stream: Arc<CudaStream>) -> Self {
        Self { stream, loaded: Mutex::default() }
    }

    /// The stream.
    pub const fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Name of the device.
    ///
    /// # Errors
    /// The driver fails.
    pub fn device_name(&self) -> Result<String, GpuError> {
        self.stream.context().name().map_err(driver("tell the device's name"))
    }

    /// Compute capability of the device, such as (9, 0).
    ///
    /// # Errors
    /// The driver fails.
    pub fn capability(&self) -> Result<(i32, i32), GpuError> {
        self.stream.context().compute_capability().map_err(driver("tell the device's capability"))
    }

    /// Loads a family's kernels, if they are not loaded yet, and says where they came from.
    ///
    /// # Errors
    /// There is no such family, the driver refuses the code, or the folder that the environment names does not hold it.
    pub fn load(&self, family: &str) -> Result<Origin, GpuError> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        self.module(&mut loaded, family).map(|(_, origin)| origin)
    }

    /// Enqueues a launch on the stream; it may still run when this returns.
    ///
    /// # Errors
    /// The kernel cannot be loaded, or the driver refuses the launch. An error of an earlier launch can show here.
    pub fn run(&self, launch: &Launch<'_>) -> Result<(), GpuError> {
        let function = self.function(launch)?;
        let mut builder = self.stream.launch_builder(&function);
        for argument in launch.arguments() {
            match argument {
                Argument::Address(value) | Argument::U64(value) => builder.arg(value),
                Argument::I32(value) => builder.arg(value),
                Argument::U32(value) => builder.arg(value),
                Argument::I64(value) => builder.arg(value),
                Argument::F32(value) => builder.arg(value),
            };
        }
        let config = LaunchConfig {
            grid_dim: launch.grid().into(),
            block_dim: launch.block().into(),
            shared_mem_bytes: launch.shared_bytes(),
        };
        // SAFETY: launchers give the arguments that the kernel of this name takes, and buffers carry the promise of whoever
        // made them.
        unsafe { builder.launch(config) }.map_err(driver(&format!("launch {}", launch.kernel())))?;
        Ok(())
    }

    /// Waits until everything enqueued has ended.
    ///
    /// # Errors
    /// Something enqueued failed.
    pub fn wait(&self) -> Result<(), GpuError> {
        self.stream.synchronize().map_err(driver("finish what was launched"))
    }

    fn function(&self, launch: &Launch<'_>) -> Result<CudaFunction, GpuError> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = loaded.functions.get(launch.kernel()) {
            return Ok(function.clone());
        }
        let (module, _) = self.module(&mut loaded, launch.family())?;
        let function =
            module.load_function(launch.kernel()).map_err(driver(&format!("find the kernel {}", launch.kernel())))?;
        // Beyond 48 KiB a kernel has to ask; asking for what the device has beside the kernel's own costs nothing.
        let context = self.stream.context();
        let most = context
            .attribute(
                cudarc::driver::sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )
            .map_err(driver("tell its shared memory"))?;
        let own = function
            .get_attribute(cudarc::driver::sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)
            .map_err(driver("tell a kernel's shared memory"))?;
        function
            .set_attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, most - own)
            .map_err(driver("give a kernel shared memory"))?;
        loaded.functions.insert(launch.kernel(), function.clone());
        Ok(function)
    }

    fn module(&self, loaded: &mut Loaded, family: &str) -> Result<(Arc<CudaModule>, Origin), GpuError> {
        if let Some((module, origin)) = loaded.modules.get(family) {
            return Ok((Arc::clone(module), origin.clone()));
        }
        let known = generated::MODULES.iter().find(|module| module.family == family);
        let known = known.ok_or_else(|| GpuError::NoFamily { family: family.into() })?;
        let (code, origin) = match std::env::var_os(KERNELS_DIR) {
            Some(folder) => self.from_folder(Path::new(&folder), family)?,
            None => self.embedded(known)?,
        };
        let module =
            self.stream.context().load_module(code).map_err(driver(&format!("load the kernels of {family}")))?;
        loaded.modules.insert(known.family, (Arc::clone(&module), origin.clone()));
        Ok((module, origin))
    }

    fn embedded(&self, module: &Module) -> Result<(Ptx, Origin), GpuError> {
        let capability = self.capability()?;
        let cubin = module.cubins.iter().find(|cubin| cubin.capability == capability);
        Ok(match cubin {
            Some(cubin) => (Ptx::from_binary(cubin.code.to_vec()), Origin::Cubin),
            None => (Ptx::from_src(module.ptx), Origin::Ptx),
        })
    }

    fn from_folder(&self, folder: &Path, family: &str) -> Result<(Ptx, Origin), GpuError> {
        let (major, minor) = self.capability()?;
        let read = |path: &Path| std::fs::read(path).map_err(|source| GpuError::Read { path: path.into(), source });
        for suffix in ["a", ""] {
            let path = folder.join(format!("{family}.sm_{major}{minor}{suffix}.cubin"));
            if path.exists() {
                return Ok((Ptx::from_binary(read(&path)?), Origin::File(path)));
            }
        }
        let path = folder.join(format!("{family}.ptx"));
        if path.exists() {
            let text = String::from_utf8_lossy(&read(&path)?).into_owned();
            return Ok((Ptx::from_src(text), Origin::File(path)));
        }
        let path = folder.join(format!("{family}.cu"));
        let source = String::from_utf8_lossy(&read(&path)?).into_owned();
        let refused = |message: String| GpuError::Compile { path: path.clone(), message };
        // SAFETY: only looks whether the library can be opened.
        if !unsafe { cudarc::nvrtc::sys::is_culib_present() } {
            return Err(refused("libnvrtc was not found".into()));
        }
        let mut include_paths = vec![folder.display().to_string()];
        include_paths.extend(std::env::var("CUDA_HOME").map(|home| format!("{home}/include")));
        let options = CompileOptions {
            include_paths,
            options: vec![format!("--gpu-architecture=compute_{major}{minor}"), "--std=c++17".into()],
            ..CompileOptions::default()
        };
        let ptx = compile_ptx_with_opts(source, options).map_err(|error| refused(format!("{error:?}")))?;
        Ok((ptx, Origin::File(path)))
    }
}

fn require_driver() -> Result<(), GpuError> {
    // SAFETY: only looks whether the library can be opened.
    if unsafe { cudarc::driver::sys::is_culib_present() } { Ok(()) } else { Err(GpuError::NoDriver) }
}

fn driver(action: &str) -> impl FnOnce(DriverError) -> GpuError {
    let action = action.to_owned();
    move |source| GpuError::Driver { action, source }
}

//! Problems of the checks, solved and timed on a GPU.

use super::{Gpu, GpuError, driver};
use crate::check::{AnyBuffer, HostBuffer, Machine, Problem};
use cudarc::driver::{CudaSlice, DevicePtr};
use std::time::{Duration, Instant};

impl Machine for Gpu {
    fn name(&self) -> String {
        self.device_name().unwrap_or_else(|_| "GPU".into())
    }

    fn solve(&self, problem: &dyn Problem, _: u64) -> Result<Option<Vec<HostBuffer>>, String> {
        self.solve_on_device(problem).map(Some).map_err(|error| error.to_string())
    }
}

impl Gpu {
    /// Seconds that the launches of a problem take, one after another, on data that is on the device already: the mean of as many
    /// runs as fit into `least`, after one that is not counted.
    ///
    /// # Errors
    /// As of [`Gpu::run`].
    pub fn time(&self, problem: &dyn Problem, least: Duration) -> Result<f64, GpuError> {
        let buffers = self.upload_all(problem)?;
        let (read, written) = buffers.views(self);
        let launches = problem.launches(&read, &written)?;
        let mut once = || launches.iter().try_for_each(|launch| self.run(launch));
        once()?;
        self.mean_seconds(least, &mut once)
    }

    /// Bytes a second that the device reads and writes when it copies `bytes` within its memory; both are counted.
    ///
    /// # Errors
    /// The memory cannot be had, or the driver fails.
    pub fn copy_bandwidth(&self, bytes: usize, least: Duration) -> Result<f64, GpuError> {
        let from = self.stream.alloc_zeros::<u8>(bytes).map_err(driver("give memory"))?;
        let mut to = self.stream.alloc_zeros::<u8>(bytes).map_err(driver("give memory"))?;
        let mut once = || self.stream.memcpy_dtod(&from, &mut to).map_err(driver("copy on the device"));
        once()?;
        Ok(2.0 * bytes as f64 / self.mean_seconds(least, &mut once)?)
    }

    /// Enqueues twice as many runs at a time until they take long enough that starting and waiting does not count.
    fn mean_seconds(&self, least: Duration, once: &mut dyn FnMut() -> Result<(), GpuError>) -> Result<f64, GpuError> {
        let mut runs = 1_u32;
        loop {
            self.wait()?;
            let start = Instant::now();
            for _ in 0..runs {
                once()?;
            }
            self.wait()?;
            let taken = start.elapsed();
            if taken >= least || runs >= 1 << 20 {
                return Ok(taken.as_secs_f64() / f64::from(runs));
            }
            runs *= 2;
        }
    }

    fn solve_on_device(&self, problem: &dyn Problem) -> Result<Vec<HostBuffer>, GpuError> {
        let mut buffers = self.upload_all(problem)?;
        let (read, written) = buffers.views(self);
        for launch in problem.launches(&read, &written)? {
            self.run(&launch)?;
        }
        for (host, device) in buffers.outputs.iter_mut().zip(&buffers.device_outputs) {
            if !host.is_empty() {
                let bytes = host.bytes_mut();
                self.stream.memcpy_dtoh(&device.slice(..bytes.len()), bytes).map_err(driver("copy from the device"))?;
            }
        }
        self.wait()?;
        Ok(buffers.outputs)
    }

    fn upload_all(&self, problem: &dyn Problem) -> Result<Buffers, GpuError> {
        let (inputs, outputs) = (problem.inputs(), problem.outputs());
        let upload =
            |buffers: &[HostBuffer]| buffers.iter().map(|buffer| self.upload(buffer)).collect::<Result<Vec<_>, _>>();
        let (device_inputs, device_outputs) = (upload(&inputs)?, upload(&outputs)?);
        Ok(Buffers { inputs, outputs, device_inputs, device_outputs })
    }

    /// At least one byte: the driver does not allocate nothing.
    fn upload(&self, buffer: &HostBuffer) -> Result<CudaSlice<u8>, GpuError> {
        let bytes = buffer.bytes();
        let copied = if bytes.is_empty() { self.stream.clone_htod(&[0_u8]) } else { self.stream.clone_htod(bytes) };
        copied.map_err(driver("copy to the device"))
    }
}

/// Buffers of one problem, here and on the device.
struct Buffers {
    inputs: Vec<HostBuffer>,
    outputs: Vec<HostBuffer>,
    device_inputs: Vec<CudaSlice<u8>>,
    device_outputs: Vec<CudaSlice<u8>>,
}

impl Buffers {
    /// The inputs and outputs as they are on the device. They do not borrow: whoever asks keeps the buffers until the launches
    /// have ended.
    fn views(&self, gpu: &Gpu) -> (Vec<AnyBuffer<'static>>, Vec<AnyBuffer<'static>>) {
        let view = |(host, device): (&HostBuffer, &CudaSlice<u8>)| {
            let (address, _order) = device.device_ptr(&gpu.stream);
            // SAFETY: the slice has the bytes of the host's buffer and is used on this stream alone; memory that is given back
            // is given back in the order of the stream, after the launches.
            unsafe { AnyBuffer::new(address, host.len(), host.dtype()) }
        };
        let inputs = self.inputs.iter().zip(&self.device_inputs).map(view).collect();
        (inputs, self.outputs.iter().zip(&self.device_outputs).map(view).collect())
    }
}

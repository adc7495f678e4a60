//! The calls into the CUDA driver, and its faults as diagnostics.

use super::driver::{Driver, LOST, Launch, Memory, TOO_LARGE, no_memory};
use super::level::{self, CudaFacts};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;
use q35_bundle::CudaLevel;
use q35_diag::{Code, Diagnostic};
use std::ffi::{CString, c_int, c_void};

/// The first card of the machine, in use by this program.
pub(super) struct Context {
    facts: CudaFacts,
    device: sys::CUdevice,
    context: sys::CUcontext,
    /// Where launches go: a stream that can be recorded, in order with copies all the same; of older drivers the one that all have.
    stream: sys::CUstream,
}

/// Launches that one call starts; they live as long as the context is used.
pub(super) struct Graph(sys::CUgraphExec);

/// The version of the driver from which on it has every function that graphs need.
const WITH_GRAPHS: u32 = 11_040;

/// Loaded kernels; they stay loaded as long as the context is used.
pub(super) struct Module(sys::CUmodule);

/// A kernel of a module.
pub(super) struct Function(sys::CUfunction);

// SAFETY: handles of the driver may be used from any thread in which their context is current, which every call sees to.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Send for Graph {}

/// The driver's name of a fault, and what it says about it.
fn words(error: DriverError) -> (String, String) {
    let text = |text: Result<&std::ffi::CStr, DriverError>| {
        text.map_or_else(|_| format!("{:?}", error.0 as u32), |text| text.to_string_lossy().into_owned())
    };
    (text(error.error_name()), text(error.error_string()))
}

/// A fault while the program did something.
fn fault(doing: &str, error: DriverError) -> Diagnostic {
    let (name, text) = words(error);
    describe(doing, &name, &text)
}

/// What a fault of the driver means to the user, by its name.
fn describe(doing: &str, name: &str, text: &str) -> Diagnostic {
    let error = |code, help: &str| Diagnostic::error(code, format!("{doing}: {text} ({name})")).help(help);
    match name {
        "CUDA_ERROR_NO_DEVICE" | "CUDA_ERROR_SYSTEM_NOT_READY" | "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH" => {
            error(Code::FeatureMissing, "check with nvidia-smi that the driver sees a card")
        }
        "CUDA_ERROR_UNSUPPORTED_PTX_VERSION" | "CUDA_ERROR_NO_BINARY_FOR_GPU" | "CUDA_ERROR_INVALID_PTX" => {
            error(Code::FeatureMissing, "install a newer driver, or ask for another feature level with --level")
        }
        "CUDA_ERROR_OUT_OF_MEMORY" => error(Code::MemoryLimit, TOO_LARGE),
        _ => error(Code::DeviceFailed, LOST),
    }
}

impl Context {
    /// Loads the driver and takes its first card.
    pub(super) fn new() -> Result<Self, Diagnostic> {
        // SAFETY: this only tries to load the library.
        if !unsafe { sys::is_culib_present() } {
            let what = "there is no CUDA driver on this machine: its library 'libcuda' cannot be loaded";
            return Err(Diagnostic::error(Code::FeatureMissing, what)
                .help("install NVIDIA's driver, or compile the model with --target cpu"));
        }
        result::init().map_err(|e| fault("the CUDA driver does not start", e))?;
        let opening = |e| fault("the card cannot be opened", e);
        let device = result::device::get(0).map_err(opening)?;
        let number = |attribute| {
            // SAFETY: the device was just got from the driver.
            unsafe { result::device::get_attribute(device, attribute) }.map_err(opening).map(|n| u32::try_from(n).unwrap_or(0))
        };
        use sys::CUdevice_attribute::{
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
        };
        let mut driver: c_int = 0;
        // SAFETY: the driver writes one integer.
        unsafe { sys::cuDriverGetVersion(&mut driver) }.result().map_err(opening)?;
        let facts = CudaFacts {
            name: result::device::get_name(device).map_err(opening)?,
            capability: (number(MAJOR)?, number(MINOR)?),
            driver: u32::try_from(driver).unwrap_or(0),
        };
        // SAFETY: the device exists; the context is released when this is dropped.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(opening)?;
        let mut made = Self { facts, device, context, stream: result::stream::null() };
        if made.facts.driver >= WITH_GRAPHS {
            made.enter()?;
            made.stream = result::stream::create(result::stream::StreamKind::Default).unwrap_or(result::stream::null());
        }
        Ok(made)
    }

    /// Makes the context that of this thread.
    fn enter(&self) -> Result<(), Diagnostic> {
        // SAFETY: the context is retained as long as this lives.
        unsafe { result::ctx::set_current(self.context) }.map_err(|e| fault("the card cannot be used", e))
    }

    /// The wanted level, or the first that card and driver can run.
    pub(super) fn pick<'a>(&self, levels: &'a [CudaLevel], wanted: Option<&str>) -> q35_diag::Result<&'a CudaLevel> {
        level::pick(levels, wanted, |level| &level.name, |level| self.facts.lacks(level))
    }
}

impl Driver for Context {
    type Module = Module;
    type Function = Function;
    type Graph = Graph;

    fn card(&self) -> &str {
        &self.facts.name
    }

    /// Has the driver make code of PTX text.
    fn load(&self, mut ptx: Vec<u8>) -> Result<Module, Diagnostic> {
        self.enter()?;
        ptx.push(0);
        // SAFETY: the text ends with a zero byte and outlives the call.
        let module = unsafe { result::module::load_data(ptx.as_ptr().cast()) };
        module.map(Module).map_err(|e| fault("the driver does not take the kernels", e))
    }

    fn function(&self, module: &Module, symbol: &str) -> Option<Function> {
        let symbol = CString::new(symbol).ok()?;
        // SAFETY: the module is loaded and never unloaded before the context is released.
        unsafe { result::module::get_function(module.0, symbol) }.ok().map(Function)
    }

    fn allocate(&mut self, bytes: u64) -> Result<Memory, Diagnostic> {
        self.enter()?;
        let size = usize::try_from(bytes.max(1)).unwrap_or(usize::MAX);
        let doing = || no_memory(bytes, result::mem_get_info().ok());
        // SAFETY: memory is only used through its handle, within its size.
        let start = unsafe { result::malloc_sync(size) }.map_err(|e| fault(&doing(), e))?;
        // SAFETY: the memory was just allocated with this size.
        unsafe { result::memset_d8_sync(start, 0, size) }.map_err(|e| fault("memory on the card cannot be cleared", e))?;
        Ok(Memory { start, bytes: size as u64 })
    }

    fn copy_in(&self, address: u64, bytes: &[u8]) -> Result<(), Diagnostic> {
        self.enter()?;
        // SAFETY: the range was allocated on this card.
        unsafe { result::memcpy_htod_sync(address, bytes) }.map_err(|e| fault("data cannot be copied to the card", e))
    }

    fn copy_out(&self, address: u64, bytes: &mut [u8]) -> Result<(), Diagnostic> {
        self.enter()?;
        // SAFETY: the range was allocated on this card.
        unsafe { result::memcpy_dtoh_sync(bytes, address) }.map_err(|e| fault("a result cannot be copied from the card", e))
    }

    fn start(&self, launch: &Launch<'_, Function>) -> Result<(), Diagnostic> {
        self.enter()?;
        let mut parameters: Vec<*mut c_void> = launch.numbers.iter().map(|n| std::ptr::from_ref(n).cast_mut().cast()).collect();
        let (grid, group) = ((launch.groups as u32, 1, 1), (launch.threads, 1, 1));
        // SAFETY: the kernel was compiled for exactly these parameters: their number and order come from the same manifest, whose
        // bindings, sizes and hashes were verified when the bundle was opened. The driver copies them before it returns.
        unsafe {
            result::launch_kernel(launch.function.0, grid, group, 0, self.stream, &mut parameters)
                .map_err(|e| fault(&format!("kernel '{}' cannot be started", launch.name), e))
        }
    }

    fn records(&self) -> bool {
        !self.stream.is_null()
    }

    fn begin(&self) -> Result<(), Diagnostic> {
        self.enter()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as this.
        unsafe { result::stream::begin_capture(self.stream, mode) }.map_err(|e| fault("launches cannot be recorded", e))
    }

    fn end(&self) -> Result<Graph, Diagnostic> {
        self.enter()?;
        let doing = |e| fault("launches cannot be recorded", e);
        // SAFETY: the stream is being recorded.
        let graph = unsafe { result::stream::end_capture(self.stream) }.map_err(doing)?;
        let flags = sys::CUgraphInstantiate_flags(0);
        // SAFETY: the graph was just recorded; what is made of it does not need it any longer.
        let made = unsafe { (result::graph::instantiate(graph, flags), result::graph::destroy(graph)) };
        made.0.map(Graph).map_err(doing)
    }

    fn replay(&self, graph: &Graph) -> Result<(), Diagnostic> {
        self.enter()?;
        // SAFETY: graph and stream live as long as this; the memory that the launches use is freed with the context.
        unsafe { result::graph::launch(graph.0, self.stream) }.map_err(|e| fault("recorded launches cannot be started", e))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: nothing of this context is used any more; releasing it frees its memory and modules. A fault here has nobody to hear it.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_say_what_to_do() {
        let text = |name: &str, what: &str| describe("doing so", name, what).to_string();
        assert_eq!(
            text("CUDA_ERROR_OUT_OF_MEMORY", "out of memory"),
            "error[Q35-0305]: doing so: out of memory (CUDA_ERROR_OUT_OF_MEMORY)\n  help: ask for a shorter context or fewer slots, or use a larger card"
        );
        assert!(text("CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "").starts_with("error[Q35-0504]"));
        assert!(text("CUDA_ERROR_NO_DEVICE", "").starts_with("error[Q35-0504]"));
        assert!(text("CUDA_ERROR_ILLEGAL_ADDRESS", "").starts_with("error[Q35-0606]"));
    }

    #[test]
    fn a_machine_without_a_driver_says_so() {
        // SAFETY: this only tries to load the library.
        if unsafe { sys::is_culib_present() } {
            return;
        }
        assert_eq!(
            Context::new().err().map(|e| e.to_string()).unwrap_or_default(),
            "error[Q35-0504]: there is no CUDA driver on this machine: its library 'libcuda' cannot be loaded\n  help: install NVIDIA's driver, or compile the model with --target cpu"
        );
    }
}

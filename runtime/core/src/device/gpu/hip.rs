//! The calls into AMD's HIP runtime, and its faults as diagnostics.
//!
//! The library is loaded when a bundle asks for it. Its interface is the C one of the HIP headers; of its structures only the properties of a
//! device are read, and of them only the name of the architecture.

use super::driver::{Driver, LOST, Launch, Memory, TOO_LARGE, no_memory};
use super::level::{self, HipFacts};
use libloading::Library;
use q35_bundle::RocmLevel;
use q35_diag::{Code, Diagnostic};
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};

/// Names of the library, the latest version first.
const LIBRARIES: [&str; 4] = ["libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5", "libamdhip64.so"];

/// More bytes than the properties of a device take in any version.
const PROPERTIES: usize = 8192;
/// Bytes of a device's name, at the start of its properties.
const NAME: usize = 256;

/// A result of a call: 0, or the number of a fault.
type Status = c_int;

/// The functions of the library that are used here.
macro_rules! functions {
    ({ $($name:ident($($type:ty),*) -> $result:ty;)* } { $($optional:ident($($of:ty),*);)* }) => {
        #[allow(non_snake_case, reason = "they are called as the library calls them")]
        struct Functions {
            $($name: unsafe extern "C" fn($($type),*) -> $result,)*
            /// `hipGetDeviceProperties`, under the name that the headers of a version give it.
            properties: unsafe extern "C" fn(*mut u8, c_int) -> Status,
            /// Those of streams and graphs, which older versions lack.
            graphs: Option<Graphs>,
            _library: Library,
        }

        #[allow(non_snake_case, reason = "as above")]
        struct Graphs {
            $($optional: unsafe extern "C" fn($($of),*) -> Status,)*
        }

        impl Graphs {
            fn of(library: &Library) -> Option<Self> {
                // SAFETY: as below.
                unsafe { Some(Self { $($optional: *library.get(concat!(stringify!($optional), "\0").as_bytes()).ok()?,)* }) }
            }
        }

        impl Functions {
            /// # Errors
            /// The name of a function that the library lacks.
            fn of(library: Library) -> Result<Self, &'static str> {
                // SAFETY: the signatures are those of the HIP headers; the functions are kept together with their library.
                unsafe {
                    let properties = ["hipGetDevicePropertiesR0600", "hipGetDeviceProperties"];
                    Ok(Self {
                        $($name: *library.get(concat!(stringify!($name), "\0").as_bytes()).map_err(|_| stringify!($name))?,)*
                        properties: properties
                            .iter()
                            .find_map(|name| library.get(name.as_bytes()).ok().map(|function| *function))
                            .ok_or("hipGetDeviceProperties")?,
                        graphs: Graphs::of(&library),
                        _library: library,
                    })
                }
            }
        }
    };
}
functions! {{
    hipInit(c_uint) -> Status;
    hipSetDevice(c_int) -> Status;
    hipModuleLoadData(*mut *mut c_void, *const c_void) -> Status;
    hipModuleUnload(*mut c_void) -> Status;
    hipModuleGetFunction(*mut *mut c_void, *mut c_void, *const c_char) -> Status;
    hipMalloc(*mut *mut c_void, usize) -> Status;
    hipFree(*mut c_void) -> Status;
    hipMemset(*mut c_void, c_int, usize) -> Status;
    hipMemcpyHtoD(*mut c_void, *mut c_void, usize) -> Status;
    hipMemcpyDtoH(*mut c_void, *mut c_void, usize) -> Status;
    hipMemGetInfo(*mut usize, *mut usize) -> Status;
    hipModuleLaunchKernel(
        *mut c_void, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, *mut c_void, *mut *mut c_void, *mut *mut c_void
    ) -> Status;
    hipGetErrorName(c_int) -> *const c_char;
    hipGetErrorString(c_int) -> *const c_char;
} {
    hipStreamCreate(*mut *mut c_void);
    hipStreamDestroy(*mut c_void);
    hipStreamBeginCapture(*mut c_void, c_int);
    hipStreamEndCapture(*mut c_void, *mut *mut c_void);
    hipGraphInstantiate(*mut *mut c_void, *mut c_void, *mut *mut c_void, *mut c_char, usize);
    hipGraphDestroy(*mut c_void);
    hipGraphLaunch(*mut c_void, *mut c_void);
    hipGraphExecDestroy(*mut c_void);
}}

/// `hipStreamCaptureModeThreadLocal`.
const THREAD_LOCAL: c_int = 1;

/// The library with the first card of the machine in use.
pub(super) struct Hip {
    functions: Functions,
    facts: HipFacts,
    /// Modules and memory to be given back.
    modules: std::sync::Mutex<Vec<Pointer>>,
    memory: Vec<u64>,
    /// Where launches go: a stream that can be recorded, in order with copies all the same; of older versions the one that all have.
    stream: Pointer,
    /// Graphs to be given back.
    graphs: std::sync::Mutex<Vec<Pointer>>,
}

/// A handle of the library.
#[derive(Clone, Copy)]
struct Pointer(*mut c_void);

/// Loaded kernels.
pub(super) struct Module(Pointer);

/// A kernel of a module.
pub(super) struct Function(Pointer);

/// Launches that one call starts; they live as long as the library is used.
pub(super) struct Graph(Pointer);

// SAFETY: the library's handles may be used from any thread; every call makes the card the current one of its thread.
unsafe impl Send for Pointer {}

/// What a fault means to the user, by its name.
fn describe(doing: &str, name: &str, text: &str) -> Diagnostic {
    let error = |code, help: &str| Diagnostic::error(code, format!("{doing}: {text} ({name})")).help(help);
    match name {
        "hipErrorNoDevice" | "hipErrorNotInitialized" | "hipErrorInsufficientDriver" => {
            error(Code::FeatureMissing, "check with rocminfo that the driver sees a card")
        }
        "hipErrorNoBinaryForGpu" | "hipErrorInvalidImage" | "hipErrorInvalidKernelFile" | "hipErrorSharedObjectInitFailed" => {
            error(Code::FeatureMissing, "install a newer driver, or ask for another feature level with --level")
        }
        "hipErrorOutOfMemory" | "hipErrorMemoryAllocation" => error(Code::MemoryLimit, TOO_LARGE),
        _ => error(Code::DeviceFailed, LOST),
    }
}

/// The architecture in the properties of a device: the layout differs between versions, and no other text in it begins so.
fn architecture(properties: &[u8]) -> Option<String> {
    let at = (NAME..properties.len()).find(|&at| properties[at..].starts_with(b"gfx"))?;
    let name = CStr::from_bytes_until_nul(&properties[at..]).ok()?.to_str().ok()?;
    Some(name.split(':').next().unwrap_or(name).to_owned())
}

impl Hip {
    /// Loads the library and takes its first card.
    pub(super) fn new() -> Result<Self, Diagnostic> {
        let missing = |what: String| {
            Diagnostic::error(Code::FeatureMissing, what).help("install ROCm, or compile the model with --target cpu")
        };
        // SAFETY: the library is AMD's; its initialisers run as they do in every program that is linked to it.
        let library = LIBRARIES.iter().find_map(|name| unsafe { Library::new(*name) }.ok()).ok_or_else(|| {
            missing("there is no HIP runtime on this machine: its library 'libamdhip64' cannot be loaded".to_owned())
        })?;
        let functions =
            Functions::of(library).map_err(|name| missing(format!("the HIP runtime of this machine lacks '{name}'")))?;
        let facts = HipFacts { name: String::new(), architecture: String::new() };
        let stream = Pointer(std::ptr::null_mut());
        let mut hip =
            Self { functions, facts, modules: Default::default(), memory: vec![], stream, graphs: Default::default() };
        // SAFETY: no pointers are passed.
        hip.done("the HIP runtime does not start", unsafe { (hip.functions.hipInit)(0) })?;
        hip.enter()?;
        let mut properties = vec![0u8; PROPERTIES];
        // SAFETY: the buffer is larger than the structure of any version.
        let status = unsafe { (hip.functions.properties)(properties.as_mut_ptr(), 0) };
        hip.done("the card cannot be opened", status)?;
        let name = CStr::from_bytes_until_nul(&properties[..NAME]).unwrap_or_default().to_string_lossy().into_owned();
        let architecture = architecture(&properties)
            .ok_or_else(|| missing(format!("the HIP runtime does not say what architecture the card '{name}' has")))?;
        hip.facts = HipFacts { name, architecture };
        if let Some(graphs) = &hip.functions.graphs {
            let mut stream = std::ptr::null_mut();
            // SAFETY: the library writes one handle.
            if unsafe { (graphs.hipStreamCreate)(&mut stream) } == 0 {
                hip.stream = Pointer(stream);
            }
        }
        Ok(hip)
    }

    /// The wanted level, or the one for the card's architecture.
    pub(super) fn pick<'a>(&self, levels: &'a [RocmLevel], wanted: Option<&str>) -> q35_diag::Result<&'a RocmLevel> {
        level::pick(levels, wanted, |level| &level.name, |level| self.facts.lacks(level))
    }

    fn done(&self, doing: &str, status: Status) -> Result<(), Diagnostic> {
        if status == 0 {
            return Ok(());
        }
        let text = |text: *const c_char| match text.is_null() {
            true => status.to_string(),
            // SAFETY: the library gives texts that live as long as it does.
            false => unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned(),
        };
        // SAFETY: any number may be asked for.
        let (name, what) = unsafe { ((self.functions.hipGetErrorName)(status), (self.functions.hipGetErrorString)(status)) };
        Err(describe(doing, &text(name), &text(what)))
    }

    /// The functions of graphs, whose absence [`Driver::records`] has told.
    fn with_graphs(&self) -> &Graphs {
        self.functions.graphs.as_ref().unwrap_or_else(|| unreachable!("there is a stream"))
    }

    /// Makes the card the one of this thread.
    fn enter(&self) -> Result<(), Diagnostic> {
        // SAFETY: no pointers are passed.
        self.done("the card cannot be used", unsafe { (self.functions.hipSetDevice)(0) })
    }
}

impl Driver for Hip {
    type Module = Module;
    type Function = Function;
    type Graph = Graph;

    fn card(&self) -> &str {
        &self.facts.name
    }

    fn load(&self, code: Vec<u8>) -> Result<Module, Diagnostic> {
        self.enter()?;
        let mut module = std::ptr::null_mut();
        // SAFETY: the code object is whole, its bytes were verified when the bundle was opened, and the library copies it.
        let status = unsafe { (self.functions.hipModuleLoadData)(&mut module, code.as_ptr().cast()) };
        self.done("the driver does not take the kernels", status)?;
        self.modules.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(Pointer(module));
        Ok(Module(Pointer(module)))
    }

    fn function(&self, module: &Module, symbol: &str) -> Option<Function> {
        let symbol = CString::new(symbol).ok()?;
        let mut function = std::ptr::null_mut();
        // SAFETY: the module is loaded until this is dropped; the name ends with a zero byte.
        let status = unsafe { (self.functions.hipModuleGetFunction)(&mut function, module.0.0, symbol.as_ptr()) };
        (status == 0).then_some(Function(Pointer(function)))
    }

    fn allocate(&mut self, bytes: u64) -> Result<Memory, Diagnostic> {
        self.enter()?;
        let size = usize::try_from(bytes.max(1)).unwrap_or(usize::MAX);
        let mut start = std::ptr::null_mut();
        // SAFETY: memory is only used through its handle, within its size.
        let status = unsafe { (self.functions.hipMalloc)(&mut start, size) };
        if status != 0 {
            let (mut free, mut total) = (0, 0);
            // SAFETY: the library writes two numbers.
            let known = unsafe { (self.functions.hipMemGetInfo)(&mut free, &mut total) } == 0;
            self.done(&no_memory(bytes, known.then_some((free, total))), status)?;
        }
        self.memory.push(start as u64);
        // SAFETY: the memory was just allocated with this size.
        let status = unsafe { (self.functions.hipMemset)(start, 0, size) };
        self.done("memory on the card cannot be cleared", status)?;
        Ok(Memory { start: start as u64, bytes: size as u64 })
    }

    fn copy_in(&self, address: u64, bytes: &[u8]) -> Result<(), Diagnostic> {
        self.enter()?;
        let from = bytes.as_ptr().cast_mut().cast();
        // SAFETY: the range was allocated on this card; the library only reads the source.
        let status = unsafe { (self.functions.hipMemcpyHtoD)(address as *mut c_void, from, bytes.len()) };
        self.done("data cannot be copied to the card", status)
    }

    fn copy_out(&self, address: u64, bytes: &mut [u8]) -> Result<(), Diagnostic> {
        self.enter()?;
        // SAFETY: the range was allocated on this card.
        let status = unsafe { (self.functions.hipMemcpyDtoH)(bytes.as_mut_ptr().cast(), address as *mut c_void, bytes.len()) };
        self.done("a result cannot be copied from the card", status)
    }

    fn start(&self, launch: &Launch<'_, Function>) -> Result<(), Diagnostic> {
        self.enter()?;
        let mut parameters: Vec<*mut c_void> = launch.numbers.iter().map(|n| std::ptr::from_ref(n).cast_mut().cast()).collect();
        let groups = launch.groups as c_uint;
        // SAFETY: the kernel was compiled for exactly these parameters: their number and order come from the same manifest, whose
        // bindings, sizes and hashes were verified when the bundle was opened. The library copies them before it returns.
        let status = unsafe {
            (self.functions.hipModuleLaunchKernel)(
                launch.function.0.0,
                groups,
                1,
                1,
                launch.threads,
                1,
                1,
                0,
                self.stream.0,
                parameters.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        self.done(&format!("kernel '{}' cannot be started", launch.name), status)
    }

    fn records(&self) -> bool {
        !self.stream.0.is_null()
    }

    fn begin(&self) -> Result<(), Diagnostic> {
        self.enter()?;
        // SAFETY: the stream lives as long as this.
        let status = unsafe { (self.with_graphs().hipStreamBeginCapture)(self.stream.0, THREAD_LOCAL) };
        self.done("launches cannot be recorded", status)
    }

    fn end(&self) -> Result<Graph, Diagnostic> {
        self.enter()?;
        let (functions, doing) = (self.with_graphs(), "launches cannot be recorded");
        let (mut graph, mut made) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the stream is being recorded.
        self.done(doing, unsafe { (functions.hipStreamEndCapture)(self.stream.0, &mut graph) })?;
        // SAFETY: the graph was just recorded; what is made of it does not need it any longer. No messages are asked for.
        let status = unsafe {
            let status = (functions.hipGraphInstantiate)(&mut made, graph, std::ptr::null_mut(), std::ptr::null_mut(), 0);
            (functions.hipGraphDestroy)(graph);
            status
        };
        self.done(doing, status)?;
        self.graphs.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(Pointer(made));
        Ok(Graph(Pointer(made)))
    }

    fn replay(&self, graph: &Graph) -> Result<(), Diagnostic> {
        self.enter()?;
        // SAFETY: graph and stream live as long as this; the memory that the launches use is freed after them.
        let status = unsafe { (self.with_graphs().hipGraphLaunch)(graph.0.0, self.stream.0) };
        self.done("recorded launches cannot be started", status)
    }
}

impl Drop for Hip {
    fn drop(&mut self) {
        let [modules, graphs] = [&self.modules, &self.graphs]
            .map(|list| std::mem::take(&mut *list.lock().unwrap_or_else(std::sync::PoisonError::into_inner)));
        // SAFETY: nothing of this card is used any more. `hipFree` waits for what still runs. A fault here has nobody to hear it.
        unsafe {
            if let Some(functions) = &self.functions.graphs {
                for graph in graphs {
                    (functions.hipGraphExecDestroy)(graph.0);
                }
                if !self.stream.0.is_null() {
                    (functions.hipStreamDestroy)(self.stream.0);
                }
            }
            for start in self.memory.drain(..) {
                (self.functions.hipFree)(start as *mut c_void);
            }
            for module in modules {
                (self.functions.hipModuleUnload)(module.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_say_what_to_do() {
        let text = |name: &str, what: &str| describe("doing so", name, what).to_string();
        assert_eq!(
            text("hipErrorOutOfMemory", "out of memory"),
            "error[Q35-0305]: doing so: out of memory (hipErrorOutOfMemory)\n  help: ask for a shorter context or fewer slots, or use a larger card"
        );
        assert!(text("hipErrorNoBinaryForGpu", "").starts_with("error[Q35-0504]"));
        assert!(text("hipErrorNoDevice", "").starts_with("error[Q35-0504]"));
        assert!(text("hipErrorIllegalAddress", "").starts_with("error[Q35-0606]"));
    }

    #[test]
    fn the_architecture_is_found_in_either_layout() {
        let with = |at: usize, text: &[u8]| {
            let mut bytes = vec![0; 2048];
            bytes[..4].copy_from_slice(b"gfx?");
            bytes[at..at + text.len()].copy_from_slice(text);
            bytes
        };
        assert_eq!(architecture(&with(396, b"gfx90a:sramecc+:xnack-")), Some("gfx90a".into()));
        assert_eq!(architecture(&with(1160, b"gfx1100")), Some("gfx1100".into()));
        assert_eq!(architecture(&with(1160, b"")), None);
        // A name that does not end.
        assert_eq!(architecture(&with(2045, b"gfx")), None);
    }
}

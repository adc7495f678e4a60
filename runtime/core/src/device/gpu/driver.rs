//! What the driver of a GPU does: memory, code, launches. Two of them have an interface that differs in names only.

use q35_diag::{Code, Diagnostic};

/// Groups that one launch can have.
const MOST_GROUPS: u64 = i32::MAX as u64;

/// Memory on the card. It is freed with the driver's handle.
pub(super) struct Memory {
    pub(super) start: u64,
    pub(super) bytes: u64,
}

impl Memory {
    /// The address so many bytes into it.
    pub(super) fn at(&self, offset: u64) -> u64 {
        self.start + offset
    }

    /// The address of a range of it.
    ///
    /// # Panics
    /// If the range leaves the memory: the caller's bug.
    fn range(&self, offset: u64, len: usize) -> u64 {
        assert!(offset.checked_add(len as u64).is_some_and(|end| end <= self.bytes), "a copy outside its memory");
        self.at(offset)
    }
}

/// A kernel with its grid and arguments.
pub(super) struct Launch<'a, F> {
    pub(super) name: &'a str,
    pub(super) function: &'a F,
    pub(super) groups: u64,
    pub(super) threads: u32,
    /// Addresses, then sizes.
    pub(super) numbers: &'a [u64],
}

/// The driver with the first card of the machine in use. What it has given lives as long as it does.
pub(super) trait Driver: Send {
    /// Loaded kernels.
    type Module;
    /// A kernel of them.
    type Function: Send;
    /// Launches that were recorded.
    type Graph: Send;

    /// What the card is called.
    fn card(&self) -> &str;

    /// Takes code as the bundle has it.
    fn load(&self, code: Vec<u8>) -> Result<Self::Module, Diagnostic>;

    /// The kernel of a name, if the module has it.
    fn function(&self, module: &Self::Module, symbol: &str) -> Option<Self::Function>;

    /// Zeroed memory.
    fn allocate(&mut self, bytes: u64) -> Result<Memory, Diagnostic>;

    /// Copies to the card; the range is allocated.
    fn copy_in(&self, address: u64, bytes: &[u8]) -> Result<(), Diagnostic>;

    /// Waits for all launches, and copies from the card; the range is allocated.
    fn copy_out(&self, address: u64, bytes: &mut [u8]) -> Result<(), Diagnostic>;

    /// Starts a kernel.
    fn start(&self, launch: &Launch<'_, Self::Function>) -> Result<(), Diagnostic>;

    /// Whether launches can be recorded.
    fn records(&self) -> bool;

    /// From now on, launches are recorded, and not run.
    fn begin(&self) -> Result<(), Diagnostic>;

    /// What was launched since, which has not run.
    fn end(&self) -> Result<Self::Graph, Diagnostic>;

    /// Starts everything that was recorded.
    fn replay(&self, graph: &Self::Graph) -> Result<(), Diagnostic>;

    /// [`Self::copy_in`] within a piece of memory.
    fn write(&self, memory: &Memory, offset: u64, bytes: &[u8]) -> Result<(), Diagnostic> {
        self.copy_in(memory.range(offset, bytes.len()), bytes)
    }

    /// [`Self::copy_out`] within a piece of memory.
    fn read(&self, memory: &Memory, offset: u64, bytes: &mut [u8]) -> Result<(), Diagnostic> {
        self.copy_out(memory.range(offset, bytes.len()), bytes)
    }

    /// [`Self::start`] where the grid is not too large.
    fn launch(&self, launch: &Launch<'_, Self::Function>) -> Result<(), Diagnostic> {
        if launch.groups > MOST_GROUPS {
            let what = format!("a launch of {} groups of threads, and {MOST_GROUPS} are the most", launch.groups);
            return Err(Diagnostic::error(Code::AbsurdSize, what).help("run fewer tokens in one step"));
        }
        self.start(launch)
    }
}

/// What the driver says of memory that cannot be had.
pub(super) fn no_memory(bytes: u64, free_and_total: Option<(usize, usize)>) -> String {
    match free_and_total {
        Some((free, total)) => {
            format!("{bytes} bytes of memory on the card cannot be had, where {free} of {total} are free")
        }
        None => format!("{bytes} bytes of memory on the card cannot be had"),
    }
}

/// A fault that leaves the card unusable.
pub(super) const LOST: &str =
    "the card must be opened anew; if it happens again, look for faults of the hardware in the system's log";
/// A fault for want of memory.
pub(super) const TOO_LARGE: &str = "ask for a shorter context or fewer slots, or use a larger card";

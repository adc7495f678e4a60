//! GPUs: kernels from the bundle, weights and working memory on the card, launches in the order of steps.
//!
//! A driver is loaded when a bundle asks for it, so that the program starts on machines without one. Launches do not wait: the driver
//! runs them in order, and whoever reads waits for them. What goes wrong on the card is therefore told by the call that notices it,
//! together with the node that was started last.
//!
//! Decoding launches the same kernels with the same arguments for every token: positions, and whatever else changes, lie in memory. Where the
//! driver can, the launches of a shape are recorded when it comes twice in a row, as a graph that one call starts.
//!
//! | module | idea |
//! | --- | --- |
//! | `driver` | what a driver does |
//! | `cuda`, `hip` | the drivers of NVIDIA's and AMD's GPUs, and their faults as diagnostics |
//! | `level` | which code of a bundle a card can run |

mod cuda;
mod driver;
mod hip;
mod level;

use super::{Block, Machine, Operand, Shape, Weight};
use crate::Options;
use driver::{Driver, Launch, Memory};
use q35_bundle::{Bundle, CudaDevice, RocmDevice};
use q35_diag::{Code, Diagnostic, Diagnostics, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A kernel and the threads of its groups.
struct Kernel<F> {
    function: F,
    threads: u32,
}

/// A GPU, with the kernels of one bundle.
struct Gpu<D: Driver> {
    bundle: Arc<Bundle>,
    driver: D,
    /// Device and feature level.
    level: String,
    /// Per step, the kernel of each variant.
    kernels: Vec<Vec<Kernel<D::Function>>>,
    blocks: Vec<Memory>,
    weights: Vec<Memory>,
    placed: BTreeMap<String, Weight>,
    /// The step that was started last.
    last: Option<usize>,
    /// Recorded launches, by shape.
    graphs: BTreeMap<Shape, D::Graph>,
    /// The shape that was launched last without being recorded.
    previous: Option<Shape>,
    /// The shape whose launches are being recorded.
    recording: Option<Shape>,
    /// Whether launches are worth recording; not once it has failed.
    records: bool,
}

/// The most tokens of steps that are recorded: those of larger ones take longer than their launches.
const FEW_TOKENS: u64 = 32;
/// The most shapes that are kept.
const MOST_SHAPES: usize = 64;

/// The kernels of a bundle for one kind of card.
struct Kernels<'a> {
    level: String,
    file: &'a str,
    prefix: &'a str,
    threads: &'a BTreeMap<String, u32>,
}

/// The first NVIDIA GPU of this machine, with the kernels that it and its driver can run.
pub(super) fn cuda(bundle: &Arc<Bundle>, device: &CudaDevice, options: &Options) -> Result<impl Machine + use<>> {
    let driver = cuda::Context::new()?;
    let level = driver.pick(&device.levels, options.level.as_deref())?;
    let (name, prefix) = (format!("cuda, {}", level.name), &device.prefix);
    Gpu::new(bundle.clone(), driver, Kernels { level: name, file: &level.file, prefix, threads: &device.threads })
}

/// The first AMD GPU of this machine, with the kernels for its architecture.
pub(super) fn hip(bundle: &Arc<Bundle>, device: &RocmDevice, options: &Options) -> Result<impl Machine + use<>> {
    let driver = hip::Hip::new()?;
    let level = driver.pick(&device.levels, options.level.as_deref())?;
    let (name, prefix) = (format!("hip, {}", level.name), &device.prefix);
    Gpu::new(bundle.clone(), driver, Kernels { level: name, file: &level.file, prefix, threads: &level.threads })
}

impl<D: Driver> Gpu<D> {
    /// Loads the kernels of every step. All missing ones are reported.
    fn new(bundle: Arc<Bundle>, driver: D, code: Kernels<'_>) -> Result<Self> {
        let path = bundle.path(code.file).unwrap_or_else(|| unreachable!("checked when the bundle was opened"));
        let bytes = std::fs::read(&path).map_err(|e| {
            Diagnostic::error(Code::CannotRead, format!("the kernels cannot be read: {e}")).at("file", code.file)
        })?;
        let module = driver.load(bytes).map_err(|fault| fault.at("file", code.file))?;
        let mut missing = Diagnostics::new();
        let mut find = |name: &str| {
            let symbol = format!("{}{name}", code.prefix);
            let threads = code.threads.get(name).copied().unwrap_or_else(|| unreachable!("checked when the bundle was opened"));
            match driver.function(&module, &symbol) {
                Some(function) => Some(Kernel { function, threads }),
                None => {
                    let what = format!("the kernels lack '{symbol}'");
                    missing.push(Diagnostic::error(Code::NotABundle, what).at("file", code.file));
                    None
                }
            }
        };
        let steps = &bundle.manifest().steps;
        let kernels = steps.iter().map(|step| step.variants.iter().filter_map(|v| find(&v.kernel)).collect()).collect();
        let (level, placed, graphs, records) = (code.level, BTreeMap::new(), BTreeMap::new(), driver.records());
        let (blocks, weights, last, previous, recording) = (vec![], vec![], None, None, None);
        missing.into_result(Self {
            bundle,
            driver,
            level,
            kernels,
            blocks,
            weights,
            placed,
            last,
            graphs,
            previous,
            recording,
            records,
        })
    }

    /// A fault of the driver, with the node that may have caused it.
    fn during(&self, fault: Diagnostic, step: Option<usize>) -> Diagnostic {
        match step.or(self.last).map(|step| &self.bundle.manifest().steps[step]) {
            Some(step) => fault.at("node", &step.node),
            None => fault,
        }
    }
}

impl<D: Driver> Machine for Gpu<D> {
    fn describe(&self) -> String {
        format!("{}, {}", self.level, self.driver.card())
    }

    fn allocate(&mut self, bytes: u64) -> Result<Block> {
        self.blocks.push(self.driver.allocate(bytes)?);
        Ok(Block(self.blocks.len() - 1))
    }

    fn place(&mut self, tensor: &str) -> Result<Weight> {
        if let Some(weight) = self.placed.get(tensor) {
            return Ok(*weight);
        }
        let found =
            self.bundle.tensor(tensor).unwrap_or_else(|| unreachable!("'{tensor}' was checked when the bundle was opened"));
        let memory = self.driver.allocate(found.data.len() as u64).map_err(|fault| fault.at("tensor", tensor))?;
        self.driver.write(&memory, 0, found.data).map_err(|fault| fault.at("tensor", tensor))?;
        self.weights.push(memory);
        let weight = Weight(self.weights.len() - 1);
        self.placed.insert(tensor.to_owned(), weight);
        Ok(weight)
    }

    fn write(&mut self, block: Block, offset: u64, bytes: &[u8]) -> Result<()> {
        self.driver.write(&self.blocks[block.0], offset, bytes).map_err(|fault| self.during(fault, None).into())
    }

    fn read(&self, block: Block, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.driver.read(&self.blocks[block.0], offset, bytes).map_err(|fault| self.during(fault, None).into())
    }

    fn launch(&mut self, step: usize, variant: usize, operands: &[Operand], dims: [i64; 4], tiles: u64) -> Result<()> {
        let address = |operand: &Operand| match operand {
            Operand::Weight(weight) => self.weights[weight.0].at(0),
            Operand::Memory(block, offset) => self.blocks[block.0].at(*offset),
        };
        let numbers: Vec<u64> = operands.iter().map(address).chain(dims.map(|n| n as u64)).collect();
        let Kernel { function, threads } = &self.kernels[step][variant];
        let name = &self.bundle.manifest().steps[step].variants[variant].kernel;
        let launch = Launch { name, function, groups: tiles, threads: *threads, numbers: &numbers };
        let done = self.driver.launch(&launch);
        self.last = Some(step);
        if done.is_err() && self.recording.take().is_some() {
            self.records = false;
            let _ = self.driver.end();
        }
        done.map_err(|fault| self.during(fault, Some(step)).into())
    }

    fn replay(&mut self, shape: Shape) -> Result<bool> {
        let Some(graph) = self.graphs.get(&shape) else { return Ok(false) };
        self.driver.replay(graph).map_err(|fault| self.during(fault, None))?;
        Ok(true)
    }

    fn begin(&mut self, shape: Shape) -> Result<()> {
        let again = self.previous.replace(shape) == Some(shape);
        if self.records && again && shape[0] <= FEW_TOKENS && self.graphs.len() < MOST_SHAPES {
            self.records = self.driver.begin().is_ok();
            self.recording = self.records.then_some(shape);
        }
        Ok(())
    }

    fn end(&mut self) -> Result<bool> {
        let Some(shape) = self.recording.take() else { return Ok(true) };
        let Ok(graph) = self.driver.end() else {
            self.records = false;
            return Ok(false);
        };
        self.graphs.insert(shape, graph);
        self.replay(shape)
    }

    fn wait(&self) -> Result<()> {
        // Whoever reads waits for all launches.
        let mut byte = [0];
        if self.blocks.is_empty() { Ok(()) } else { self.read(Block(0), 0, &mut byte) }
    }
}

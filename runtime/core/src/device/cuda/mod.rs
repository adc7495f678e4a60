//! An NVIDIA GPU: kernels from the bundle's PTX, weights and working memory on the card, launches in the order of steps.
//!
//! The driver is loaded when a bundle asks for it, so that the program starts on machines without one. Launches do not wait: the driver
//! runs them in order, and whoever reads waits for them. What goes wrong on the card is therefore told by the call that notices it,
//! together with the node that was started last.

mod driver;
mod level;

use super::{Block, Machine, Operand, Weight};
use crate::Options;
use driver::{Context, Function, Memory};
use q35_bundle::{Bundle, CudaDevice};
use q35_diag::{Code, Diagnostic, Diagnostics, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A kernel and the threads of its groups.
struct Kernel {
    function: Function,
    threads: u32,
}

/// The GPU, with the kernels of one bundle.
pub(crate) struct Cuda {
    bundle: Arc<Bundle>,
    context: Context,
    level: String,
    /// Per step, the kernel of each variant.
    kernels: Vec<Vec<Kernel>>,
    blocks: Vec<Memory>,
    weights: Vec<Memory>,
    placed: BTreeMap<String, Weight>,
    /// The step that was started last.
    last: Option<usize>,
}

impl Cuda {
    /// Loads the driver, picks the feature level, and loads its kernels. All missing ones are reported.
    pub(crate) fn new(bundle: Arc<Bundle>, device: &CudaDevice, options: &Options) -> Result<Self> {
        let context = Context::new()?;
        let level = level::pick(&device.levels, options.level.as_deref(), &context.facts)?;
        let path = bundle.path(&level.file).unwrap_or_else(|| unreachable!("checked when the bundle was opened"));
        let ptx = std::fs::read(&path).map_err(|e| {
            Diagnostic::error(Code::CannotRead, format!("the kernels cannot be read: {e}")).at("file", &level.file)
        })?;
        let module = context.load(ptx).map_err(|fault| fault.at("file", &level.file))?;
        let mut missing = Diagnostics::new();
        let mut find = |name: &str| {
            let symbol = format!("{}{name}", device.prefix);
            let threads =
                device.threads.get(name).copied().unwrap_or_else(|| unreachable!("checked when the bundle was opened"));
            match context.function(&module, &symbol) {
                Some(function) => Some(Kernel { function, threads }),
                None => {
                    let what = format!("the kernels lack '{symbol}'");
                    missing.push(Diagnostic::error(Code::NotABundle, what).at("file", &level.file));
                    None
                }
            }
        };
        let steps = &bundle.manifest().steps;
        let kernels = steps.iter().map(|step| step.variants.iter().filter_map(|v| find(&v.kernel)).collect()).collect();
        let level = level.name.clone();
        let cuda =
            Self { bundle, context, level, kernels, blocks: vec![], weights: vec![], placed: BTreeMap::new(), last: None };
        missing.into_result(cuda)
    }

    /// A fault of the driver, with the node that may have caused it.
    fn during(&self, fault: Diagnostic, step: Option<usize>) -> Diagnostic {
        match step.or(self.last).map(|step| &self.bundle.manifest().steps[step]) {
            Some(step) => fault.at("node", &step.node),
            None => fault,
        }
    }
}

impl Machine for Cuda {
    fn describe(&self) -> String {
        format!("cuda, {}, {}", self.level, self.context.facts.name)
    }

    fn allocate(&mut self, bytes: u64) -> Result<Block> {
        self.blocks.push(self.context.allocate(bytes)?);
        Ok(Block(self.blocks.len() - 1))
    }

    fn place(&mut self, tensor: &str) -> Result<Weight> {
        if let Some(weight) = self.placed.get(tensor) {
            return Ok(*weight);
        }
        let found =
            self.bundle.tensor(tensor).unwrap_or_else(|| unreachable!("'{tensor}' was checked when the bundle was opened"));
        let memory = self.context.allocate(found.data.len() as u64).map_err(|fault| fault.at("tensor", tensor))?;
        self.context.write(&memory, 0, found.data).map_err(|fault| fault.at("tensor", tensor))?;
        self.weights.push(memory);
        let weight = Weight(self.weights.len() - 1);
        self.placed.insert(tensor.to_owned(), weight);
        Ok(weight)
    }

    fn write(&mut self, block: Block, offset: u64, bytes: &[u8]) -> Result<()> {
        self.context.write(&self.blocks[block.0], offset, bytes).map_err(|fault| self.during(fault, None).into())
    }

    fn read(&self, block: Block, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.context.read(&self.blocks[block.0], offset, bytes).map_err(|fault| self.during(fault, None).into())
    }

    fn launch(&mut self, step: usize, variant: usize, operands: &[Operand], dims: [i64; 4], tiles: u64) -> Result<()> {
        let address = |operand: &Operand| match operand {
            Operand::Weight(weight) => self.weights[weight.0].at(0),
            Operand::Memory(block, offset) => self.blocks[block.0].at(*offset),
        };
        let addresses: Vec<u64> = operands.iter().map(address).collect();
        let kernel = &self.kernels[step][variant];
        let name = &self.bundle.manifest().steps[step].variants[variant].kernel;
        let done = self.context.launch((name, &kernel.function), tiles, kernel.threads, &addresses, dims);
        self.last = Some(step);
        done.map_err(|fault| self.during(fault, Some(step)).into())
    }

    fn wait(&self) -> Result<()> {
        // Whoever reads waits for all launches.
        let mut byte = [0];
        if self.blocks.is_empty() { Ok(()) } else { self.read(Block(0), 0, &mut byte) }
    }
}

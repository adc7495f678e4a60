//! A CPU: kernels from the bundle's shared object, weights where the file is mapped, memory from the system, threads from the pool.

mod features;
mod object;
mod pace;

use super::{Block, Machine, Operand, Weight};
use crate::Options;
use crate::pool::Pool;
use memmap2::MmapMut;
use object::{Arguments, Object};
use pace::{Kind, Pace};
use q35_bundle::{Bundle, CpuDevice, Dim, Level};
use q35_diag::{Code, Diagnostic, Diagnostics, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The CPU, with the kernels of one bundle.
pub(crate) struct Cpu {
    bundle: Arc<Bundle>,
    object: Object,
    level: String,
    pool: Pool,
    pace: Pace,
    blocks: Vec<MmapMut>,
    weights: Vec<*const u8>,
    placed: BTreeMap<String, Weight>,
}

// SAFETY: the pointers in `weights` lead into the read-only map of `bundle`, which lives as long as they do and is Sync.
unsafe impl Send for Cpu {}

impl Cpu {
    /// Loads the object and picks the feature level.
    pub(crate) fn new(bundle: Arc<Bundle>, device: &CpuDevice, options: &Options) -> Result<Self> {
        let level = pick(device, options.level.as_deref())?.name.clone();
        let object = Object::load(&bundle, device, &level)?;
        Ok(Self {
            bundle,
            object,
            level,
            pool: Pool::new(options.threads),
            pace: Pace::default(),
            blocks: vec![],
            weights: vec![],
            placed: BTreeMap::new(),
        })
    }
}

/// The wanted level, or the first that this machine can run.
fn pick<'a>(device: &'a CpuDevice, wanted: Option<&str>) -> Result<&'a Level> {
    if device.arch != std::env::consts::ARCH {
        let what = format!("the bundle was compiled for {}, and this machine is {}", device.arch, std::env::consts::ARCH);
        return Err(Diagnostic::error(Code::FeatureMissing, what).into());
    }
    let names = || device.levels.iter().map(|l| l.name.as_str()).collect::<Vec<_>>().join(", ");
    let mut missing = Diagnostics::new();
    let candidates: Vec<_> = device.levels.iter().filter(|level| wanted.is_none_or(|w| level.name == w)).collect();
    if let (Some(wanted), []) = (wanted, &candidates[..]) {
        let what = format!("the bundle has no feature level '{wanted}'");
        return Err(Diagnostic::error(Code::FeatureMissing, what).help(format!("it has: {}", names())).into());
    }
    for level in candidates {
        let lacks: Vec<&str> = level.requires.iter().map(String::as_str).filter(|f| !features::present(f)).collect();
        if lacks.is_empty() {
            return Ok(level);
        }
        missing.push(Diagnostic::error(
            Code::FeatureMissing,
            format!("feature level '{}' needs {}, which this CPU lacks", level.name, lacks.join(", ")),
        ));
    }
    if missing.is_empty() {
        missing.push(Diagnostic::error(Code::FeatureMissing, "the bundle has no feature level"));
    }
    Err(missing)
}

impl Machine for Cpu {
    fn describe(&self) -> String {
        format!("cpu, {}, {} threads", self.level, self.pool.threads())
    }

    fn allocate(&mut self, bytes: u64) -> Result<Block> {
        let memory = usize::try_from(bytes.max(1)).map_err(std::io::Error::other).and_then(MmapMut::map_anon).map_err(|e| {
            Diagnostic::error(Code::MemoryLimit, format!("{bytes} bytes of memory cannot be had: {e}"))
                .help("ask for a shorter context or fewer slots")
        })?;
        self.blocks.push(memory);
        Ok(Block(self.blocks.len() - 1))
    }

    fn place(&mut self, tensor: &str) -> Result<Weight> {
        if let Some(weight) = self.placed.get(tensor) {
            return Ok(*weight);
        }
        let found =
            self.bundle.tensor(tensor).unwrap_or_else(|| unreachable!("'{tensor}' was checked when the bundle was opened"));
        self.weights.push(found.data.as_ptr());
        let weight = Weight(self.weights.len() - 1);
        self.placed.insert(tensor.to_owned(), weight);
        Ok(weight)
    }

    fn write(&mut self, block: Block, offset: u64, bytes: &[u8]) -> Result<()> {
        self.blocks[block.0][offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn read(&self, block: Block, offset: u64, bytes: &mut [u8]) -> Result<()> {
        bytes.copy_from_slice(&self.blocks[block.0][offset as usize..][..bytes.len()]);
        Ok(())
    }

    fn launch(&mut self, step: usize, variant: usize, operands: &[Operand], dims: [i64; 4], tiles: u64) -> Result<()> {
        let blocks = &mut self.blocks;
        let address = |operand: &Operand| match operand {
            Operand::Weight(weight) => self.weights[weight.0].cast_mut(),
            Operand::Memory(block, offset) => blocks[block.0][*offset as usize..].as_mut_ptr(),
        };
        let arguments = Arguments::new(operands.iter().map(address).collect(), dims);
        let kernel = self.object.kernel(step, variant);
        let taken = self.pace.of(Kind::new(step, variant, dims[Dim::Tokens as usize]));
        let ranges = taken.ranges(tiles, self.pool.threads());
        let bound = move |n: u64| (u128::from(tiles) * u128::from(n) / u128::from(ranges)) as i64;
        let range = move |n: u64| kernel.call(&arguments, bound(n), bound(n + 1));
        self.pool.run(ranges as usize, move |n| if n == 0 { taken.run(ranges, || range(0)) } else { range(n as u64) });
        Ok(())
    }
}

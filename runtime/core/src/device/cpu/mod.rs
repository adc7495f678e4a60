//! A CPU: kernels from the bundle's shared object, weights where the file is mapped, memory from the system, threads from the pool.

mod features;
mod object;
mod pace;
mod residency;

use super::{Block, Machine, Operand, Weight};
use crate::Options;
use crate::pool::Pool;
use memmap2::MmapMut;
use object::{Arguments, Object};
use pace::{Kind, Pace};
use q35_bundle::{Bundle, CpuDevice, Dim, Level};
use q35_console::size;
use q35_diag::{Code, Diagnostic, Diagnostics, Result};
use residency::Residency;
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
    max_memory: Option<u64>,
    /// What does not stay in memory, where there is a limit.
    residency: Option<Residency>,
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
            max_memory: options.max_memory,
            residency: None,
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
        let streamed = self.residency.as_ref().map_or(0, Residency::streamed);
        let streams = if streamed > 0 { format!(", {} of weights streamed", size::show(streamed)) } else { String::new() };
        format!("cpu, {}, {} threads{streams}", self.level, self.pool.threads())
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

    fn ready(&mut self) -> Result<()> {
        if let Some(limit) = self.max_memory {
            let blocks = self.blocks.iter().map(|block| block.len() as u64).sum();
            self.residency = Some(Residency::new(&self.bundle, limit, blocks)?);
        }
        Ok(())
    }

    fn launch(&mut self, step: usize, variant: usize, operands: &[Operand], dims: [i64; 4], tiles: u64) -> Result<()> {
        let blocks = &mut self.blocks;
        let address = |operand: &Operand| match operand {
            Operand::Weight(weight) => self.weights[weight.0].cast_mut(),
            Operand::Memory(block, offset) => blocks[block.0][*offset as usize..].as_mut_ptr(),
        };
        let launch = Arc::new(Arguments::new(operands.iter().map(address).collect(), dims));
        let kernel = self.object.kernel(step, variant);
        let taken = self.pace.of(Kind::new(step, variant, dims[Dim::Tokens as usize]));
        let pieces = self.residency.as_ref().map_or(1, |residency| residency.pieces(step, tiles));
        for piece in 0..pieces {
            if let Some(residency) = &self.residency {
                residency.read_ahead(&self.bundle, step, piece, pieces);
            }
            let (from, to) = (cut(tiles, piece, pieces), cut(tiles, piece + 1, pieces));
            let ranges = taken.ranges(to - from, self.pool.threads());
            let (taken, launch) = (taken.clone(), launch.clone());
            let bound = move |n: u64| (from + cut(to - from, n, ranges)) as i64;
            let range = move |n: u64| kernel.call(&launch, bound(n), bound(n + 1));
            self.pool.run(ranges as usize, move |n| if n == 0 { taken.run(ranges, || range(0)) } else { range(n as u64) });
            if let Some(residency) = &self.residency {
                residency.release(&self.bundle, step);
            }
        }
        Ok(())
    }
}

/// Where part `n` of `parts` equal parts of `whole` begins.
fn cut(whole: u64, n: u64, parts: u64) -> u64 {
    (u128::from(whole) * u128::from(n) / u128::from(parts.max(1))) as u64
}

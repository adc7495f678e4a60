//! Devices: what holds the weights, the KV cache and the working memory of a session, and runs steps.
//!
//! [`Device`] is all that a session knows. A device that launches kernels one by one (a CPU, a GPU) is an [`Executor`] over a
//! [`Machine`]; a device that runs whole programs (a chip with a fixed schedule, a simulator) implements [`Device`] itself.

mod cpu;
mod executor;
mod gpu;
mod machine;
mod tsp;
mod wafer;

pub use executor::Executor;
pub use machine::{Block, Machine, Operand, Shape, Weight};

use crate::Options;
use q35_bundle::{Bundle, CachePart};
use q35_diag::{Code, Diagnostic, Result};
use std::sync::Arc;

/// The arrays of one step: `M` tokens of any slots, and the `R` rows among them whose logits are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// `[M]`: token ids, below the vocabulary.
    pub tokens: &'a [i32],
    /// `[M]`: positions, as RoPE counts them.
    pub positions: &'a [i32],
    /// `[M]`: slot of each token.
    pub slots: &'a [i32],
    /// `[M]`: which entry of its slot's cache each token becomes.
    pub index: &'a [i32],
    /// `[R]`: rows of the step.
    pub logit_rows: &'a [i32],
}

/// Consecutive entries of one half of a layer's cache in one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSpan {
    /// Layer, below the number of layers in the memory plan.
    pub layer: usize,
    /// Keys or values.
    pub part: CachePart,
    /// Slot.
    pub slot: usize,
    /// First entry.
    pub first: usize,
    /// Number of entries.
    pub count: usize,
}

/// What a session runs on.
pub trait Device: Send {
    /// One line for reports: device, feature level, threads.
    fn describe(&self) -> String;

    /// The largest `M` of one step.
    fn max_tokens(&self) -> usize;

    /// Runs one step and fills `logits`, `[R][vocab]`.
    fn step(&mut self, batch: &Batch<'_>, logits: &mut [f32]) -> Result<()>;

    /// Whether it chooses tokens itself: [`Device::choose`].
    fn chooses(&self) -> bool {
        false
    }

    /// Runs one step and fills `tokens`, `[R]`, with those that [`greedy`](crate::sampling::greedy) takes from the logits, which stay where they
    /// are. Only of a device that [chooses](Device::chooses).
    fn choose(&mut self, _batch: &Batch<'_>, _tokens: &mut [i32]) -> Result<()> {
        unreachable!("this device does not choose tokens")
    }

    /// Copies entries out of the cache, as `[head][entry][column]`.
    fn read_cache(&self, span: CacheSpan) -> Result<Vec<f32>>;

    /// Copies entries into the cache, from `[head][entry][column]`.
    fn write_cache(&mut self, span: CacheSpan, data: &[f32]) -> Result<()>;
}

/// The device a bundle was compiled for, ready to run it.
pub fn open(bundle: &Arc<Bundle>, options: &Options) -> Result<Box<dyn Device>> {
    let compiled_for = bundle.manifest().device.name();
    if let Some(wanted) = options.device.as_deref().filter(|wanted| *wanted != compiled_for) {
        let what = format!("the bundle was compiled for device '{compiled_for}', not for '{wanted}'");
        return Err(Diagnostic::error(Code::WrongDevice, what).help(format!("compile it with --target {wanted}")).into());
    }
    if options.max_memory.is_some() && !matches!(bundle.manifest().device, q35_bundle::Device::Cpu(_)) {
        let what = format!("the bundle is for device '{compiled_for}', which cannot stream its weights");
        return Err(Diagnostic::error(Code::MemoryLimit, what)
            .at("option", "--max-memory")
            .help("leave the option out")
            .into());
    }
    match &bundle.manifest().device {
        q35_bundle::Device::Cpu(device) => {
            let machine = cpu::Cpu::new(bundle.clone(), device, options)?;
            Ok(Box::new(Executor::new(machine, bundle, options)?))
        }
        q35_bundle::Device::Tsp(device) => Ok(Box::new(tsp::Tsp::new(bundle.clone(), device, options)?)),
        q35_bundle::Device::Wse(device) => Ok(Box::new(wafer::Wafer::new(bundle, device, options)?)),
        q35_bundle::Device::Cuda(device) => Ok(Box::new(Executor::new(gpu::cuda(bundle, device, options)?, bundle, options)?)),
        q35_bundle::Device::Rocm(device) => Ok(Box::new(Executor::new(gpu::hip(bundle, device, options)?, bundle, options)?)),
    }
}

//! From a program to kernels, steps and a memory plan: what the GPU targets' passes have in common.
//!
//! | pass | idea |
//! | --- | --- |
//! | `gpu-select` | a kernel and its arguments for every op; activations packed where matrix instructions read them |
//! | `gpu-join` | linear layers that read the same activations become one |
//! | `gpu-chain` | neighbouring kernels that work row by row become one |
//! | `gpu-place` | a place in the arena for every value, checked by playing the program |
//! | `gpu-build` | the kernels as an MLIR module |

mod chain;
mod join;
mod memory;
mod select;
mod weights;

pub use select::{codecs, ops};

use crate::abi::define;
use crate::isa::Isa;
use crate::kernels::Kernel;
use q35_bundle::{MemoryPlan, Step};
use q35_diag::Result;
use q35_graph::{Observer, Pass, Stage};
use q35_mlir::builder::KernelModule;
use q35_mlir::context::Context;
use q35_mlir::pipeline;
use q35_target::{Request, Target, WeightTensor};
use std::collections::BTreeMap;
use std::rc::Rc;

const fn pass(name: &'static str, purpose: &'static str, from: Stage) -> Pass {
    Pass { name, purpose, from, to: Stage::Target }
}

const SELECT: Pass = pass("gpu-select", "Choose a kernel for every op, equal kernels once", Stage::Q35);
const JOIN: Pass = pass("gpu-join", "Join linear layers that read the same activations", Stage::Target);
const CHAIN: Pass = pass("gpu-chain", "Join neighbouring kernels that work row by row", Stage::Target);
const PLACE: Pass = pass("gpu-place", "Give every value a place in memory while it lives", Stage::Target);
const BUILD: Pass = pass("gpu-build", "Build the kernels", Stage::Target);

/// A lowered program, its code apart.
pub struct Program {
    /// Memory.
    pub plan: MemoryPlan,
    /// The launches.
    pub steps: Vec<Step>,
    /// The kernels by name, without prefix.
    pub kernels: BTreeMap<String, Rc<dyn Kernel>>,
    /// Tensors of the weights file, by name.
    pub weights: BTreeMap<String, WeightTensor>,
}

/// The passes of [`lower`], in order, with those of the MLIR pipeline.
pub fn passes() -> Vec<Pass> {
    [SELECT, JOIN, CHAIN, PLACE, BUILD].into_iter().chain(kernel_passes()).collect()
}

fn kernel_passes() -> impl Iterator<Item = Pass> {
    pipeline::PASSES.iter().map(|row| pass(row.name, row.purpose, Stage::Target))
}

/// Reports every node that has no kernel.
pub fn check(target: &dyn Target, isa: &'static dyn Isa, request: &Request<'_>) -> Result<()> {
    select::select(target, isa, request).map(|_| ())
}

/// Lowers a program to steps, and its kernels to a module of the llvm dialect in `context`.
pub fn lower<'c>(
    target: &dyn Target,
    isa: &'static dyn Isa,
    request: &Request<'_>,
    context: &'c Context,
    observer: &mut dyn Observer,
) -> Result<(Program, KernelModule<'c>)> {
    observer.before(&SELECT);
    let mut selected = select::select(target, isa, request)?;
    observer.after(&SELECT, &|| select::print(&selected));

    observer.before(&JOIN);
    selected.launches = join::join(selected.launches, isa);
    observer.after(&JOIN, &|| select::print(&selected));

    observer.before(&CHAIN);
    selected.launches = chain::chain(selected.launches, isa);
    observer.after(&CHAIN, &|| select::print(&selected));

    observer.before(&PLACE);
    let (plan, steps) = memory::place(&selected);
    observer.after(&PLACE, &|| steps.iter().map(|step| serde_json::to_string(step).unwrap_or_default() + "\n").collect());

    observer.before(&BUILD);
    let choices = selected.launches.iter().flat_map(|launch| &launch.choices);
    let kernels: BTreeMap<String, Rc<dyn Kernel>> =
        choices.map(|choice| (choice.kernel.name(), choice.kernel.clone())).collect();
    let mut module = KernelModule::new(context);
    for (name, kernel) in &kernels {
        define(&module, &format!("{}{name}", request.prefix), isa, &**kernel);
    }
    observer.after(&BUILD, &|| module.mlir().as_operation().to_string());

    let mut rows = kernel_passes().peekable();
    rows.peek().inspect(|first| observer.before(first));
    module.lower(|_, print| {
        rows.next().inspect(|row| observer.after(row, print));
        rows.peek().inspect(|next| observer.before(next));
    });
    Ok((Program { plan, steps, kernels, weights: selected.weights }, module))
}

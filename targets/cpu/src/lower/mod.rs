//! From a program to a bundle's code: the CPU target's passes, as a list.
//!
//! | pass | idea |
//! | --- | --- |
//! | `cpu-select` | a kernel and its arguments for every op; equal kernels once |
//! | `cpu-join` | linear layers that read the same activations become one |
//! | `cpu-chain` | neighbouring kernels that work row by row become one |
//! | `cpu-place` | a place in the arena for every value, checked by playing the program |
//! | `cpu-build` | the kernels, at every feature level, and the functions around them, as an MLIR module |
//! | those of `q35_mlir::pipeline` | the module to the llvm dialect |
//! | `cpu-emit` | LLVM: optimised object code |
//! | `cpu-link` | the shared object and the header |

mod chain;
mod join;
mod memory;
pub(crate) mod select;
mod weights;

use crate::abi::define;
use crate::kernels::Kernel;
use crate::level::Level;
use crate::program::signature::{Described, signatures};
use crate::program::{self, Facts, Steps};
use q35_bundle::{CpuDevice, Device, MemoryPlan, Step};
use q35_diag::{Code, Diagnostic, Result};
use q35_dialects::Activations;
use q35_format::Codec;
use q35_graph::{Observer, Pass, Stage};
use q35_mlir::builder::KernelModule;
use q35_mlir::context::Context;
use q35_mlir::llvm::{self, Machine};
use q35_mlir::{link, pipeline};
use q35_target::{Capabilities, Label, Lowered, Request, Target, WeightsFile, check_prefix};
use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::rc::Rc;

const SELECT: Pass = Pass {
    name: "cpu-select",
    purpose: "Choose a kernel for every op, equal kernels once",
    from: Stage::Q35,
    to: Stage::Target,
};
const JOIN: Pass = Pass {
    name: "cpu-join",
    purpose: "Join linear layers that read the same activations",
    from: Stage::Target,
    to: Stage::Target,
};
const CHAIN: Pass = Pass {
    name: "cpu-chain",
    purpose: "Join neighbouring kernels that work row by row",
    from: Stage::Target,
    to: Stage::Target,
};
const PLACE: Pass = Pass {
    name: "cpu-place",
    purpose: "Give every value a place in memory while it lives",
    from: Stage::Target,
    to: Stage::Target,
};
const BUILD: Pass = Pass {
    name: "cpu-build",
    purpose: "Build the kernels at every feature level, and the functions around them",
    from: Stage::Target,
    to: Stage::Target,
};
const EMIT: Pass =
    Pass { name: "cpu-emit", purpose: "Optimise with LLVM and emit object code", from: Stage::Target, to: Stage::Asm };
const LINK: Pass =
    Pass { name: "cpu-link", purpose: "Link the shared object, write its header", from: Stage::Asm, to: Stage::Bundle };

/// The CPU: the architecture that this program runs on.
#[derive(Clone, Copy, Debug)]
pub struct Cpu;

fn levels() -> Vec<Level> {
    Level::of(ARCH).collect()
}

fn machine() -> Machine {
    if ARCH == "aarch64" { Machine::aarch64_linux() } else { Machine::x86_64_linux() }
}

/// The rows of the MLIR passes.
fn kernel_passes() -> impl Iterator<Item = Pass> {
    pipeline::PASSES.iter().map(|row| Pass { name: row.name, purpose: row.purpose, from: Stage::Target, to: Stage::Target })
}

impl Target for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn description(&self) -> &'static str {
        "object code and a shared object for this machine's architecture"
    }

    fn label(&self) -> Label {
        Label::Native
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            ops: select::ops(),
            codecs: select::codecs(),
            default_codec: Codec::W8,
            activations: Activations::Int8,
            levels: levels().into_iter().map(Level::name).collect(),
        }
    }

    fn single_layers(&self) -> bool {
        true
    }

    fn passes(&self) -> Vec<Pass> {
        [SELECT, JOIN, CHAIN, PLACE, BUILD].into_iter().chain(kernel_passes()).chain([EMIT, LINK]).collect()
    }

    fn check(&self, request: &Request<'_>) -> Result<()> {
        select::select(self, request).map(|_| ())
    }

    fn lower(&self, request: &Request<'_>, observer: &mut dyn Observer) -> Result<Lowered> {
        check_prefix(request.prefix)?;
        let levels = levels();

        observer.before(&SELECT);
        let mut selected = select::select(self, request)?;
        observer.after(&SELECT, &|| select::print(&selected));

        observer.before(&JOIN);
        selected.launches = join::join(selected.launches);
        observer.after(&JOIN, &|| select::print(&selected));

        observer.before(&CHAIN);
        selected.launches = chain::chain(selected.launches);
        observer.after(&CHAIN, &|| select::print(&selected));

        observer.before(&PLACE);
        let (plan, steps) = memory::place(&selected);
        observer.after(&PLACE, &|| print_steps(&steps));

        observer.before(&BUILD);
        let kernels = distinct(&selected);
        let names: Vec<String> = kernels.keys().cloned().collect();
        let context = Context::new();
        let mut module = KernelModule::new(&context);
        for (name, kernel) in &kernels {
            for &level in &levels {
                define(&module, &format!("{}{name}", request.prefix), level, |call| kernel.build(level, call));
            }
        }
        let header = define_program(&module, request, &selected, Placed { plan: &plan, steps: &steps }, &names, &levels)?;
        observer.after(&BUILD, &|| module.mlir().as_operation().to_string());

        let mut rows = kernel_passes().peekable();
        rows.peek().inspect(|first| observer.before(first));
        module.lower(|_, print| {
            rows.next().inspect(|row| observer.after(row, print));
            rows.peek().inspect(|next| observer.before(next));
        });

        observer.before(&EMIT);
        let emitted = llvm::emit(&module, &machine());
        observer.after(&EMIT, &|| emitted.assembly());

        observer.before(&LINK);
        let shared = link::shared_object(&emitted.object, "model.so")?;
        observer.after(&LINK, &|| header.clone());

        let object = "cpu/model.so".to_owned();
        let device = Device::Cpu(CpuDevice {
            arch: ARCH.to_owned(),
            object: object.clone(),
            prefix: request.prefix.to_owned(),
            levels: levels.iter().map(|level| level.requirements()).collect(),
        });
        let files = BTreeMap::from([
            ("cpu/model.h".to_owned(), header.into_bytes()),
            ("cpu/model.o".to_owned(), emitted.object),
            (object, shared),
        ]);
        Ok(Lowered { device, plan, steps, files, weights: selected.weights })
    }
}

/// The kernels of a program by name.
fn distinct(selected: &select::Selected) -> BTreeMap<String, Rc<dyn Kernel>> {
    let choices = selected.launches.iter().flat_map(|launch| &launch.choices);
    choices.map(|choice| (choice.kernel.name(), choice.kernel.clone())).collect()
}

/// A program whose values have places.
struct Placed<'a> {
    plan: &'a MemoryPlan,
    steps: &'a [Step],
}

/// Defines the functions around the kernels, and gives the header.
fn define_program(
    module: &KernelModule<'_>,
    request: &Request<'_>,
    selected: &select::Selected,
    Placed { plan, steps }: Placed<'_>,
    kernels: &[String],
    levels: &[Level],
) -> Result<String> {
    let file = WeightsFile::of(&selected.weights, request.params)
        .ok_or_else(|| Diagnostic::error(Code::AbsurdSize, "the weights are too large to be laid out"))?;
    let logits = selected.output.and_then(|value| request.graph.ty(value).matrix());
    let described = Described { selected, graph: request.graph, params: request.params };
    let facts = Facts {
        prefix: request.prefix,
        vocab: logits.map_or(0, |(_, width)| width),
        layer_inputs: described.layer_input().and_then(|ty| ty.matrix()).map(|(_, width)| width),
        context: request.context,
        plan,
        kernels,
        levels,
        file: &file.layout,
    };
    Ok(program::define(module, facts, &Steps { steps, offsets: &file.offsets }, &signatures(&described)))
}

/// Steps as JSON, one per line.
fn print_steps(steps: &[Step]) -> String {
    steps.iter().map(|step| serde_json::to_string(step).unwrap_or_default() + "\n").collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;

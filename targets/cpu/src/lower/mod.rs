//! From a program to a bundle's code: the CPU target's passes, as a list.
//!
//! | pass | idea |
//! | --- | --- |
//! | those of [`q35_launch::lower`] | kernels, steps, a memory plan |
//! | `cpu-build` | the kernels, at every feature level, and the functions around them, as an MLIR module |
//! | those of `q35_mlir::pipeline` | the module to the llvm dialect |
//! | `cpu-emit` | LLVM: optimised object code |
//! | `cpu-link` | the shared object and the header |

mod kernels;

use crate::abi::{self, define};
use crate::kernels::Kernel;
use crate::level::Level;
use crate::program::signature::{Described, signatures};
use crate::program::{self, Facts, Steps};
use kernels::CpuKernels;
use q35_bundle::{CacheDtype, CpuDevice, Device};
use q35_diag::{Code, Diagnostic, Result};
use q35_dialects::{Activations, q35};
use q35_format::Codec;
use q35_graph::{Observer, Pass, Stage};
use q35_launch::lower as launch;
use q35_mlir::builder::KernelModule;
use q35_mlir::context::Context;
use q35_mlir::link;
use q35_mlir::llvm::{self, Emitted, Machine};
use q35_target::{Capabilities, Label, Levels, Lowered, Request, Target, WeightsFile, check_prefix, layer_input};
use std::collections::BTreeMap;
use std::env::consts::ARCH;

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

/// The CPU: of the architecture that this program runs on, or of that of the levels chosen.
#[derive(Clone, Copy, Debug)]
pub struct Cpu;

fn machine(arch: &str) -> Machine {
    if arch == "aarch64" { Machine::aarch64_linux() } else { Machine::x86_64_linux() }
}

/// The architecture that code is made for, and its levels, best first. A processor that has none of those chosen runs the last one.
fn chosen(levels: Levels) -> Result<(&'static str, Vec<Level>)> {
    let named: Vec<Level> = levels.among(Level::all()).filter(|level| *level != Level::BASE).collect();
    let mut archs: Vec<&'static str> = named.iter().filter_map(|level| level.arch()).collect();
    archs.dedup();
    let arch = match archs[..] {
        [arch] if levels != Levels::ALL => arch,
        [_, _, ..] if levels != Levels::ALL => {
            let what = format!("levels of different architectures are in one bundle: {}", archs.join(", "));
            return Err(Diagnostic::error(Code::BadOption, what)
                .at("option", "--levels")
                .help("make a bundle for each")
                .into());
        }
        _ => ARCH,
    };
    Ok((arch, named.into_iter().filter(|level| level.arch() == Some(arch)).chain([Level::BASE]).collect()))
}

impl Target for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn description(&self) -> &'static str {
        "object code and a shared object, for this machine's architecture unless --levels names another's"
    }

    fn label(&self) -> Label {
        Label::Native
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            ops: q35::OPS.iter().map(|decl| decl.name).collect(),
            codecs: q35_launch::kernels::codecs(&CpuKernels),
            default_codec: Codec::A11,
            activations: Activations::Int8,
            kv_cache: CacheDtype::ALL.to_vec(),
            levels: Level::all().map(Level::name).collect(),
            native: Level::of(ARCH).find(|level| level.is_here()).map(Level::name),
            several_chips: false,
        }
    }

    fn single_layers(&self) -> bool {
        true
    }

    fn passes(&self) -> Vec<Pass> {
        launch::passes().chain([BUILD]).chain(launch::kernel_passes()).chain([EMIT, LINK]).collect()
    }

    fn check(&self, request: &Request<'_>) -> Result<()> {
        chosen(request.levels)?;
        launch::check(self, &CpuKernels, request)
    }

    fn lower(&self, request: &Request<'_>, observer: &mut dyn Observer) -> Result<Lowered> {
        check_prefix(request.prefix)?;
        let (arch, levels) = chosen(request.levels)?;
        let program = launch::lower(self, &CpuKernels, request, observer)?;

        observer.before(&BUILD);
        let context = Context::new();
        let mut module = KernelModule::new(&context);
        for (name, kernel) in &program.kernels {
            for &level in &levels {
                define(&module, &format!("{}{name}", request.prefix), level, |call| kernel.build(level, call));
            }
        }
        let header = define_program(&module, request, &program, &levels)?;
        observer.after(&BUILD, &|| module.mlir().as_operation().to_string());

        launch::to_llvm(&mut module, observer);

        observer.before(&EMIT);
        // A part per level, and what has none.
        let part = |function: &str| levels.iter().position(|level| abi::is_at(function, *level)).map_or(0, |at| 1 + at);
        let emitted = llvm::emit_parts(&module, &machine(arch), 1 + levels.len(), &part);
        observer.after(&EMIT, &|| emitted.iter().map(Emitted::assembly).collect());

        observer.before(&LINK);
        let objects: Vec<&[u8]> = emitted.iter().map(|part| part.object.as_slice()).collect();
        let linked = link::joined(&objects)?;
        let shared = link::shared_object(&linked, "model.so")?;
        observer.after(&LINK, &|| header.clone());

        let object = "cpu/model.so".to_owned();
        let device = Device::Cpu(CpuDevice {
            arch: arch.to_owned(),
            object: object.clone(),
            prefix: request.prefix.to_owned(),
            levels: levels.iter().map(|level| level.requirements()).collect(),
        });
        let files = BTreeMap::from([
            ("cpu/model.h".to_owned(), header.into_bytes()),
            ("cpu/model.o".to_owned(), linked),
            (object, shared),
        ]);
        let figures = program.figures();
        Ok(Lowered { device, plan: program.plan, steps: program.steps, files, weights: program.weights, figures })
    }
}

/// Defines the functions around the kernels, and gives the header.
fn define_program(
    module: &KernelModule<'_>,
    request: &Request<'_>,
    program: &launch::Program<dyn Kernel>,
    levels: &[Level],
) -> Result<String> {
    let file = WeightsFile::of(&program.weights, request.params)
        .ok_or_else(|| Diagnostic::error(Code::AbsurdSize, "the weights are too large to be laid out"))?;
    let logits = program.output.and_then(|value| request.graph.ty(value).matrix());
    let described = Described { program, graph: request.graph, params: request.params };
    let names: Vec<String> = program.kernels.keys().cloned().collect();
    let facts = Facts {
        prefix: request.prefix,
        vocab: logits.map_or(0, |(_, width)| width),
        layer_inputs: layer_input(request.graph).and_then(|ty| ty.matrix()).map(|(_, width)| width),
        context: request.context,
        plan: &program.plan,
        kernels: &names,
        levels,
        file: &file.layout,
    };
    let steps = Steps { steps: &program.steps, offsets: &file.offsets };
    Ok(program::define(module, facts, &steps, &signatures(&described)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;

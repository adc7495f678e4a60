//! From a program to a bundle's code objects: the passes that GPUs share, then this target's own.

use crate::host::{self, Host};
use crate::level::{LEVELS, Level};
use crate::object::Metadata;
use crate::report;
use q35_bundle::{CacheDtype, Device, Dim, RocmDevice, RocmLevel};
use q35_diag::Result;
use q35_dialects::Activations;
use q35_format::Codec;
use q35_gpu::header::{Driver, Header};
use q35_gpu::lower::{self as gpu, Program};
use q35_graph::{Observer, Pass, Silent, Stage};
use q35_mlir::context::Context;
use q35_mlir::link;
use q35_mlir::llvm::{self, Emitted};
use q35_target::{Capabilities, Label, Lowered, Request, Target, check_prefix, layer_input};
use std::collections::BTreeMap;

const COMPILE: Pass =
    Pass { name: "rocm-compile", purpose: "Optimise with LLVM for every level", from: Stage::Target, to: Stage::Target };
const EMIT: Pass = Pass { name: "rocm-emit", purpose: "Make the code of every level", from: Stage::Target, to: Stage::Asm };
const LINK: Pass = Pass {
    name: "rocm-link",
    purpose: "Link code objects, read them back, describe levels and kernels to the runtime",
    from: Stage::Asm,
    to: Stage::Bundle,
};

/// AMD GPUs: MI200, MI300, RX 7000.
#[derive(Clone, Copy, Debug)]
pub struct Rocm;

/// How programs that include the header launch a kernel.
const DRIVER: Driver = Driver {
    code: "code objects",
    launch: " *   struct @p@args_K args = {...};
 *   size_t bytes = sizeof args;
 *   void *extra[] = {HIP_LAUNCH_PARAM_BUFFER_POINTER, &args, HIP_LAUNCH_PARAM_BUFFER_SIZE, &bytes, HIP_LAUNCH_PARAM_END};
 *   hipModuleLaunchKernel(function, @p@tiles_K(&args.dims), 1, 1, @P@THREADS_K(wave), 1, 1, 0, stream, NULL, extra);
 *
 * The file kernels-A.hsaco is for cards whose gcnArchName begins with A; wave is their warpSize.
",
};

/// The header for programs that launch kernels themselves.
const HEADER: &str = "rocm/kernels.h";

/// What kernels need, and what bounds them.
const REPORT: &str = "rocm/report.json";

/// The level whose launches all of them have.
const FIRST: &Level = &LEVELS[0];

impl Target for Rocm {
    fn name(&self) -> &'static str {
        "rocm"
    }

    fn description(&self) -> &'static str {
        "code objects for AMD GPUs: gfx942, gfx90a, gfx1100"
    }

    fn label(&self) -> Label {
        Label::Native
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            ops: gpu::ops(),
            codecs: gpu::codecs(FIRST.isa),
            default_codec: Codec::W8,
            activations: Activations::Float,
            kv_cache: vec![CacheDtype::F32],
            levels: LEVELS.iter().map(|level| level.name).collect(),
            native: None,
            several_chips: false,
        }
    }

    fn single_layers(&self) -> bool {
        true
    }

    fn passes(&self) -> Vec<Pass> {
        gpu::passes().chain([COMPILE, EMIT, LINK]).collect()
    }

    fn check(&self, request: &Request<'_>) -> Result<()> {
        gpu::check(self, FIRST.isa, request)
    }

    fn lower(&self, request: &Request<'_>, observer: &mut dyn Observer) -> Result<Lowered> {
        check_prefix(request.prefix)?;
        let program = gpu::plan(self, FIRST.isa, request, observer)?;

        let levels: Vec<Level> = request.levels.among(LEVELS).collect();
        // What is shown of the kernels is how the first level has them.
        let context = Context::new();
        let mut modules = BTreeMap::new();
        for level in &levels {
            let mut silent = Silent;
            let shown: &mut dyn Observer = if modules.is_empty() { &mut *observer } else { &mut silent };
            modules.entry(level.isa.wave()).or_insert_with(|| gpu::build(&program, request.prefix, level.isa, &context, shown));
        }
        observer.before(&COMPILE);
        let emitted = |level: Level| (level, llvm::emit(&modules[&level.isa.wave()], &level.machine()));
        let compiled: Vec<_> = levels.into_iter().map(emitted).collect();
        observer.after(&COMPILE, &|| show(&compiled, Emitted::ir));

        observer.before(&EMIT);
        observer.after(&EMIT, &|| show(&compiled, Emitted::assembly));

        observer.before(&LINK);
        let report = report::text(&compiled, &program, request.prefix);
        let (mut levels, mut files) = (Vec::new(), BTreeMap::new());
        for (level, code) in compiled {
            let object = link::shared_object(&code.object, "kernels.hsaco")?;
            check_object(&object, &level, &program, request.prefix);
            levels.push(describe(&level, &program));
            files.insert(level.file(), object);
        }
        let (plan, steps) = (&program.plan, &program.steps);
        let threads: BTreeMap<_, _> = levels.iter().map(|level| (level.wave, level.threads.clone())).collect();
        let header = Header { request, plan, steps, threads: &threads, driver: DRIVER };
        files.insert(HEADER.to_owned(), header.text().into_bytes());
        // A layer is no model that could be opened and asked for logits.
        if layer_input(request.graph).is_none() {
            let host = Host { prefix: request.prefix, vocab: vocab(request), steps, plan, levels: &levels };
            files.insert(host::HEADER_FILE.to_owned(), host.header().into_bytes());
            files.insert(host::SOURCE_FILE.to_owned(), host.source().into_bytes());
        }
        files.insert(REPORT.to_owned(), report.into_bytes());
        let device = RocmDevice { prefix: request.prefix.to_owned(), levels };
        observer.after(&LINK, &|| serde_json::to_string_pretty(&device).unwrap_or_default());
        let (device, figures) = (Device::Rocm(device), program.figures());
        Ok(Lowered { device, plan: program.plan, steps: program.steps, files, weights: program.weights, figures })
    }
}

/// Columns of the logits.
fn vocab(request: &Request<'_>) -> u64 {
    let logits = request.graph.outputs.first().and_then(|(_, value)| request.graph.ty(*value).matrix());
    logits.map_or(0, |(_, width)| width)
}

/// Something of every level, one after the other.
fn show(compiled: &[(Level, Emitted)], text: impl Fn(&Emitted) -> String) -> String {
    compiled.iter().map(|(level, code)| format!("; level {}\n{}\n", level.name, text(code))).collect()
}

fn describe(level: &Level, program: &Program) -> RocmLevel {
    let threads = program.kernels.iter().map(|(name, kernel)| (name.clone(), kernel.threads(level.isa)));
    RocmLevel { name: level.name.to_owned(), file: level.file(), wave: level.isa.wave(), threads: threads.collect() }
}

/// # Panics
/// If a code object does not hold exactly the kernels of the program, called as the runtime calls them: a compiler bug.
fn check_object(object: &[u8], level: &Level, program: &Program, prefix: &str) {
    let metadata = Metadata::read(object).unwrap_or_else(|error| panic!("the code object for {}: {error}", level.name));
    let kernels = metadata.by_name();
    assert_eq!(kernels.len(), program.kernels.len(), "kernels for {}", level.name);
    for (name, kernel) in &program.kernels {
        let symbol = format!("{prefix}{name}");
        let found = kernels.get(symbol.as_str()).unwrap_or_else(|| panic!("{} lacks the kernel {symbol}", level.name));
        let (threads, wave) = (kernel.threads(level.isa), level.isa.wave());
        if let Some(difference) = found.differs(kernel.args(), Dim::ALL.len(), threads, wave) {
            panic!("kernel {symbol} for {}: {difference}", level.name);
        }
    }
}

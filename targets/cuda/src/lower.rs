//! From a program to a bundle's PTX: the passes that GPUs share, then this target's own.

use crate::header;
use crate::level::{LEVELS, Level};
use q35_bundle::{CudaDevice, Device};
use q35_diag::Result;
use q35_dialects::Activations;
use q35_format::Codec;
use q35_gpu::Isa;
use q35_gpu::isa::Nvidia;
use q35_gpu::lower as gpu;
use q35_graph::{Observer, Pass, Stage};
use q35_mlir::context::Context;
use q35_mlir::llvm;
use q35_target::{Capabilities, Label, Lowered, Request, Target, check_prefix};
use std::collections::BTreeMap;

const COMPILE: Pass =
    Pass { name: "cuda-compile", purpose: "Optimise with LLVM for every level", from: Stage::Target, to: Stage::Target };
const EMIT: Pass = Pass { name: "cuda-emit", purpose: "Take the PTX of every level", from: Stage::Target, to: Stage::Asm };
const BUNDLE: Pass =
    Pass { name: "cuda-describe", purpose: "Describe levels and kernels to the runtime", from: Stage::Asm, to: Stage::Bundle };

/// NVIDIA GPUs from sm_80 on.
#[derive(Clone, Copy, Debug)]
pub struct Cuda;

static ISA: Nvidia = Nvidia;

impl Target for Cuda {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn description(&self) -> &'static str {
        "PTX for NVIDIA GPUs from sm_80 on"
    }

    fn label(&self) -> Label {
        Label::Native
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            ops: gpu::ops(),
            codecs: gpu::codecs(&ISA),
            default_codec: Codec::W8,
            activations: Activations::Float,
            levels: LEVELS.iter().map(|level| level.name).collect(),
            native: None,
        }
    }

    fn single_layers(&self) -> bool {
        true
    }

    fn passes(&self) -> Vec<Pass> {
        gpu::passes().chain([COMPILE, EMIT, BUNDLE]).collect()
    }

    fn check(&self, request: &Request<'_>) -> Result<()> {
        gpu::check(self, &ISA, request)
    }

    fn lower(&self, request: &Request<'_>, observer: &mut dyn Observer) -> Result<Lowered> {
        check_prefix(request.prefix)?;
        let program = gpu::plan(self, &ISA, request, observer)?;
        let context = Context::new();
        let module = gpu::build(&program, request.prefix, &ISA, &context, observer);

        // What is shown is the last level, which most cards can run.
        let levels: Vec<Level> = request.levels.among(LEVELS).collect();
        observer.before(&COMPILE);
        let emitted = |level: &Level| (level.file(), llvm::emit(&module, &level.machine()));
        let compiled: Vec<_> = levels.iter().map(emitted).collect();
        observer.after(&COMPILE, &|| compiled.last().map(|(_, code)| code.ir()).unwrap_or_default());

        observer.before(&EMIT);
        let mut files: BTreeMap<String, Vec<u8>> = compiled.into_iter().map(|(file, code)| (file, code.object)).collect();
        let shown = levels.last().and_then(|level| files.get(&level.file()));
        observer.after(&EMIT, &|| shown.map(|ptx| String::from_utf8_lossy(ptx).into_owned()).unwrap_or_default());

        observer.before(&BUNDLE);
        let threads: BTreeMap<String, u32> =
            program.kernels.iter().map(|(name, kernel)| (name.clone(), kernel.threads(&ISA as &dyn Isa))).collect();
        let header = header::text(request.prefix, &program.plan, &program.steps, &threads);
        files.insert("cuda/kernels.h".to_owned(), header.into_bytes());
        let device =
            CudaDevice { prefix: request.prefix.to_owned(), levels: levels.iter().map(Level::requirements).collect(), threads };
        observer.after(&BUNDLE, &|| serde_json::to_string_pretty(&device).unwrap_or_default());
        Ok(Lowered { device: Device::Cuda(device), plan: program.plan, steps: program.steps, files, weights: program.weights })
    }
}

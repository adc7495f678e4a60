//! From a program to a bundle's PTX: the passes that GPUs share, then this target's own.

use crate::level::{LEVELS, Level};
use q35_bundle::{CacheDtype, CudaDevice, Device};
use q35_diag::Result;
use q35_dialects::Activations;
use q35_format::Codec;
use q35_gpu::Isa;
use q35_gpu::header::{Driver, Header};
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

/// How programs that include the header launch a kernel.
const DRIVER: Driver = Driver {
    code: "PTX",
    launch: " *   struct @p@args_K args = {...};
 *   size_t bytes = sizeof args;
 *   void *extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &args, CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes, CU_LAUNCH_PARAM_END};
 *   cuLaunchKernel(function, @p@tiles_K(&args.dims), 1, 1, @P@THREADS_K, 1, 1, 0, stream, NULL, extra);
",
};

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
        let of_waves = BTreeMap::from([(ISA.wave(), threads.clone())]);
        let (plan, steps) = (&program.plan, &program.steps);
        let header = Header { request, plan, steps, threads: &of_waves, driver: DRIVER };
        files.insert("cuda/kernels.h".to_owned(), header.text().into_bytes());
        let device =
            CudaDevice { prefix: request.prefix.to_owned(), levels: levels.iter().map(Level::requirements).collect(), threads };
        observer.after(&BUNDLE, &|| serde_json::to_string_pretty(&device).unwrap_or_default());
        let (device, figures) = (Device::Cuda(device), program.figures());
        Ok(Lowered { device, plan: program.plan, steps: program.steps, files, weights: program.weights, figures })
    }
}

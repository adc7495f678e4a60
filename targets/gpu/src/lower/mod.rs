//! From a program to kernels, steps and a memory plan: what the GPU targets' passes have in common.
//!
//! | pass | idea |
//! | --- | --- |
//! | those of [`q35_launch::lower`] | kernels, steps, a memory plan; activations packed where matrix instructions read them |
//! | `gpu-build` | the kernels as an MLIR module |
//! | those of `q35_mlir::pipeline` | the module to the llvm dialect |

mod kernels;

use crate::abi::define;
use crate::isa::Isa;
use crate::kernels::Kernel;
use kernels::GpuKernels;
use q35_diag::Result;
use q35_dialects::q35;
use q35_format::Codec;
use q35_graph::{Observer, Pass, Stage};
use q35_launch::lower as launch;
use q35_mlir::builder::KernelModule;
use q35_mlir::context::Context;
use q35_target::{Request, Target};

/// A lowered program, its code apart.
pub type Program = launch::Program<dyn Kernel>;

const BUILD: Pass = Pass { name: "gpu-build", purpose: "Build the kernels", from: Stage::Target, to: Stage::Target };

/// The ops that have kernels: all of the dialect but the rounding of activations and attention over latent vectors.
pub fn ops() -> Vec<&'static str> {
    let known = |name: &&str| !["quantize", "latent_attention"].contains(name);
    q35::OPS.iter().map(|decl| decl.name).filter(known).collect()
}

/// Codecs that linear layers may have.
pub fn codecs(isa: &'static dyn Isa) -> Vec<Codec> {
    q35_launch::kernels::codecs(&GpuKernels { isa })
}

/// The passes of [`plan`] and [`build`], in order.
pub fn passes() -> impl Iterator<Item = Pass> {
    launch::passes().chain([BUILD]).chain(launch::kernel_passes())
}

/// Reports every node that has no kernel.
pub fn check(target: &dyn Target, isa: &'static dyn Isa, request: &Request<'_>) -> Result<()> {
    launch::check(target, &GpuKernels { isa }, request)
}

/// Lowers a program to steps.
pub fn plan(target: &dyn Target, isa: &'static dyn Isa, request: &Request<'_>, observer: &mut dyn Observer) -> Result<Program> {
    launch::lower(target, &GpuKernels { isa }, request, observer)
}

/// The kernels of a program for a GPU, as a module of the llvm dialect.
pub fn build<'c>(
    program: &Program,
    prefix: &str,
    isa: &'static dyn Isa,
    context: &'c Context,
    observer: &mut dyn Observer,
) -> KernelModule<'c> {
    observer.before(&BUILD);
    let mut module = KernelModule::new(context);
    for (name, kernel) in &program.kernels {
        define(&module, &format!("{prefix}{name}"), isa, &**kernel);
    }
    observer.after(&BUILD, &|| module.mlir().as_operation().to_string());
    launch::to_llvm(&mut module, observer);
    module
}

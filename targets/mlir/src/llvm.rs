//! From the llvm dialect to machine code.
//!
//! One module may hold functions for several feature levels: what a function may use is written on the function, the
//! [`Machine`] only gives the least that all of them share. Functions that do not depend on each other can be made in parts, side by side: an
//! object per part, to be [joined](crate::link::joined).

use inkwell::OptimizationLevel;
use inkwell::context::Context;
use inkwell::memory_buffer::MemoryBuffer;
use inkwell::module::{FlagBehavior, Linkage, Module};
use inkwell::passes::PassBuilderOptions;
use inkwell::targets::{
    CodeModel, FileType, InitializationConfig, RelocMode, Target, TargetMachine, TargetMachineOptions, TargetTriple,
};
use rayon::prelude::*;

use crate::builder::KernelModule;
use crate::ffi;
use std::ffi::CStr;

/// Version of AMD's code objects, times a hundred: the oldest that a supported driver may have to read.
const AMD_CODE_OBJECT: u64 = 500;

/// What LLVM makes for a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// A relocatable, position-independent object file.
    Object,
    /// The text of an assembler: where the last step belongs to a driver.
    Text,
}

/// The machine that code is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// LLVM target triple.
    pub triple: String,
    /// LLVM processor name of functions that name none.
    pub cpu: String,
    /// Comma-separated LLVM features of functions that name none.
    pub features: String,
    /// What is made.
    pub output: Output,
}

/// What comes out of LLVM: code, and its text for whoever asks.
pub struct Emitted {
    /// An object file or text, as the machine says.
    pub object: Vec<u8>,
    /// The optimised module, as bitcode.
    bitcode: Vec<u8>,
    machine: Machine,
}

impl Emitted {
    /// Assembly text of the same code.
    pub fn assembly(&self) -> String {
        let code = self.with_module(|module| generate(module, &self.machine.target_machine(), FileType::Assembly));
        String::from_utf8_lossy(&code).into_owned()
    }

    /// LLVM IR after optimisation.
    pub fn ir(&self) -> String {
        self.with_module(|module| module.print_to_string().to_string())
    }

    fn with_module<R>(&self, f: impl FnOnce(&Module<'_>) -> R) -> R {
        let context = Context::create();
        f(&read(&self.bitcode, &context))
    }
}

impl Output {
    fn file_type(self) -> FileType {
        match self {
            Output::Object => FileType::Object,
            Output::Text => FileType::Assembly,
        }
    }
}

impl Machine {
    /// 64-bit x86 Linux at the x86-64-v2 level (SSE4.2).
    pub fn x86_64_linux() -> Self {
        Machine {
            triple: "x86_64-unknown-linux-gnu".into(),
            cpu: "x86-64-v2".into(),
            features: String::new(),
            output: Output::Object,
        }
    }

    /// 64-bit Arm Linux with the baseline instruction set.
    pub fn aarch64_linux() -> Self {
        Machine {
            triple: "aarch64-unknown-linux-gnu".into(),
            cpu: "generic".into(),
            features: String::new(),
            output: Output::Object,
        }
    }

    /// NVIDIA GPUs of an architecture such as `sm_80`, in a version of the PTX language (`80` is 8.0).
    pub fn nvptx(architecture: &str, ptx: u32) -> Self {
        Machine {
            triple: "nvptx64-nvidia-cuda".into(),
            cpu: architecture.into(),
            features: format!("+ptx{ptx}"),
            output: Output::Text,
        }
    }

    /// AMD GPUs of an architecture such as `gfx942`.
    pub fn amdgcn(architecture: &str) -> Self {
        Machine {
            triple: "amdgcn-amd-amdhsa".into(),
            cpu: architecture.into(),
            features: String::new(),
            output: Output::Object,
        }
    }

    fn target_machine(&self) -> TargetMachine {
        Target::initialize_x86(&InitializationConfig::default());
        Target::initialize_aarch64(&InitializationConfig::default());
        Target::initialize_nvptx(&InitializationConfig::default());
        Target::initialize_amd_gpu(&InitializationConfig::default());
        let triple = TargetTriple::create(&self.triple);
        let target = Target::from_triple(&triple).unwrap_or_else(|error| panic!("target {}: {error}", self.triple));
        let options = TargetMachineOptions::new()
            .set_cpu(&self.cpu)
            .set_features(&self.features)
            .set_level(OptimizationLevel::Aggressive)
            .set_reloc_mode(RelocMode::PIC)
            .set_code_model(CodeModel::Default);
        target
            .create_target_machine_from_options(&triple, options)
            .unwrap_or_else(|| panic!("LLVM has no machine for {self:?}"))
    }
}

/// Optimises a module that [`KernelModule::lower`] has run on, and emits it.
///
/// # Panics
/// If LLVM refuses the module: a compiler bug.
pub fn emit(module: &KernelModule<'_>, machine: &Machine) -> Emitted {
    let context = Context::create();
    make(&translate(module, machine, &context), machine)
}

/// The same in `parts` parts, on as many threads as rayon has: `part` says by its name where a symbol is defined, and the others see its name alone.
/// What the module keeps to itself is in every part that uses it. The bytes do not depend on the number of threads.
///
/// # Panics
/// If LLVM refuses the module: a compiler bug.
pub fn emit_parts(
    module: &KernelModule<'_>,
    machine: &Machine,
    parts: usize,
    part: &(dyn Fn(&str) -> usize + Sync),
) -> Vec<Emitted> {
    let whole = bitcode(&translate(module, machine, &Context::create()));
    let one = |this: usize| {
        let context = Context::create();
        let llvm = read(&whole, &context);
        let elsewhere = |name: &CStr| part(&name.to_string_lossy()) != this;
        for function in llvm.get_functions().filter(|function| function.count_basic_blocks() > 0) {
            if function.get_linkage() == Linkage::External && elsewhere(function.get_name()) {
                function.set_linkage(Linkage::AvailableExternally);
            }
        }
        for global in llvm.get_globals().filter(|global| global.get_initializer().is_some()) {
            if global.get_linkage() == Linkage::External && elsewhere(global.get_name()) {
                global.set_linkage(Linkage::AvailableExternally);
            }
        }
        run_passes(&llvm, "elim-avail-extern,globaldce", &machine.target_machine());
        make(&llvm, machine)
    };
    (0..parts).into_par_iter().map(one).collect()
}

/// A module of the llvm dialect as LLVM's own, for a machine.
fn translate<'l>(module: &KernelModule<'_>, machine: &Machine, context: &'l Context) -> Module<'l> {
    let target_machine = machine.target_machine();
    let llvm = ffi::translate(module.mlir(), context).unwrap_or_else(|| {
        let messages = module.context().take_messages();
        panic!("kernels do not translate to LLVM IR: {messages:?}")
    });
    llvm.set_triple(&target_machine.get_triple());
    llvm.set_data_layout(&target_machine.get_target_data().get_data_layout());
    if machine.triple.starts_with("amdgcn") {
        let version = context.i32_type().const_int(AMD_CODE_OBJECT, false);
        llvm.add_basic_value_flag("amdhsa_code_object_version", FlagBehavior::Error, version);
    }
    verify(&llvm, "before optimisation");
    llvm
}

/// Optimises a module, and makes code of it.
fn make(llvm: &Module<'_>, machine: &Machine) -> Emitted {
    let target_machine = machine.target_machine();
    run_passes(llvm, "default<O3>", &target_machine);
    verify(llvm, "after optimisation");
    // Making code changes the module, into what cannot always be made code of again.
    let bitcode = bitcode(llvm);
    let object = generate(llvm, &target_machine, machine.output.file_type());
    Emitted { object, bitcode, machine: machine.clone() }
}

fn run_passes(module: &Module<'_>, passes: &str, target_machine: &TargetMachine) {
    module
        .run_passes(passes, target_machine, PassBuilderOptions::create())
        .unwrap_or_else(|error| panic!("LLVM's optimiser failed: {error}"));
}

fn bitcode(module: &Module<'_>) -> Vec<u8> {
    module.write_bitcode_to_memory().as_slice().to_vec()
}

fn read<'l>(bitcode: &[u8], context: &'l Context) -> Module<'l> {
    let buffer = MemoryBuffer::create_from_memory_range_copy(bitcode, "kernels");
    let module = Module::parse_bitcode_from_buffer(&buffer, context);
    module.unwrap_or_else(|error| panic!("LLVM does not read what it wrote: {error}"))
}

fn generate(module: &Module<'_>, target_machine: &TargetMachine, kind: FileType) -> Vec<u8> {
    let buffer = target_machine.write_to_memory_buffer(module, kind);
    buffer.unwrap_or_else(|error| panic!("LLVM could not emit code: {error}")).as_slice().to_vec()
}

/// Verifies function by function, so that a failure names the kernel.
fn verify(module: &Module<'_>, when: &str) {
    for function in module.get_functions() {
        assert!(function.verify(false), "kernel {} is invalid {when}", function.get_name().to_string_lossy());
    }
    module.verify().unwrap_or_else(|error| panic!("the kernel module is invalid {when}: {error}"));
}

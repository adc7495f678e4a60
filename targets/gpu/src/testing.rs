//! What the tests of this crate share: kernels compiled and run lane by lane, and an oracle's tolerance.

use crate::abi::define;
use crate::isa::{Cdna, Isa, Nvidia, Rdna};
use crate::kernels::Kernel;
use q35_dialects::Rows;
use q35_launch::layout::act_stride;
use q35_mlir::builder::KernelModule;
use q35_mlir::context::Context;
use q35_mlir::llvm::{self, Machine as Processor, Output};
use q35_simt::{Arg as Operand, Fault, Launch, Machine};

/// One kernel argument.
#[derive(Clone)]
pub(crate) enum Arg {
    /// What kernels only read.
    Constant(Vec<u8>),
    /// What they may write, each byte as given, or not yet written.
    Bytes(Vec<Option<u8>>),
}

impl Arg {
    /// f32 without padding, to read.
    pub(crate) fn floats(content: &[f32]) -> Self {
        Arg::Constant(content.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// i32, to read.
    pub(crate) fn ints(content: &[i32]) -> Self {
        Arg::Constant(content.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// Rows of activations, to read and write; nobody has written the padding.
    pub(crate) fn rows(content: &[f32], width: usize) -> Self {
        let mut bytes = Vec::new();
        for row in content.chunks(width) {
            bytes.extend(row.iter().flat_map(|v| v.to_le_bytes()).map(Some));
            bytes.resize(bytes.len().next_multiple_of(act_stride(width)), None);
        }
        Arg::Bytes(bytes)
    }

    /// Bytes to be written.
    pub(crate) fn space(bytes: usize) -> Self {
        Arg::Bytes(vec![None; bytes])
    }

    /// Rows of activations to be written.
    pub(crate) fn blank(rows: usize, width: usize) -> Self {
        Self::space(rows * act_stride(width))
    }
}

/// The rows of activations without their padding.
pub(crate) fn rows(bytes: &[u8], width: usize) -> Vec<f32> {
    bytes.chunks(act_stride(width)).flat_map(|row| floats(&row[..4 * width])).collect()
}

/// Little-endian f32.
pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// A deterministic source of numbers in [-1, 1).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    pub(crate) fn numbers(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| (self.next() as f32 / (1u64 << 30) as f32 - 1.0) * scale).collect()
    }
}

/// Asserts that every number is within `tolerance` (relative, and absolute below 1) of the exact one.
#[track_caller]
pub(crate) fn close(got: &[f32], exact: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), exact.len(), "{what}");
    for (at, (&got, &exact)) in got.iter().zip(exact).enumerate() {
        let error = (f64::from(got) - exact).abs();
        assert!(error <= tolerance * exact.abs().max(1.0), "{what}: [{at}] is {got}, not {exact}");
    }
}

/// A GPU that kernels are compiled for and run on.
pub(crate) struct Gpu {
    pub(crate) name: &'static str,
    pub(crate) isa: &'static dyn Isa,
}

/// One of every set of instructions.
pub(crate) const GPUS: [Gpu; 3] =
    [Gpu { name: "sm_80", isa: &Nvidia }, Gpu { name: "gfx90a", isa: &Cdna }, Gpu { name: "gfx1100", isa: &Rdna }];

impl Gpu {
    fn processor(&self) -> Processor {
        if self.name.starts_with("gfx") { Processor::amdgcn(self.name) } else { Processor::nvptx(self.name, 74) }
    }
}

/// The LLVM IR of kernels after all optimisations.
pub(crate) fn ir(gpu: &Gpu, kernels: &[&dyn Kernel]) -> String {
    let context = Context::new();
    let mut module = KernelModule::new(&context);
    for kernel in kernels {
        let name = kernel.name();
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{name} is no C identifier");
        define(&module, &name, gpu.isa, *kernel);
    }
    module.lower(|_, _| ());
    let emitted = llvm::emit(&module, &gpu.processor());
    if gpu.processor().output == Output::Object {
        assert_eq!(q35_mlir::link::undefined_symbols(&emitted.object), Vec::<String>::new());
    }
    emitted.ir()
}

/// Runs a kernel of a module's text over `rows` rows; `dims` as kernels get them. Gives each argument's bytes afterwards.
pub(crate) fn try_run(
    gpu: &Gpu,
    ir: &str,
    kernel: &dyn Kernel,
    args: &[Arg],
    dims: [i64; 4],
    rows: Rows,
) -> Result<Vec<Vec<u8>>, Fault> {
    let mut machine = Machine::new(ir, gpu.isa.wave()).unwrap_or_else(|error| panic!("{}: {error}", gpu.name));
    let mut buffers = Vec::new();
    for arg in args {
        buffers.push(match arg {
            Arg::Constant(bytes) => machine.constant(bytes.clone()),
            Arg::Bytes(bytes) => {
                let buffer = machine.allocate(bytes.len());
                for (at, byte) in bytes.iter().enumerate() {
                    if let Some(byte) = byte {
                        machine.write(buffer, at, &[*byte]);
                    }
                }
                buffer
            }
        });
    }
    let operands = buffers.iter().map(|&buffer| Operand::Address(buffer, 0)).chain(dims.map(Operand::Number));
    let operands: Vec<Operand> = operands.collect();
    let tiles = kernel.tiles(rows).eval(&dims.map(|n| n as u64)).unwrap();
    let launch = Launch { kernel: &kernel.name(), blocks: tiles, threads: kernel.threads(gpu.isa), args: &operands };
    machine.launch(&launch)?;
    Ok(buffers.into_iter().map(|buffer| machine.bytes(buffer).to_vec()).collect())
}

/// The text of a module without each one of its barriers, in turn.
pub(crate) fn without_barriers(ir: &str) -> Vec<String> {
    let barriers = ["call void @llvm.nvvm.barrier.cta.sync.aligned.all(", "call void @llvm.amdgcn.s.barrier("];
    let lines: Vec<&str> = ir.lines().collect();
    let is_barrier = |line: &str| barriers.iter().any(|barrier| line.contains(barrier));
    let without = |at: usize| {
        let left = lines.iter().enumerate().filter(|(line, _)| *line != at).map(|(_, line)| *line);
        left.collect::<Vec<_>>().join("\n")
    };
    (0..lines.len()).filter(|&at| is_barrier(lines[at])).map(without).collect()
}

/// Whether a run met what a missing barrier leads to.
pub(crate) fn is_race(run: &Result<Vec<Vec<u8>>, Fault>) -> bool {
    run.as_ref().is_err_and(|fault| matches!(fault.kind, q35_simt::Kind::Race | q35_simt::Kind::Uninitialised))
}

/// Compiles a kernel and runs it over tokens; `check` sees the bytes of the arguments afterwards.
#[track_caller]
pub(crate) fn run(gpu: &Gpu, kernel: &dyn Kernel, args: &[Arg], dims: [i64; 4]) -> Vec<Vec<u8>> {
    assert_eq!(args.len(), kernel.args(), "{}", kernel.name());
    let after = try_run(gpu, &ir(gpu, &[kernel]), kernel, args, dims, Rows::Tokens);
    after.unwrap_or_else(|fault| panic!("{}: {fault}", gpu.name))
}

//! Kernels of an accelerator: shared memory, barriers, results with several fields, down to an assembler's text.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use q35_mlir::builder::{FnAttrs, KernelModule};
use q35_mlir::context::Context;
use q35_mlir::llvm::{self, Machine};
use q35_mlir::types::{Elem, F16, F32, I32, I64, Ty};

const GLOBAL: Ty = Ty { elem: Elem::Ptr(1), lanes: 1 };

fn ptx(architecture: &str, version: u32) -> String {
    let context = Context::new();
    let mut module = KernelModule::new(&context);
    let attrs = FnAttrs { convention: "ptx_kernelcc", others: vec![("nvvm.reqntid", "32".into())], ..FnAttrs::default() };
    module.function("turn", &[GLOBAL, GLOBAL], &attrs, |b, args| {
        let [x, y] = *args else { unreachable!("a kernel of two") };
        let thread = b.intrinsic("llvm.nvvm.read.ptx.sreg.tid.x", &[], I32).to_u(I64);
        let shared = b.shared(128, 16);
        shared.at(thread * 4).store(x.at(thread * 4).load(F32, 4), 4);
        b.intrinsic_void("llvm.nvvm.barrier.cta.sync.aligned.all", &[b.i32(0)]);
        let halves = shared.at((b.i64(31) - thread) * 4).load(F16.x(2), 4);
        let zero = b.f32(0.0);
        let args = [halves, halves, halves, halves, halves, halves, zero, zero, zero, zero];
        let sums = b.intrinsic_many("llvm.nvvm.mma.m16n8k16.row.col.f32.f32", &args, F32, 4);
        y.at(thread * 4).store(sums[0] + sums[3], 4);
    });
    module.lower(|_, _| ());
    String::from_utf8(llvm::emit(&module, &Machine::nvptx(architecture, version)).object).unwrap()
}

#[test]
fn text_is_for_the_architecture_that_was_asked_for() {
    for (architecture, version, header) in [("sm_80", 70, "7.0"), ("sm_89", 78, "7.8"), ("sm_90a", 80, "8.0")] {
        let text = ptx(architecture, version);
        for part in [
            &format!(".version {header}\n.target {architecture}\n"),
            ".visible .entry turn(",
            ".reqntid 32",
            ".shared .align 16 .b8",
            "bar.sync",
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
        ] {
            assert!(text.contains(part), "{architecture} lacks {part}:\n{text}");
        }
        assert!(!text.contains(".extern"), "{text}");
    }
}

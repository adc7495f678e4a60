//! From kernels as built to the llvm dialect: one table of passes.

use melior::ir::operation::OperationLike;
use melior::pass::{self, Pass, PassManager};

use crate::builder::KernelModule;

/// One row of the table.
pub struct KernelPass {
    /// The name used in options and dumps.
    pub name: &'static str,
    /// What it is for, in a line.
    pub purpose: &'static str,
    make: fn() -> Pass,
}

/// The passes in order.
pub const PASSES: &[KernelPass] = &[
    KernelPass {
        name: "kernel-canonicalize",
        purpose: "fold constants and simplify loops whose bounds are known",
        make: pass::transform::create_canonicalizer,
    },
    KernelPass { name: "kernel-cse", purpose: "compute equal expressions once", make: pass::transform::create_cse },
    KernelPass {
        name: "kernel-hoist",
        purpose: "move what does not change out of loops",
        make: pass::transform::create_loop_invariant_code_motion,
    },
    KernelPass {
        name: "scf-to-cf",
        purpose: "turn loops and branches into blocks",
        make: pass::conversion::create_scf_to_control_flow,
    },
    KernelPass { name: "vector-to-llvm", purpose: "lower lane operations", make: pass::conversion::create_vector_to_llvm },
    KernelPass {
        name: "math-to-llvm",
        purpose: "lower square roots and the like to LLVM intrinsics",
        make: pass::conversion::create_math_to_llvm,
    },
    KernelPass { name: "arith-to-llvm", purpose: "lower arithmetic", make: pass::conversion::create_arith_to_llvm },
    KernelPass {
        name: "cf-to-llvm",
        purpose: "lower branches between blocks",
        make: pass::conversion::create_control_flow_to_llvm,
    },
    KernelPass {
        name: "reconcile-casts",
        purpose: "remove the casts that the lowerings left between each other",
        make: pass::conversion::create_reconcile_unrealized_casts,
    },
    KernelPass {
        name: "llvm-canonicalize",
        purpose: "fold what the lowerings exposed",
        make: pass::transform::create_canonicalizer,
    },
];

impl KernelModule<'_> {
    /// Runs [`PASSES`]; `dump` sees the pass and the printed module after each.
    ///
    /// # Panics
    /// If MLIR refuses a kernel: that is a bug of whoever built it.
    pub fn lower(&mut self, mut dump: impl FnMut(&KernelPass, &dyn Fn() -> String)) {
        let messages = |module: &KernelModule<'_>| -> String {
            module.context().take_messages().iter().map(|message| format!("\n  {message}")).collect()
        };
        assert!(self.mlir().as_operation().verify(), "kernels do not verify:{}", messages(self));
        for row in PASSES {
            let manager = PassManager::new(self.context().mlir());
            manager.add_pass((row.make)());
            let result = manager.run(self.mlir_mut());
            assert!(result.is_ok(), "kernels fail in pass {}:{}", row.name, messages(self));
            dump(row, &|| self.mlir().as_operation().to_string());
        }
    }
}

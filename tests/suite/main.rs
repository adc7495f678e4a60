//! Every test that runs the compiler, in one binary, so that LLVM is linked once.
//!
//! The binary is also the programs under test: started with `Q35_TEST_AS` naming one, it becomes that program. A test can so run `q35c` as a
//! child (to read its exit code, its peak memory, or to take its disk away) without knowing where cargo puts binaries.

mod book;
mod calibration;
mod codecs;
mod determinism;
mod disk;
mod end_to_end;
mod experts;
mod filetests;
mod gpu;
mod install;
mod library;
mod link;
mod memory;
mod page;
mod program;
mod traffic;

use libtest_mimic::Arguments;
use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(exit) = program::become_program() {
        return exit;
    }
    let arguments = Arguments::from_args();
    let mut trials = filetests::trials();
    trials.extend(book::trials());
    if cfg!(feature = "mlir") {
        trials.extend(
            [
                end_to_end::trials(),
                calibration::trials(),
                codecs::trials(),
                experts::trials(),
                determinism::trials(),
                disk::trials(),
                gpu::trials(),
                install::trials(),
                link::trials(),
                memory::trials(),
                traffic::trials(),
            ]
            .into_iter()
            .flatten(),
        );
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

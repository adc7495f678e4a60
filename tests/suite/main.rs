//! Every test that runs the compiler, in one binary, so that LLVM is linked once.
//!
//! The binary is also the programs under test: started with `Q35_TEST_AS` naming one, it becomes that program. A test can so run `q35c` as a
//! child (to read its exit code, its peak memory, or to take its disk away) without knowing where cargo puts binaries.

mod filetests;
mod program;

use libtest_mimic::{Arguments, Trial};
use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(exit) = program::become_program() {
        return exit;
    }
    let arguments = Arguments::from_args();
    let trials: Vec<Trial> = [filetests::trials()].into_iter().flatten().collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

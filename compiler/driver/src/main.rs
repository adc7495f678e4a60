//! The `q35c` command.

fn main() -> std::process::ExitCode {
    q35c::main()
}

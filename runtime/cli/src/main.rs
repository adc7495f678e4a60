//! The `q35` command.

fn main() -> std::process::ExitCode {
    q35::main()
}

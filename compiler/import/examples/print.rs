//! Prints a model's source graph: `cargo run -p q35-import --example print MODEL`.

fn main() -> Result<(), q35_diag::Diagnostics> {
    for path in std::env::args_os().skip(1) {
        print!("{}", q35_import::open(path.as_ref())?.graph);
    }
    Ok(())
}

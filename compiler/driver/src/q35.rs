//! The q35 stage: the model's program as a verified MLIR module, and back. What targets get is what the module says, and nothing else.

use crate::passes;
use q35_diag::Result;
use q35_dialects::Model;
use q35_dialects::model::Program;
use q35_graph::Observer;

/// Builds the module, shows it to the observer and reads it back.
#[cfg(feature = "mlir")]
pub fn through_mlir(model: &Model, observer: &mut dyn Observer) -> Result<Program> {
    use q35_dialects::mlir;
    observer.before(&passes::Q35);
    let context = mlir::context();
    let module = mlir::build(&context, &model.program());
    let program = mlir::read(&module).unwrap_or_else(|text| panic!("a module that was just built cannot be read back: {text}"));
    observer.after(&passes::Q35, &|| mlir::print(&module));
    Ok(program)
}

/// This build has no MLIR: targets that need none get the program as it is.
#[cfg(not(feature = "mlir"))]
pub fn through_mlir(model: &Model, observer: &mut dyn Observer) -> Result<Program> {
    observer.before(&passes::Q35);
    Ok(model.program())
}

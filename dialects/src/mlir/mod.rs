//! The q35 dialect in MLIR, and programs as MLIR modules.
//!
//! A [`Program`](crate::model::Program) becomes a module and back:
//!
//! ```mlir
//! module attributes {q35.params = {"model.norm" = !q35.packed<1 : i64, 256 : i64, "f32", "row">, ...}} {
//!   func.func @step() -> (!q35.act<"logits", 4096 : i64> {q35.name = "logits"}) {
//!     %0 = "q35.tokens"() : () -> !q35.ids<"tokens"> loc("input_ids")
//!     %7 = "q35.rms_norm"(%6) {eps = 1.0e-6 : f32, group = 256 : i64, weight = @model.norm} : ...
//!     return %40 : !q35.act<"logits", 4096 : i64>
//!   }
//! }
//! ```
//!
//! * Ops, their attributes and their types are those of the tables; the dialect is defined from IRDL text that [`irdl::text`]
//!   makes.
//! * An op's location is the name of the node of the user's model that it stems from.
//! * A parameter is a symbol; the module's `q35.params` gives its type. No weight data is ever inside the module.
//!
//! IRDL of LLVM 22 checks the number and kind of operands and results, and required attributes. It cannot state optional
//! attributes or what types of an op have to do with each other: [`read`] checks those, by the same inference that a model
//! passes.

mod build;
pub mod irdl;
mod read;
mod types;

pub use build::{build, print};
pub use read::read;

use q35_mlir::context::Context;

/// A context that knows the q35 dialect beside the upstream dialects.
pub fn context() -> Context {
    let context = Context::new();
    if let Err(messages) = context.load_irdl(&irdl::text()) {
        unreachable!("the tables make valid IRDL: {messages:?}");
    }
    context
}

/// Name of the module's attribute that holds the parameters' types.
const PARAMS: &str = "q35.params";
/// Name of the function's result attribute that holds an output's name.
const NAME: &str = "q35.name";
/// Name of the function.
const STEP: &str = "step";

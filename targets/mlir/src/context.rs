//! The MLIR context: which dialects exist, and where MLIR's complaints go.
//!
//! Only the upstream dialects that kernels and the quantization-aware IR use are loaded; further dialects come
//! as IRDL text. Threading is off, so that the same module gives the same bytes. Complaints are collected with their
//! locations, never printed: the caller decides whether they are a user's error or a compiler bug.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use melior::diagnostic::{Diagnostic, DiagnosticSeverity};
use melior::dialect::DialectRegistry;
use melior::ir::Module;
use melior::ir::operation::OperationLike;

use crate::ffi;

/// One complaint of MLIR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Whether it is an error; warnings and remarks are not.
    pub is_error: bool,
    /// MLIR's location text, for example `loc("q35":3:7)`.
    pub location: String,
    /// The text, its notes appended one per line.
    pub text: String,
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.location, self.text)
    }
}

impl From<Diagnostic<'_>> for Message {
    fn from(diagnostic: Diagnostic<'_>) -> Self {
        let mut text = diagnostic.to_string();
        for index in 0..diagnostic.note_count() {
            if let Ok(note) = diagnostic.note(index) {
                text.push_str("\nnote: ");
                text.push_str(&note.to_string());
            }
        }
        Message {
            is_error: matches!(diagnostic.severity(), DiagnosticSeverity::Error),
            location: diagnostic.location().to_string(),
            text,
        }
    }
}

/// An MLIR context with our dialects and a collecting diagnostics handler.
pub struct Context {
    mlir: melior::Context,
    messages: Rc<RefCell<Vec<Message>>>,
}

impl Default for Context {
    fn default() -> Self {
        Self::new()
    }
}

impl Context {
    /// A context with `arith`, `cf`, `func`, `irdl`, `llvm`, `math`, `scf` and `vector`.
    pub fn new() -> Self {
        let registry = DialectRegistry::new();
        let handles = ffi::dialects();
        for handle in handles {
            handle.insert_dialect(&registry);
        }
        let mlir = melior::Context::new_with_registry(&registry, false);
        melior::utility::register_all_llvm_translations(&mlir);
        for handle in handles {
            handle.load_dialect(&mlir);
        }
        let messages = Rc::new(RefCell::new(Vec::new()));
        let sink = Rc::clone(&messages);
        mlir.attach_diagnostic_handler(move |diagnostic| {
            sink.borrow_mut().push(Message::from(diagnostic));
            true
        });
        Context { mlir, messages }
    }

    /// The melior context, for code that builds IR other than kernels.
    pub fn mlir(&self) -> &melior::Context {
        &self.mlir
    }

    /// The complaints since the last call, oldest first.
    pub fn take_messages(&self) -> Vec<Message> {
        self.messages.take()
    }

    /// Parses a module from MLIR text and verifies it.
    pub fn parse(&self, text: &str) -> Result<Module<'_>, Vec<Message>> {
        self.messages.take();
        match Module::parse(&self.mlir, text) {
            Some(module) if module.as_operation().verify() => Ok(module),
            _ => Err(self.take_messages()),
        }
    }

    /// Defines the dialects of an IRDL module text in this context.
    pub fn load_irdl(&self, text: &str) -> Result<(), Vec<Message>> {
        let module = self.parse(text)?;
        if melior::utility::load_irdl_dialects(&module) { Ok(()) } else { Err(self.take_messages()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIALECT: &str = r#"
        irdl.dialect @toy {
          irdl.operation @double {
            %f32 = irdl.is f32
            irdl.operands(x: %f32)
            irdl.results(y: %f32)
          }
        }"#;

    #[test]
    fn irdl_dialects_are_checked() {
        let context = Context::new();
        context.load_irdl(DIALECT).unwrap();
        let good = "func.func @f(%x: f32) -> f32 { %y = \"toy.double\"(%x) : (f32) -> f32 func.return %y : f32 }";
        assert!(context.parse(good).is_ok());
        let bad = "func.func @f(%x: i32) { %y = \"toy.double\"(%x) : (i32) -> f32 func.return }";
        let messages = context.parse(bad).unwrap_err();
        assert!(messages[0].is_error && messages[0].text.contains("f32"), "{messages:?}");
        assert!(messages[0].location.contains(":1:"), "{messages:?}");
    }

    #[test]
    fn syntax_errors_are_collected() {
        let context = Context::new();
        let messages = context.parse("func.func @f( {").unwrap_err();
        assert!(!messages.is_empty());
        assert!(context.take_messages().is_empty());
    }
}

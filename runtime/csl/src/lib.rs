//! A reader of CSL, the language of the wafer's processing elements (PEs), for the part of it that static-route programs need.
//!
//! What enters: the text of a layout file and of the files it names. What leaves: who stands where, every route, queue and task, and for
//! each distinct PE program an [`Image`] that a [`Machine`] can run. Nothing here knows who printed the text: what this crate believes
//! about the language stands in its own tables, so that a mistake of a printer is found as an error or as a wrong answer.
//!
//! | module | idea |
//! | --- | --- |
//! | `lexer`, `parser`, [`ast`] | text to syntax |
//! | [`builtins`] | the allow-list of builtins with their arity |
//! | [`value`] | types, values, DSDs |
//! | `compile` | syntax to code of a stack machine, names resolved |
//! | [`vm`] | the stack machine; it stops wherever the fabric or a task is concerned |
//! | [`image`] | one PE program: memory, queues, tasks, exports |
//! | [`layout`] | the layout block, evaluated |
//! | [`check`] | the numbered rules that a program must satisfy before it runs |
//!
//! Conventions: WSE-3, SDK 2.10. The language was learned from public documentation and examples; no vendor compiler was at hand.

pub mod ast;
pub mod builtins;
pub mod check;
mod compile;
pub mod image;
pub mod layout;
mod lexer;
mod parser;
pub mod value;
pub mod vm;

pub use image::Image;
pub use layout::{Config, Layout, Sources};
pub use value::Value;
pub use vm::{Machine, Stop};

use std::fmt;

/// What is wrong with a text, or with running it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// File and line, where they are known.
    pub at: Option<(String, u32)>,
    /// What is wrong.
    pub what: String,
}

impl Fault {
    /// A fault without a place.
    pub fn new(what: impl Into<String>) -> Self {
        Self { at: None, what: what.into() }
    }

    /// The place, unless a closer one is known.
    pub fn at(mut self, file: &str, line: u32) -> Self {
        self.at.get_or_insert_with(|| (file.to_owned(), line));
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            Some((file, line)) => write!(f, "{file}:{line}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

impl std::error::Error for Fault {}

/// What reading or running gives.
pub type Result<T> = std::result::Result<T, Fault>;

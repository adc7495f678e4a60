//! Loads and executes bundles.
//!
//! A [`Model`] is what a program opens and asks. Below it, a [`Session`] is a device with a program, and a KV cache of some slots; it turns
//! tokens into logits. On top of it: text ([`text`], [`generate`]), files of graph inputs ([`inputs`]), perplexity ([`perplexity`]) and
//! measurements ([`bench`], [`profile`]). Below it:
//! devices ([`device`]).
//!
//! This crate must not know how a bundle was made: no graph, no compiler, no LLVM.

pub mod bench;
pub mod device;
pub mod divergence;
pub mod generate;
pub mod inputs;
mod model;
pub mod perplexity;
pub mod pool;
pub mod profile;
pub mod sampling;
mod session;
pub mod text;
pub mod traffic;

pub use model::Model;
pub use session::{Chunk, Logits, Session, Want};

/// How a session is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Device asked for by name; `None` for whatever the bundle was compiled for.
    pub device: Option<String>,
    /// Feature level asked for by name; `None` for the best one that this machine can run.
    pub level: Option<String>,
    /// Threads; `None` for as many as the system lets this process use.
    pub threads: Option<usize>,
    /// Slots of the cache: sequences that are in progress at the same time.
    pub slots: usize,
    /// Tokens that a slot holds.
    pub capacity: usize,
    /// Tokens of one step; longer inputs are cut.
    pub max_tokens: usize,
    /// Bytes of memory that this process may have in use; weights that do not fit are read from their file again when they are needed.
    /// `None` for no limit.
    pub max_memory: Option<u64>,
    /// Records every step and launch.
    pub recorder: Option<profile::Recorder>,
    /// How a wafer's fabric behaves where the chip's documentation is silent: what a sound program computes does not depend on it.
    pub fabric: q35_fabric::Settings,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            device: None,
            level: None,
            threads: None,
            slots: 1,
            capacity: 1024,
            max_tokens: 256,
            max_memory: None,
            recorder: None,
            fabric: q35_fabric::Settings::default(),
        }
    }
}

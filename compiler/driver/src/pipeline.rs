//! The way from a model's path to a bundle, as one list.

use crate::passes;
use q35_diag::Result;
use q35_graph::{Observer, Pass};
use q35_import::Imported;
use std::path::Path;

/// Reads a model's graph and headers.
pub fn import(path: &Path, observer: &mut dyn Observer) -> Result<Imported> {
    watched(observer, &passes::IMPORT, || q35_import::open(path), |imported| imported.graph.to_string())
}

/// Runs one pass under observation; `print` renders what it left.
fn watched<T>(
    observer: &mut dyn Observer,
    pass: &Pass,
    work: impl FnOnce() -> Result<T>,
    print: impl Fn(&T) -> String,
) -> Result<T> {
    observer.before(pass);
    let left = work()?;
    observer.after(pass, &|| print(&left));
    Ok(left)
}

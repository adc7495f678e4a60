//! The wse dialect: a program for a wafer of processing elements (PEs), as one object.
//!
//! What enters: what a mapping decided (targets/wse). What leaves: CSL text and tables of routes, both printed from this object. It
//! says who stands where, which way every color goes, what every PE's memory holds and in which order it works; it does not know
//! how CSL is spelled, nor what a model is.
//!
//! A program is a stack of *regions*, rectangles of all columns and some rows. A vector lies in a region in one of two ways
//! ([`Axis`]): cut along the columns and the same in every row, or cut along the rows and the same in every column. A matrix product turns
//! one into the other, so nothing is ever transposed: its partial sums meet along the axis that the input was cut by.
//!
//! Conventions: WSE-3, SDK 2.10; static routes. A model of the chip, not run on silicon.

mod kernel;
mod routes;

pub use kernel::{Arena, Attention, Axis, Buffer, Call, Kernel, Matrix, Part, Role, Routing};
pub use routes::{COLORS, Color, Direction, Route, Span};

/// Words of 16 bits in a PE's memory.
pub const MEMORY_WORDS: u64 = 24 * 1024;
/// Largest rectangle of a WSE-3 beside the host's columns and rows.
pub const LARGEST: [u64; 2] = [755, 1170];

/// Rows `top .. top + height`, all columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Region {
    /// First row.
    pub top: u64,
    /// Rows.
    pub height: u64,
    /// Index of its kernel.
    pub kernel: usize,
}

/// A name that the host knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Export {
    /// The name.
    pub name: &'static str,
    /// Type of the elements; `None` for a function, which takes the number of tokens, `u16`.
    pub elem: Option<&'static str>,
}

/// Every name that the host knows: the same on all PEs.
pub const EXPORTS: &[Export] = &[
    Export { name: "weights", elem: Some("u16") },
    Export { name: "scales", elem: Some("f16") },
    Export { name: "vectors", elem: Some("f32") },
    Export { name: "keys", elem: Some("f16") },
    Export { name: "values", elem: Some("f16") },
    Export { name: "stream", elem: Some("f32") },
    Export { name: "result", elem: Some("f32") },
    Export { name: "step", elem: None },
];

/// A program.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Program {
    /// Columns.
    pub width: u64,
    /// The regions, from north to south, without gaps.
    pub regions: Vec<Region>,
    /// Distinct PE programs.
    pub kernels: Vec<Kernel>,
    /// f32 numbers of a token in the stream: a piece of the residual, a share of cosines and sines, the index of the token.
    pub stream: u64,
    /// The piece of the residual: so many of them.
    pub piece: u64,
    /// Most tokens of a step: consecutive ones of a sequence. Regions take them in blocks ([`Kernel::tokens`]), each its next one as soon as it has
    /// sent on what it had: blocks follow each other through the regions.
    pub tokens: u64,
}

impl Program {
    /// Rows.
    pub fn height(&self) -> u64 {
        self.regions.iter().map(|region| region.height).sum()
    }

    /// Whether a region is one of the experts below a router.
    pub fn is_expert(&self, region: &Region) -> bool {
        matches!(self.kernels[region.kernel].role, Role::Expert { .. })
    }

    /// PEs.
    pub fn pes(&self) -> u64 {
        self.width * self.height()
    }

    /// Every route, as rules over spans of PEs.
    pub fn routes(&self) -> Vec<Route> {
        routes::routes(self)
    }
}

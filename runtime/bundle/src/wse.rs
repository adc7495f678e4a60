//! What a bundle says of a program for a wafer: where its text lies, and what goes into which PE's memory.

use serde::{Deserialize, Serialize};

/// A piece of a tensor of the weights file on every PE of a region. The PE in column `c` and row `r` of the region gets `words` 16-bit words
/// from byte `from + c * column + r / share * row` of the tensor; what lies past the tensor's end is zero.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Name of the tensor.
    pub tensor: String,
    /// Bytes of the tensor before the first piece.
    pub from: u64,
    /// First word in the array.
    pub to: u64,
    /// Words.
    pub words: u64,
    /// Bytes from one column's piece to the next.
    pub column: u64,
    /// Bytes from one row's piece to the next.
    pub row: u64,
    /// Neighbouring rows that get the same.
    pub share: u64,
}

/// An array in PE memory that is filled before the first step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Array {
    /// Exported name.
    pub symbol: String,
    /// Words of the array.
    pub words: u64,
    /// What goes where.
    pub pieces: Vec<Piece>,
}

/// One layer's cache in a region: keys `[head][column of the head][entry]`, values `[head][entry][column]`, f16; entry `j` of the cache is entry
/// `j / width` of column `j % width` of the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaferCache {
    /// Layer, as the memory plan counts.
    pub layer: u32,
    /// Heads on each row.
    pub heads: u64,
    /// Neighbouring rows that hold the same heads.
    pub share: u64,
    /// Columns of a head.
    pub dim: u64,
    /// Entries per PE.
    pub entries: u64,
    /// First element in `keys`.
    pub keys: u64,
    /// First element in `values`.
    pub values: u64,
}

/// Rows `top .. top + height`, all columns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaferRegion {
    /// First row.
    pub top: u64,
    /// Rows.
    pub height: u64,
    /// What its memories hold.
    pub arrays: Vec<Array>,
    /// The caches in it.
    pub caches: Vec<WaferCache>,
}

/// What the host does for each token of a step: its row of a table, and the angles of its position.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostInput {
    /// The table: 8-bit integers, a row per token.
    pub table: String,
    /// One f16 scale per row.
    pub scales: String,
    /// Columns of the table.
    pub hidden: u64,
    /// Columns of a piece: what one column of PEs gets.
    pub piece: u64,
    /// Tensor of angles per position, f32.
    pub inv_freq: Option<String>,
    /// Angles.
    pub half: u64,
    /// Factor of cosines and sines.
    pub rotary_scale: f32,
}

/// A program for a rectangle of a wafer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WaferProgram {
    /// Folder of the program in the bundle; `layout.csl` is in it.
    pub folder: String,
    /// Its CSL files.
    pub files: Vec<String>,
    /// Regions from north to south. The first takes the stream from the host; of the last wafer the last has the logits, of every other the
    /// stream for the next wafer.
    pub regions: Vec<WaferRegion>,
}

/// Programs for as many wafers as a model takes. A model of the chip runs them; they have not run on silicon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WseDevice {
    /// The programs, in the order of the layers.
    pub wafers: Vec<WaferProgram>,
    /// Columns of each.
    pub width: u64,
    /// What the host prepares.
    pub input: HostInput,
    /// Logits of each row of the last region.
    pub logits: u64,
    /// Tokens the cache holds.
    pub context: u64,
    /// Most tokens of a step: consecutive ones of the sequence, of which the last one gets logits.
    pub tokens: u64,
}

impl WseDevice {
    /// The region that has the logits.
    pub fn head(&self) -> Option<&WaferRegion> {
        self.wafers.last()?.regions.last()
    }

    /// Every region.
    pub fn regions(&self) -> impl Iterator<Item = &WaferRegion> {
        self.wafers.iter().flat_map(|wafer| &wafer.regions)
    }

    /// Of a token's cosines and sines, one after the other, so many are each column's share.
    pub fn angles(&self) -> u64 {
        (2 * self.input.half).div_ceil(self.width.max(1))
    }

    /// f32 numbers of a column's stream: a piece of a row of the table, a share of cosines and sines, the index of the token.
    pub fn stream(&self) -> u64 {
        self.input.piece + self.angles() + 1
    }
}

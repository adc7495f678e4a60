//! Token embeddings: a gather of rows from a table in its storage format.

use super::Spec;
use q35_format::{Group, ScaleType};

/// How the elements of a matrix that is read row by row are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
    /// Signed bytes, with a scale per row and group.
    Q8(Group, ScaleType),
}

impl Table {
    /// Its part of a symbol.
    pub fn name(self) -> String {
        match self {
            Table::F32 => "f32".to_owned(),
            Table::F16 => "f16".to_owned(),
            Table::Bf16 => "bf16".to_owned(),
            Table::Q8(group, ScaleType::F16) => format!("q8_{group}_f16"),
            Table::Q8(group, ScaleType::F32) => format!("q8_{group}_f32"),
        }
    }

    /// How many arguments it is: codes, and scales where it has them.
    pub fn args(self) -> usize {
        1 + usize::from(matches!(self, Table::Q8(..)))
    }
}

/// `y[r] = table[ids[r]]`, as f32. Arguments: ids (i32), table, for [`Table::Q8`] its scales, y.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Embed {
    /// Columns.
    pub width: u64,
    /// Elements of the table.
    pub table: Table,
    /// Whether table and scales lie as a linear layer's weight does, rather than row after row: a table that is the weight of the output head
    /// too is stored once.
    pub as_weight: bool,
}

impl Spec for Embed {
    fn name(&self) -> String {
        let place = if self.as_weight { "_as_weight" } else { "" };
        format!("embed_{}{place}_{}", self.table.name(), self.width)
    }

    fn args(&self) -> usize {
        2 + self.table.args()
    }
}

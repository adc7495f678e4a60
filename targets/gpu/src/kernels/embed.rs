//! Token embeddings: a gather of rows from a table in its storage format.
//!
//! A table that is the weight of the output head too is stored once, in the arrangement that linear layers read; its rows are then
//! picked out of that.

use super::{Kernel, entry, row_at, set};
use crate::abi::Call;
use crate::group::Team;
use crate::isa::{COLUMNS, PARTS};
use crate::linear::geometry::{BLOCK, SPAN, TILE, WORD, block_bytes, blocks, lane_bytes};
use q35_format::codec::Storage;
use q35_format::{Group, ScaleType};
use q35_mlir::builder::Val;
use q35_mlir::types::{F16, F32, I8, Ty};

/// How the elements of the table are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Floats of a type, under its codec's name.
    Float(&'static str, Ty),
    /// Signed bytes, with a scale per row and group.
    Q8(Group, ScaleType),
}

/// `y[r] = table[ids[r]]`, as f32. Arguments: ids (i32), table, for [`Table::Q8`] its scales, y.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Embed {
    /// Columns.
    pub width: u64,
    /// Elements of the table.
    pub table: Table,
    /// Whether table and scales lie as a linear layer's weight does (see [`geometry`](crate::linear::geometry)), rather than row after row.
    pub as_weight: bool,
}

impl Kernel for Embed {
    fn name(&self) -> String {
        let table = match self.table {
            Table::Float(codec, _) => codec.to_owned(),
            Table::Q8(group, scale) => format!("q8_{group}_{}", if scale == ScaleType::F16 { "f16" } else { "f32" }),
        };
        let place = if self.as_weight { "_as_weight" } else { "" };
        format!("embed_{table}{place}_{}", self.width)
    }

    fn args(&self) -> usize {
        3 + usize::from(matches!(self.table, Table::Q8(..)))
    }

    fn build(&self, call: &Call<'_>) {
        let (id, table) = (entry(call.arg(0), call.tile), call.arg(1));
        let to = row_at(call.arg(self.args() - 1), call.tile, self.width);
        call.each(Team::Group, self.width as i64, |column| {
            let value = match self.table {
                Table::Float(_, ty) => {
                    let bytes = i64::from(ty.bytes());
                    table.at((id * self.width as i64 + column) * bytes).load(ty, ty.bytes()).to(F32)
                }
                Table::Q8(group, scale) => self.byte(call, table, id, column) * self.scale(call, id, column, group, scale),
            };
            set(to, column, value);
        });
    }
}

impl Embed {
    /// Column `column` of row `id`, before its scale.
    fn byte<'k>(&self, call: &Call<'k>, table: Val<'k>, id: Val<'k>, column: Val<'k>) -> Val<'k> {
        if !self.as_weight {
            return table.at(id * self.width as i64 + column).load(I8, 1).to(F32);
        }
        // The place that `geometry` gives it, with run-time numbers.
        let (matrix, tile) = (call.isa.matrix(), TILE as i64);
        let lane_rows = i64::from(matrix.lane_rows);
        let rows_of_lanes = tile / lane_rows;
        let (row, block, within) = (id.rem_u(tile), column.div_u(BLOCK as i64), column.rem_u(BLOCK as i64));
        let (of_lane, part) = (row.rem_u(rows_of_lanes), within.div_u(SPAN as i64));
        let lane = if matrix.parts_first { of_lane * i64::from(PARTS) + part } else { part * rows_of_lanes + of_lane };
        let word = within.rem_u(SPAN as i64).div_u(i64::from(COLUMNS)) * lane_rows + row.div_u(rows_of_lanes);
        let at = word * WORD as i64 + column.rem_u(WORD as i64);
        debug_assert!(lane_bytes(Storage::Int8, matrix).is_multiple_of(16));
        let place = at.div_u(16) * (16 * i64::from(call.wave_size())) + lane * 16 + at.rem_u(16);
        let bytes = block_bytes(Storage::Int8, matrix);
        let tile_at = id.div_u(tile) * (blocks(self.width as usize) * bytes) as i64 + block * bytes as i64;
        (table.at(tile_at + place).load(I8, 1) ^ -128).to(F32)
    }

    /// The scale of column `column` of row `id`.
    fn scale<'k>(&self, call: &Call<'k>, id: Val<'k>, column: Val<'k>, group: Group, scale: ScaleType) -> Val<'k> {
        let groups = group.count(self.width as usize) as i64;
        let group = match group {
            Group::Row => call.b.i64(0),
            Group::Columns(columns) => column.div_u(i64::from(columns)),
        };
        let tile = TILE as i64;
        let at = if self.as_weight { (id.div_u(tile) * groups + group) * tile + id.rem_u(tile) } else { id * groups + group };
        match scale {
            ScaleType::F16 => call.arg(2).at(at * 2).load(F16, 2).to(F32),
            ScaleType::F32 => call.arg(2).at(at * 4).load(F32, 4),
        }
    }
}

//! Token embeddings: a gather of rows from a table in its storage format.
//!
//! A table that is the weight of the output head too is stored once, in the arrangement that linear layers read; its rows are then
//! picked out of that.

use super::{Kernel, entry, row_at, set};
use crate::abi::Call;
use crate::group::Team;
use crate::isa::COLUMNS;
use crate::linear::geometry::{BLOCK, SPAN, TILE, WORD, block_bytes, blocks, seat_bytes};
use q35_format::codec::Storage;
use q35_format::{Group, ScaleType};
use q35_launch::Spec;
use q35_launch::spec::{Embed, Table};
use q35_mlir::builder::Val;
use q35_mlir::types::{BF16, F16, F32, I8, Ty};

impl Kernel for Embed {
    fn build(&self, call: &Call<'_>) {
        let (id, table) = (entry(call.arg(0), call.tile), call.arg(1));
        let to = row_at(call.arg(self.args() - 1), call.tile, self.width);
        call.each(Team::Group, self.width as i64, |column| {
            let at = id * self.width as i64 + column;
            let float = |ty: Ty| table.at(at * i64::from(ty.bytes())).load(ty, ty.bytes()).to(F32);
            let value = match self.table {
                Table::F32 => float(F32),
                Table::F16 => float(F16),
                Table::Bf16 => float(BF16),
                Table::Q8(group, scale) => byte(self, call, table, id, column) * scale_of(self, call, id, column, group, scale),
            };
            set(to, column, value);
        });
    }
}

/// Column `column` of row `id`, before its scale.
fn byte<'k>(embed: &Embed, call: &Call<'k>, table: Val<'k>, id: Val<'k>, column: Val<'k>) -> Val<'k> {
    if !embed.as_weight {
        return table.at(id * embed.width as i64 + column).load(I8, 1).to(F32);
    }
    // The place that `geometry` gives it, with run-time numbers.
    let (matrix, tile) = (call.isa.matrix(), TILE as i64);
    let seat_rows = i64::from(matrix.seat_rows);
    let rows_of_seats = tile / seat_rows;
    let (row, block, within) = (id.rem_u(tile), column.div_u(BLOCK as i64), column.rem_u(BLOCK as i64));
    let seat = matrix.seat_at(row.rem_u(rows_of_seats), within.div_u(SPAN as i64));
    let word = within.rem_u(SPAN as i64).div_u(i64::from(COLUMNS)) * seat_rows + row.div_u(rows_of_seats);
    let at = word * WORD as i64 + column.rem_u(WORD as i64);
    debug_assert!(seat_bytes(Storage::Int8, matrix).is_multiple_of(16));
    let place = at.div_u(16) * (16 * i64::from(matrix.seats())) + seat * 16 + at.rem_u(16);
    let bytes = block_bytes(Storage::Int8, matrix);
    let tile_at = id.div_u(tile) * (blocks(embed.width as usize) * bytes) as i64 + block * bytes as i64;
    (table.at(tile_at + place).load(I8, 1) ^ -128).to(F32)
}

/// The scale of column `column` of row `id`.
fn scale_of<'k>(embed: &Embed, call: &Call<'k>, id: Val<'k>, column: Val<'k>, group: Group, scale: ScaleType) -> Val<'k> {
    let groups = group.count(embed.width as usize) as i64;
    let group = match group {
        Group::Row => call.b.i64(0),
        Group::Columns(columns) => column.div_u(i64::from(columns)),
    };
    let tile = TILE as i64;
    let at = if embed.as_weight { (id.div_u(tile) * groups + group) * tile + id.rem_u(tile) } else { id * groups + group };
    match scale {
        ScaleType::F16 => call.arg(2).at(at * 2).load(F16, 2).to(F32),
        ScaleType::F32 => call.arg(2).at(at * 4).load(F32, 4),
    }
}

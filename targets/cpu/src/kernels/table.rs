//! Matrices that are read row after row as numbers, in their storage format.

use q35_format::{Group, ScaleType};
use q35_launch::spec::Table;
use q35_mlir::builder::Val;
use q35_mlir::math::f16_bits_to_f32;
use q35_mlir::types::{BF16, F32, I8, I16, Ty};

use super::columns::Lanes;
use crate::abi::Call;

/// A table in memory, row after row without gaps.
pub(super) struct TableRows<'k> {
    table: Table,
    width: u64,
    codes: Val<'k>,
    scales: Option<Val<'k>>,
}

impl<'k> TableRows<'k> {
    /// The table that arguments `first..` are, `width` columns wide.
    pub(super) fn new(table: Table, call: &Call<'k>, first: usize, width: u64) -> Self {
        let scales = (table.args() > 1).then(|| call.arg(first + 1));
        Self { table, width, codes: call.arg(first), scales }
    }

    /// Columns of row `row`, as f32. Groups are whole vectors.
    pub(super) fn load(&self, at: Lanes<'k>, row: Val<'k>) -> Val<'k> {
        let stored = |ty: Ty| at.load_as(self.codes.at(row * (self.width as i64 * i64::from(ty.bytes()))), ty);
        match (self.table, self.scales) {
            (Table::F32, _) => stored(F32),
            (Table::F16, _) => f16_bits_to_f32(stored(I16)),
            (Table::Bf16, _) => bf16_bits_to_f32(stored(I16)),
            (Table::Q8(group, scale), Some(scales)) => {
                let first = row * group.count(self.width as usize) as i64;
                stored(I8).to(F32) * load_scale(scales, first + group_of(group, at.column), scale)
            }
            (Table::Q8(..), None) => unreachable!("bytes come with scales"),
        }
    }
}

/// The upper halves of single precision.
pub(super) fn bf16_bits_to_f32(bits: Val<'_>) -> Val<'_> {
    bits.bitcast(BF16.x(bits.lanes())).to(F32)
}

/// The group of a column.
pub(super) fn group_of(group: Group, column: Val<'_>) -> Val<'_> {
    match group {
        Group::Row => column.builder().i64(0),
        Group::Columns(columns) => column.div_u(i64::from(columns)),
    }
}

/// Scale number `index`, as f32.
pub(super) fn load_scale<'k>(scales: Val<'k>, index: Val<'k>, scale: ScaleType) -> Val<'k> {
    match scale {
        ScaleType::F16 => f16_bits_to_f32(scales.at(index * 2).load(I16, 2)),
        ScaleType::F32 => scales.at(index * 4).load(F32, 4),
    }
}

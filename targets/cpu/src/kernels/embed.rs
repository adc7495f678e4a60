//! Token embeddings: a gather of rows from a table in its storage format.

use q35_format::{Group, ScaleType};
use q35_mlir::builder::Val;
use q35_mlir::math::f16_bits_to_f32;
use q35_mlir::types::{BF16, F32, I8, I16, Ty};

use super::columns::each;
use super::{Kernel, entry, lanes, row_at};
use crate::abi::Call;
use crate::level::Level;

/// How the table is stored: rows of values without padding.
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

/// `y[r] = table[ids[r]]`, as f32. Arguments: ids (i32), table, for [`Table::Q8`] its scales, y.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Embed {
    /// Columns.
    pub width: u64,
    /// Storage of the table.
    pub table: Table,
}

impl Kernel for Embed {
    fn name(&self) -> String {
        let table = match self.table {
            Table::F32 => "f32".to_owned(),
            Table::F16 => "f16".to_owned(),
            Table::Bf16 => "bf16".to_owned(),
            Table::Q8(group, scale) => format!("q8_{group}_{}", scale_name(scale)),
        };
        format!("embed_{table}_{}", self.width)
    }

    fn build(&self, level: Level, call: &Call<'_>) {
        let count = lanes(level);
        match self.table {
            Table::F32 => self.plain(call, count, F32, |v| v),
            Table::F16 => self.plain(call, count, I16, f16_bits_to_f32),
            Table::Bf16 => self.plain(call, count, I16, |v| v.bitcast(BF16.x(v.lanes())).to(F32)),
            Table::Q8(group, scale) => self.scaled(call, count, group, scale),
        }
    }
}

impl Embed {
    /// A table of values that widen to f32 one by one.
    fn plain(&self, call: &Call<'_>, count: u32, stored: Ty, widen: impl for<'k> Fn(Val<'k>) -> Val<'k>) {
        let (ids, table, y) = (call.arg(0), call.arg(1), call.arg(2));
        let row_bytes = self.width as i64 * i64::from(stored.bytes());
        call.for_tiles(|row| {
            let from = table.at(entry(ids, row) * row_bytes);
            let to = row_at(y, row, self.width);
            each(call.b, count, self.width, |at| at.store(to, widen(at.load_as(from, stored))));
        });
    }

    /// Bytes times the scale of their group. Groups are whole vectors.
    fn scaled(&self, call: &Call<'_>, count: u32, group: Group, scale: ScaleType) {
        let (ids, table, scales, y) = (call.arg(0), call.arg(1), call.arg(2), call.arg(3));
        let groups = group.count(self.width as usize) as i64;
        call.for_tiles(|row| {
            let id = entry(ids, row);
            let (from, to) = (table.at(id * self.width as i64), row_at(y, row, self.width));
            each(call.b, count, self.width, |at| {
                let group = match group {
                    Group::Row => id,
                    Group::Columns(columns) => id * groups + at.column.div_u(i64::from(columns)),
                };
                at.store(to, at.load_as(from, I8).to(F32) * load_scale(scales, group, scale));
            });
        });
    }
}

/// Scale number `index`, as f32.
fn load_scale<'k>(scales: Val<'k>, index: Val<'k>, scale: ScaleType) -> Val<'k> {
    match scale {
        ScaleType::F16 => f16_bits_to_f32(scales.at(index * 2).load(I16, 2)),
        ScaleType::F32 => scales.at(index * 4).load(F32, 4),
    }
}

fn scale_name(scale: ScaleType) -> &'static str {
    match scale {
        ScaleType::F16 => "f16",
        ScaleType::F32 => "f32",
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Arg, numbers, rows, run};
    use super::*;

    const IDS: [i32; 4] = [6, 0, 3, 6];
    const VOCAB: usize = 7;

    fn check<const N: usize>(table: Table, width: usize, params: [Arg; N], exact: impl Fn(usize, usize) -> f32) {
        let expected: Vec<f32> =
            IDS.iter().flat_map(|&id| (0..width).map(|col| exact(id as usize, col)).collect::<Vec<_>>()).collect();
        let spec = Embed { width: width as u64, table };
        let args: Vec<Arg> = [Arg::ints(&IDS)].into_iter().chain(params).chain([Arg::zeros(IDS.len(), width)]).collect();
        run(&spec, args, [4, 0, 0, 0], 4, |level, args| {
            assert_eq!(rows(args.last().unwrap(), width), expected, "{table:?} {level:?} {width}");
        });
    }

    #[test]
    fn float_tables() {
        for width in [1, 5, 16, 35] {
            let values = numbers(VOCAB * width, 3.0);
            check(Table::F32, width, [Arg::floats(&values)], |id, col| values[id * width + col]);
            let halves: Vec<half::f16> = values.iter().map(|&v| half::f16::from_f32(v)).collect();
            let bytes: Vec<u8> = halves.iter().flat_map(|v| v.to_ne_bytes()).collect();
            check(Table::F16, width, [Arg::bytes(&bytes)], |id, col| halves[id * width + col].to_f32());
            let brains: Vec<half::bf16> = values.iter().map(|&v| half::bf16::from_f32(v)).collect();
            let bytes: Vec<u8> = brains.iter().flat_map(|v| v.to_ne_bytes()).collect();
            check(Table::Bf16, width, [Arg::bytes(&bytes)], |id, col| brains[id * width + col].to_f32());
        }
    }

    #[test]
    fn byte_tables() {
        for width in [3, 64, 130, 200] {
            let codes: Vec<u8> = (0..VOCAB * width).map(|i| (i * 37 % 256) as u8).collect();
            for group in [Group::Row, Group::Columns(64), Group::Columns(128)] {
                let groups = group.count(width);
                let scales = numbers(VOCAB * groups, 0.1);
                let exact = |scale: &dyn Fn(usize) -> f32, id: usize, col: usize| {
                    let group = (0..groups).find(|&g| group.columns(width, g).contains(&col)).unwrap();
                    f32::from(codes[id * width + col] as i8) * scale(id * groups + group)
                };
                let args = [Arg::bytes(&codes), Arg::floats(&scales)];
                check(Table::Q8(group, ScaleType::F32), width, args, |id, col| exact(&|i| scales[i], id, col));
                let halves: Vec<half::f16> = scales.iter().map(|&v| half::f16::from_f32(v)).collect();
                let bytes: Vec<u8> = halves.iter().flat_map(|v| v.to_ne_bytes()).collect();
                let args = [Arg::bytes(&codes), Arg::bytes(&bytes)];
                let scale = |i: usize| halves[i].to_f32();
                check(Table::Q8(group, ScaleType::F16), width, args, |id, col| exact(&scale, id, col));
            }
        }
    }
}

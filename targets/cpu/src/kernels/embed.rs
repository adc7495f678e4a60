//! Token embeddings: a gather of rows from a table in its storage format.
//!
//! A table that is the weight of the output head too is stored once, in the arrangement that linear layers read; its rows are then
//! picked out of that.

use q35_format::{Group, ScaleType};
use q35_launch::spec::{Embed, Table};
use q35_mlir::builder::Val;
use q35_mlir::math::f16_bits_to_f32;
use q35_mlir::types::{F32, I8, I16, Ty};

use super::columns::each;
use super::table::{TableRows, bf16_bits_to_f32, group_of, load_scale};
use super::{Kernel, entry, lanes, row_at};
use crate::abi::Call;
use crate::level::Level;
use crate::linear::geometry::{BLOCK, QUAD, QUADS, TILE, VECTOR, panel_bytes};

impl Kernel for Embed {
    fn build(&self, level: Level, call: &Call<'_>) {
        match self.table {
            _ if !self.as_weight => rows(self, call, lanes(level)),
            Table::F32 => floats(self, call, F32, |v| v),
            Table::F16 => floats(self, call, I16, f16_bits_to_f32),
            Table::Bf16 => floats(self, call, I16, bf16_bits_to_f32),
            Table::Q8(group, scale) => bytes(self, call, group, scale),
        }
    }
}

/// A table that lies row after row.
fn rows(embed: &Embed, call: &Call<'_>, count: u32) {
    let (ids, table, y) = (call.arg(0), TableRows::new(embed.table, call, 1, embed.width), call.arg(1 + embed.table.args()));
    call.for_tiles(|row| {
        let (id, to) = (entry(ids, row), row_at(y, row, embed.width));
        each(call.b, count, embed.width, |at| at.store(to, table.load(at, id)));
    });
}

/// A layer's weight of values that widen to f32 one by one. Neighbouring columns are a tile of rows apart.
fn floats(embed: &Embed, call: &Call<'_>, stored: Ty, widen: impl for<'k> Fn(Val<'k>) -> Val<'k>) {
    let (ids, table, y) = (call.arg(0), call.arg(1), call.arg(2));
    let (bytes, tile) = (i64::from(stored.bytes()), TILE as i64);
    let row_bytes = embed.width as i64 * bytes;
    call.for_tiles(|row| {
        let (id, to) = (entry(ids, row), row_at(y, row, embed.width));
        let from = table.at(id.div_u(tile) * (row_bytes * tile) + id.rem_u(tile) * bytes);
        each(call.b, 1, embed.width, |at| {
            at.store(to, widen(from.at(at.column * (tile * bytes)).load(stored, stored.bytes())));
        });
    });
}

/// A layer's weight of bytes times the scale of their group.
fn bytes<'k>(embed: &Embed, call: &Call<'k>, group: Group, scale: ScaleType) {
    let (ids, table, scales, y) = (call.arg(0), call.arg(1), call.arg(2), call.arg(3));
    let width = embed.width as usize;
    let (groups, tile) = (group.count(width) as i64, TILE as i64);
    call.for_tiles(|row| {
        let (id, to) = (entry(ids, row), row_at(y, row, embed.width));
        let (tile_of, row_of) = (id.div_u(tile), id.rem_u(tile));
        let from = table.at(tile_of * panel_bytes(width) as i64 + row_of * QUAD as i64);
        // A block's containers are eight vectors apart.
        each(call.b, 1, embed.width, |at| {
            let (block, within) = (at.column.div_u(BLOCK as i64), at.column.rem_u(BLOCK as i64));
            let (half, pair) = (within & 1, within.div_u(2));
            let quads = QUADS as i64;
            let place = ((block * 2 + half) * quads + pair.rem_u(quads)) * VECTOR as i64 + pair.div_u(quads);
            let signed = from.at(place).load(I8, 1) ^ -128;
            let scale = load_scale(scales, (tile_of * groups + group_of(group, at.column)) * tile + row_of, scale);
            at.store(to, signed.to(F32) * scale);
        });
    });
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Arg, numbers, rows, run};
    use super::*;
    use crate::linear::geometry;
    use half::{bf16, f16};
    use q35_format::{Codec, PackedSpec};
    use q35_target::Arrangement;

    const IDS: [i32; 5] = [20, 0, 3, 16, 3];
    const VOCAB: usize = 21;

    /// The canonical section, arranged, and its tail.
    fn arranged(arrangement: &Arrangement, canonical: &[u8]) -> Vec<u8> {
        let mut tiles = Vec::new();
        for rows in canonical.chunks(arrangement.tile_rows * arrangement.row_bytes) {
            let mut tile = vec![0; arrangement.tile_bytes];
            arrangement.arrange(rows, &mut tile);
            tiles.extend(tile);
        }
        tiles
    }

    /// Runs both arrangements of a table given by its canonical sections.
    fn check(table: Table, codec: Codec, width: usize, codes: &[u8], scales: &[u8], exact: impl Fn(usize, usize) -> f32) {
        let expected: Vec<f32> =
            IDS.iter().flat_map(|&id| (0..width).map(|col| exact(id as usize, col)).collect::<Vec<_>>()).collect();
        let mut spec = PackedSpec::new(VOCAB, width, codec, Group::Row).unwrap();
        if let Table::Q8(group, scale) = table {
            spec = PackedSpec::new(VOCAB, width, codec, group).unwrap().with_scale(scale).unwrap();
        }
        for as_weight in [false, true] {
            let mut args = vec![Arg::ints(&IDS)];
            if as_weight {
                args.push(Arg::bytes(&arranged(&geometry::codes(&spec), codes)));
            } else {
                args.push(Arg::bytes(codes));
            }
            if !scales.is_empty() {
                let tiles = arranged(&geometry::scales(&spec), scales);
                args.push(Arg::bytes(if as_weight { &tiles } else { scales }));
            }
            args.push(Arg::zeros(IDS.len(), width));
            run(&Embed { width: width as u64, table, as_weight }, args, [5, 0, 0, 0], 5, |level, args| {
                assert_eq!(rows(args.last().unwrap(), width), expected, "{table:?} {as_weight} {level:?} {width}");
            });
        }
    }

    #[test]
    fn float_tables() {
        for width in [1, 16, 35] {
            let values = numbers(VOCAB * width, 3.0);
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_ne_bytes()).collect();
            check(Table::F32, Codec::F32, width, &bytes, &[], |id, col| values[id * width + col]);
            let halves: Vec<f16> = values.iter().map(|&v| f16::from_f32(v)).collect();
            let bytes: Vec<u8> = halves.iter().flat_map(|v| v.to_ne_bytes()).collect();
            check(Table::F16, Codec::F16, width, &bytes, &[], |id, col| halves[id * width + col].to_f32());
            let brains: Vec<bf16> = values.iter().map(|&v| bf16::from_f32(v)).collect();
            let bytes: Vec<u8> = brains.iter().flat_map(|v| v.to_ne_bytes()).collect();
            check(Table::Bf16, Codec::Bf16, width, &bytes, &[], |id, col| brains[id * width + col].to_f32());
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
                let bytes: Vec<u8> = scales.iter().flat_map(|v| v.to_ne_bytes()).collect();
                let table = Table::Q8(group, ScaleType::F32);
                check(table, Codec::Q8, width, &codes, &bytes, |id, col| exact(&|i| scales[i], id, col));
                let halves: Vec<f16> = scales.iter().map(|&v| f16::from_f32(v)).collect();
                let bytes: Vec<u8> = halves.iter().flat_map(|v| v.to_ne_bytes()).collect();
                let table = Table::Q8(group, ScaleType::F16);
                check(table, Codec::Q8, width, &codes, &bytes, |id, col| exact(&|i| halves[i].to_f32(), id, col));
            }
        }
    }
}

//! Many rows: a tile's streams are decoded once into memory that stays in the cache, then multiplied with every row.
//!
//! The decoded tile is laid out as stored 8-bit weights are, so that both share the multiplication.

use super::decode::{Decoder, biased};
use super::dot::BYTES;
use super::frame::{Frame, Tile};
use super::geometry::{BLOCK, QUADS, STREAM, TILE, blocks, panel_bytes, stream_stride};
use super::integer::{self, shape};
use super::rows::Span;
use crate::abi::Call;
use crate::level::Level;
use q35_format::Codec;
use q35_format::table::pairs;
use q35_mlir::builder::Val;
use q35_mlir::types::{I8, I32, I64};

/// Bytes of a vector of quads.
const VECTOR: i64 = 64;
/// Vectors of a block of a decoded tile.
const VECTORS: i64 = QUADS as i64;

/// Stored 8-bit weights, any number of rows.
pub(super) fn build_stored<'k>(call: &Call<'k>, f: &Frame<'k>) {
    f.for_tiles(call, |tile, rows| multiply(f, tile, rows, tile.codes));
}

/// Streams, any number of rows.
pub(super) fn build<'k>(call: &Call<'k>, f: &Frame<'k>, codec: Codec, window: u32) {
    let cols = f.linear.spec.cols();
    let panel = f.b.alloca(panel_bytes(cols) as u32, 64);
    let decode = decoder(f, codec, window);
    f.for_tiles(call, |tile, rows| {
        f.b.for_(0, blocks(cols) as i64, 1, |block| decode(tile.codes, panel, block));
        multiply(f, tile, rows, panel);
    });
}

fn multiply<'k>(f: &Frame<'k>, tile: &Tile<'k>, rows: Span<'k>, panel: Val<'k>) {
    f.for_chunks(rows, shape(f.level).rows, |chunk| integer::tile(f, tile, panel, chunk));
}

/// Decodes one block (the last argument) of sixteen streams (the first) into a panel (the second).
type Decode<'k> = Box<dyn Fn(Val<'k>, Val<'k>, Val<'k>) + 'k>;

fn decoder<'k>(f: &Frame<'k>, codec: Codec, window: u32) -> Decode<'k> {
    let (b, cols) = (f.b, f.linear.spec.cols());
    let stride = stream_stride(cols) as i64;
    let last = blocks(cols) as i64 - 1;
    // Where a row ends inside a block, zeros follow it. Where it fills the block, the next row's bits do.
    let ends_with_block = cols.next_multiple_of(2).is_multiple_of(BLOCK);
    match f.level {
        Level::Avx512 => {
            let decoder = Decoder::new(b, codec, window);
            let stage = b.alloca(2 * (TILE * 64) as u32, 64);
            Box::new(move |streams, panel, block| {
                let follows = ends_with_block.then(|| block.ne(last));
                b.for_(0, TILE as i64, 1, |row| {
                    let halves = decoder.block(streams.at(row * stride + block * STREAM as i64), follows);
                    for (half, weights) in halves.into_iter().enumerate() {
                        stage.at((row + (half * TILE) as i64) * VECTOR).store(weights, 64);
                    }
                });
                b.for_(0, 2, 1, |half| {
                    let rows = stage.at(half * (TILE as i64 * VECTOR));
                    let rows = (0..TILE).map(|row| rows.at(row as i64 * VECTOR).load(I32.x(16), 64)).collect();
                    let quads = panel.at((block * VECTORS + half * (VECTORS / 2)) * VECTOR);
                    for (quad, vector) in transpose(rows).into_iter().enumerate() {
                        quads.at(quad as i64 * VECTOR).store(vector.bitcast(BYTES), 64);
                    }
                });
            })
        }
        Level::Base => {
            let table: Vec<u8> = pairs(codec).iter().flatten().map(|&weight| biased(codec, weight)).collect();
            let table = b.table(&table, 64);
            Box::new(move |streams, panel, block| {
                b.for_(0, TILE as i64, 1, |row| {
                    let stream = streams.at(row * stride + block * STREAM as i64);
                    let quads = panel.at(block * (VECTORS * VECTOR) + row * 4);
                    b.for_(0, 8, 1, |seven| {
                        let mut bits = stream.at(seven * 7).load(I64, 1);
                        if ends_with_block && window > 7 {
                            let ends = block.eq(last) & seven.eq(7);
                            bits = ends.select(bits & ((1 << 56) - 1), bits);
                        }
                        for container in 0..8i64 {
                            let window = bits.shr_u(7 * container) & ((1 << window) - 1);
                            let quad = quads.at((seven * 2 + container / 4) * VECTOR + container % 4);
                            for half in 0..2 {
                                let weight = table.at(window * 2 + half).load(I8, 1);
                                quad.at(half * (VECTORS / 2 * VECTOR)).store(weight, 1);
                            }
                        }
                    });
                });
            })
        }
    }
}

/// The columns of a 16x16 matrix given by rows: vectors of 32-bit lanes.
fn transpose(rows: Vec<Val<'_>>) -> Vec<Val<'_>> {
    // Each round exchanges one bit of the row number with one bit of the lane number.
    [1usize, 2, 4, 8].into_iter().fold(rows, |rows, bit| {
        let lanes = |high: usize| -> Vec<u32> {
            (0..TILE)
                .map(|lane| ((lane & !bit) | if high == 1 { bit } else { 0 }) as u32 + if lane & bit != 0 { 16 } else { 0 })
                .collect()
        };
        let (low, high) = (lanes(0), lanes(1));
        (0..TILE)
            .map(|row| {
                let (a, b) = (rows[row & !bit], rows[row | bit]);
                a.shuffle(b, if row & bit == 0 { &low } else { &high })
            })
            .collect()
    })
}

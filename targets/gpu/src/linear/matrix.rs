//! 3.5-bit and 8-bit weights: matrix instructions on weights that are decoded on the way.
//!
//! A group computes 16 outputs for all tokens. Its waves share the columns: wave `w` of `n` takes blocks `w`, `w + n`, ...; while it
//! decodes and multiplies one block, the next is on its way. At the end the waves' sums meet in shared memory and are added in the order of
//! waves. Scales of rows are applied to the sums, those of groups of columns to the weights, as halves.

use super::Linear;
use super::fragment::{Held, Source, tokens};
use super::geometry::{SPAN, STEPS, TILE, blocks, packed_stride};
use super::weights::{self, Tile};
use crate::abi::Call;
use crate::group::Team;
use crate::isa::{COLUMNS, PARTS};
use q35_format::{Group, PackedSpec, ScaleType};
use q35_mlir::builder::Val;
use q35_mlir::types::{F16, F32};

/// The most waves of a group.
const WAVES: usize = 8;

/// Waves that share the columns of a layer.
pub(super) fn waves(spec: &PackedSpec) -> u32 {
    blocks(spec.cols()).min(WAVES) as u32
}

/// `instructions`: how many matrix instructions, each on other tokens, share a decoded weight.
pub(super) fn build<'k>(call: &Call<'k>, linear: &Linear, instructions: u32) {
    let (b, spec, matrix) = (call.b, &linear.spec, call.isa.matrix());
    let (blocks, waves) = (blocks(spec.cols()), i64::from(call.waves()));
    let source = Source::new(call, spec.codec());
    let tile = weights::tile(call, linear, TILE);
    let tile_bytes = super::geometry::codes(spec, matrix).tile_bytes as i64;
    let codes = tile.codes.at(tile.number * tile_bytes);
    let (of_lane, part) = matrix.place(call.lane());
    let count = call.dim(linear.rows.dim());
    let together = i64::from(instructions * matrix.tokens);
    let sums_of_wave = i64::from(instructions * matrix.tokens) * TILE as i64 * 4;
    let shared = b.shared((waves * sums_of_wave) as u32, 16);

    b.for_(0, count, together, |first| {
        // Lanes whose token does not exist multiply the last one again; nobody reads their sums.
        let token = |at: u32| (first + (of_lane + i64::from(at * matrix.tokens))).min(count - 1);
        let rows: Vec<Val<'k>> =
            (0..instructions).map(|at| call.arg(0).at(token(at) * packed_stride(spec.cols()) as i64)).collect();
        let places = call.isa.sums(call.lane());
        let zero = vec![vec![b.f32(0.0); places.len()]; instructions as usize];
        let held = source.load(call, codes, call.wave(), blocks);
        let (sums, _) = b.for_iter(call.wave(), blocks as i64, waves, (zero, held), |block, (mut sums, held)| {
            let next = block + waves;
            let next = next.lt(blocks as i64).select(next, block);
            let coming = source.load(call, codes, next, blocks);
            let scales = group_scales(call, spec, &tile, of_lane, block * i64::from(PARTS) + part);
            for step in (0..STEPS).step_by(2) {
                let x: Vec<[Val<'k>; 2]> = rows.iter().map(|&row| tokens(row, part, block, step)).collect();
                for half in 0..2 {
                    let mut weights = source.weights(&held, step + half);
                    if let Some(scales) = &scales {
                        weights = weights.iter().zip(scales).map(|(&weight, &scale)| weight * scale).collect();
                    }
                    for (sums, x) in sums.iter_mut().zip(&x) {
                        *sums = call.isa.multiply(&weights, x[half], sums);
                    }
                }
            }
            (sums, coming)
        });

        // Those who still read the sums of the tokens before are waited for.
        call.barrier();
        let own = shared.at(call.wave() * sums_of_wave);
        for (at, sums) in (0..).zip(&sums) {
            for (&sum, &(row, token)) in sums.iter().zip(&places) {
                own.at(((token + i64::from(at * matrix.tokens)) * TILE as i64 + row) * 4).store(sum, 4);
            }
        }
        call.barrier();
        let wanted = (count - first).min(together) * TILE as i64;
        call.each(Team::Group, wanted, |at| {
            let sum = |wave: i64| shared.at(at * 4 + wave * sums_of_wave).load(F32, 4);
            let sum = (1..waves).fold(sum(0), |all, wave| all + sum(wave));
            let output = tile.number * TILE as i64 + at.rem_u(TILE as i64);
            b.if_(output.lt(tile.outputs), || finish(spec, &tile, first + at.div_u(TILE as i64), output, sum));
        });
    });
}

/// Scale, bias, and the result in its place.
fn finish<'k>(spec: &PackedSpec, tile: &Tile<'k>, token: Val<'k>, output: Val<'k>, sum: Val<'k>) {
    let scale = match (tile.scales, spec.group()) {
        (Some(scales), Group::Row) => Some(match spec.scale() {
            ScaleType::F16 => scales.at(output * 2).load(F16, 2).to(F32),
            ScaleType::F32 => scales.at(output * 4).load(F32, 4),
        }),
        _ => None,
    };
    let scaled = scale.map_or(sum, |scale| sum * scale);
    let y = tile.bias.map_or(scaled, |bias| scaled + bias.at(output * 4).load(F32, 4));
    tile.y.at(token * tile.stride + output * 4).store(y, 4);
}

/// The scales of a lane's rows in the 64 columns number `span`, where scales are those of columns; past the last column they count for nothing.
fn group_scales<'k>(call: &Call<'k>, spec: &PackedSpec, tile: &Tile<'k>, row: Val<'k>, span: Val<'k>) -> Option<Vec<Val<'k>>> {
    let (Group::Columns(columns), Some(scales)) = (spec.group(), tile.scales) else { return None };
    let group = (span * SPAN as i64).div_u(i64::from(columns)).min(spec.groups() as i64 - 1);
    let first = (tile.number * spec.groups() as i64 + group) * TILE as i64 + row;
    let lane_rows = call.isa.matrix().lane_rows;
    let scale = |at: u32| {
        let place = first + i64::from(at * TILE as u32 / lane_rows);
        scales.at(place * 2).load(F16, 2).splat(COLUMNS)
    };
    Some((0..lane_rows).map(scale).collect())
}

impl<'k> q35_mlir::builder::Carry<'k> for Held<'k> {
    fn values(&self) -> Vec<Val<'k>> {
        [self.words.values(), self.next.values()].concat()
    }

    fn with(&self, values: &mut dyn Iterator<Item = Val<'k>>) -> Self {
        Held { words: self.words.with(values), next: self.next.with(values) }
    }
}

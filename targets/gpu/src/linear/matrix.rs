//! 3.5-bit and 8-bit weights: matrix instructions on weights that are decoded on the way.
//!
//! The sum of an output has as many parts as a layer has *strands*: strand `s` of `n` adds up blocks `s`, `s + n`, ... of the columns, and the
//! strands are added in their order. Who computes them is the kernel's choice, and changes no bit:
//!
//! | division | a group of threads computes | its waves |
//! | --- | --- | --- |
//! | [`Division::Columns`] | 16 outputs for all tokens | a strand each; they meet in shared memory |
//! | [`Division::Rows`] | 16 outputs per wave for a share of the tokens | all strands of their own outputs, one after the other |
//!
//! The first keeps many loads of weights on their way, which is what few tokens need; the second decodes a weight for many tokens, and its
//! waves find each other's activations in the nearest cache. Where columns are divided, a wave's next block is on its way while it decodes
//! and multiplies one; where rows are, its registers hold sums instead, and other waves fill the time.
//! Scales of rows are applied to the sums, those of groups of columns to the weights, as halves.

use super::fragment::{Held, Source, seats, tokens};
use super::geometry::{SPAN, STEPS, TILE, blocks, packed_stride};
use super::rows::{Part, Rows};
use super::weights::{self, Tile};
use super::{LinearKernel, Variant};
use crate::abi::Call;
use crate::group::Team;
use crate::isa::{COLUMNS, PARTS};
use q35_format::{Group, PackedSpec, ScaleType};
use q35_launch::spec::Linear;
use q35_mlir::builder::{Carry, Val};
use q35_mlir::types::{F16, F32};

/// The most strands of a layer.
const STRANDS: usize = 8;
/// Waves of a group that divides rows.
const ROW_WAVES: u32 = 8;
/// Groups among which the tokens are shared where rows are divided.
const TOKEN_GROUPS: i64 = 8;

/// Matrix instructions whose activations are loaded at once.
const AHEAD: usize = 4;

/// How a group's waves share its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Division {
    /// By columns of the weight.
    Columns,
    /// By rows of the weight.
    Rows,
}

/// Strands of a layer.
fn strands(spec: &PackedSpec) -> u32 {
    blocks(spec.cols()).min(STRANDS) as u32
}

/// Waves of a group.
pub(super) fn waves(spec: &PackedSpec, variant: Variant) -> u32 {
    match variant.division() {
        Division::Columns => strands(spec),
        Division::Rows => ROW_WAVES,
    }
}

/// Outputs of a group.
pub(super) fn rows(variant: Variant) -> usize {
    match variant.division() {
        Division::Columns => TILE,
        Division::Rows => TILE * ROW_WAVES as usize,
    }
}

/// Groups that share the tokens.
pub(super) fn token_groups(variant: Variant) -> i64 {
    match variant.division() {
        Division::Columns => 1,
        Division::Rows => TOKEN_GROUPS,
    }
}

pub(super) fn build<'k>(call: &Call<'k>, kernel: &LinearKernel) {
    let LinearKernel { linear, variant } = kernel;
    let groups = token_groups(*variant);
    let part = Part::new(call, kernel, call.tile.div_u(groups), linear.tiles(rows(*variant)));
    let body = || {
        let source = Source::new(call, linear.spec.codec());
        let tile = weights::tile(call, linear, rows(*variant), &part);
        let (division, instructions) = (variant.division(), variant.instructions());
        let columns = Columns { call, linear, rows: part.rows, source, instructions, division };
        match division {
            Division::Columns => by_columns(&columns, &tile),
            Division::Rows => by_rows(&columns, &tile, call.tile.rem_u(groups)),
        }
    };
    match part.expert {
        None => body(),
        // Most experts of a step have no rows.
        Some(_) => call.b.if_(part.rows.count.gt(0), body),
    }
}

/// Sums of a lane: for each matrix instruction on other tokens, those of its rows and tokens.
type Sums<'k> = Vec<Vec<Val<'k>>>;

/// The columns of a layer, for some tokens at a time.
struct Columns<'a, 'k> {
    call: &'a Call<'k>,
    linear: &'a Linear,
    /// The rows that meet the weight; they are called tokens here.
    rows: Rows<'k>,
    source: Source<'k>,
    /// Matrix instructions, each on other tokens, that share a decoded weight.
    instructions: u32,
    division: Division,
}

impl<'k> Columns<'_, 'k> {
    /// Tokens at a time.
    fn together(&self) -> i64 {
        i64::from(self.instructions * self.call.isa.matrix().tokens)
    }

    fn tokens(&self) -> Val<'k> {
        self.rows.count
    }

    fn zero(&self) -> Sums<'k> {
        let places = self.call.isa.sums(self.call.lane()).len();
        vec![vec![self.call.b.f32(0.0); places]; self.instructions as usize]
    }

    /// What strand `strand` adds to 16 outputs, for the tokens from `first` on.
    fn strand(&self, tile: &Tile<'k>, number: Val<'k>, first: Val<'k>, strand: Val<'k>) -> Sums<'k> {
        let (call, spec) = (self.call, &self.linear.spec);
        let matrix = call.isa.matrix();
        let (blocks, strands) = (blocks(spec.cols()), i64::from(strands(spec)));
        let codes = tile.codes.at(number * super::geometry::codes(spec, matrix).tile_bytes as i64);
        let (of_lane, _) = matrix.place(call.lane());
        // Lanes whose token does not exist multiply the last one again; nobody reads their sums.
        let last = self.tokens() - 1;
        let token = |at: u32| (first + (of_lane + i64::from(at * matrix.tokens))).min(last);
        let x = |at: u32| call.arg(0).at(self.rows.of_x(token(at)) * packed_stride(spec.cols()) as i64);
        let rows: Vec<Val<'k>> = (0..self.instructions).map(x).collect();
        let parts = call.isa.token_parts(call.lane());
        let block_sums = |block: Val<'k>, held: &Held<'k>, mut sums: Sums<'k>| {
            let scales = group_scales(call, spec, tile, number, block);
            // Lanes that give whole rows of tokens hold the most of them.
            let whole = parts.len() > 1;
            let ahead = if whole { AHEAD / 2 } else { AHEAD };
            let hold = self.division == Division::Rows || whole;
            let mut block = block;
            for step in (0..STEPS).step_by(2) {
                if hold && step > 0 && step % ahead == 0 {
                    let done: Vec<Val<'k>> = sums.iter().map(|of_instruction| of_instruction[0]).collect();
                    block = call.isa.hold_loads(block, &done);
                }
                let columns = |&row: &Val<'k>| parts.iter().map(|&part| tokens(row, part, block, step)).collect();
                let x: Vec<Vec<[Val<'k>; 2]>> = rows.iter().map(columns).collect();
                for half in 0..2 {
                    let mut weights = self.source.weights(held, step + half);
                    if let Some(scales) = &scales {
                        weights = weights.iter().zip(scales).map(|(&weight, &scale)| weight * scale).collect();
                    }
                    for (sums, x) in sums.iter_mut().zip(&x) {
                        let x: Vec<Val<'k>> = x.iter().map(|of_part| of_part[half]).collect();
                        *sums = call.isa.multiply(&weights, &x, sums);
                    }
                }
            }
            sums
        };
        let load = |block: Val<'k>| self.source.load(call, codes, block, blocks);
        if self.division == Division::Rows {
            return call
                .b
                .for_iter(strand, blocks as i64, strands, self.zero(), |block, sums| block_sums(block, &load(block), sums));
        }
        let start = (self.zero(), load(strand));
        let (sums, _) = call.b.for_iter(strand, blocks as i64, strands, start, |block, (sums, held)| {
            let next = block + strands;
            let coming = load(next.lt(blocks as i64).select(next, block));
            (block_sums(block, &held, sums), coming)
        });
        sums
    }
}

/// A wave per strand.
fn by_columns<'k>(columns: &Columns<'_, 'k>, tile: &Tile<'k>) {
    let (call, b, spec) = (columns.call, columns.call.b, &columns.linear.spec);
    let (waves, together, count) = (i64::from(call.waves()), columns.together(), columns.tokens());
    let sums_of_wave = together * TILE as i64 * 4;
    let shared = b.shared((waves * sums_of_wave) as u32, 16);
    let places = call.isa.sums(call.lane());
    b.for_(0, count, together, |first| {
        let sums = columns.strand(tile, tile.number, first, call.wave());
        // Those who still read the sums of the tokens before are waited for.
        call.barrier();
        let own = shared.at(call.wave() * sums_of_wave);
        for (at, sums) in (0..).zip(&sums) {
            for (&sum, &(row, token)) in sums.iter().zip(&places) {
                let token = token + i64::from(at * call.isa.matrix().tokens);
                own.at((token * TILE as i64 + row) * 4).store(sum, 4);
            }
        }
        call.barrier();
        let wanted = (count - first).min(together) * TILE as i64;
        call.each(Team::Group, wanted, |at| {
            let sum = |wave: i64| shared.at(at * 4 + wave * sums_of_wave).load(F32, 4);
            let sum = (1..waves).fold(sum(0), |all, wave| all + sum(wave));
            let output = tile.number * TILE as i64 + at.rem_u(TILE as i64);
            b.if_(output.lt(tile.outputs), || {
                finish(spec, tile, columns.rows.of_y(first + at.div_u(TILE as i64)), output, sum);
            });
        });
    });
}

/// A wave per 16 outputs, for the tokens that are the group's share.
fn by_rows<'k>(columns: &Columns<'_, 'k>, tile: &Tile<'k>, share: Val<'k>) {
    let (call, b, spec) = (columns.call, columns.call.b, &columns.linear.spec);
    let (together, count) = (columns.together(), columns.tokens());
    let number = tile.number * i64::from(ROW_WAVES) + call.wave();
    let places = call.isa.sums(call.lane());
    b.if_((number * TILE as i64).lt(tile.outputs), || {
        b.for_(share * together, count, together * TOKEN_GROUPS, |first| {
            let strands = i64::from(strands(spec));
            let start = columns.strand(tile, number, first, b.i64(0));
            let sums = b.for_iter(1, strands, 1, start, |strand, all| {
                let more = columns.strand(tile, number, first, strand).values();
                let sums: Vec<Val<'k>> = all.values().into_iter().zip(more).map(|(sum, more)| sum + more).collect();
                all.with(&mut sums.into_iter())
            });
            for (at, sums) in (0..).zip(&sums) {
                for (&sum, &(row, token)) in sums.iter().zip(&places) {
                    let token = first + token + i64::from(at * call.isa.matrix().tokens);
                    let output = number * TILE as i64 + row;
                    b.if_(token.lt(count) & output.lt(tile.outputs), || {
                        finish(spec, tile, columns.rows.of_y(token), output, sum)
                    });
                }
            }
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

/// The scales of the rows of a lane's seats in a block, where scales are those of columns; past the last column they count for nothing.
fn group_scales<'k>(
    call: &Call<'k>,
    spec: &PackedSpec,
    tile: &Tile<'k>,
    number: Val<'k>,
    block: Val<'k>,
) -> Option<Vec<Val<'k>>> {
    let (Group::Columns(columns), Some(scales)) = (spec.group(), tile.scales) else { return None };
    let matrix = call.isa.matrix();
    let of_seat = |seat: Val<'k>| {
        let (row, part) = matrix.place(seat);
        let span = block * i64::from(PARTS) + part;
        let group = (span * SPAN as i64).div_u(i64::from(columns)).min(spec.groups() as i64 - 1);
        let first = (number * spec.groups() as i64 + group) * TILE as i64 + row;
        (0..matrix.seat_rows).map(move |at| {
            let place = first + i64::from(at * TILE as u32 / matrix.seat_rows);
            scales.at(place * 2).load(F16, 2).splat(COLUMNS)
        })
    };
    Some(seats(call).flat_map(of_seat).collect())
}

impl<'k> Carry<'k> for Held<'k> {
    fn values(&self) -> Vec<Val<'k>> {
        [self.words.values(), self.next.values()].concat()
    }

    fn with(&self, values: &mut dyn Iterator<Item = Val<'k>>) -> Self {
        Held { words: self.words.with(values), next: self.next.with(values) }
    }
}

//! The arguments of a linear kernel: whose tile a group computes, and where what belongs to it lies.

use super::geometry;
use super::rows::Part;
use crate::abi::Call;
use q35_launch::layout::act_stride;
use q35_launch::spec::Linear;
use q35_mlir::builder::Val;
use q35_mlir::types::I64;

/// A tile of one of a layer's weights.
#[derive(Clone, Copy)]
pub(super) struct Tile<'k> {
    /// The weight's codes.
    pub(super) codes: Val<'k>,
    /// Its scales.
    pub(super) scales: Option<Val<'k>>,
    /// Its bias.
    pub(super) bias: Option<Val<'k>>,
    /// The outputs of the first token.
    pub(super) y: Val<'k>,
    /// Bytes from one token's outputs to the next one's, i64.
    pub(super) stride: Val<'k>,
    /// Outputs of the weight, i64.
    pub(super) outputs: Val<'k>,
    /// The tile's number among those of its weight, i64.
    pub(super) number: Val<'k>,
}

impl<'k> Tile<'k> {
    /// This tile where `holds`, else the other one.
    fn or(self, holds: Val<'k>, other: Self) -> Self {
        let optional = |this: Option<Val<'k>>, other: Option<Val<'k>>| Some(holds.select(this?, other?));
        Tile {
            codes: holds.select(self.codes, other.codes),
            scales: optional(self.scales, other.scales),
            bias: optional(self.bias, other.bias),
            y: holds.select(self.y, other.y),
            stride: holds.select(self.stride, other.stride),
            outputs: holds.select(self.outputs, other.outputs),
            number: holds.select(self.number, other.number),
        }
    }
}

/// The tile of a part of a layer; tiles have `rows` outputs, those of the first weight come first.
pub(super) fn tile<'k>(call: &Call<'k>, linear: &Linear, rows: usize, part: &Part<'k>) -> Tile<'k> {
    let mut args = (linear.inputs()..).map(|at| call.arg(at));
    let number = part.tile;
    // Weights, scales and biases of experts lie one after the other.
    let of_expert = |start: Val<'k>, bytes: usize| part.expert.map_or(start, |expert| start.at(expert * bytes as i64));
    let mut argument = || args.next().unwrap_or_else(|| unreachable!("there is always one more argument"));
    let mut first = 0;
    let mut found: Option<Tile<'k>> = None;
    for outputs in linear.outputs() {
        let sizes = geometry::sizes(&linear.spec, outputs, call.isa.matrix());
        let codes = of_expert(argument(), sizes.codes);
        let scales = linear.takes_operand().then(|| of_expert(argument(), sizes.scales));
        let bias = linear.bias.then(|| of_expert(argument(), act_stride(outputs)));
        let constant = |n: usize| call.b.constant(I64, n as i64);
        let this = Tile {
            codes,
            scales,
            bias,
            y: argument(),
            stride: constant(act_stride(outputs)),
            outputs: constant(outputs),
            number: number - first,
        };
        found = Some(found.map_or(this, |before| this.or(number.ge(first), before)));
        first += outputs.div_ceil(rows) as i64;
    }
    found.unwrap_or_else(|| unreachable!("a layer has a weight"))
}

//! Which rows meet which weights.
//!
//! In a plain layer every row meets every tile. In a layer of experts the tiles of outputs come once per routed row, or once per expert, for
//! the rows that a sorting kernel has listed.

use super::{LinearKernel, Variant};
use crate::abi::Call;
use q35_launch::layout::{entry, routing_stride};
use q35_mlir::builder::Val;

/// A group's part of a layer: a tile, of an expert where there are experts, and the rows that meet it.
pub(super) struct Part<'k> {
    /// The tile's number among those of all weights, or of all of an expert's, i64.
    pub(super) tile: Val<'k>,
    /// The expert, i64.
    pub(super) expert: Option<Val<'k>>,
    /// The rows.
    pub(super) rows: Rows<'k>,
}

/// Rows that meet a tile, by number from 0 on.
#[derive(Clone, Copy)]
pub(super) struct Rows<'k> {
    /// How many there are, i64.
    pub(super) count: Val<'k>,
    kind: Kind<'k>,
    /// Routed rows that share a row of x.
    share: i64,
}

#[derive(Clone, Copy)]
enum Kind<'k> {
    /// All of them.
    All,
    /// One routed row.
    One(Val<'k>),
    /// Those of a list.
    Listed(Val<'k>),
}

impl<'k> Part<'k> {
    /// The part of a layer that is number `number` of `tiles` per expert or row.
    pub(super) fn new(call: &Call<'k>, kernel: &LinearKernel, number: Val<'k>, tiles: u64) -> Self {
        let (b, tiles) = (call.b, tiles as i64);
        let (_, choices) = kernel.linear.rows.section();
        let choices = choices as i64;
        let rows = call.dim(kernel.linear.rows.dim());
        let Some(experts) = kernel.linear.experts else {
            return Part { tile: number, expert: None, rows: Rows { count: rows * choices, kind: Kind::All, share: 1 } };
        };
        let share = if experts.shared { choices } else { 1 };
        if kernel.variant == Variant::Single {
            let row = number.div_u(tiles);
            let routing = call.arg(1).at(row.div_u(choices) * routing_stride(choices as usize) as i64);
            let rows = Rows { count: b.i64(1), kind: Kind::One(row), share };
            return Part { tile: number.rem_u(tiles), expert: Some(entry(routing, row.rem_u(choices))), rows };
        }
        let expert = number.rem_u(experts.count as i64);
        let (order, starts) = (call.arg(2), call.arg(2).at(rows * (4 * choices)));
        let (first, end) = (entry(starts, expert), entry(starts, expert + 1));
        let rows = Rows { count: end - first, kind: Kind::Listed(order.at(first * 4)), share };
        Part { tile: number.div_u(experts.count as i64), expert: Some(expert), rows }
    }
}

impl<'k> Rows<'k> {
    /// The row of y that is row `at` here.
    pub(super) fn of_y(&self, at: Val<'k>) -> Val<'k> {
        match self.kind {
            Kind::All => at,
            Kind::One(row) => row,
            Kind::Listed(list) => entry(list, at),
        }
    }

    /// The row of x that is row `at` here.
    pub(super) fn of_x(&self, at: Val<'k>) -> Val<'k> {
        let row = self.of_y(at);
        if self.share == 1 { row } else { row.div_u(self.share) }
    }
}

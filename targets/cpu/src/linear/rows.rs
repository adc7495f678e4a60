//! Which rows meet which weights.
//!
//! In a plain layer every row meets every tile. In a layer of experts the tiles of outputs come once per routed row, or once per
//! expert; neighbouring tiles are those of one place in all the weights, so that every range of tiles is as much work as any other of its
//! length, and an expert that several rows chose is read while it is near.

use super::{Experts, LinearKernel, Variant};
use crate::abi::Call;
use q35_launch::layout::routing_stride;
use q35_mlir::builder::{Builder, Val};
use q35_mlir::types::{I32, I64};

/// A tile of a call: some outputs of some rows.
pub(super) struct Part<'k> {
    /// The tile of outputs, over all weights of the layer.
    pub(super) tile: Val<'k>,
    /// Whose weights.
    pub(super) expert: Option<Val<'k>>,
    /// The rows, as positions in an order that [`RowOrder::row`] knows.
    pub(super) rows: Span<'k>,
}

/// Positions `from..to`.
#[derive(Clone, Copy)]
pub(super) struct Span<'k> {
    pub(super) from: Val<'k>,
    pub(super) to: Val<'k>,
}

/// The order in which a kernel goes through rows.
pub(super) enum RowOrder<'k> {
    /// As they lie, all for every tile.
    Plain {
        /// Rows.
        count: Val<'k>,
    },
    /// As they lie, one for a tile.
    Single {
        /// Routed rows.
        count: Val<'k>,
        experts: Experts,
        choices: i64,
        /// The routing.
        routing: Val<'k>,
    },
    /// By expert, one expert for a tile.
    Sorted {
        experts: Experts,
        choices: i64,
        /// The routed rows by expert.
        order: Val<'k>,
        /// Where each expert's rows begin.
        starts: Val<'k>,
    },
}

impl<'k> RowOrder<'k> {
    /// That of a kernel whose routing, if it has one, is arguments 1 and 2.
    pub(super) fn new(call: &Call<'k>, kernel: &LinearKernel) -> Self {
        let (section, each) = kernel.linear.rows.section();
        let (count, choices) = (call.dim(section.dim()) * each as i64, each as i64);
        match (kernel.linear.experts, kernel.variant) {
            (None, _) => Self::Plain { count },
            (Some(experts), Variant::Single) => Self::Single { count, experts, choices, routing: call.arg(1) },
            (Some(experts), Variant::Few | Variant::Many) => {
                let order = call.arg(2);
                Self::Sorted { experts, choices, order, starts: order.at(count * 4) }
            }
        }
    }

    /// `body(part)` for every tile of a call. Where no row meets a weight, it is not read.
    pub(super) fn for_parts(&self, call: &Call<'k>, body: impl FnOnce(Part<'k>)) {
        let b = call.b;
        call.for_tiles(|number| match *self {
            Self::Plain { count } => body(Part { tile: number, expert: None, rows: Span { from: b.i64(0), to: count } }),
            Self::Single { count, choices, routing, .. } => {
                let row = number.rem_u(count);
                let chosen = routing.at(row.div_u(choices) * routing_stride(choices as usize) as i64);
                let expert = entry(chosen, row.rem_u(choices));
                body(Part { tile: number.div_u(count), expert: Some(expert), rows: Span { from: row, to: row + 1 } });
            }
            Self::Sorted { experts, starts, .. } => {
                let expert = number.rem_u(experts.count as i64);
                let rows = Span { from: entry(starts, expert), to: entry(starts, expert + 1) };
                let tile = number.div_u(experts.count as i64);
                b.if_(rows.from.lt(rows.to), || body(Part { tile, expert: Some(expert), rows }));
            }
        });
    }

    /// The row of x and the row of y at a position.
    pub(super) fn row(&self, position: Val<'k>) -> [Val<'k>; 2] {
        let routed = match *self {
            Self::Plain { .. } | Self::Single { .. } => position,
            Self::Sorted { order, .. } => entry(order, position),
        };
        match *self {
            Self::Single { experts, choices, .. } | Self::Sorted { experts, choices, .. } if experts.shared => {
                [routed.div_u(choices), routed]
            }
            _ => [routed, routed],
        }
    }
}

impl<'k> Span<'k> {
    /// `body(positions)` over all positions, as many at a time as the first of `sizes` says, the rest as the next one says; the last size
    /// is 1.
    pub(super) fn for_chunks(&self, b: &'k Builder<'k>, sizes: &[i64], mut body: impl FnMut(&[Val<'k>])) {
        debug_assert_eq!(sizes.last(), Some(&1));
        let mut from = self.from;
        for &size in sizes {
            let to = from + (self.to - from) / size * size;
            b.for_(from, to, size, |first| body(&(0..size).map(|at| first + at).collect::<Vec<_>>()));
            from = to;
        }
    }
}

/// Entry `at` of an i32 array, as i64.
fn entry<'k>(array: Val<'k>, at: Val<'k>) -> Val<'k> {
    array.at(at * 4).load(I32, 4).to(I64)
}

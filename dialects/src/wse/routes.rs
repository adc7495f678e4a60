//! Colors and the ways they take. No PE sends and receives on one color of a chain: chains alternate between two.

use super::Program;

/// A color and what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Color {
    /// Its number.
    pub id: u8,
    /// Its name in the text.
    pub name: &'static str,
    /// What it carries.
    pub purpose: &'static str,
}

/// The colors of every program.
pub const COLORS: [Color; 8] = [
    Color { id: 0, name: "row_even", purpose: "partial sums, sent EAST by even columns" },
    Color { id: 1, name: "row_odd", purpose: "partial sums, sent EAST by odd columns" },
    Color { id: 2, name: "row_share", purpose: "sums, multicast WEST by the last column" },
    Color { id: 3, name: "column_even", purpose: "partial sums, sent SOUTH by even rows of a region" },
    Color { id: 4, name: "column_odd", purpose: "partial sums, sent SOUTH by odd rows of a region" },
    Color { id: 5, name: "column_share", purpose: "sums, multicast NORTH by the last row of a region" },
    Color { id: 6, name: "stream_even", purpose: "residual stream, sent SOUTH by even regions" },
    Color { id: 7, name: "stream_odd", purpose: "residual stream, sent SOUTH by odd regions" },
];

/// A direction at a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// To the row above.
    North,
    /// To the row below.
    South,
    /// To the next column.
    East,
    /// To the column before.
    West,
    /// To or from the PE itself.
    Ramp,
}

/// `start, start + step, ...` below `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First.
    pub start: u64,
    /// Behind the last.
    pub end: u64,
    /// Distance.
    pub step: u64,
}

impl Span {
    /// All of `start .. end`.
    pub fn all(start: u64, end: u64) -> Self {
        Self { start, end, step: 1 }
    }

    /// One.
    pub fn one(at: u64) -> Self {
        Self::all(at, at + 1)
    }

    fn every_second(start: u64, end: u64) -> Self {
        Self { start, end, step: 2 }
    }

    /// Whether it holds nothing.
    pub fn is_empty(self) -> bool {
        self.start >= self.end
    }

    /// Its members.
    pub fn iter(self) -> impl Iterator<Item = u64> {
        (self.start..self.end).step_by(self.step as usize)
    }
}

/// One color at the PEs of a grid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Index into [`COLORS`].
    pub color: usize,
    /// Columns.
    pub columns: Span,
    /// Rows.
    pub rows: Span,
    /// Where it comes from.
    pub rx: Direction,
    /// Where it goes.
    pub tx: Vec<Direction>,
}

/// One hop of every second link of a line of PEs `start .. end`, from the parity `parity` counted from `start`.
fn hops(start: u64, end: u64, parity: u64) -> (Span, Span) {
    (Span::every_second(start + parity, end.saturating_sub(1)), Span::every_second(start + parity + 1, end))
}

pub(super) fn routes(program: &Program) -> Vec<Route> {
    use Direction::{East, North, Ramp, South, West};
    let (width, height) = (program.width, program.height());
    let (columns, rows) = (Span::all(0, width), Span::all(0, height));
    let mut out = Vec::new();
    let mut add = |color: usize, columns: Span, rows: Span, rx: Direction, tx: &[Direction]| {
        if !columns.is_empty() && !rows.is_empty() {
            out.push(Route { color, columns, rows, rx, tx: tx.to_vec() });
        }
    };
    for parity in 0..2 {
        let (from, to) = hops(0, width, parity);
        add(parity as usize, from, rows, Ramp, &[East]);
        add(parity as usize, to, rows, West, &[Ramp]);
    }
    if width > 1 {
        add(2, Span::one(width - 1), rows, Ramp, &[West]);
        add(2, Span::all(1, width - 1), rows, East, &[Ramp, West]);
        add(2, Span::one(0), rows, East, &[Ramp]);
    }
    for (number, region) in program.regions.iter().enumerate() {
        let (top, end) = (region.top, region.top + region.height);
        for parity in 0..2 {
            let (from, to) = hops(top, end, parity);
            add(3 + parity as usize, columns, from, Ramp, &[South]);
            add(3 + parity as usize, columns, to, North, &[Ramp]);
        }
        if region.height > 1 {
            add(5, columns, Span::one(end - 1), Ramp, &[North]);
            add(5, columns, Span::all(top + 1, end - 1), South, &[Ramp, North]);
            add(5, columns, Span::one(top), South, &[Ramp]);
        }
        let (sends, receives) = (6 + number % 2, 6 + (number + 1) % 2);
        if number > 0 {
            add(receives, columns, Span::all(top, end - 1), North, &[Ramp, South]);
            add(receives, columns, Span::one(end - 1), North, &[Ramp]);
        }
        if number + 1 < program.regions.len() {
            add(sends, columns, Span::one(end - 1), Ramp, &[South]);
        }
    }
    out
}

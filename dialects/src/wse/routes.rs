//! Colors and the ways they take. No PE sends and receives on one color of a chain: chains alternate between two. A mixture of experts is a router
//! and its experts below it: a token goes to all of them at once, and the stream passes them one after the other, each adding what it made.

use super::{Program, Role};

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
pub const COLORS: [Color; 11] = [
    Color { id: 0, name: "row_even", purpose: "partial sums, sent EAST by even columns" },
    Color { id: 1, name: "row_odd", purpose: "partial sums, sent EAST by odd columns" },
    Color { id: 2, name: "row_share", purpose: "sums, multicast WEST by the last column" },
    Color { id: 3, name: "column_even", purpose: "partial sums, sent SOUTH by even rows of a region" },
    Color { id: 4, name: "column_odd", purpose: "partial sums, sent SOUTH by odd rows of a region" },
    Color { id: 5, name: "column_share", purpose: "sums, multicast NORTH by the last row of a region" },
    Color { id: 6, name: "stream_even", purpose: "residual stream, sent SOUTH by even regions" },
    Color { id: 7, name: "stream_odd", purpose: "residual stream, sent SOUTH by odd regions" },
    Color { id: 8, name: "token", purpose: "a token and its choices, multicast SOUTH by a router to its experts" },
    Color { id: 9, name: "root_even", purpose: "sums of groups, sent EAST by roots of even groups" },
    Color { id: 10, name: "root_odd", purpose: "sums of groups, sent EAST by roots of odd groups" },
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
    if width > 1 {
        add(2, Span::one(width - 1), rows, Ramp, &[West]);
        add(2, Span::all(1, width - 1), rows, East, &[Ramp, West]);
        add(2, Span::one(0), rows, East, &[Ramp]);
    }
    // Rows of equal groups, one below the other.
    let groups = program.regions.iter().map(|region| (program.kernels[region.kernel].group, region.top, region.height));
    let mut bands: Vec<(u64, u64, u64)> = Vec::new();
    for (group, top, height) in groups {
        match bands.last_mut() {
            Some((same, _, end)) if *same == group => *end = top + height,
            _ => bands.push((group, top, top + height)),
        }
    }
    for (group, top, end) in bands {
        let rows = Span::all(top, end);
        // Groups are even: what starts at an even column stays inside a group.
        let (from, to) = hops(0, width, 0);
        add(0, from, rows, Ramp, &[East]);
        add(0, to, rows, West, &[Ramp]);
        let within = (1..group.saturating_sub(1)).step_by(2).filter(|_| group < width);
        for at in within {
            add(1, Span { start: at, end: width - 1, step: group }, rows, Ramp, &[East]);
            add(1, Span { start: at + 1, end: width, step: group }, rows, West, &[Ramp]);
        }
        if group >= width {
            let (from, to) = hops(0, width, 1);
            add(1, from, rows, Ramp, &[East]);
            add(1, to, rows, West, &[Ramp]);
        }
        let roots: Vec<u64> = (1..=width.div_ceil(group)).map(|number| (number * group).min(width) - 1).collect();
        for (number, pair) in roots.windows(2).enumerate() {
            let color = 9 + number % 2;
            add(color, Span::one(pair[0]), rows, Ramp, &[East]);
            add(color, Span::all(pair[0] + 1, pair[1]), rows, West, &[East]);
            add(color, Span::one(pair[1]), rows, West, &[Ramp]);
        }
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
        let role = |number: usize| program.regions.get(number).map(|region| program.kernels[region.kernel].role);
        let expert = matches!(role(number), Some(Role::Expert { .. }));
        let last = !matches!(role(number + 1), Some(Role::Expert { .. }));
        if number > 0 {
            // Of an expert, only the last row adds to the stream.
            add(receives, columns, Span::all(top, end - 1), North, if expert { &[South] } else { &[Ramp, South] });
            add(receives, columns, Span::one(end - 1), North, &[Ramp]);
        }
        if number + 1 < program.regions.len() {
            add(sends, columns, Span::one(end - 1), Ramp, &[South]);
        }
        if matches!(role(number), Some(Role::Router(_))) {
            add(8, columns, Span::one(end - 1), Ramp, &[South]);
        }
        if expert {
            add(8, columns, Span::all(top, end - u64::from(last)), North, &[Ramp, South]);
        }
        if expert && last {
            add(8, columns, Span::one(end - 1), North, &[Ramp]);
        }
    }
    out
}

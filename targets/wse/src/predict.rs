//! What a token takes, predicted from the program object alone: cycles of computation and of the fabric, region by region.
//!
//! Computation: every vector operation takes a start-up and its elements by the published SIMD widths of the WSE-3; a scalar operation takes a
//! cycle, a call of the math library 40. Sums take the closed forms of [`crate::reduction`]. Start-up, scalar and math costs are guesses:
//! these are figures of a model of the chip, not run on silicon.

use crate::map::{Mapped, Wafer};
use crate::reduction;
use q35_dialects::wse::{Axis, Call, Kernel, Role};
use std::ops::AddAssign;

/// Cycles before the first element of a vector operation.
const STARTUP: u64 = 6;
/// Cycles of a call of the math library.
const MATH: u64 = 40;
/// Cycles of a loop besides its body.
const LOOP: u64 = 4;
/// Cycles per second of a WSE-3, as publicly assumed.
pub(crate) const CLOCK: u64 = 1_100_000_000;

/// Cycles of a region, or of several one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cycles {
    pub(crate) compute: u64,
    pub(crate) fabric: u64,
}

impl Cycles {
    pub(crate) fn all(self) -> u64 {
        self.compute + self.fabric
    }
}

impl AddAssign for Cycles {
    fn add_assign(&mut self, other: Self) {
        self.compute += other.compute;
        self.fabric += other.fabric;
    }
}

/// A vector operation on `n` elements, `width` per cycle.
fn vector(n: u64, width: u64) -> u64 {
    STARTUP + n.div_ceil(width)
}

/// Decoding a column of `rows` weights and multiplying it: shifts and masks eight at a time, the product four.
fn field(rows: u64, shifts: u64) -> u64 {
    // Two calls, an element of the input and its index.
    4 + (shifts + 1) * vector(rows, 8) + vector(rows, 4)
}

fn product(rows: u64, inputs: u64, split: bool) -> u64 {
    // Of the 32 fields of a block of 3.5-bit weights 25 lie inside a word, 2 at its top, 5 across two words; of two bytes one inside, one at the top.
    let blocks = match split {
        true => inputs.div_ceil(32) * (25 * field(rows, 2) + 2 * field(rows, 1) + 5 * field(rows, 4)),
        false => inputs.div_ceil(2) * (field(rows, 2) + field(rows, 1)),
    };
    blocks + 2 * vector(rows, 4) + vector(rows, 1)
}

/// A sum of `n` elements over `count` PEs, and its way back.
fn sum(count: u64, group: u64, n: u64) -> u64 {
    if count <= 1 { 0 } else { reduction::cycles(count, group, n) + n + count + 2 * STARTUP }
}

/// A call on the PE that does most, with half of the cache full.
fn call(kernel: &Kernel, width: u64, call: &Call) -> Cycles {
    let height = kernel.height;
    let row = |n: u64| sum(width, kernel.group, n);
    let column = |n: u64| sum(height, height, n);
    let (compute, fabric) = match call {
        Call::Comment(_) => (0, 0),
        Call::Norm { x, axis, .. } => {
            let fabric = if *axis == Axis::Columns { row(1) } else { column(1) };
            (x.len * (LOOP + 4) + MATH + 2 * vector(x.len, 1), fabric)
        }
        Call::HeadNorm { x, dim, .. } => (x.len / dim * (dim * (LOOP + 4) + MATH + 2 * vector(*dim, 1)), 0),
        Call::Load { x, split } => {
            let convert = vector(x.len, 4);
            (if *split { convert + 2 * vector(x.len / 2, 8) + x.len * (LOOP + 6) } else { convert }, 0)
        }
        Call::Product { matrix, .. } => (product(matrix.rows, matrix.inputs, matrix.split), 0),
        Call::Scores { y, x, .. } => (x.len * (LOOP + 2 + vector(y.len, 4)), 0),
        Call::Sum { y, over } => (0, if *over == Axis::Columns { row(y.len) } else { column(y.len) }),
        Call::Gather { y, x } => (vector(y.len, 4) + vector(x.len, 4), column(y.len)),
        Call::Spread { logits, token, .. } => {
            let choices = match kernel.role {
                Role::Router(routing) => routing.choices,
                Role::Layers | Role::Expert { .. } => 0,
            };
            (logits.len * (3 * LOOP + MATH + 8 + choices * (LOOP + 3)), token.len)
        }
        Call::Bias { y, .. } | Call::Add { y, .. } | Call::Move { y, .. } => (vector(y.len, 4), 0),
        Call::Times { y, .. } => (vector(y.len, 1), 0),
        Call::Sigmoid { .. } => (MATH, 0),
        Call::Rotate { x, dim, half, .. } => (x.len / dim * (4 * vector(*half, 1) + 2 * vector(*half, 4)), 0),
        Call::Append { key, .. } => (key.len * (LOOP + 20), 0),
        Call::Attend { module, .. } => {
            let a = kernel.attentions[*module];
            let seen = if a.window == 0 { a.entries } else { a.entries.min(a.window.div_ceil(width)) };
            let n = seen.div_ceil(2);
            let scores = a.dim * (LOOP + 8 + vector(n, 4)) + vector(n, 1) + n * (LOOP + 6);
            let values = n * (LOOP + 16 + MATH + vector(a.dim, 4));
            (a.heads * (scores + values + vector(a.dim, 1)), row(a.heads) + row(a.heads * a.dim + a.heads))
        }
        Call::Swiglu { y, .. } => (y.len * (LOOP + 14 + MATH), 0),
    };
    Cycles { compute, fabric }
}

/// What a region takes of a token that it works on, with the stream that reaches it.
pub(crate) fn region(kernel: &Kernel, width: u64, stream: u64) -> Cycles {
    let mut all = Cycles { compute: 0, fabric: stream + kernel.height };
    for step in &kernel.calls {
        all += call(kernel, width, step);
    }
    all
}

/// What a token takes on a wafer: regions one after the other; the experts of a token work at the same time, and the stream passes all of them.
pub(crate) fn wafer(wafer: &Wafer) -> Cycles {
    let program = &wafer.program;
    let mut all = Cycles::default();
    let mut before = None;
    for at in &program.regions {
        let kernel = &program.kernels[at.kernel];
        let again = matches!(kernel.role, Role::Expert { .. }) && before == Some(at.kernel);
        before = Some(at.kernel);
        match again {
            true => all.fabric += kernel.height + 2 * STARTUP,
            false => all += region(kernel, program.width, program.stream),
        }
    }
    all
}

/// What a token takes on all wafers; the host's copies between them come on top.
pub(crate) fn token(mapped: &Mapped) -> Cycles {
    let mut all = Cycles::default();
    for part in &mapped.wafers {
        all += wafer(part);
    }
    all
}

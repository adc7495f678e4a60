//! What one token, a block, or a prompt in blocks takes, predicted from the program object alone: cycles of computation and of the fabric, region by
//! region.
//!
//! Computation: every vector operation takes a start-up and its elements by the published SIMD widths of the WSE-3; a scalar operation takes a
//! cycle, a call of the math library 40. Sums take the closed forms of [`crate::reduction`]. Start-up, scalar and math costs are guesses:
//! these are figures of a model of the chip, not run on silicon.

use crate::build::gathers;
use crate::map::{Mapped, Wafer};
use crate::reduction;
use q35_dialects::wse::{Axis, Call, Kernel, Program, Role};
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

/// Fields of a block of 32 inputs in 3.5 bits, and of 2 in 8 bits: how many there are, with how many shifts and masks each.
const SPLIT: [(u64, u64); 3] = [(25, 2), (2, 1), (5, 4)];
const BYTE: [(u64, u64); 2] = [(1, 2), (1, 1)];

fn fields(split: bool) -> (&'static [(u64, u64)], u64) {
    if split { (&SPLIT, 32) } else { (&BYTE, 2) }
}

/// Cycles per weight and token of a block by the published SIMD widths alone: shifts, masks and conversions of a weight are shared by the tokens,
/// its product is each token's own.
pub(crate) fn per_weight(split: bool, tokens: u64) -> f64 {
    let (fields, inputs) = fields(split);
    let decode: u64 = fields.iter().map(|(count, shifts)| count * (shifts + 1)).sum();
    decode as f64 / 8.0 / inputs as f64 / tokens as f64 + 0.25
}

/// Decoding a column of `rows` weights and multiplying it with the inputs of each token: shifts and masks eight at a time, products four.
fn field(rows: u64, shifts: u64, tokens: u64) -> u64 {
    // Two calls, an input and its index, whether there are more tokens; of each token that follows, a loop, its input and its sums.
    5 + (shifts + 1) * vector(rows, 8) + vector(rows, 4) + (tokens - 1) * (LOOP + 3 + vector(rows, 4))
}

/// A sum by halves.
fn total(n: u64) -> u64 {
    let halves = u64::from(n.trailing_zeros());
    halves * (LOOP + 4 + STARTUP) + n.div_ceil(4) + (n >> halves) * (LOOP + 2)
}

fn squares(n: u64) -> u64 {
    vector(n, 1) + total(n)
}

fn product(rows: u64, inputs: u64, split: bool, tokens: u64) -> u64 {
    let (fields, block) = fields(split);
    let blocks: u64 = fields.iter().map(|(count, shifts)| count * field(rows, *shifts, tokens)).sum();
    inputs.div_ceil(block) * blocks + vector(rows, 4) + tokens * (2 * LOOP + vector(rows, 4) + vector(rows, 1))
}

/// A sum of `n` elements over `count` PEs, and its way back.
fn sum(count: u64, group: u64, n: u64) -> u64 {
    if count <= 1 { 0 } else { reduction::cycles(count, group, n) + n + count + 2 * STARTUP }
}

/// A gated unit of `n` elements.
fn gated(n: u64) -> u64 {
    n * (LOOP + 14 + MATH)
}

/// The same with a part on each column, and what the sum over the row takes that brings the parts together.
fn shared(kernel: &Kernel, width: u64, n: u64) -> [u64; 2] {
    let part = n.div_ceil(width);
    [gated(part) + vector(n, 4) + part * (LOOP + 2), sum(width, kernel.group, n)]
}

/// Whether the columns of a row, which hold the same vectors, share the work on a gated unit of `n` elements: it takes a sum over the row.
pub(crate) fn shares(kernel: &Kernel, width: u64, n: u64) -> bool {
    width > 1 && shared(kernel, width, n).iter().sum::<u64>() < gated(n)
}

/// A call for a step's tokens on the PE that does most, with half of the cache full.
fn call(kernel: &Kernel, width: u64, call: &Call, tokens: u64) -> Cycles {
    let height = kernel.height;
    let row = |n: u64| sum(width, kernel.group, n * tokens);
    let column = |n: u64| sum(height, height, n * tokens);
    // Computation of a token; what the fabric takes for all.
    let (compute, fabric) = match call {
        Call::Comment(_) => (0, 0),
        Call::Norm { x, axis, .. } => {
            let fabric = if *axis == Axis::Columns { row(1) } else { column(1) };
            (squares(x.len) + MATH + 2 * vector(x.len, 1), fabric)
        }
        Call::HeadNorm { x, dim, .. } => (x.len / dim * (squares(*dim) + MATH + 2 * vector(*dim, 1)), 0),
        Call::Load { x, split } => {
            let convert = vector(x.len, 4);
            (if *split { 2 * convert + 2 * vector(x.len / 2, 8) + total(x.len) } else { convert }, 0)
        }
        Call::Product { matrix, .. } => {
            return Cycles { compute: product(matrix.rows, matrix.inputs, matrix.split, tokens), fabric: 0 };
        }
        Call::Scores { y, x, .. } => (x.len * (LOOP + 2 + vector(y.len, 4)), 0),
        Call::Sum { y, over } => (0, if *over == Axis::Columns { row(y.len) } else { column(y.len) }),
        Call::Gather { y, x } => (vector(y.len, 4) + vector(x.len, 4), column(y.len)),
        Call::Spread { logits, token, .. } => {
            let choices = match kernel.role {
                Role::Router(routing) => routing.choices,
                Role::Layers | Role::Head | Role::Expert { .. } => 0,
            };
            (logits.len * (3 * LOOP + MATH + 8 + choices * (LOOP + 3)), tokens * token.len)
        }
        Call::Bias { y, .. } | Call::Add { y, .. } | Call::Move { y, .. } => (vector(y.len, 4), 0),
        Call::Times { y, .. } => (vector(y.len, 1), 0),
        Call::Sigmoid { .. } => (MATH, 0),
        Call::Rotate { x, dim, half, .. } => (x.len / dim * (4 * vector(*half, 1) + 2 * vector(*half, 4)), 0),
        Call::Append { key, .. } => {
            // Tokens of a step lie on neighbouring columns.
            let here = tokens.div_ceil(width);
            return Cycles { compute: here * (vector(key.len, 1) + vector(key.len, 4)), fabric: 0 };
        }
        Call::Attend { module, .. } => {
            let a = kernel.attentions[*module];
            let seen = if a.window == 0 { a.entries } else { a.entries.min(a.window.div_ceil(width)) };
            let n = seen.div_ceil(2);
            let scores = a.dim * (LOOP + 8 + vector(n, 4)) + vector(n, 1) + n * (LOOP + 6);
            let values = n * (LOOP + 16 + MATH + vector(a.dim, 4));
            (a.heads * (scores + values + vector(a.dim, 1)), row(a.heads) + row(a.heads * a.dim + a.heads))
        }
        Call::Swiglu { y, .. } if shares(kernel, width, y.len) => {
            let [compute, fabric] = shared(kernel, width, y.len);
            (compute, tokens * fabric)
        }
        Call::Swiglu { y, .. } => (gated(y.len), 0),
    };
    Cycles { compute: tokens * compute, fabric }
}

/// What a region takes of a block of so many tokens, with the stream that reaches it. An expert works on its share of them.
pub(crate) fn region(kernel: &Kernel, width: u64, stream: u64, tokens: u64, experts: u64) -> Cycles {
    let own = match kernel.role {
        Role::Expert { choices, .. } => (tokens * choices).div_ceil(experts.max(1)).clamp(1, tokens),
        Role::Layers | Role::Head | Role::Router(_) => tokens.min(kernel.tokens),
    };
    let mut all = Cycles { compute: 0, fabric: tokens * stream + kernel.height };
    for (at, step) in kernel.calls.iter().enumerate() {
        if let Some(half) = gathers(&kernel.calls, at) {
            let place = vector(2 * half, 4) + (2 * half).div_ceil(width) * (LOOP + 3);
            all += Cycles { compute: own * place, fabric: own * sum(width, kernel.group, 2 * half) };
        }
        all += call(kernel, width, step, own);
    }
    all
}

/// Regions of a program that are experts, by kernel: how many run it.
pub(crate) fn copies(program: &Program, kernel: usize) -> u64 {
    program.regions.iter().filter(|region| region.kernel == kernel).count() as u64
}

/// What a block takes at each place of a wafer that it comes to, one after the other: a region, or the experts of a router, which work on its tokens
/// at the same time while the stream passes all of them. The row that the tokens stand in at first takes nothing: the region below it moves them.
fn places(wafer: &Wafer, tokens: u64) -> impl Iterator<Item = Cycles> {
    let program = &wafer.program;
    let runs = program.regions.chunk_by(|a, b| a.kernel == b.kernel && program.is_expert(a)).skip(1);
    runs.map(move |run| {
        let kernel = &program.kernels[run[0].kernel];
        let mut all = region(kernel, program.width, program.stream, tokens, run.len() as u64);
        all.fabric += (run.len() as u64 - 1) * (kernel.height + 2 * STARTUP);
        all
    })
}

/// What a step of so many tokens takes on all wafers, the host's copies between them left out: on each the first block comes to every place, and
/// the others follow it, as far apart as the slowest place before the head needs.
pub(crate) fn step(mapped: &Mapped, tokens: u64) -> Cycles {
    let mut all = Cycles::default();
    for wafer in &mapped.wafers {
        places(wafer, tokens.min(mapped.block)).for_each(|cycles| all += cycles);
        let slowest = slowest(wafer, tokens.min(mapped.block));
        for _ in 1..tokens.div_ceil(mapped.block) {
            all += slowest;
        }
    }
    all
}

/// What a block takes at the slowest place before the head.
fn slowest(wafer: &Wafer, tokens: u64) -> Cycles {
    let head = |wafer: &Wafer| wafer.program.kernels.last().is_some_and(|kernel| kernel.role == Role::Head);
    let places: Vec<Cycles> = places(wafer, tokens).collect();
    let body = places.len() - usize::from(head(wafer));
    places[..body].iter().copied().max_by_key(|cycles| cycles.all()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The figures of csl/gemv.csl.
    #[test]
    fn a_block_shares_what_decoding_costs() {
        assert_eq!((per_weight(true, 1), per_weight(false, 1)), (0.65625, 0.5625));
        assert_eq!(per_weight(true, 16), 0.25 + 0.40625 / 16.0);
        let one = 16 * product(128, 128, true, 1);
        let block = product(128, 128, true, 16);
        assert!(block * 2 < one && block * 3 > one, "{block} {one}");
    }
}

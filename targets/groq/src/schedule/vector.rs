//! Macro-ops of the VXM: an expression over vectors, evaluated once.
//!
//! Every op takes the same number of cycles, so an op's *level* is its distance from the start. A result stands in its ALU's register for
//! one cycle only: where it is needed later, it goes through ALUs that pass it on. A vector from memory is read so that it arrives when
//! it is needed, once per level that needs it; two vectors that would have to leave one slice in the same cycle do not, the second
//! one comes a level earlier and waits in an ALU. Sums come straight from the accumulators of a plane, in the same way. An op stands as
//! late as its users allow.

use super::tile::Sum;
use super::{Byte, Schedule, Word};
use q35_tsp::alu::AluOp;
use q35_tsp::flow;
use q35_tsp::geometry::{ALUS, Queue, Side, Slice, linked};
use q35_tsp::isa::{Instr, Sink, Source};
use q35_tsp::program::{Place, Quad};
use std::collections::BTreeMap;

/// Something to compute with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Arg {
    /// A vector from memory, or a sum from a plane.
    Leaf(usize),
    /// The result of an op.
    Node(usize),
    /// The same word in every lane.
    Constant(u32),
}

/// Where an operand of an expression is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaf {
    Word(Word),
    Byte(Byte),
    Sum(Sum),
}

/// What can give one vector only in a cycle.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Port {
    Slice(Slice),
    Plane(u8),
}

impl Leaf {
    fn ports(self) -> Vec<Port> {
        let slices = |quad: Quad| [0, 1, 2, 3].map(|i| Port::Slice(quad.byte(i).slice)).to_vec();
        match self {
            Self::Word(word) => slices(word.quad),
            Self::Byte(byte) => vec![Port::Slice(byte.place.slice)],
            Self::Sum(sum) => vec![Port::Plane(sum.plane)],
        }
    }
}

/// An expression.
#[derive(Default)]
pub(crate) struct Expr {
    leaves: Vec<Leaf>,
    nodes: Vec<(AluOp, [Arg; 2])>,
    words: Vec<usize>,
    bytes: Vec<(usize, Shelf)>,
}

/// Where bytes are kept: in a hemisphere, next to the VXM or next to the SXM.
#[derive(Clone, Copy)]
pub(crate) enum Shelf {
    Near(Side),
    Far(Side),
}

impl Expr {
    pub(crate) fn word(&mut self, word: Word) -> Arg {
        let same = |leaf: &Leaf| matches!(leaf, Leaf::Word(w) if w.quad == word.quad);
        let at = self.leaves.iter().position(same);
        Arg::Leaf(at.unwrap_or_else(|| {
            self.leaves.push(Leaf::Word(word));
            self.leaves.len() - 1
        }))
    }

    /// A vector of bytes, as integers.
    pub(crate) fn byte(&mut self, byte: Byte) -> Arg {
        self.leaves.push(Leaf::Byte(byte));
        Arg::Leaf(self.leaves.len() - 1)
    }

    /// The sum of an accumulator, which is free afterwards. It is used by one op.
    pub(crate) fn sum(&mut self, sum: Sum) -> Arg {
        self.leaves.push(Leaf::Sum(sum));
        Arg::Leaf(self.leaves.len() - 1)
    }

    pub(crate) fn float(&self, value: f32) -> Arg {
        Arg::Constant(value.to_bits())
    }

    pub(crate) fn op(&mut self, op: AluOp, a: Arg, b: Arg) -> Arg {
        self.nodes.push((op, [a, b]));
        Arg::Node(self.nodes.len() - 1)
    }

    pub(crate) fn unary(&mut self, op: AluOp, a: Arg) -> Arg {
        self.op(op, a, Arg::Constant(0))
    }

    fn node(&mut self, arg: Arg) -> usize {
        match arg {
            Arg::Node(at) => at,
            other => match self.unary(AluOp::Pass, other) {
                Arg::Node(at) => at,
                _ => unreachable!("an op is a node"),
            },
        }
    }

    /// The value is a result, to be kept as words.
    pub(crate) fn keep(&mut self, arg: Arg) {
        let node = self.node(arg);
        self.words.push(node);
    }

    /// The value is a result, of which the lowest byte is kept.
    pub(crate) fn keep_byte(&mut self, arg: Arg, shelf: Shelf) {
        let node = self.node(arg);
        self.bytes.push((node, shelf));
    }
}

/// An op at its level.
#[derive(Clone, Copy)]
struct Step {
    op: AluOp,
    level: i64,
    args: [Arg; 2],
}

/// The level of each node: as early as its operands allow if it is kept, as late as its users allow if not.
fn levels(expr: &Expr) -> Vec<i64> {
    let mut levels: Vec<i64> = Vec::new();
    for (_, args) in &expr.nodes {
        let after = |arg: &Arg| if let Arg::Node(at) = arg { levels[*at] + 1 } else { 0 };
        levels.push(args.iter().map(after).max().unwrap_or(0));
    }
    let kept = |at: usize| expr.words.contains(&at) || expr.bytes.iter().any(|(node, _)| *node == at);
    let mut latest: Vec<Option<i64>> = (0..levels.len()).map(|at| kept(at).then_some(levels[at])).collect();
    for at in (0..levels.len()).rev() {
        levels[at] = latest[at].unwrap_or(levels[at]);
        for arg in expr.nodes[at].1.iter().take(expr.nodes[at].0.arity()) {
            if let Arg::Node(from) = arg {
                let before = levels[at] - 1;
                latest[*from] = Some(latest[*from].map_or(before, |level| level.min(before)));
            }
        }
    }
    levels
}

/// What an expression computes that is kept at these places.
fn flow(expr: &Expr, quads: &[Quad], places: &[Place]) -> u32 {
    let mut values: Vec<u32> = Vec::new();
    for (op, args) in &expr.nodes {
        let value = |arg: Arg| match arg {
            Arg::Constant(word) => flow::constant(word),
            Arg::Node(node) => values[node],
            Arg::Leaf(leaf) => match expr.leaves[leaf] {
                Leaf::Word(word) => flow::read(Queue::mem(word.quad.byte(0).slice), word.quad.address),
                Leaf::Byte(byte) => flow::read(Queue::mem(byte.place.slice), byte.place.address),
                Leaf::Sum(sum) => flow::sum(sum.plane, sum.accumulator),
            },
        };
        values.push(flow::result(*op, args.map(value)));
    }
    let stored = |place: Place, byte: u8, node: usize| flow::stored(Queue::mem(place.slice), place.address, byte, values[node]);
    let word = |(node, quad): (&usize, &Quad)| (0..4).fold(0u32, |sum, i| sum.wrapping_add(stored(quad.byte(i), i, *node)));
    let words = expr.words.iter().zip(quads).map(word);
    words.chain(expr.bytes.iter().zip(places).map(|((node, _), place)| stored(*place, 0, *node))).fold(0, u32::wrapping_add)
}

/// An expression with levels, and with the ops that only pass on.
struct Plan {
    steps: Vec<Step>,
    /// The step of each node.
    of: Vec<usize>,
}

impl Plan {
    fn new(expr: &Expr) -> Self {
        let mut plan = Self { steps: Vec::new(), of: Vec::new() };
        let levels = levels(expr);
        let mut passes: BTreeMap<(Arg, i64), usize> = BTreeMap::new();
        let mut reads: BTreeMap<(i64, Port), usize> = BTreeMap::new();
        for (at, (op, args)) in expr.nodes.iter().enumerate() {
            let level = levels[at];
            let mut resolved = *args;
            for arg in resolved.iter_mut().take(op.arity()) {
                let from = match *arg {
                    Arg::Constant(_) => continue,
                    // The value's step stands one level below its first user at least.
                    Arg::Node(node) => levels[node],
                    Arg::Leaf(leaf) => {
                        let ports = expr.leaves[leaf].ports();
                        let clash = |level: i64| ports.iter().any(|p| reads.get(&(level, *p)).is_some_and(|l| *l != leaf));
                        let mut read = level;
                        while clash(read) {
                            read -= 1;
                        }
                        reads.extend(ports.iter().map(|port| ((read, *port), leaf)));
                        read - 1
                    }
                };
                let mut value = match *arg {
                    Arg::Node(node) => Arg::Node(plan.of[node]),
                    other => other,
                };
                for level in from + 1..level {
                    value = Arg::Node(*passes.entry((*arg, level)).or_insert_with(|| {
                        plan.steps.push(Step { op: AluOp::Pass, level, args: [value, Arg::Constant(0)] });
                        plan.steps.len() - 1
                    }));
                }
                *arg = value;
            }
            plan.steps.push(Step { op: *op, level, args: resolved });
            plan.of.push(plan.steps.len() - 1);
        }
        let first = plan.steps.iter().map(|step| step.level).min().unwrap_or(0);
        plan.steps.iter_mut().for_each(|step| step.level -= first);
        plan
    }
}

impl Schedule {
    /// Evaluates an expression. Gives the results that it keeps: words, then bytes.
    pub(crate) fn eval(&mut self, expr: &Expr) -> (Vec<Word>, Vec<Byte>) {
        let plan = Plan::new(expr);
        let places: Vec<Place> = expr
            .bytes
            .iter()
            .map(|(_, shelf)| match *shelf {
                Shelf::Near(side) => self.memory.bytes(side),
                Shelf::Far(side) => self.memory.far(side),
            })
            .collect();
        let depth = plan.steps.iter().map(|step| step.level).max().unwrap_or(0) * self.timing.op;
        let sums: Vec<Sum> =
            expr.leaves.iter().filter_map(|leaf| if let Leaf::Sum(sum) = leaf { Some(*sum) } else { None }).collect();
        sums.iter().for_each(|sum| self.settle_sum(*sum));
        let ready = |leaf: &Leaf| match leaf {
            Leaf::Word(word) => word.ready,
            Leaf::Byte(byte) => byte.ready,
            Leaf::Sum(sum) => self.sum_at_vxm(*sum) - depth,
        };
        let earliest = expr.leaves.iter().map(ready).max().unwrap_or(0);
        let quads: Vec<_> = expr.words.iter().map(|_| self.value(None, earliest)).collect();
        let done: Vec<i64> =
            expr.leaves.iter().map(|leaf| if let Leaf::Sum(sum) = leaf { self.planes.done(*sum) } else { 0 }).collect();
        let op = self.tables.begin(self.node);
        self.tables.ops[op as usize].flow = flow(expr, &quads, &places);
        let (words, bytes, emitted) = self.place_part(op, earliest, |attempt, cycle| {
            let (mut words, mut bytes, mut emitted) = (Vec::new(), Vec::new(), Vec::new());
            let mut alus: Vec<u8> = Vec::new();
            let mut streams: BTreeMap<(usize, i64), Source> = BTreeMap::new();
            for (at, step) in plan.steps.iter().enumerate() {
                let now = cycle + attempt.timing.op * step.level;
                let mut sources = [Source::Constant(0); 2];
                for (source, arg) in sources.iter_mut().zip(step.args).take(step.op.arity()) {
                    *source = match arg {
                        Arg::Constant(bits) => Source::Constant(bits),
                        Arg::Node(step) => Source::Alu(alus[step]),
                        Arg::Leaf(leaf) => match streams.get(&(leaf, step.level)) {
                            Some(source) => *source,
                            None => {
                                let arrive = now - attempt.timing.enter;
                                let source = match expr.leaves[leaf] {
                                    Leaf::Word(word) => Source::Word(attempt.fetch_word(word, 0, arrive)?),
                                    Leaf::Byte(byte) => Source::Byte(attempt.fetch_byte(byte, 0, arrive)?),
                                    Leaf::Sum(sum) => {
                                        let (stream, cycle) = attempt.emit(sum, done[leaf], 0, arrive)?;
                                        emitted.push((sum, cycle));
                                        Source::Word(stream)
                                    }
                                };
                                streams.insert((leaf, step.level), source);
                                source
                            }
                        },
                    };
                }
                let reaches = |alu: u8| sources.iter().all(|s| !matches!(s, Source::Alu(from) if !linked(*from, alu)));
                let alu = (0..ALUS).find(|alu| reaches(*alu) && attempt.is_free(Queue::alu(*alu), now))?;
                alus.push(alu);
                let mut out = Sink::Nothing;
                for (kept, quad) in expr.words.iter().zip(&quads).filter(|(kept, _)| plan.of[**kept] == at) {
                    let word = Word { quad: *quad, ready: 0 };
                    let (stream, ready) = attempt.store(&word.places(), 0, now + attempt.timing.op)?;
                    out = Sink::Word(stream);
                    words.push((*kept, Word { ready, ..word }));
                }
                for (_, place) in expr.bytes.iter().zip(&places).filter(|((kept, _), _)| plan.of[*kept] == at) {
                    let (stream, ready) = attempt.store(&[*place], 0, now + attempt.timing.op)?;
                    out = Sink::Byte(stream);
                    bytes.push((*place, Byte { place: *place, ready }));
                }
                let [a, b] = sources;
                attempt.issue(Queue::alu(alu), now, Instr::Compute { op: step.op, a, b, out })?;
            }
            let order = |quad: &Quad| words.iter().find(|(_, word)| word.quad == *quad).map(|(_, w)| *w);
            let words = quads.iter().map(order).collect::<Option<Vec<_>>>();
            let order = |place: &Place| bytes.iter().find(|(p, _)| p == place).map(|(_, byte)| *byte);
            Some((words?, places.iter().map(order).collect::<Option<Vec<_>>>()?, emitted))
        });
        emitted.into_iter().for_each(|(sum, cycle)| self.planes.free(sum, cycle + 1));
        (words, bytes)
    }

    /// Evaluates an expression that keeps one word.
    pub(crate) fn word(&mut self, expr: &Expr) -> Word {
        self.eval(expr).0[0]
    }
}

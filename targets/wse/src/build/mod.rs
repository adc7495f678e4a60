//! A region's PE program: its nodes as calls, buffers for its values while they live, arenas for its weights, and where those come from.
//!
//! | module | idea |
//! | --- | --- |
//! | `products` | tiles of matrices, products of one vector made together |
//! | `heads` | the cache and attention |
//! | `mixture` | the choice of experts, and what one of them does |

mod heads;
mod mixture;
mod products;

pub(crate) use heads::{Heads, heads};

use crate::reduction;
use crate::segments::{Kind, Segment, through_select};
use q35_bundle::{Piece, WaferCache};
use q35_dialects::q35::{Activation, Op, RmsNorm, RopeStyle};
use q35_dialects::wse::{Arena, Attention, Axis, Buffer, Call, Kernel, Part, Role};
use q35_dialects::{Packed, ParamName, Ty};
use q35_graph::{NodeId, Value};
use q35_target::{Arrangement, Request, Section, WeightTensor};
use std::collections::{BTreeMap, BTreeSet};

/// Columns, rows, the columns of the residual that one column of PEs holds, and the tokens of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Grid {
    pub(crate) width: u64,
    pub(crate) height: u64,
    pub(crate) piece: u64,
    pub(crate) tokens: u64,
}

impl Grid {
    /// Numbers of a token in a column's stream: its piece of the residual, its share of cosines and sines, the index.
    pub(crate) fn stream(&self, half: u64) -> u64 {
        self.piece + (2 * half).div_ceil(self.width) + 1
    }
}

/// A region's program and its memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Built {
    pub(crate) kernel: Kernel,
    /// Regions that run it, one below the other: an expert each.
    pub(crate) copies: u64,
    /// What each arena holds, in its order.
    pub(crate) fillings: BTreeMap<Arena, Vec<Filling>>,
    pub(crate) caches: Vec<WaferCache>,
    pub(crate) tensors: BTreeMap<String, WeightTensor>,
    /// Logits per row of PEs, where the logits are made here.
    pub(crate) logits: u64,
    /// The model's names of the first node and of the last.
    pub(crate) nodes: [String; 2],
}

/// What fills a part of an arena.
#[derive(Clone, Debug)]
pub(crate) struct Filling {
    pub(crate) piece: Piece,
    /// Bytes from one expert's piece to the next.
    pub(crate) expert: u64,
}

/// A vector in a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    part: Part,
    axis: Axis,
    /// Neighbouring rows that hold the same: heads of keys and values that several rows share.
    share: u64,
}

/// Why a node cannot run whose operand is not on its region's processing elements.
const ELSEWHERE: &str = "it reads a value that lies elsewhere";

/// Builds the program of consecutive segments. Reasons why nodes cannot run are collected, each with the node; that a node reads what a refused
/// one would have made is no reason of its own.
pub(crate) fn build(
    request: &Request<'_>,
    heads: &Heads,
    grid: Grid,
    segments: &[Segment],
    enters: Value,
    half: u64,
) -> Result<Built, Vec<(NodeId, String)>> {
    let mut builder = Builder::new(request, heads, grid, half);
    match segments {
        [Segment { kind: Kind::Experts(_), nodes, .. }] => builder.token(nodes),
        _ => builder.stream(enters),
    }
    let (mut wrong, mut refused) = (Vec::new(), BTreeSet::new());
    builder.lives(segments);
    let names = [builder.order.first(), builder.order.last()];
    builder.built.nodes = names.map(|id| id.map_or(String::new(), |id| request.graph.node(*id).name.clone()));
    for segment in segments {
        builder.call(Call::Comment(purpose(request, segment).to_owned()));
        for id in &segment.nodes {
            if let Err(reason) = builder.node(*id) {
                let graph = request.graph;
                let mut operands = graph.operands(*id).into_iter().flatten().map(|value| through_select(graph, value).node);
                let follows = reason == ELSEWHERE && operands.any(|node| refused.contains(&node));
                refused.insert(*id);
                if !follows {
                    wrong.push((*id, reason));
                }
            }
            builder.now += 1;
            builder.release();
        }
    }
    if refused.is_empty()
        && let Some(last) = segments.last()
        && let Err(reason) = builder.finish(last)
    {
        wrong.extend(last.nodes.last().map(|id| (*id, reason)));
    }
    if refused.is_empty() { Ok(builder.built) } else { Err(wrong) }
}

/// A line about a segment. It names no node: equal layers have equal programs.
fn purpose(request: &Request<'_>, segment: &Segment) -> &'static str {
    let has = |wanted: fn(&Op) -> bool| segment.nodes.iter().any(|id| wanted(&request.graph.node(*id).op));
    match (has(|op| matches!(op, Op::Attention(_))), has(|op| matches!(op, Op::Glu(_))), segment.leaves) {
        _ if segment.kind == Kind::Router => "Router: scores, the choice of experts, what every token needs besides",
        _ if matches!(segment.kind, Kind::Experts(_)) => "Expert: gate and up by rows, down by columns",
        (true, ..) => "Attention: heads by rows, output projection by columns, residual",
        (_, true, _) => "Feed-forward: gate and up by rows, down by columns, residual",
        (.., None) => "Last norm and logits by rows",
        _ => "Residual",
    }
}

/// Elements of each sum or maximum over rows, in order.
pub(crate) fn row_sums(kernel: &Kernel) -> Vec<u64> {
    let lens = |call: &Call| match call {
        Call::Norm { axis: Axis::Columns, .. } => vec![1],
        Call::Sum { y, over: Axis::Columns } => vec![y.len],
        Call::Attend { module, .. } => {
            let Attention { heads, dim, .. } = kernel.attentions[*module];
            vec![heads, heads * dim + heads]
        }
        _ => vec![],
    };
    let calls = &kernel.calls;
    let angles = |at: usize| gathers(calls, at).map(|half| 2 * half);
    calls.iter().enumerate().flat_map(|(at, call)| angles(at).into_iter().chain(lens(call))).collect()
}

/// Whether a call is the first rotation of several behind each other, and of how many pairs: the row brings the angles of a token together before.
pub(crate) fn gathers(calls: &[Call], at: usize) -> Option<u64> {
    let follows = at > 0 && matches!(calls[at - 1], Call::Rotate { .. });
    match calls[at] {
        Call::Rotate { half, .. } if !follows => Some(half),
        _ => None,
    }
}

struct Builder<'a> {
    request: &'a Request<'a>,
    grid: Grid,
    half: u64,
    heads: &'a Heads,
    built: Built,
    values: BTreeMap<Value, Place>,
    /// Offsets of keys and values, module, of each layer's cache.
    caches: BTreeMap<Value, (u64, u64, Attention)>,
    /// The last use of each value, by number of node in the region.
    last: BTreeMap<Value, usize>,
    now: usize,
    /// Whether a buffer is in use.
    used: Vec<bool>,
    /// Products made together with an earlier one.
    joined: BTreeMap<NodeId, Place>,
    order: Vec<NodeId>,
    /// Values that lack what the experts will add.
    pending: BTreeSet<Value>,
}

impl<'a> Builder<'a> {
    fn new(request: &'a Request<'a>, heads: &'a Heads, grid: Grid, half: u64) -> Self {
        Self {
            request,
            grid,
            half,
            heads,
            built: Built { copies: 1, ..Built::default() },
            values: BTreeMap::new(),
            caches: BTreeMap::new(),
            last: BTreeMap::new(),
            now: 0,
            used: Vec::new(),
            joined: BTreeMap::new(),
            order: Vec::new(),
            pending: BTreeSet::new(),
        }
    }

    /// The stream of a column.
    fn stream(&mut self, enters: Value) {
        let len = self.grid.stream(self.half);
        self.built.kernel.buffers.push(Buffer::new("stream", len));
        self.used.push(true);
        let part = Part { buffer: 0, at: 0, len: self.grid.piece };
        self.values.insert(enters, Place { part, axis: Axis::Columns, share: 1 });
    }

    fn lives(&mut self, segments: &[Segment]) {
        self.order = segments.iter().flat_map(|segment| segment.nodes.iter().copied()).collect();
        for (at, id) in self.order.iter().enumerate() {
            let graph = self.request.graph;
            let sent = matches!(graph.node(*id).op, Op::Route(_)).then(|| mixture::input(graph, *id).ok()).flatten();
            for operand in graph.operands(*id).into_iter().flatten().chain(sent) {
                self.last.insert(through_select(graph, operand), at);
            }
        }
        if let Some(leaves) = segments.last().and_then(|segment| segment.leaves) {
            self.last.insert(leaves, usize::MAX);
        }
    }

    /// Frees the buffers of values that nobody reads any more. A buffer of several values lives as long as the last.
    fn release(&mut self) {
        let (last, now) = (&self.last, self.now);
        self.values.retain(|value, _| last.get(value).is_some_and(|last| *last >= now));
        for buffer in 1..self.used.len() {
            self.used[buffer] = self.values.values().chain(self.joined.values()).any(|place| place.part.buffer == buffer);
        }
    }

    /// A free buffer of this purpose and length.
    fn buffer(&mut self, name: &str, len: u64) -> Part {
        let buffers = &mut self.built.kernel.buffers;
        let own = |buffer: &Buffer| buffer.len == len && buffer.name.trim_end_matches(|c: char| c.is_ascii_digit()) == name;
        let free = (1..buffers.len()).find(|at| !self.used[*at] && own(&buffers[*at]));
        let buffer = free.unwrap_or_else(|| {
            let count = buffers.iter().filter(|b| b.name.trim_end_matches(|c: char| c.is_ascii_digit()) == name).count();
            let name = if count == 0 { name.to_owned() } else { format!("{name}{}", count + 1) };
            buffers.push(Buffer::new(&name, len));
            self.used.push(false);
            buffers.len() - 1
        });
        self.used[buffer] = true;
        Part { buffer, at: 0, len }
    }

    fn call(&mut self, call: Call) {
        self.built.kernel.calls.push(call);
    }

    /// Room in an arena, and what fills it.
    fn room(&mut self, arena: Arena, len: u64, filling: Option<Filling>) -> u64 {
        let at = self.built.kernel.arenas[arena as usize];
        self.built.kernel.arenas[arena as usize] += len;
        if let Some(Filling { piece, expert }) = filling {
            let piece = Piece { to: at * arena.words(), words: len * arena.words(), ..piece };
            self.built.fillings.entry(arena).or_default().push(Filling { piece, expert });
        }
        at
    }

    fn param(&self, name: &ParamName) -> Result<Packed, String> {
        self.request.params.get(name).copied().ok_or_else(|| format!("@{name} is not there"))
    }

    fn tensor(&mut self, name: &str, param: &ParamName, section: Section, arrangement: Arrangement) -> String {
        self.built.tensors.insert(name.to_owned(), WeightTensor { param: param.clone(), section, arrangement });
        name.to_owned()
    }

    /// A vector of f32 beside a value of `len` elements: norm weights, a bias.
    fn vector(&mut self, param: &ParamName, place: Place, experts: u64) -> Result<u64, String> {
        let packed = self.param(param)?;
        let tensor = self.tensor(param.as_str(), param, Section::Codes, Arrangement::plain(4 * packed.cols as usize));
        let bytes = 4 * place.part.len;
        let (column, row) = match place.axis {
            Axis::Columns => (bytes, 0),
            Axis::Rows => (0, bytes),
            Axis::Everywhere => (0, 0),
        };
        let piece = Piece { tensor, from: 0, to: 0, words: 0, column, row, share: place.share };
        let filling = Filling { piece, expert: 4 * packed.rows * packed.cols / experts };
        Ok(self.room(Arena::Vectors, place.part.len, Some(filling)))
    }

    fn operand(&self, id: NodeId, at: usize) -> Result<Place, String> {
        let value = self.request.graph.operand(id, at).map(|value| through_select(self.request.graph, value));
        let place = value.and_then(|value| self.values.get(&value));
        place.copied().ok_or_else(|| ELSEWHERE.to_owned())
    }

    fn result(&mut self, id: NodeId, place: Place) {
        self.values.insert(Value { node: id, result: 0 }, place);
    }

    fn dies(&self, id: NodeId, operand: usize) -> bool {
        let value = self.request.graph.operand(id, operand).map(|value| through_select(self.request.graph, value));
        value.is_some_and(|value| self.last.get(&value) == Some(&self.now))
    }

    fn node(&mut self, id: NodeId) -> Result<(), String> {
        let graph = self.request.graph;
        let pending = graph.operands(id).into_iter().flatten().filter(|value| self.pending.contains(value)).count();
        if pending > usize::from(matches!(graph.node(id).op, Op::Add(_))) {
            return Err("it reads the sum of experts before that is added to the residual".to_owned());
        }
        match &graph.node(id).op {
            Op::RmsNorm(op) => self.norm(id, op),
            Op::Linear(_) | Op::ExpertLinear(_) => self.linear(id),
            Op::Route(op) => self.route(id, op),
            Op::Combine(_) => self.combine(id),
            Op::Rope(op) => {
                let x = self.operand(id, 0)?;
                if !self.dies(id, 0) {
                    return Err("the vector before its rotation is read again".to_owned());
                }
                if x.axis != Axis::Rows || !x.part.len.is_multiple_of(op.head_dim) {
                    return Err("a row holds no whole heads".to_owned());
                }
                if !self.built.kernel.buffers.iter().any(|buffer| buffer.name == "turned") {
                    for name in ["angles", "turned"] {
                        let scratch = self.buffer(name, 2 * self.half);
                        self.built.kernel.buffers[scratch.buffer].scratch = true;
                    }
                }
                let interleaved = op.style == RopeStyle::Interleaved;
                self.call(Call::Rotate { x: x.part, dim: op.head_dim, half: self.half, interleaved });
                self.result(id, x);
                Ok(())
            }
            Op::Append(op) => self.append(id, op.layer),
            Op::Attention(op) => {
                let unlike = [(op.softcap.is_some(), "a soft cap of scores"), (op.sinks.is_some(), "attention sinks")];
                if let Some((_, what)) = unlike.iter().find(|(is, _)| *is) {
                    return Err(format!("{what} is not supported"));
                }
                let window = op.window.filter(|window| *window < self.request.context).unwrap_or(0);
                self.attend(id, op.heads, op.scale, window)
            }
            Op::Glu(op) => {
                if op.activation != Activation::Silu || op.limit.is_some() || op.alpha != 1.0 || op.offset != 0.0 {
                    return Err("of the gated units only SwiGLU is supported".to_owned());
                }
                let (gate, up) = (self.operand(id, 0)?, self.operand(id, 1)?);
                if gate.axis != Axis::Rows || up.axis != Axis::Rows || !self.dies(id, 1) {
                    return Err("what the gate of a unit opens is cut by columns, or read again".to_owned());
                }
                // In place, where the gate is not read again.
                let y = if self.dies(id, 0) { gate.part } else { self.buffer("gated", gate.part.len) };
                self.call(Call::Swiglu { y, gate: gate.part, up: up.part });
                self.result(id, Place { part: y, ..gate });
                Ok(())
            }
            Op::Add(_) => self.add(id),
            Op::Activate(op) => {
                let x = self.operand(id, 0)?;
                if op.kind != Activation::Sigmoid || x.axis != Axis::Everywhere || !self.dies(id, 0) {
                    return Err("of functions of elements only sigmoids of gates are supported".to_owned());
                }
                self.call(Call::Sigmoid { x: x.part });
                self.result(id, x);
                Ok(())
            }
            Op::Mul(_) => {
                let (x, by) = (self.operand(id, 0)?, self.operand(id, 1)?);
                if (by.axis, by.part.len) != (Axis::Everywhere, 1) {
                    return Err("only products with one number are supported".to_owned());
                }
                let y = if self.dies(id, 0) { x.part } else { self.buffer("gated", x.part.len) };
                self.call(Call::Times { y, x: x.part, by: by.part });
                self.result(id, Place { part: y, ..x });
                Ok(())
            }
            other => Err(format!("there is no lowering of '{}'", other.name())),
        }
    }

    fn add(&mut self, id: NodeId) -> Result<(), String> {
        // What the experts make is added to the stream when it passes them.
        let graph = self.request.graph;
        for (experts, rest) in [(0, 1), (1, 0)] {
            if graph.operand(id, experts).is_some_and(|value| matches!(graph.node(value.node).op, Op::Combine(_))) {
                let place = self.operand(id, rest)?;
                self.result(id, place);
                self.pending.insert(Value { node: id, result: 0 });
                return Ok(());
            }
        }
        if [0, 1].iter().any(|at| graph.operand(id, *at).is_some_and(|value| self.pending.contains(&value))) {
            self.pending.insert(Value { node: id, result: 0 });
        }
        let (a, b) = (self.operand(id, 0)?, self.operand(id, 1)?);
        if (a.axis, a.part.len) != (b.axis, b.part.len) {
            return Err("its operands lie in different ways".to_owned());
        }
        let y = match (self.dies(id, 0), self.dies(id, 1)) {
            (true, _) if a.part.buffer == 0 => a.part,
            (_, true) if b.part.buffer == 0 => b.part,
            _ => self.buffer("sum", a.part.len),
        };
        self.call(Call::Add { y, a: a.part, b: b.part });
        self.result(id, Place { part: y, ..a });
        Ok(())
    }

    fn norm(&mut self, id: NodeId, op: &RmsNorm) -> Result<(), String> {
        let graph = self.request.graph;
        let x = self.operand(id, 0)?;
        let width = match graph.operand(id, 0).map(|value| *graph.ty(value)) {
            Some(Ty::Act { width, .. }) => width,
            _ => 0,
        };
        let y = self.buffer("normed", x.part.len);
        let place = Place { part: y, ..x };
        if op.group == width {
            let weight = op.weight.as_ref().map(|weight| self.vector(weight, place, 1)).transpose()?;
            self.call(Call::Norm { y, x: x.part, weight, axis: x.axis, count: width, eps: op.eps });
        } else if x.axis == Axis::Rows && x.part.len.is_multiple_of(op.group) {
            let shared = match &op.weight {
                Some(weight) if self.param(weight)?.cols != op.group => {
                    return Err("norm weights differ from head to head".to_owned());
                }
                weight => weight,
            };
            let one = Place { part: Part { len: op.group, ..y }, axis: Axis::Everywhere, share: 1 };
            let weight = shared.as_ref().map(|weight| self.vector(weight, one, 1)).transpose()?;
            self.call(Call::HeadNorm { y, x: x.part, weight, dim: op.group, eps: op.eps });
        } else {
            return Err("it normalizes groups that a row does not hold whole".to_owned());
        }
        self.result(id, place);
        Ok(())
    }

    /// What leaves stands in the stream, or is what an expert adds to it; there is a result for the host everywhere.
    fn finish(&mut self, last: &Segment) -> Result<(), String> {
        match last.kind {
            Kind::Experts(_) => {}
            Kind::Router if last.leaves.is_none_or(|value| !self.pending.contains(&value)) => {
                return Err("what the experts make is not added to the residual".to_owned());
            }
            Kind::Plain | Kind::Router => {
                if let Some(place) = last.leaves.and_then(|value| self.values.get(&value)).copied()
                    && place.part.buffer != 0
                {
                    let y = Part { buffer: 0, at: 0, len: self.grid.piece };
                    self.call(Call::Move { y, x: place.part });
                }
            }
        }
        let kernel = &mut self.built.kernel;
        kernel.height = self.grid.height;
        kernel.tokens = self.grid.tokens;
        if last.leaves.is_none() && kernel.role == Role::Layers {
            (kernel.tokens, kernel.role) = (1, Role::Head);
        }
        kernel.group = match kernel.role {
            // The queue of the roots is that of the token.
            Role::Expert { .. } => self.grid.width,
            Role::Layers | Role::Head | Role::Router(_) => reduction::group(self.grid.width, &row_sums(kernel)),
        };
        if !kernel.buffers.iter().any(|buffer| buffer.name == "result") {
            kernel.buffers.push(Buffer::new("result", 1));
        }
        Ok(())
    }
}

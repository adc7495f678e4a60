//! A region's PE program: its nodes as calls, buffers for its values while they live, arenas for its weights, and where those come from.

use crate::segments::{Segment, through_select};
use crate::weights::{Coding, planes, scales};
use q35_bundle::{Piece, WaferCache};
use q35_dialects::q35::{Activation, Linear, Op, RmsNorm, RopeStyle};
use q35_dialects::wse::{Arena, Attention, Axis, Buffer, Call, Kernel, Matrix, Part};
use q35_dialects::{Packed, ParamName, Ty};
use q35_format::{Group, PackedSpec};
use q35_graph::{NodeId, Value};
use q35_target::{Arrangement, Request, Section, WeightTensor};
use std::collections::BTreeMap;

/// Most outputs of one product: its scratch grows with them, and beyond this a longer vector operation is hardly faster per element.
const CHUNK: u64 = 256;

/// Columns, rows, and the columns of the residual that one column of PEs holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    pub(crate) width: u64,
    pub(crate) height: u64,
    pub(crate) piece: u64,
}

/// A region's program and its memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Built {
    pub(crate) kernel: Kernel,
    /// What each arena holds, in its order.
    pub(crate) pieces: BTreeMap<Arena, Vec<Piece>>,
    pub(crate) caches: Vec<WaferCache>,
    pub(crate) tensors: BTreeMap<String, WeightTensor>,
    /// Logits per row of PEs, where the logits are made here.
    pub(crate) logits: u64,
}

/// A vector in a region.
#[derive(Clone, Copy, Debug)]
struct Place {
    part: Part,
    axis: Axis,
    /// Neighbouring rows that hold the same: heads of keys and values that several rows share.
    share: u64,
}

/// Builds the program of consecutive segments. Reasons why nodes cannot run are collected, each with the node.
pub(crate) fn build(
    request: &Request<'_>,
    heads: &Heads,
    grid: Grid,
    segments: &[Segment],
    enters: Value,
    half: u64,
) -> Result<Built, Vec<(NodeId, String)>> {
    let mut builder = Builder::new(request, heads, grid, half);
    builder.stream(enters);
    let mut wrong = Vec::new();
    builder.lives(segments);
    for segment in segments {
        builder.call(Call::Comment(purpose(request, segment).to_owned()));
        for id in &segment.nodes {
            if let Err(reason) = builder.node(*id) {
                wrong.push((*id, reason));
            }
            builder.now += 1;
            builder.release();
        }
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    builder.finish(segments.last().and_then(|segment| segment.leaves));
    Ok(builder.built)
}

/// A line about a segment. It names no node: equal layers have equal programs.
fn purpose(request: &Request<'_>, segment: &Segment) -> &'static str {
    let has = |wanted: fn(&Op) -> bool| segment.nodes.iter().any(|id| wanted(&request.graph.node(*id).op));
    match (has(|op| matches!(op, Op::Attention(_))), has(|op| matches!(op, Op::Glu(_))), segment.leaves) {
        (true, ..) => "Attention: heads by rows, output projection by columns, residual",
        (_, true, _) => "Feed-forward: gate and up by rows, down by columns, residual",
        (.., None) => "Last norm and logits by rows",
        _ => "Residual",
    }
}

/// Products that make heads: columns of a head, and how many heads there are in all.
pub(crate) type Heads = BTreeMap<NodeId, (u64, u64)>;

/// Finds them.
pub(crate) fn heads(request: &Request<'_>) -> Heads {
    let graph = request.graph;
    let mut found = BTreeMap::new();
    for id in graph.ids() {
        let wants = match (&graph.node(id).op, graph.node(id).results.first()) {
            (Op::Append(op), Some(Ty::Cache { key_dim, value_dim, .. })) => {
                vec![(0, *key_dim, op.kv_heads), (1, *value_dim, op.kv_heads)]
            }
            (Op::Attention(op), _) => match graph.operand(id, 0).map(|query| *graph.ty(query)) {
                Some(Ty::Act { width, .. }) => vec![(0, width / op.heads, op.heads)],
                _ => vec![],
            },
            _ => vec![],
        };
        for (operand, dim, count) in wants {
            let mut at = graph.operand(id, operand);
            while let Some(value) = at {
                found.insert(value.node, (dim, count));
                at = match graph.node(value.node).op {
                    Op::Rope(_) | Op::RmsNorm(_) | Op::Select(_) => graph.operand(value.node, 0),
                    _ => None,
                };
            }
        }
    }
    found
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
}

impl<'a> Builder<'a> {
    fn new(request: &'a Request<'a>, heads: &'a Heads, grid: Grid, half: u64) -> Self {
        Self {
            request,
            grid,
            half,
            heads,
            built: Built::default(),
            values: BTreeMap::new(),
            caches: BTreeMap::new(),
            last: BTreeMap::new(),
            now: 0,
            used: Vec::new(),
            joined: BTreeMap::new(),
            order: Vec::new(),
        }
    }

    /// The stream: a piece of the residual, the angles, the index.
    fn stream(&mut self, enters: Value) {
        let len = self.grid.piece + 2 * self.half + 1;
        self.built.kernel.buffers.push(Buffer { name: "stream".to_owned(), len });
        self.used.push(true);
        let part = Part { buffer: 0, at: 0, len: self.grid.piece };
        self.values.insert(enters, Place { part, axis: Axis::Columns, share: 1 });
    }

    fn lives(&mut self, segments: &[Segment]) {
        self.order = segments.iter().flat_map(|segment| segment.nodes.iter().copied()).collect();
        for (at, id) in self.order.iter().enumerate() {
            for operand in self.request.graph.operands(*id).into_iter().flatten() {
                self.last.insert(through_select(self.request.graph, operand), at);
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
            buffers.push(Buffer { name, len });
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
    fn room(&mut self, arena: Arena, len: u64, piece: Option<Piece>) -> u64 {
        let at = self.built.kernel.arenas[arena as usize];
        self.built.kernel.arenas[arena as usize] += len;
        if let Some(piece) = piece {
            self.built.pieces.entry(arena).or_default().push(Piece {
                to: at * arena.words(),
                words: len * arena.words(),
                ..piece
            });
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

    /// A vector of f32 beside a value: norm weights, a bias.
    fn vector(&mut self, param: &ParamName, place: Place) -> Result<u64, String> {
        let packed = self.param(param)?;
        let tensor = self.tensor(param.as_str(), param, Section::Codes, Arrangement::plain(4 * packed.cols as usize));
        let bytes = 4 * place.part.len;
        let (column, row) = if place.axis == Axis::Columns { (bytes, 0) } else { (0, bytes) };
        let piece = Piece { tensor, to: 0, words: 0, column, row, share: place.share };
        Ok(self.room(Arena::Vectors, place.part.len, Some(piece)))
    }

    fn operand(&self, id: NodeId, at: usize) -> Result<Place, String> {
        let value = self.request.graph.operand(id, at).map(|value| through_select(self.request.graph, value));
        let place = value.and_then(|value| self.values.get(&value));
        place.copied().ok_or_else(|| "it reads a value that lies elsewhere".to_owned())
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
        match &graph.node(id).op {
            Op::RmsNorm(op) => self.norm(id, op),
            Op::Linear(_) => self.linear(id),
            Op::Rope(op) => {
                let x = self.operand(id, 0)?;
                if !self.dies(id, 0) {
                    return Err("the vector before its rotation is read again".to_owned());
                }
                if x.axis != Axis::Rows || !x.part.len.is_multiple_of(op.head_dim) {
                    return Err("a row holds no whole heads".to_owned());
                }
                if !self.built.kernel.buffers.iter().any(|buffer| buffer.name == "turned") {
                    self.buffer("turned", 2 * self.half);
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
                // In place, where the gate is not read again.
                let y = if self.dies(id, 0) { gate.part } else { self.buffer("gated", gate.part.len) };
                self.call(Call::Swiglu { y, gate: gate.part, up: up.part });
                self.result(id, Place { part: y, ..gate });
                Ok(())
            }
            Op::Add(_) => {
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
            other => Err(format!("there is no lowering of '{}'", other.name())),
        }
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
            let weight = op.weight.as_ref().map(|weight| self.vector(weight, place)).transpose()?;
            self.call(Call::Norm { y, x: x.part, weight, axis: x.axis, count: width, eps: op.eps });
        } else if x.axis == Axis::Rows && x.part.len.is_multiple_of(op.group) {
            let shared = match &op.weight {
                Some(weight) if self.param(weight)?.cols != op.group => {
                    return Err("norm weights differ from head to head".to_owned());
                }
                weight => weight,
            };
            let one = Place { part: Part { len: op.group, ..y }, axis: Axis::Columns, share: 1 };
            let weight = shared.as_ref().map(|weight| self.vector(weight, one)).transpose()?;
            if let Some(pieces) = self.built.pieces.get_mut(&Arena::Vectors)
                && let (Some(piece), true) = (pieces.last_mut(), weight.is_some())
            {
                piece.column = 0;
            }
            self.call(Call::HeadNorm { y, x: x.part, weight, dim: op.group, eps: op.eps });
        } else {
            return Err("it normalizes groups that a row does not hold whole".to_owned());
        }
        self.result(id, place);
        Ok(())
    }

    /// Outputs per PE of a product, and how many rows share them.
    fn outputs(&self, id: NodeId, input: Axis, outputs: u64, consumer: u64) -> Result<(u64, u64), String> {
        let height = self.grid.height;
        match (input, self.heads.get(&id)) {
            (Axis::Rows, None) => Ok((self.grid.piece, 1)),
            (Axis::Rows, Some(_)) => Err("heads come from a vector that is cut by rows".to_owned()),
            (Axis::Columns, Some((dim, count))) if count.is_multiple_of(height) => Ok((dim * count / height, 1)),
            (Axis::Columns, Some((dim, count))) if height.is_multiple_of(*count) => Ok((*dim, height / count)),
            (Axis::Columns, Some((_, count))) => Err(format!("{count} heads do not spread over {height} rows")),
            (Axis::Columns, None) => Ok((outputs.div_ceil(height).next_multiple_of(consumer), 1)),
        }
    }

    fn linear(&mut self, id: NodeId) -> Result<(), String> {
        if let Some(place) = self.joined.remove(&id) {
            self.result(id, place);
            return Ok(());
        }
        let graph = self.request.graph;
        let x = self.operand(id, 0)?;
        let source = graph.operand(id, 0).map(|value| through_select(graph, value));
        // Products of one vector are summed together.
        let together: Vec<NodeId> = self.order[self.now..]
            .iter()
            .copied()
            .filter(|other| matches!(graph.node(*other).op, Op::Linear(_)))
            .filter(|other| graph.operand(*other, 0).map(|value| through_select(graph, value)) == source)
            .collect();
        let mut made = Vec::new();
        for other in &together {
            let Op::Linear(op) = &graph.node(*other).op else { continue };
            made.push((*other, op.clone(), self.product(*other, op, x)?));
        }
        let coding = made[0].2.0;
        if made.iter().any(|(.., (other, ..))| *other != coding) {
            return Err("products of one vector have different codecs".to_owned());
        }
        let len: u64 = made.iter().map(|(.., (_, matrix, _))| matrix.rows).sum();
        let name = match (x.axis, made.len()) {
            (Axis::Rows, _) => "narrow",
            (Axis::Columns, 1) => "wide",
            (Axis::Columns, 2) => "pair",
            (Axis::Columns, _) => "heads",
        };
        let logits = graph.outputs.first().map(|(_, value)| value.node) == Some(id);
        let whole = self.buffer(if logits { "result" } else { name }, len);
        let axis = if x.axis == Axis::Columns { Axis::Rows } else { Axis::Columns };
        self.call(Call::Load { x: x.part, split: coding == Coding::Split });
        let mut at = 0;
        let mut biases = Vec::new();
        for (node, op, (_, matrix, share)) in made {
            let place = Place { part: Part { buffer: whole.buffer, at, len: matrix.rows }, axis, share };
            at += matrix.rows;
            let step = matrix.rows.div_ceil(matrix.rows.div_ceil(CHUNK)).next_multiple_of(8);
            for first in (0..matrix.rows).step_by(step as usize) {
                let rows = step.min(matrix.rows - first);
                let y = Part { at: place.part.at + first, len: rows, ..place.part };
                let (weights, scales) = (matrix.weights + first, matrix.scales + first);
                self.call(Call::Product { y, matrix: Matrix { rows, weights, scales, ..matrix } });
                let largest = &mut self.built.kernel.largest;
                *largest = [largest[0].max(rows), largest[1].max(matrix.inputs)];
            }
            if let Some(bias) = &op.bias {
                biases.push((place.part, self.vector(bias, place)?));
            }
            if node == id {
                self.result(id, place);
            } else {
                self.joined.insert(node, place);
            }
            if logits {
                self.built.logits = matrix.rows;
            }
        }
        self.call(Call::Sum { y: whole, over: x.axis });
        for (y, vector) in biases {
            self.call(Call::Bias { y, vector });
        }
        Ok(())
    }

    /// The tile of a product and where it comes from.
    fn product(&mut self, id: NodeId, op: &Linear, x: Place) -> Result<(Coding, Matrix, u64), String> {
        let packed = self.param(&op.weight)?;
        let coding = Coding::of(packed.codec, packed.group)?;
        if x.share != 1 {
            return Err("its input is shared by rows".to_owned());
        }
        let (height, inputs) = (self.grid.height, x.part.len);
        if !inputs.is_multiple_of(coding.inputs()) {
            return Err(format!("a PE holds {inputs} inputs, and weights come in blocks of {}", coding.inputs()));
        }
        let consumer = if self.heads.contains_key(&id) { 1 } else { 32 };
        let (rows, share) = self.outputs(id, x.axis, packed.rows, consumer)?;
        let words = coding.words(inputs);
        let (cut, tile) = match x.axis {
            // Tiles of a block of outputs follow each other along the inputs.
            Axis::Columns => (self.grid.width, [2 * words * rows, 2 * words * rows * self.grid.width]),
            Axis::Rows => (height, [2 * words * rows * height, 2 * words * rows]),
        };
        let spec =
            PackedSpec::new(packed.rows as usize, packed.cols as usize, packed.codec, Group::Row).map_err(|e| e.to_string())?;
        let name = op.weight.as_str();
        let codes =
            self.tensor(&format!("{name}.tiles"), &op.weight, Section::Codes, planes(spec.row_bytes(), rows, words * cut));
        let factors = self.tensor(&format!("{name}.tiles.scales"), &op.weight, Section::Scales, scales(&spec, rows));
        let piece = |tensor: String, column: u64, row: u64| Some(Piece { tensor, to: 0, words: 0, column, row, share });
        let by_output = match x.axis {
            Axis::Columns => [0, 2 * rows],
            Axis::Rows => [2 * rows, 0],
        };
        let weights = self.room(Arena::Weights, words * rows, piece(codes, tile[0], tile[1]));
        let scales = self.room(Arena::Scales, rows, piece(factors, by_output[0], by_output[1]));
        Ok((coding, Matrix { split: coding == Coding::Split, rows, stride: rows, inputs, weights, scales }, share))
    }

    fn append(&mut self, id: NodeId, layer: u32) -> Result<(), String> {
        let (key, value) = (self.operand(id, 0)?, self.operand(id, 1)?);
        let Some(Ty::Cache { kv_heads, key_dim, value_dim, .. }) = self.request.graph.node(id).results.first().copied() else {
            return Err("it makes no cache".to_owned());
        };
        if key_dim != value_dim {
            return Err("keys and values have different columns".to_owned());
        }
        if key.axis != Axis::Rows || key.share != value.share {
            return Err("keys and values lie in different ways".to_owned());
        }
        let heads = key.part.len / key_dim;
        let entries = self.request.context.div_ceil(self.grid.width);
        let room = heads * key_dim * entries;
        let (keys, values) = (self.room(Arena::Keys, room, None), self.room(Arena::Values, room, None));
        debug_assert_eq!(heads * self.grid.height, kv_heads * key.share);
        self.built.caches.push(WaferCache { layer, heads, share: key.share, dim: key_dim, entries, keys, values });
        // The module is known when the queries are.
        let attention = Attention { heads: 0, kv_heads: heads, dim: key_dim, entries, scale: 0.0, window: 0 };
        self.caches.insert(Value { node: id, result: 0 }, (keys, values, attention));
        self.call(Call::Append { module: usize::MAX, key: key.part, value: value.part, keys, values });
        Ok(())
    }

    fn attend(&mut self, id: NodeId, heads: u64, scale: f32, window: u64) -> Result<(), String> {
        let q = self.operand(id, 0)?;
        let cache = self.request.graph.operand(id, 1).and_then(|cache| self.caches.get(&cache).copied());
        let (keys, values, own) = cache.ok_or_else(|| "its cache lies elsewhere".to_owned())?;
        if !heads.is_multiple_of(self.grid.height) {
            return Err(format!("{heads} heads do not spread over {} rows", self.grid.height));
        }
        let attention = Attention { heads: heads / self.grid.height, scale, window, ..own };
        let known = self.built.kernel.attentions.iter().position(|other| *other == attention);
        let module = known.unwrap_or_else(|| {
            self.built.kernel.attentions.push(attention);
            self.built.kernel.attentions.len() - 1
        });
        for call in &mut self.built.kernel.calls {
            match call {
                Call::Append { module: of, keys: at, .. } if *of == usize::MAX && *at == keys => *of = module,
                _ => {}
            }
        }
        let y = self.buffer("attended", q.part.len);
        self.call(Call::Attend { module, y, q: q.part, keys, values });
        self.result(id, Place { part: y, ..q });
        Ok(())
    }

    /// What leaves stands in the stream; there is a result for the host everywhere.
    fn finish(&mut self, leaves: Option<Value>) {
        if let Some(place) = leaves.and_then(|value| self.values.get(&value)).copied()
            && place.part.buffer != 0
        {
            let y = Part { buffer: 0, at: 0, len: self.grid.piece };
            self.call(Call::Move { y, x: place.part });
        }
        let kernel = &mut self.built.kernel;
        kernel.height = self.grid.height;
        if !kernel.buffers.iter().any(|buffer| buffer.name == "result") {
            kernel.buffers.push(Buffer { name: "result".to_owned(), len: 1 });
        }
    }
}

//! Columns, rows and regions: the most rows that the heads spread over, the fewest columns on which every part of a layer fits, and then
//! as many parts per region as its memories take. The head's region has as many rows as its table needs, an expert's as few as hold it.

use crate::Wse;
use crate::build::{Built, Grid, Heads, build, heads};
use crate::emit;
use crate::segments::{Kind, Prologue, Segment, segments};
use q35_diag::{Diagnostic, Diagnostics, Result};
use q35_dialects::attr::Attr;
use q35_dialects::q35::{Embed, Op};
use q35_dialects::wse::{Arena, Buffer, Kernel, Program, Region, Role};
use q35_dialects::{Graph, Ty};
use q35_graph::{NodeId, Value};
use q35_target::{Request, cannot};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Bytes that a program may take, of 48 KiB.
const CEILING: u64 = 48_128;
/// Stack, and what comes with every program that talks to the host; estimates.
const RESERVED: u64 = 4_096 + 2_048;
/// Bytes of code per statement: an estimate.
const CODE: u64 = 14;

/// Most tokens of a block.
pub(crate) const LARGEST_BLOCK: u64 = 16;
/// Tokens of a block where it is more than one, best first.
const BLOCKS: &[u64] = &[LARGEST_BLOCK, 8, 4, 2];
/// Most tokens of a step.
const LARGEST_STEP: u64 = 256;
/// Rows of each wafer that hold the tokens of a step: the first, from which they enter, and the last of every wafer but the last, where they end.
const EDGES: u64 = 2;

/// What a region holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    /// Index into [`Wafer::built`].
    pub(crate) built: usize,
    /// Which expert it is, where there are several.
    pub(crate) expert: u64,
}

/// A program with its memories.
#[derive(Debug)]
pub(crate) struct Wafer {
    pub(crate) program: Program,
    pub(crate) built: Vec<Built>,
    /// By region.
    pub(crate) held: Vec<Held>,
}

/// A model on as many wafers as it takes: the host carries the stream from each to the next.
#[derive(Debug)]
pub(crate) struct Mapped {
    pub(crate) wafers: Vec<Wafer>,
    pub(crate) width: u64,
    pub(crate) embed: Embed,
    pub(crate) rotary: Option<NodeId>,
    pub(crate) hidden: u64,
    pub(crate) piece: u64,
    pub(crate) half: u64,
    /// Most tokens of a step.
    pub(crate) tokens: u64,
    /// Most tokens of a block.
    pub(crate) block: u64,
}

/// Words of variables that fit beside code and stack.
pub(crate) fn room(kernel: &Kernel) -> u64 {
    (CEILING - RESERVED).saturating_sub(CODE * emit::statements(kernel)) / 2
}

fn fits(built: &Built) -> bool {
    built.kernel.data_words() <= room(&built.kernel)
}

/// A line per kind of memory.
fn table(built: &Built) -> String {
    let kernel = &built.kernel;
    let arenas = Arena::ALL.iter().map(|arena| (arena.name(), 2 * arena.words() * kernel.arenas[*arena as usize]));
    let lines: Vec<String> = arenas.map(|(name, bytes)| format!("{name} {bytes}")).collect();
    let all = 2 * kernel.data_words();
    format!("bytes per PE: {}, all variables {all}, room for {}", lines.join(", "), 2 * room(kernel))
}

/// Consecutive segments in one region, or in so many equal ones.
#[derive(Clone, Copy, Debug)]
struct Cut {
    start: usize,
    end: usize,
    height: u64,
    copies: u64,
}

impl Cut {
    fn rows(&self) -> u64 {
        self.copies * self.height
    }
}

/// Regions of one width, from the first to the last, on as many wafers as they take.
struct Stack {
    grid: Grid,
    wafers: Vec<Vec<Cut>>,
}

impl Stack {
    /// Wafers, then PEs.
    fn size(&self) -> (usize, u64) {
        let rows: u64 = self.wafers.iter().flatten().map(Cut::rows).sum();
        (self.wafers.len(), rows * self.grid.width)
    }
}

/// What a search over grids looks at.
struct Mapper<'a> {
    request: &'a Request<'a>,
    /// Columns and rows of a wafer.
    largest: [u64; 2],
    heads: Heads,
    all: Vec<Segment>,
    /// Segments that need the same memory have the same number.
    classes: Vec<usize>,
    first: Value,
    hidden: u64,
    half: u64,
    /// Rows that experts spread over, fewest first, by segment.
    heights: BTreeMap<usize, Vec<u64>>,
    /// Whether segments of these classes fit a region.
    known: RefCell<BTreeMap<(Grid, Vec<usize>), bool>>,
}

impl Mapper<'_> {
    fn enters(&self, at: usize) -> Value {
        if at == 0 { self.first } else { self.all[at - 1].leaves.unwrap_or(self.first) }
    }

    fn build(&self, grid: Grid, start: usize, end: usize) -> std::result::Result<Built, Vec<(NodeId, String)>> {
        build(self.request, &self.heads, grid, &self.all[start..end], self.enters(start), self.half)
    }

    /// What the regions of a cut hold.
    fn held(&self, grid: Grid, cut: &Cut) -> Built {
        let built = self.build(Grid { height: cut.height, ..grid }, cut.start, cut.end);
        Built { copies: cut.copies, ..built.unwrap_or_else(|wrong| unreachable!("a cut has been built before: {wrong:?}")) }
    }

    /// The longest context with which segments fit, each by itself; 0 if none is short enough.
    fn longest(&self, grid: Grid, segments: &[usize]) -> u64 {
        let fit = |context: u64| {
            let request = Request { context, ..*self.request };
            segments.iter().all(|&at| {
                let built = build(&request, &self.heads, grid, &self.all[at..=at], self.enters(at), self.half);
                built.is_ok_and(|built| fits(&built))
            })
        };
        let (mut low, mut high) = (0, self.request.context);
        while low + 1 < high {
            let middle = (low + high) / 2;
            if fit(middle) { low = middle } else { high = middle }
        }
        low
    }

    /// Whether a region of these segments fits its memories.
    fn fits(&self, grid: Grid, start: usize, end: usize) -> bool {
        let key = (grid, self.classes[start..end].to_vec());
        let known = self.known.borrow().get(&key).copied();
        known.unwrap_or_else(|| {
            let fits = self.build(grid, start, end).is_ok_and(|built| fits(&built));
            self.known.borrow_mut().insert(key, fits);
            fits
        })
    }

    /// A segment in as few rows as it fits: taller regions hold less per row.
    fn lowest(&self, grid: Grid, at: usize) -> Option<Cut> {
        let of = |height: u64| self.fits(Grid { height, ..grid }, at, at + 1);
        let cut = |height: u64, copies: u64| Cut { start: at, end: at + 1, height, copies };
        if let Kind::Experts(count) = self.all[at].kind {
            return self.heights[&at].iter().find(|height| of(**height)).map(|height| cut(*height, count));
        }
        let (mut low, mut high) = (1, self.largest[1]);
        while low < high {
            let middle = (low + high) / 2;
            if of(middle) { high = middle } else { low = middle + 1 }
        }
        of(low).then(|| cut(low, 1))
    }

    fn attends(&self, at: usize) -> bool {
        self.all[at].nodes.iter().any(|id| matches!(self.request.graph.node(*id).op, Op::Attention(_)))
    }

    /// Regions of as many segments as fit their memories, up to the next experts; a segment without heads that stands alone takes the rows it
    /// needs.
    fn cuts(&self, grid: Grid) -> Option<Vec<Cut>> {
        let (mut cuts, mut start, body) = (Vec::new(), 0, self.all.len() - 1);
        let experts = |at: usize| matches!(self.all[at].kind, Kind::Experts(_));
        while start < body {
            let mut end = start + 1;
            let mut fits = !experts(start) && self.fits(grid, start, end);
            while fits
                && end < body
                && self.all[end - 1].kind == Kind::Plain
                && !experts(end)
                && self.fits(grid, start, end + 1)
            {
                end += 1;
            }
            let mut cut = Cut { start, end, height: grid.height, copies: 1 };
            if end == start + 1 && !self.attends(start) {
                (cut, fits) = (self.lowest(grid, start)?, true);
            }
            if !fits {
                return None;
            }
            cuts.push(cut);
            start = end;
        }
        cuts.push(self.lowest(grid, body)?);
        Some(cuts)
    }

    /// The same on wafers: a router and its experts stay together.
    fn stack(&self, grid: Grid) -> Option<Stack> {
        let cuts = self.cuts(grid)?;
        let experts = |cut: &Cut| matches!(self.all[cut.start].kind, Kind::Experts(_));
        let most = self.largest[1].saturating_sub(EDGES);
        let (mut wafers, mut rows): (Vec<Vec<Cut>>, u64) = (vec![vec![]], 0);
        for unit in cuts.chunk_by(|_, next| experts(next)) {
            let own: u64 = unit.iter().map(Cut::rows).sum();
            if own > most {
                return None;
            }
            if rows + own > most {
                (rows, wafers) = (0, [wafers, vec![vec![]]].concat());
            }
            rows += own;
            if let Some(wafer) = wafers.last_mut() {
                wafer.extend(unit);
            }
        }
        Some(Stack { grid, wafers })
    }

    /// Whether steps can have several tokens: of these the last segment works on the last alone, so the first ones must be of no use to it.
    fn several(&self) -> bool {
        let body = self.all.len() - 1;
        body > 0 && !self.attends(body)
    }

    /// A stack for the largest blocks that need no more wafers than blocks of one token.
    fn best(&self, heights: &[u64], largest: u64) -> Option<Stack> {
        let one = self.search(heights, 1)?;
        let blocks = BLOCKS.iter().filter(|tokens| self.several() && **tokens <= largest);
        let mut larger = blocks.filter_map(|tokens| self.search(heights, *tokens));
        Some(larger.find(|stack| stack.wafers.len() <= one.wafers.len()).unwrap_or(one))
    }

    /// The fewest columns on which all regions fit one wafer, with the most rows per attention; else the stack of fewest wafers, and of fewest PEs.
    fn search(&self, heights: &[u64], tokens: u64) -> Option<Stack> {
        let blocks = self.hidden.div_ceil(32);
        // For each width the smallest pieces: they are even.
        let pieces: BTreeMap<u64, u64> = (1..=blocks).rev().map(|piece| (blocks.div_ceil(piece), 32 * piece)).collect();
        // Columns beyond those of the residual hold but entries of the cache.
        let wider: BTreeMap<u64, u64> = (blocks + 1..=self.largest[0]).step_by(8).map(|width| (width, 32)).collect();
        let mut best: Option<Stack> = None;
        for widths in [pieces, wider] {
            for &height in heights {
                for (&width, &piece) in widths.range(..=self.largest[0]) {
                    let Some(stack) = self.stack(Grid { width, height, piece, tokens }) else { continue };
                    if stack.wafers.len() == 1 {
                        return Some(stack);
                    }
                    if best.as_ref().is_none_or(|best| stack.size() < best.size()) {
                        best = Some(stack);
                    }
                }
            }
        }
        best
    }
}

/// Segments that need the same memory on every grid have the same number: the same ops, on values and parameters of the same shapes.
fn classes(request: &Request<'_>, all: &[Segment]) -> Vec<usize> {
    let graph = request.graph;
    let shape = |id: &NodeId| {
        let node = graph.node(*id);
        let attrs = node.op.attrs().into_iter().filter(|(name, _)| name != "layer").map(|(name, attr)| match attr {
            Attr::Param(param) => {
                let packed = request.params.get(&param).map(|packed| (packed.codec, packed.rows, packed.cols));
                format!("{name} {packed:?}")
            }
            other => format!("{name} {other:?}"),
        });
        let results = node.results.iter().map(|ty| match *ty {
            Ty::Cache { kv_heads, key_dim, value_dim, dtype, .. } => {
                Ty::Cache { layer: 0, kv_heads, key_dim, value_dim, dtype }
            }
            other => other,
        });
        format!("{} {:?} {:?}", node.op.name(), attrs.collect::<Vec<_>>(), results.collect::<Vec<_>>())
    };
    let mut known: BTreeMap<(bool, Vec<String>), usize> = BTreeMap::new();
    let number = |segment: &Segment| {
        let next = known.len();
        let shapes = segment.nodes.iter().map(shape).collect();
        *known.entry((matches!(segment.kind, Kind::Experts(_)), shapes)).or_insert(next)
    };
    all.iter().map(number).collect()
}

/// Maps a program.
pub(crate) fn map(target: &Wse, request: &Request<'_>) -> Result<Mapped> {
    let largest = target.rectangle;
    let graph = request.graph;
    let name = |id: NodeId| graph.node(id).name.clone();
    let (prologue, all) = segments(graph);
    let mut wrong = Diagnostics::new();
    for id in &prologue.more {
        wrong.push(cannot(target, &name(*id), "a second table of tokens or angles is not supported"));
    }
    let Prologue { embed: Some(table_at), rotary, .. } = prologue else {
        return Err(cannot(target, "step", "there is no table of embeddings").into());
    };
    let Op::Embed(embed) = graph.node(table_at).op.clone() else {
        return Err(cannot(target, &name(table_at), "there is no table of embeddings").into());
    };
    if all.is_empty() {
        return Err(cannot(target, "step", "there is nothing to do").into());
    }
    let hidden = match graph.node(table_at).results.first() {
        Some(Ty::Act { width, .. }) => *width,
        _ => 0,
    };
    let half = match rotary.and_then(|id| graph.node(id).results.first()) {
        Some(Ty::Rotary { half }) => *half,
        _ => 0,
    };
    let first = Value { node: table_at, result: 0 };
    let heights = all.iter().enumerate().filter_map(|(at, segment)| match segment.kind {
        Kind::Experts(_) => Some((at, rows_of_experts(graph, segment))),
        Kind::Plain | Kind::Router => None,
    });
    let heights = heights.collect();
    let (heads, classes) = (heads(request), classes(request, &all));
    let mapper = Mapper { request, largest, heads, all, classes, first, hidden, half, heights, known: RefCell::default() };

    // Rows over which the heads spread without an error, the most first; on one row, an error is the node's own.
    let queries = graph.ids().find_map(|id| match &graph.node(id).op {
        Op::Attention(op) => Some(op.heads),
        _ => None,
    });
    let queries = queries.unwrap_or(1);
    let errors = |height: u64| -> Vec<(NodeId, String)> {
        let grid = |at: usize| {
            let own = matches!(mapper.all[at].kind, Kind::Experts(_));
            Grid { width: 1, height: if own { 1 } else { height }, piece: hidden.next_multiple_of(32), tokens: 1 }
        };
        (0..mapper.all.len()).filter_map(|at| mapper.build(grid(at), at, at + 1).err()).flatten().collect()
    };
    let divisors = (1..=queries.min(largest[1])).rev().filter(|height| queries.is_multiple_of(*height));
    let heights: Vec<u64> = divisors.filter(|height| errors(*height).is_empty()).collect();
    if heights.is_empty() {
        for (number, (id, reason)) in errors(1).into_iter().enumerate() {
            let diagnostic = cannot(target, &name(id), &reason);
            wrong.push(if number == 0 { diagnostic.help(capacity(request, largest)) } else { diagnostic });
        }
    }
    if wrong.has_errors() {
        return Err(wrong);
    }
    match mapper.best(&heights, target.block) {
        None => Err(too_large(target, &mapper, heights[0]).into()),
        Some(Stack { grid, wafers }) => {
            let Grid { width, piece, tokens: block, .. } = grid;
            let stream = grid.stream(half);
            let tokens = if mapper.several() { step(stream, request.context).max(block) } else { 1 };
            let count = wafers.len();
            let wafers = wafers.iter().enumerate().map(|(number, cuts)| {
                let built: Vec<Built> = cuts.iter().map(|cut| mapper.held(grid, cut)).collect();
                assemble(Program { width, stream, piece, tokens, ..Program::default() }, built, number + 1 == count)
            });
            Ok(Mapped { wafers: wafers.collect(), width, embed, rotary, hidden, piece, half, tokens, block })
        }
    }
}

/// Tokens of a step: as many as the context has and a row holds.
fn step(stream: u64, context: u64) -> u64 {
    let words = room(&edge(stream, 1, [String::new(), String::new()]).kernel).saturating_sub(64);
    (words / 2 / stream).min(LARGEST_STEP).min(context).max(1)
}

/// A row that holds the tokens of a step: they enter from it, or end in it. Between these nodes of the model.
fn edge(stream: u64, tokens: u64, nodes: [String; 2]) -> Built {
    let buffers = [("stream", stream), ("result", 1)].map(|(name, len)| Buffer::new(name, len));
    let mut kernel = Kernel { height: 1, tokens, buffers: buffers.into(), ..Kernel::default() };
    kernel.buffers[1].scratch = true;
    Built { kernel, copies: 1, nodes, ..Built::default() }
}

/// How many wafers the bytes of a model fill, whatever it computes.
fn capacity(request: &Request<'_>, [columns, rows]: [u64; 2]) -> String {
    /// Bytes per PE beside code, stack and buffers, as public programs plan.
    const ROOM: u64 = 36 << 10;
    let weights: u64 = request.params.values().map(|packed| packed.bytes()).sum();
    let entries = request.graph.ids().filter_map(|id| match request.graph.node(id).results.first() {
        Some(Ty::Cache { kv_heads, key_dim, value_dim, .. }) => Some(2 * kv_heads * (key_dim + value_dim)),
        _ => None,
    });
    let cache = request.context.saturating_mul(entries.sum());
    let wafers = |bytes: u64| bytes.div_ceil(columns * rows * ROOM);
    format!(
        "by bytes alone its weights would fill {} wafers with {} KiB per PE, and the cache of {} tokens {} more",
        wafers(weights),
        ROOM >> 10,
        request.context,
        wafers(cache)
    )
}

/// No number of columns is enough: of the segments that fit nowhere, the one that takes most, with its table.
fn too_large(target: &Wse, mapper: &Mapper<'_>, height: u64) -> Diagnostic {
    let grid = Grid { width: mapper.largest[0], height, piece: 32, tokens: 1 };
    let alone = |at: usize| if mapper.attends(at) { mapper.fits(grid, at, at + 1) } else { mapper.lowest(grid, at).is_some() };
    let bad: Vec<usize> = (0..mapper.all.len()).filter(|at| !alone(*at)).collect();
    let all = bad.iter().filter_map(|at| Some((*at, mapper.build(grid, *at, at + 1).ok()?)));
    let worst = all.max_by_key(|(_, built)| built.kernel.data_words());
    let (at, text) = worst.map_or((0, String::new()), |(at, built)| (at, table(&built)));
    let node = &mapper.request.graph.node(mapper.all[at].nodes[0]).name;
    let what = format!("this part of the model does not fit the memories of {} columns and {height} rows ({text})", grid.width);
    let diagnostic = cannot(target, node, &what);
    match mapper.longest(grid, &bad) {
        0 => diagnostic,
        context => diagnostic.help(format!("use --context {context} or less")),
    }
}

/// Rows over which experts of these products spread evenly, in whole blocks of inputs of the last product.
fn rows_of_experts(graph: &Graph, segment: &Segment) -> Vec<u64> {
    let inner = segment.nodes.iter().find_map(|id| match (&graph.node(*id).op, graph.node(*id).results.first()) {
        (Op::Glu(_), Some(Ty::Act { width, .. })) => Some(*width),
        _ => None,
    });
    let blocks = inner.filter(|inner| inner.is_multiple_of(32)).map_or(1, |inner| inner / 32);
    (1..=blocks).filter(|rows| blocks.is_multiple_of(*rows)).collect()
}

/// Stacks the regions of a wafer and joins equal programs. The stream enters from a row that holds it; on all wafers but the last it ends in one.
fn assemble(empty: Program, mut built: Vec<Built>, last: bool) -> Wafer {
    let row = |node: Option<&String>| {
        let node = node.cloned().unwrap_or_default();
        let mut row = edge(empty.stream, empty.tokens, [node.clone(), node]);
        row.kernel.group = empty.width;
        row
    };
    let (enters, ends) = (row(built.first().map(|first| &first.nodes[0])), row(built.last().map(|last| &last.nodes[1])));
    built.insert(0, enters);
    built.extend((!last).then_some(ends));
    let (mut kernels, mut regions, mut held, mut top) = (Vec::<Kernel>::new(), Vec::new(), Vec::new(), 0);
    for (number, region) in built.iter().enumerate() {
        let stem = match region.kernel.role {
            Role::Expert { .. } => "expert",
            Role::Router(_) => "router",
            Role::Layers if region.kernel.calls.is_empty() => "edge",
            Role::Head => "head",
            Role::Layers => "layers",
        };
        let same = |kernel: &&Kernel| {
            let named = Kernel { name: kernel.name.clone(), ..region.kernel.clone() };
            **kernel == named
        };
        let known = kernels.iter().position(|kernel| same(&kernel));
        let kernel = known.unwrap_or_else(|| {
            let like = kernels.iter().filter(|kernel| kernel.name.starts_with(stem)).count();
            let name = if like == 0 { stem.to_owned() } else { format!("{stem}_{}", like + 1) };
            kernels.push(Kernel { name, ..region.kernel.clone() });
            kernels.len() - 1
        });
        let height = region.kernel.height;
        for expert in 0..region.copies {
            regions.push(Region { top, height, kernel });
            held.push(Held { built: number, expert });
            top += height;
        }
    }
    Wafer { program: Program { regions, kernels, ..empty }, built, held }
}

//! Columns, rows and regions: the most rows that the heads spread over, the fewest columns on which every part of a layer fits, and then
//! as many parts per region as its memories take. The head's region has as many rows as its table needs.

use crate::build::{Built, Grid, Heads, build, heads};
use crate::segments::{Prologue, Segment, segments};
use q35_diag::{Code, Diagnostic, Diagnostics, Result};
use q35_dialects::Ty;
use q35_dialects::q35::{Embed, Op};
use q35_dialects::wse::{Arena, Kernel, LARGEST, Program, Region};
use q35_graph::{NodeId, Value};
use q35_target::{Request, Target, cannot};

/// Bytes that a program may take, of 48 KiB.
const CEILING: u64 = 48_128;
/// Stack, and what comes with every program that talks to the host; estimates.
const RESERVED: u64 = 4_096 + 2_048;
/// Bytes of code per statement, and statements of the shared modules; estimates.
const CODE: [u64; 2] = [14, 300];

/// A program with its memories.
#[derive(Debug)]
pub(crate) struct Mapped {
    pub(crate) program: Program,
    /// By region.
    pub(crate) built: Vec<Built>,
    pub(crate) embed: Embed,
    pub(crate) rotary: Option<NodeId>,
    pub(crate) hidden: u64,
    pub(crate) piece: u64,
    pub(crate) half: u64,
}

/// Words of variables that fit beside code and stack.
pub(crate) fn room(kernel: &Kernel) -> u64 {
    (CEILING - RESERVED - CODE[0] * (CODE[1] + kernel.calls.len() as u64)) / 2
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

/// What a search over grids looks at.
struct Mapper<'a> {
    request: &'a Request<'a>,
    heads: Heads,
    all: Vec<Segment>,
    first: Value,
    hidden: u64,
    half: u64,
}

/// A stack of regions of one width.
struct Stack {
    width: u64,
    piece: u64,
    built: Vec<Built>,
}

impl Stack {
    fn rows(&self) -> u64 {
        self.built.iter().map(|region| region.kernel.height).sum()
    }

    fn fits(&self) -> bool {
        self.rows() <= LARGEST[1]
    }
}

impl Mapper<'_> {
    fn enters(&self, at: usize) -> Value {
        if at == 0 { self.first } else { self.all[at - 1].leaves.unwrap_or(self.first) }
    }

    fn build(&self, grid: Grid, start: usize, end: usize) -> std::result::Result<Built, Vec<(NodeId, String)>> {
        build(self.request, &self.heads, grid, &self.all[start..end], self.enters(start), self.half)
    }

    /// A region that fits its memories.
    fn part(&self, grid: Grid, start: usize, end: usize) -> Option<Built> {
        self.build(grid, start, end).ok().filter(fits)
    }

    /// A segment in as few rows as it fits: taller regions hold less per row.
    fn lowest(&self, grid: Grid, at: usize) -> Option<Built> {
        let of = |height: u64| self.part(Grid { height, ..grid }, at, at + 1);
        let (mut low, mut high) = (1, LARGEST[1]);
        while low < high {
            let middle = (low + high) / 2;
            if of(middle).is_some() { high = middle } else { low = middle + 1 }
        }
        of(low)
    }

    fn attends(&self, at: usize) -> bool {
        self.all[at].nodes.iter().any(|id| matches!(self.request.graph.node(*id).op, Op::Attention(_)))
    }

    /// Regions of as many segments as fit their memories; a segment without heads that stands alone takes the rows it needs.
    fn stack(&self, grid: Grid) -> Option<Stack> {
        let (mut built, mut start, body) = (Vec::new(), 0, self.all.len() - 1);
        while start < body {
            let (mut best, mut end) = (self.part(grid, start, start + 1), start + 1);
            while end < body
                && best.is_some()
                && let Some(more) = self.part(grid, start, end + 1)
            {
                (best, end) = (Some(more), end + 1);
            }
            if end == start + 1 && !self.attends(start) {
                best = self.lowest(grid, start);
            }
            built.push(best?);
            start = end;
        }
        built.push(self.lowest(grid, body)?);
        Some(Stack { width: grid.width, piece: grid.piece, built })
    }

    /// The fewest columns on which the stack fits with the most rows per attention; else the stack of fewest PEs.
    fn search(&self, heights: &[u64]) -> Option<Stack> {
        let pieces = (1..=self.hidden.div_ceil(32)).rev().map(|blocks| (self.hidden.div_ceil(32 * blocks), 32 * blocks));
        let wider = (self.hidden.div_ceil(32) + 1..=LARGEST[0]).map(|width| (width, 32));
        let mut widths: Vec<(u64, u64)> = pieces.chain(wider).filter(|(width, _)| *width <= LARGEST[0]).collect();
        // For each width, the largest pieces: fewer would leave columns idle.
        widths.dedup_by_key(|(width, _)| *width);
        let mut smallest: Option<Stack> = None;
        for &height in heights {
            for &(width, piece) in &widths {
                let Some(stack) = self.stack(Grid { width, height, piece }) else { continue };
                if stack.fits() {
                    return Some(stack);
                }
                if smallest.as_ref().is_none_or(|other| stack.width * stack.rows() < other.width * other.rows()) {
                    smallest = Some(stack);
                }
            }
        }
        smallest
    }
}

/// Maps a program.
pub(crate) fn map(target: &dyn Target, request: &Request<'_>) -> Result<Mapped> {
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
    let mapper = Mapper { request, heads: heads(request), all, first, hidden, half };

    // Rows over which the heads spread without an error, the most first; on one row, an error is the node's own.
    let queries = graph.ids().find_map(|id| match &graph.node(id).op {
        Op::Attention(op) => Some(op.heads),
        _ => None,
    });
    let queries = queries.unwrap_or(1);
    let errors = |height: u64| -> Vec<(NodeId, String)> {
        let grid = Grid { width: 1, height, piece: hidden.next_multiple_of(32) };
        (0..mapper.all.len()).filter_map(|at| mapper.build(grid, at, at + 1).err()).flatten().collect()
    };
    let divisors = (1..=queries.min(LARGEST[1])).rev().filter(|height| queries.is_multiple_of(*height));
    let heights: Vec<u64> = divisors.filter(|height| errors(*height).is_empty()).collect();
    if heights.is_empty() {
        for (id, reason) in errors(1) {
            wrong.push(cannot(target, &name(id), &reason));
        }
    }
    if wrong.has_errors() {
        return Err(wrong);
    }
    match mapper.search(&heights) {
        None => Err(too_large(target, &mapper, heights[0]).into()),
        Some(stack) if !stack.fits() => Err(wafers(target, &stack).into()),
        Some(Stack { width, piece, built }) => {
            let (program, built) = assemble(width, piece + 2 * half + 1, built);
            Ok(Mapped { program, built, embed, rotary, hidden, piece, half })
        }
    }
}

/// No number of columns is enough: of the segments that fit nowhere, the one that takes most, with its table.
fn too_large(target: &dyn Target, mapper: &Mapper<'_>, height: u64) -> Diagnostic {
    let grid = Grid { width: LARGEST[0], height, piece: 32 };
    let alone = |at: usize| if mapper.attends(at) { mapper.part(grid, at, at + 1) } else { mapper.lowest(grid, at) };
    let bad = (0..mapper.all.len()).filter(|at| alone(*at).is_none());
    let all = bad.filter_map(|at| Some((at, mapper.build(grid, at, at + 1).ok()?)));
    let worst = all.max_by_key(|(_, built)| built.kernel.data_words());
    let (at, text) = worst.map_or((0, String::new()), |(at, built)| (at, table(&built)));
    let node = &mapper.request.graph.node(mapper.all[at].nodes[0]).name;
    let what = format!("this part of the model does not fit the memories of {} columns and {height} rows ({text})", LARGEST[0]);
    cannot(target, node, &what).help("use a shorter --context")
}

/// A stack that is taller than a wafer: how many wafers its regions fill, side by side.
fn wafers(target: &dyn Target, stack: &Stack) -> Diagnostic {
    let (width, rows) = (stack.width, stack.rows());
    let side_by_side = LARGEST[0] / width;
    let wafers = rows.div_ceil(LARGEST[1] * side_by_side);
    let what = format!(
        "target '{}': the model takes {} PEs, {width} columns by {rows} rows: {wafers} wafer{} of {} by {} PEs, with {side_by_side} stacks \
         side by side on each",
        target.name(),
        width * rows,
        if wafers == 1 { "" } else { "s" },
        LARGEST[0],
        LARGEST[1]
    );
    Diagnostic::error(Code::TargetCannot, what)
        .help("programs of more than one stack of regions are not emitted; use a shorter --context")
}

/// Stacks regions and joins equal programs.
fn assemble(width: u64, stream: u64, built: Vec<Built>) -> (Program, Vec<Built>) {
    let (mut kernels, mut regions, mut top) = (Vec::<Kernel>::new(), Vec::new(), 0);
    let count = built.len();
    for (number, region) in built.iter().enumerate() {
        let stem = if number + 1 == count { "head" } else { "layers" };
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
        regions.push(Region { top, height, kernel });
        top += height;
    }
    (Program { width, regions, kernels, stream }, built)
}

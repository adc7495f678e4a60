//! Columns, rows and regions: the most rows that the heads spread over, the fewest columns on which every part of a layer fits, and then
//! as many parts per region as its memories take. The head's region has as many rows as its table needs.

use crate::build::{Built, Grid, build};
use crate::segments::{Prologue, segments};
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

/// Maps a program.
pub(crate) fn map(target: &dyn Target, request: &Request<'_>) -> Result<Mapped> {
    let graph = request.graph;
    let name = |id: NodeId| graph.node(id).name.clone();
    let (prologue, all) = segments(graph);
    let mut wrong = Diagnostics::new();
    for id in &prologue.more {
        wrong.push(cannot(target, &name(*id), "a second table of tokens or angles is not supported"));
    }
    let Prologue { embed: Some(embed), rotary, .. } = prologue else {
        return Err(cannot(target, "step", "there is no table of embeddings").into());
    };
    let Op::Embed(table_op) = graph.node(embed).op.clone() else {
        return Err(cannot(target, &name(embed), "there is no table of embeddings").into());
    };
    let hidden = match graph.node(embed).results.first() {
        Some(Ty::Act { width, .. }) => *width,
        _ => 0,
    };
    let half = match rotary.and_then(|id| graph.node(id).results.first()) {
        Some(Ty::Rotary { half }) => *half,
        _ => 0,
    };
    let Some((_, body)) = all.split_last() else {
        return Err(cannot(target, "step", "there is nothing to do").into());
    };
    let first = Value { node: embed, result: 0 };
    let enters = |at: usize| if at == 0 { first } else { all[at - 1].leaves.unwrap_or(first) };

    // The most rows over which heads spread without an error; with one row, an error is the node's own.
    let queries = graph.ids().find_map(|id| match &graph.node(id).op {
        Op::Attention(op) => Some(op.heads),
        _ => None,
    });
    let builds = |height: u64| {
        let grid = Grid { width: 1, height, piece: hidden.next_multiple_of(32) };
        let errors: Vec<(NodeId, String)> =
            (0..all.len()).filter_map(|at| build(request, grid, &all[at..=at], enters(at), half).err()).flatten().collect();
        errors
    };
    let heights = (1..=queries.unwrap_or(1).min(LARGEST[1])).rev().filter(|h| queries.unwrap_or(1).is_multiple_of(*h));
    let Some(height) = heights.into_iter().find(|height| builds(*height).is_empty()) else {
        for (id, reason) in builds(1) {
            wrong.push(cannot(target, &name(id), &reason));
        }
        return Err(wrong);
    };
    if wrong.has_errors() {
        return Err(wrong);
    }

    // The fewest columns on which all regions fit, below each other.
    let part =
        |grid: Grid, start: usize, end: usize| build(request, grid, &all[start..end], enters(start), half).ok().filter(fits);
    let stack = |width: u64, piece: u64| -> Option<Vec<Built>> {
        let grid = Grid { width, height, piece };
        let (mut built, mut start) = (Vec::new(), 0);
        while start < body.len() {
            let mut best = part(grid, start, start + 1)?;
            let mut end = start + 1;
            while end < body.len()
                && let Some(more) = part(grid, start, end + 1)
            {
                (best, end) = (more, end + 1);
            }
            built.push(best);
            start = end;
        }
        let last = body.len();
        built.push((1..=LARGEST[1]).find_map(|height| part(Grid { width, height, piece }, last, last + 1))?);
        Some(built)
    };
    let pieces = (1..=hidden.div_ceil(32)).rev().map(|blocks| (hidden.div_ceil(32 * blocks), 32 * blocks));
    let wider = (hidden.div_ceil(32) + 1..=LARGEST[0]).map(|width| (width, 32));
    let rows = |built: &[Built]| built.iter().map(|region| region.kernel.height).sum::<u64>();
    let (mut found, mut seen) = (None, 0);
    for (width, piece) in pieces.chain(wider).filter(|(width, _)| *width <= LARGEST[0]) {
        if std::mem::replace(&mut seen, width) == width {
            continue;
        }
        let Some(built) = stack(width, piece) else { continue };
        let fits = rows(&built) <= LARGEST[1];
        if fits || found.is_none() {
            found = Some((width, piece, built));
        }
        if fits {
            break;
        }
    }
    let Some((width, piece, built)) = found else {
        let grid = Grid { width: LARGEST[0], height, piece: 32 };
        let one = |at: usize| build(request, grid, &all[at..=at], enters(at), half).ok();
        let worst = (0..all.len()).filter_map(|at| Some((at, one(at)?))).max_by_key(|(_, b)| b.kernel.data_words());
        let (node, text) = worst.map_or((embed, String::new()), |(at, built)| (all[at].nodes[0], table(&built)));
        let what =
            format!("this part of the model does not fit the memories of {} columns and {height} rows ({text})", LARGEST[0]);
        return Err(cannot(target, &name(node), &what).help("use a shorter --context").into());
    };
    if rows(&built) > LARGEST[1] {
        return Err(wafers(target, width, rows(&built)).into());
    }
    let (program, built) = assemble(width, piece + 2 * half + 1, built);
    Ok(Mapped { program, built, embed: table_op, rotary, hidden, piece, half })
}

/// A stack that is taller than a wafer: how many wafers its regions fill, side by side.
fn wafers(target: &dyn Target, width: u64, rows: u64) -> Diagnostic {
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

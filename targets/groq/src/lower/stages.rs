//! Which chip does what: the graph in topological order, cut where only the residual stream is alive, as a pipeline over layers.
//!
//! A *part* is a layer, with what stands before the first one, or what stands behind the last one (the head). Consecutive parts make a
//! *share*, a chip's share: so many stages as there are chips, such that the slowest is as fast as it can be, none taking more memory than
//! a chip has. Before anything is scheduled, speed is counted from shapes: what installing takes, and what the vector phases of a
//! layer take at a short context.
//!
//! The head is divided by rows where a chip has no room for it, or where more chips are asked for than there are parts. Each chip with a piece of it
//! gets the residual stream, hands it on before anything else, and has logits of its own; the host has them all.
//!
//! The residual stream goes on to the next chip vector by vector, a byte of every lane at a time, on the one link that leads there: a
//! `send` as soon as the value is in memory and the link is free, and its `receive` exactly `c2c.hop` cycles later on the clock that all
//! chips count by. The next chip's program is therefore scheduled after this one's: its cycle 0 is the last beginning of an epoch before the
//! first vector arrives, and its `deskew`s stand there. The last chip has the logits, the host chooses the token and starts the first chip
//! again: as with one chip, which knows nothing of a next step. Embedding rows, angles and masks are the host's on every chip.

use super::fit::{self, Size};
use super::forecast;
use super::is_only_rounded;
use super::layout::{LANES, Layout};
use q35_diag::{Code, Diagnostic};
use q35_dialects::q35::Op;
use q35_dialects::{Graph, Ty};
use q35_graph::{NodeId, Value};
use q35_target::Request;
use q35_tsp::timing::Timing;
use std::collections::{BTreeMap, BTreeSet};

/// Consecutive nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    /// In topological order, with those of the host's that they use.
    pub(crate) nodes: Vec<NodeId>,
    /// The node whose value comes from the chip before.
    pub(crate) enters: Option<NodeId>,
    /// The node whose value the next chip gets.
    pub(crate) leaves: Option<NodeId>,
    /// The rows of the head that are computed here, where they are not all.
    pub(crate) rows: Option<Rows>,
}

/// Some rows of a layer's weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rows {
    pub(crate) of: NodeId,
    pub(crate) first: u64,
    pub(crate) count: u64,
}

impl Rows {
    /// The layout of their outputs.
    pub(crate) fn layout(self) -> Layout {
        Layout::section(self.first, self.count)
    }
}

/// What is not divided.
#[derive(Clone)]
struct Part {
    nodes: Vec<NodeId>,
    /// `None` behind the last.
    leaves: Option<NodeId>,
    /// Of a piece of the head.
    rows: Option<Rows>,
    size: Size,
    /// As counted from shapes.
    cycles: u64,
}

/// What the host gives to any chip that wants it.
fn of_host(op: &Op) -> bool {
    matches!(op, Op::Tokens(_) | Op::Positions(_) | Op::Embed(_) | Op::Rotary(_))
}

/// Nodes between places where one row of activations is all that is alive, and the node that makes it.
fn segments(graph: &Graph) -> Vec<(Vec<NodeId>, Option<NodeId>)> {
    let order = graph.topological().unwrap_or_else(|| unreachable!("a verified graph has no cycle"));
    let work: Vec<NodeId> = order.into_iter().filter(|id| !of_host(&graph.node(*id).op)).collect();
    let mut last: BTreeMap<Value, usize> = BTreeMap::new();
    for (at, id) in work.iter().enumerate() {
        last.extend(graph.operands(*id).into_iter().flatten().map(|operand| (operand, at)));
    }
    last.extend(graph.outputs.iter().map(|(_, value)| (*value, work.len())));
    let (mut segments, mut nodes, mut alive): (Vec<_>, Vec<NodeId>, Vec<Value>) = Default::default();
    for (at, id) in work.iter().enumerate() {
        nodes.push(*id);
        alive.extend((0..graph.node(*id).results.len()).map(|result| Value { node: *id, result: result as _ }));
        alive.retain(|value| last.get(value).is_some_and(|last| *last > at));
        if let [only] = alive[..]
            && at + 1 < work.len()
            && matches!(graph.ty(only), Ty::Act { rows, .. } if rows.section().1 == 1)
            && !is_only_rounded(graph, only.node)
        {
            segments.push((std::mem::take(&mut nodes), Some(only.node)));
        }
    }
    segments.push((nodes, None));
    segments
}

fn parts(request: &Request<'_>) -> Vec<Part> {
    let graph = request.graph;
    let has = |nodes: &[NodeId], wanted: fn(&Op) -> bool| nodes.iter().any(|id| wanted(&graph.node(*id).op));
    let attends = |nodes: &[NodeId]| has(nodes, |op| matches!(op, Op::Append(_)));
    let segments = segments(graph);
    // The last thing that a layer does is to add to the residual stream.
    let last = segments.iter().rposition(|(nodes, _)| attends(nodes) || has(nodes, |op| matches!(op, Op::Add(_)))).unwrap_or(0);
    let mut grouped: Vec<(Vec<NodeId>, Option<NodeId>)> = Vec::new();
    for (at, (nodes, leaves)) in segments.into_iter().enumerate() {
        match grouped.last_mut() {
            Some(part) if !(attends(&part.0) && (attends(&nodes) || at > last)) => {
                part.0.extend(nodes);
                part.1 = leaves;
            }
            _ => grouped.push((nodes, leaves)),
        }
    }
    let timing = Timing::tsp1();
    let part = |(nodes, leaves): (Vec<NodeId>, Option<NodeId>)| {
        let size = Size::of(request, &nodes.iter().copied().collect(), None);
        let layers = nodes.iter().filter(|id| graph.node(**id).op.attends()).count() as u64;
        let width = leaves.and_then(|id| graph.node(id).results.first()?.matrix()).map_or(0, |(_, width)| width);
        let vector = layers * forecast::vector(width, &timing) + forecast::attention(request, nodes.iter().copied(), &timing);
        Part { nodes, leaves, rows: None, size, cycles: size.installing.saturating_add(vector) }
    };
    let mut parts: Vec<Part> = grouped.into_iter().map(part).collect();
    if let Some(pieces) = pieces(request, &parts) {
        parts.pop();
        parts.extend(pieces);
    }
    parts
}

/// The layer of the head, and its rows, if the head is no more than it and what looks at one element at a time: then it can be divided by rows.
fn head(graph: &Graph, request: &Request<'_>, nodes: &[NodeId]) -> Option<(NodeId, u64)> {
    let mut id = graph.outputs.first().filter(|_| graph.outputs.len() == 1)?.1.node;
    while matches!(graph.node(id).op, Op::Softcap(_) | Op::Scale(_)) {
        id = graph.operand(id, 0)?.node;
    }
    let attends = nodes.iter().any(|id| graph.node(*id).op.attends());
    let Op::Linear(op) = &graph.node(id).op else { return None };
    let layers = nodes.iter().filter(|id| graph.node(**id).op.layer_weight().is_some()).count();
    (!attends && layers == 1 && nodes.contains(&id)).then_some((id, request.params.get(&op.weight)?.rows))
}

/// Most pieces of a head of so many rows: each but the last has at least two full vectors, of even and of odd rows.
fn most_pieces(rows: u64) -> u64 {
    rows.div_ceil(2 * LANES as u64).max(1)
}

/// The pieces of the head, if it is divided: because a chip has no room for it, or because more chips are asked for than there are parts.
fn pieces(request: &Request<'_>, parts: &[Part]) -> Option<Vec<Part>> {
    let [.., before, last] = parts else { return None };
    let (of, rows) = head(request.graph, request, &last.nodes)?;
    // Halves of chips, so that a piece finds a place beside a layer.
    let needed = if last.size.fits() { 1 } else { last.size.weights.div_ceil(Size::ROOM / 2) };
    let asked = request.chips.map_or(1, |chips| u64::from(chips).saturating_sub(parts.len() as u64 - 1));
    let most = most_pieces(rows);
    let count = needed.max(asked).min(most);
    let first = |piece: u64| (most * piece / count * 2 * LANES as u64).min(rows);
    let nodes: BTreeSet<NodeId> = last.nodes.iter().copied().collect();
    let piece = |piece: u64| {
        let rows = Rows { of, first: first(piece), count: first(piece + 1) - first(piece) };
        let size = Size::of(request, &nodes, Some(rows));
        let leaves = if piece + 1 < count { before.leaves } else { None };
        Part { leaves, rows: Some(rows), size, cycles: size.installing, ..last.clone() }
    };
    (count > 1).then(|| (0..count).map(piece).collect())
}

/// How many chips there may be, and how many the memory needs; an error is the part that fits none.
pub(crate) struct Counts {
    pub(crate) most: usize,
    /// How many of the parts are layers.
    layers: usize,
    pub(crate) needed: Result<usize, String>,
}

/// Cycles of all parts one after the other, as counted from shapes; pieces of the head, which different chips compute at the same time, count as one.
pub(crate) fn cycles(request: &Request<'_>, shares: &[Share]) -> u64 {
    let parts = parts(request);
    let layers = parts.iter().filter(|part| part.rows.is_none()).fold(0u64, |sum, part| sum.saturating_add(part.cycles));
    let of_head = |share: &Share| {
        let rows = share.rows?;
        Some(Size::of(request, &share.nodes.iter().copied().filter(|id| *id == rows.of).collect(), Some(rows)).installing)
    };
    layers.saturating_add(shares.iter().filter_map(of_head).max().unwrap_or(0))
}

/// How many chips a program may take.
pub(crate) fn counts(request: &Request<'_>) -> Counts {
    let parts = parts(request);
    let name = |part: &Part| part.nodes.first().map_or("", |id| &request.graph.node(*id).name).to_owned();
    let large = parts.iter().find(|part| !part.size.fits());
    let needed = large.map_or_else(|| Ok(fewest(&parts)), |part| Err(name(part)));
    let layers = parts.iter().filter(|part| part.nodes.iter().any(|id| request.graph.node(*id).op.attends())).count();
    let pieces = parts.iter().filter(|part| part.rows.is_some()).count();
    let most = parts.last().and_then(|part| head(request.graph, request, &part.nodes)).filter(|_| parts.len() > 1);
    let most = most.map_or(1, |(_, rows)| most_pieces(rows) as usize);
    Counts { most: parts.len() - pieces.max(1) + most, layers, needed }
}

/// The fewest chips: each takes as many parts as it can.
fn fewest(parts: &[Part]) -> usize {
    let (mut count, mut size) = (1, Size::default());
    for part in parts {
        let more = size.plus(part.size);
        (count, size) = if more.fits() { (count, more) } else { (count + 1, part.size) };
    }
    count
}

/// What may stand in the way of so many chips.
pub(crate) fn refusal(request: &Request<'_>) -> Option<Diagnostic> {
    let Counts { most, layers, needed } = counts(request);
    let (wanted, context) = (request.chips.map(|chips| chips as usize), request.context);
    match (wanted, needed) {
        (Some(wanted), Ok(_)) if wanted > most => {
            let head = match most.saturating_sub(layers) {
                0 => String::new(),
                1 => " and the head".to_owned(),
                pieces => format!(" and {pieces} pieces of the head"),
            };
            let plural = if layers == 1 { "" } else { "s" };
            let what = format!("{wanted} chips are more than the model has parts: {layers} layer{plural}{head}");
            Some(
                Diagnostic::error(Code::BadOption, what)
                    .at("option", "--chips")
                    .help(format!("a layer is on one chip: use --chips {most} or less")),
            )
        }
        (Some(wanted), Ok(needed)) if wanted < needed => {
            let what =
                format!("the model does not fit on {wanted} chip{}: it needs {needed}", if wanted == 1 { "" } else { "s" });
            let help = format!("use --chips {needed}, or a context shorter than {context} with --context");
            Some(Diagnostic::error(Code::DoesNotFit, what).at("option", "--chips").help(help))
        }
        (_, Err(part)) => Some(fit::too_large(request, &part)),
        _ => None,
    }
}

/// Cuts the graph into so many stages, at most as many as there are parts.
pub(crate) fn stages(request: &Request<'_>, count: usize) -> Vec<Share> {
    let graph = request.graph;
    let order = graph.topological().unwrap_or_else(|| unreachable!("a verified graph has no cycle"));
    if count <= 1 {
        return vec![Share { nodes: order, ..Share::default() }];
    }
    let parts = parts(request);
    let mut enters = None;
    let mut stages = Vec::new();
    for range in balance(&parts, count) {
        let mut nodes: BTreeSet<NodeId> = parts[range.clone()].iter().flat_map(|part| &part.nodes).copied().collect();
        let mut open: Vec<NodeId> = nodes.iter().copied().collect();
        while let Some(id) = open.pop() {
            let operands = graph.operands(id).into_iter().flatten().map(|value| value.node);
            open.extend(operands.filter(|id| of_host(&graph.node(*id).op) && nodes.insert(*id)));
        }
        let leaves = parts[range.end - 1].leaves;
        let rows = parts[range].iter().filter_map(|part| part.rows);
        let rows = rows.reduce(|some, next| Rows { count: some.count + next.count, ..some });
        stages.push(Share { nodes: order.iter().copied().filter(|id| nodes.contains(id)).collect(), enters, leaves, rows });
        enters = leaves;
    }
    stages
}

/// What the slowest of some stages takes (first, whether it does not fit), and the part that the last of them begins with.
type Cut = ((bool, u64), usize);

/// Ranges of parts, one per chip: what the slowest takes is least, and of such cuts the first chips take least.
fn balance(parts: &[Part], count: usize) -> Vec<std::ops::Range<usize>> {
    let count = count.clamp(1, parts.len().max(1));
    let cost = |from: usize, to: usize| {
        let size = parts[from..to].iter().fold(Size::default(), |size, part| size.plus(part.size));
        let cycles = parts[from..to].iter().fold(0u64, |sum, part| sum.saturating_add(part.cycles));
        // What does not fit is worse than anything that does.
        (!size.fits(), cycles)
    };
    // By stages and parts: what the slowest of them takes at best, and where the last of them begins.
    let mut best: Vec<Vec<Option<Cut>>> = vec![vec![None; parts.len() + 1]; count + 1];
    best[0][0] = Some(((false, 0), 0));
    for stage in 1..=count {
        for to in stage..=parts.len() {
            let from = |from: usize| best[stage - 1][from].map(|(slowest, _)| (slowest.max(cost(from, to)), from));
            best[stage][to] = (stage - 1..to).filter_map(from).min();
        }
    }
    let (mut ranges, mut to) = (Vec::new(), parts.len());
    for stage in (1..=count).rev() {
        let from = best[stage][to].map_or(0, |(_, from)| from);
        ranges.push(from..to);
        to = from;
    }
    ranges.reverse();
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(rows: u64, cycles: u64) -> Part {
        Part { nodes: vec![], leaves: None, rows: None, size: Size { weights: rows, ..Size::default() }, cycles }
    }

    #[test]
    fn the_slowest_chip_is_as_fast_as_it_can_be() {
        let parts: Vec<Part> = [10, 10, 10, 10, 25].map(|cycles| part(1, cycles)).into();
        assert_eq!(balance(&parts, 1).first(), Some(&(0..5)));
        assert_eq!(balance(&parts, 2), [0..3, 3..5]);
        assert_eq!(balance(&parts, 3), [0..2, 2..4, 4..5]);
        assert_eq!(balance(&parts, 5), [0..1, 1..2, 2..3, 3..4, 4..5]);
    }

    #[test]
    fn memory_comes_before_speed() {
        let half = Size::ROOM / 2;
        let parts: Vec<Part> = [(half, 1), (half, 1), (half, 100), (1, 100)].map(|(rows, cycles)| part(rows, cycles)).into();
        assert_eq!(fewest(&parts), 2);
        assert_eq!(balance(&parts, 2), [0..2, 2..4]);
        assert_eq!(balance(&parts, 3), [0..2, 2..3, 3..4]);
    }
}

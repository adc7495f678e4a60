//! The graph's inputs: what each one is, and which symbols its dimensions are.
//!
//! Exporters give equal sizes different names and fixed sizes names of their own, so recorded names count for nothing here: the batch, the
//! new tokens and the past tokens are one symbol each, wherever they occur. A number recorded for one of them binds it.

use super::{BTreeMap, BTreeSet, not_a_language_model};
use crate::sym::{Arena, Dim, Id, Kind};
use q35_diag::Result;
use q35_graph::source::{Dim as Recorded, SourceGraph, SourceOp};
use q35_graph::{NodeId, Value};

/// The sizes of a step as the graph sees them, and the variables over them.
pub(super) struct Grid {
    /// Sequences.
    pub batch: Id,
    /// New tokens of a sequence.
    pub tokens: Id,
    /// Tokens in the cache, if the graph has one.
    pub past: Option<Id>,
    /// A sequence.
    pub b: Id,
    /// A new token.
    pub s: Id,
    /// The token ids.
    pub ids: Value,
    /// 1 where a token is no padding.
    pub mask: Option<Value>,
    /// Given positions.
    pub positions: Option<Value>,
}

impl Grid {
    /// Index of new token `s` among all tokens.
    pub(super) fn column(&self, sym: &mut Arena) -> Id {
        match self.past {
            Some(past) => sym.add(past, self.s),
            None => self.s,
        }
    }

    /// Tokens in the cache and new ones.
    pub(super) fn total(&self, sym: &mut Arena) -> Id {
        match self.past {
            Some(past) => sym.add(past, self.tokens),
            None => self.tokens,
        }
    }
}

fn recorded(graph: &SourceGraph, value: Value) -> &[Recorded] {
    graph.node(value.node).results[value.result as usize].dims.as_deref().unwrap_or_default()
}

fn kind(graph: &SourceGraph, value: Value) -> Kind {
    graph.node(value.node).results[value.result as usize].dtype.map_or(Kind::Real, Kind::of)
}

/// Whether an input picks rows of a constant table of numbers: then it is the token ids.
fn picks_rows(graph: &SourceGraph, value: Value) -> bool {
    graph.users(value).into_iter().any(|(user, at)| match &graph.node(user).op {
        SourceOp::Call(call) if call.op.starts_with("Gather") && at == 1 => {
            graph.operand(user, 0).is_some_and(|table| !depends_on_inputs(graph, table) && kind(graph, table) != Kind::Truth)
        }
        SourceOp::Call(call) if call.op == "Cast" || call.op == "Identity" => {
            picks_rows(graph, Value { node: user, result: 0 })
        }
        _ => false,
    })
}

fn depends_on_inputs(graph: &SourceGraph, value: Value) -> bool {
    let (mut seen, mut work) = (BTreeSet::new(), vec![value.node]);
    while let Some(node) = work.pop() {
        if matches!(graph.node(node).op, SourceOp::Input) {
            return true;
        }
        if seen.insert(node) {
            work.extend(graph.operands(node).into_iter().flatten().map(|v| v.node));
        }
    }
    false
}

/// Finds out what the inputs are and gives their dimensions.
///
/// # Errors
/// If there are no token ids.
pub(super) fn classify(
    graph: &SourceGraph,
    live: &BTreeSet<NodeId>,
    sym: &mut Arena,
) -> Result<(Grid, BTreeMap<Value, Vec<Id>>)> {
    let inputs: Vec<Value> =
        graph.ids().filter(|id| matches!(graph.node(*id).op, SourceOp::Input)).map(|node| Value { node, result: 0 }).collect();
    let matrices: Vec<Value> =
        inputs.iter().copied().filter(|v| kind(graph, *v) != Kind::Real && recorded(graph, *v).len() == 2).collect();
    let Some(&ids) = matrices.iter().find(|v| live.contains(&v.node) && picks_rows(graph, **v)) else {
        return Err(not_a_language_model("no input of whole numbers picks rows of an embedding table").into());
    };
    // A cache that nobody reads is none.
    let is_cache = |v: &Value| kind(graph, *v) == Kind::Real && recorded(graph, *v).len() == 4 && live.contains(&v.node);
    let caches: Vec<Value> = inputs.iter().copied().filter(is_cache).collect();
    let mut bound = |recorded: Option<&Recorded>, dim: Dim| match recorded {
        Some(Recorded::Fixed(n)) => sym.number(*n as f64),
        _ => sym.dim(dim),
    };
    let batch = bound(recorded(graph, ids).first(), Dim::Batch);
    let tokens = bound(recorded(graph, ids).get(1), Dim::Tokens);
    let past = caches.first().map(|cache| bound(recorded(graph, *cache).get(2), Dim::Past));
    let name = |value: Value| graph.node(value.node).results[0].name.to_lowercase();
    let others: Vec<Value> = matrices.into_iter().filter(|v| *v != ids).collect();
    let mask = others.iter().copied().find(|v| name(*v).contains("mask"));
    let positions = others.iter().copied().find(|v| Some(*v) != mask && name(*v).contains("pos"));
    let (b, s) = (sym.var("b", batch), sym.var("s", tokens));
    let grid = Grid { batch, tokens, past, b, s, ids, mask, positions };
    let total = grid.total(sym);
    let dims = inputs
        .into_iter()
        .map(|value| {
            let dims: Vec<Id> = match recorded(graph, value) {
                [_, _] if Some(value) == mask => vec![batch, total],
                [_, _] if value == ids || Some(value) == positions => vec![batch, tokens],
                [_, heads, _, width] if let (Some(past), true) = (past, caches.contains(&value)) => {
                    vec![batch, other(sym, value, heads, 1), past, other(sym, value, width, 3)]
                }
                _ => unshared(graph, sym, value),
            };
            (value, dims)
        })
        .collect();
    Ok((grid, dims))
}

/// The dimensions of the inputs as the file records them, for a graph whose inputs cannot be told apart.
pub(super) fn recorded_dims(graph: &SourceGraph, sym: &mut Arena) -> BTreeMap<Value, Vec<Id>> {
    let inputs = graph.ids().filter(|id| matches!(graph.node(*id).op, SourceOp::Input)).map(|node| Value { node, result: 0 });
    inputs.filter(|v| graph.ty(*v).dims.is_some()).map(|value| (value, unshared(graph, sym, value))).collect()
}

fn unshared(graph: &SourceGraph, sym: &mut Arena, value: Value) -> Vec<Id> {
    recorded(graph, value).iter().enumerate().map(|(axis, dim)| other(sym, value, dim, axis)).collect()
}

/// A dimension that is none of the grid's; one without a name equals no other.
fn other(sym: &mut Arena, value: Value, dim: &Recorded, axis: usize) -> Id {
    match dim {
        Recorded::Fixed(n) => sym.number(*n as f64),
        Recorded::Named(name) => sym.dim(Dim::Other(name.clone())),
        Recorded::Unknown => sym.dim(Dim::Other(format!("?{}.{axis}", value.node.index()))),
    }
}

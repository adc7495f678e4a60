//! Control flow that is settled when the model is compiled.
//!
//! What enters: a source graph, and the context it is compiled for. What leaves: a graph in which the branch that is taken stands in place of
//! each `If`, and the iterations in place of each `Loop`, or why a node could not be settled. Conditions and trip counts are elements like
//! any other ([`crate::eval`]): what folds to a number, for every number of tokens that fits the context, is settled.
//!
//! The nodes are walked in topological order, so that shapes are known before they are asked about; what a body adds is walked next. A `Loop` is
//! settled iteration by iteration, and a condition that ends it early is as good as a trip count, as long as it folds.
//!
//! This module must not know what the branches hold.

pub(super) mod condition;
mod splice;

use super::inputs::{self, Grid};
use crate::eval::{Eval, Known};
use crate::sym::Arena;
use condition::Limits;
use q35_diag::{Code, Diagnostic};
use q35_graph::source::{Attr, Body, Call, SourceGraph, SourceOp};
use q35_graph::{NodeId, Value};
use splice::{Iteration, size};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// Nodes that settling may add to a graph.
const MAX_ADDED: usize = 1 << 17;

/// The attributes of `If`: what is done where the condition is 0, and where it is not.
const BRANCHES: [&str; 2] = ["else_branch", "then_branch"];

/// A graph whose control flow is settled as far as it can be.
pub(super) struct Settled<'g> {
    pub graph: Cow<'g, SourceGraph>,
    /// Why a node is still there.
    pub open: BTreeMap<NodeId, Diagnostic>,
}

/// Whether a node is control flow.
pub(super) fn is_control(op: &SourceOp) -> bool {
    matches!(op, SourceOp::Call(call) if call.domain.is_empty() && matches!(call.op.as_str(), "If" | "Loop"))
}

/// Settles the control flow of a graph that is compiled for `context` tokens.
pub(super) fn settle<'g>(graph: &'g SourceGraph, live: &BTreeSet<NodeId>, context: u64) -> Settled<'g> {
    if !live.iter().any(|id| is_control(&graph.node(*id).op)) {
        return Settled { graph: Cow::Borrowed(graph), open: BTreeMap::new() };
    }
    let mut sym = Arena::default();
    let (grid, dims) = match inputs::classify(graph, live, &mut sym) {
        Ok((grid, dims)) => (Some(grid), dims),
        Err(_) => (None, inputs::recorded_dims(graph, &mut sym)),
    };
    let order = graph.topological().unwrap_or_default();
    let mut settler = Settler {
        graph: graph.clone(),
        known: Known::new(sym, dims),
        grid,
        context,
        work: order.into_iter().rev().filter(|id| live.contains(id)).collect(),
        loops: BTreeMap::new(),
        open: BTreeMap::new(),
        added: 0,
    };
    settler.run();
    Settled { graph: Cow::Owned(settler.graph), open: settler.open }
}

/// The work in progress.
struct Settler {
    graph: SourceGraph,
    known: Known,
    grid: Option<Grid>,
    context: u64,
    /// Nodes to come, last first.
    work: Vec<NodeId>,
    /// Loops of which iterations are unrolled.
    loops: BTreeMap<NodeId, Unrolling>,
    open: BTreeMap<NodeId, Diagnostic>,
    added: usize,
}

/// A loop after some iterations.
struct Unrolling {
    body: Body,
    done: i64,
    /// Iterations at most.
    trips: Option<i64>,
    /// Whether to go on; always, if it is absent.
    condition: Option<Value>,
    carried: Vec<Option<Value>>,
    captured: Vec<Option<Value>>,
    /// Per scanned output one value per iteration.
    scanned: Vec<Vec<Value>>,
}

impl Settler {
    fn run(&mut self) {
        while let Some(node) = self.next() {
            let settled = match &self.graph.node(node).op {
                SourceOp::Call(call) if call.op == "If" => self.branch(node),
                _ => self.iterate(node),
            };
            if let Err(why) = settled {
                let why = *why;
                self.open.insert(node, why.at("node", &self.graph.node(node).name));
            }
        }
    }

    /// Walks on to a node of control flow.
    fn next(&mut self) -> Option<NodeId> {
        let mut eval = Eval::resume(&self.graph, std::mem::take(&mut self.known));
        let mut found = None;
        while let Some(node) = self.work.pop() {
            if is_control(&self.graph.node(node).op) {
                found = Some(node);
                break;
            }
            // What has no shape is no condition either; whether it matters is for the raising to say.
            for result in 0..self.graph.node(node).results.len() {
                let value = Value { node, result: result as u16 };
                let _ = eval.shape(value).and_then(|_| eval.kind(value));
            }
        }
        self.known = eval.into_known();
        found
    }

    /// The number that `value`, which is the node's `role`, always is.
    fn number(&mut self, value: Value, op: &str, role: &str) -> Result<f64, Box<Diagnostic>> {
        let mut eval = Eval::resume(&self.graph, std::mem::take(&mut self.known));
        let number = Limits::new(self.grid.as_ref(), self.context).number(&mut eval, value);
        self.known = eval.into_known();
        number.map_err(|open| Box::new(open.diagnostic(op, role)))
    }

    /// Puts the branch that is taken in place of an `If`.
    fn branch(&mut self, node: NodeId) -> Result<(), Box<Diagnostic>> {
        let results = self.graph.node(node).results.len();
        let bodies = BRANCHES.map(|name| body(self.call(node), name));
        let [Some(no), Some(yes)] = bodies else { return Err(bad("If lacks a branch")) };
        let (no_gives, yes_gives) = (no.graph.outputs.len(), yes.graph.outputs.len());
        if no_gives != yes_gives || results > yes_gives {
            return Err(bad(format!(
                "If has {results} outputs, but its branches give {yes_gives} where the condition holds, {no_gives} where not"
            )));
        }
        let Some(condition) = self.graph.operand(node, 0) else { return Err(bad("If lacks its condition")) };
        let taken = BRANCHES[usize::from(self.number(condition, "If", "condition")? != 0.0)];
        let Some(body) = self.take(node, taken) else { return Err(bad("If lacks a branch")) };
        self.room(&body, "If")?;
        let captured = operands(&self.graph, node, 1, body.captured);
        let (nodes, outputs) = splice::splice(&mut self.graph, &body.graph, &captured, "").map_err(bad)?;
        for (result, output) in outputs.into_iter().take(results).enumerate() {
            splice::replace(&mut self.graph, Value { node, result: result as u16 }, output, &nodes);
        }
        self.work.extend(nodes.into_iter().rev());
        Ok(())
    }

    /// Unrolls one iteration of a `Loop`, or ends it.
    fn iterate(&mut self, node: NodeId) -> Result<(), Box<Diagnostic>> {
        let mut state = match self.loops.remove(&node) {
            Some(state) => state,
            None => self.enter(node)?,
        };
        let more = state.trips.is_none_or(|trips| state.done < trips)
            && match state.condition {
                Some(condition) => self.number(condition, "Loop", "condition")? != 0.0,
                None => true,
            };
        if !more {
            return self.leave(node, state);
        }
        self.room(&state.body, "Loop")?;
        let name = self.graph.node(node).name.clone();
        let iteration = Iteration { name: format!("{name}[{}]/", state.done), number: state.done };
        let first = [iteration.count(&mut self.graph), iteration.truth(&mut self.graph)].map(Some);
        let inputs: Vec<Option<Value>> = first.into_iter().chain(state.carried.clone()).chain(state.captured.clone()).collect();
        let (nodes, outputs) = splice::splice(&mut self.graph, &state.body.graph, &inputs, &iteration.name).map_err(bad)?;
        let carried = state.carried.len();
        // A loop that is given no condition ends by its count alone, whatever its body says.
        state.condition = state.condition.and(outputs.first().copied());
        state.carried = outputs[1..1 + carried].iter().copied().map(Some).collect();
        state.scanned.iter_mut().zip(&outputs[1 + carried..]).for_each(|(all, one)| all.push(*one));
        state.done += 1;
        self.loops.insert(node, state);
        self.work.push(node);
        self.work.extend(nodes.into_iter().rev());
        Ok(())
    }

    /// A loop before its first iteration.
    fn enter(&mut self, node: NodeId) -> Result<Unrolling, Box<Diagnostic>> {
        let trips = match self.graph.operand(node, 0) {
            Some(trips) => Some(self.number(trips, "Loop", "trip count")?.max(0.0) as i64),
            None => None,
        };
        let results = self.graph.node(node).results.len();
        let Some(body) = self.take(node, "body") else { return Err(bad("Loop lacks its body")) };
        let inputs = splice::inputs(&body.graph).len();
        let (Some(carried), gives) = (inputs.checked_sub(2 + body.captured), body.graph.outputs.len()) else {
            return Err(bad("Loop has a body that takes no iteration number or no condition"));
        };
        if gives < 1 + carried || results > gives - 1 {
            return Err(bad(format!("Loop has {results} outputs and carries {carried} values, but its body gives {gives}")));
        }
        let all = operands(&self.graph, node, 2, carried + body.captured);
        if self.graph.operands(node).len() > 2 + all.len() {
            return Err(bad(format!("Loop is given more values than the {carried} that its body carries")));
        }
        let (first, captured) = all.split_at(carried);
        let scanned = vec![Vec::new(); gives - 1 - carried];
        let condition = self.graph.operand(node, 1);
        if trips.is_none() && condition.is_none() {
            return Err(bad("Loop has neither a trip count nor a condition, and so no end"));
        }
        Ok(Unrolling { done: 0, trips, condition, carried: first.to_vec(), captured: captured.to_vec(), scanned, body })
    }

    /// Puts what a loop ends with in its place.
    fn leave(&mut self, node: NodeId, state: Unrolling) -> Result<(), Box<Diagnostic>> {
        let name = self.graph.node(node).name.clone();
        let mut outputs = Vec::new();
        for carried in state.carried {
            outputs.push(carried.ok_or_else(|| bad("Loop carries a value that it is not given"))?);
        }
        let mut nodes = Vec::new();
        for scanned in &state.scanned {
            if scanned.is_empty() {
                return Err(Box::new(Diagnostic::error(
                    Code::UnsupportedForm,
                    "Loop collects what its iterations give, but there are none",
                )));
            }
            outputs.push(splice::stack(&mut self.graph, &name, scanned, &mut nodes));
        }
        let results = self.graph.node(node).results.len();
        for (result, output) in outputs.into_iter().take(results).enumerate() {
            splice::replace(&mut self.graph, Value { node, result: result as u16 }, output, &nodes);
        }
        self.work.extend(nodes.into_iter().rev());
        Ok(())
    }

    /// Makes sure that there is room for a body's nodes.
    fn room(&mut self, body: &Body, op: &str) -> Result<(), Box<Diagnostic>> {
        self.added += 2 + size(&body.graph);
        if self.added <= MAX_ADDED {
            return Ok(());
        }
        let what = format!("{op} makes the graph grow by more than {MAX_ADDED} nodes when it is unrolled");
        Err(Box::new(Diagnostic::error(Code::AbsurdSize, what)))
    }

    fn call(&self, node: NodeId) -> Option<&Call> {
        match &self.graph.node(node).op {
            SourceOp::Call(call) => Some(call),
            _ => None,
        }
    }

    /// Takes a body out of a node that is about to go.
    fn take(&mut self, node: NodeId, name: &str) -> Option<Body> {
        let SourceOp::Call(call) = &mut self.graph.node_mut(node).op else { return None };
        match call.attrs.remove(name) {
            Some(Attr::Graph(body)) => Some(*body),
            _ => None,
        }
    }
}

fn body<'c>(call: Option<&'c Call>, name: &str) -> Option<&'c Body> {
    match call?.attrs.get(name) {
        Some(Attr::Graph(body)) => Some(body),
        _ => None,
    }
}

/// `count` operands from position `from` on.
fn operands(graph: &SourceGraph, node: NodeId, from: usize, count: usize) -> Vec<Option<Value>> {
    let all = graph.operands(node);
    (from..from + count).map(|at| all.get(at).copied().flatten()).collect()
}

fn bad(what: impl Into<String>) -> Box<Diagnostic> {
    Box::new(Diagnostic::error(Code::BadGraph, what))
}

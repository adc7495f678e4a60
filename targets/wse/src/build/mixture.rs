//! Mixtures of experts: a router's region chooses and sends, and each expert has a region of its own below it.

use super::{Builder, Place};
use crate::segments::through_select;
use q35_dialects::q35::{GroupScore, Op, Route, Scoring};
use q35_dialects::wse::{Axis, Buffer, Call, Part, Role, Routing};
use q35_dialects::{Graph, Ty};
use q35_graph::{NodeId, Value};

/// What the experts of a choice read: the one vector that is not made by experts.
pub(super) fn input(graph: &Graph, choice: NodeId) -> Result<Value, String> {
    let routing = Value { node: choice, result: 0 };
    let of_experts = |value: Value| matches!(graph.ty(value), Ty::Act { rows, .. } if rows.section().1 > 1);
    let mut read: Vec<Value> = graph
        .ids()
        .filter(|other| matches!(graph.node(*other).op, Op::ExpertLinear(_)) && graph.operand(*other, 1) == Some(routing))
        .filter_map(|other| graph.operand(other, 0))
        .map(|value| through_select(graph, value))
        .filter(|value| !of_experts(*value))
        .collect();
    read.dedup();
    match read[..] {
        [only] => Ok(only),
        _ => Err(format!("its experts read {} vectors", read.len())),
    }
}

impl Builder<'_> {
    /// The token of an expert's region.
    pub(super) fn token(&mut self, nodes: &[NodeId]) {
        let graph = self.request.graph;
        let routing = nodes.iter().find_map(|id| match graph.node(*id).op {
            Op::ExpertLinear(_) => graph.operand(*id, 1),
            _ => None,
        });
        let choices = match routing.map(|value| *graph.ty(value)) {
            Some(Ty::Routing { choices, .. }) => u64::from(choices),
            _ => 0,
        };
        let piece = self.grid.piece;
        for (name, len) in [("stream", 1), ("routed", piece + 2 * choices)] {
            self.built.kernel.buffers.push(Buffer::new(name, len));
            self.used.push(true);
        }
        let part = Part { buffer: 1, at: 0, len: piece };
        if let Some(x) = routing.and_then(|value| input(graph, value.node).ok()) {
            self.values.insert(x, Place { part, axis: Axis::Columns, share: 1 });
        }
        self.built.kernel.role = Role::Expert { choices, adds: part };
    }

    pub(super) fn route(&mut self, id: NodeId, op: &Route) -> Result<(), String> {
        let graph = self.request.graph;
        if op.scoring == Scoring::Mixer {
            return Err("a sparse mixer chooses experts, for which there is no code".to_owned());
        }
        let logits = self.operand(id, 0)?;
        let x = input(graph, id)?;
        let x = self.values.get(&x).copied().ok_or_else(|| "its experts read a vector that lies elsewhere".to_owned())?;
        if x.axis != Axis::Columns || logits.axis != Axis::Everywhere {
            return Err("its operands lie in ways that tokens are not sent from".to_owned());
        }
        let experts = logits.part.len;
        let choices = u64::from(op.choices);
        let everywhere = Place { part: logits.part, axis: Axis::Everywhere, share: 1 };
        let correction = op.correction.as_ref().map(|name| self.vector(name, everywhere, 1)).transpose()?;
        let routing = Routing {
            experts,
            choices,
            groups: [op.groups, op.top_groups],
            two: op.group_score == GroupScore::Two,
            sigmoid: op.scoring == Scoring::Sigmoid,
            corrected: correction.is_some(),
            normalize: op.normalize,
            eps: op.eps,
            floor: op.floor,
            scale: op.scale,
        };
        let kernel = &mut self.built.kernel;
        if kernel.role != Role::Layers {
            return Err("a second choice of experts in one region".to_owned());
        }
        kernel.role = Role::Router(routing);
        let token = self.buffer("routed", self.grid.piece + 2 * choices);
        self.call(Call::Spread { x: x.part, logits: logits.part, correction, token });
        Ok(())
    }

    /// The end of an expert's work: what it made is what it adds.
    pub(super) fn combine(&mut self, id: NodeId) -> Result<(), String> {
        let made = self.operand(id, 0)?;
        match &mut self.built.kernel.role {
            Role::Expert { adds, .. } if (made.axis, made.part.len) == (Axis::Columns, self.grid.piece) => {
                *adds = made.part;
                Ok(())
            }
            _ => Err("what the experts make does not lie as the residual does".to_owned()),
        }
    }
}

//! The graph's outputs: logits, caches, and inputs handed back.
//!
//! Logits are one row per token, or only the last token's: which rows are wanted is for whoever runs the model to say.

use super::{Raiser, Res, not_a_language_model};
use crate::eval::Fault;
use crate::sym::{Id, Kind, Node};
use q35_bundle::{Port, PositionRule, Role};
use q35_dialects::model::LOGITS;
use q35_graph::Value;
use q35_graph::source::{SourceGraph, SourceOp};

/// The outputs that make the model: all but vectors and matrices of numbers beside logits of three dimensions, and what else is given token by token
/// beside an output of that name.
pub(super) fn wanted(graph: &SourceGraph) -> Vec<(String, Value)> {
    let dims = |value: Value| {
        let ty = &graph.node(value.node).results[value.result as usize];
        ty.dims.as_ref().filter(|_| ty.dtype.is_some_and(|d| d.is_float()))
    };
    let of_tokens = |value: Value| dims(value).filter(|dims| dims.len() == 3);
    let has_logits = graph.outputs.iter().any(|(_, value)| of_tokens(*value).is_some());
    let named = graph.outputs.iter().find(|(name, _)| name == LOGITS).and_then(|(_, value)| of_tokens(*value));
    let beside = |name: &str, value: Value| {
        has_logits && dims(value).is_some_and(|dims| dims.len() < 3)
            || name != LOGITS && named.zip(of_tokens(value)).is_some_and(|(logits, dims)| logits[..2] == dims[..2])
    };
    graph.outputs.iter().filter(|(name, value)| !beside(name, *value)).cloned().collect()
}

impl Raiser<'_> {
    /// Recognises every output and writes the interface.
    pub(super) fn outputs(&mut self) -> Result<(), Vec<Fault>> {
        let mut faults = Vec::new();
        let mut ports = Vec::new();
        for (name, value) in wanted(self.eval.graph) {
            self.node = value.node;
            match self.output(&name, value) {
                Ok(role) => {
                    let dtype = self.dtype(value);
                    ports.push(Port { name, role, dtype });
                }
                Err(fault) => faults.push(fault),
            }
        }
        self.model.interface.outputs = ports;
        self.model.interface.inputs = self.input_ports();
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    fn dtype(&self, value: Value) -> String {
        let recorded = self.eval.graph.node(value.node).results[value.result as usize].dtype;
        recorded.map_or(String::new(), |d| d.name().to_owned())
    }

    fn output(&mut self, name: &str, value: Value) -> Res<Role> {
        let shape = self.eval.shape(value)?;
        if shape.len() == 4 {
            return self.cache_output(name, value);
        }
        if shape.len() == 3 || shape.len() == 2 && shape[0] == self.grid.batch && self.eval.kind(value)? == Kind::Real {
            let Some((index, width)) = self.row_index(value, "n")? else {
                return self.fault(format!("gives an output '{name}' of unknown width"));
            };
            let element = self.eval.element(value, &index)?;
            if self.is_poisoned(element) {
                return self.consequence();
            }
            let (element, row) = self.settle(element)?;
            let last = self.eval.sym.plus(self.grid.tokens, -1.0);
            let per_token = row == [self.grid.b, self.grid.s] && index.len() == 3;
            let of_last = row == [self.grid.b, last];
            if !(per_token || of_last) || self.model.logits().is_some() {
                return self.fault(format!("gives an output '{name}' that is not one row of logits per token"));
            }
            let logits = self.exact(element, index[index.len() - 1], width)?;
            self.model.graph.outputs.push((LOGITS.to_owned(), logits));
            return Ok(Role::Logits);
        }
        let zeros: Vec<Id> = shape.iter().map(|_| self.eval.sym.int(0)).collect();
        let element = self.eval.element(value, &zeros)?;
        if let Node::Load(base, _) = self.eval.sym.node(element)
            && let Some(input) = self.eval.value_of(*base)
            && matches!(self.eval.graph.node(input.node).op, SourceOp::Input)
        {
            return Ok(Role::Passive(Some(self.eval.graph.node(input.node).results[0].name.clone())));
        }
        self.fault(format!("gives an output '{name}' that is neither logits nor a cache"))
    }

    /// Keys or values of some layer: past entries from its input, new ones as they were appended.
    fn cache_output(&mut self, name: &str, value: Value) -> Res<Role> {
        let b = self.grid.b;
        let own = self.grid.column(&mut self.eval.sym);
        for at in 0..self.layers.len() {
            let layer = &self.layers[at];
            let (past, new, head, columns) = (layer.past, layer.new, layer.head, layer.columns);
            for which in [0, 1] {
                let here = self.eval.element(value, &[b, head, own, columns[which]])?;
                if here != new[which] {
                    continue;
                }
                if let (Some(past), Some(length)) = (past, self.grid.past) {
                    let p = self.eval.sym.var("p", length);
                    let index = [b, head, p, columns[which]];
                    if self.eval.element(value, &index)? != self.eval.element(past[which], &index)? {
                        continue;
                    }
                }
                return Ok(if which == 0 { Role::PresentKey(at as u32) } else { Role::PresentValue(at as u32) });
            }
        }
        self.fault(format!("gives an output '{name}' that is the cache of no layer"))
    }

    fn input_ports(&self) -> Vec<Port> {
        let graph = self.eval.graph;
        let role = |value: Value| -> Role {
            if value == self.grid.ids {
                return Role::TokenIds;
            }
            if Some(value) == self.grid.mask && self.masked {
                return Role::AttentionMask;
            }
            if Some(value) == self.grid.positions && self.positions == Some(PositionRule::Given) {
                return Role::PositionIds;
            }
            let of_layer = self.layers.iter().enumerate().find_map(|(at, layer)| match layer.past? {
                [key, _] if key == value => Some(Role::PastKey(at as u32)),
                [_, other] if other == value => Some(Role::PastValue(at as u32)),
                _ => None,
            });
            of_layer.unwrap_or(Role::Passive(None))
        };
        let inputs = graph.ids().filter(|id| matches!(graph.node(*id).op, SourceOp::Input));
        inputs
            .map(|node| {
                let value = Value { node, result: 0 };
                Port { name: graph.node(node).results[0].name.clone(), role: role(value), dtype: self.dtype(value) }
            })
            .collect()
    }

    /// A model has logits and at least one attention.
    pub(super) fn is_decoder(&self) -> q35_diag::Result<()> {
        if self.model.logits().is_none() {
            return Err(not_a_language_model("it has no output of one row of logits per token").into());
        }
        if self.layers.is_empty() {
            return Err(not_a_language_model("no attention was found in it").into());
        }
        Ok(())
    }
}

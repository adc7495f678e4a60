//! `report.json`: what each node costs and what became of each tensor. For people and dashboards; no runtime reads it.

use q35_bundle::{Dim, MemoryPlan, Size};
use q35_diag::{Code, Diagnostic, Result};
use q35_dialects::semantics::row_bytes;
use q35_dialects::{Model, Ty};
use q35_target::Figures;
use std::collections::BTreeMap;

/// Operations per byte above which a modern core computes longer than it reads: about 160 G int8 operations and 37 GB per second.
const RIDGE: f64 = 4.3;

/// Tokens of a step that stands for prefill.
const PREFILL: u64 = 512;

/// The whole report.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Report<T: serde::Serialize> {
    /// Version of this file's layout.
    pub schema: u32,
    /// What each op of the program costs, in order of execution.
    pub nodes: Vec<NodeCost>,
    /// What became of each parameter.
    pub tensors: BTreeMap<String, T>,
    /// Memory.
    pub plan: MemoryPlan,
    /// What the target adds: the plan over time, a schedule, a placement.
    #[serde(flatten)]
    pub figures: Figures,
}

/// One op of the program.
#[derive(Clone, Debug, serde::Serialize)]
pub struct NodeCost {
    /// The node of the user's model that it stems from.
    pub node: String,
    /// The q35 op.
    pub op: &'static str,
    /// One token with the whole context before it.
    pub decode: Cost,
    /// 512 tokens at the beginning of the context.
    pub prefill: Cost,
}

/// What a step costs.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Cost {
    /// Bytes read and written: activations, parameters and cache.
    pub bytes: u64,
    /// Scalar operations; a multiply-add is two.
    pub operations: u64,
    /// Operations per byte.
    pub intensity: f64,
    /// `memory` or `compute`, by comparison with what a core does per byte it can read.
    pub bound: &'static str,
}

impl Cost {
    fn new(bytes: u64, operations: u64) -> Self {
        let intensity = operations as f64 / bytes.max(1) as f64;
        // Three digits: the file is for reading.
        let intensity = (intensity * 1000.0).round() / 1000.0;
        Self { bytes, operations, intensity, bound: if intensity < RIDGE { "memory" } else { "compute" } }
    }
}

impl<T: serde::Serialize> Report<T> {
    /// The report of a verified model.
    pub fn new(model: &Model, tensors: BTreeMap<String, T>, plan: MemoryPlan, figures: Figures) -> Self {
        Self { schema: 1, nodes: costs(model), tensors, plan, figures }
    }

    /// As JSON with a line end.
    pub fn text(&self) -> Result<String> {
        let text = serde_json::to_string_pretty(self).map_err(|e| {
            Diagnostic::error(Code::CannotWrite, format!("the report cannot be written: {e}")).at("file", "report.json")
        })?;
        Ok(text + "\n")
    }
}

/// Bytes that a step reads: where an op counts the parameters of each row, as that of experts does, no more than all of them once.
fn read_once(counted: u64, activations: u64, params: u64) -> u64 {
    counted.min(activations.saturating_add(params))
}

/// The cost of every op of a verified model, in order of execution.
pub fn costs(model: &Model) -> Vec<NodeCost> {
    let context = model.facts.context;
    let (decode, prefill) = (costs_at(model, [1, 1, 1, context]), costs_at(model, [PREFILL, 1, 1, PREFILL / 2]));
    let order = model.graph.topological().unwrap_or_default();
    let node = |((id, decode), prefill)| {
        let node = model.graph.node(id);
        NodeCost { node: node.name.clone(), op: node.op.name(), decode, prefill }
    };
    order.into_iter().zip(decode).zip(prefill).map(node).collect()
}

/// The cost of every op in a step of given sizes, in the order of [`Dim::ALL`]; the capacity stands for the entries that a token sees.
pub fn costs_at(model: &Model, dims: [u64; 4]) -> Vec<Cost> {
    let graph = &model.graph;
    assert_eq!(Dim::ALL.map(|dim| dim as usize), [0, 1, 2, 3]);
    let at = |size: &Size, dims: [u64; 4]| size.eval(&dims).unwrap_or(u64::MAX);
    let cost = |id| {
        let node = graph.node(id);
        let operands: Vec<Ty> = graph.operands(id).into_iter().flatten().map(|value| *graph.ty(value)).collect();
        let cost = node.op.cost(&operands, &node.results[0], &model.params);
        let params = node.op.params().iter().map(|name| model.params[name].packed().bytes()).sum();
        let has_cache = operands.iter().any(|ty| matches!(ty, Ty::Cache { .. }));
        let activations = operands.iter().map(|ty| at(&row_bytes(ty), dims)).sum();
        let counted = at(&cost.read, dims);
        let read = if has_cache { counted } else { read_once(counted, activations, params) };
        Cost::new(read.saturating_add(at(&cost.written, dims)), at(&cost.operations, dims))
    };
    graph.topological().unwrap_or_default().into_iter().map(cost).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two of eight experts of 100 bytes for each row of 10.
    #[test]
    fn many_rows_read_an_expert_once() {
        assert_eq!([1, 3, 512].map(|rows| read_once(rows * 210, rows * 10, 800)), [210, 630, 5920]);
    }

    #[test]
    fn intensity_decides_what_binds() {
        assert_eq!(Cost::new(1000, 2000), Cost { bytes: 1000, operations: 2000, intensity: 2.0, bound: "memory" });
        assert_eq!(Cost::new(3, 100).bound, "compute");
        assert_eq!(Cost::new(0, 0).intensity, 0.0);
    }
}

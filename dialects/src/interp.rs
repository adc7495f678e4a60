//! The interpreter: the plainest evaluator of a graph of q35 ops, and the oracle for everything that computes the same.
//!
//! It walks the graph in topological order and keeps every value. Sums run in f64 and are rounded to f32 once, where the op's
//! file does not fix another order. The result does not depend on the number of threads.

use crate::attr::ParamName;
use crate::data::{Data, Matrix, ParamValue};
use crate::model::{Graph, LOGITS};
use crate::ty::Ty;
use q35_diag::{Code, Diagnostic, Diagnostics, Result};
use q35_graph::{NodeId, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The arrays of one step: a flattened ragged batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepInput {
    /// `[M]`: token ids.
    pub tokens: Vec<u32>,
    /// `[M]`: positions, as RoPE counts them.
    pub positions: Vec<u32>,
    /// `[M]`: which slot of the cache.
    pub slots: Vec<u32>,
    /// `[M]`: which entry of the slot's cache this token becomes; the token sees the entries up to this one.
    pub index: Vec<u32>,
    /// `[R]`: rows of the step whose logits are wanted.
    pub logit_rows: Vec<u32>,
}

impl StepInput {
    /// Tokens that continue slot 0, whose cache holds `past` entries, with logits for every token.
    pub fn sequence(tokens: &[u32], past: u32) -> Self {
        let count = tokens.len() as u32;
        let index: Vec<u32> = (past..past + count).collect();
        Self {
            tokens: tokens.to_vec(),
            positions: index.clone(),
            slots: vec![0; tokens.len()],
            index,
            logit_rows: (0..count).collect(),
        }
    }

    fn check(&self) -> Result<()> {
        let mut errors = Diagnostics::new();
        let tokens = self.tokens.len();
        for (what, len) in [("positions", self.positions.len()), ("slots", self.slots.len()), ("index", self.index.len())] {
            if len != tokens {
                errors.push(bad_input(format!("{what} has {len} elements for {tokens} tokens")));
            }
        }
        if let Some(row) = self.logit_rows.iter().find(|row| **row as usize >= tokens) {
            errors.push(bad_input(format!("logits are wanted for row {row} of {tokens}")));
        }
        errors.into_result(())
    }
}

pub(crate) fn bad_input(what: String) -> Diagnostic {
    Diagnostic::error(Code::BadInputs, what)
}

/// Whoever has the values of parameters: the model file's numbers, or what was decoded from packed weights.
pub trait ParamValues: Sync {
    /// The value of a parameter; [`Code::MissingTensor`] if there is none.
    fn value(&self, name: &ParamName) -> Result<Arc<ParamValue>>;
}

impl ParamValues for BTreeMap<ParamName, Arc<ParamValue>> {
    fn value(&self, name: &ParamName) -> Result<Arc<ParamValue>> {
        let missing = || Diagnostic::error(Code::MissingTensor, "a parameter has no value").at("parameter", name);
        Ok(self.get(name).cloned().ok_or_else(missing)?)
    }
}

/// One token of one layer's cache.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// `[kv_heads * key_dim]`.
    pub key: Vec<f32>,
    /// `[kv_heads * value_dim]`.
    pub value: Vec<f32>,
}

/// One layer's cache: entries by slot and index.
pub type CacheLayer = BTreeMap<(u32, u32), Entry>;

/// What evaluation of an op may use besides its operands.
pub struct Env<'a> {
    /// The step's arrays.
    pub input: &'a StepInput,
    /// Values of parameters.
    pub params: &'a dyn ParamValues,
    /// Caches by layer.
    pub caches: &'a mut BTreeMap<u32, CacheLayer>,
}

/// A sequence of steps over one cache.
pub struct Session<'a> {
    graph: &'a Graph,
    params: &'a dyn ParamValues,
    order: Vec<NodeId>,
    logits: Value,
    caches: BTreeMap<u32, CacheLayer>,
}

impl<'a> Session<'a> {
    /// A session with an empty cache for each layer.
    ///
    /// # Panics
    /// If the graph would not pass verification.
    pub fn new(graph: &'a Graph, params: &'a dyn ParamValues) -> Self {
        let order = graph.topological().unwrap_or_else(|| unreachable!("a verified graph has no cycle"));
        let logits = graph.outputs.iter().find(|(name, _)| name == LOGITS).map(|(_, value)| *value);
        let logits = logits.unwrap_or_else(|| unreachable!("a verified graph has logits"));
        let layers = graph.ids().filter_map(|id| match graph.node(id).results.first() {
            Some(Ty::Cache { layer, .. }) => Some((*layer, CacheLayer::new())),
            _ => None,
        });
        Self { graph, params, order, logits, caches: layers.collect() }
    }

    /// Runs one step. Returns the logits `[R, vocab]`.
    pub fn step(&mut self, input: &StepInput) -> Result<Matrix> {
        self.step_watched(input, &mut |_, _| ())
    }

    /// Runs one step and shows every node's value to `watch`, in topological order.
    pub fn step_watched(&mut self, input: &StepInput, watch: &mut dyn FnMut(NodeId, &Data)) -> Result<Matrix> {
        input.check()?;
        let mut values: BTreeMap<NodeId, Data> = BTreeMap::new();
        for &id in &self.order {
            let operands: Vec<&Data> =
                self.graph.operands(id).into_iter().flatten().map(|value| &values[&value.node]).collect();
            let node = self.graph.node(id);
            let mut env = Env { input, params: self.params, caches: &mut self.caches };
            let data = node.op.eval(&operands, &mut env)?;
            watch(id, &data);
            values.insert(id, data);
        }
        Ok(values[&self.logits.node].act().clone())
    }

    /// The caches, by layer.
    pub fn caches(&self) -> &BTreeMap<u32, CacheLayer> {
        &self.caches
    }

    /// The caches, to fill or to cut them.
    pub fn caches_mut(&mut self) -> &mut BTreeMap<u32, CacheLayer> {
        &mut self.caches
    }
}

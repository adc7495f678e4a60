//! The calibration sequences on their way through two models side by side: the float model, and the one rounded so far.

use super::layer::Layer;
use crate::values::PackedValues;
use q35_diag::Result;
use q35_dialects::data::{Data, ParamValue};
use q35_dialects::interp::{CacheLayer, Env, ParamValues, StepInput};
use q35_dialects::q35::Op;
use q35_dialects::{Model, ParamName};
use q35_graph::NodeId;
use q35_quantize::{Drift, Hessian};
use rayon::prelude::*;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Sequences whose rows are one matrix in products.
pub(super) const TOGETHER: usize = 8;

/// A sequence on its way.
#[derive(Clone)]
pub(crate) struct Sequence {
    input: StepInput,
    caches: BTreeMap<u32, CacheLayer>,
    /// What later ops still read.
    pub(crate) values: BTreeMap<NodeId, Data>,
}

impl Sequence {
    pub(crate) fn new(tokens: &[u32]) -> Self {
        Self { input: StepInput::sequence(tokens, 0), caches: BTreeMap::new(), values: BTreeMap::new() }
    }

    /// What an op reads, as numbers, `[tokens, cols]`.
    fn numbers(&self, at: NodeId) -> Cow<'_, [f32]> {
        match &self.values[&at] {
            Data::Quant(x) => x.data.iter().enumerate().map(|(i, q)| f32::from(*q) * x.scales[i / x.width]).collect(),
            x => Cow::Borrowed(&x.act().data),
        }
    }

    /// Of the rows that an op reads those that a routing sends to an expert, `[rows, cols]`.
    fn routed(&self, at: NodeId, routing: NodeId, expert: u64) -> Vec<f32> {
        let (numbers, routing) = (self.numbers(at), self.values[&routing].routing());
        let tokens = routing.chosen.len() / routing.choices;
        let (rows, cols) = match &self.values[&at] {
            Data::Quant(x) => (x.scales.len(), x.width),
            x => (x.act().rows(), x.act().width),
        };
        let row = |choice: usize| choice * rows / (tokens * routing.choices);
        let sent = routing.chosen.iter().enumerate().filter(|(_, to)| u64::from(**to) == expert);
        sent.flat_map(|(choice, _)| &numbers[row(choice) * cols..][..cols]).copied().collect()
    }

    /// Drops a value that nobody reads any more.
    pub(crate) fn forget(&mut self, id: NodeId) {
        if let Some(Data::Cache(cache)) = self.values.remove(&id) {
            self.caches.remove(&cache.layer);
        }
    }
}

/// The same sequences through two models.
pub(super) struct Streams {
    /// Weights and activations as they are.
    float: Vec<Sequence>,
    /// Weights and activations rounded as far as they are by now.
    rounded: Vec<Sequence>,
}

/// The numbers of an op's parameters, nothing rounded.
pub(crate) type Float = BTreeMap<ParamName, Arc<ParamValue>>;

impl Streams {
    pub(super) fn new(sequences: &[Vec<u32>]) -> Self {
        let start = || sequences.iter().map(|tokens| Sequence::new(tokens)).collect();
        Self { float: start(), rounded: start() }
    }

    /// `X^T X` of what the rounded model reads.
    pub(super) fn hessian(&self, at: NodeId, cols: usize) -> Hessian {
        let mut hessian = Hessian::new(cols);
        self.rounded.chunks(TOGETHER).for_each(|some| hessian.add(&joined(some, |sequence| sequence.numbers(at))));
        hessian
    }

    /// `X^T X` of what the rounded model sends to an expert.
    pub(super) fn routed(&self, at: NodeId, routing: NodeId, expert: u64, cols: usize) -> Hessian {
        let mut hessian = Hessian::new(cols);
        let add = |some: &[Sequence]| hessian.add(&joined(some, |sequence| sequence.routed(at, routing, expert).into()));
        self.rounded.chunks(TOGETHER).for_each(add);
        hessian
    }

    /// `X^T D`, `X` being what the rounded model reads at `at` and `D` what the float model has more at `of`.
    pub(super) fn drift(&self, at: NodeId, cols: usize, of: NodeId, width: usize) -> Drift {
        let mut drift = Drift::new(cols, width);
        for (float, rounded) in self.float.chunks(TOGETHER).zip(self.rounded.chunks(TOGETHER)) {
            let [x, rounded] = [at, of].map(|id| joined(rounded, |sequence| sequence.numbers(id)));
            drift.add(&x, &joined(float, |sequence| sequence.numbers(of)), &rounded);
        }
        drift
    }

    /// Evaluates one op for every sequence of both models.
    pub(super) fn evaluate(&mut self, model: &Model, id: NodeId, packed: &PackedValues<'_>, float: &Float) -> Result<()> {
        let op = &model.graph.node(id).op;
        let operands: Vec<NodeId> = super::operands(model, &[id]).collect();
        // Packed before the sequences need them: packing runs on all cores itself.
        op.params().iter().try_for_each(|name| packed.value(name).map(|_| ()))?;
        pass(&mut self.rounded, id, op, &operands, packed)?;
        unrounded(&mut self.float, id, op, &operands, float)
    }

    pub(super) fn forget(&mut self, id: NodeId) {
        self.float.iter_mut().chain(&mut self.rounded).for_each(|sequence| sequence.forget(id));
    }
}

/// What some sequences have, one behind the other.
fn joined<'s>(some: &'s [Sequence], of: impl Fn(&'s Sequence) -> Cow<'s, [f32]> + Send + Sync) -> Vec<f32> {
    let parts: Vec<Cow<[f32]>> = some.par_iter().map(of).collect();
    parts.concat()
}

/// One op for every sequence of a model whose activations are not rounded.
pub(crate) fn unrounded(
    sequences: &mut [Sequence],
    id: NodeId,
    op: &Op,
    operands: &[NodeId],
    params: &dyn ParamValues,
) -> Result<()> {
    if !matches!(op, Op::Quantize(_)) {
        return pass(sequences, id, op, operands, params);
    }
    sequences.iter_mut().for_each(|sequence| {
        sequence.values.insert(id, sequence.values[&operands[0]].clone());
    });
    Ok(())
}

/// One op for every sequence of one model.
fn pass(sequences: &mut [Sequence], id: NodeId, op: &Op, operands: &[NodeId], params: &dyn ParamValues) -> Result<()> {
    let quantized = operands.first().zip(sequences.first()).is_some_and(|(at, of)| matches!(of.values[at], Data::Quant(_)));
    if let Some(layer) = Layer::of(op, params, quantized)? {
        for some in sequences.chunks_mut(TOGETHER) {
            let results = {
                let of = |at: NodeId| some.iter().map(move |sequence| &sequence.values[&at]);
                let routings: Vec<_> = operands[1..].iter().flat_map(|at| of(*at)).map(Data::routing).collect();
                layer.apply(&of(operands[0]).collect::<Vec<_>>(), &routings)
            };
            some.iter_mut().zip(results).for_each(|(sequence, data)| {
                sequence.values.insert(id, data);
            });
        }
        return Ok(());
    }
    let one = |Sequence { input, caches, values }: &mut Sequence| {
        let read: Vec<&Data> = operands.iter().map(|operand| &values[operand]).collect();
        let data = op.eval(&read, &mut Env { input, params, caches })?;
        values.insert(id, data);
        Ok(())
    };
    let results: Vec<Result<()>> = sequences.par_iter_mut().map(one).collect();
    results.into_iter().collect()
}

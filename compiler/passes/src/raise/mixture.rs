//! `com.microsoft.MoE` and `QMoE`: routing and experts in one op.
//!
//! Operands: input, router logits `[rows, experts]`, then weight `[experts, outputs, inputs]` and bias `[experts, outputs]` of the first, the
//! second and, where gates are apart from what they gate, the third layer; in `QMoE` integers and scales instead of the weight, and zero
//! points behind all else. Exporters pass biases of zeros where the model has none.
//!
//! The op weighs by a softmax over the chosen logits. A model that weighs otherwise hands it prepared logits: it chooses by itself, writes
//! the logarithms of its weights to the chosen places, and something that no choice falls on to all others.

use super::attention::UNSEEN;
use super::linear::{BlockOperands, PendingLinear};
use super::{HashMap, Raised, Raiser, Res};
use crate::sym::{Combine as Fold, Func, Id, Node};
use q35_dialects::q35::{Activate, Activation, Combine, ExpertLinear, Glu, Route, Scoring};
use q35_dialects::{Param, ParamName, ParamRole};
use q35_graph::{Axis, NodeId, Tensor, Value, WeightView};

/// Names of activations that take one operand.
const ACTIVATIONS: &[(&str, Activation)] =
    &[("relu", Activation::Relu), ("gelu", Activation::Gelu), ("silu", Activation::Silu)];

/// How gates and what they gate share the rows of one weight.
#[derive(Clone, Copy)]
enum Fusion {
    /// In turn.
    Interleaved,
    /// One half after the other.
    Halves,
}

/// Outputs `first`, `first + step`, ... of a layer: `count` of them.
#[derive(Clone, Copy)]
struct Outputs {
    first: u64,
    step: u64,
    count: u64,
}

/// The choice of experts that all layers of the op share.
#[derive(Clone, Copy)]
struct Mixture {
    node: NodeId,
    routing: Value,
    experts: u64,
    operands: &'static Operands,
}

/// Which operands hold a layer.
#[derive(Clone, Copy)]
struct Layer {
    weight: usize,
    scales: Option<usize>,
    bias: usize,
    zero_points: Option<usize>,
}

/// Which operands hold the three layers of an op.
struct Operands {
    op: &'static str,
    first: Layer,
    second: Layer,
    third: Layer,
}

const OPERANDS: &[Operands] = &[
    Operands {
        op: "MoE",
        first: Layer { weight: 2, scales: None, bias: 3, zero_points: None },
        second: Layer { weight: 4, scales: None, bias: 5, zero_points: None },
        third: Layer { weight: 6, scales: None, bias: 7, zero_points: None },
    },
    Operands {
        op: "QMoE",
        first: Layer { weight: 2, scales: Some(3), bias: 4, zero_points: Some(11) },
        second: Layer { weight: 5, scales: Some(6), bias: 7, zero_points: Some(12) },
        third: Layer { weight: 8, scales: Some(9), bias: 10, zero_points: Some(13) },
    },
];

/// Operands after these change the meaning of the others.
const MOST_OPERANDS: usize = 14;

/// Choices that the model made by itself: the row and the choice of the `TopK`, and the weight there.
struct Prepared {
    topk: NodeId,
    choice: Id,
    weight: Id,
}

impl Raiser<'_> {
    /// The whole op.
    pub(super) fn mixture(&mut self, node: NodeId) -> Res<()> {
        let call = self.eval.call(node)?;
        let Some(operands) = OPERANDS.iter().find(|o| o.op == call.op) else { return self.consequence() };
        if call.int("use_sparse_mixer", 0) != 0 {
            return self.fault("chooses experts by a sparse mixer");
        }
        if (MOST_OPERANDS..self.eval.graph.operands(node).len()).any(|at| self.eval.graph.operand(node, at).is_some()) {
            return self.fault("takes weights of its choices, which is not supported");
        }
        let input = self.eval.operand(node, 0)?;
        let Some((at, hidden)) = self.row_index(input, "k")? else { return self.fault("has inputs of unknown width") };
        let Some((&k, rows)) = at.split_last() else { return self.consequence() };
        let element = self.eval.element(input, &at)?;
        let (element, row) = self.settle(element)?;
        let x = self.exact(element, k, hidden)?;
        let Some(choices) = u32::try_from(call.int("k", 1)).ok() else {
            return self.fault("chooses an unknown number of experts");
        };
        let normalize = call.int("normalize_routing_weights", 0) != 0;
        let width = self.eval.sym.number(hidden as f64);
        let n = self.eval.sym.var("n", width);
        let (logits, expert, experts) = self.router_logits(node, input, rows)?;
        if let Some(prepared) = self.prepared(logits, expert, choices).filter(|_| normalize) {
            let routing = self.routing(prepared.topk)?;
            let mixture = Mixture { node, routing: routing.value, experts, operands };
            let inner = self.units(mixture, x)?;
            let last = self.last_layer(mixture, inner)?;
            let choice = prepared.choice;
            let load = self.eval.sym.load(last, &[row[0], row[1], choice, n]);
            let weighed = self.eval.sym.mul(prepared.weight, load);
            let count = self.eval.sym.number(choices.into());
            let sum = self.eval.sym.fold(Fold::Sum, choice, count, weighed);
            self.eval.cut(Value { node, result: 0 }, [rows, &[n]].concat(), sum);
            return Ok(());
        }
        let (logits, found) = self.settle(logits)?;
        if !self.is_same_row(found, row) {
            return self.fault("routes by the logits of other tokens");
        }
        let logits = self.exact(logits, expert, experts)?;
        let routing = self.add(Route { normalize, ..Route::plain(Scoring::Softmax, choices) }, &[logits])?;
        let mixture = Mixture { node, routing, experts, operands };
        let inner = self.units(mixture, x)?;
        let y = self.expert_layer(mixture, operands.second, None, inner)?;
        let sum = self.add(Combine {}, &[y, routing])?;
        self.cut(Value { node, result: 0 }, [rows, &[n]].concat(), Raised::Whole(sum, hidden), [row[0], row[1], n], 1.0);
        Ok(())
    }

    /// The logits of the rows that the input has, as an element, the variable of the expert, and how many there are.
    fn router_logits(&mut self, node: NodeId, input: Value, rows: &[Id]) -> Res<(Id, Id, u64)> {
        let logits = self.eval.operand(node, 1)?;
        let (dims, dims_x) = (self.eval.shape(logits)?, self.eval.shape(input)?);
        let Some((&last, leading)) = dims.split_last() else { return self.fault("has no router logits") };
        let Some(experts) = self.eval.sym.as_int(last).filter(|n| *n > 0) else {
            return self.fault("has an unknown number of experts");
        };
        let expert = self.eval.sym.var("expert", last);
        let mut at = rows.to_vec();
        if leading.len() != rows.len() {
            let &[outer, inner] = rows else { return self.fault("has router logits of unknown layout") };
            let flat = self.eval.sym.mul(outer, dims_x[1]);
            at = vec![self.eval.sym.add(flat, inner)];
        }
        if at.len() != leading.len() {
            return self.fault("has router logits of unknown layout");
        }
        Ok((self.eval.element(logits, &[&at[..], &[expert]].concat())?, expert, experts as u64))
    }

    /// Logits that were prepared: `low + sum over choices c of (choice c is this expert ? logit[c] - low : 0)`. What the op makes of them
    /// is a softmax over the choices' logits.
    fn prepared(&mut self, logits: Id, expert: Id, choices: u32) -> Option<Prepared> {
        let (terms, low) = self.eval.sym.terms(logits);
        let [(sum, 1.0)] = terms[..] else { return None };
        let (bound, body) = match *self.eval.sym.node(sum) {
            Node::Fold(Fold::Sum, bound, body) => (bound, body),
            _ => return None,
        };
        let count = self.eval.sym.number(choices.into());
        let choice = self.choice(choices);
        if low > UNSEEN || self.eval.sym.bound_extent(bound) != Some(count) {
            return None;
        }
        let body = self.eval.sym.subst(body, &HashMap::from([(bound, choice)]));
        let (hit, change) = self.eval.sym.kept(body)?;
        let Node::Zero(gap) = *self.eval.sym.node(hit) else { return None };
        let (places, _) = self.eval.sym.terms(gap);
        let (place, _) = places.into_iter().find(|(t, _)| self.chosen(*t).is_some())?;
        let (topk, at) = self.chosen(place)?;
        if self.eval.sym.equal(place, expert) != hit || at.last() != Some(&choice) {
            return None;
        }
        let logit = self.eval.sym.plus(change, low);
        let power = self.exponential(logit)?;
        let sum = self.eval.sym.fold(Fold::Sum, choice, count, power);
        Some(Prepared { topk, choice, weight: self.eval.sym.quotient(power, sum) })
    }

    /// `e^x` of a logarithm. Scores are kept away from 0 by a bound that is far below what f32 tells from 0 in a sum of scores.
    fn exponential(&mut self, x: Id) -> Option<Id> {
        const SMALLEST: f64 = 1e-20;
        let Node::Apply(Func::Log, inner) = *self.eval.sym.node(x) else { return None };
        let Node::Max(a, b) = *self.eval.sym.node(inner) else { return Some(inner) };
        match (self.eval.sym.as_number(a), self.eval.sym.as_number(b)) {
            (Some(low), None) if low <= SMALLEST => Some(b),
            (None, Some(low)) if low <= SMALLEST => Some(a),
            _ => None,
        }
    }

    /// The first layer, and what gates it.
    fn units(&mut self, mixture: Mixture, x: Value) -> Res<Value> {
        let call = self.eval.call(mixture.node)?;
        let Operands { first, third, .. } = *mixture.operands;
        let kind = call.str("activation_type").unwrap_or("relu");
        if let Some((_, activation)) = ACTIVATIONS.iter().find(|(name, _)| *name == kind) {
            let gate = self.expert_layer(mixture, first, None, x)?;
            return match self.eval.graph.operand(mixture.node, third.weight) {
                Some(_) => {
                    let up = self.expert_layer(mixture, third, None, x)?;
                    self.add(Glu::plain(*activation), &[gate, up])
                }
                None => self.add(Activate { kind: *activation }, &[gate]),
            };
        }
        let fusion = match (kind, call.int("swiglu_fusion", 0)) {
            ("swiglu", 1) => Fusion::Interleaved,
            ("swiglu", 2) => Fusion::Halves,
            _ => return self.fault(format!("has experts of unknown form: '{kind}'")),
        };
        let weight = self.eval.operand(mixture.node, first.weight)?;
        let dims = self.eval.shape(weight)?;
        let both = dims.get(1).and_then(|d| self.eval.sym.as_int(*d)).filter(|n| *n > 0 && n % 2 == 0);
        let Some(count) = both.map(|n| n as u64 / 2) else { return self.fault("has gates of unknown number") };
        let (second, step) = match fusion {
            Fusion::Interleaved => (1, 2),
            Fusion::Halves => (count, 1),
        };
        let gate = self.expert_layer(mixture, first, Some(Outputs { first: 0, step, count }), x)?;
        let up = self.expert_layer(mixture, first, Some(Outputs { first: second, step, count }), x)?;
        let limit = Some(call.float("swiglu_limit", f32::INFINITY)).filter(|limit| limit.is_finite());
        let (alpha, offset) = (call.float("activation_alpha", 1.0), call.float("activation_beta", 0.0));
        self.add(Glu { activation: Activation::Silu, limit, alpha, offset }, &[gate, up])
    }

    /// Some outputs of a layer of experts, or all.
    fn expert_layer(&mut self, mixture: Mixture, layer: Layer, outputs: Option<Outputs>, x: Value) -> Res<Value> {
        let (weight, origin, outputs) = self.layer_weight(mixture, layer, outputs)?;
        let weight = self.param(Param::new(weight, ParamRole::Linear, origin));
        let bias = self.layer_bias(mixture, layer, outputs)?;
        self.add(ExpertLinear { weight, bias }, &[x, mixture.routing])
    }

    /// The layer before the weighted sum, made where that is.
    fn last_layer(&mut self, mixture: Mixture, x: Value) -> Res<crate::sym::BaseId> {
        let layer = mixture.operands.second;
        let (weight, origin, outputs) = self.layer_weight(mixture, layer, None)?;
        if self.layer_bias(mixture, layer, outputs)?.is_some() {
            let y = self.expert_layer(mixture, layer, None, x)?;
            return Ok(self.raise_base(Raised::Whole(y, outputs.count)));
        }
        let pending = PendingLinear::new(x, weight, origin, mixture.node, Some(mixture.routing));
        Ok(self.raise_base(Raised::Linear(Box::new(pending))))
    }

    /// The stack of weights that operands hold, its name in the model, and which outputs it has.
    fn layer_weight(&mut self, mixture: Mixture, layer: Layer, outputs: Option<Outputs>) -> Res<(WeightView, String, Outputs)> {
        let weight = self.eval.operand(mixture.node, layer.weight)?;
        let dims = self.eval.shape(weight)?;
        let &[experts, all, inputs] = &dims[..] else { return self.fault("has weights that are no stack of matrices") };
        let [Some(found @ 1..), Some(all @ 1..), Some(inputs @ 1..)] = [experts, all, inputs].map(|d| self.eval.sym.as_int(d))
        else {
            return self.fault("has experts of unknown size");
        };
        if found as u64 != mixture.experts {
            return self.fault(format!("has weights of {found} experts and logits of {}", mixture.experts));
        }
        let outputs = outputs.unwrap_or(Outputs { first: 0, step: 1, count: all as u64 });
        let found = match layer.scales {
            None => {
                let count = self.eval.sym.number(outputs.count as f64);
                let (e, n) = (self.eval.sym.var("expert", experts), self.eval.sym.var("n", count));
                let k = self.eval.sym.var("k", dims[2]);
                let output = self.eval.sym.linear(&[(n, outputs.step as f64)], outputs.first as f64);
                let element = self.eval.element(weight, &[e, output, k])?;
                self.stack_view(element, [e, n, k], [mixture.experts, outputs.count, inputs as u64])
            }
            Some(scales) => {
                let call = self.eval.call(mixture.node)?;
                let bits = call.int("expert_weight_bits", 4);
                let cols = inputs.saturating_mul(8) / bits.clamp(1, 8);
                let block = match call.int("block_size", 0) {
                    0 => cols,
                    block => block,
                };
                let zero_points = layer.zero_points.unwrap_or(usize::MAX);
                let at = BlockOperands { data: layer.weight, scales, zero_points, group_index: None };
                let (view, origin) = self.block_view(mixture.node, at, [bits, block], cols as u64)?;
                let one =
                    view.split(mixture.experts).and_then(|view| view.step_rows(outputs.first, outputs.step, outputs.count));
                one.map(|view| (view, origin))
            }
        };
        match found {
            Some((view, origin)) => Ok((view, origin, outputs)),
            None => self.fault("has experts that are no stack of constant matrices"),
        }
    }

    fn layer_bias(&mut self, mixture: Mixture, layer: Layer, outputs: Outputs) -> Res<Option<ParamName>> {
        let Some(bias) = self.eval.graph.operand(mixture.node, layer.bias) else { return Ok(None) };
        let [experts, count] = [mixture.experts, outputs.count].map(|n| self.eval.sym.number(n as f64));
        let (e, n) = (self.eval.sym.var("expert", experts), self.eval.sym.var("n", count));
        let output = self.eval.sym.linear(&[(n, outputs.step as f64)], outputs.first as f64);
        let element = self.eval.element(bias, &[e, output])?;
        self.expert_bias(element, [e, n], [mixture.experts, outputs.count], 1.0)
    }

    /// The biases of experts times a factor, one expert after the other; `None` if they are zeros.
    pub(super) fn expert_bias(&mut self, element: Id, vars: [Id; 2], lens: [u64; 2], factor: f64) -> Res<Option<ParamName>> {
        if self.eval.sym.as_number(element) == Some(0.0) {
            return Ok(None);
        }
        let found = self.strided(element, &vars).and_then(|(tensor, name, offset, strides)| {
            let axis = |at: usize| Axis { len: lens[at], stride: strides[at] };
            Some((WeightView::dense(tensor, offset, axis(0), axis(1))?, name))
        });
        let Some((view, origin)) = found else { return self.fault("has biases that are not constant") };
        let mut numbers = vec![0.0; (lens[0] * lens[1]) as usize];
        view.read_rows(0..lens[0], &mut numbers);
        if numbers.iter().all(|x| *x == 0.0) {
            return Ok(None);
        }
        numbers.iter_mut().for_each(|x| *x = (f64::from(*x) * factor) as f32);
        let view = WeightView::vector(Tensor::from_f32(vec![numbers.len() as u64], &numbers));
        Ok(Some(self.param(Param::new(view, ParamRole::Vector, origin))))
    }
}

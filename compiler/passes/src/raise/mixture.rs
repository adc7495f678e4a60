//! `com.microsoft.MoE`: routing and experts in one op.
//!
//! Operands: input, router logits `[rows, experts]`, then weight `[experts, outputs, inputs]` and bias `[experts, outputs]` of the first, the
//! second and, where gates are apart from what they gate, the third layer. Exporters pass biases of zeros where the model has none.

use super::{Raised, Raiser, Res};
use crate::sym::Id;
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
}

impl Raiser<'_> {
    /// The whole op.
    pub(super) fn mixture(&mut self, node: NodeId) -> Res<()> {
        let call = self.eval.call(node)?;
        if call.int("use_sparse_mixer", 0) != 0 {
            return self.fault("chooses experts by a sparse mixer");
        }
        let input = self.eval.operand(node, 0)?;
        let Some((at, hidden)) = self.row_index(input, "k")? else { return self.fault("has inputs of unknown width") };
        let Some((&k, rows)) = at.split_last() else { return self.consequence() };
        let element = self.eval.element(input, &at)?;
        let (element, row) = self.settle(element)?;
        let x = self.exact(element, k, hidden)?;
        let (logits, experts) = self.router_logits(node, input, rows, row)?;
        let Some(choices) = u32::try_from(call.int("k", 1)).ok() else {
            return self.fault("chooses an unknown number of experts");
        };
        let route =
            Route { normalize: call.int("normalize_routing_weights", 0) != 0, ..Route::plain(Scoring::Softmax, choices) };
        let routing = self.add(route, &[logits])?;
        let mixture = Mixture { node, routing, experts };
        let inner = self.units(mixture, x)?;
        let y = self.expert_layer(mixture, [4, 5], None, inner)?;
        let sum = self.add(Combine {}, &[y, routing])?;
        let width = self.eval.sym.number(hidden as f64);
        let n = self.eval.sym.var("n", width);
        self.cut(Value { node, result: 0 }, [rows, &[n]].concat(), Raised::Whole(sum, hidden), [row[0], row[1], n], 1.0);
        Ok(())
    }

    /// The logits of the rows that the input has, as a value, and how many experts there are.
    fn router_logits(&mut self, node: NodeId, input: Value, rows: &[Id], row: [Id; 2]) -> Res<(Value, u64)> {
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
        let element = self.eval.element(logits, &[&at[..], &[expert]].concat())?;
        let (element, found) = self.settle(element)?;
        if !self.is_same_row(found, row) {
            return self.fault("routes by the logits of other tokens");
        }
        Ok((self.exact(element, expert, experts as u64)?, experts as u64))
    }

    /// The first layer, and what gates it.
    fn units(&mut self, mixture: Mixture, x: Value) -> Res<Value> {
        let call = self.eval.call(mixture.node)?;
        let kind = call.str("activation_type").unwrap_or("relu");
        if let Some((_, activation)) = ACTIVATIONS.iter().find(|(name, _)| *name == kind) {
            let first = self.expert_layer(mixture, [2, 3], None, x)?;
            return match self.eval.graph.operand(mixture.node, 6) {
                Some(_) => {
                    let up = self.expert_layer(mixture, [6, 7], None, x)?;
                    self.add(Glu::plain(*activation), &[first, up])
                }
                None => self.add(Activate { kind: *activation }, &[first]),
            };
        }
        let fusion = match (kind, call.int("swiglu_fusion", 0)) {
            ("swiglu", 1) => Fusion::Interleaved,
            ("swiglu", 2) => Fusion::Halves,
            _ => return self.fault(format!("has experts of unknown form: '{kind}'")),
        };
        let weight = self.eval.operand(mixture.node, 2)?;
        let dims = self.eval.shape(weight)?;
        let both = dims.get(1).and_then(|d| self.eval.sym.as_int(*d)).filter(|n| *n > 0 && n % 2 == 0);
        let Some(count) = both.map(|n| n as u64 / 2) else { return self.fault("has gates of unknown number") };
        let (second, step) = match fusion {
            Fusion::Interleaved => (1, 2),
            Fusion::Halves => (count, 1),
        };
        let gate = self.expert_layer(mixture, [2, 3], Some(Outputs { first: 0, step, count }), x)?;
        let up = self.expert_layer(mixture, [2, 3], Some(Outputs { first: second, step, count }), x)?;
        let limit = Some(call.float("swiglu_limit", f32::INFINITY)).filter(|limit| limit.is_finite());
        let (alpha, offset) = (call.float("activation_alpha", 1.0), call.float("activation_beta", 0.0));
        self.add(Glu { activation: Activation::Silu, limit, alpha, offset }, &[gate, up])
    }

    /// Some outputs of a layer of experts, or all, from the operands of its weight and its bias.
    fn expert_layer(&mut self, mixture: Mixture, at: [usize; 2], outputs: Option<Outputs>, x: Value) -> Res<Value> {
        let weight = self.eval.operand(mixture.node, at[0])?;
        let dims = self.eval.shape(weight)?;
        let &[experts, all, inputs] = &dims[..] else { return self.fault("has weights that are no stack of matrices") };
        let [Some(found), Some(all), Some(cols)] = [experts, all, inputs].map(|d| self.eval.sym.as_int(d)) else {
            return self.fault("has experts of unknown size");
        };
        if found as u64 != mixture.experts {
            return self.fault(format!("has weights of {found} experts and logits of {}", mixture.experts));
        }
        let outputs = outputs.unwrap_or(Outputs { first: 0, step: 1, count: all as u64 });
        let count = self.eval.sym.number(outputs.count as f64);
        let (e, n, k) = (self.eval.sym.var("expert", experts), self.eval.sym.var("n", count), self.eval.sym.var("k", inputs));
        let output = self.eval.sym.linear(&[(n, outputs.step as f64)], outputs.first as f64);
        let element = self.eval.element(weight, &[e, output, k])?;
        let Some((view, origin)) = self.stack_view(element, [e, n, k], [mixture.experts, outputs.count, cols as u64]) else {
            return self.fault("has experts that are no stack of constant matrices");
        };
        let weight = self.param(Param::new(view, ParamRole::Linear, origin));
        let bias = match self.eval.graph.operand(mixture.node, at[1]) {
            Some(bias) => {
                let element = self.eval.element(bias, &[e, output])?;
                self.expert_bias(element, [e, n], [mixture.experts, outputs.count])?
            }
            None => None,
        };
        self.add(ExpertLinear { weight, bias }, &[x, mixture.routing])
    }

    /// The biases of experts, one expert after the other; `None` if they are zeros.
    fn expert_bias(&mut self, element: Id, vars: [Id; 2], lens: [u64; 2]) -> Res<Option<ParamName>> {
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
        let view = WeightView::vector(Tensor::from_f32(vec![numbers.len() as u64], &numbers));
        Ok(Some(self.param(Param::new(view, ParamRole::Vector, origin))))
    }
}

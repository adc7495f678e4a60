//! Norms, linear layers, activations, rotations.

use super::shared::{Angles, Shared};
use super::{Activation, GatedUnit, NormKind, QkNorm, Turn, Write};
use crate::onnx::proto::Attribute;
use crate::onnx::proto::build::FLOAT;

impl Write<'_> {
    /// A weight in f32.
    pub(super) fn weight(&mut self, name: &str, dims: &[u64]) -> String {
        let tensor = self.weights.tensor(name, dims);
        self.in_f32(tensor)
    }

    /// A stack of weights in f32.
    pub(super) fn stack(&mut self, name: &str, parts: &[String], dims: &[u64]) -> String {
        let tensor = self.weights.stack(name, parts, dims);
        self.in_f32(tensor)
    }

    fn in_f32(&mut self, tensor: crate::onnx::proto::Tensor) -> String {
        let stored = tensor.data_type;
        let name = self.w.tensor(tensor);
        if stored == FLOAT { name } else { self.w.op("Cast", [&name], [Attribute::int("to", FLOAT.into())]) }
    }

    /// A value times a constant.
    pub(super) fn times(&mut self, x: String, factor: f32) -> String {
        if factor == 1.0 {
            return x;
        }
        let factor = self.w.number(factor);
        self.w.op("Mul", [&x, &factor], [])
    }

    /// `cap tanh(x / cap)`.
    pub(super) fn capped(&mut self, x: String, cap: Option<f32>) -> String {
        let Some(cap) = cap else { return x };
        let cap = self.w.number(cap);
        let x = self.w.op("Div", [&x, &cap], []);
        let x = self.w.op("Tanh", [&x], []);
        self.w.op("Mul", [&x, &cap], [])
    }

    /// A norm over the last axis, which has `width` elements.
    pub(super) fn norm(&mut self, name: &str, x: &str, width: u64, eps: f32) -> String {
        self.w.enter(name);
        match self.model.norm {
            NormKind::RootMeanSquare => {
                let normed = self.normed(x, eps);
                self.weighed(name, normed, width)
            }
            NormKind::Unweighted => self.normed(x, eps),
            NormKind::Layer { weight, bias } => {
                let mut y = self.centered(x, eps);
                if weight {
                    y = self.weighed(name, y, width);
                }
                if bias {
                    let bias = self.weight(&format!("{name}.bias"), &[width]);
                    y = self.w.op("Add", [&y, &bias], []);
                }
                y
            }
        }
    }

    /// A layer norm without a bias over heads `[batch, sequence, heads, width]`, each with its own weight.
    pub(super) fn norm_of_heads(&mut self, name: &str, x: &str, [heads, width]: [u64; 2], stored: QkNorm) -> String {
        self.w.enter(name);
        let y = self.centered(x, self.model.eps);
        let weight = match stored {
            QkNorm::HeadByHead => {
                let parts: Vec<String> = (0..heads).map(|head| format!("{name}.norms.{head}.weight")).collect();
                self.stack(&format!("{name}.weight"), &parts, &[width])
            }
            _ => self.weight(&format!("{name}.weight"), &[heads, width]),
        };
        self.w.op("Mul", [&weight, &y], [])
    }

    /// `x - mean(x)`, normalized.
    fn centered(&mut self, x: &str, eps: f32) -> String {
        let last = self.w.ints(&[-1]);
        let mean = self.w.op("ReduceMean", [x, &last], [Attribute::int("keepdims", 1)]);
        let x = self.w.op("Sub", [x, &mean], []);
        self.normed(&x, eps)
    }

    /// `x / sqrt(mean(x^2) + eps)` over the last axis.
    fn normed(&mut self, x: &str, eps: f32) -> String {
        let (two, eps, last) = (self.w.number(2.0), self.w.number(eps), self.w.ints(&[-1]));
        let squares = self.w.op("Pow", [x, &two], []);
        let mean = self.w.op("ReduceMean", [&squares, &last], [Attribute::int("keepdims", 1)]);
        let sum = self.w.op("Add", [&mean, &eps], []);
        let root = self.w.op("Sqrt", [&sum], []);
        let inverse = self.w.op("Reciprocal", [&root], []);
        self.w.op("Mul", [x, &inverse], [])
    }

    /// What was normalized, times the norm's weight.
    fn weighed(&mut self, name: &str, normed: String, width: u64) -> String {
        let mut weight = self.weight(&format!("{name}.weight"), &[width]);
        if self.model.unit_offset {
            let one = self.w.number(1.0);
            weight = self.w.op("Add", [&weight, &one], []);
        }
        self.w.op("Mul", [&weight, &normed], [])
    }

    /// `x W^T + bias`
    pub(super) fn linear(&mut self, name: &str, x: &str, inputs: u64, outputs: u64, bias: bool) -> String {
        self.w.enter(name);
        let dims = if self.model.transposed { [inputs, outputs] } else { [outputs, inputs] };
        let mut weight = self.weight(&format!("{name}.weight"), &dims);
        if !self.model.transposed {
            weight = self.w.op("Transpose", [&weight], [Attribute::ints("perm", &[1, 0])]);
        }
        let y = self.w.op("MatMul", [x, &weight], []);
        if !bias {
            return y;
        }
        let bias = self.weight(&format!("{name}.bias"), &[outputs]);
        self.w.op("Add", [&y, &bias], [])
    }

    /// Several linear layers of one input, or one weight for all, called `{module}.{fused}`.
    pub(super) fn linears<const N: usize>(
        &mut self,
        module: &str,
        x: &str,
        inputs: u64,
        parts: [(&str, u64); N],
        fused: Option<&str>,
        bias: bool,
    ) -> [String; N] {
        let Some(fused) = fused else {
            return parts.map(|(part, outputs)| self.linear(&format!("{module}.{part}"), x, inputs, outputs, bias));
        };
        let all = self.linear(&format!("{module}.{fused}"), x, inputs, parts.iter().map(|p| p.1).sum(), bias);
        let sizes = self.w.ints(&parts.map(|p| p.1 as i64));
        let mut split = self.w.ops("Split", [&all, &sizes], [Attribute::int("axis", -1)], N).into_iter();
        parts.map(|_| split.next().unwrap_or_default())
    }

    /// A gated unit.
    pub(super) fn gated(&mut self, module: &str, x: &str, width: u64, unit: GatedUnit) -> String {
        let m = self.model;
        let ([gate, up], both, down) = match unit {
            GatedUnit::Apart([gate, up, down]) => ([gate, up], None, down),
            GatedUnit::Joined([both, down]) => ([""; 2], Some(both), down),
        };
        let [gate, up] = self.linears(module, x, m.hidden, [(gate, width), (up, width)], both, m.biases.ffn);
        self.w.enter(module);
        let product = self.gate(&gate, &up);
        self.linear(&format!("{module}.{down}"), &product, width, m.hidden, m.biases.ffn)
    }

    /// A dense unit without a gate.
    pub(super) fn ungated(&mut self, module: &str, x: &str, width: u64) -> String {
        let m = self.model;
        let [up, down] = m.names.ungated;
        let unit = self.linear(&format!("{module}.{up}"), x, m.hidden, width, m.biases.ffn);
        self.w.enter(module);
        let unit = self.activated(&unit);
        self.linear(&format!("{module}.{down}"), &unit, width, m.hidden, m.biases.ffn)
    }

    /// `f(gate) up`
    pub(super) fn gate(&mut self, gate: &str, up: &str) -> String {
        let gate = self.activated(gate);
        self.w.op("Mul", [&gate, up], [])
    }

    /// `f(x)`
    fn activated(&mut self, x: &str) -> String {
        match self.model.activation {
            Activation::Silu => {
                let share = self.w.op("Sigmoid", [x], []);
                self.w.op("Mul", [x, &share], [])
            }
            Activation::Gelu => self.w.op("Gelu", [x], []),
            Activation::GeluTanh => self.w.op("Gelu", [x], [Attribute::string("approximate", "tanh")]),
            Activation::SquaredRelu => {
                let positive = self.w.op("Relu", [x], []);
                self.w.op("Mul", [&positive, &positive], [])
            }
        }
    }

    /// `[batch, sequence, heads * width]` to `[batch, sequence, heads, width]`
    pub(super) fn split_heads(&mut self, x: &str, width: u64, shared: &Shared) -> String {
        let (any, width) = (self.w.ints(&[-1]), self.w.ints(&[width as i64]));
        let shape = self.w.op("Concat", [&shared.batch, &shared.sequence, &any, &width], [Attribute::int("axis", 0)]);
        self.w.op("Reshape", [x, &shape], [])
    }

    /// Exchanges the two axes in the middle of four.
    pub(super) fn heads_first(&mut self, x: &str) -> String {
        self.w.op("Transpose", [x], [Attribute::ints("perm", &[0, 2, 1, 3])])
    }

    /// Rotates the first columns of every head, which has `width`, by their position: `[batch, heads, sequence, width]`. Neighbours that rotate
    /// together need not stay neighbours, as long as queries and keys are arranged alike, and do only where nothing passes.
    pub(super) fn rotate(&mut self, x: &str, width: u64, turn: Turn, angles: &Angles, shared: &Shared) -> String {
        let (half, rotated, width) = (angles.pairs, 2 * angles.pairs, width as i64);
        let (low, high) = match turn {
            Turn::Halves | Turn::Backwards => (self.columns(x, 0, half), self.columns(x, half, rotated)),
            Turn::Neighbours | Turn::Apart => (self.every_other(x, 0, rotated), self.every_other(x, 1, rotated)),
        };
        let mut times = |x: &str, by: &str| self.w.op("Mul", [x, by], []);
        let (a, b, c, d) =
            (times(&low, &angles.cos), times(&high, &angles.sin), times(&high, &angles.cos), times(&low, &angles.sin));
        let signs = if turn == Turn::Backwards { ["Add", "Sub"] } else { ["Sub", "Add"] };
        let low = self.w.op(signs[0], [&a, &b], []);
        let high = self.w.op(signs[1], [&c, &d], []);
        let last = || [Attribute::int("axis", -1)];
        let turned = match turn {
            Turn::Halves | Turn::Backwards | Turn::Apart => self.w.op("Concat", [&low, &high], last()),
            Turn::Neighbours => self.woven(&low, &high, rotated, shared),
        };
        if rotated == width {
            return turned;
        }
        let rest = self.columns(x, rotated, width);
        self.w.op("Concat", [&turned, &rest], last())
    }

    /// Columns of two values in turn.
    fn woven(&mut self, even: &str, odd: &str, columns: i64, shared: &Shared) -> String {
        let (inner, any, columns) = (self.w.ints(&[-1]), self.w.ints(&[-1]), self.w.ints(&[columns]));
        let [even, odd] = [even, odd].map(|x| self.w.op("Unsqueeze", [x, &inner], []));
        let pairs = self.w.op("Concat", [&even, &odd], [Attribute::int("axis", -1)]);
        let parts = [&shared.batch[..], &any, &shared.sequence, &columns];
        let shape = self.w.op("Concat", parts, [Attribute::int("axis", 0)]);
        self.w.op("Reshape", [&pairs, &shape], [])
    }

    /// Columns `start .. end` of the last axis.
    pub(super) fn columns(&mut self, x: &str, start: i64, end: i64) -> String {
        let (start, end, axis) = (self.w.ints(&[start]), self.w.ints(&[end]), self.w.ints(&[-1]));
        self.w.op("Slice", [x, &start, &end, &axis], [])
    }

    /// Every second column of the last axis, from `start` on and before `end`.
    pub(super) fn every_other(&mut self, x: &str, start: i64, end: i64) -> String {
        let (start, end, axis, two) = (self.w.ints(&[start]), self.w.ints(&[end]), self.w.ints(&[-1]), self.w.ints(&[2]));
        self.w.op("Slice", [x, &start, &end, &axis, &two], [])
    }
}

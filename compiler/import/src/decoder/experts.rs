//! Experts, in the gathered form: each token's chosen matrices are picked from the stack of all, multiplied with, and their
//! results summed by weight.

use super::shared::Shared;
use super::{Clamp, ExpertLayout, Experts, Write};
use crate::onnx::proto::Attribute;

/// A stack of matrices, `[experts, outputs, inputs]`, and of biases, `[experts, outputs]`.
struct Stack {
    weight: String,
    bias: Option<String>,
}

/// What experts are applied to: who they are, `int64[batch, sequence, choices]`, and how many.
struct Chosen<'a> {
    experts: &'a str,
    count: u64,
    shared: &'a Shared,
}

impl Write<'_> {
    pub(super) fn experts(&mut self, layer: &str, x: &str, e: &Experts, shared: &Shared) -> String {
        let module = &*format!("{layer}.{}", e.module);
        let logits = self.linear(&format!("{module}.{}", e.router), x, self.model.hidden, e.count, e.biases);
        let (indices, weights) = self.choose(module, &logits, e, shared);
        let [gate, up, down] = self.stacks(module, e);
        self.w.enter(&format!("{module}.experts"));
        let chosen = Chosen { experts: &indices, count: e.choice.count, shared };
        let (choices, last) = (self.w.ints(&[2]), self.w.ints(&[-1]));
        let each = self.w.op("Unsqueeze", [x, &choices], []);
        let each = self.w.op("Unsqueeze", [&each, &last], []);
        let each = self.spread(&each, self.model.hidden, &chosen);
        let gate = self.apply(&gate, &each, &chosen);
        let up = self.apply(&up, &each, &chosen);
        let unit = match e.clamp {
            None => self.gate(&gate, &up),
            Some(clamp) => self.clamped(&gate, &up, clamp),
        };
        let unit = self.w.op("Unsqueeze", [&unit, &last], []);
        let y = self.apply(&down, &unit, &chosen);
        let weights = self.w.op("Unsqueeze", [&weights, &last], []);
        let y = self.w.op("Mul", [&y, &weights], []);
        let y = self.w.op("ReduceSum", [&y, &choices], [Attribute::int("keepdims", 0)]);
        let Some(other) = e.shared else { return y };
        let mut z = self.gated(&format!("{layer}.{}", other.module), x, other.width, other.unit);
        if let Some(gate) = other.gate {
            let gate = self.linear(&format!("{layer}.{gate}"), x, self.model.hidden, 1, false);
            let gate = self.w.op("Sigmoid", [&gate], []);
            z = self.w.op("Mul", [&gate, &z], []);
        }
        self.w.enter(module);
        self.w.op("Add", [&y, &z], [])
    }

    /// Gate, up and down of all experts.
    fn stacks(&mut self, module: &str, e: &Experts) -> [Stack; 3] {
        let (hidden, width) = (self.model.hidden, e.width);
        let sizes = [[width, hidden], [width, hidden], [hidden, width]];
        self.w.enter(&format!("{module}.experts"));
        match e.layout {
            ExpertLayout::Apart(names) => [0, 1, 2].map(|at| {
                let name = |expert: u64| format!("{module}.experts.{expert}.{}.weight", names[at]);
                let parts: Vec<String> = (0..e.count).map(name).collect();
                let weight = self.stack(&format!("{module}.experts.{}.weight", names[at]), &parts, &sizes[at]);
                Stack { weight, bias: None }
            }),
            ExpertLayout::Stacks(names) => [0, 1, 2].map(|at| {
                let (name, [outputs, inputs]) = (format!("{module}.{}", names[at]), sizes[at]);
                let weight = self.weight(&format!("{name}.weight"), &[e.count, outputs, inputs]);
                let bias = e.biases.then(|| self.weight(&format!("{name}.bias"), &[e.count, outputs]));
                Stack { weight, bias }
            }),
            ExpertLayout::Joined([both, down]) => {
                let both = self.weight(&format!("{module}.{both}"), &[e.count, 2 * width, hidden]);
                let down = self.weight(&format!("{module}.{down}"), &[e.count, hidden, width]);
                let half = |write: &mut Self, from: u64| {
                    let (from, to, axis) =
                        (write.w.ints(&[from as i64]), write.w.ints(&[(from + width) as i64]), write.w.ints(&[1]));
                    write.w.op("Slice", [&both, &from, &to, &axis], [])
                };
                [half(self, 0), half(self, width), down].map(|weight| Stack { weight, bias: None })
            }
            ExpertLayout::Woven(names) => {
                let wide = self.weight(&format!("{module}.{}", names[0]), &[e.count, hidden, 2 * width]);
                let down = self.weight(&format!("{module}.{}", names[1]), &[e.count, width, hidden]);
                let [wide, down] = [wide, down].map(|x| self.w.op("Transpose", [&x], [Attribute::ints("perm", &[0, 2, 1])]));
                self.woven_stacks(module, names, e, wide, down)
            }
            ExpertLayout::WovenRows(names) => {
                let wide = self.weight(&format!("{module}.{}", names[0]), &[e.count, 2 * width, hidden]);
                let down = self.weight(&format!("{module}.{}", names[1]), &[e.count, hidden, width]);
                self.woven_stacks(module, names, e, wide, down)
            }
        }
    }

    /// Gate, up and down of `[experts, out, in]` where gates and what they gate take turns, with biases.
    fn woven_stacks(&mut self, module: &str, names: [&str; 2], e: &Experts, wide: String, down: String) -> [Stack; 3] {
        let outputs = 2 * e.width;
        let bias = self.weight(&format!("{module}.{}_bias", names[0]), &[e.count, outputs]);
        let down_bias = self.weight(&format!("{module}.{}_bias", names[1]), &[e.count, self.model.hidden]);
        let [gate, up] = [0, 1].map(|at| {
            let (from, to, axis, two) =
                (self.w.ints(&[at]), self.w.ints(&[outputs as i64]), self.w.ints(&[1]), self.w.ints(&[2]));
            let [weight, bias] = [&wide, &bias].map(|x| self.w.op("Slice", [x, &from, &to, &axis, &two], []));
            Stack { weight, bias: Some(bias) }
        });
        [gate, up, Stack { weight: down, bias: Some(down_bias) }]
    }

    /// Repeats columns `[batch, sequence, 1, width, 1]` for every choice.
    fn spread(&mut self, x: &str, width: u64, chosen: &Chosen) -> String {
        let sizes = self.w.ints(&[chosen.count as i64, width as i64, 1]);
        let parts = [&chosen.shared.batch[..], &chosen.shared.sequence, &sizes];
        let shape = self.w.op("Concat", parts, [Attribute::int("axis", 0)]);
        self.w.op("Expand", [x, &shape], [])
    }

    /// Columns `[batch, sequence, choices, inputs, 1]` through the chosen matrices, to `[batch, sequence, choices, outputs]`.
    fn apply(&mut self, stack: &Stack, x: &str, chosen: &Chosen) -> String {
        let weight = self.w.op("Gather", [&stack.weight, chosen.experts], [Attribute::int("axis", 0)]);
        let y = self.w.op("MatMul", [&weight, x], []);
        let last = self.w.ints(&[-1]);
        let y = self.w.op("Squeeze", [&y, &last], []);
        let Some(bias) = &stack.bias else { return y };
        let bias = self.w.op("Gather", [bias, chosen.experts], [Attribute::int("axis", 0)]);
        self.w.op("Add", [&bias, &y], [])
    }

    /// The gated unit with bounds.
    fn clamped(&mut self, gate: &str, up: &str, Clamp { limit, alpha }: Clamp) -> String {
        let (low, high, alpha, one) = (self.w.number(-limit), self.w.number(limit), self.w.number(alpha), self.w.number(1.0));
        let gate = self.w.op("Min", [gate, &high], []);
        let up = self.w.op("Clip", [up, &low, &high], []);
        let share = self.w.op("Mul", [&gate, &alpha], []);
        let share = self.w.op("Sigmoid", [&share], []);
        let gate = self.w.op("Mul", [&gate, &share], []);
        let up = self.w.op("Add", [&up, &one], []);
        self.w.op("Mul", [&up, &gate], [])
    }
}

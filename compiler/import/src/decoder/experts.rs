//! A router and its experts, in the gathered form: each token's chosen matrices are picked from the stack of all, multiplied with, and their
//! results summed by weight.

use super::shared::Shared;
use super::{Clamp, ExpertLayout, Experts, GroupScore, Groups, Scoring, Write};
use crate::onnx::proto::Attribute;
use crate::onnx::proto::build::BOOL;

/// Score of an expert that may not be chosen.
const NEVER: f32 = f32::MIN;

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
    pub(super) fn experts(&mut self, module: &str, x: &str, e: &Experts, shared: &Shared) -> String {
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
        let mut z = self.gated(&format!("{module}.{}", other.module), x, other.width);
        if let Some(gate) = other.gate {
            let gate = self.linear(&format!("{module}.{gate}"), x, self.model.hidden, 1, false);
            let gate = self.w.op("Sigmoid", [&gate], []);
            z = self.w.op("Mul", [&gate, &z], []);
        }
        self.w.enter(module);
        self.w.op("Add", [&y, &z], [])
    }

    /// Chosen experts and their weights, `[batch, sequence, choices]` each.
    fn choose(&mut self, module: &str, logits: &str, e: &Experts, shared: &Shared) -> (String, String) {
        self.w.enter(&format!("{module}.{}", e.router));
        let choice = &e.choice;
        let last = || [Attribute::int("axis", -1)];
        let scores = match choice.scoring {
            Scoring::Softmax => self.w.op("Softmax", [logits], last()),
            Scoring::Sigmoid => self.w.op("Sigmoid", [logits], []),
        };
        let mut ranked = match choice.correction {
            None => scores.clone(),
            Some((name, leading)) => {
                let correction = self.weight(&format!("{module}.{name}"), &[leading, &[e.count]].concat());
                let flat = self.w.ints(&[e.count as i64]);
                let correction = self.w.op("Reshape", [&correction, &flat], []);
                self.w.op("Add", [&scores, &correction], [])
            }
        };
        if let Some(groups) = choice.groups {
            ranked = self.among_top_groups(&ranked, e.count, groups, shared);
        }
        let count = self.w.ints(&[choice.count as i64]);
        let mut top = self.w.ops("TopK", [&ranked, &count], last(), 2).into_iter();
        let (values, indices) = (top.next().unwrap_or_default(), top.next().unwrap_or_default());
        let mut weights = match ranked == scores {
            true => values,
            false => self.w.op("GatherElements", [&scores, &indices], last()),
        };
        if choice.normalize {
            let axis = self.w.ints(&[-1]);
            let mut sum = self.w.op("ReduceSum", [&weights, &axis], [Attribute::int("keepdims", 1)]);
            if choice.eps > 0.0 {
                let eps = self.w.number(choice.eps);
                sum = self.w.op("Add", [&sum, &eps], []);
            }
            weights = self.w.op("Div", [&weights, &sum], []);
        }
        (indices, self.times(weights, choice.scale))
    }

    /// Scores with those of experts outside the best groups made so small that they are never chosen.
    fn among_top_groups(&mut self, scores: &str, experts: u64, groups: Groups, shared: &Shared) -> String {
        let last = || [Attribute::int("axis", -1)];
        let (count, each, all) = (
            self.w.ints(&[groups.count as i64]),
            self.w.ints(&[(experts / groups.count) as i64]),
            self.w.ints(&[experts as i64]),
        );
        let apart = self.w.op("Concat", [&shared.batch, &shared.sequence, &count, &each], [Attribute::int("axis", 0)]);
        let whole = self.w.op("Concat", [&shared.batch, &shared.sequence, &all], [Attribute::int("axis", 0)]);
        let grouped = self.w.op("Reshape", [scores, &apart], []);
        let axis = self.w.ints(&[-1]);
        let worth = match groups.score {
            GroupScore::Best => self.w.op("ReduceMax", [&grouped, &axis], [Attribute::int("keepdims", 0)]),
            GroupScore::Two => {
                let two = self.w.ints(&[2]);
                let best = self.w.ops("TopK", [&grouped, &two], last(), 2).remove(0);
                self.w.op("ReduceSum", [&best, &axis], [Attribute::int("keepdims", 0)])
            }
        };
        let top = self.w.ints(&[groups.top as i64]);
        let top = self.w.ops("TopK", [&worth, &top], last(), 2).remove(1);
        let (zero, one, never) = (self.w.number(0.0), self.w.number(1.0), self.w.number(NEVER));
        let zeros = self.w.op("Mul", [&worth, &zero], []);
        let shape = self.w.op("Shape", [&top], []);
        let ones = self.w.op("Expand", [&one, &shape], []);
        let marks = self.w.op("ScatterElements", [&zeros, &top, &ones], last());
        let marks = self.w.op("Unsqueeze", [&marks, &axis], []);
        let marks = self.w.op("Expand", [&marks, &apart], []);
        let marks = self.w.op("Reshape", [&marks, &whole], []);
        let may = self.w.op("Cast", [&marks], [Attribute::int("to", BOOL.into())]);
        self.w.op("Where", [&may, scores, &never], [])
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

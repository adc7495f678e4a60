//! Ops that look at one element at a time, norms, and rotary embedding.

use super::layout::{LANES, Layout};
use super::rows::Row;
use crate::schedule::vector::{Arg, Expr};
use crate::schedule::{Schedule, Word};
use q35_dialects::q35::{Activation, Glu, RopeStyle};
use q35_tsp::alu::AluOp;
use q35_tsp::program::{Angle, Image, Input};

/// The activations that ALUs can evaluate.
pub(crate) fn has_activation(activation: Activation) -> bool {
    activation != Activation::Gelu
}

/// `1 / (1 + exp(-x))`, with a square of reciprocal roots for the quotient: three roundings besides that of `exp`.
pub(crate) fn sigmoid(expr: &mut Expr, x: Arg) -> Arg {
    let turned = expr.op(AluOp::Xor, x, Arg::Constant(1 << 31));
    let power = expr.unary(AluOp::Exp, turned);
    let one = expr.float(1.0);
    let sum = expr.op(AluOp::AddF, power, one);
    let root = expr.unary(AluOp::Rsqrt, sum);
    expr.op(AluOp::MulF, root, root)
}

/// `1 / sqrt(sum / count + eps)`.
fn inverse_root(expr: &mut Expr, sum: Arg, eps: f32, count: u64) -> Arg {
    let (share, eps) = (expr.float(1.0 / count as f32), expr.float(eps));
    let mean = expr.op(AluOp::MulF, sum, share);
    let mean = expr.op(AluOp::AddF, mean, eps);
    expr.unary(AluOp::Rsqrt, mean)
}

fn activation(expr: &mut Expr, f: Activation, x: Arg) -> Arg {
    match f {
        Activation::Sigmoid => sigmoid(expr, x),
        Activation::Tanh => expr.unary(AluOp::Tanh, x),
        Activation::Relu => expr.op(AluOp::MaxF, x, Arg::Constant(0)),
        Activation::Silu => {
            let gate = sigmoid(expr, x);
            expr.op(AluOp::MulF, gate, x)
        }
        Activation::GeluTanh => {
            let (cubic, linear) = (expr.float(0.044715), expr.float(2.0 * (2.0f32 / std::f32::consts::PI).sqrt()));
            let one = expr.float(1.0);
            let square = expr.op(AluOp::MulF, x, x);
            let square = expr.op(AluOp::MulF, square, cubic);
            let factor = expr.op(AluOp::AddF, square, one);
            let factor = expr.op(AluOp::MulF, factor, linear);
            let inner = expr.op(AluOp::MulF, factor, x);
            let gate = sigmoid(expr, inner);
            expr.op(AluOp::MulF, gate, x)
        }
        Activation::Gelu => unreachable!("refused by the check"),
    }
}

impl Schedule {
    /// An expression for each vector.
    pub(crate) fn map(&mut self, words: &[Word], f: impl Fn(&mut Expr, Arg) -> Arg) -> Vec<Word> {
        let each = words.iter().map(|word| {
            let mut expr = Expr::default();
            let x = expr.word(*word);
            let y = f(&mut expr, x);
            expr.keep(y);
            self.word(&expr)
        });
        each.collect()
    }

    /// An op for each vector and its counterpart.
    pub(crate) fn zip(&mut self, op: AluOp, a: &[Word], b: &[Word]) -> Vec<Word> {
        a.iter().zip(b).map(|(a, b)| self.binary(op, *a, *b)).collect()
    }

    /// The op `activate`.
    pub(crate) fn activate(&mut self, f: Activation, x: &[Word]) -> Vec<Word> {
        self.map(x, |expr, x| activation(expr, f, x))
    }

    /// The op `glu`.
    pub(crate) fn glu(&mut self, op: &Glu, gate: &[Word], up: &[Word]) -> Vec<Word> {
        let each = gate.iter().zip(up).map(|(gate, up)| {
            let mut expr = Expr::default();
            let (mut g, mut u) = (expr.word(*gate), expr.word(*up));
            if let Some(limit) = op.limit {
                let (most, least) = (expr.float(limit), expr.float(-limit));
                g = expr.op(AluOp::MinF, g, most);
                u = expr.op(AluOp::MinF, u, most);
                u = expr.op(AluOp::MaxF, u, least);
            }
            let f = if op.alpha == 1.0 {
                activation(&mut expr, op.activation, g)
            } else {
                let alpha = expr.float(op.alpha);
                let inner = expr.op(AluOp::MulF, g, alpha);
                let sigmoid = sigmoid(&mut expr, inner);
                expr.op(AluOp::MulF, sigmoid, g)
            };
            if op.offset != 0.0 {
                let offset = expr.float(op.offset);
                u = expr.op(AluOp::AddF, u, offset);
            }
            let y = expr.op(AluOp::MulF, f, u);
            expr.keep(y);
            self.word(&expr)
        });
        each.collect()
    }

    /// The op `rms_norm`; `group` columns of `width` are normalized together: all, or a power of two.
    pub(crate) fn rms_norm(
        &mut self,
        x: &[Word],
        layout: &Layout,
        weight: Option<(&str, u32)>,
        eps: f32,
        group: u64,
        width: u64,
    ) -> Vec<Word> {
        let whole = group == width;
        let vectors = if whole { x.len() } else { 2 };
        let lanes = if whole { LANES } else { group as usize / 2 };
        let sums: Vec<Word> = x.chunks(vectors).map(|x| self.squares(x, lanes)).collect();
        let weights = weight.map(|weight| self.norm_weights(weight, layout));
        let each = x.iter().enumerate().map(|(v, x)| {
            let mut expr = Expr::default();
            let (sum, x) = (expr.word(sums[v / vectors]), expr.word(*x));
            let inverse = inverse_root(&mut expr, sum, eps, group);
            let mut y = expr.op(AluOp::MulF, inverse, x);
            if let Some(weights) = &weights {
                let factor = expr.word(weights[v]);
                y = expr.op(AluOp::MulF, y, factor);
            }
            expr.keep(y);
            self.word(&expr)
        });
        let out = each.collect();
        sums.into_iter().for_each(|sum| self.memory.release(sum));
        out
    }

    /// What the op `rms_norm` over whole rows of `width` columns makes of one, for those who round it.
    pub(crate) fn norm_of_row(
        &mut self,
        x: &[Word],
        layout: &Layout,
        weight: Option<(&str, u32)>,
        eps: f32,
        width: u64,
    ) -> Row {
        let sum = self.squares(x, LANES);
        let mut expr = Expr::default();
        let arg = expr.word(sum);
        let factor = inverse_root(&mut expr, arg, eps, width);
        expr.keep(factor);
        let factor = self.word(&expr);
        self.memory.release(sum);
        Row { words: x.to_vec(), weights: weight.map(|weight| self.norm_weights(weight, layout)), factor: Some(factor) }
    }

    /// The sum of the squares of some vectors' elements over each run of so many lanes, in all of them.
    fn squares(&mut self, x: &[Word], lanes: usize) -> Word {
        let sum = self.fold_of(AluOp::AddF, x.len(), |expr, v| {
            let x = expr.word(x[v]);
            expr.op(AluOp::MulF, x, x)
        });
        self.reduce(AluOp::AddF, sum, lanes)
    }

    /// A norm's weights, a parameter of so many elements, as vectors of a layout meet them.
    fn norm_weights(&mut self, (param, len): (&str, u32), layout: &Layout) -> Vec<Word> {
        let weight = |v| {
            let (quad, lanes) = (self.memory.constant(1), layout.lanes(v, |e| e % len));
            self.data.images.push(Image::Numbers { quad, param: param.to_owned(), row: 0, lanes });
            Word { quad, ready: 0 }
        };
        (0..layout.len()).map(weight).collect()
    }

    /// The op `rope`: `x cos + other sin`, where the other one of a pair lies in another lane (halves) or vector (interleaved).
    pub(crate) fn rope(
        &mut self,
        x: &[Word],
        layout: &Layout,
        angles: (&str, f32),
        head_dim: u32,
        style: RopeStyle,
    ) -> Vec<Word> {
        let half = head_dim / 2;
        let sign = 1u32 << 31;
        let mut out = Vec::new();
        for (v, word) in x.iter().enumerate() {
            let [cos, sin] = [Angle::Cos, Angle::Sin].map(|function| self.angle(layout, v, angles, function, head_dim, style));
            let first = |lane: usize| match style {
                RopeStyle::Halves => layout.vector(v).get(lane).copied().flatten().is_some_and(|e| e % head_dim < half),
                RopeStyle::Interleaved => v % 2 == 0,
            };
            let turn = self.constant(|lane| if first(lane) { sign } else { 0 });
            let other = match style {
                RopeStyle::Halves => self.exchange(*word, half / 2),
                RopeStyle::Interleaved => x[v ^ 1],
            };
            let mut expr = Expr::default();
            let (x, other_arg, cos, sin, turn) =
                (expr.word(*word), expr.word(other), expr.word(cos), expr.word(sin), expr.word(turn));
            let own = expr.op(AluOp::MulF, x, cos);
            let far = expr.op(AluOp::MulF, other_arg, sin);
            let far = expr.op(AluOp::Xor, far, turn);
            let y = expr.op(AluOp::AddF, own, far);
            expr.keep(y);
            out.push(self.word(&expr));
            if style == RopeStyle::Halves {
                self.memory.release(other);
            }
        }
        out
    }

    fn angle(
        &mut self,
        layout: &Layout,
        v: usize,
        angles: (&str, f32),
        function: Angle,
        head_dim: u32,
        style: RopeStyle,
    ) -> Word {
        let frequency = |element: u32| match style {
            RopeStyle::Halves => element % head_dim % (head_dim / 2),
            RopeStyle::Interleaved => element % head_dim / 2,
        };
        let lanes = layout.lanes(v, frequency);
        let (param, scale) = (angles.0.to_owned(), angles.1);
        let same = |input: &Input| match input {
            Input::Angles { quad, param: p, function: f, scale: s, lanes: l } => {
                (*p == param && *f == function && *s == scale && *l == lanes).then_some(*quad)
            }
            _ => None,
        };
        let known = self.data.inputs.iter().find_map(same);
        let quad = known.unwrap_or_else(|| {
            let quad = self.memory.constant(1);
            self.data.inputs.push(Input::Angles { quad, param, function, scale, lanes });
            quad
        });
        Word { quad, ready: 0 }
    }
}

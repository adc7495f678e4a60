//! Everything that treats the elements of a row one by one.

use super::{Spec, bits, word};
use q35_dialects::q35::Activation;
use q35_mlir::builder::Val;
use q35_mlir::math::{gelu, gelu_tanh, sigmoid, silu, tanh};

/// What is computed of each element, or of each pair of elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Operation {
    /// `a + b`.
    Add,
    /// `a * b`.
    Mul,
    /// `a * factor`.
    Scale(f32),
    /// `cap * tanh(a / cap)`.
    Softcap(f32),
    /// A scalar function.
    Activate(Activation),
    /// `f(g) * (u + offset)` with `g = min(a, limit)` and `u = clamp(b, -limit, limit)`; for `silu`, `f(g) = g * sigmoid(alpha * g)`.
    Glu {
        /// `f`.
        activation: Activation,
        /// Bound of the operands.
        limit: Option<f32>,
        /// Steepness of `silu`; 1 for every other activation.
        alpha: f32,
        /// Added to `b`.
        offset: f32,
    },
}

impl Operation {
    /// Whether there is a `b`.
    pub fn is_binary(self) -> bool {
        matches!(self, Operation::Add | Operation::Mul | Operation::Glu { .. })
    }

    fn name(self) -> String {
        match self {
            Operation::Add => "add".to_owned(),
            Operation::Mul => "mul".to_owned(),
            Operation::Scale(factor) => format!("scale_{}", bits(factor)),
            Operation::Softcap(cap) => format!("softcap_{}", bits(cap)),
            Operation::Activate(kind) => word(kind),
            Operation::Glu { activation, limit, alpha, offset } => {
                let mut name = format!("glu_{}", word(activation));
                let parts = [("limit", limit), ("alpha", Some(alpha)), ("offset", Some(offset))];
                let defaults = [None, Some(1.0), Some(0.0)];
                for ((part, value), default) in parts.into_iter().zip(defaults) {
                    if let Some(value) = value.filter(|&value| Some(value) != default) {
                        name += &format!("_{part}_{}", bits(value));
                    }
                }
                name
            }
        }
    }

    /// The result for elements `a` and, where there is one, `b`: scalars or vectors.
    ///
    /// # Panics
    /// If a binary operation gets one operand.
    pub fn apply<'k>(self, a: Val<'k>, b: Option<Val<'k>>) -> Val<'k> {
        let second = || b.expect("a binary operation has two operands");
        match self {
            Operation::Add => a + second(),
            Operation::Mul => a * second(),
            Operation::Scale(factor) => a * f64::from(factor),
            Operation::Softcap(cap) => tanh(a / f64::from(cap)) * f64::from(cap),
            Operation::Activate(kind) => activate(kind, a),
            Operation::Glu { activation, limit, alpha, offset } => {
                let (gate, up) = match limit.map(f64::from) {
                    Some(limit) => (a.min(limit), second().min(limit).max(-limit)),
                    None => (a, second()),
                };
                let gate = if alpha == 1.0 { activate(activation, gate) } else { gate * sigmoid(gate * f64::from(alpha)) };
                gate * if offset == 0.0 { up } else { up + f64::from(offset) }
            }
        }
    }
}

fn activate(kind: Activation, x: Val<'_>) -> Val<'_> {
    match kind {
        Activation::Sigmoid => sigmoid(x),
        Activation::Tanh => tanh(x),
        Activation::Silu => silu(x),
        Activation::Gelu => gelu(x),
        Activation::GeluTanh => gelu_tanh(x),
        Activation::Relu => x.max(0.0),
    }
}

/// An operation on all elements. Arguments: a, b where the operation has one, y.
#[derive(Clone, Debug, PartialEq)]
pub struct Pointwise {
    /// What is computed.
    pub operation: Operation,
    /// Columns of a and y.
    pub width: u64,
    /// Whether b has one column, which meets every column of a.
    pub column: bool,
}

impl Spec for Pointwise {
    fn name(&self) -> String {
        let column = if self.column { "_column" } else { "" };
        format!("{}{column}_{}", self.operation.name(), self.width)
    }

    fn args(&self) -> usize {
        2 + usize::from(self.operation.is_binary())
    }
}

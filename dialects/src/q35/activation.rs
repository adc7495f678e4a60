//! Scalar activation functions.

use crate::attr::words;

/// A scalar function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Activation {
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `tanh(x)`.
    Tanh,
    /// `x * sigmoid(x)`.
    Silu,
    /// `x * (1 + erf(x / sqrt(2))) / 2`.
    Gelu,
    /// `x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2`.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

words!(Activation { Sigmoid = "sigmoid", Tanh = "tanh", Silu = "silu", Gelu = "gelu", GeluTanh = "gelu_tanh", Relu = "relu" });

impl Activation {
    /// The function in f64.
    pub fn eval(self, x: f64) -> f64 {
        match self {
            Self::Sigmoid => sigmoid(x),
            Self::Tanh => x.tanh(),
            Self::Silu => x * sigmoid(x),
            Self::Gelu => x * libm::erfc(-x / 2f64.sqrt()) / 2.0,
            Self::GeluTanh => x * sigmoid(2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)),
            Self::Relu => x.max(0.0),
        }
    }
}

/// `1 / (1 + exp(-x))`; `(1 + tanh(y)) / 2` is `sigmoid(2 y)`.
pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

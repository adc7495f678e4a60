//! Ops that work element by element.

use super::{Eval, Res};
use crate::sym::{Arena, Func, Id, Kind, Power};
use q35_graph::{DType, NodeId};

/// The value of an elementwise op from its operands' elements.
pub(super) type Map = fn(&mut Arena, &[Id]) -> Id;

impl Eval<'_> {
    pub(super) fn map(&mut self, node: NodeId, index: &[Id], least: usize, map: Map) -> Res<Id> {
        let operands = self.operand_elements(node, index)?;
        if operands.len() < least {
            return self.fault(node, format!("needs {least} operands"));
        }
        Ok(map(&mut self.sym, &operands))
    }

    fn operand_elements(&mut self, node: NodeId, index: &[Id]) -> Res<Vec<Id>> {
        let values: Vec<_> = self.graph.operands(node).into_iter().flatten().collect();
        values
            .into_iter()
            .map(|value| {
                let dims = self.shape(value)?;
                let at = self.unbroadcast(node, &dims, index)?;
                self.element(value, &at)
            })
            .collect()
    }
}

/// `a / b`: the floor of it for integers, which are never negative where shapes are computed.
pub(super) fn div(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    let operands = eval.operand_elements(node, index)?;
    let value = eval.operand(node, 0)?;
    let [a, b] = operands[..] else { return eval.fault(node, "needs two operands") };
    if eval.kind(value)? == Kind::Real {
        return Ok(eval.sym.quotient(a, b));
    }
    let below = eval.sym.plus(b, -1.0);
    if !eval.sym.proves_non_negative(below) {
        return eval.fault(node, "divides by what may be zero");
    }
    Ok(eval.sym.div_mod(a, b).0)
}

/// Remainder of integers.
pub(super) fn modulo(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    let operands = eval.operand_elements(node, index)?;
    let [a, b] = operands[..] else { return eval.fault(node, "needs two operands") };
    let below = eval.sym.plus(b, -1.0);
    if !eval.sym.is_integer(a) || !eval.sym.proves_non_negative(below) {
        return eval.fault(node, "takes a remainder of what are no positive integers");
    }
    Ok(eval.sym.div_mod(a, b).1)
}

/// `a ^ b` for a constant `b`.
pub(super) fn pow(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    let operands = eval.operand_elements(node, index)?;
    let [a, b] = operands[..] else { return eval.fault(node, "needs two operands") };
    match eval.sym.as_number(b).and_then(Power::from_number) {
        Some(power) => Ok(eval.sym.pow(a, power)),
        None => eval.fault(node, "has an exponent that is no small constant fraction"),
    }
}

/// ONNX element type numbers.
fn dtype_of(number: i64) -> Option<DType> {
    const NUMBERS: &[(i64, DType)] = &[
        (1, DType::F32),
        (2, DType::U8),
        (3, DType::I8),
        (4, DType::U16),
        (5, DType::I16),
        (6, DType::I32),
        (7, DType::I64),
        (9, DType::Bool),
        (10, DType::F16),
        (11, DType::F64),
        (12, DType::U32),
        (13, DType::U64),
        (16, DType::Bf16),
    ];
    NUMBERS.iter().find(|(n, _)| *n == number).map(|(_, d)| *d)
}

/// The kind that a cast gives.
pub(super) fn cast_kind(eval: &mut Eval, node: NodeId) -> Res<Kind> {
    match dtype_of(eval.call(node)?.int("to", 0)) {
        Some(dtype) => Ok(Kind::of(dtype)),
        None => eval.fault(node, "casts to an element type that is not supported"),
    }
}

/// Conversion between kinds; precision is not part of the algebra.
pub(super) fn cast(eval: &mut Eval, node: NodeId, result: u16, index: &[Id]) -> Res<Id> {
    let from = eval.operand(node, 0)?;
    let to = eval.kind(q35_graph::Value { node, result })?;
    let x = eval.element(from, index)?;
    Ok(match (eval.kind(from)?, to) {
        (Kind::Truth, Kind::Truth) => x,
        (_, Kind::Truth) => eval.sym.as_truth(x),
        (Kind::Truth, _) => eval.sym.indicator(x),
        (Kind::Real, Kind::Integer) => eval.sym.apply(Func::Floor, x),
        _ => x,
    })
}

/// Bounds from attributes (old opsets) or operands.
pub(super) fn clip(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    let value = eval.operand(node, 0)?;
    let mut x = eval.element(value, index)?;
    for (at, attr, is_low) in [(1, "min", true), (2, "max", false)] {
        let bound = match eval.graph.operand(node, at) {
            Some(bound) => {
                let shape = eval.shape(bound)?;
                let zeros = vec![eval.sym.int(0); shape.len()];
                eval.element(bound, &zeros)?
            }
            None => match eval.call(node)?.attrs.get(attr) {
                Some(q35_graph::source::Attr::Float(v)) => eval.sym.number((*v).into()),
                _ => continue,
            },
        };
        x = if is_low { eval.sym.max(x, bound) } else { eval.sym.min(x, bound) };
    }
    Ok(x)
}

/// `x * sigmoid(alpha * x)`.
pub(super) fn swish(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    steep(eval, node, index, 1.0)
}

/// The same, steeper where nothing is said.
pub(super) fn quick_gelu(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    steep(eval, node, index, 1.702)
}

fn steep(eval: &mut Eval, node: NodeId, index: &[Id], default: f32) -> Res<Id> {
    let (value, alpha) = (eval.operand(node, 0)?, eval.call(node)?.float("alpha", default));
    let x = eval.element(value, index)?;
    let inner = eval.sym.scaled(x, alpha.into());
    let gate = eval.sym.apply(Func::Sigmoid, inner);
    Ok(eval.sym.mul(x, gate))
}

/// The Gaussian error linear unit, exact or by tanh.
pub(super) fn gelu(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    let value = eval.operand(node, 0)?;
    let x = eval.element(value, index)?;
    let call = eval.call(node)?;
    let tanh = call.str("approximate") == Some("tanh") || call.op == "FastGelu";
    Ok(if tanh { gelu_tanh(&mut eval.sym, x) } else { gelu_erf(&mut eval.sym, x) })
}

/// `x/2 (1 + erf(x / sqrt 2))`.
pub(crate) fn gelu_erf(sym: &mut Arena, x: Id) -> Id {
    let inner = sym.scaled(x, std::f64::consts::FRAC_1_SQRT_2);
    let erf = sym.apply(Func::Erf, inner);
    let gate = sym.plus(erf, 1.0);
    let product = sym.mul(x, gate);
    sym.scaled(product, 0.5)
}

/// `x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
pub(crate) fn gelu_tanh(sym: &mut Arena, x: Id) -> Id {
    let cube = sym.pow(x, Power::integer(3));
    let inner = sym.linear(&[(x, 1.0), (cube, 0.044715)], 0.0);
    let inner = sym.scaled(inner, (2.0 / std::f64::consts::PI).sqrt());
    let tanh = sym.apply(Func::Tanh, inner);
    let gate = sym.plus(tanh, 1.0);
    let product = sym.mul(x, gate);
    sym.scaled(product, 0.5)
}

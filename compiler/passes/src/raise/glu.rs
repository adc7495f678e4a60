//! Gated units: `f(gate) * up`, where `f` is a sigmoid linear unit, a Gaussian one or a rectifier.

use super::activation::{Ask, Made};
use super::{Raiser, Res};
use crate::eval::elementwise::{gelu_erf, gelu_tanh};
use crate::sym::{Arena, Func, Id, Node, Power};
use q35_dialects::q35::{Activate, Activation, Glu};

/// A unit as the algebra writes it: which function marks it, what its argument is for a gate `g`, and the whole unit.
struct Unit {
    activation: Activation,
    whole: fn(&mut Arena, Id) -> Id,
}

const UNITS: &[Unit] = &[
    Unit { activation: Activation::Silu, whole: silu },
    Unit { activation: Activation::Gelu, whole: gelu_erf },
    Unit { activation: Activation::GeluTanh, whole: gelu_tanh },
];

fn silu(sym: &mut Arena, x: Id) -> Id {
    let gate = sym.apply(Func::Sigmoid, x);
    sym.mul(x, gate)
}

impl Raiser<'_> {
    /// A product that some unit of one of its factors divides; what is left is the other operand.
    pub(super) fn glu(&mut self, ask: Ask) -> Res<Option<Made>> {
        let factors = self.eval.sym.factors(ask.expr);
        for &(gate, power) in &factors {
            if power != Power::ONE || !self.is_varying(gate) {
                continue;
            }
            for unit in UNITS {
                let whole = (unit.whole)(&mut self.eval.sym, gate);
                let (scale, term) = self.eval.sym.coefficient(whole);
                // The constants of a unit were rounded to f32 by whoever spelled it.
                let find = |part: &(Id, Power)| {
                    factors.iter().find(|f| f.1 == part.1 && self.eval.sym.is_similar(f.0, part.0)).copied()
                };
                let Some(found) = self.eval.sym.factors(term).iter().map(find).collect::<Option<Vec<_>>>() else { continue };
                let unit_here = self.eval.sym.powers(&found);
                let up = self.eval.sym.quotient(ask.expr, unit_here);
                let made = self.gated(unit.activation, gate, up, ask)?;
                return Ok(Some((made.0, made.1 / scale)));
            }
        }
        // A rectifier is marked by the gate's maximum with 0, not by the gate.
        for &(factor, power) in &factors {
            if let (Some(gate), true, true) = (self.rectified(factor), power == Power::ONE, factors.len() > 1) {
                let up = self.eval.sym.quotient(ask.expr, factor);
                return Ok(Some(self.gated(Activation::Relu, gate, up, ask)?));
            }
        }
        Ok(None)
    }

    /// `x` of `max(x, 0)`.
    pub(super) fn rectified(&self, id: Id) -> Option<Id> {
        let Node::Max(a, b) = *self.eval.sym.node(id) else { return None };
        match (self.eval.sym.as_number(a), self.eval.sym.as_number(b)) {
            (Some(0.0), None) => Some(b),
            (None, Some(0.0)) => Some(a),
            _ => None,
        }
    }

    fn gated(&mut self, activation: Activation, gate: Id, up: Id, ask: Ask) -> Res<Made> {
        let gate = self.exact(gate, ask.column, ask.width)?;
        if let Node::Number(x) = self.eval.sym.node(up) {
            let factor = x.0;
            return Ok((self.add(Activate { kind: activation }, &[gate])?, factor));
        }
        let (up, factor) = self.activation(up, ask.column, ask.width)?;
        Ok((self.add(Glu::plain(activation), &[gate, up])?, factor))
    }
}

//! Gated units: `f(gate) * up`, where `f` is a sigmoid or a Gaussian linear unit.

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
                let parts = self.eval.sym.factors(term);
                if !parts.iter().all(|part| factors.contains(part)) {
                    continue;
                }
                let up = self.eval.sym.quotient(ask.expr, term);
                let made = self.gated(unit.activation, gate, up, ask)?;
                return Ok(Some((made.0, made.1 / scale)));
            }
        }
        Ok(None)
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

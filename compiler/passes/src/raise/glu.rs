//! Gated units: `f(gate) * up`, where `f` is a sigmoid linear unit, a Gaussian one or a rectifier.

use super::activation::{Ask, Made, is_one};
use super::{Raiser, Res};
use crate::eval::elementwise::{gelu_erf, gelu_tanh};
use crate::sym::{Arena, Func, Id, Node, Power};
use q35_dialects::q35::{Activate, Activation, Glu};

/// A unit as the algebra writes it: which function marks it, what its argument is for a gate `g`, and the whole unit.
struct Unit {
    activation: Activation,
    whole: fn(&mut Arena, Id) -> Id,
}

const UNITS: &[Unit] =
    &[Unit { activation: Activation::Gelu, whole: gelu_erf }, Unit { activation: Activation::GeluTanh, whole: gelu_tanh }];

impl Raiser<'_> {
    /// A product that some unit of one of its factors divides; what is left is the other operand.
    pub(super) fn glu(&mut self, ask: Ask) -> Res<Option<Made>> {
        let factors = self.eval.sym.factors(ask.expr);
        if let Some(made) = self.silu(ask, &factors)? {
            return Ok(Some(made));
        }
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
        // A rectifier is marked by the gate's maximum with 0, not by the gate. Its square gates what it rectifies.
        for &(factor, power) in &factors {
            let Some(gate) = self.rectified(factor) else { continue };
            let mut up = self.eval.sym.quotient(ask.expr, factor);
            if power == Power::integer(2) {
                let rest = self.eval.sym.quotient(up, factor);
                up = self.eval.sym.mul(rest, gate);
            } else if power != Power::ONE || factors.len() == 1 {
                continue;
            }
            return Ok(Some(self.gated(Activation::Relu, gate, up, ask)?));
        }
        Ok(None)
    }

    /// `g * sigmoid(alpha g) * (up + offset)`, where `g` may be bounded from above and `up` on both sides.
    fn silu(&mut self, ask: Ask, factors: &[(Id, Power)]) -> Res<Option<Made>> {
        let found = factors.iter().find_map(|&(factor, power)| {
            let Node::Apply(Func::Sigmoid, inner) = *self.eval.sym.node(factor) else { return None };
            let (alpha, gate) = self.eval.sym.coefficient(inner);
            let is_factor = factors.contains(&(gate, Power::ONE));
            (power == Power::ONE && is_factor && self.is_varying(gate)).then_some((factor, alpha, gate))
        });
        let Some((sigmoid, alpha, gate)) = found else { return Ok(None) };
        // The gate's own sign is that of its steepness.
        let sign = alpha.signum();
        let unit = self.eval.sym.mul(gate, sigmoid);
        let up = self.eval.sym.quotient(ask.expr, unit);
        let gate = self.eval.sym.scaled(gate, sign);
        let (gate, limit) = match self.bounded(gate) {
            Some((inner, limit)) => (inner, Some(limit)),
            None => (gate, None),
        };
        let plain = Glu { alpha: alpha.abs() as f32, ..Glu::plain(Activation::Silu) };
        let limited = match limit {
            Some(limit) => match self.clamped(up, limit) {
                Some((up, offset, factor)) => {
                    let op = Glu { limit: Some(limit as f32), offset: offset as f32, ..plain };
                    Some((op, up, factor))
                }
                None => return self.fault("bounds a gate, but not what it gates"),
            },
            None => None,
        };
        if limited.is_none() && alpha.abs() == 1.0 {
            let (value, factor) = self.gated(Activation::Silu, gate, up, ask)?;
            return Ok(Some((value, factor * sign)));
        }
        let gate = self.exact(gate, ask.column, ask.width)?;
        let (op, up, factor) = match limited {
            Some((op, up, factor)) => (op, self.exact(up, ask.column, ask.width)?, factor),
            None if let Some(rest) = self.eval.sym.as_number(up) => {
                // x sigmoid(a x) is the unit of a x, divided by a.
                let inner = self.applied(gate, alpha.abs())?;
                let value = self.add(Activate { kind: Activation::Silu }, &[inner])?;
                return Ok(Some((value, rest * sign / alpha.abs())));
            }
            None => {
                let (up, factor) = self.activation(up, ask.column, ask.width)?;
                (plain, up, factor)
            }
        };
        Ok(Some((self.add(op, &[gate, up])?, factor * sign)))
    }

    /// `x` and the bound of `min(x, bound)`, for a bound above 0.
    fn bounded(&mut self, id: Id) -> Option<(Id, f64)> {
        let (c, max) = self.eval.sym.coefficient(id);
        let Node::Max(a, b) = *self.eval.sym.node(max) else { return None };
        let (low, other) = match (self.eval.sym.as_number(a), self.eval.sym.as_number(b)) {
            (Some(low), None) => (low, b),
            (None, Some(low)) => (low, a),
            _ => return None,
        };
        // c max(low, y) with c < 0 is min(c low, c y).
        let bound = c * low;
        (c < 0.0 && bound > 0.0).then(|| (self.eval.sym.scaled(other, c), bound))
    }

    /// `u`, `offset` and `factor` of `factor * (clamp(u, -limit, limit) + offset)`.
    fn clamped(&mut self, id: Id, limit: f64) -> Option<(Id, f64, f64)> {
        let (terms, constant) = self.eval.sym.terms(id);
        let [(term, c)] = terms[..] else { return None };
        for sign in [1.0, -1.0] {
            // An upper bound inside a lower one, or the other way round: either is its mirror image.
            let x = self.eval.sym.scaled(term, sign);
            let Some((inner, high)) = self.bounded(x) else { continue };
            let mirrored = self.eval.sym.scaled(inner, -1.0);
            let Some((inner, low)) = self.bounded(mirrored) else { continue };
            if is_one(high / limit) && is_one(low / limit) {
                // clamp(-u) is -clamp(u): the operand has the sign that the layer gives it.
                let (own, _) = self.content(inner);
                let flip = if own > 0.0 { -1.0 } else { 1.0 };
                let u = self.eval.sym.scaled(inner, -flip);
                let factor = c * sign * flip;
                return Some((u, constant / factor, factor));
            }
        }
        None
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

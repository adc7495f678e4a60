//! Root mean square norms: `x * (mean(x^2) + eps)^(-1/2) * w`, whole rows or head by head.

use super::activation::{Ask, Made};
use super::linear::one;
use super::{Raiser, Res};
use crate::sym::{Combine, Id, Node, Power};
use q35_dialects::q35::RmsNorm;

impl Raiser<'_> {
    /// A product with one factor `(sum over a group of x^2 + e)^(-1/2)`.
    pub(super) fn norm(&mut self, ask: Ask) -> Res<Option<Made>> {
        let factors = self.eval.sym.factors(ask.expr);
        let Some(at) = factors.iter().position(|(f, p)| *p == Power::MINUS_HALF && self.squares(*f).is_some()) else {
            return Ok(None);
        };
        let Some((body, bound, group, offset)) = self.squares(factors[at].0) else { return Ok(None) };
        let others: Vec<(Id, Power)> = factors.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, f)| *f).collect();
        let others = self.eval.sym.powers(&others);
        // The root of the summed square, at this column, is what is normalized.
        let roots: Vec<(Id, Power)> = self.eval.sym.factors(body).iter().map(|(f, p)| (*f, p.half())).collect();
        let other = self.eval.sym.powers(&roots);
        let group_size = self.eval.sym.number(group as f64);
        let (_, within) = self.eval.sym.div_mod(ask.column, group_size);
        let x = self.moved(other, bound, within);
        let weight = self.eval.sym.quotient(others, x);
        if self.is_varying(weight) {
            return self.fault("scales by a norm of something else");
        }
        let (value, inner) = self.activation(x, ask.column, ask.width)?;
        if !ask.width.is_multiple_of(group) || inner <= 0.0 {
            return self.fault("normalizes groups that do not divide the row");
        }
        // x = inner * value; sum(x^2) + e = inner^2 n (mean(value^2) + eps)
        let (factor, weight) = self.eval.sym.coefficient(weight);
        let eps = (offset / (group as f64 * inner * inner)) as f32;
        let factor = factor / (group as f64).sqrt();
        let weight = match self.eval.sym.as_number(weight) {
            Some(_) => None,
            None => Some(self.group_weight(weight, ask, within, group)?),
        };
        Ok(Some((self.add(RmsNorm { weight, eps, group }, &[value])?, factor)))
    }

    /// A weight shared by the groups, or one per column.
    fn group_weight(&mut self, weight: Id, ask: Ask, within: Id, group: u64) -> Res<q35_dialects::ParamName> {
        let size = self.eval.sym.number(group as f64);
        let n = self.eval.sym.var("w", size);
        if within != ask.column {
            let of_group = self.eval.sym.subst(weight, &one(within, n));
            if !self.eval.sym.contains(of_group, ask.column) {
                return self.vector(of_group, n, group, "a norm's weight");
            }
            return self.vector(weight, ask.column, ask.width, "a norm's weight");
        }
        let of_group = self.moved(weight, ask.column, n);
        self.vector(of_group, n, group, "a norm's weight")
    }

    /// Body, index, extent and offset of `sum(body) + offset`.
    fn squares(&self, id: Id) -> Option<(Id, Id, u64, f64)> {
        let (terms, offset) = self.eval.sym.terms(id);
        let [(fold, 1.0)] = terms[..] else { return None };
        let Node::Fold(Combine::Sum, bound, body) = *self.eval.sym.node(fold) else { return None };
        let group = self.eval.sym.as_int(self.eval.sym.bound_extent(bound)?).filter(|n| *n > 0)?;
        let even = self.eval.sym.factors(body).iter().all(|(_, p)| p.half().whole().is_some());
        (even && offset >= 0.0).then_some((body, bound, group as u64, offset))
    }
}

//! Norms, of whole rows or head by head: `x * (mean(x^2) + eps)^(-1/2) * w`. Where `x` is `z - mean(z)` it is a layer norm, and a constant
//! vector added to it is its bias.

use super::activation::{Ask, Made};
use super::linear::one;
use super::{Raiser, Res};
use crate::sym::{Combine, Id, Node, Power};
use q35_dialects::ParamName;
use q35_dialects::q35::{LayerNorm, Op, RmsNorm};
use q35_graph::Value;

/// What the summed squares of a norm are.
pub(super) struct Squares {
    /// Square at the variable `bound`, and the factor of all of them.
    body: Id,
    pub(super) scale: f64,
    pub(super) bound: Id,
    /// How many are summed.
    pub(super) group: u64,
    /// Added to the sum.
    pub(super) offset: f64,
}

impl Raiser<'_> {
    /// A norm, or a constant vector and one.
    pub(super) fn norm(&mut self, ask: Ask) -> Res<Option<Made>> {
        let Node::Sum(..) = self.eval.sym.node(ask.expr) else { return self.normalized(ask, None) };
        let (terms, constant) = self.eval.sym.terms(ask.expr);
        let (varying, fixed): (Vec<_>, Vec<_>) = terms.into_iter().partition(|(t, _)| self.is_varying(*t));
        let [(norm, factor)] = varying[..] else { return Ok(None) };
        let bias = self.eval.sym.linear(&fixed, constant);
        let bias = self.eval.sym.scaled(bias, 1.0 / factor);
        let made = self.normalized(Ask { expr: norm, ..ask }, Some(bias))?;
        Ok(made.map(|(value, inner)| (value, factor * inner)))
    }

    /// A product with one factor `(sum over a group of x^2 + e)^(-1/2)`, and what is added to it.
    fn normalized(&mut self, ask: Ask, bias: Option<Id>) -> Res<Option<Made>> {
        let factors = self.eval.sym.factors(ask.expr);
        let mut found = None;
        for (at, (f, p)) in factors.iter().enumerate() {
            let Some(squares) = (if *p == Power::MINUS_HALF { self.squares(*f) } else { None }) else { continue };
            let others: Vec<(Id, Power)> = factors.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, f)| *f).collect();
            let others = self.eval.sym.powers(&others);
            // The root of the summed square, at this column, is what is normalized.
            let other = self.root(&squares);
            let group_size = self.eval.sym.number(squares.group as f64);
            let (_, within) = self.eval.sym.div_mod(ask.column, group_size);
            let x = self.moved(other, squares.bound, within);
            let weight = self.eval.sym.quotient(others, x);
            // What is normalized may be a norm itself.
            found = Some((squares, other, within, x, weight));
            if !self.is_varying(weight) {
                break;
            }
        }
        let Some((Squares { scale, bound, group, offset, .. }, other, within, x, weight)) = found else { return Ok(None) };
        if self.is_varying(weight) {
            return self.fault("scales by a norm of something else");
        }
        let uncentered = self.uncentered(other, bound, group, within);
        let (value, inner) = self.activation(uncentered.unwrap_or(x), ask.column, ask.width)?;
        if !ask.width.is_multiple_of(group) || inner == 0.0 {
            return self.fault("normalizes groups that do not divide the row");
        }
        // x = inner * value; scale sum(x^2) + e = scale inner^2 n (mean(value^2) + eps), and so for what is left of both without their means.
        let (mut factor, weight) = self.content(weight);
        let constant = self.eval.sym.as_number(weight);
        factor *= constant.unwrap_or(1.0);
        let eps = (offset / (scale * group as f64 * inner * inner)) as f32;
        let factor = factor * inner.signum() / (scale * group as f64).sqrt();
        if uncentered.is_none() {
            if bias.is_some() {
                return self.fault("adds constants to a root mean square norm");
            }
            let weight = match constant {
                Some(_) => None,
                None => Some(self.group_vector(weight, ask, within, group, "a norm's weight")?),
            };
            return Ok(Some((self.add(RmsNorm { weight, eps, group }, &[value])?, factor)));
        }
        let weight =
            if constant.is_some() { None } else { self.plain_vector(weight, 1.0, ask, within, group, "a norm's weight")? };
        let bias = match bias {
            Some(bias) => {
                let bias = self.eval.sym.scaled(bias, 1.0 / factor);
                self.plain_vector(bias, 0.0, ask, within, group, "a norm's bias")?
            }
            None => None,
        };
        // Whoever wrote the same norm with another term first asks for it again.
        let norm = Op::from(LayerNorm { weight, bias, eps, group });
        let known = self.model.graph.users(value).into_iter().find(|(user, _)| self.model.graph.node(*user).op == norm);
        let value = match known {
            Some((node, _)) => Value { node, result: 0 },
            None => self.add(norm, &[value])?,
        };
        Ok(Some((value, factor)))
    }

    /// The root of what is summed, at the variable of the sum.
    pub(super) fn root(&mut self, squares: &Squares) -> Id {
        let roots: Vec<(Id, Power)> = self.eval.sym.factors(squares.body).iter().map(|(f, p)| (*f, p.half())).collect();
        self.eval.sym.powers(&roots)
    }

    /// A vector, unless all its elements are `plain`.
    fn plain_vector(
        &mut self,
        element: Id,
        plain: f32,
        ask: Ask,
        within: Id,
        group: u64,
        what: &str,
    ) -> Res<Option<ParamName>> {
        let name = self.group_vector(element, ask, within, group, what)?;
        let Some(param) = self.model.params.get(&name) else { return self.consequence() };
        let mut numbers = vec![0.0; param.source.cols() as usize];
        param.source.read_rows(0..1, &mut numbers);
        Ok(Some(name).filter(|_| numbers.iter().any(|x| *x != plain)))
    }

    /// `z` at `within`, if `x`, a function of `bound`, is `z - mean(z)`.
    pub(super) fn uncentered(&mut self, x: Id, bound: Id, group: u64, within: Id) -> Option<Id> {
        let size = self.eval.sym.number(group as f64);
        let v = self.eval.sym.var("v", size);
        let x = self.moved(x, bound, v);
        let (terms, constant) = self.eval.sym.terms(x);
        let of_column: Vec<(Id, f64)> = terms.into_iter().filter(|(t, _)| self.eval.sym.contains(*t, v)).collect();
        let z = self.eval.sym.linear(&of_column, constant);
        let sum = self.eval.sym.fold(Combine::Sum, v, size, z);
        let mean = self.eval.sym.quotient(sum, size);
        let centered = self.eval.sym.sub(z, mean);
        (z != x && self.eval.sym.is_similar(centered, x)).then(|| self.moved(z, v, within))
    }

    /// A vector shared by the groups, or one number per column.
    fn group_vector(&mut self, weight: Id, ask: Ask, within: Id, group: u64, what: &str) -> Res<ParamName> {
        let size = self.eval.sym.number(group as f64);
        let n = self.eval.sym.var("w", size);
        if within != ask.column {
            let of_group = self.eval.sym.subst(weight, &one(within, n));
            if !self.eval.sym.contains(of_group, ask.column) {
                return self.vector(of_group, n, group, what);
            }
            return self.vector(weight, ask.column, ask.width, what);
        }
        let of_group = self.moved(weight, ask.column, n);
        self.vector(of_group, n, group, what)
    }

    /// What `sum(body) + offset` sums. Factors that are the same for all summands may be another norm's.
    pub(super) fn squares(&mut self, id: Id) -> Option<Squares> {
        let (terms, offset) = self.eval.sym.terms(id);
        let [(fold, 1.0)] = terms[..] else { return None };
        let Node::Fold(Combine::Sum, bound, body) = *self.eval.sym.node(fold) else { return None };
        let extent = self.eval.sym.bound_extent(bound)?;
        let group = self.eval.sym.as_int(extent).filter(|n| *n > 0)?;
        // The index becomes a variable: other sums may stand beside it.
        let v = self.eval.sym.var("v", extent);
        let body = self.moved(body, bound, v);
        let (scale, body) = self.eval.sym.coefficient(body);
        // A square has a root that is as good as any; where there is none, the factor has to be positive.
        let rooted =
            |r: &mut Self, f: Id, p: Power| p.half().whole().is_some() || !r.eval.sym.contains(f, v) && r.squares(f).is_some();
        let even = self.eval.sym.factors(body).into_iter().all(|(f, p)| rooted(self, f, p));
        (even && scale > 0.0 && offset >= 0.0).then_some(Squares { body, scale, bound: v, group: group as u64, offset })
    }
}

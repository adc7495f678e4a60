//! From an expression to a value of the model.
//!
//! An expression of one row's elements, as a function of a column, is matched against the forms the dialect has ops for. Each form is
//! tried in turn; the first that fits says which smaller expressions it is made from, and those are raised the same way. A constant
//! factor is carried along, because whoever asks may have a better place for it than an op of its own.

use super::linear::one;
use super::{Raised, Raiser, Res};
use crate::sym::{Func, Id, Node, Power};
use q35_dialects::q35::{self, Activate, Activation, Mul, Scale, Softcap};
use q35_graph::Value;

/// What is asked for: an expression of `column`, below `width`.
#[derive(Clone, Copy)]
pub(super) struct Ask {
    pub expr: Id,
    pub column: Id,
    pub width: u64,
    /// The constant factor that whoever asks has for it; a form that has a place for it may say that it is in.
    pub factor: f64,
}

/// Columns `first`, `first + step`, ..., so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Columns {
    pub first: u64,
    pub step: u64,
    pub count: u64,
}

impl Columns {
    /// One after the last.
    pub(super) fn end(self) -> u64 {
        self.count.saturating_sub(1).saturating_mul(self.step).saturating_add(self.first).saturating_add(1)
    }
}

/// A value, and the factor that it lacks.
pub(super) type Made = (Value, f64);

/// Recognises one form, or leaves it to others.
type Form = fn(&mut Raiser, Ask) -> Res<Option<Made>>;

/// In order of trying: the more particular first.
const FORMS: &[Form] = &[
    |r, ask| r.loaded(ask),
    |r, ask| r.picked_columns(ask),
    |r, ask| r.norm_of_heads(ask),
    |r, ask| r.norm(ask),
    |r, ask| r.rotated(ask),
    |r, ask| r.glu(ask),
    |r, ask| r.combined(ask),
    |r, ask| r.sum(ask),
    |r, ask| r.guarded(ask),
    |r, ask| r.capped(ask),
    |r, ask| r.activated(ask),
    |r, ask| r.multiplied(ask),
];

impl Raiser<'_> {
    /// The value whose element at `column` is the expression, up to a constant factor.
    pub(super) fn activation(&mut self, expr: Id, column: Id, width: u64) -> Res<Made> {
        let (factor, rest) = self.content(expr);
        if let Some(&(value, inner)) = self.made.get(&(rest, width)) {
            return Ok((value, cleaned(factor * inner)));
        }
        if self.is_poisoned(rest) {
            return self.consequence();
        }
        let (value, inner) = self.on_behalf(&[expr, rest], |r| r.formed(Ask { expr: rest, column, width, factor }))?;
        let inner = cleaned(inner);
        self.made.insert((rest, width), (value, inner));
        Ok((value, cleaned(factor * inner)))
    }

    fn formed(&mut self, ask: Ask) -> Res<Made> {
        for form in FORMS {
            if let Some(made) = form(self, ask)? {
                return Ok(made);
            }
        }
        let text = self.eval.sym.show(ask.expr);
        self.fault(format!("gives a value of no known form: {text}"))
    }

    /// The value itself, the factor applied.
    pub(super) fn exact(&mut self, expr: Id, column: Id, width: u64) -> Res<Value> {
        let (value, factor) = self.activation(expr, column, width)?;
        self.applied(value, factor)
    }

    /// A value times a factor.
    pub(super) fn applied(&mut self, value: Value, factor: f64) -> Res<Value> {
        if is_one(factor) { Ok(value) } else { self.add(Scale { factor: factor as f32 }, &[value]) }
    }

    /// Constant factor and the rest, for sums too.
    pub(super) fn content(&mut self, expr: Id) -> (f64, Id) {
        let (c, rest) = self.eval.sym.coefficient(expr);
        let (content, monic) = self.eval.sym.monic(rest);
        (c * content, monic)
    }

    /// The base and the column of an expression that is an element of something raised.
    pub(super) fn raised_load(&self, expr: Id) -> Option<(crate::sym::BaseId, Id)> {
        match self.eval.sym.node(expr) {
            Node::Load(base, index) if self.raised.contains_key(base) && (3..=4).contains(&index.len()) => {
                index.last().map(|column| (*base, *column))
            }
            _ => None,
        }
    }

    /// The columns that an index reads as `column` goes through `width` of them, if their distance is always the same.
    pub(super) fn columns_at(&mut self, at: Id, column: Id, width: u64) -> Option<Columns> {
        let (terms, first) = self.eval.sym.terms(at);
        let step = match terms[..] {
            [] if width == 1 => 1.0,
            [(term, step)] if term == column => step,
            _ => return None,
        };
        let whole = |x: f64| (x >= 0.0 && x.fract() == 0.0 && x <= 2f64.powi(53)).then_some(x as u64);
        Some(Columns { first: whole(first)?, step: whole(step).filter(|s| *s > 0)?, count: width })
    }

    /// Columns of something raised.
    fn loaded(&mut self, ask: Ask) -> Res<Option<Made>> {
        let Some((base, at)) = self.raised_load(ask.expr) else { return Ok(None) };
        let Some(columns) = self.columns_at(at, ask.column, ask.width) else { return Ok(None) };
        let start = columns.first;
        match &self.raised[&base] {
            Raised::Poison => self.consequence(),
            Raised::Linear(pending) if columns.end() <= pending.width() => {
                Ok(Some((self.linear_columns(base, columns, None)?, 1.0)))
            }
            Raised::Whole(value, width) if start == 0 && *width == ask.width && columns.step == 1 => Ok(Some((*value, 1.0))),
            Raised::Whole(value, width) if columns.end() <= *width && columns.step == 1 => {
                let value = *value;
                Ok(Some((self.add(q35::Columns { start, len: ask.width }, &[value])?, 1.0)))
            }
            _ => self.fault("reads columns that are not there"),
        }
    }

    /// `cap * tanh(x / cap)`, and `tanh` itself.
    fn capped(&mut self, ask: Ask) -> Res<Option<Made>> {
        let Node::Apply(Func::Tanh, inner) = *self.eval.sym.node(ask.expr) else { return Ok(None) };
        let (value, factor) = self.activation(inner, ask.column, ask.width)?;
        if is_one(factor) {
            return Ok(Some((self.add(Activate { kind: Activation::Tanh }, &[value])?, 1.0)));
        }
        let cap = 1.0 / factor;
        Ok(Some((self.add(Softcap { cap: cap as f32 }, &[value])?, 1.0 / cap)))
    }

    /// A scalar function of an activation.
    fn activated(&mut self, ask: Ask) -> Res<Option<Made>> {
        let (kind, inner) = match (self.eval.sym.node(ask.expr), self.rectified(ask.expr)) {
            (Node::Apply(Func::Sigmoid, inner), _) => (Activation::Sigmoid, *inner),
            (_, Some(inner)) => (Activation::Relu, inner),
            _ => return Ok(None),
        };
        let value = self.exact(inner, ask.column, ask.width)?;
        Ok(Some((self.add(Activate { kind }, &[value])?, 1.0)))
    }

    /// A product of two activations, of which one may be a number per row.
    fn multiplied(&mut self, ask: Ask) -> Res<Option<Made>> {
        let factors = self.eval.sym.factors(ask.expr);
        if factors.len() < 2 || factors.iter().any(|(_, p)| *p != Power::ONE) {
            return Ok(None);
        }
        let (columns, rows): (Vec<_>, Vec<_>) =
            factors.iter().copied().partition(|(f, _)| self.eval.sym.contains(*f, ask.column));
        if !columns.is_empty() && !rows.is_empty() {
            let (columns, row) = (self.eval.sym.powers(&columns), self.eval.sym.powers(&rows));
            let only = self.eval.sym.int(0);
            let (a, fa) = self.activation(columns, ask.column, ask.width)?;
            let (b, fb) = self.activation(row, only, 1)?;
            return Ok(Some((self.add(Mul {}, &[a, b])?, fa * fb)));
        }
        let (first, _) = factors[0];
        let rest = self.eval.sym.powers(&factors[1..]);
        if !self.is_varying(first) || !self.is_varying(rest) {
            return Ok(None);
        }
        let (a, fa) = self.activation(first, ask.column, ask.width)?;
        let (b, fb) = self.activation(rest, ask.column, ask.width)?;
        Ok(Some((self.add(Mul {}, &[a, b])?, fa * fb)))
    }

    /// The same expression with another column.
    pub(super) fn moved(&mut self, expr: Id, column: Id, to: Id) -> Id {
        self.eval.sym.subst(expr, &one(column, to))
    }
}

/// The f32 nearby, if it is so near that only the roundings of f64 lie between.
pub(super) fn cleaned(factor: f64) -> f64 {
    let near = f64::from(factor as f32);
    if (factor - near).abs() <= near.abs() * 2f64.powi(-44) { near } else { factor }
}

/// Constants are f32, and their products are formed in f64: what lies within 2^-24 of 1 is 1.
pub(super) fn is_one(factor: f64) -> bool {
    (factor - 1.0).abs() < 6e-8
}

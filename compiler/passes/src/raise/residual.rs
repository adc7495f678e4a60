//! Additions of activations are cuts: without them, every layer's expression would hold all layers before it.

use super::activation::Ask;
use super::{Raised, Raiser, Res};
use crate::sym::{Id, Kind, Node, Power};
use q35_dialects::q35::Add;
use q35_graph::{NodeId, Value};

impl Raiser<'_> {
    /// `Add` of two activations. Every other addition is part of some expression.
    pub(super) fn residual(&mut self, node: NodeId) -> Res<()> {
        let output = Value { node, result: 0 };
        if self.eval.kind(output)? != Kind::Real {
            return Ok(());
        }
        let (a, b) = (self.eval.operand(node, 0)?, self.eval.operand(node, 1)?);
        if self.eval.shape(a)? != self.eval.shape(b)? {
            return Ok(());
        }
        let Some((index, width)) = self.row_index(output, "n")? else { return Ok(()) };
        let parts = [self.eval.element(a, &index)?, self.eval.element(b, &index)?];
        self.cut_sum(output, index, &parts, width)
    }

    /// The sum inside a skip norm, of which an operand is a bias.
    pub(super) fn skip_residual(&mut self, node: NodeId, bias: usize) -> Res<()> {
        let sum = Value { node, result: 3 };
        let Some((index, width)) = self.row_index(Value { node, result: 0 }, "n")? else {
            return self.fault("has rows of unknown width");
        };
        let mut parts = Vec::new();
        for at in [0, 1] {
            let operand = self.eval.operand(node, at)?;
            parts.push(self.eval.element(operand, &index)?);
        }
        if let (Some(bias), Some(&column)) = (self.eval.graph.operand(node, bias), index.last()) {
            let bias = self.eval.element(bias, &[column])?;
            parts[1] = self.eval.sym.add(parts[1], bias);
        }
        self.cut_sum(sum, index, &parts, width)
    }

    fn cut_sum(&mut self, output: Value, index: Vec<Id>, parts: &[Id], width: u64) -> Res<()> {
        let Some(&column) = index.last() else { return Ok(()) };
        let mut values = Vec::new();
        let mut row = None;
        // What experts gave is added up behind the weighted sum.
        if !parts.iter().all(|part| self.is_plain(*part, column, width) && !self.is_routed(*part)) {
            return Ok(());
        }
        for &part in parts {
            let (settled, at) = self.settle(part)?;
            let first = *row.get_or_insert(at);
            if !self.is_same_row(first, at) {
                return self.fault("adds activations of different tokens");
            }
            values.push(self.exact(settled, column, width)?);
        }
        let Some(row) = row else { return Ok(()) };
        let sum = self.add(Add {}, &values)?;
        self.cut(output, index, Raised::Whole(sum, width), [row[0], row[1], column], 1.0);
        Ok(())
    }

    /// Whether an expression is routed, and not summed yet.
    fn is_routed(&self, expr: Id) -> bool {
        !self.eval.sym.visit(expr, |_, node| match node {
            Node::Load(base, index) if self.raised.contains_key(base) && index.len() == 4 => {
                matches!(self.eval.sym.node(index[2]), Node::Bound(..))
            }
            _ => true,
        })
    }

    /// Whether an expression is a raised value times numbers of its row, as an expert that all rows share may be.
    fn is_weighed(&self, term: Id, column: Id) -> bool {
        let factors = self.eval.sym.factors(term);
        let (columns, rows): (Vec<_>, Vec<_>) = factors.into_iter().partition(|(f, _)| self.eval.sym.contains(*f, column));
        let whole = match columns[..] {
            [(value, Power::ONE)] => self.raised_load(value).is_some_and(|(_, at)| at == column),
            _ => false,
        };
        whole && !rows.is_empty() && rows.iter().all(|(f, p)| *p == Power::ONE && !self.has_trig(*f) && self.reads_raised(*f))
    }

    /// Whether an expression is the norm of such a row, as families have that normalize what is added.
    fn is_norm_of_plain(&mut self, term: Id, column: Id, width: u64) -> bool {
        let factors = self.eval.sym.factors(term);
        let is_norm = |r: &mut Self, f: Id, p: Power| {
            p == Power::MINUS_HALF && r.squares(f).is_some_and(|squares| squares.group == width)
        };
        let Some(at) = factors.iter().position(|(f, p)| is_norm(self, *f, *p)) else { return false };
        let others = factors.into_iter().enumerate().filter(|(i, _)| *i != at).map(|(_, f)| f);
        let varying: Vec<(Id, Power)> = others.filter(|(f, _)| self.is_varying(*f)).collect();
        matches!(varying[..], [(x, Power::ONE)] if self.is_plain(x, column, width))
    }

    /// Whether an expression depends on something raised.
    fn reads_raised(&self, expr: Id) -> bool {
        !self.eval.sym.visit(expr, |_, node| !matches!(node, Node::Load(base, _) if self.raised.contains_key(base)))
    }

    /// Whether an expression is a raised value times a constant, or a linear layer with its bias.
    fn is_plain(&mut self, expr: Id, column: Id, width: u64) -> bool {
        let (_, rest) = self.content(expr);
        let (terms, constant) = self.eval.sym.terms(rest);
        let (varying, fixed): (Vec<_>, Vec<_>) = terms.into_iter().partition(|(t, _)| self.is_varying(*t));
        if self.is_combination(rest, column) {
            return true;
        }
        let [(term, _)] = varying[..] else { return false };
        if fixed.is_empty() && constant == 0.0 && (self.is_weighed(term, column) || self.is_norm_of_plain(term, column, width))
        {
            return true;
        }
        let whole = match self.raised_load(term) {
            Some((_, at)) => at == column,
            None => false,
        };
        match self.eval.sym.node(rest) {
            Node::Sum(..) => {
                whole
                    && (fixed.is_empty() && constant == 0.0
                        || self.linear_load(term, Ask { expr: term, column, width, factor: 1.0 }).is_some())
            }
            _ => whole,
        }
    }
}

//! Sums and maxima over an index.
//!
//! Two folds that differ only in the name of their index are one expression: the index is [`Node::Bound`], numbered one above the
//! folds inside the body. While a body is being changed its index is an ordinary variable, so that what is put in cannot be captured.

use super::subst::Change;
use super::{Arena, Combine, Id, Node};
use std::collections::HashMap;

impl Arena {
    /// `body` combined over the variable `var`, which is below `extent`.
    pub fn fold(&mut self, combine: Combine, var: Id, extent: Id, body: Id) -> Id {
        let extent_number = self.as_number(extent);
        if extent_number == Some(1.0) {
            let zero = self.int(0);
            return self.subst(body, &HashMap::from([(var, zero)]));
        }
        if (combine, extent_number) == (Combine::Sum, Some(0.0)) {
            return self.int(0);
        }
        if !self.contains(body, var) {
            return match combine {
                Combine::Sum => self.mul(extent, body),
                Combine::Max => body,
            };
        }
        if let (Combine::Sum, (c, rest)) = (combine, self.content(body))
            && c != 1.0
        {
            let inner = self.fold(combine, var, extent, rest);
            return self.scaled(inner, c);
        }
        if combine == Combine::Max
            && let Some(end) = self.largest_end(var, extent, body)
        {
            return end;
        }
        if combine == Combine::Sum
            && let Some(picked) = self.picked(var, extent, body)
        {
            return picked;
        }
        let mut level = 0;
        self.visit(body, |_, node| {
            if let Node::Fold(_, bound, _) = node
                && let Node::Bound(inner, _) = self.node(*bound)
            {
                level = level.max(*inner);
            }
            true
        });
        let bound = self.intern(Node::Bound(level + 1, extent));
        let body = self.subst(body, &HashMap::from([(var, bound)]));
        if combine == Combine::Max {
            return self.intern(Node::Fold(combine, bound, body));
        }
        // Which term of a sum comes first may be another one now.
        let (c, body) = self.content(body);
        let fold = self.intern(Node::Fold(combine, bound, body));
        self.scaled(fold, c)
    }

    /// A constant factor and the rest; the first term of a sum of real numbers has none of its own, as in products.
    fn content(&mut self, body: Id) -> (f64, Id) {
        let (c, rest) = self.coefficient(body);
        if self.is_integer(rest) {
            return (c, rest);
        }
        let (content, monic) = self.monic(rest);
        (c * content, monic)
    }

    /// The largest of a body that grows, or shrinks, evenly with `var`, which takes at least one value: where it ends, or begins.
    fn largest_end(&mut self, var: Id, extent: Id, body: Id) -> Option<Id> {
        let (terms, _) = self.terms(body);
        let (_, c) = terms.into_iter().find(|(term, _)| *term == var)?;
        let last = self.plus(extent, -1.0);
        let others = self.linear(&[(body, 1.0), (var, -c)], 0.0);
        if self.contains(others, var) || !self.proves_non_negative(last) {
            return None;
        }
        Some(self.linear(&[(others, 1.0), (last, c.max(0.0))], 0.0))
    }

    /// The condition under which a term is not 0, and what it is there.
    pub fn kept(&mut self, x: Id) -> Option<(Id, Id)> {
        let Node::Select(condition, yes, no) = *self.node(x) else { return None };
        match (self.as_number(yes), self.as_number(no)) {
            (_, Some(0.0)) => Some((condition, yes)),
            (Some(0.0), _) => Some((self.not(condition), no)),
            _ => None,
        }
    }

    /// A sum whose terms are 0 except where `var` equals something that does not depend on it.
    fn picked(&mut self, var: Id, extent: Id, body: Id) -> Option<Id> {
        let (condition, term) = self.kept(body)?;
        let (at, value) = self.conjuncts(condition).into_iter().find_map(|part| {
            let Node::Zero(gap) = *self.node(part) else { return None };
            let (terms, _) = self.terms(gap);
            let c = terms.iter().find(|(t, _)| *t == var).map(|(_, c)| *c).filter(|c| c.abs() == 1.0)?;
            // gap = c var + rest, so var = -rest / c
            let value = self.linear(&[(gap, -1.0 / c), (var, 1.0)], 0.0);
            (self.is_integer(value) && !self.contains(value, var)).then_some((part, value))
        })?;
        let mut all = self.truth(true);
        for part in self.conjuncts(condition).into_iter().filter(|part| *part != at) {
            all = self.and(all, part);
        }
        let map = HashMap::from([(var, value)]);
        let (all, term) = (self.subst(all, &map), self.subst(term, &map));
        let room = self.linear(&[(extent, 1.0), (value, -1.0)], -1.0);
        let (above, below) = (self.non_negative(value), self.non_negative(room));
        let inside = self.and(above, below);
        let all = self.and(all, inside);
        let zero = self.int(0);
        Some(self.select(all, term, zero))
    }

    /// A fold with parts of its body and of its extent replaced.
    pub(super) fn rewrite_fold(&mut self, combine: Combine, bound: Id, body: Id, change: Change) -> Id {
        let Node::Bound(level, extent) = *self.node(bound) else { return body };
        let extent = self.rewrite(extent, change);
        let var = self.var(&format!("#{level}"), extent);
        let open = self.subst(body, &HashMap::from([(bound, var)]));
        let body = self.rewrite(open, change);
        self.fold(combine, var, extent, body)
    }

    /// How many values the index of a fold takes.
    pub fn bound_extent(&self, bound: Id) -> Option<Id> {
        match *self.node(bound) {
            Node::Bound(_, extent) => Some(extent),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Base, Dim, Kind};
    use super::*;

    #[test]
    fn a_sum_of_one_term_is_that_term() {
        let mut a = Arena::default();
        let base = a.add_base(Base::Opaque("x".into(), Kind::Real));
        let (n, one, zero) = (a.dim(Dim::Tokens), a.int(1), a.int(0));
        let (i, j) = (a.var("i", n), a.var("j", n));
        let x = a.load(base, &[i, j]);
        // Only the first index is summed over, whatever the extent of its variable.
        assert_eq!(a.fold(Combine::Sum, i, one, x), a.load(base, &[zero, j]));
        let hit = a.equal(i, j);
        let only = a.select(hit, x, zero);
        assert_eq!(a.fold(Combine::Sum, i, n, only), a.load(base, &[j, j]));
        // What may lie outside has to be asked for.
        let after = a.plus(j, 1.0);
        let hit = a.equal(i, after);
        let only = a.select(hit, x, zero);
        let (inside, next) = (a.less(after, n), a.load(base, &[after, j]));
        assert_eq!(a.fold(Combine::Sum, i, n, only), a.select(inside, next, zero));
        assert_eq!(a.fold(Combine::Sum, i, zero, x), zero);
    }

    #[test]
    fn the_largest_of_what_grows_is_its_last() {
        let mut a = Arena::default();
        let (n, past) = (a.dim(Dim::Tokens), a.dim(Dim::Past));
        let i = a.var("i", n);
        let (at, last) = (a.linear(&[(i, 2.0), (past, 1.0)], 3.0), a.linear(&[(n, 2.0), (past, 1.0)], 1.0));
        assert_eq!(a.fold(Combine::Max, i, n, at), last);
        let back = a.linear(&[(i, -1.0), (past, 1.0)], 0.0);
        assert_eq!(a.fold(Combine::Max, i, n, back), past);
        // There may be no cached token at all.
        let none = a.var("p", past);
        let open = a.fold(Combine::Max, none, past, none);
        assert!(matches!(a.node(open), Node::Fold(..)));
    }

    #[test]
    fn names_of_indices_do_not_matter_and_nothing_is_captured() {
        let mut a = Arena::default();
        let base = a.add_base(Base::Opaque("x".into(), Kind::Real));
        let n = a.dim(Dim::Tokens);
        let [i, j, k] = ["i", "j", "k"].map(|name| a.var(name, n));
        let row_sum = |a: &mut Arena, row: Id, index: Id| {
            let x = a.load(base, &[row, index]);
            a.fold(Combine::Sum, index, n, x)
        };
        let (over_i, over_j) = (row_sum(&mut a, k, i), row_sum(&mut a, k, j));
        assert_eq!(over_i, over_j);
        // Replacing k by another sum's index, inside and outside.
        let all = a.fold(Combine::Sum, k, n, over_i);
        let again = row_sum(&mut a, i, j);
        assert_eq!(a.fold(Combine::Sum, i, n, again), all);
        let at_j = a.subst(over_i, &HashMap::from([(k, j)]));
        assert_eq!(at_j, row_sum(&mut a, j, i));
        let twice = a.scaled(over_i, 2.0);
        let load = a.load(base, &[k, i]);
        let double = a.scaled(load, 2.0);
        assert_eq!(a.fold(Combine::Sum, i, n, double), twice);
        // So for a sum of several terms.
        let other = a.load(base, &[i, k]);
        let (both, doubled) = (a.linear(&[(load, 1.0), (other, 3.0)], 0.0), a.linear(&[(load, 2.0), (other, 6.0)], 0.0));
        let sum = a.fold(Combine::Sum, i, n, both);
        assert_eq!(a.fold(Combine::Sum, i, n, doubled), a.scaled(sum, 2.0));
    }
}

//! Sums and maxima over an index.
//!
//! Two folds that differ only in the name of their index are one expression: the index is [`Node::Bound`], numbered one above the
//! folds inside the body. While a body is being changed its index is an ordinary variable, so that what is put in cannot be captured.

use super::{Arena, Combine, Id, Node};
use std::collections::HashMap;

impl Arena {
    /// `body` combined over the variable `var`, which is below `extent`.
    pub fn fold(&mut self, combine: Combine, var: Id, extent: Id, body: Id) -> Id {
        if self.as_number(extent) == Some(1.0) {
            return body;
        }
        if !self.contains(body, var) {
            return match combine {
                Combine::Sum => self.mul(extent, body),
                Combine::Max => body,
            };
        }
        if let (Combine::Sum, (c, rest)) = (combine, self.coefficient(body))
            && c != 1.0
        {
            let inner = self.fold(combine, var, extent, rest);
            return self.scaled(inner, c);
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
        self.intern(Node::Fold(combine, bound, body))
    }

    /// A fold with parts of its body and of its extent replaced.
    pub(super) fn subst_fold(&mut self, combine: Combine, bound: Id, body: Id, map: &HashMap<Id, Id>) -> Id {
        let Node::Bound(level, extent) = *self.node(bound) else { return body };
        let extent = self.subst(extent, map);
        let var = self.var(&format!("#{level}"), extent);
        let open = self.subst(body, &HashMap::from([(bound, var)]));
        let body = self.subst(open, map);
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
    }
}

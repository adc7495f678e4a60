//! Sums and maxima over an index.
//!
//! Two folds that differ only in the name of their index are one expression: inside the body the index is [`Node::Bound`], numbered one
//! above the largest number inside.

use super::{Arena, Combine, Id, Node};
use std::collections::HashMap;

impl Arena {
    /// `body` combined over the variable `var`, which is below `extent`.
    pub fn fold(&mut self, combine: Combine, var: Id, extent: Id, body: Id) -> Id {
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
            if let Node::Bound(n, _) = node {
                level = level.max(*n);
            }
            true
        });
        let bound = self.intern(Node::Bound(level + 1, extent));
        let body = self.subst(body, &HashMap::from([(var, bound)]));
        self.intern(Node::Fold(combine, extent, body))
    }

    /// The index of a fold's body.
    pub fn bound_of(&self, fold: Id) -> Option<Id> {
        let Node::Fold(_, extent, body) = *self.node(fold) else { return None };
        let mut found: Option<(u32, Id)> = None;
        self.visit(body, |id, node| {
            if let Node::Bound(level, _) = node
                && found.is_none_or(|(best, _)| *level > best)
            {
                found = Some((*level, id));
            }
            true
        });
        found.map(|(_, id)| id).filter(|id| matches!(self.node(*id), Node::Bound(_, e) if *e == extent))
    }

    /// A fold again, after its parts changed.
    pub(super) fn refold(&mut self, combine: Combine, extent: Id, body: Id) -> Id {
        let mut highest: Option<(u32, Id)> = None;
        self.visit(body, |id, node| {
            if let Node::Bound(level, _) = node
                && highest.is_none_or(|(best, _)| *level > best)
            {
                highest = Some((*level, id));
            }
            true
        });
        match highest {
            Some((_, bound)) if matches!(self.node(bound), Node::Bound(_, e) if *e == extent) => {
                let var = self.var("fold", extent);
                let body = self.subst(body, &HashMap::from([(bound, var)]));
                if self.as_number(extent) == Some(1.0) { body } else { self.fold(combine, var, extent, body) }
            }
            _ => match combine {
                Combine::Sum => self.mul(extent, body),
                Combine::Max => body,
            },
        }
    }
}

//! Rebuilding an expression with parts replaced, and asking what it contains.

use super::{Arena, Id, Node};
use std::collections::{HashMap, HashSet};

/// What an expression becomes, if it is replaced.
pub(super) type Change<'a> = &'a mut dyn FnMut(&mut Arena, Id) -> Option<Id>;

impl Arena {
    /// The expressions that a node is made of, its body's included.
    pub fn children(&self, id: Id) -> Vec<Id> {
        match self.node(id) {
            Node::Number(_) | Node::Dim(_) | Node::Var(_) => Vec::new(),
            Node::Bound(_, x) | Node::Apply(_, x) | Node::NonNegative(x) | Node::Zero(x) | Node::Not(x) => vec![*x],
            Node::Load(_, index) => index.to_vec(),
            Node::Sum(terms, _) => terms.iter().map(|(t, _)| *t).collect(),
            Node::Product(factors) => factors.iter().map(|(f, _)| *f).collect(),
            Node::Div(a, b) | Node::Mod(a, b) | Node::Max(a, b) | Node::Fold(_, a, b) => vec![*a, *b],
            Node::And(parts) => parts.to_vec(),
            Node::Select(c, a, b) => vec![*c, *a, *b],
        }
    }

    /// Calls `see` once for every expression inside `id`, itself included, until it returns `false` for one.
    pub fn visit(&self, id: Id, mut see: impl FnMut(Id, &Node) -> bool) -> bool {
        let (mut seen, mut work) = (HashSet::new(), vec![id]);
        while let Some(id) = work.pop() {
            if seen.insert(id) {
                if !see(id, self.node(id)) {
                    return false;
                }
                work.extend(self.children(id));
            }
        }
        true
    }

    /// Whether `part` occurs in `id`.
    pub fn contains(&self, id: Id, part: Id) -> bool {
        !self.visit(id, |at, _| at != part)
    }

    /// Whether two expressions differ in their constants only, and there by no more than a rounding to f32.
    pub fn is_similar(&self, a: Id, b: Id) -> bool {
        let near = |x: f64, y: f64| (x - y).abs() <= 2f64.powi(-22) * x.abs().max(y.abs());
        if a == b {
            return true;
        }
        match (self.node(a), self.node(b)) {
            (Node::Number(x), Node::Number(y)) => near(x.0, y.0),
            (Node::Apply(f, x), Node::Apply(g, y)) => f == g && self.is_similar(*x, *y),
            (Node::Sum(x, c), Node::Sum(y, d)) => {
                near(c.0, d.0)
                    && x.len() == y.len()
                    && x.iter().zip(y).all(|((x, c), (y, d))| near(c.0, d.0) && self.is_similar(*x, *y))
            }
            (Node::Product(x), Node::Product(y)) => {
                x.len() == y.len() && x.iter().zip(y).all(|((x, p), (y, q))| p == q && self.is_similar(*x, *y))
            }
            _ => false,
        }
    }

    /// `id` with every occurrence of a key replaced, back in normal form.
    pub fn subst(&mut self, id: Id, map: &HashMap<Id, Id>) -> Id {
        if map.iter().all(|(from, to)| from == to) {
            return id;
        }
        self.rewrite(id, &mut |_, id| map.get(&id).copied())
    }

    /// `id` with every expression inside it replaced for which `change` gives another one, back in normal form. What it gives is not looked
    /// into again. The index of a fold is a variable of its own while its body is changed.
    pub fn rewrite(&mut self, id: Id, change: &mut dyn FnMut(&mut Self, Id) -> Option<Id>) -> Id {
        self.rewrite_memo(id, change, &mut HashMap::new())
    }

    /// The same for a list.
    pub fn subst_all(&mut self, ids: &[Id], map: &HashMap<Id, Id>) -> Vec<Id> {
        ids.iter().map(|id| self.subst(*id, map)).collect()
    }

    fn rewrite_memo(&mut self, id: Id, change: Change, memo: &mut HashMap<Id, Id>) -> Id {
        if let Some(&done) = memo.get(&id) {
            return done;
        }
        if let Some(to) = change(self, id) {
            return to;
        }
        let result = if let Node::Fold(combine, bound, body) = *self.node(id) {
            self.rewrite_fold(combine, bound, body, change)
        } else {
            let children = self.children(id);
            let changed: Vec<Id> = children.iter().map(|c| self.rewrite_memo(*c, change, memo)).collect();
            if changed == children { id } else { self.rebuild(id, &changed) }
        };
        memo.insert(id, result);
        result
    }

    fn rebuild(&mut self, id: Id, parts: &[Id]) -> Id {
        match self.node(id).clone() {
            Node::Number(_) | Node::Dim(_) | Node::Var(_) | Node::Fold(..) => id,
            Node::Bound(level, _) => self.intern(Node::Bound(level, parts[0])),
            Node::Apply(func, _) => self.apply(func, parts[0]),
            Node::NonNegative(_) => self.non_negative(parts[0]),
            Node::Zero(_) => self.zero(parts[0]),
            Node::Not(_) => self.not(parts[0]),
            Node::Load(base, _) => self.load(base, parts),
            Node::Sum(terms, constant) => {
                let terms: Vec<(Id, f64)> = parts.iter().zip(&terms).map(|(p, (_, c))| (*p, c.0)).collect();
                self.linear(&terms, constant.0)
            }
            Node::Product(factors) => {
                let factors: Vec<_> = parts.iter().zip(&factors).map(|(p, (_, power))| (*p, *power)).collect();
                self.powers(&factors)
            }
            Node::Div(..) => self.div_mod(parts[0], parts[1]).0,
            Node::Mod(..) => self.div_mod(parts[0], parts[1]).1,
            Node::Max(..) => self.max(parts[0], parts[1]),
            Node::And(_) => {
                let mut all = self.truth(true);
                for &part in parts {
                    all = self.and(all, part);
                }
                all
            }
            Node::Select(..) => self.select(parts[0], parts[1], parts[2]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Base, Combine, Dim, Kind};
    use super::*;

    #[test]
    fn loads_may_become_formulas_of_their_indices() {
        let mut a = Arena::default();
        let base = a.add_base(Base::Opaque("x".into(), Kind::Integer));
        let n = a.dim(Dim::Tokens);
        let (i, j) = (a.var("i", n), a.var("j", n));
        let mut summed = |f: &mut dyn FnMut(&mut Arena, Id) -> Id| {
            let x = f(&mut a, j);
            let above = a.less(i, x);
            let (y, zero) = (f(&mut a, i), a.int(0));
            let term = a.select(above, x, zero);
            let sum = a.fold(Combine::Sum, j, n, term);
            a.add(sum, y)
        };
        let loads = summed(&mut |a, at| a.load(base, &[at]));
        let doubled = summed(&mut |a, at| a.linear(&[(at, 2.0)], 1.0));
        let got = a.rewrite(loads, &mut |a, id| match *a.node(id) {
            Node::Load(_, ref index) => {
                let at = index[0];
                Some(a.linear(&[(at, 2.0)], 1.0))
            }
            _ => None,
        });
        assert_eq!(got, doubled, "{} {}", a.show(got), a.show(doubled));
        assert_eq!(a.rewrite(loads, &mut |_, _| None), loads);
    }
}

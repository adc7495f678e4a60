//! What can be proved about integers: lower bounds of polynomials over variables with known ranges.

use super::{Arena, Dim, Func, Id, Node};
use std::collections::HashMap;

/// No dimension of a model is larger than this.
const LARGEST_DIM: f64 = (1u64 << 40) as f64;

impl Arena {
    /// Whether `x >= 0` for all values of its variables. `false` means that no proof was found.
    pub fn proves_non_negative(&mut self, x: Id) -> bool {
        if !self.is_integer(x) {
            return false;
        }
        let mut x = x;
        // Every round replaces one ranged atom by the end of its range that makes the sum least.
        for _ in 0..32 {
            if self.interval(x).0 >= 0.0 {
                return true;
            }
            let Some(next) = self.least(x) else { return false };
            x = next;
        }
        false
    }

    fn least(&mut self, x: Id) -> Option<Id> {
        let (terms, _) = self.terms(x);
        let mut atoms: Vec<Id> = terms.iter().flat_map(|(t, _)| self.factors(*t)).map(|(f, _)| f).collect();
        // Youngest first: the end of an atom's range may mention older ones.
        atoms.sort_unstable();
        atoms.dedup();
        for &atom in atoms.iter().rev() {
            // An atom inside another one cannot be moved alone.
            if atoms.iter().any(|other| *other != atom && self.contains(*other, atom)) {
                continue;
            }
            let Some(last) = self.last_value(atom) else { continue };
            let signs: Vec<bool> =
                terms.iter().filter(|(t, _)| self.factors(*t).iter().any(|(f, _)| *f == atom)).map(|(_, c)| *c > 0.0).collect();
            let others_non_negative =
                terms.iter().all(|(t, _)| self.factors(*t).iter().all(|(f, _)| *f == atom || self.interval(*f).0 >= 0.0));
            if !others_non_negative {
                continue;
            }
            let end = match (signs.contains(&true), signs.contains(&false)) {
                (true, false) => self.int(0),
                (false, true) => last,
                _ => continue,
            };
            return Some(self.subst(x, &HashMap::from([(atom, end)])));
        }
        None
    }

    /// The largest value of an atom that starts at 0, as an expression.
    fn last_value(&mut self, atom: Id) -> Option<Id> {
        match *self.node(atom) {
            Node::Var(var) => {
                let extent = self.extent(var);
                Some(self.plus(extent, -1.0))
            }
            Node::Bound(_, extent) => Some(self.plus(extent, -1.0)),
            Node::Mod(_, d) => Some(self.plus(d, -1.0)),
            Node::Load(base, _) => {
                let below = self.base_bound(base)?;
                Some(self.plus(below, -1.0))
            }
            Node::Div(x, d) => {
                let (d, high) = (self.as_number(d)?, self.interval(x).1);
                (self.interval(x).0 >= 0.0 && high.is_finite()).then(|| self.number((high / d).floor()))
            }
            _ => None,
        }
    }

    /// Bounds that hold whatever the variables are; infinite where none is known.
    pub fn interval(&self, x: Id) -> (f64, f64) {
        const ANY: (f64, f64) = (f64::NEG_INFINITY, f64::INFINITY);
        match self.node(x) {
            Node::Number(n) => (n.0, n.0),
            Node::Dim(Dim::Batch | Dim::Tokens) => (1.0, LARGEST_DIM),
            Node::Dim(_) => (0.0, LARGEST_DIM),
            Node::Var(var) => (0.0, self.interval(self.extent(*var)).1 - 1.0),
            Node::Bound(_, extent) | Node::Mod(_, extent) => (0.0, self.interval(*extent).1 - 1.0),
            Node::Load(base, _) => match self.base_bound(*base) {
                Some(below) => (0.0, self.interval(below).1 - 1.0),
                None => ANY,
            },
            Node::Apply(Func::Sigmoid, _) => (0.0, 1.0),
            Node::Div(x, d) => match (self.interval(*x), self.interval(*d)) {
                ((low, high), (least, most)) if low >= 0.0 && least > 0.0 => ((low / most).floor(), (high / least).floor()),
                _ => ANY,
            },
            Node::Sum(terms, constant) => terms.iter().fold((constant.0, constant.0), |(low, high), (t, c)| {
                let (l, h) = self.interval(*t);
                if c.0 > 0.0 { (low + c.0 * l, high + c.0 * h) } else { (low + c.0 * h, high + c.0 * l) }
            }),
            Node::Product(factors) => {
                let mut bounds = (1.0, 1.0);
                for (f, p) in factors {
                    match (self.interval(*f), p.natural()) {
                        ((low, high), Some(n)) if low >= 0.0 => {
                            bounds = (bounds.0 * low.powi(n as i32), bounds.1 * high.powi(n as i32))
                        }
                        _ => return ANY,
                    }
                }
                bounds
            }
            Node::Max(a, b) => {
                let (a, b) = (self.interval(*a), self.interval(*b));
                (a.0.max(b.0), a.1.max(b.1))
            }
            Node::Select(_, a, b) => {
                let (a, b) = (self.interval(*a), self.interval(*b));
                (a.0.min(b.0), a.1.max(b.1))
            }
            Node::NonNegative(_) | Node::Zero(_) | Node::Not(_) | Node::And(_) => (0.0, 1.0),
            _ => ANY,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_of_unknown_order_are_within_their_extent() {
        let mut a = Arena::default();
        let order = a.add_base(super::super::Base::Opaque("order".into(), super::super::Kind::Integer));
        let (n, two) = (a.dim(Dim::Tokens), a.int(2));
        let doubled = a.scaled(n, 2.0);
        a.bound_base(order, doubled);
        let r = a.var("r", doubled);
        let at = a.load(order, &[r]);
        assert!(a.proves_non_negative(at));
        let (row, _) = a.div_mod(at, two);
        let room = a.linear(&[(doubled, 1.0), (at, -1.0)], -1.0);
        assert!(a.proves_non_negative(room) && a.proves_non_negative(row));
        let less = a.plus(room, -1.0);
        assert!(!a.proves_non_negative(less));
    }

    #[test]
    fn ranges_are_used_together() {
        let mut a = Arena::default();
        let (batch, tokens, past) = (a.dim(Dim::Batch), a.dim(Dim::Tokens), a.dim(Dim::Past));
        let (b, s) = (a.var("b", batch), a.var("s", tokens));
        // B*S - 1 - (b*S + s) >= 0
        let (all, row) = (a.mul(batch, tokens), a.mul(b, tokens));
        let gap = a.linear(&[(all, 1.0), (row, -1.0), (s, -1.0)], -1.0);
        assert!(a.proves_non_negative(gap));
        let less = a.plus(gap, -1.0);
        assert!(!a.proves_non_negative(less));
        let at = a.linear(&[(past, 1.0), (s, 1.0)], 0.0);
        assert!(a.proves_non_negative(at));
        let (nine, two) = (a.int(9), a.int(2));
        let h = a.var("h", nine);
        let (q, _) = a.div_mod(h, two);
        let room = a.linear(&[(q, -2.0)], 8.0);
        assert!(a.proves_non_negative(room));
    }
}

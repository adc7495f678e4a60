//! Truth values: comparisons, connectives, selection.

use super::{Arena, Id, Node};
use std::collections::HashMap;

/// Comparisons of sums with more selections in them are not taken apart: each doubles the cases.
const MOST_BRANCHES: usize = 3;

impl Arena {
    /// `x >= 0`.
    pub fn non_negative(&mut self, x: Id) -> Id {
        if let Some(v) = self.as_number(x) {
            return self.truth(v >= 0.0);
        }
        if self.is_integer(x) {
            if let Some(lifted) = self.lift_select(x, Self::non_negative) {
                return lifted;
            }
            if self.proves_non_negative(x) {
                return self.truth(true);
            }
            let below = self.linear(&[(x, -1.0)], -1.0);
            if self.proves_non_negative(below) {
                return self.truth(false);
            }
        }
        self.intern(Node::NonNegative(x))
    }

    /// `x = 0`.
    pub fn zero(&mut self, x: Id) -> Id {
        if let Some(v) = self.as_number(x) {
            return self.truth(v == 0.0);
        }
        if let Some(lifted) = self.lift_select(x, Self::zero) {
            return lifted;
        }
        if self.is_integer(x) {
            let above = self.plus(x, -1.0);
            let below = self.linear(&[(x, -1.0)], -1.0);
            if self.proves_non_negative(above) || self.proves_non_negative(below) {
                return self.truth(false);
            }
        }
        // Integers stay integers: a quotient of coefficients might not be exact.
        let one_form = match (self.is_integer(x), self.terms(x).0.first()) {
            (true, Some((_, lead))) if *lead < 0.0 => self.scaled(x, -1.0),
            (true, _) => x,
            _ => self.monic(x).1,
        };
        self.intern(Node::Zero(one_form))
    }

    /// A comparison of a sum with a selection in it compares in both branches.
    fn lift_select(&mut self, x: Id, compare: fn(&mut Self, Id) -> Id) -> Option<Id> {
        let (terms, _) = self.terms(x);
        if terms.iter().filter(|(t, _)| matches!(self.node(*t), Node::Select(..))).count() > MOST_BRANCHES {
            return None;
        }
        let (at, condition, yes, no) = terms.iter().find_map(|(t, _)| match *self.node(*t) {
            Node::Select(c, yes, no) => Some((*t, c, yes, no)),
            _ => None,
        })?;
        let with_yes = self.subst(x, &HashMap::from([(at, yes)]));
        let with_no = self.subst(x, &HashMap::from([(at, no)]));
        let with_yes = self.given(condition, with_yes);
        let otherwise = self.not(condition);
        let with_no = self.given(otherwise, with_no);
        let (yes, no) = (compare(self, with_yes), compare(self, with_no));
        Some(self.select(condition, yes, no))
    }

    /// `x` where `condition` holds.
    fn given(&mut self, condition: Id, x: Id) -> Id {
        match self.pinned(condition) {
            Some(pin) => self.subst(x, &pin),
            None => x,
        }
    }

    /// A condition `v < 1` fixes the variable `v` at 0.
    fn pinned(&mut self, condition: Id) -> Option<HashMap<Id, Id>> {
        let Node::NonNegative(x) = *self.node(condition) else { return None };
        let (terms, constant) = self.terms(x);
        match (terms.as_slice(), constant) {
            ([(v, c)], 0.0) if *c < 0.0 && matches!(self.node(*v), Node::Var(_)) => Some(HashMap::from([(*v, self.int(0))])),
            _ => None,
        }
    }

    /// `a <= b`.
    pub fn less_equal(&mut self, a: Id, b: Id) -> Id {
        let gap = self.sub(b, a);
        self.non_negative(gap)
    }

    /// `a < b`.
    pub fn less(&mut self, a: Id, b: Id) -> Id {
        let reverse = self.less_equal(b, a);
        self.not(reverse)
    }

    /// `a = b`.
    pub fn equal(&mut self, a: Id, b: Id) -> Id {
        let gap = self.sub(a, b);
        self.zero(gap)
    }

    /// Negation.
    pub fn not(&mut self, x: Id) -> Id {
        match *self.node(x) {
            Node::Number(v) => self.truth(v.0 == 0.0),
            Node::Not(y) => y,
            Node::NonNegative(y) if self.is_integer(y) => {
                let below = self.linear(&[(y, -1.0)], -1.0);
                self.non_negative(below)
            }
            Node::Select(c, yes, no) => {
                let (yes, no) = (self.not(yes), self.not(no));
                self.select(c, yes, no)
            }
            _ => self.intern(Node::Not(x)),
        }
    }

    /// The members of a conjunction; an expression that is none is the only one.
    pub fn conjuncts(&self, x: Id) -> Vec<Id> {
        match self.node(x) {
            Node::And(parts) => parts.to_vec(),
            Node::Number(v) if v.0 != 0.0 => Vec::new(),
            _ => vec![x],
        }
    }

    /// Conjunction.
    pub fn and(&mut self, a: Id, b: Id) -> Id {
        let mut parts: Vec<Id> = self.conjuncts(a).into_iter().chain(self.conjuncts(b)).collect();
        parts.sort_unstable();
        parts.dedup();
        if parts.iter().any(|p| self.as_number(*p) == Some(0.0)) {
            return self.truth(false);
        }
        for &part in &parts {
            let negated = self.not(part);
            if parts.contains(&negated) {
                return self.truth(false);
            }
        }
        match parts.as_slice() {
            [] => self.truth(true),
            [one] => *one,
            _ => self.intern(Node::And(parts.into())),
        }
    }

    /// Disjunction.
    pub fn or(&mut self, a: Id, b: Id) -> Id {
        let (a, b) = (self.not(a), self.not(b));
        let neither = self.and(a, b);
        self.not(neither)
    }

    /// `yes` where `condition` holds, else `no`.
    pub fn select(&mut self, condition: Id, yes: Id, no: Id) -> Id {
        if let Some(v) = self.as_number(condition) {
            return if v != 0.0 { yes } else { no };
        }
        if yes == no {
            return yes;
        }
        // One polarity: the condition or its negation, whichever is older.
        let negated = self.not(condition);
        if negated < condition {
            return self.select(negated, no, yes);
        }
        let (yes, no) = (self.given(condition, yes), self.given(negated, no));
        for (case, special, general) in [(condition, yes, no), (negated, no, yes)] {
            if self.pinned(case).is_some() && self.given(case, general) == special {
                return general;
            }
        }
        // Between finite constants: no + (yes - no) * (condition ? 1 : 0), so that such selections add up.
        if let (Some(y), Some(n)) = (self.as_number(yes), self.as_number(no))
            && (y - n).is_finite()
            && (y, n) != (1.0, 0.0)
        {
            let (one, zero) = (self.int(1), self.int(0));
            let indicator = self.intern(Node::Select(condition, one, zero));
            return self.linear(&[(indicator, y - n)], n);
        }
        if yes == no { yes } else { self.intern(Node::Select(condition, yes, no)) }
    }

    /// A number as a truth value: whether it is not 0.
    pub fn as_truth(&mut self, x: Id) -> Id {
        if self.is_truth(x) {
            return x;
        }
        if let Node::Select(c, yes, no) = *self.node(x)
            && let (Some(yes), Some(no)) = (self.as_number(yes), self.as_number(no))
        {
            return match (yes != 0.0, no != 0.0) {
                (true, false) => c,
                (false, true) => self.not(c),
                (same, _) => self.truth(same),
            };
        }
        let zero = self.zero(x);
        self.not(zero)
    }

    /// A truth value as the number 1 or 0.
    pub fn indicator(&mut self, x: Id) -> Id {
        let (one, zero) = (self.int(1), self.int(0));
        self.select(x, one, zero)
    }

    /// Whether an expression is a truth value by construction.
    pub fn is_truth(&self, x: Id) -> bool {
        match self.node(x) {
            Node::NonNegative(_) | Node::Zero(_) | Node::Not(_) | Node::And(_) => true,
            Node::Load(base, _) => self.base(*base).kind() == super::Kind::Truth,
            Node::Select(_, a, b) => self.is_truth(*a) && self.is_truth(*b),
            _ => false,
        }
    }

    /// The larger of two numbers.
    pub fn max(&mut self, a: Id, b: Id) -> Id {
        if let (Some(x), Some(y)) = (self.as_number(a), self.as_number(b)) {
            return self.number(x.max(y));
        }
        let gap = self.sub(a, b);
        let back = self.scaled(gap, -1.0);
        if self.proves_non_negative(gap) {
            return a;
        }
        if self.proves_non_negative(back) {
            return b;
        }
        self.intern(Node::Max(a.min(b), a.max(b)))
    }

    /// The size of a number.
    pub fn abs(&mut self, x: Id) -> Id {
        let minus = self.scaled(x, -1.0);
        self.max(x, minus)
    }

    /// The smaller of two numbers.
    pub fn min(&mut self, a: Id, b: Id) -> Id {
        let (minus_a, minus_b) = (self.scaled(a, -1.0), self.scaled(b, -1.0));
        let max = self.max(minus_a, minus_b);
        self.scaled(max, -1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Dim;
    use super::*;

    #[test]
    fn comparisons_of_integers_have_one_form() {
        let mut a = Arena::default();
        let (tokens, past) = (a.dim(Dim::Tokens), a.dim(Dim::Past));
        let total = a.add(tokens, past);
        let (q, k) = (a.var("q", tokens), a.var("k", total));
        let at = a.add(q, past);
        let below = a.plus(at, 1.0);
        let forms = [a.less_equal(k, at), a.less(k, below), {
            let g = a.less(at, k);
            a.not(g)
        }];
        assert!(forms.iter().all(|f| *f == forms[0]));
        let always = a.less(k, total);
        assert_eq!(a.as_number(always), Some(1.0));
    }

    #[test]
    fn the_test_for_packed_sequences_is_true() {
        // positions p(s) = s; shifted: s < 1 ? -1 : s - 1; p - shifted = 1 everywhere.
        let mut a = Arena::default();
        let tokens = a.dim(Dim::Tokens);
        let s = a.var("s", tokens);
        let one = a.int(1);
        let first = a.less(s, one);
        let (minus, before) = (a.int(-1), a.plus(s, -1.0));
        let shifted = a.select(first, minus, before);
        let step = a.sub(s, shifted);
        let equal = a.equal(step, one);
        assert_eq!(a.as_number(equal), Some(1.0));
    }

    #[test]
    fn a_mask_as_numbers_comes_back_as_a_mask() {
        let mut a = Arena::default();
        let tokens = a.dim(Dim::Tokens);
        let (q, k) = (a.var("q", tokens), a.var("k", tokens));
        let mask = a.less_equal(k, q);
        let not = a.not(mask);
        let number = a.indicator(not);
        let bias = a.scaled(number, -1e9);
        let (zero, low) = (a.int(0), a.number(-1e9));
        assert_eq!(a.select(mask, zero, low), bias, "{} {}", a.show(bias), a.show(mask));
    }
}

//! Floor division of integers, as reshapes need it.

use super::{Arena, Id, Node};

impl Arena {
    /// Quotient and remainder of floor division by a positive number.
    pub fn div_mod(&mut self, x: Id, d: Id) -> (Id, Id) {
        let zero = self.int(0);
        if self.as_number(d) == Some(1.0) {
            return (x, zero);
        }
        if let (Some(x), Some(d)) = (self.as_int(x), self.as_int(d))
            && d > 0
        {
            return (self.int(x.div_euclid(d)), self.int(x.rem_euclid(d)));
        }
        // x = d * whole + rest, where `whole` takes every term that d divides.
        let (terms, constant) = self.terms(x);
        let (mut whole, mut rest) = (Vec::new(), Vec::new());
        for (term, c) in terms {
            match self.divided(term, c, d) {
                Some(part) => whole.push(part),
                None => rest.push((term, c)),
            }
        }
        let mut whole_constant = 0.0;
        let mut rest_constant = constant;
        if let Some(d) = self.as_number(d) {
            whole_constant = (constant / d).floor();
            rest_constant = constant - d * whole_constant;
        }
        let whole = self.linear(&whole, whole_constant);
        let rest = self.linear(&rest, rest_constant);
        let room = self.linear(&[(d, 1.0), (rest, -1.0)], -1.0);
        if self.proves_non_negative(rest) && self.proves_non_negative(room) {
            return (whole, rest);
        }
        let (quotient, remainder) = self.atomic_div(rest, d);
        (self.add(whole, quotient), remainder)
    }

    /// `c * term / d` as a coefficient and an expression, if that is exact.
    fn divided(&mut self, term: Id, c: f64, d: Id) -> Option<(Id, f64)> {
        if let Some(d) = self.as_number(d) {
            return ((c / d).fract() == 0.0).then_some((term, c / d));
        }
        let (k, monomial) = self.coefficient(d);
        if (c / k).fract() != 0.0 || matches!(self.node(monomial), Node::Sum(..)) {
            return None;
        }
        let mut left = self.factors(term);
        for (factor, power) in self.factors(monomial) {
            let at = left.iter().position(|(f, p)| *f == factor && p.number() >= power.number())?;
            left[at].1 = left[at].1 + super::Power::integer(-1) * power;
        }
        left.retain(|(_, p)| !p.is_zero());
        Some((self.powers(&left), c / k))
    }

    fn atomic_div(&mut self, x: Id, d: Id) -> (Id, Id) {
        // floor(floor(y / e) / d) = floor(y / (e d))
        if let Node::Div(y, e) = *self.node(x) {
            let both = self.mul(e, d);
            let quotient = self.div_mod(y, both).0;
            let back = self.mul(quotient, d);
            return (quotient, self.sub(x, back));
        }
        // mod(y, e) mod d = y mod d where d divides e
        if let Node::Mod(y, e) = *self.node(x)
            && let (Some(e), Some(k)) = (self.as_int(e), self.as_int(d))
            && k > 0
            && e % k == 0
        {
            let quotient = self.intern(Node::Div(x, d));
            return (quotient, self.div_mod(y, d).1);
        }
        (self.intern(Node::Div(x, d)), self.intern(Node::Mod(x, d)))
    }

    /// The quotient `x / d` of polynomials where it is exact.
    pub fn exact_quotient(&mut self, x: Id, d: Id) -> Option<Id> {
        let (quotient, remainder) = self.div_mod(x, d);
        (self.as_number(remainder) == Some(0.0)).then_some(quotient)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Dim;
    use super::*;

    #[test]
    fn flat_indices_come_apart_again() {
        let mut a = Arena::default();
        let (batch, tokens, heads, width) = (a.dim(Dim::Batch), a.dim(Dim::Tokens), a.int(8), a.int(16));
        let (b, s, h, d) = (a.var("b", batch), a.var("s", tokens), a.var("h", heads), a.var("d", width));
        let row = a.mul(b, tokens);
        let row = a.add(row, s);
        assert_eq!(a.div_mod(row, tokens), (b, s));
        let flat = a.mul(row, heads);
        let flat = a.add(flat, h);
        let flat = a.mul(flat, width);
        let flat = a.add(flat, d);
        let (rest, got_d) = a.div_mod(flat, width);
        assert_eq!(got_d, d);
        assert_eq!(a.div_mod(rest, heads), (row, h));
    }

    #[test]
    fn quotient_and_remainder_join() {
        let mut a = Arena::default();
        let (n, d) = (a.int(128), a.int(16));
        let f = a.var("f", n);
        let (q, r) = a.div_mod(f, d);
        assert_ne!(q, f);
        let joined = a.linear(&[(q, 16.0), (r, 1.0)], 3.0);
        let want = a.plus(f, 3.0);
        assert_eq!(joined, want);
        // Repeating kv heads: f / 16 / 4, f / 16 mod 4.
        let four = a.int(4);
        let (outer, inner) = a.div_mod(q, four);
        let back = a.linear(&[(outer, 64.0), (inner, 16.0), (r, 1.0)], 0.0);
        assert_eq!(back, f);
        let sixty_four = a.int(64);
        assert_eq!(a.div_mod(f, sixty_four).0, outer);
    }
}

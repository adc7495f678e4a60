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
        let (whole, rest) = self.long_division(x, d);
        let room = self.linear(&[(d, 1.0), (rest, -1.0)], -1.0);
        if self.proves_non_negative(rest) && self.proves_non_negative(room) {
            return (whole, rest);
        }
        let (quotient, remainder) = self.atomic_div(rest, d);
        (self.add(whole, quotient), remainder)
    }

    /// `x = d * whole + rest`, where `whole` takes every term of `x` that the first term of `d` divides.
    fn long_division(&mut self, x: Id, d: Id) -> (Id, Id) {
        let (mut whole, mut rest) = (self.int(0), x);
        if let Some(d) = self.as_number(d) {
            let (terms, constant) = self.terms(x);
            let parts: Vec<(Id, f64)> =
                terms.into_iter().filter(|(_, c)| (c / d).fract() == 0.0).map(|(t, c)| (t, c / d)).collect();
            whole = self.linear(&parts, (constant / d).floor());
            rest = self.linear(&[(x, 1.0), (whole, -d)], 0.0);
            return (whole, rest);
        }
        let (lead_terms, _) = self.terms(d);
        let Some(&lead) = lead_terms.first() else { return (whole, rest) };
        // Every round removes a term; what it brings in has fewer of the lead's factors.
        for _ in 0..64 {
            let (terms, _) = self.terms(rest);
            let Some((part, c)) = terms.into_iter().find_map(|(term, c)| self.divided(term, c, lead)) else { break };
            let part = self.scaled(part, c);
            let product = self.mul(part, d);
            whole = self.add(whole, part);
            rest = self.sub(rest, product);
        }
        (whole, rest)
    }

    /// `c * term / (k * monomial)` as an expression and a coefficient, if that is exact.
    fn divided(&mut self, term: Id, c: f64, (monomial, k): (Id, f64)) -> Option<(Id, f64)> {
        if (c / k).fract() != 0.0 {
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
    fn sums_divide() {
        let mut a = Arena::default();
        let (batch, tokens, past) = (a.dim(Dim::Batch), a.dim(Dim::Tokens), a.dim(Dim::Past));
        let total = a.add(past, tokens);
        let (b, t) = (a.var("b", batch), a.var("t", total));
        let flat = a.mul(b, total);
        let flat = a.add(flat, t);
        assert_eq!(a.div_mod(flat, total), (b, t));
        let (sixteen, eight) = (a.scaled(total, 16.0), a.scaled(batch, 8.0));
        let all = a.mul(sixteen, eight);
        assert_eq!(a.exact_quotient(all, sixteen), Some(eight));
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

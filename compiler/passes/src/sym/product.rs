//! Products and powers.

use super::{Arena, Func, Id, Node, Power};

/// Products of integer sums that would have more terms stay products.
const MOST_TERMS: usize = 256;

impl Arena {
    /// The factors of a term (an expression without coefficient).
    pub fn factors(&self, id: Id) -> Vec<(Id, Power)> {
        match self.node(id) {
            Node::Product(factors) => factors.to_vec(),
            _ => vec![(id, Power::ONE)],
        }
    }

    /// `a * b`.
    pub fn mul(&mut self, a: Id, b: Id) -> Id {
        if let Some(c) = self.as_number(a) {
            return self.scaled(b, c);
        }
        if let Some(c) = self.as_number(b) {
            return self.scaled(a, c);
        }
        if self.is_integer(a) && self.is_integer(b) && self.terms(a).0.len() * self.terms(b).0.len() <= MOST_TERMS {
            return self.expand(a, b);
        }
        let (ca, fa) = self.split(a);
        let (cb, fb) = self.split(b);
        let product = self.product(fa.into_iter().chain(fb).collect());
        self.scaled(product, ca * cb)
    }

    fn expand(&mut self, a: Id, b: Id) -> Id {
        let (ta, ca) = self.terms(a);
        let (tb, cb) = self.terms(b);
        let mut parts = Vec::with_capacity((ta.len() + 1) * (tb.len() + 1));
        for &(x, c) in &ta {
            for &(y, d) in &tb {
                let factors = self.factors(x).into_iter().chain(self.factors(y)).collect();
                parts.push((self.product(factors), c * d));
            }
            parts.push((x, c * cb));
        }
        parts.extend(tb.iter().map(|&(y, d)| (y, d * ca)));
        self.linear(&parts, ca * cb)
    }

    /// Coefficient and factors of an expression; a sum with several terms is one factor.
    fn split(&mut self, id: Id) -> (f64, Vec<(Id, Power)>) {
        let (c, rest) = self.coefficient(id);
        if matches!(self.node(rest), Node::Sum(..)) {
            let (content, monic) = self.monic(rest);
            return (c * content, vec![(monic, Power::ONE)]);
        }
        (c, self.factors(rest))
    }

    fn product(&mut self, factors: Vec<(Id, Power)>) -> Id {
        let mut all: Vec<(Id, Power)> = Vec::with_capacity(factors.len());
        for (id, power) in factors {
            match self.node(id) {
                Node::Product(inner) if power.whole().is_some() => all.extend(inner.iter().map(|(f, p)| (*f, *p * power))),
                _ => all.push((id, power)),
            }
        }
        all.sort_unstable();
        let mut merged: Vec<(Id, Power)> = Vec::with_capacity(all.len());
        for (id, power) in all {
            match merged.last_mut() {
                Some((last, total)) if *last == id => *total = *total + power,
                _ => merged.push((id, power)),
            }
        }
        merged.retain(|(_, p)| !p.is_zero());
        match merged.as_slice() {
            [] => self.int(1),
            [(id, Power::ONE)] => *id,
            _ => self.intern(Node::Product(merged.into())),
        }
    }

    /// Product of factors with powers.
    pub fn powers(&mut self, factors: &[(Id, Power)]) -> Id {
        let mut result = self.int(1);
        for &(id, power) in factors {
            let factor = self.pow(id, power);
            result = self.mul(result, factor);
        }
        result
    }

    /// `a ^ power`, for `a` where that is defined.
    pub fn pow(&mut self, a: Id, power: Power) -> Id {
        if power.is_zero() {
            return self.int(1);
        }
        if power == Power::ONE {
            return a;
        }
        if let Some(x) = self.as_number(a) {
            return self.number(x.powf(power.number()));
        }
        if let (Some(n @ 2..=4), true) = (power.natural(), self.is_integer(a) && matches!(self.node(a), Node::Sum(..))) {
            return (1..n).fold(a, |product, _| self.mul(product, a));
        }
        let (mut c, mut rest) = self.coefficient(a);
        if matches!(self.node(rest), Node::Sum(..)) {
            (c, rest) = self.monic(rest);
        }
        if c < 0.0 && power.whole().is_none() {
            (c, rest) = (1.0, a);
        }
        if power == Power::MINUS_ONE
            && let Some(y) = self.one_plus_exp(rest)
        {
            let minus = self.scaled(y, -1.0);
            let value = self.apply(Func::Sigmoid, minus);
            return self.scaled(value, 1.0 / c);
        }
        let raised: Vec<(Id, Power)> = match (self.node(rest), power.whole()) {
            (Node::Product(inner), Some(_)) => inner.iter().map(|(f, p)| (*f, *p * power)).collect(),
            (Node::Product(inner), None) if inner.len() == 1 && inner[0].1.whole().is_none() => {
                vec![(inner[0].0, inner[0].1 * power)]
            }
            _ => vec![(rest, power)],
        };
        let product = self.product(raised);
        self.scaled(product, c.powf(power.number()))
    }

    /// `y` of `1 + exp(y)`.
    fn one_plus_exp(&self, id: Id) -> Option<Id> {
        match self.terms(id) {
            (terms, 1.0) => match terms.as_slice() {
                [(term, 1.0)] => match self.node(*term) {
                    Node::Apply(Func::Exp, y) => Some(*y),
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        }
    }

    /// `a / b` of real numbers.
    pub fn quotient(&mut self, a: Id, b: Id) -> Id {
        let inverse = self.pow(b, Power::MINUS_ONE);
        self.mul(a, inverse)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Base, Kind};
    use super::*;

    fn opaque(a: &mut Arena, name: &str) -> Id {
        let base = a.add_base(Base::Opaque(name.into(), Kind::Real));
        a.load(base, &[])
    }

    #[test]
    fn spellings_of_an_inverse_root_coincide() {
        let mut a = Arena::default();
        let (x, y) = (opaque(&mut a, "x"), opaque(&mut a, "y"));
        let s = a.linear(&[(y, 0.25)], 1e-6);
        let root = a.pow(s, Power::HALF);
        let inverse = a.pow(root, Power::MINUS_ONE);
        let one = a.int(1);
        let forms = [
            a.mul(x, inverse),
            a.quotient(x, root),
            {
                let q = a.quotient(one, root);
                a.mul(q, x)
            },
            {
                let p = a.pow(s, Power::MINUS_HALF);
                a.mul(p, x)
            },
        ];
        assert!(forms.iter().all(|f| *f == forms[0]));
    }

    #[test]
    fn spellings_of_silu_coincide() {
        let mut a = Arena::default();
        let x = opaque(&mut a, "x");
        let gate = a.apply(Func::Sigmoid, x);
        let minus = a.scaled(x, -1.0);
        let exp = a.apply(Func::Exp, minus);
        let one_plus = a.plus(exp, 1.0);
        assert_eq!(a.mul(x, gate), a.quotient(x, one_plus));
    }

    #[test]
    fn coefficients_leave_sums_that_are_factors() {
        let mut a = Arena::default();
        let (x, y) = (opaque(&mut a, "x"), opaque(&mut a, "y"));
        let half_x = a.scaled(x, 0.5);
        let y1 = a.plus(y, 1.0);
        let half_y1 = a.scaled(y1, 0.5);
        assert_eq!(a.mul(half_x, y1), a.mul(x, half_y1));
    }
}

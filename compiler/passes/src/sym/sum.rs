//! Sums: coefficient times term, and a constant.

use super::{Arena, Id, Node, Number, Power};

impl Arena {
    /// The terms and the constant of an expression, as a sum.
    pub fn terms(&self, id: Id) -> (Vec<(Id, f64)>, f64) {
        match self.node(id) {
            Node::Number(x) => (Vec::new(), x.0),
            Node::Sum(terms, constant) => (terms.iter().map(|(t, c)| (*t, c.0)).collect(), constant.0),
            _ => (vec![(id, 1.0)], 0.0),
        }
    }

    /// `c * rest` of an expression whose sum has one term and no constant.
    pub fn coefficient(&self, id: Id) -> (f64, Id) {
        match self.node(id) {
            Node::Sum(terms, constant) if constant.0 == 0.0 && terms.len() == 1 => (terms[0].1.0, terms[0].0),
            _ => (1.0, id),
        }
    }

    /// Sum of coefficient times expression, plus a constant.
    pub fn linear(&mut self, parts: &[(Id, f64)], constant: f64) -> Id {
        let mut sum = constant;
        let mut all: Vec<(Id, f64)> = Vec::new();
        for &(id, factor) in parts {
            if factor == 0.0 {
                continue;
            }
            let (terms, inner) = self.terms(id);
            sum += inner * factor;
            for (term, c) in terms {
                all.push(self.scaled_term(term, c * factor));
            }
        }
        all.sort_unstable_by_key(|(id, _)| *id);
        let mut merged: Vec<(Id, f64)> = Vec::with_capacity(all.len());
        for (id, c) in all {
            match merged.last_mut() {
                Some((last, total)) if *last == id => *total += c,
                _ => merged.push((id, c)),
            }
        }
        merged.retain(|(_, c)| *c != 0.0);
        self.join_remainders(&mut merged, &mut sum);
        self.leave_remainders(&mut merged, &mut sum);
        match (merged.as_slice(), sum) {
            ([], _) => self.number(sum),
            ([(id, c)], 0.0) if *c == 1.0 => *id,
            _ => {
                let terms = merged.iter().map(|(id, c)| (*id, Number(*c))).collect();
                self.intern(Node::Sum(terms, Number(if sum == 0.0 { 0.0 } else { sum })))
            }
        }
    }

    /// A selection between infinities takes its coefficient into the branches, so that masks have one form.
    fn scaled_term(&mut self, term: Id, c: f64) -> (Id, f64) {
        if c != 1.0
            && let Node::Select(condition, yes, no) = *self.node(term)
            && let (Some(yes), Some(no)) = (self.as_number(yes), self.as_number(no))
            && (yes, no) != (1.0, 0.0)
        {
            let (yes, no) = (self.number(yes * c), self.number(no * c));
            return (self.select(condition, yes, no), 1.0);
        }
        (term, c)
    }

    /// `c * mod(x, d) + c * d * div(x, d)` is `c * x`.
    fn join_remainders(&mut self, terms: &mut Vec<(Id, f64)>, constant: &mut f64) {
        while let Some((at, other, x)) = self.find_remainder(terms) {
            let c = terms[at].1;
            let (first, second) = (at.max(other), at.min(other));
            terms.remove(first);
            terms.remove(second);
            let (more, inner) = self.terms(x);
            *constant += c * inner;
            for (id, k) in more {
                match terms.iter_mut().find(|(t, _)| *t == id) {
                    Some((_, total)) => *total += c * k,
                    None => terms.push((id, c * k)),
                }
            }
            terms.retain(|(_, c)| *c != 0.0);
            terms.sort_unstable_by_key(|(id, _)| *id);
        }
    }

    /// `c * x - c * d * div(x, d)` is `c * mod(x, d)`.
    fn leave_remainders(&self, terms: &mut Vec<(Id, f64)>, constant: &mut f64) {
        let mut at = 0;
        while let Some(&(term, k)) = terms.get(at) {
            at += 1;
            let Some((x, c, remainder)) = self.multiple_of_quotient(term, -k) else { continue };
            let (parts, inner) = self.terms(x);
            let has = |(part, by): &(Id, f64)| *part != term && terms.contains(&(*part, c * by));
            if parts.is_empty() || !parts.iter().all(has) {
                continue;
            }
            terms.retain(|(t, _)| *t != term && !parts.iter().any(|(part, _)| part == t));
            *constant -= c * inner;
            match terms.iter_mut().find(|(t, _)| *t == remainder) {
                Some((_, total)) => *total += c,
                None => terms.push((remainder, c)),
            }
            terms.retain(|(_, c)| *c != 0.0);
            terms.sort_unstable_by_key(|(id, _)| *id);
            at = 0;
        }
    }

    /// `x`, `c` and `mod(x, d)` of `k * term`, which is `c * d * div(x, d)`.
    fn multiple_of_quotient(&self, term: Id, k: f64) -> Option<(Id, f64, Id)> {
        let factors = self.factors(term);
        factors.iter().enumerate().find_map(|(at, (factor, power))| {
            let Node::Div(x, d) = *self.node(*factor) else { return None };
            let remainder = *self.ids.get(&Node::Mod(x, d))?;
            let (by, divisor) = match self.as_number(d) {
                Some(d) => (d, Vec::new()),
                None => match self.coefficient(d) {
                    (by, rest) if !matches!(self.node(rest), Node::Sum(..)) => (by, self.factors(rest)),
                    _ => return None,
                },
            };
            let others = factors.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, f)| *f);
            (*power == Power::ONE && others.eq(divisor)).then_some((x, k / by, remainder))
        })
    }

    fn find_remainder(&mut self, terms: &[(Id, f64)]) -> Option<(usize, usize, Id)> {
        for (at, &(id, c)) in terms.iter().enumerate() {
            let Node::Mod(x, d) = *self.node(id) else { continue };
            let quotient = self.ids.get(&Node::Div(x, d)).copied();
            let Some(quotient) = quotient else { continue };
            let (term, k) = match self.as_number(d) {
                Some(d) => (quotient, c * d),
                None => (self.mul(quotient, d), c),
            };
            if let Some(other) = terms.iter().position(|&(t, total)| t == term && total == k) {
                return Some((at, other, x));
            }
        }
        None
    }

    /// `a + b`.
    pub fn add(&mut self, a: Id, b: Id) -> Id {
        self.linear(&[(a, 1.0), (b, 1.0)], 0.0)
    }

    /// `a - b`.
    pub fn sub(&mut self, a: Id, b: Id) -> Id {
        self.linear(&[(a, 1.0), (b, -1.0)], 0.0)
    }

    /// `a + constant`.
    pub fn plus(&mut self, a: Id, constant: f64) -> Id {
        self.linear(&[(a, 1.0)], constant)
    }

    /// `factor * a`.
    pub fn scaled(&mut self, a: Id, factor: f64) -> Id {
        self.linear(&[(a, factor)], 0.0)
    }

    /// `content * monic`, where the first term of `monic` has coefficient 1.
    pub fn monic(&mut self, id: Id) -> (f64, Id) {
        let (terms, constant) = self.terms(id);
        match terms.first() {
            Some(&(_, lead)) if lead != 1.0 => {
                let terms: Vec<(Id, f64)> = terms.iter().map(|(t, c)| (*t, c / lead)).collect();
                (lead, self.linear(&terms, constant / lead))
            }
            _ => (1.0, id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Arena, Dim};

    #[test]
    fn what_a_division_leaves_has_one_form() {
        let mut a = Arena::default();
        let (batch, tokens, eight) = (a.dim(Dim::Batch), a.dim(Dim::Tokens), a.int(8));
        let rows = a.mul(batch, tokens);
        for divisor in [tokens, eight] {
            let row = a.var("row", rows);
            for x in [row, a.linear(&[(row, 3.0)], 1.0)] {
                let (quotient, remainder) = a.div_mod(x, divisor);
                let whole = a.mul(quotient, divisor);
                assert_eq!(a.sub(x, whole), remainder);
                let more = a.linear(&[(x, 2.0), (whole, -2.0), (tokens, 1.0)], 5.0);
                assert_eq!(more, a.linear(&[(remainder, 2.0), (tokens, 1.0)], 5.0));
                assert_eq!(a.add(whole, remainder), x);
                // Twice the quotient is not taken off once.
                let other = a.linear(&[(x, 1.0), (whole, -2.0)], 0.0);
                assert_eq!(a.add(other, whole), remainder);
            }
        }
    }
}

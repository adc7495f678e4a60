//! Whose inputs calibration has seen: those of one layer, or of experts whose weights lie one below the other.
//!
//! An expert sees only the tokens that are routed to it, and a text may route few or none. `H` of fewer tokens than columns has directions of
//! which it says nothing, and rounding would throw its errors there. Such an expert is rounded as if it had seen as many further tokens as it
//! lacks, each an average one of all that the experts together read: the fewer its own, the more it is rounded like its layer.

use crate::aim::Observed;
use crate::hessian::Hessian;

/// What calibration knows of the inputs of a parameter's rows.
pub enum Inputs<'a> {
    /// All rows have the same input.
    Layer(Observed<'a>),
    /// As many rows for each expert as for any other.
    Experts {
        /// Experts; divides the rows.
        count: u64,
        /// Of what the experts together read.
        all: &'a Hessian,
        /// Of what one expert read.
        of: &'a dyn Fn(u64) -> Hessian,
    },
}

/// An expert that the text hardly reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Thin {
    /// Its number.
    pub expert: u64,
    /// Tokens that were routed to it.
    pub tokens: u64,
    /// Average tokens of the layer that it was lent.
    pub lent: u64,
}

/// `own` with as many average tokens of `all` as it has fewer tokens than columns, and how many that are.
pub(crate) fn filled(mut own: Hessian, all: &Hessian) -> (Hessian, u64) {
    let lacks = (own.cols() as u64).saturating_sub(own.tokens());
    if lacks > 0 && all.tokens() > 0 {
        own.add_share(all, lacks as f64 / all.tokens() as f64);
    }
    (own, lacks)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One column: sums of squares are the whole of `H`.
    #[test]
    fn who_has_seen_too_little_is_lent_average_tokens() {
        let mut all = Hessian::new(3);
        all.add(&[1.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 4.0, 3.0, 0.0, 0.0]);
        let mut own = Hessian::new(3);
        own.add(&[0.0, 0.0, 4.0]);
        let (found, lent) = filled(own, &all);
        assert_eq!((lent, found.tokens()), (2, 1));
        // Two of four tokens: half of the sums 10, 4 and 16.
        assert_eq!([0, 1, 2].map(|k| found.at(k, k)), [5.0, 2.0, 24.0]);
        let (same, none) = filled(all.clone(), &all);
        assert_eq!((same, none), (all.clone(), 0));
        let (average, lent) = filled(Hessian::new(3), &all);
        assert_eq!((average.at(0, 0), lent), (7.5, 3));
    }
}

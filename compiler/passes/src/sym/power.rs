//! Exponents: exact fractions.

use std::fmt;
use std::ops::{Add, Mul};

/// A fraction in lowest terms, denominator positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Power {
    numerator: i32,
    denominator: i32,
}

impl Power {
    /// 1.
    pub const ONE: Self = Self { numerator: 1, denominator: 1 };
    /// -1.
    pub const MINUS_ONE: Self = Self { numerator: -1, denominator: 1 };
    /// 1/2.
    pub const HALF: Self = Self { numerator: 1, denominator: 2 };
    /// -1/2.
    pub const MINUS_HALF: Self = Self { numerator: -1, denominator: 2 };

    /// An integer exponent.
    pub fn integer(n: i32) -> Self {
        Self { numerator: n, denominator: 1 }
    }

    /// The fraction with denominator at most 12 that a number is, if it is one and small.
    pub fn from_number(x: f64) -> Option<Self> {
        (1..=12).find_map(|d| {
            let n = x * f64::from(d);
            (n.fract() == 0.0 && n.abs() <= 64.0).then_some(Self { numerator: n as i32, denominator: d })
        })
    }

    /// Whether it is 0.
    pub fn is_zero(self) -> bool {
        self.numerator == 0
    }

    /// The exponent as a whole number.
    pub fn whole(self) -> Option<i32> {
        (self.denominator == 1).then_some(self.numerator)
    }

    /// The exponent as a whole number above 0.
    pub fn natural(self) -> Option<u32> {
        self.whole().filter(|n| *n > 0).map(|n| n as u32)
    }

    /// Half of it.
    pub fn half(self) -> Self {
        Self::reduced(i64::from(self.numerator), i64::from(self.denominator) * 2)
    }

    /// As a number.
    pub fn number(self) -> f64 {
        f64::from(self.numerator) / f64::from(self.denominator)
    }

    fn reduced(numerator: i64, denominator: i64) -> Self {
        fn gcd(a: i64, b: i64) -> i64 {
            if b == 0 { a } else { gcd(b, a % b) }
        }
        let g = gcd(numerator.abs(), denominator).max(1);
        let clamp = |x: i64| x.clamp(i32::MIN.into(), i32::MAX.into()) as i32;
        Self { numerator: clamp(numerator / g), denominator: clamp(denominator / g) }
    }
}

impl Add for Power {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        let (a, b) = (i64::from(self.numerator), i64::from(self.denominator));
        let (c, d) = (i64::from(other.numerator), i64::from(other.denominator));
        Self::reduced(a * d + c * b, b * d)
    }
}

impl Mul for Power {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        Self::reduced(
            i64::from(self.numerator) * i64::from(other.numerator),
            i64::from(self.denominator) * i64::from(other.denominator),
        )
    }
}

impl fmt::Display for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.denominator {
            1 => write!(f, "{}", self.numerator),
            d => write!(f, "({}/{d})", self.numerator),
        }
    }
}

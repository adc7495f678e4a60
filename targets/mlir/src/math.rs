//! Elementary functions on scalars and vectors, without a mathematics library.
//!
//! Every function takes a value of any lane count. Accuracy is stated per function in units in the last place (ulp) and holds with and
//! without fused multiplication. NaN goes in and comes out. Polynomials are Taylor's where the reduced argument is small
//! enough for them, so that their coefficients need no source.

use crate::builder::Val;
use crate::types::{Elem, F32, F64, I16, I32, I64, Ty};

/// What differs between the two formats in the range reduction of [`exp`].
struct ExpFormat {
    /// 1.5 * 2^p for p explicit fraction bits: adding it rounds to an integer, which is then in the low bits.
    round: f64,
    /// ln 2 rounded to so few bits that its product with every exponent is exact.
    ln2_high: f64,
    /// The rest of ln 2.
    ln2_low: f64,
    /// Degree at which Taylor's remainder for |r| <= ln(2)/2 falls below a tenth of an ulp.
    degree: u32,
    /// Arguments below give 0, above give infinity.
    range: (f64, f64),
    int: Ty,
    fraction_bits: i64,
    exponent_bias: i64,
}

const EXP_F32: ExpFormat = ExpFormat {
    round: 12_582_912.0,
    ln2_high: 0.693115234375,
    ln2_low: 3.1946184945309415e-5,
    degree: 7,
    range: (-105.0, 90.0),
    int: I32,
    fraction_bits: 23,
    exponent_bias: 127,
};

const EXP_F64: ExpFormat = ExpFormat {
    round: 6_755_399_441_055_744.0,
    ln2_high: 0.6931471803691238,
    ln2_low: 1.9082149292705877e-10,
    degree: 13,
    range: (-750.0, 711.0),
    int: I64,
    fraction_bits: 52,
    exponent_bias: 1023,
};

impl ExpFormat {
    fn of(x: Val<'_>) -> &'static ExpFormat {
        match x.ty().elem {
            Elem::F32 => &EXP_F32,
            Elem::F64 => &EXP_F64,
            other => panic!("exp of {other}"),
        }
    }

    /// `(e^r - 1, n)` with x = n ln 2 + r, |r| <= ln(2)/2, and integer n.
    fn reduce<'k>(&self, x: Val<'k>) -> (Val<'k>, Val<'k>) {
        let b = x.builder();
        let int = x.ty().with_elem(self.int.elem);
        let shifted = x.mul_add(std::f64::consts::LOG2_E, self.round);
        let n = shifted - self.round;
        let r = n.mul_add(-self.ln2_low, n.mul_add(-self.ln2_high, x));
        // e^r - 1 = r + r^2 (1/2! + r/3! + r^2/4! + ...)
        let factorial = |k: u32| (1..=k).map(f64::from).product::<f64>();
        let tail = polynomial(r, (2..=self.degree).map(|k| 1.0 / factorial(k)));
        let power = shifted.bitcast(int) - b.constant(x.ty(), self.round).bitcast(int);
        ((r * r).mul_add(tail, r), power)
    }

    /// 2^k for integers k that are exponents of normal numbers.
    fn power<'k>(&self, k: Val<'k>, ty: Ty) -> Val<'k> {
        ((k + self.exponent_bias) << self.fraction_bits).bitcast(ty)
    }
}

/// `c0 + c1 x + c2 x^2 + ...` by Horner's rule.
pub fn polynomial<'k>(x: Val<'k>, coefficients: impl DoubleEndedIterator<Item = f64>) -> Val<'k> {
    let mut from_highest = coefficients.rev();
    let highest = from_highest.next().expect("a polynomial has a coefficient");
    let start = x.builder().constant(x.ty(), highest);
    from_highest.fold(start, |sum, coefficient| sum.mul_add(x, coefficient))
}

/// e^x for f32 and f64, within 2 ulp, subnormal results included; overflow gives infinity.
pub fn exp<'k>(x: Val<'k>) -> Val<'k> {
    let format = ExpFormat::of(x);
    let (low, high) = format.range;
    let (fraction, n) = format.reduce(x.max(low).min(high));
    // Two factors, because 2^n alone may be subnormal or infinite where the product is not.
    let half = n.shr_s(1);
    (fraction + 1.0) * format.power(half, x.ty()) * format.power(n - half, x.ty())
}

/// tanh x for f32 and f64, within 4 ulp.
pub fn tanh<'k>(x: Val<'k>) -> Val<'k> {
    let format = ExpFormat::of(x);
    // From 20 on, tanh is 1 in both formats.
    let (fraction, n) = format.reduce(x.abs().min(20.0) * 2.0);
    let power = format.power(n, x.ty());
    let grown = fraction.mul_add(power, power - 1.0);
    (grown / (grown + 2.0)).copysign(x)
}

/// 1 / (1 + e^-x) for f32 and f64, within 4 ulp.
pub fn sigmoid<'k>(x: Val<'k>) -> Val<'k> {
    let small = exp(-x.abs());
    let b = x.builder();
    x.lt(0.0).select(small, b.constant(x.ty(), 1.0)) / (small + 1.0)
}

/// x sigmoid(x), within 5 ulp for x > -87; below, the result is under 2e-36 and its absolute error under 2e-43.
pub fn silu<'k>(x: Val<'k>) -> Val<'k> {
    x * sigmoid(x)
}

/// GELU in its tanh form, 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), computed as x sigmoid of twice
/// that argument. Within 40 ulp for |x| < 5: in the left tail the rounding of the argument is what counts.
pub fn gelu_tanh<'k>(x: Val<'k>) -> Val<'k> {
    let double = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
    x * sigmoid(x * (x * x).mul_add(0.044715 * double, double))
}

/// e^(x^2) erfc(x) / t as a polynomial in t = 1/(1 + x/2), interpolated at 11 Chebyshev nodes over 0 <= x <= 10.1;
/// relative error 5.1e-9.
const ERFC: [f64; 11] = [
    0.282086179,
    0.2823108027,
    0.2445541697,
    0.1893762368,
    0.04053223214,
    0.0711450059,
    -0.08132560307,
    -0.2244871393,
    0.3361779141,
    -0.1729953521,
    0.03262555607,
];

/// GELU in its exact form, x Phi(x) with the normal distribution function Phi, for f32. The relative error is below
/// 1e-6 + x^2 2^-24: in the left tail the rounding of x^2 is what counts.
pub fn gelu<'k>(x: Val<'k>) -> Val<'k> {
    assert_eq!(x.ty().elem, Elem::F32, "the polynomial is one for single precision");
    let b = x.builder();
    let t = b.constant(x.ty(), 1.0) / x.abs().mul_add(std::f64::consts::FRAC_1_SQRT_2 / 2.0, 1.0);
    let upper = polynomial(t, ERFC.into_iter()) * t * exp(x * x * -0.5) * 0.5;
    x * x.lt(0.0).select(upper, b.constant(x.ty(), 1.0) - upper)
}

/// pi/2 in three parts, the first two of 29 bits, so that their products with any k below 2^24 are exact.
const HALF_PI: [f64; 3] = [1.570796325802803, 9.920935774287987e-10, 2.2517417741562176e-18];

/// Sine and cosine of an f32 angle in radians, within 2 ulp for |x| up to 2.6e7: the reduction is done in f64.
pub fn sin_cos<'k>(x: Val<'k>) -> (Val<'k>, Val<'k>) {
    assert_eq!(x.ty().elem, Elem::F32, "sin_cos of {}", x.ty());
    let shifted = x.to(F64).mul_add(std::f64::consts::FRAC_2_PI, EXP_F64.round);
    let k = shifted - EXP_F64.round;
    let r = HALF_PI.iter().fold(x.to(F64), |rest, &part| k.mul_add(-part, rest));
    let squared = r * r;
    let series = |first: u32| {
        let factorial = |n: u32| (1..=n).map(f64::from).product::<f64>();
        polynomial(squared, (0..7).map(move |j: u32| f64::from(1 - 2 * (j as i32 % 2)) / factorial(2 * j + first)))
    };
    let (sine, cosine) = (series(1) * r, series(0));
    let quadrant = shifted.bitcast(x.ty().with_elem(Elem::I64));
    let swapped = (quadrant & 1).ne(0);
    let signed = |value: Val<'k>, negative: Val<'k>| negative.select(-value, value).to(F32);
    (
        signed(swapped.select(cosine, sine), (quadrant & 2).ne(0)),
        signed(swapped.select(sine, cosine), ((quadrant + 1) & 2).ne(0)),
    )
}

/// The f32 value of IEEE binary16 bits (i16), exact, subnormals and NaN included: for processors without the conversion.
pub fn f16_bits_to_f32<'k>(bits: Val<'k>) -> Val<'k> {
    assert_eq!(bits.ty().elem, I16.elem, "binary16 bits in {}", bits.ty());
    let (int, float) = (bits.ty().with_elem(I32.elem), bits.ty().with_elem(F32.elem));
    let wide = bits.to_u(I32);
    let magnitude = wide & 0x7fff;
    // Moving the fields up leaves the exponent 112 too small; a multiplication corrects that for subnormals too.
    let finite = (magnitude << 13).bitcast(float) * 2f64.powi(112);
    let special = ((magnitude << 13) | 0x7f80_0000).bitcast(float);
    let value = magnitude.ge(0x7c00).select(special, finite).bitcast(int);
    (value | ((wide & 0x8000) << 16)).bitcast(float)
}

/// The IEEE binary16 bits (i16) nearest to an f32 value, of two the even ones, subnormals included; overflow gives infinity: for processors
/// without the conversion.
pub fn f32_to_f16_bits(x: Val<'_>) -> Val<'_> {
    let int = x.ty().with_elem(I32.elem);
    assert_eq!(x.ty().elem, F32.elem, "binary16 of {}", x.ty());
    let bits = x.bitcast(int);
    let magnitude = bits & 0x7fff_ffff;
    // The exponent's bias is smaller by 112. Half a unit less a bit carries upwards exactly from more than a half, the bit that is last
    // afterwards from a half too.
    let last = magnitude.shr_u(13) & 1;
    let normal = (magnitude + (0xfff - (112 << 23)) + last).shr_u(13).min(0x7c00);
    // Between 1/2 and 1 the numbers of single precision are as far apart as the subnormals here: the addition rounds.
    let half = x.builder().constant(x.ty(), 0.5);
    let subnormal = (x.abs() + half).bitcast(int) - half.bitcast(int);
    let finite = magnitude.lt(113 << 23).select(subnormal, normal);
    let nearest = magnitude.gt(0x7f80_0000).select(finite.builder().constant(int, 0x7e00i64), finite);
    (nearest | (bits.shr_u(16) & 0x8000)).to(I16)
}

//! The ops of a vector ALU. A lane's value is a word of 32 bits, read as an integer in two's complement or as an IEEE single.
//!
//! Floating-point results are rounded once, to nearest, ties to even; subnormals are kept. Which NaN comes out is not defined. The functions
//! (`exp`, `rsqrt`, `tanh`) are the exact value so rounded, up to the error of a double-precision evaluation. Integers wrap.

/// One op: name, number of operands, meaning.
macro_rules! ops {
    ($($(#[doc = $doc:literal])* $Name:ident = $name:literal / $arity:literal: $f:expr;)*) => {
        /// An op.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum AluOp { $($(#[doc = $doc])* $Name),* }

        impl AluOp {
            /// All of them.
            pub const ALL: &[AluOp] = &[$(AluOp::$Name),*];

            /// The word for it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$Name => $name),* }
            }

            /// Operands: 1 or 2. The second of a unary op is ignored.
            pub fn arity(self) -> usize {
                match self { $(Self::$Name => $arity),* }
            }

            /// `out[i] = op(a[i], b[i])`.
            pub fn apply(self, a: &[u32], b: &[u32], out: &mut [u32]) {
                match self { $(Self::$Name => {
                    let f: fn(u32, u32) -> u32 = $f;
                    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                        *out = f(*a, *b);
                    }
                })* }
            }
        }
    };
}

fn float(bits: u32) -> f32 {
    f32::from_bits(bits)
}

ops! {
    /// `a`.
    Pass = "pass" / 1: |a, _| a;
    /// `a + b`, floats.
    AddF = "addf" / 2: |a, b| (float(a) + float(b)).to_bits();
    /// `a - b`, floats.
    SubF = "subf" / 2: |a, b| (float(a) - float(b)).to_bits();
    /// `a * b`, floats.
    MulF = "mulf" / 2: |a, b| (float(a) * float(b)).to_bits();
    /// The larger one, floats; NaN is passed over.
    MaxF = "maxf" / 2: |a, b| float(a).max(float(b)).to_bits();
    /// The smaller one, floats; NaN is passed over.
    MinF = "minf" / 2: |a, b| float(a).min(float(b)).to_bits();
    /// `a + b`, integers.
    AddI = "addi" / 2: |a, b| a.wrapping_add(b);
    /// `a - b`, integers.
    SubI = "subi" / 2: |a, b| a.wrapping_sub(b);
    /// Bitwise and.
    And = "and" / 2: |a, b| a & b;
    /// `a` where `b` has zeros.
    AndNot = "andnot" / 2: |a, b| a & !b;
    /// Bitwise or.
    Or = "or" / 2: |a, b| a | b;
    /// Bitwise exclusive or.
    Xor = "xor" / 2: |a, b| a ^ b;
    /// `a` shifted left by `b` modulo 32.
    Shl = "shl" / 2: |a, b| a.wrapping_shl(b);
    /// `a` shifted right by `b` modulo 32, the sign coming in.
    Sar = "sar" / 2: |a, b| (a as i32).wrapping_shr(b) as u32;
    /// The float nearest to an integer.
    ToFloat = "tofloat" / 1: |a, _| (a as i32 as f32).to_bits();
    /// The integer nearest to a float, ties to even; the nearest there is where it is out of range, 0 for NaN.
    ToInt = "toint" / 1: |a, _| float(a).round_ties_even() as i32 as u32;
    /// `exp(a)`.
    Exp = "exp" / 1: |a, _| (f64::from(float(a)).exp() as f32).to_bits();
    /// `1 / sqrt(a)`.
    Rsqrt = "rsqrt" / 1: |a, _| ((1.0 / f64::from(float(a)).sqrt()) as f32).to_bits();
    /// Hyperbolic tangent.
    Tanh = "tanh" / 1: |a, _| (f64::from(float(a)).tanh() as f32).to_bits();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(op: AluOp, a: u32, b: u32) -> u32 {
        let mut out = [0];
        op.apply(&[a], &[b], &mut out);
        out[0]
    }

    #[test]
    fn ops_mean_what_they_say() {
        let f = f32::to_bits;
        assert_eq!(one(AluOp::SubF, f(1.5), f(2.0)), f(-0.5));
        assert_eq!(one(AluOp::MaxF, f(f32::NAN), f(-2.0)), f(-2.0));
        assert_eq!(one(AluOp::AndNot, 0b1100, 0b0101), 0b1000);
        assert_eq!(one(AluOp::Sar, -8i32 as u32, 3), -1i32 as u32);
        assert_eq!([2.5f32, 3.5, -2.5, 1e20, f32::NAN].map(|x| one(AluOp::ToInt, f(x), 0) as i32), [2, 4, -2, i32::MAX, 0]);
        assert_eq!(one(AluOp::Rsqrt, f(4.0), 0), f(0.5));
        assert_eq!(one(AluOp::Rsqrt, f(0.0), 0), f(f32::INFINITY));
        assert_eq!(one(AluOp::ToFloat, 16_777_217, 0), f(16_777_216.0));
    }
}

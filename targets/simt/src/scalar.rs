//! Arithmetic on one lane: tables from LLVM's names to functions on bits.
//!
//! A component is its bits in a `u64`, the rest zero. `w` is the width of an integer, or for conversions the source's width and, 8 bits
//! further up, the target's.

use crate::ir::Scalar;
use half::{bf16, f16};
use std::cmp::Ordering::{Equal, Greater, Less};

/// A function of one to three components.
#[derive(Clone, Copy)]
pub(crate) enum Function {
    /// Of one.
    One(fn(u64, u32) -> u64),
    /// Of two.
    Two(fn(u64, u64, u32) -> u64),
    /// Of three.
    Three(fn(u64, u64, u64, u32) -> u64),
}

use Function::{One, Three, Two};

fn mask(value: u64, w: u32) -> u64 {
    value & (u64::MAX >> (64 - w))
}

fn signed(value: u64, w: u32) -> i64 {
    ((value << (64 - w)) as i64) >> (64 - w)
}

fn single(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

fn double(bits: u64) -> f64 {
    f64::from_bits(bits)
}

fn half(bits: u64) -> f32 {
    f16::from_bits(bits as u16).to_f32()
}

fn brain(bits: u64) -> f32 {
    bf16::from_bits(bits as u16).to_f32()
}

fn of_single(value: f32) -> u64 {
    value.to_bits().into()
}

fn of_double(value: f64) -> u64 {
    value.to_bits()
}

/// Sums, differences, products and quotients of halves are rounded correctly when they are taken in f32 first.
fn of_half(value: f32) -> u64 {
    f16::from_f32(value).to_bits().into()
}

fn of_brain(value: f32) -> u64 {
    bf16::from_f32(value).to_bits().into()
}

/// The same formula on floats of every format.
macro_rules! floats {
    ($scalar:expr, |$($arg:ident),+| $formula:expr, $kind:ident) => {
        match $scalar {
            Scalar::Float => Some($kind(|$($arg),+, _| { $(let $arg = single($arg);)+ of_single($formula) })),
            Scalar::Double => Some($kind(|$($arg),+, _| { $(let $arg = double($arg);)+ of_double($formula) })),
            Scalar::Half => Some($kind(|$($arg),+, _| { $(let $arg = half($arg);)+ of_half($formula) })),
            Scalar::Bfloat => Some($kind(|$($arg),+, _| { $(let $arg = brain($arg);)+ of_brain($formula) })),
            Scalar::Int(_) | Scalar::Ptr(_) => None,
        }
    };
}

/// A set of outcomes of comparing floats of every format; what cannot be compared is `None`.
macro_rules! orders {
    ($scalar:expr, $($outcome:expr),+) => {
        match $scalar {
            Scalar::Float => Some(Two(|a, b, _| [$($outcome),+].contains(&single(a).partial_cmp(&single(b))).into())),
            Scalar::Double => Some(Two(|a, b, _| [$($outcome),+].contains(&double(a).partial_cmp(&double(b))).into())),
            Scalar::Half => Some(Two(|a, b, _| [$($outcome),+].contains(&half(a).partial_cmp(&half(b))).into())),
            Scalar::Bfloat => Some(Two(|a, b, _| [$($outcome),+].contains(&brain(a).partial_cmp(&brain(b))).into())),
            Scalar::Int(_) | Scalar::Ptr(_) => None,
        }
    };
}

/// A binary instruction. Shifts by the width or more give what is left of the value: nothing, or its sign.
pub(crate) fn binary(name: &str, scalar: Scalar) -> Option<Function> {
    Some(Two(match name {
        "add" => |a, b, w| mask(a.wrapping_add(b), w),
        "sub" => |a, b, w| mask(a.wrapping_sub(b), w),
        "mul" => |a, b, w| mask(a.wrapping_mul(b), w),
        "udiv" => |a, b, _| a.checked_div(b).unwrap_or(0),
        "urem" => |a, b, _| a.checked_rem(b).unwrap_or(0),
        "sdiv" => |a, b, w| mask(signed(a, w).checked_div(signed(b, w)).unwrap_or(0) as u64, w),
        "srem" => |a, b, w| mask(signed(a, w).checked_rem(signed(b, w)).unwrap_or(0) as u64, w),
        "shl" => |a, b, w| mask(a.checked_shl(b.min(64) as u32).unwrap_or(0), w),
        "lshr" => |a, b, _| a.checked_shr(b.min(64) as u32).unwrap_or(0),
        "ashr" => |a, b, w| mask((signed(a, w) >> b.min(63)) as u64, w),
        "and" => |a, b, _| a & b,
        "or" => |a, b, _| a | b,
        "xor" => |a, b, _| a ^ b,
        "fadd" => return floats!(scalar, |a, b| a + b, Two),
        "fsub" => return floats!(scalar, |a, b| a - b, Two),
        "fmul" => return floats!(scalar, |a, b| a * b, Two),
        "fdiv" => return floats!(scalar, |a, b| a / b, Two),
        _ => return None,
    }))
}

/// Whether an instruction divides integers.
pub(crate) fn divides(name: &str) -> bool {
    ["udiv", "urem", "sdiv", "srem"].contains(&name)
}

/// A comparison, `i` or `f` before its predicate.
pub(crate) fn compare(name: &str, scalar: Scalar) -> Option<Function> {
    Some(Two(match name {
        "ieq" => |a, b, _| (a == b).into(),
        "ine" => |a, b, _| (a != b).into(),
        "iugt" => |a, b, _| (a > b).into(),
        "iuge" => |a, b, _| (a >= b).into(),
        "iult" => |a, b, _| (a < b).into(),
        "iule" => |a, b, _| (a <= b).into(),
        "isgt" => |a, b, w| (signed(a, w) > signed(b, w)).into(),
        "isge" => |a, b, w| (signed(a, w) >= signed(b, w)).into(),
        "islt" => |a, b, w| (signed(a, w) < signed(b, w)).into(),
        "isle" => |a, b, w| (signed(a, w) <= signed(b, w)).into(),
        "foeq" => return orders!(scalar, Some(Equal)),
        "fogt" => return orders!(scalar, Some(Greater)),
        "foge" => return orders!(scalar, Some(Greater), Some(Equal)),
        "folt" => return orders!(scalar, Some(Less)),
        "fole" => return orders!(scalar, Some(Less), Some(Equal)),
        "fone" => return orders!(scalar, Some(Less), Some(Greater)),
        "ford" => return orders!(scalar, Some(Less), Some(Equal), Some(Greater)),
        "funo" => return orders!(scalar, None),
        "fueq" => return orders!(scalar, None, Some(Equal)),
        "fugt" => return orders!(scalar, None, Some(Greater)),
        "fuge" => return orders!(scalar, None, Some(Greater), Some(Equal)),
        "fult" => return orders!(scalar, None, Some(Less)),
        "fule" => return orders!(scalar, None, Some(Less), Some(Equal)),
        "fune" => return orders!(scalar, None, Some(Less), Some(Greater)),
        _ => return None,
    }))
}

/// A sign change.
pub(crate) fn negate(scalar: Scalar) -> Option<Function> {
    floats!(scalar, |a| -a, One)
}

/// A conversion of one component; bit patterns are not taken apart here.
pub(crate) fn cast(name: &str, from: Scalar, to: Scalar) -> Option<Function> {
    use Scalar::{Bfloat, Double, Float, Half, Int};
    Some(One(match (name, from, to) {
        ("zext" | "bitcast" | "ptrtoint" | "inttoptr" | "addrspacecast", ..) => |a, _| a,
        ("trunc", ..) => |a, w| mask(a, w >> 8),
        ("sext", ..) => |a, w| mask(signed(a, w & 255) as u64, w >> 8),
        ("fpext", Half, Float) => |a, _| of_single(half(a)),
        ("fpext", Bfloat, Float) => |a, _| of_single(brain(a)),
        ("fpext", Float, Double) => |a, _| of_double(single(a).into()),
        ("fpext", Half, Double) => |a, _| of_double(half(a).into()),
        ("fptrunc", Float, Half) => |a, _| of_half(single(a)),
        ("fptrunc", Float, Bfloat) => |a, _| of_brain(single(a)),
        ("fptrunc", Double, Float) => |a, _| of_single(double(a) as f32),
        ("fptosi", Float, Int(_)) => |a, w| mask(single(a) as i64 as u64, w >> 8),
        ("fptoui", Float, Int(_)) => |a, w| mask(single(a) as u64, w >> 8),
        ("fptosi", Double, Int(_)) => |a, w| mask(double(a) as i64 as u64, w >> 8),
        ("fptoui", Double, Int(_)) => |a, w| mask(double(a) as u64, w >> 8),
        ("sitofp", Int(_), Float) => |a, w| of_single(signed(a, w & 255) as f32),
        ("uitofp", Int(_), Float) => |a, _| of_single(a as f32),
        ("sitofp", Int(_), Double) => |a, w| of_double(signed(a, w & 255) as f64),
        ("uitofp", Int(_), Double) => |a, _| of_double(a as f64),
        ("sitofp", Int(_), Half) => |a, w| of_half(signed(a, w & 255) as f32),
        ("uitofp", Int(_), Half) => |a, _| of_half(a as f32),
        _ => return None,
    }))
}

/// An intrinsic that treats lanes and components one by one, by the part of its name before the types.
pub(crate) fn intrinsic(name: &str, scalar: Scalar) -> Option<Function> {
    Some(match name {
        "llvm.fma" | "llvm.fmuladd" => match scalar {
            Scalar::Float => Three(|a, b, c, _| of_single(single(a).mul_add(single(b), single(c)))),
            Scalar::Double => Three(|a, b, c, _| of_double(double(a).mul_add(double(b), double(c)))),
            // The product is exact in f64, and the sum as good as exact for f16.
            Scalar::Half => Three(|a, b, c, _| {
                let sum = f64::from(half(a)) * f64::from(half(b)) + f64::from(half(c));
                f16::from_f64(sum).to_bits().into()
            }),
            _ => return None,
        },
        "llvm.sqrt" => return floats!(scalar, |a| a.sqrt(), One),
        "llvm.fabs" => return floats!(scalar, |a| a.abs(), One),
        "llvm.copysign" => return floats!(scalar, |a, b| a.copysign(b), Two),
        "llvm.maxnum" => return floats!(scalar, |a, b| a.max(b), Two),
        "llvm.minnum" => return floats!(scalar, |a, b| a.min(b), Two),
        "llvm.umin" => Two(|a, b, _| a.min(b)),
        "llvm.umax" => Two(|a, b, _| a.max(b)),
        "llvm.smin" => Two(|a, b, w| if signed(a, w) < signed(b, w) { a } else { b }),
        "llvm.smax" => Two(|a, b, w| if signed(a, w) > signed(b, w) { a } else { b }),
        "llvm.usub.sat" => Two(|a, b, _| a.saturating_sub(b)),
        "llvm.abs" => One(|a, w| mask(signed(a, w).unsigned_abs(), w)),
        "llvm.fshr" => Three(|high, low, shift, w| {
            let both = (u128::from(high) << w) | u128::from(low);
            mask((both >> (shift % u64::from(w))) as u64, w)
        }),
        "llvm.fshl" => Three(|high, low, shift, w| {
            let both = (u128::from(high) << w) | u128::from(low);
            mask((both >> (u64::from(w) - shift % u64::from(w))) as u64, w)
        }),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two(f: Option<Function>, a: u64, b: u64, w: u32) -> u64 {
        let Some(Two(f)) = f else { panic!("no function of two") };
        f(a, b, w)
    }

    #[test]
    fn integers_wrap_and_know_their_sign() {
        let int = Scalar::Int(8);
        assert_eq!(two(binary("add", int), 200, 100, 8), 44);
        assert_eq!(two(binary("ashr", int), 0x80, 9, 8), 0xff);
        assert_eq!(two(binary("shl", int), 3, 8, 8), 0);
        assert_eq!(two(binary("sdiv", int), 0xf8, 3, 8), 0xfe);
        assert_eq!(two(compare("islt", int), 0xff, 0, 8), 1);
        assert_eq!(two(compare("iult", int), 0xff, 0, 8), 0);
        let Some(Three(shift)) = intrinsic("llvm.fshr", Scalar::Int(32)) else { panic!("no funnel shift") };
        assert_eq!(shift(0xAB, 0xCD00_0000, 24, 32), 0xABCD);
    }

    #[test]
    fn floats_are_those_of_their_format() {
        let halves = |v: f32| u64::from(f16::from_f32(v).to_bits());
        assert_eq!(two(binary("fadd", Scalar::Half), halves(2048.0), halves(1.0), 16), halves(2048.0));
        let nan = of_single(f32::NAN);
        assert_eq!(two(compare("fune", Scalar::Float), nan, nan, 32), 1);
        assert_eq!(two(compare("foge", Scalar::Float), nan, nan, 32), 0);
        assert_eq!(two(compare("fult", Scalar::Float), nan, 0, 32), 1);
    }
}

//! Arithmetic, comparison and conversion.

use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Neg, Not, Rem, Shl, Sub};

use crate::types::{Elem, I1, Ty};

use super::constant::Number;
use super::{Builder, Val};

/// The right-hand side of an operation: a value, or a literal that takes the type of the left-hand side.
pub trait Operand<'k>: Copy {
    /// The operand as a value of type `ty`; a scalar of the same element type is broadcast.
    fn as_type(self, b: &'k Builder<'k>, ty: Ty) -> Val<'k>;
    /// The lane count it brings along, if it is a value.
    fn lane_count(self) -> u32;
}

impl<'k> Operand<'k> for Val<'k> {
    #[track_caller]
    fn as_type(self, b: &'k Builder<'k>, ty: Ty) -> Val<'k> {
        if self.ty == ty {
            self
        } else if self.ty == ty.x(1) {
            self.splat(ty.lanes)
        } else {
            b.fail(format_args!("a value of type {} where {ty} is needed", self.ty))
        }
    }

    fn lane_count(self) -> u32 {
        self.ty.lanes
    }
}

macro_rules! literal_operands {
    ($($literal:ty),*) => { $(
        impl<'k> Operand<'k> for $literal {
            fn as_type(self, b: &'k Builder<'k>, ty: Ty) -> Val<'k> {
                b.constant(ty, Number::from(self))
            }

            fn lane_count(self) -> u32 {
                1
            }
        }
    )* };
}
literal_operands!(i64, f64);

/// The operation for floats and the one for integers; empty where there is none.
type Names = (&'static str, &'static str);

impl<'k> Val<'k> {
    /// Both sides at one type: the element type of the left, the larger lane count.
    #[track_caller]
    fn unify(self, right: impl Operand<'k>) -> (Val<'k>, Val<'k>) {
        let ty = self.ty.x(self.ty.lanes.max(right.lane_count()));
        (self.as_type(self.b, ty), right.as_type(self.b, ty))
    }

    fn select_name(self, (float, int): Names) -> &'static str {
        let name = if self.ty.elem.is_float() { float } else { int };
        if name.is_empty() || matches!(self.ty.elem, Elem::Ptr(_)) {
            self.b.fail(format_args!("no such arithmetic on {}", self.ty));
        }
        name
    }

    #[track_caller]
    fn binary(self, names: Names, right: impl Operand<'k>) -> Val<'k> {
        let (left, right) = self.unify(right);
        self.b.value(self.select_name(names), &[left, right], left.ty, &[])
    }

    /// Compares by an `arith` predicate number: the first for floats, the second for integers.
    #[track_caller]
    fn compare(self, (float, int): (u8, u8), right: impl Operand<'k>) -> Val<'k> {
        let (left, right) = self.unify(right);
        let (name, predicate) = if left.ty.elem.is_float() { ("arith.cmpf", float) } else { ("arith.cmpi", int) };
        let predicate = self.b.attr(&format!("{predicate} : i64"));
        self.b.value(name, &[left, right], left.ty.with_elem(Elem::I1), &[("predicate", predicate)])
    }

    fn unary(self, name: &str) -> Val<'k> {
        self.b.value(name, &[self], self.ty, &[])
    }
}

macro_rules! operators {
    ($($trait:ident $method:ident $names:expr;)*) => { $(
        impl<'k, R: Operand<'k>> $trait<R> for Val<'k> {
            type Output = Val<'k>;

            #[track_caller]
            fn $method(self, right: R) -> Val<'k> {
                self.binary($names, right)
            }
        }
    )* };
}
operators! {
    Add add ("arith.addf", "arith.addi");
    Sub sub ("arith.subf", "arith.subi");
    Mul mul ("arith.mulf", "arith.muli");
    Div div ("arith.divf", "arith.divsi");
    Rem rem ("", "arith.remsi");
    BitAnd bitand ("", "arith.andi");
    BitOr bitor ("", "arith.ori");
    BitXor bitxor ("", "arith.xori");
    Shl shl ("", "arith.shli");
}

macro_rules! methods {
    ($($doc:literal $method:ident $names:expr;)*) => {
        impl<'k> Val<'k> { $(
            #[doc = $doc]
            #[track_caller]
            pub fn $method(self, right: impl Operand<'k>) -> Val<'k> {
                self.binary($names, right)
            }
        )* }
    };
}
methods! {
    "Unsigned integer division." div_u ("", "arith.divui");
    "Remainder of the unsigned division." rem_u ("", "arith.remui");
    "Shift to the right, filling with zeros; the amount must be below the width." shr_u ("", "arith.shrui");
    "Shift to the right, filling with the sign; the amount must be below the width." shr_s ("", "arith.shrsi");
    "The larger of two integers read as unsigned." max_u ("", "arith.maxui");
    "The smaller of two integers read as unsigned." min_u ("", "arith.minui");
}

macro_rules! comparisons {
    ($($doc:literal $method:ident $predicates:expr;)*) => {
        impl<'k> Val<'k> { $(
            #[doc = $doc]
            #[track_caller]
            pub fn $method(self, right: impl Operand<'k>) -> Val<'k> {
                self.compare($predicates, right)
            }
        )* }
    };
}
// The numbers are those of arith's CmpFPredicate and CmpIPredicate.
comparisons! {
    "Equal; false if either is NaN." eq (1, 0);
    "Not equal; true if either is NaN." ne (13, 1);
    "Less, signed; false if either is NaN." lt (4, 2);
    "Less or equal, signed; false if either is NaN." le (5, 3);
    "Greater, signed; false if either is NaN." gt (2, 4);
    "Greater or equal, signed; false if either is NaN." ge (3, 5);
    "Less, unsigned; for floats: true if either is NaN." lt_u (11, 6);
    "Less or equal, unsigned; for floats: true if either is NaN." le_u (12, 7);
    "Greater, unsigned; for floats: true if either is NaN." gt_u (9, 8);
    "Greater or equal, unsigned; for floats: true if either is NaN." ge_u (10, 9);
}

impl Neg for Val<'_> {
    type Output = Self;

    fn neg(self) -> Self {
        if self.ty.elem.is_float() { self.unary("arith.negf") } else { self.b.constant(self.ty, 0i64) - self }
    }
}

/// All bits inverted; logical negation of truth values.
impl Not for Val<'_> {
    type Output = Self;

    fn not(self) -> Self {
        self ^ if self.ty.elem == Elem::I1 { 1 } else { -1 }
    }
}

impl<'k> Val<'k> {
    /// The larger. If the right side is NaN or they compare equal, `self`; if `self` is NaN, `self`.
    #[track_caller]
    pub fn max(self, right: impl Operand<'k>) -> Val<'k> {
        let (left, right) = self.unify(right);
        right.gt(left).select(right, left)
    }

    /// The smaller. If the right side is NaN or they compare equal, `self`; if `self` is NaN, `self`.
    #[track_caller]
    pub fn min(self, right: impl Operand<'k>) -> Val<'k> {
        let (left, right) = self.unify(right);
        right.lt(left).select(right, left)
    }

    /// `then` where `self` is true, `otherwise` elsewhere. One truth value may choose between whole vectors.
    #[track_caller]
    pub fn select(self, then: Val<'k>, otherwise: impl Operand<'k>) -> Val<'k> {
        assert_eq!(self.ty.elem, Elem::I1, "kernel {}: select on {}", self.b.name, self.ty);
        let lanes = self.ty.lanes.max(then.ty.lanes).max(otherwise.lane_count());
        let ty = then.ty.x(lanes);
        let operands = [self.as_type(self.b, I1.x(lanes)), then.as_type(self.b, ty), otherwise.as_type(self.b, ty)];
        self.b.value("arith.select", &operands, ty, &[])
    }

    /// `self * factor + term`, rounded once where the processor has a fused instruction and twice elsewhere.
    #[track_caller]
    pub fn mul_add(self, factor: impl Operand<'k>, term: impl Operand<'k>) -> Val<'k> {
        let (left, factor) = self.unify(factor);
        let (left, term) = left.unify(term);
        let factor = factor.as_type(self.b, left.ty);
        self.b.value("llvm.intr.fmuladd", &[left, factor, term], left.ty, &[])
    }

    /// Absolute value (of an integer: wrapping).
    pub fn abs(self) -> Val<'k> {
        if self.ty.elem.is_float() { self.unary("math.absf") } else { self.lt(0).select(-self, self) }
    }

    /// Square root, correctly rounded.
    pub fn sqrt(self) -> Val<'k> {
        self.unary("math.sqrt")
    }

    /// The magnitude of `self` with the sign of `sign`.
    #[track_caller]
    pub fn copysign(self, sign: Val<'k>) -> Val<'k> {
        let (left, sign) = self.unify(sign);
        self.b.value("math.copysign", &[left, sign], left.ty, &[])
    }

    /// The same value in another element type, lane by lane. Integers are signed (truth values: 0 and 1); a float becomes an
    /// integer by truncation and must be in range; a narrower integer keeps the low bits; a narrower float rounds to
    /// nearest even.
    #[track_caller]
    pub fn to(self, target: Ty) -> Val<'k> {
        let signed = self.ty.elem != Elem::I1;
        self.convert(target, signed)
    }

    /// Like [`to`](Val::to), with integers read as unsigned.
    #[track_caller]
    pub fn to_u(self, target: Ty) -> Val<'k> {
        self.convert(target, false)
    }

    #[track_caller]
    fn convert(self, target: Ty, signed: bool) -> Val<'k> {
        let (from, to) = (self.ty.elem, target.elem);
        assert!(
            !matches!(from, Elem::Ptr(_)) && !matches!(to, Elem::Ptr(_)),
            "kernel {}: conversion from {from} to {to}",
            self.b.name
        );
        let wider = to.bits() > from.bits();
        let name = match (from.is_float(), to.is_float()) {
            _ if from == to => return self,
            (true, true) if from.bits() == to.bits() => {
                return self.convert(crate::types::F32, signed).convert(target, signed);
            }
            (true, true) => ["arith.truncf", "arith.extf"][usize::from(wider)],
            (true, false) => ["arith.fptoui", "arith.fptosi"][usize::from(signed)],
            (false, true) => ["arith.uitofp", "arith.sitofp"][usize::from(signed)],
            (false, false) if wider => ["arith.extui", "arith.extsi"][usize::from(signed)],
            (false, false) => "arith.trunci",
        };
        self.b.value(name, &[self], self.ty.with_elem(to), &[])
    }

    /// The same bits as another type of the same total size.
    #[track_caller]
    pub fn bitcast(self, ty: Ty) -> Val<'k> {
        assert_eq!(self.ty.bits(), ty.bits(), "kernel {}: bitcast from {} to {ty}", self.b.name, self.ty);
        if self.ty == ty { self } else { self.b.value("llvm.bitcast", &[self], ty, &[]) }
    }
}

//! Constants: literals, lane lists and tables in read-only memory.
//!
//! Floating-point constants are passed as bit patterns, so what the compiler computed is what the kernel gets.

use crate::types::{Elem, F32, F64, I1, I8, I16, I32, I64, PTR, Ty};

use super::{Builder, Val};

macro_rules! scalars {
    ($($name:ident($value:ty) = $ty:expr, $doc:literal;)*) => { $(
        #[doc = $doc]
        pub fn $name(&'k self, value: $value) -> Val<'k> {
            self.constant($ty, value)
        }
    )* };
}

/// A number that can stand for a constant of any arithmetic type.
#[derive(Clone, Copy, Debug)]
pub enum Number {
    /// For integer types: must fit, read as signed or as unsigned. For floats: must convert exactly.
    Int(i64),
    /// For floating-point types only; rounded to nearest even.
    Float(f64),
}

impl From<i64> for Number {
    fn from(value: i64) -> Self {
        Number::Int(value)
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Number::Float(value)
    }
}

macro_rules! numbers {
    ($($ty:ty => $variant:ident;)*) => { $(
        impl From<$ty> for Number {
            fn from(value: $ty) -> Self {
                Number::$variant(value.into())
            }
        }
    )* };
}
numbers! { i8 => Int; i16 => Int; i32 => Int; u8 => Int; u16 => Int; u32 => Int; bool => Int; f32 => Float; }

impl<'k> Builder<'k> {
    scalars! {
        i1(bool) = I1, "A truth value.";
        i8(i8) = I8, "An 8-bit integer.";
        i16(i16) = I16, "A 16-bit integer.";
        i32(i32) = I32, "A 32-bit integer.";
        i64(i64) = I64, "A 64-bit integer.";
        f32(f32) = F32, "A single-precision number.";
        f64(f64) = F64, "A double-precision number.";
    }

    /// `value` in every lane of `ty`.
    pub fn constant(&'k self, ty: Ty, value: impl Into<Number>) -> Val<'k> {
        let literal = self.literal(ty.elem, value.into());
        let text = match ty {
            vector if vector.is_vector() => format!("dense<{literal}> : {ty}"),
            I1 => literal,
            _ => format!("{literal} : {ty}"),
        };
        self.value("arith.constant", &[], ty, &[("value", self.attr(&text))])
    }

    /// A vector with the given lanes (one lane gives a scalar).
    pub fn lanes<N: Copy + Into<Number>>(&'k self, elem: Elem, values: &[N]) -> Val<'k> {
        let ty = Ty { elem, lanes: values.len() as u32 };
        if let [value] = values {
            return self.constant(ty, *value);
        }
        let list: Vec<String> = values.iter().map(|&value| self.literal(elem, value.into())).collect();
        let text = format!("dense<[{}]> : {ty}", list.join(", "));
        self.value("arith.constant", &[], ty, &[("value", self.attr(&text))])
    }

    /// `0, 1, 2, ...` in the lanes of the integer type `ty`.
    pub fn iota(&'k self, ty: Ty) -> Val<'k> {
        let values: Vec<i64> = (0..i64::from(ty.lanes)).collect();
        self.lanes(ty.elem, &values)
    }

    /// A value that nothing may depend on.
    pub fn poison(&'k self, ty: Ty) -> Val<'k> {
        self.value("llvm.mlir.poison", &[], ty, &[])
    }

    /// The null address.
    pub fn null(&'k self) -> Val<'k> {
        self.value("llvm.mlir.zero", &[], PTR, &[])
    }

    /// The address of `bytes` in read-only memory, aligned to `align` bytes. Equal tables are stored once per module.
    pub fn table(&'k self, bytes: &[u8], align: u64) -> Val<'k> {
        self.table_in(0, bytes, align)
    }

    /// The same in another address space.
    pub fn table_in(&'k self, space: u8, bytes: &[u8], align: u64) -> Val<'k> {
        self.address_of(&self.module.table(bytes, align, space), space)
    }

    /// The address of a global.
    pub(super) fn address_of(&'k self, name: &str, space: u8) -> Val<'k> {
        let symbol = self.attr(&format!("@\"{name}\""));
        self.value("llvm.mlir.addressof", &[], Elem::Ptr(space).into(), &[("global_name", symbol)])
    }

    /// MLIR's spelling of a number in a type: decimal for integers, the bit pattern for floats.
    fn literal(&self, elem: Elem, value: Number) -> String {
        let number = match value {
            Number::Float(number) => number,
            Number::Int(int) if elem.is_float() => {
                assert!((int as f64) as i64 == int, "kernel {}: {int} is not exact as {elem}", self.name);
                int as f64
            }
            Number::Int(int) => return self.int_literal(elem, int),
        };
        match elem {
            Elem::F16 => format!("0x{:04X}", half::f16::from_f64(number).to_bits()),
            Elem::Bf16 => format!("0x{:04X}", half::bf16::from_f64(number).to_bits()),
            Elem::F32 => format!("0x{:08X}", (number as f32).to_bits()),
            Elem::F64 => format!("0x{:016X}", number.to_bits()),
            _ => self.fail(format_args!("{number} as a constant of type {elem}")),
        }
    }

    fn int_literal(&self, elem: Elem, value: i64) -> String {
        let bits = elem.bits();
        let fits = bits == 64 || (value >= -(1 << (bits - 1)) && value < 1 << bits);
        if !elem.is_int() || !fits {
            self.fail(format_args!("{value} as a constant of type {elem}"));
        }
        match elem {
            Elem::I1 => (value != 0).to_string(),
            _ if bits < 64 && value >= 1 << (bits - 1) => (value - (1 << bits)).to_string(),
            _ => value.to_string(),
        }
    }
}

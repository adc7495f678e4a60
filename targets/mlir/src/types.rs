//! The types a kernel value can have.
//!
//! A [`Ty`] is an element type and a lane count; one lane is a scalar. Kernels can therefore be written once
//! and instantiated at any vector width, including none. The module knows nothing of MLIR beyond the spelling
//! of its types.

use std::fmt;

/// What one lane holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Elem {
    /// One bit: the result of a comparison.
    I1,
    /// 8-bit integer; signedness belongs to the operation, not to the type.
    I8,
    /// 16-bit integer.
    I16,
    /// 32-bit integer.
    I32,
    /// 64-bit integer: counts, indices and byte offsets.
    I64,
    /// IEEE binary16.
    F16,
    /// The upper half of an IEEE binary32.
    Bf16,
    /// IEEE binary32.
    F32,
    /// IEEE binary64.
    F64,
    /// An untyped address in an address space (0 is ordinary memory).
    Ptr(u8),
}

/// The type of a [`Val`](crate::builder::Val): `lanes` copies of `elem`; one lane is a scalar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ty {
    /// The type of each lane.
    pub elem: Elem,
    /// Number of lanes, at least 1.
    pub lanes: u32,
}

macro_rules! scalars {
    ($($name:ident = $elem:expr;)*) => { $(
        #[doc = concat!("The scalar type ", stringify!($elem), ".")]
        pub const $name: Ty = Ty { elem: $elem, lanes: 1 };
    )* };
}
scalars! {
    I1 = Elem::I1;
    I8 = Elem::I8;
    I16 = Elem::I16;
    I32 = Elem::I32;
    I64 = Elem::I64;
    F16 = Elem::F16;
    BF16 = Elem::Bf16;
    F32 = Elem::F32;
    F64 = Elem::F64;
    PTR = Elem::Ptr(0);
}

impl Elem {
    /// Size of one lane in bits; addresses are taken as 64 bits wide.
    pub fn bits(self) -> u32 {
        match self {
            Elem::I1 => 1,
            Elem::I8 => 8,
            Elem::I16 | Elem::F16 | Elem::Bf16 => 16,
            Elem::I32 | Elem::F32 => 32,
            Elem::I64 | Elem::F64 | Elem::Ptr(_) => 64,
        }
    }

    /// Whether arithmetic on it is floating-point.
    pub fn is_float(self) -> bool {
        matches!(self, Elem::F16 | Elem::Bf16 | Elem::F32 | Elem::F64)
    }

    /// Whether arithmetic on it is two's-complement.
    pub fn is_int(self) -> bool {
        !self.is_float() && !matches!(self, Elem::Ptr(_))
    }
}

/// One lane.
impl From<Elem> for Ty {
    fn from(elem: Elem) -> Ty {
        Ty { elem, lanes: 1 }
    }
}

impl Ty {
    /// The type with the same element and `lanes` lanes: `F32.x(16)`.
    pub const fn x(self, lanes: u32) -> Ty {
        Ty { elem: self.elem, lanes }
    }

    /// The same lane count with another element type.
    pub const fn with_elem(self, elem: Elem) -> Ty {
        Ty { elem, lanes: self.lanes }
    }

    /// Size in bits of all lanes.
    pub fn bits(self) -> u32 {
        self.elem.bits() * self.lanes
    }

    /// Size in bytes of all lanes; a type of less than a byte counts as one.
    pub fn bytes(self) -> u32 {
        self.bits().div_ceil(8)
    }

    /// Whether there is more than one lane.
    pub fn is_vector(self) -> bool {
        self.lanes > 1
    }
}

impl fmt::Display for Elem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Elem::Ptr(0) => f.write_str("!llvm.ptr"),
            Elem::Ptr(space) => write!(f, "!llvm.ptr<{space}>"),
            Elem::Bf16 => f.write_str("bf16"),
            float if float.is_float() => write!(f, "f{}", float.bits()),
            int => write!(f, "i{}", int.bits()),
        }
    }
}

/// MLIR's spelling.
impl fmt::Display for Ty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_vector() { write!(f, "vector<{}x{}>", self.lanes, self.elem) } else { self.elem.fmt(f) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelling_and_sizes() {
        assert_eq!(F32.x(16).to_string(), "vector<16xf32>");
        assert_eq!(I1.x(1).to_string(), "i1");
        assert_eq!(PTR.to_string(), "!llvm.ptr");
        assert_eq!(Ty { elem: Elem::Ptr(3), lanes: 1 }.to_string(), "!llvm.ptr<3>");
        assert_eq!((BF16.x(8).bytes(), I1.bytes(), I8.x(64).bits()), (16, 1, 512));
    }
}

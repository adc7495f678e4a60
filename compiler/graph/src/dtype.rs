//! Element types of source tensors, as one table.

macro_rules! dtypes {
    ($($name:ident $text:literal $bits:literal)*) => {
        /// Element type of a tensor as a model file stores it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DType { $(#[doc = $text] $name),* }

        impl DType {
            /// Every type there is.
            pub const ALL: &[DType] = &[$(DType::$name),*];

            /// Short lower-case name.
            pub fn name(self) -> &'static str {
                match self { $(DType::$name => $text),* }
            }

            /// Bits of one element; sub-byte elements are packed, first element in the low bits.
            pub fn bits(self) -> u64 {
                match self { $(DType::$name => $bits),* }
            }
        }
    };
}

dtypes! {
    F32 "f32" 32
    F16 "f16" 16
    Bf16 "bf16" 16
    F64 "f64" 64
    F8E4M3 "f8e4m3" 8
    F8E5M2 "f8e5m2" 8
    Bool "bool" 8
    U4 "u4" 4
    I4 "i4" 4
    U8 "u8" 8
    I8 "i8" 8
    U16 "u16" 16
    I16 "i16" 16
    U32 "u32" 32
    I32 "i32" 32
    U64 "u64" 64
    I64 "i64" 64
}

impl DType {
    /// Bytes that `count` elements take, or `None` if that overflows.
    pub fn byte_len(self, count: u64) -> Option<u64> {
        Some(count.checked_mul(self.bits())?.div_ceil(8))
    }

    /// Whether elements are floating-point numbers.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::Bf16 | Self::F64 | Self::F8E4M3 | Self::F8E5M2)
    }
}

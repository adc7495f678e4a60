//! Addresses, loads and stores. Offsets are in bytes; every access states its type and its alignment in bytes.

use melior::ir::attribute::TypeAttribute;

use crate::types::{Elem, I8, I32, I64, PTR, Ty};

use super::{Builder, Operand, Val};

impl<'k> Builder<'k> {
    /// `bytes` of memory that live until the function returns, the same in every round of a loop.
    pub fn alloca(&'k self, bytes: u32, align: u32) -> Val<'k> {
        let attributes =
            [("elem_type", TypeAttribute::new(self.ty(I8)).into()), ("alignment", self.attr(&format!("{align} : i64")))];
        self.at_start(|| self.value("llvm.alloca", &[self.i32(bytes as i32)], PTR, &attributes))
    }
}

impl<'k> Val<'k> {
    /// The address `bytes` further on.
    #[track_caller]
    pub fn at(self, bytes: impl Operand<'k>) -> Val<'k> {
        self.expect_address();
        let attributes = [
            ("rawConstantIndices", self.b.attr(&format!("array<i32: {}>", i32::MIN))),
            ("elem_type", TypeAttribute::new(self.b.ty(I8)).into()),
        ];
        let offset = bytes.as_type(self.b, I64);
        self.b.value("llvm.getelementptr", &[self, offset], self.ty, &attributes)
    }

    /// Reads a `ty` at this address.
    #[track_caller]
    pub fn load(self, ty: Ty, align: u32) -> Val<'k> {
        self.expect_address();
        let align = self.b.attr(&format!("{align} : i64"));
        self.b.value("llvm.load", &[self], ty, &[("alignment", align)])
    }

    /// Writes `value` at this address.
    #[track_caller]
    pub fn store(self, value: Val<'k>, align: u32) {
        self.expect_address();
        let align = self.b.attr(&format!("{align} : i64"));
        self.b.op("llvm.store", &[value, self], &[], &[("alignment", align)]);
    }

    /// Reads the lanes of a vector whose `mask` is true, touching no other memory; the others come from `other`.
    #[track_caller]
    pub fn load_masked(self, ty: Ty, align: u32, mask: Val<'k>, other: impl Operand<'k>) -> Val<'k> {
        self.expect_mask(mask, ty);
        let other = other.as_type(self.b, ty);
        let align = self.b.attr(&format!("{align} : i32"));
        self.b.value("llvm.intr.masked.load", &[self, mask, other], ty, &[("alignment", align)])
    }

    /// Writes the lanes of a vector whose `mask` is true, touching no other memory.
    #[track_caller]
    pub fn store_masked(self, value: Val<'k>, align: u32, mask: Val<'k>) {
        self.expect_mask(mask, value.ty);
        let align = self.b.attr(&format!("{align} : i32"));
        self.b.op("llvm.intr.masked.store", &[value, self, mask], &[], &[("alignment", align)]);
    }

    /// Asks for the cache line at this address to be brought near for reading; never faults. `locality` goes from 0 (use
    /// once) to 3 (keep).
    #[track_caller]
    pub fn prefetch(self, locality: i32) {
        self.expect_address();
        let b = self.b;
        b.intrinsic_void("llvm.prefetch.p0", &[self, b.i32(0), b.i32(locality), b.constant(I32, 1i64)]);
    }

    #[track_caller]
    fn expect_address(self) {
        if !matches!(self.ty, Ty { elem: Elem::Ptr(_), lanes: 1 }) {
            self.b.fail(format_args!("{} used as an address", self.ty));
        }
    }

    #[track_caller]
    fn expect_mask(self, mask: Val<'k>, ty: Ty) {
        self.expect_address();
        if mask.ty != ty.with_elem(Elem::I1) || !ty.is_vector() {
            self.b.fail(format_args!("mask of type {} for {ty}", mask.ty));
        }
    }
}

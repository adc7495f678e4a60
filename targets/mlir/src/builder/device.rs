//! What kernels of an accelerator need beside the language itself: memory that a group of threads shares, and intrinsics with
//! several results, as matrix units have them.

use std::fmt::Write as _;

use melior::ir::Attribute;
use melior::ir::attribute::StringAttribute;
use melior::ir::block::BlockLike;
use melior::ir::operation::OperationBuilder;
use melior::ir::{Identifier, Type};

use crate::types::Ty;

use super::{Builder, Val};

/// The address space of memory that the threads of a group share, on every accelerator that LLVM knows.
const SHARED: u8 = 3;

/// What a fence keeps in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// What comes after it sees what others had released.
    Acquire,
    /// What came before it is seen by those who acquire.
    Release,
}

impl<'k> Builder<'k> {
    /// `bytes` of memory that the threads of a group share, undefined at first.
    pub fn shared(&'k self, bytes: u32, align: u64) -> Val<'k> {
        let number = self.module.shared.get();
        self.module.shared.set(number + 1);
        let name = format!("shared.{number}");
        self.module.global(&name, bytes, align, SHARED, "internal", &[("value", self.attr("#llvm.undef"))]);
        self.address_of(&name, SHARED)
    }

    /// Orders this thread's accesses of memory, as others of `scope` (`workgroup`, ...) see them, before or after what follows.
    pub fn fence(&'k self, order: Fence, scope: &str) {
        // LLVM's numbers of atomic orderings.
        let number = match order {
            Fence::Acquire => 4,
            Fence::Release => 5,
        };
        let attributes = [
            ("ordering", self.attr(&format!("{number} : i64"))),
            ("syncscope", StringAttribute::new(self.mlir(), scope).into()),
        ];
        self.op("llvm.fence", &[], &[], &attributes);
    }

    /// Calls an LLVM intrinsic that gives a structure of values of one type.
    pub fn intrinsic_many(&'k self, name: &str, args: &[Val<'k>], result: Ty, count: usize) -> Vec<Val<'k>> {
        let mut fields = String::new();
        for at in 0..count {
            write!(fields, "{}{result}", if at > 0 { ", " } else { "" }).expect("writing to a string");
        }
        let structure = format!("!llvm.struct<({fields})>");
        let ty = Type::parse(self.mlir(), &structure).unwrap_or_else(|| self.fail(format_args!("{structure} is no type")));
        let attributes: [(&str, Attribute<'k>); 3] = [
            ("intrin", StringAttribute::new(self.mlir(), name).into()),
            ("op_bundle_sizes", self.attr("array<i32>")),
            ("operandSegmentSizes", self.attr(&format!("array<i32: {}, 0>", args.len()))),
        ];
        let operands: Vec<_> = args.iter().map(|val| val.raw).collect();
        let call = OperationBuilder::new("llvm.call_intrinsic", self.location())
            .add_operands(&operands)
            .add_results(&[ty])
            .add_attributes(&attributes.map(|(key, value)| (Identifier::new(self.mlir(), key), value)))
            .build()
            .unwrap_or_else(|error| self.fail(format_args!("{name}: {error}")));
        let call = self.block.get().append_operation(call);
        self.fields(call, result, count)
    }
}

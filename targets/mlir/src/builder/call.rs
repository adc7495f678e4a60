//! What code around kernels needs: functions with results, calls of them and through addresses, a flag that threads compete for, and
//! instructions that have no intrinsic.

use melior::ir::attribute::StringAttribute;
use melior::ir::block::BlockLike;
use melior::ir::operation::OperationBuilder;
use melior::ir::{Attribute, Identifier, Type};

use crate::types::{Elem, PTR, Ty};

use super::{Builder, FnAttrs, KernelModule, Signature, Val};

/// MLIR's number for the exchange of a value in memory.
const EXCHANGE: &str = "0 : i64";
/// MLIR's numbers for the orderings of a lock and of its release.
const ACQUIRE: &str = "4 : i64";
const RELEASE: &str = "5 : i64";

impl KernelModule<'_> {
    /// Defines the function `name` with a result, which `body` gives; one that is not exported is known to this module alone.
    pub fn routine<F>(&self, name: &str, params: &[Ty], result: Ty, exported: bool, body: F)
    where
        F: for<'k> FnOnce(&'k Builder<'k>, &[Val<'k>]) -> Val<'k>,
    {
        let signature = Signature { name, params, result: Some(result), exported };
        self.define(signature, &FnAttrs::default(), |b, args| Some(body(b, args)));
    }

    /// The same without a result.
    pub fn procedure<F>(&self, name: &str, params: &[Ty], exported: bool, body: F)
    where
        F: for<'k> FnOnce(&'k Builder<'k>, &[Val<'k>]),
    {
        self.define(Signature { name, params, result: None, exported }, &FnAttrs::default(), |b, args| {
            body(b, args);
            None
        });
    }
}

impl<'k> Builder<'k> {
    /// Calls a function of this module that has no result.
    pub fn call(&'k self, name: &str, args: &[Val<'k>]) {
        self.call_op(Some(name), args, &[]);
    }

    /// The result of calling a function of this module.
    pub fn call_for(&'k self, name: &str, args: &[Val<'k>], result: Ty) -> Val<'k> {
        let operation = self.call_op(Some(name), args, &[result]);
        self.result(operation, 0, result)
    }

    /// Calls the function at an address; it has no result.
    pub fn call_at(&'k self, address: Val<'k>, args: &[Val<'k>]) {
        self.call_op(None, &[&[address], args].concat(), &[]);
    }

    /// The address of a function of this module.
    pub fn function_address(&'k self, name: &str) -> Val<'k> {
        self.address_of(name, 0)
    }

    fn call_op(&'k self, callee: Option<&str>, operands: &[Val<'k>], results: &[Ty]) -> melior::ir::OperationRef<'k, 'k> {
        let mut attributes = vec![
            ("op_bundle_sizes", self.attr("array<i32>")),
            ("operandSegmentSizes", self.attr(&format!("array<i32: {}, 0>", operands.len()))),
        ];
        attributes.extend(callee.map(|name| ("callee", self.attr(&format!("@\"{name}\"")))));
        self.op("llvm.call", operands, results, &attributes)
    }

    /// Instructions as an assembler reads them, with LLVM's constraints, for `count` results of one type. They may do what the compiler
    /// cannot see, but touch no memory.
    pub fn assembly(&'k self, text: &str, constraints: &str, args: &[Val<'k>], result: Ty, count: usize) -> Vec<Val<'k>> {
        let fields = vec![result.to_string(); count].join(", ");
        let name = if count == 1 { fields } else { format!("!llvm.struct<({fields})>") };
        let ty = Type::parse(self.mlir(), &name).unwrap_or_else(|| self.fail(format_args!("{name} is no type")));
        let attributes: [(&str, Attribute<'k>); 3] = [
            ("asm_string", StringAttribute::new(self.mlir(), text).into()),
            ("constraints", StringAttribute::new(self.mlir(), constraints).into()),
            ("has_side_effects", Attribute::unit(self.mlir())),
        ];
        let operands: Vec<_> = args.iter().map(|val| val.raw).collect();
        let operation = OperationBuilder::new("llvm.inline_asm", self.location())
            .add_operands(&operands)
            .add_results(&[ty])
            .add_attributes(&attributes.map(|(key, value)| (Identifier::new(self.mlir(), key), value)))
            .build()
            .unwrap_or_else(|error| self.fail(format_args!("{text}: {error}")));
        let operation = self.block.get().append_operation(operation);
        if count == 1 { vec![self.result(operation, 0, result)] } else { self.fields(operation, result, count) }
    }

    /// The fields of an operation's only result, a structure of values of one type. The structure itself never becomes a value of the
    /// language: its fields are taken out at once.
    pub(super) fn fields(&'k self, operation: melior::ir::OperationRef<'k, 'k>, ty: Ty, count: usize) -> Vec<Val<'k>> {
        let whole = self.result(operation, 0, Elem::I64.into());
        (0..count)
            .map(|at| {
                let position = self.attr(&format!("array<i64: {at}>"));
                self.value("llvm.extractvalue", &[whole], ty, &[("position", position)])
            })
            .collect()
    }
}

impl<'k> Val<'k> {
    /// Puts `value` at this address and gives what was there, as one act that no other thread can come between; what follows it sees
    /// what was written before a [`release`](Self::release) there.
    #[track_caller]
    pub fn exchange(self, value: Val<'k>) -> Val<'k> {
        let b = self.b;
        let attributes = [("bin_op", b.attr(EXCHANGE)), ("ordering", b.attr(ACQUIRE))];
        b.value("llvm.atomicrmw", &[self, value], value.ty, &attributes)
    }

    /// Writes `value` at this address when all that was written before is visible to whoever sees it there.
    #[track_caller]
    pub fn release(self, value: Val<'k>, align: u32) {
        let b = self.b;
        let attributes = [("alignment", b.attr(&format!("{align} : i64"))), ("ordering", b.attr(RELEASE))];
        b.op("llvm.store", &[value, self], &[], &attributes);
    }

    /// Whether this address is null.
    #[track_caller]
    pub fn is_null(self) -> Val<'k> {
        if self.ty != PTR {
            self.b.fail(format_args!("{} used as an address", self.ty));
        }
        self.address().eq(0)
    }

    /// This address as a number.
    pub fn address(self) -> Val<'k> {
        self.b.value("llvm.ptrtoint", &[self], Elem::I64.into(), &[])
    }
}

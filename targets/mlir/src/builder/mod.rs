//! The kernel builder: a typed language over SSA values in which kernels read almost like mathematics.
//!
//! A [`KernelModule`] collects functions; [`KernelModule::function`] hands a [`Builder`] and the arguments to a closure
//! that builds the body. Values are [`Val`]s: `Copy`, carrying their [`Ty`] and the builder that made them, so
//! `a * b + 1.0` appends operations where the builder stands. The rules are few:
//!
//! 1. Both sides of an operation have one type. A literal takes the type of the other side; a scalar meeting a vector is
//!    broadcast. Anything else is an assertion: kernels are ours, so a type error is a compiler bug.
//! 2. Integers have no sign; operations do. `/`, `%`, `lt`, `to` are signed; `div_u`, `rem_u`, `lt_u`, `to_u` are not.
//! 3. Floating-point operations happen as written: no reassociation and no contraction, except where
//!    [`Val::mul_add`] allows one rounding instead of two. Sums over lanes have a fixed tree order.
//! 4. Memory is bytes: [`Val::at`] adds a byte offset, every load and store states its type and alignment.
//! 5. Values are visible where MLIR's regions allow: a value made in a loop body leaves it only as a carried value.
//!
//! Nothing here is specific to a processor; [`Builder::intrinsic`] reaches the ones that are.

mod call;
mod constant;
mod control;
mod device;
mod memory;
mod ops;
mod vector;

pub use control::{Carry, Unroll};
pub use device::Fence;
pub use ops::Operand;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write as _;

use melior::ir::attribute::{StringAttribute, TypeAttribute};
use melior::ir::block::BlockLike;
use melior::ir::operation::{OperationBuilder, OperationLike};
use melior::ir::{Attribute, Block, BlockRef, Identifier, Location, Module, OperationRef, Region, RegionLike, Type, Value};

use crate::context::Context;
use crate::types::Ty;

/// What LLVM must know about a function beyond its body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FnAttrs {
    /// LLVM processor name; empty means the one of the whole module.
    pub cpu: String,
    /// Feature names with their sign, such as `+avx512vnni`.
    pub features: Vec<String>,
    /// Widest vector, in bits, that LLVM should prefer; 0 leaves it to LLVM.
    pub vector_bits: u32,
    /// MLIR's word for the calling convention, such as `ptx_kernelcc`; empty means that of C.
    pub convention: &'static str,
    /// LLVM attributes of a target, such as `nvvm.maxntid`, with their values.
    pub others: Vec<(&'static str, String)>,
}

/// What tells one constant table from another: address space, alignment, content.
type TableKey = (u8, u64, Vec<u8>);

/// A module of functions and constant tables, on its way to becoming machine code.
pub struct KernelModule<'c> {
    context: &'c Context,
    module: Module<'c>,
    tables: RefCell<BTreeMap<TableKey, String>>,
    shared: Cell<u32>,
}

/// An SSA value of a kernel under construction.
#[derive(Clone, Copy)]
pub struct Val<'k> {
    b: &'k Builder<'k>,
    raw: Value<'k, 'k>,
    ty: Ty,
}

/// Appends operations to the body of one function.
pub struct Builder<'k> {
    module: &'k KernelModule<'k>,
    name: &'k str,
    block: Cell<BlockRef<'k, 'k>>,
    entry: BlockRef<'k, 'k>,
    /// Operations before all others of the entry block.
    first: Cell<usize>,
    /// Whether operations go there.
    at_start: Cell<bool>,
}

impl<'c> KernelModule<'c> {
    /// An empty module.
    pub fn new(context: &'c Context) -> Self {
        let module = Module::new(Location::unknown(context.mlir()));
        KernelModule { context, module, tables: RefCell::default(), shared: Cell::new(0) }
    }

    /// The context the module lives in.
    pub fn context(&self) -> &'c Context {
        self.context
    }

    /// The module as MLIR has it.
    pub fn mlir(&self) -> &Module<'c> {
        &self.module
    }

    pub(crate) fn mlir_mut(&mut self) -> &mut Module<'c> {
        &mut self.module
    }

    /// Defines the exported function `name` without a result; `body` receives the builder and one value per parameter.
    pub fn function<F>(&self, name: &str, params: &[Ty], attrs: &FnAttrs, body: F)
    where
        F: for<'k> FnOnce(&'k Builder<'k>, &[Val<'k>]),
    {
        self.define(Signature { name, params, result: None, exported: true }, attrs, |b, args| {
            body(b, args);
            None
        });
    }

    /// Defines a function whose `body` gives its result, if it has one.
    fn define<F>(&self, signature: Signature<'_>, attrs: &FnAttrs, body: F)
    where
        F: for<'k> FnOnce(&'k Builder<'k>, &[Val<'k>]) -> Option<Val<'k>>,
    {
        let Signature { name, params, result, exported } = signature;
        let mlir = self.context.mlir();
        let location = Location::name(mlir, name, Location::unknown(mlir));
        let types: Vec<Type> = params.iter().map(|&ty| mlir_type(mlir, ty)).collect();
        let region = Region::new();
        region.append_block(Block::new(&types.iter().map(|&ty| (ty, location)).collect::<Vec<_>>()));
        let result_type = result.map_or_else(|| melior::dialect::llvm::r#type::void(mlir), |ty| mlir_type(mlir, ty));
        let function_type = melior::dialect::llvm::r#type::function(result_type, &types, false);
        let mut attributes = vec![
            ("sym_name", Attribute::from(StringAttribute::new(mlir, name))),
            ("function_type", TypeAttribute::new(function_type).into()),
            ("passthrough", parse_attribute(mlir, &attrs.passthrough())),
            ("no_unwind", Attribute::unit(mlir)),
        ];
        if !exported {
            attributes.push(("linkage", parse_attribute(mlir, "#llvm.linkage<internal>")));
        }
        if !attrs.convention.is_empty() {
            attributes.push(("CConv", parse_attribute(mlir, &format!("#llvm.cconv<{}>", attrs.convention))));
        }
        if !attrs.cpu.is_empty() {
            attributes.push(("target_cpu", StringAttribute::new(mlir, &attrs.cpu).into()));
        }
        if !attrs.features.is_empty() {
            let list: Vec<String> = attrs.features.iter().map(|feature| format!("{feature:?}")).collect();
            attributes
                .push(("target_features", parse_attribute(mlir, &format!("#llvm.target_features<[{}]>", list.join(", ")))));
        }
        let attributes: Vec<_> = attributes.iter().map(|&(key, value)| (Identifier::new(mlir, key), value)).collect();
        let operation = OperationBuilder::new("llvm.func", location)
            .add_attributes(&attributes)
            .add_regions([region])
            .build()
            .unwrap_or_else(|error| panic!("function {name}: {error}"));
        let entry = first_block(self.module.body().append_operation(operation), 0);
        let (first, at_start) = (Cell::new(0), Cell::new(false));
        let builder = Builder { module: self, name, block: Cell::new(entry), entry, first, at_start };
        fill(&builder, params, result, body);
    }

    /// Defines the exported constant `name`: `bytes` in read-only memory, aligned to `align`.
    pub fn constant(&self, name: &str, bytes: &[u8], align: u64) {
        let mlir = self.context.mlir();
        let value = [("constant", Attribute::unit(mlir)), ("value", parse_attribute(mlir, &escaped(bytes)))];
        self.global(name, bytes.len() as u32, align, 0, "external", &value);
    }

    /// The name of a private constant holding `bytes` in an address space, aligned to `align`; equal tables are stored once.
    fn table(&self, bytes: &[u8], align: u64, space: u8) -> String {
        let mut tables = self.tables.borrow_mut();
        let next = format!("table.{}", tables.len());
        let entry = tables.entry((space, align, bytes.to_vec()));
        if let std::collections::btree_map::Entry::Occupied(known) = &entry {
            return known.get().clone();
        }
        let mlir = self.context.mlir();
        let value = [("constant", Attribute::unit(mlir)), ("value", parse_attribute(mlir, &escaped(bytes)))];
        self.global(&next, bytes.len() as u32, align, space, "private", &value);
        entry.or_insert(next).clone()
    }

    /// Defines an array of bytes in an address space.
    fn global(&self, name: &str, bytes: u32, align: u64, space: u8, linkage: &str, more: &[(&str, Attribute<'c>)]) {
        let mlir = self.context.mlir();
        let array = melior::dialect::llvm::r#type::array(mlir_type(mlir, crate::types::I8), bytes);
        let attributes = [
            ("sym_name", Attribute::from(StringAttribute::new(mlir, name))),
            ("global_type", TypeAttribute::new(array).into()),
            ("linkage", parse_attribute(mlir, &format!("#llvm.linkage<{linkage}>"))),
            ("alignment", parse_attribute(mlir, &format!("{align} : i64"))),
            ("addr_space", parse_attribute(mlir, &format!("{space} : i32"))),
            ("dso_local", Attribute::unit(mlir)),
        ];
        let attributes: Vec<_> =
            attributes.iter().chain(more).map(|&(key, value)| (Identifier::new(mlir, key), value)).collect();
        let operation = OperationBuilder::new("llvm.mlir.global", Location::unknown(mlir))
            .add_attributes(&attributes)
            .add_regions([Region::new()])
            .build()
            .unwrap_or_else(|error| panic!("global of {bytes} bytes: {error}"));
        self.module.body().append_operation(operation);
    }
}

/// A function before it has a body.
struct Signature<'a> {
    name: &'a str,
    params: &'a [Ty],
    result: Option<Ty>,
    exported: bool,
}

fn fill<'k, F>(builder: &'k Builder<'k>, params: &[Ty], result: Option<Ty>, body: F)
where
    F: FnOnce(&'k Builder<'k>, &[Val<'k>]) -> Option<Val<'k>>,
{
    let args: Vec<Val<'k>> = params
        .iter()
        .enumerate()
        .map(|(index, &ty)| {
            let argument = builder.entry.argument(index).expect("one argument per parameter");
            Val { b: builder, raw: argument.into(), ty }
        })
        .collect();
    let given = body(builder, &args);
    if given.map(Val::ty) != result {
        builder.fail(format_args!("it gives {:?} where {result:?} is declared", given.map(Val::ty)));
    }
    builder.op("llvm.return", given.as_slice(), &[], &[]);
}

/// Bytes as MLIR spells a string.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(3 * bytes.len() + 2);
    text.push('"');
    for byte in bytes {
        write!(text, "\\{byte:02X}").expect("writing to a string");
    }
    text.push('"');
    text
}

impl FnAttrs {
    /// Attributes without an MLIR name. `no-builtins` keeps LLVM from turning loops into calls of memcpy and memset,
    /// which an object without undefined symbols cannot make.
    fn passthrough(&self) -> String {
        let mut list = vec![r#""no-builtins""#.to_string()];
        if self.vector_bits > 0 {
            list.push(format!(r#"["prefer-vector-width", "{}"]"#, self.vector_bits));
        }
        list.extend(self.others.iter().map(|(key, value)| format!(r#"["{key}", "{value}"]"#)));
        format!("[{}]", list.join(", "))
    }
}

impl<'k> Builder<'k> {
    /// The name of the function being built.
    pub fn name(&self) -> &str {
        self.name
    }

    fn mlir(&self) -> &'k melior::Context {
        self.module.context.mlir()
    }

    fn ty(&self, ty: Ty) -> Type<'k> {
        mlir_type(self.mlir(), ty)
    }

    fn attr(&self, text: &str) -> Attribute<'k> {
        parse_attribute(self.mlir(), text)
    }

    fn location(&self) -> Location<'k> {
        Location::name(self.mlir(), self.name, Location::unknown(self.mlir()))
    }

    /// Appends an operation; attributes are given as name and MLIR text.
    fn op(
        &self,
        name: &str,
        operands: &[Val<'k>],
        results: &[Ty],
        attributes: &[(&str, Attribute<'k>)],
    ) -> OperationRef<'k, 'k> {
        self.op_with_regions(name, operands, results, attributes, Vec::new())
    }

    fn op_with_regions(
        &self,
        name: &str,
        operands: &[Val<'k>],
        results: &[Ty],
        attributes: &[(&str, Attribute<'k>)],
        regions: Vec<Region<'k>>,
    ) -> OperationRef<'k, 'k> {
        let operands: Vec<Value> = operands.iter().map(|val| val.raw).collect();
        let results: Vec<Type> = results.iter().map(|&ty| self.ty(ty)).collect();
        let attributes: Vec<_> = attributes.iter().map(|&(key, value)| (Identifier::new(self.mlir(), key), value)).collect();
        let operation = OperationBuilder::new(name, self.location())
            .add_operands(&operands)
            .add_results(&results)
            .add_attributes(&attributes)
            .add_regions_vec(regions)
            .build()
            .unwrap_or_else(|error| panic!("kernel {}: {name}: {error}", self.name));
        if !self.at_start.get() {
            return self.block.get().append_operation(operation);
        }
        self.first.set(self.first.get() + 1);
        self.entry.insert_operation(self.first.get() - 1, operation)
    }

    /// Runs `body`, which must not branch, with its operations going before all others of the function.
    fn at_start<R>(&self, body: impl FnOnce() -> R) -> R {
        let outer = self.at_start.replace(true);
        let result = body();
        self.at_start.set(outer);
        result
    }

    /// Appends an operation with one result.
    fn value(&'k self, name: &str, operands: &[Val<'k>], ty: Ty, attributes: &[(&str, Attribute<'k>)]) -> Val<'k> {
        let operation = self.op(name, operands, &[ty], attributes);
        self.result(operation, 0, ty)
    }

    fn result(&'k self, operation: OperationRef<'k, 'k>, index: usize, ty: Ty) -> Val<'k> {
        let raw = operation.result(index).expect("the operation was built with this result");
        Val { b: self, raw: raw.into(), ty }
    }

    /// Calls an LLVM intrinsic by its full name, such as `llvm.x86.avx512.vpdpbusd.512`. An overloaded name is
    /// resolved from the types. Arguments that LLVM wants as immediates must be constants.
    pub fn intrinsic(&'k self, name: &str, args: &[Val<'k>], result: Ty) -> Val<'k> {
        let operation = self.call_intrinsic(name, args, &[result]);
        self.result(operation, 0, result)
    }

    /// Calls an LLVM intrinsic without a result, such as `llvm.prefetch.p0`.
    pub fn intrinsic_void(&'k self, name: &str, args: &[Val<'k>]) {
        self.call_intrinsic(name, args, &[]);
    }

    fn call_intrinsic(&'k self, name: &str, args: &[Val<'k>], results: &[Ty]) -> OperationRef<'k, 'k> {
        let attributes = [
            ("intrin", StringAttribute::new(self.mlir(), name).into()),
            ("op_bundle_sizes", self.attr("array<i32>")),
            ("operandSegmentSizes", self.attr(&format!("array<i32: {}, 0>", args.len()))),
        ];
        self.op("llvm.call_intrinsic", args, results, &attributes)
    }

    #[track_caller]
    fn fail(&self, message: std::fmt::Arguments<'_>) -> ! {
        panic!("kernel {}: {message}", self.name)
    }
}

impl<'k> Val<'k> {
    /// Its type.
    pub fn ty(self) -> Ty {
        self.ty
    }

    /// Its number of lanes.
    pub fn lanes(self) -> u32 {
        self.ty.lanes
    }

    /// The builder that made it, for functions that are given only values.
    pub fn builder(self) -> &'k Builder<'k> {
        self.b
    }
}

fn mlir_type<'c>(mlir: &'c melior::Context, ty: Ty) -> Type<'c> {
    Type::parse(mlir, &ty.to_string()).unwrap_or_else(|| panic!("not an MLIR type: {ty}"))
}

fn parse_attribute<'c>(mlir: &'c melior::Context, text: &str) -> Attribute<'c> {
    Attribute::parse(mlir, text).unwrap_or_else(|| panic!("not an MLIR attribute: {text}"))
}

fn first_block<'c: 'a, 'a>(operation: OperationRef<'c, 'a>, region: usize) -> BlockRef<'c, 'a> {
    let region = operation.region(region).expect("the operation was built with this region");
    region.first_block().expect("the region was built with a block")
}

//! A program becomes an MLIR module.

use super::{NAME, PARAMS, STEP, types};
use crate::attr::Attr;
use crate::model::Program;
use melior::dialect::func;
use melior::ir::attribute::{
    ArrayAttribute, BoolAttribute, DictionaryAttribute, FlatSymbolRefAttribute, FloatAttribute, IntegerAttribute,
    StringAttribute, TypeAttribute,
};
use melior::ir::operation::{OperationBuilder, OperationLike, OperationMutLike, OperationPrintingFlags};
use melior::ir::r#type::{FunctionType, IntegerType};
use melior::ir::{Attribute, Block, BlockLike, Identifier, Location, Module, Region, RegionLike, Type, Value};
use q35_graph::NodeId;
use q35_mlir::context::Context;
use std::collections::BTreeMap;

/// The module of a program, verified.
///
/// # Panics
/// If the program's model would not pass verification, or the context does not know the dialect.
pub fn build<'c>(context: &'c Context, program: &Program) -> Module<'c> {
    let mlir = context.mlir();
    let unknown = Location::unknown(mlir);
    let mut module = Module::new(unknown);
    let params: Vec<_> = program
        .params
        .iter()
        .map(|(name, packed)| (Identifier::new(mlir, name.as_str()), TypeAttribute::new(types::packed(mlir, packed)).into()))
        .collect();
    module.as_operation_mut().set_attribute(PARAMS, DictionaryAttribute::new(mlir, &params).into());
    module.body().append_operation(function(mlir, program));
    assert!(module.as_operation().verify(), "a verified model makes a valid module: {:?}", context.take_messages());
    module
}

/// The text of a module, with the names of nodes as locations; parsing it gives the same module.
pub fn print(module: &Module<'_>) -> String {
    let flags = OperationPrintingFlags::new().enable_debug_info(true, false).use_local_scope();
    let text = module.as_operation().to_string_with_flags(flags);
    text.unwrap_or_else(|error| unreachable!("a module has a text: {error}"))
}

fn function<'c>(mlir: &'c melior::Context, program: &Program) -> melior::ir::Operation<'c> {
    let graph = &program.graph;
    let unknown = Location::unknown(mlir);
    let block = Block::new(&[]);
    let mut values: BTreeMap<NodeId, Value<'c, '_>> = BTreeMap::new();
    for id in graph.topological().unwrap_or_else(|| unreachable!("a verified graph has no cycle")) {
        let node = graph.node(id);
        let operands: Vec<Value> = graph.operands(id).into_iter().flatten().map(|value| values[&value.node]).collect();
        let results: Vec<Type> = node.results.iter().map(|ty| types::value(mlir, ty)).collect();
        let attrs: Vec<_> =
            node.op.attrs().iter().map(|(name, attr)| (Identifier::new(mlir, name), attribute(mlir, attr))).collect();
        let location = if node.name.is_empty() { unknown } else { Location::name(mlir, &node.name, unknown) };
        let op = OperationBuilder::new(&format!("q35.{}", node.op.name()), location)
            .add_operands(&operands)
            .add_results(&results)
            .add_attributes(&attrs)
            .build()
            .unwrap_or_else(|error| unreachable!("an op with given results builds: {error}"));
        let op = block.append_operation(op);
        let result = op.result(0).unwrap_or_else(|error| unreachable!("every op has a result: {error}"));
        values.insert(id, result.into());
    }
    let outputs: Vec<Value> = graph.outputs.iter().map(|(_, value)| values[&value.node]).collect();
    let types: Vec<Type> = graph.outputs.iter().map(|(_, value)| types::value(mlir, graph.ty(*value))).collect();
    let name = |(name, _): &(String, _)| {
        let name = (Identifier::new(mlir, NAME), StringAttribute::new(mlir, name).into());
        Attribute::from(DictionaryAttribute::new(mlir, &[name]))
    };
    let names: Vec<Attribute> = graph.outputs.iter().map(name).collect();
    block.append_operation(func::r#return(&outputs, unknown));
    let region = Region::new();
    region.append_block(block);
    func::func(
        mlir,
        StringAttribute::new(mlir, STEP),
        TypeAttribute::new(FunctionType::new(mlir, &[], &types).into()),
        region,
        &[(Identifier::new(mlir, "res_attrs"), ArrayAttribute::new(mlir, &names).into())],
        unknown,
    )
}

fn attribute<'c>(mlir: &'c melior::Context, attr: &Attr) -> Attribute<'c> {
    match attr {
        Attr::Int(n) => IntegerAttribute::new(IntegerType::new(mlir, 64).into(), *n as i64).into(),
        Attr::Float(x) => FloatAttribute::new(mlir, Type::float32(mlir), f64::from(*x)).into(),
        Attr::Bool(yes) => BoolAttribute::new(mlir, *yes).into(),
        Attr::Word(word) => StringAttribute::new(mlir, word).into(),
        Attr::Param(name) => FlatSymbolRefAttribute::new(mlir, name.as_str()).into(),
    }
}

//! An MLIR module becomes a program: the inverse of `build`.
//!
//! The module may come from text that a person edited, so everything that MLIR's verifier does not guarantee is checked: an
//! error is a sentence with the op's location.

use super::{NAME, PARAMS, STEP, types};
use crate::attr::{Attr, Attrs, ParamName};
use crate::model::{Graph, Program};
use crate::q35::Op;
use crate::semantics::Packed;
use crate::verify;
use melior::ir::attribute::{
    ArrayAttribute, BoolAttribute, DictionaryAttribute, FlatSymbolRefAttribute, FloatAttribute, IntegerAttribute,
    StringAttribute, TypeAttribute,
};
use melior::ir::operation::{OperationLike, OperationRef};
use melior::ir::{Attribute, BlockLike, Identifier, Module, RegionLike, Value as MlirValue, ValueLike};
use q35_graph::Value;
use std::collections::BTreeMap;

/// The program of a module, verified. Nodes are numbered in the order of the module's ops.
pub fn read(module: &Module<'_>) -> Result<Program, String> {
    let params = params(module)?;
    let mut functions = operations(module.body().first_operation());
    let step = functions
        .find(|op| string(op.attribute("sym_name").ok()).as_deref() == Some(STEP))
        .ok_or_else(|| format!("the module has no function @{STEP}"))?;
    let block = step.region(0).ok().and_then(|region| region.first_block()).ok_or_else(|| format!("@{STEP} has no body"))?;
    if block.argument_count() > 0 || block.next_in_region().is_some() {
        return Err(format!("@{STEP} has arguments or more than one block"));
    }
    let mut graph = Graph::new();
    let mut values: BTreeMap<usize, Value> = BTreeMap::new();
    for op in operations(block.first_operation()) {
        let at = |text: String| format!("{}: {text}", op.location());
        if name(&op) == "func.return" {
            graph.outputs = outputs(&step, &op, &values).map_err(at)?;
        } else {
            let (key, value) = node(&mut graph, &op, &values, &params).map_err(at)?;
            values.insert(key, value);
        }
    }
    let program = Program { graph, params };
    verify::program(&program)?;
    Ok(program)
}

fn params(module: &Module<'_>) -> Result<BTreeMap<ParamName, Packed>, String> {
    let wrong = || format!("the module's '{PARAMS}' is no dictionary of !q35.packed types");
    let attribute = module.as_operation().attribute(PARAMS).map_err(|_| wrong())?;
    let dictionary = DictionaryAttribute::try_from(attribute).map_err(|_| wrong())?;
    let entry = |index| {
        let (name, ty) = dictionary.element(index).ok()?;
        let packed = types::read_packed(TypeAttribute::try_from(ty).ok()?.value())?;
        Some((ParamName::from(text(name)), packed))
    };
    (0..dictionary.len()).map(entry).collect::<Option<_>>().ok_or_else(wrong)
}

fn operations<'c: 'a, 'a>(first: Option<OperationRef<'c, 'a>>) -> impl Iterator<Item = OperationRef<'c, 'a>> {
    std::iter::successors(first, |op| op.next_in_block())
}

/// The text of an identifier. MLIR has the empty one at the null pointer, which melior must not be asked to read.
fn text(identifier: Identifier<'_>) -> String {
    let text = identifier.as_string_ref();
    if text.to_raw().length == 0 { String::new() } else { text.as_str().unwrap_or_default().to_owned() }
}

fn name(op: &OperationRef<'_, '_>) -> String {
    text(op.name())
}

/// Identity of a value within its module.
fn key(value: MlirValue<'_, '_>) -> usize {
    value.to_raw().ptr as usize
}

fn operands(op: &OperationRef<'_, '_>, values: &BTreeMap<usize, Value>) -> Result<Vec<Value>, String> {
    let value =
        |operand| values.get(&key(operand)).copied().ok_or_else(|| "an operand is not made by a q35 op before it".to_owned());
    op.operands().map(value).collect()
}

fn node(
    graph: &mut Graph,
    mlir: &OperationRef<'_, '_>,
    values: &BTreeMap<usize, Value>,
    params: &BTreeMap<ParamName, Packed>,
) -> Result<(usize, Value), String> {
    let name = name(mlir);
    let name = name.strip_prefix("q35.").ok_or_else(|| format!("'{name}' is no op of the q35 dialect"))?;
    let op = Op::from_attrs(name, &attrs(mlir)?)?;
    let operands = operands(mlir, values)?;
    let types: Vec<_> = operands.iter().map(|value| *graph.ty(*value)).collect();
    let inferred = op.infer(&types, params)?;
    let result = mlir.result(0).map_err(|error| error.to_string())?;
    let written = MlirValue::from(result).r#type();
    if types::read_value(written) != Some(inferred) {
        return Err(format!("the result has type {written}, inference gives {inferred}"));
    }
    let location = mlir.location();
    let origin = if location.is_name() { text(location.name_value()) } else { String::new() };
    let operands: Vec<Option<Value>> = operands.into_iter().map(Some).collect();
    let id = graph.add(origin, op, &operands, vec![inferred]);
    Ok((key(result.into()), Value { node: id, result: 0 }))
}

fn attrs(op: &OperationRef<'_, '_>) -> Result<Attrs, String> {
    let mut attrs = Attrs::new();
    for (name, value) in op.attributes() {
        let name = text(name);
        let attr = attr(value).ok_or_else(|| format!("attribute '{name}' has the unexpected value {value}"))?;
        attrs.insert(name, attr);
    }
    Ok(attrs)
}

fn attr(value: Attribute<'_>) -> Option<Attr> {
    if let Ok(value) = BoolAttribute::try_from(value) {
        return Some(Attr::Bool(value.value()));
    }
    if let Ok(value) = IntegerAttribute::try_from(value) {
        return value.to_string().strip_suffix(" : i64")?.parse::<i64>().ok().map(|n| Attr::Int(n as u64));
    }
    if let Ok(value) = FloatAttribute::try_from(value) {
        let number = value.value() as f32;
        return (f64::from(number) == value.value()).then_some(Attr::Float(number));
    }
    if let Ok(value) = FlatSymbolRefAttribute::try_from(value)
        && value.to_string() != "@<<INVALID EMPTY SYMBOL>>"
    {
        return Some(Attr::Param(value.value().into()));
    }
    string(Some(value)).map(Attr::Word)
}

fn string(value: Option<Attribute<'_>>) -> Option<String> {
    let text = StringAttribute::try_from(value?).ok()?;
    Some(if text.to_string() == "\"\"" { String::new() } else { text.value().to_owned() })
}

fn outputs(
    step: &OperationRef<'_, '_>,
    op: &OperationRef<'_, '_>,
    values: &BTreeMap<usize, Value>,
) -> Result<Vec<(String, Value)>, String> {
    let names = step.attribute("res_attrs").ok().and_then(|names| ArrayAttribute::try_from(names).ok());
    let name = |index| {
        let attrs = DictionaryAttribute::try_from(names?.element(index).ok()?).ok()?;
        string(attrs.element_by_name(NAME))
    };
    let named = |(index, value)| Ok((name(index).ok_or_else(|| format!("result {index} of @{STEP} has no '{NAME}'"))?, value));
    operands(op, values)?.into_iter().enumerate().map(named).collect()
}

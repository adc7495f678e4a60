//! `GraphProto` becomes a [`SourceGraph`]: initializers and `Constant` nodes turn into constants, calls of local functions into the functions' nodes,
//! subgraph attributes into graphs of their own.
//!
//! A subgraph may read values of the graphs around it. Every value that any subgraph of a node reads from outside is *captured*: it becomes a
//! further operand of the node, after those the file lists, and a further input of every subgraph of that node, after its own, in one order. A graph
//! in a [`SourceGraph`] therefore never reads anything but its inputs.

use super::attr;
use super::frame::{Frame, ValueIdx};
use super::names;
use super::opsets::{self, Opsets};
use super::proto::{Attribute, Function, Graph, Node};
use super::tensor::Tensors;
use super::values::{self, Types};
use crate::report::Report;
use prost::Message;
use q35_diag::{Code, Diagnostic};
use q35_graph::Tensor;
use q35_graph::source::{Attr, Body, Call, Dim, SourceGraph, SourceOp, SourceType};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Functions and subgraphs within each other.
pub(super) const MAX_DEPTH: usize = 64;
/// Nodes, operands and results that inlining adds, weighed by what their names take.
const MAX_INLINED: usize = 1 << 22;
/// Operands or results of one node.
const MAX_PORTS: usize = u16::MAX as usize;

/// A function's identity: domain, name, overload.
type FunctionKey<'m> = (&'m str, &'m str, &'m str);

/// Values by name; `None` is an optional input that the caller leaves out.
type Scope<'m> = HashMap<&'m str, Option<ValueIdx>>;

/// Attributes of the call that is being inlined, by name.
type Bindings<'m> = BTreeMap<&'m str, &'m Attribute>;

/// What surrounds a list of nodes.
#[derive(Clone, Copy)]
struct Context<'c, 'm> {
    prefix: &'c str,
    opsets: &'c Opsets,
    types: &'c Types<'m>,
    /// `None` outside functions.
    bindings: Option<&'c Bindings<'m>>,
}

/// A node with everything it refers to looked up.
struct Site<'m> {
    name: String,
    attributes: Bindings<'m>,
    operands: Vec<Option<ValueIdx>>,
    results: Vec<Option<ValueIdx>>,
}

/// Builds the graphs of one model.
pub(super) struct Builder<'m> {
    functions: BTreeMap<FunctionKey<'m>, &'m Function>,
    tensors: Tensors,
    report: Report,
    calls: Vec<FunctionKey<'m>>,
    depth: usize,
    inlined: usize,
}

impl<'m> Builder<'m> {
    pub(super) fn new(functions: &'m [Function], tensors: Tensors, mut report: Report) -> Self {
        let mut table = BTreeMap::new();
        for f in functions {
            if table.insert((opsets::domain(&f.domain), f.name.as_str(), f.overload.as_str()), f).is_some() {
                report.push(Diagnostic::error(Code::BadGraph, "the function is defined twice").at("function", &f.name));
            }
        }
        Self { functions: table, tensors, report, calls: Vec::new(), depth: 0, inlined: 0 }
    }

    /// Builds the model's graph.
    pub(super) fn build(mut self, graph: &'m Graph, opsets: &Opsets) -> q35_diag::Result<SourceGraph> {
        let types = values::index([]);
        let context = Context { prefix: "", opsets, types: &types, bindings: None };
        let graph = self.graph(graph, &[], context);
        self.tensors.finish(&mut self.report);
        self.report.finish(graph)
    }

    /// Builds a graph; `captured` are the values of the graph around it that become further inputs, or that are absent there.
    fn graph(&mut self, proto: &'m Graph, captured: &[(&'m str, Option<SourceType>)], context: Context<'_, 'm>) -> SourceGraph {
        let types = values::index(proto.value_info.iter().chain(&proto.output).chain(&proto.input));
        let context = Context { types: &types, ..context };
        let mut frame = Frame::default();
        let mut scope = Scope::new();
        let constants: BTreeSet<&str> = proto.initializer.iter().map(|t| t.name.as_str()).collect();
        let inputs = proto.input.iter().filter(|i| !constants.contains(i.name.as_str()));
        let own = inputs.map(|i| (i.name.as_str(), Some(values::of(&types, context.prefix, &i.name))));
        for (name, ty) in own.chain(captured.iter().cloned()) {
            let value = ty.map(|ty| frame.leaf(SourceOp::Input, ty));
            self.define(&mut scope, name, value);
        }
        for sparse in &proto.sparse_initializer {
            let name = sparse.values.as_ref().map_or("", |v| v.name.as_str());
            self.report
                .push(Diagnostic::error(Code::UnsupportedForm, "sparse initializers are not supported").at("tensor", name));
            let value = frame.value(SourceType::default());
            self.define(&mut scope, name, Some(value));
        }
        for tensor in &proto.initializer {
            let ty = values::of(&types, context.prefix, &tensor.name);
            let value = match self.tensors.read(tensor, &tensor.name, &mut self.report) {
                Some(tensor) => frame.leaf(SourceOp::Const(tensor.clone()), constant_type(ty, &tensor)),
                None => frame.value(ty),
            };
            self.define(&mut scope, &tensor.name, Some(value));
        }
        self.nodes(&mut frame, &proto.node, &mut scope, context);
        if self.inlined > MAX_INLINED {
            return SourceGraph::new();
        }
        let mut outputs = Vec::new();
        for output in &proto.output {
            match scope.get(output.name.as_str()) {
                Some(Some(value)) => outputs.push((output.name.clone(), *value)),
                _ => self.report.push(
                    Diagnostic::error(Code::BadGraph, "nothing makes this output of the graph").at("output", &output.name),
                ),
            }
        }
        frame.link(&outputs, &mut self.report)
    }

    fn define(&mut self, scope: &mut Scope<'m>, name: &'m str, value: Option<ValueIdx>) {
        if scope.insert(name, value).is_some() {
            self.report.push(Diagnostic::error(Code::BadGraph, "the value is defined twice").at("value", name));
        }
    }

    /// Adds a list of nodes, in any order, to `frame`.
    fn nodes(&mut self, frame: &mut Frame, nodes: &'m [Node], scope: &mut Scope<'m>, context: Context<'_, 'm>) {
        for name in nodes.iter().flat_map(|n| &n.output).filter(|name| !name.is_empty()) {
            let value = frame.value(values::of(context.types, context.prefix, name));
            self.define(scope, name, Some(value));
        }
        for (index, node) in nodes.iter().enumerate() {
            if self.node(frame, node, index, scope, context).is_none() {
                return;
            }
        }
    }

    /// Adds one node, or the nodes of the function it calls. `None` if the model is too large to go on.
    fn node(
        &mut self,
        frame: &mut Frame,
        node: &'m Node,
        index: usize,
        scope: &Scope<'m>,
        context: Context<'_, 'm>,
    ) -> Option<()> {
        let name = names::of_node(context.prefix, node, index);
        if context.bindings.is_some() {
            self.inlined += weight(node, context);
        }
        if self.inlined > MAX_INLINED {
            let what = "the graph grows beyond all measure when its functions are inlined";
            self.report.push(Diagnostic::error(Code::AbsurdSize, what));
            return None;
        }
        let site = Site {
            operands: node.input.iter().map(|input| self.lookup(scope, input, &name)).collect(),
            results: node.output.iter().map(|o| scope.get(o.as_str()).copied().flatten()).collect(),
            attributes: self.attributes(node, &name, context),
            name,
        };
        let domain = opsets::domain(&node.domain);
        let key = (domain, node.op_type.as_str(), node.overload.as_str());
        if let Some(function) = self.functions.get(&key).copied() {
            self.call(frame, function, key, &site);
            return Some(());
        }
        let version = opsets::version(context.opsets, domain);
        self.report.take(opsets::check(domain, version));
        if domain.is_empty() && node.op_type == "Constant" {
            self.constant(frame, site);
        } else {
            let call = Call { domain: domain.to_owned(), op: node.op_type.clone(), version, attrs: BTreeMap::new() };
            self.op(frame, site, call, scope, context);
        }
        Some(())
    }

    fn lookup(&mut self, scope: &Scope<'m>, input: &'m str, node: &str) -> Option<ValueIdx> {
        if input.is_empty() {
            return None;
        }
        match scope.get(input) {
            Some(value) => *value,
            None => {
                self.report
                    .push(Diagnostic::error(Code::BadGraph, format!("input '{input}' is made by nothing")).at("node", node));
                None
            }
        }
    }

    /// A node's attributes by name, references to attributes of the enclosing function resolved; one that the caller leaves out is left out.
    fn attributes(&mut self, node: &'m Node, name: &str, context: Context<'_, 'm>) -> Bindings<'m> {
        let mut attributes = Bindings::new();
        for attribute in &node.attribute {
            let value = match (attribute.ref_attr_name.as_str(), context.bindings) {
                ("", _) => Some(attribute),
                (reference, Some(bindings)) => bindings.get(reference).copied(),
                (reference, None) => {
                    let what =
                        format!("attribute '{}' refers to '{reference}', but the node is in no function", attribute.name);
                    self.report.push(Diagnostic::error(Code::BadGraph, what).at("node", name));
                    None
                }
            };
            if let Some(value) = value {
                attributes.insert(&attribute.name, value);
            }
        }
        attributes
    }

    /// Adds an ordinary node; `call` comes without its attributes.
    fn op(&mut self, frame: &mut Frame, site: Site<'m>, mut call: Call, scope: &Scope<'m>, context: Context<'_, 'm>) {
        let Site { name, attributes, mut operands, results } = site;
        let mut captured: Vec<(&'m str, Option<SourceType>)> = Vec::new();
        let mut seen = BTreeSet::new();
        for free in attributes.values().filter_map(|a| attr::subgraph(a)).flat_map(free_names) {
            if !seen.insert(free) {
                continue;
            }
            match self.lookup(scope, free, &name) {
                Some(value) => {
                    operands.push(Some(value));
                    captured.push((free, Some(frame.ty(value).clone())));
                }
                None => captured.push((free, None)),
            }
        }
        let present = captured.iter().filter(|(_, ty)| ty.is_some()).count();
        for (key, proto) in &attributes {
            let attr = match attr::subgraph(proto) {
                Some(graph) => {
                    let graph = self.nested(|this| this.graph(graph, &captured, context), &name);
                    graph.map(|graph| Attr::Graph(Box::new(Body { graph, captured: present })))
                }
                None => attr::read(proto, &name, &mut self.tensors, &mut self.report),
            };
            call.attrs.extend(attr.map(|attr| ((*key).to_owned(), attr)));
        }
        if operands.len().max(results.len()) > MAX_PORTS {
            let what = format!("the node has more than {MAX_PORTS} inputs or outputs");
            self.report.push(Diagnostic::error(Code::AbsurdSize, what).at("node", name));
            return;
        }
        frame.node(name, SourceOp::Call(call), operands, results);
    }

    /// Runs `inner` one level deeper.
    fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> T, node: &str) -> Option<T> {
        if self.depth == MAX_DEPTH {
            let what = format!("functions and subgraphs lie more than {MAX_DEPTH} deep within each other");
            self.report.push(Diagnostic::error(Code::AbsurdSize, what).at("node", node));
            return None;
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        Some(result)
    }

    /// Adds a `Constant` node; its value comes in one of several attributes.
    fn constant(&mut self, frame: &mut Frame, site: Site<'m>) {
        let Site { name, attributes, results, .. } = site;
        let Some(result) = results.first().copied().flatten() else { return };
        let value = attributes.values().next().and_then(|proto| attr::read(proto, &name, &mut self.tensors, &mut self.report));
        let tensor = match (attributes.keys().next().copied(), value) {
            (Some("value"), Some(Attr::Tensor(tensor))) => tensor,
            (Some("value_int"), Some(Attr::Int(v))) => Tensor::from_i64(vec![], &[v]),
            (Some("value_ints"), Some(Attr::Ints(v))) => Tensor::from_i64(vec![v.len() as u64], &v),
            (Some("value_float"), Some(Attr::Float(v))) => Tensor::from_f32(vec![], &[v]),
            (Some("value_floats"), Some(Attr::Floats(v))) => Tensor::from_f32(vec![v.len() as u64], &v),
            (Some(_), None) => return,
            _ => {
                let what = "the constant has no value in a form that is supported";
                self.report.push(Diagnostic::error(Code::UnsupportedForm, what).at("node", name));
                return;
            }
        };
        frame.set_type(result, constant_type(frame.ty(result).clone(), &tensor));
        frame.node(name, SourceOp::Const(tensor), Vec::new(), vec![Some(result)]);
    }

    /// Adds the nodes of a local function in place of a call of it.
    fn call(&mut self, frame: &mut Frame, function: &'m Function, key: FunctionKey<'m>, site: &Site<'m>) {
        let Site { name, attributes, operands, results } = site;
        let wrong = |what: String| Diagnostic::error(Code::BadGraph, what).at("node", name);
        if self.calls.contains(&key) {
            return self.report.push(wrong(format!("function '{}' calls itself", function.name)));
        }
        if operands.len() > function.input.len() || results.len() > function.output.len() {
            return self.report.push(wrong(format!("more inputs or outputs than function '{}' has", function.name)));
        }
        let mut bindings: Bindings = function.attribute_proto.iter().map(|a| (a.name.as_str(), a)).collect();
        for (key, value) in attributes {
            if attr::subgraph(value).is_some() {
                let what = format!("attribute '{key}' passes a graph to function '{}', which is not supported", function.name);
                self.report.push(Diagnostic::error(Code::UnsupportedForm, what).at("node", name));
            }
            bindings.insert(key, value);
        }
        let prefix = format!("{name}/");
        let types = values::index(&function.value_info);
        let opsets = opsets::imports(&function.opset_import);
        let context = Context { prefix: &prefix, opsets: &opsets, types: &types, bindings: Some(&bindings) };
        let mut scope = Scope::new();
        for (at, input) in function.input.iter().enumerate() {
            self.define(&mut scope, input, operands.get(at).copied().flatten());
        }
        let since = frame.len();
        self.calls.push(key);
        self.nested(|this| this.nodes(frame, &function.node, &mut scope, context), name);
        self.calls.pop();
        for (output, outer) in function.output.iter().zip(results) {
            let Some(outer) = *outer else { continue };
            match scope.get(output.as_str()) {
                Some(Some(inner)) => frame.alias(outer, *inner, since),
                _ => self.report.push(wrong(format!("function '{}' does not make its output '{output}'", function.name))),
            }
        }
    }
}

/// What a node of a function adds to the graph: every call copies its names and attributes.
fn weight(node: &Node, context: Context<'_, '_>) -> usize {
    let copied: usize = node.attribute.iter().map(|a| a.encoded_len() / 16).sum();
    (1 + node.input.len() + node.output.len()) * (1 + context.prefix.len() / 64) + copied
}

/// A constant's type: what its tensor is, whatever else was recorded.
fn constant_type(recorded: SourceType, tensor: &Tensor) -> SourceType {
    SourceType { dtype: Some(tensor.dtype()), dims: Some(tensor.dims().iter().map(|&d| Dim::Fixed(d)).collect()), ..recorded }
}

/// Names that a graph reads and does not define, in the order it reads them.
fn free_names(graph: &Graph) -> Vec<&str> {
    let outputs = graph.node.iter().flat_map(|n| &n.output).map(String::as_str);
    let inputs = graph.input.iter().map(|i| i.name.as_str());
    let sparse = graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref());
    let constants = graph.initializer.iter().chain(sparse).map(|t| t.name.as_str());
    let mut known: BTreeSet<&str> = outputs.chain(inputs).chain(constants).chain([""]).collect();
    let mut read = Vec::new();
    for node in &graph.node {
        read.extend(node.input.iter().map(String::as_str));
        read.extend(node.attribute.iter().filter_map(attr::subgraph).flat_map(free_names));
    }
    read.extend(graph.output.iter().map(|o| o.name.as_str()));
    read.retain(|name| known.insert(name));
    read
}

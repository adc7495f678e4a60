//! Writes an ONNX graph node by node.

use crate::onnx::proto::{Attribute, Graph, Node, Tensor, ValueInfo};
use std::collections::BTreeMap;

/// A graph being written. Values are called by the names that the methods return.
#[derive(Default)]
pub(super) struct Writer {
    graph: Graph,
    scope: String,
    constants: BTreeMap<String, String>,
}

impl Writer {
    /// Further nodes belong to the module `scope`.
    pub(super) fn enter(&mut self, scope: &str) {
        scope.clone_into(&mut self.scope);
    }

    /// Declares an input.
    pub(super) fn input(&mut self, value: ValueInfo) -> String {
        let name = value.name.clone();
        self.graph.input.push(value);
        name
    }

    /// Adds a node with one result.
    pub(super) fn op<const N: usize>(&mut self, op: &str, inputs: [&str; N], attributes: impl Into<Vec<Attribute>>) -> String {
        self.ops(op, inputs, attributes, 1).remove(0)
    }

    /// Adds a node with `results` results.
    pub(super) fn ops<const N: usize>(
        &mut self,
        op: &str,
        inputs: [&str; N],
        attribute: impl Into<Vec<Attribute>>,
        results: usize,
    ) -> Vec<String> {
        self.node(op, inputs.map(str::to_owned).to_vec(), attribute.into(), results)
    }

    /// Joins values along an axis.
    pub(super) fn concat(&mut self, parts: &[String], axis: i64) -> String {
        self.node("Concat", parts.to_vec(), vec![Attribute::int("axis", axis)], 1).remove(0)
    }

    fn node(&mut self, op: &str, input: Vec<String>, attribute: Vec<Attribute>, results: usize) -> Vec<String> {
        let name = format!("{}/{op}_{}", self.scope, self.graph.node.len());
        let output: Vec<String> =
            if results == 1 { vec![name.clone()] } else { (0..results).map(|r| format!("{name}.{r}")).collect() };
        self.graph.node.push(Node {
            input,
            output: output.clone(),
            name,
            op_type: op.to_owned(),
            attribute,
            ..Node::default()
        });
        output
    }

    /// Adds an initializer.
    pub(super) fn tensor(&mut self, tensor: Tensor) -> String {
        let name = tensor.name.clone();
        self.graph.initializer.push(tensor);
        name
    }

    /// A vector of integers; equal ones are one initializer.
    pub(super) fn ints(&mut self, values: &[i64]) -> String {
        let dims = [values.len() as i64];
        self.constant(format!("{values:?}"), |name| Tensor::i64s(name, &dims, values))
    }

    /// A scalar integer.
    pub(super) fn int(&mut self, value: i64) -> String {
        self.constant(format!("{value}"), |name| Tensor::i64s(name, &[], &[value]))
    }

    /// A scalar number.
    pub(super) fn number(&mut self, value: f32) -> String {
        self.constant(format!("{value:?}f"), |name| Tensor::f32s(name, &[], &[value]))
    }

    fn constant(&mut self, key: String, make: impl FnOnce(&str) -> Tensor) -> String {
        if let Some(name) = self.constants.get(&key) {
            return name.clone();
        }
        let name = self.tensor(make(&format!("const {key}")));
        self.constants.insert(key, name.clone());
        name
    }

    /// Makes `value` the output `output`.
    pub(super) fn output(&mut self, value: &str, output: ValueInfo) {
        let node = Node {
            input: vec![value.to_owned()],
            output: vec![output.name.clone()],
            name: output.name.clone(),
            op_type: "Identity".to_owned(),
            ..Node::default()
        };
        self.graph.node.push(node);
        self.graph.output.push(output);
    }

    /// The finished graph.
    pub(super) fn finish(self) -> Graph {
        Graph { name: "decoder".to_owned(), ..self.graph }
    }
}

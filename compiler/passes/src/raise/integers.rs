//! Graphs that compute with integers: what their matrices stand for, and what they would have multiplied without rounding.
//!
//! ONNX Runtime's dynamic quantization rounds every activation to 8 bits by a scale of its own (`DynamicQuantizeLinear`), multiplies integers, and
//! scales the sums back:
//!
//! ```text
//! q, s, z = DynamicQuantizeLinear(x)      Cast(MatMulInteger(q, W, z, zero points)) * (s * scales)
//! ```
//!
//! This is `x` times the matrix that `W` stands for, but for the rounding of `x`: how a compiled model rounds activations its own number format says. Its
//! optimizer writes the same as one op. Tables of embeddings are picked from as integers, and the row is dequantized.

use super::{Raiser, Res};
use crate::eval::dequantize;
use crate::sym::Id;
use q35_graph::{NodeId, Value};

/// An op that multiplies activations with a matrix of integers: which operands are what.
struct Operands {
    /// Scale and zero point of the rounding; absent: the op rounds by itself.
    rounding: Option<[Option<usize>; 2]>,
    zero_points: usize,
    /// Scales of the matrix, where the op has them.
    scales: Option<usize>,
    bias: Option<usize>,
}

/// Of all such ops: what was rounded, or is inside the op, and the matrix.
const ACTIVATIONS: usize = 0;
const MATRIX: usize = 1;
const BARE: Operands = Operands { rounding: Some([None, Some(2)]), zero_points: 3, scales: None, bias: None };
const TO_FLOAT: Operands = Operands { rounding: Some([Some(2), Some(4)]), zero_points: 5, scales: Some(3), bias: Some(6) };
const ROUNDS_ITSELF: Operands = Operands { rounding: None, zero_points: 3, scales: Some(2), bias: Some(4) };

/// Results of `DynamicQuantizeLinear`.
const INTEGERS: u16 = 0;
const SCALE: u16 = 1;
const ZERO_POINT: u16 = 2;

impl Raiser<'_> {
    /// `MatMulInteger`, up to where its sums are scaled back.
    pub(super) fn integer_product(&mut self, node: NodeId) -> Res<()> {
        self.product_of_integers(node, &BARE)
    }

    /// `MatMulIntegerToFloat`.
    pub(super) fn scaled_integer_product(&mut self, node: NodeId) -> Res<()> {
        self.product_of_integers(node, &TO_FLOAT)
    }

    /// `DynamicQuantizeMatMul`.
    pub(super) fn rounding_product(&mut self, node: NodeId) -> Res<()> {
        self.product_of_integers(node, &ROUNDS_ITSELF)
    }

    fn product_of_integers(&mut self, node: NodeId, ops: &Operands) -> Res<()> {
        let graph = self.eval.graph;
        let at = |at: usize| graph.operand(node, at);
        let rounded = self.eval.operand(node, ACTIVATIONS)?;
        let x = match ops.rounding {
            None => rounded,
            Some([scale, zero_point]) => {
                let result = |result| Some(Value { node: rounded.node, result });
                let fits = rounded.result == INTEGERS
                    && self.is_call(rounded.node, "DynamicQuantizeLinear")
                    && zero_point.is_none_or(|own| at(own) == result(ZERO_POINT))
                    && scale.is_none_or(|own| at(own) == result(SCALE));
                if !fits {
                    return self.fault("multiplies integers that are no rounded activations");
                }
                self.eval.operand(rounded.node, 0)?
            }
        };
        let (scales, output) = match ops.scales {
            Some(own) => (at(own), node),
            None => match self.scaled_back(node, rounded.node) {
                Some((scales, output)) => (Some(scales), output),
                None => return self.fault("multiplies integers, and nobody scales the sums back"),
            },
        };
        let matrix = dequantize::integers(&self.eval, node, [at(MATRIX), scales, at(ops.zero_points)], i64::MAX, 0)?;
        let &[inputs, outputs] = matrix.1.dims() else { return self.fault("multiplies with a stack of matrices") };
        let [k, n] = [(inputs, "k"), (outputs, "n")].map(|(extent, name)| {
            let extent = self.eval.sym.number(extent as f64);
            self.eval.sym.var(name, extent)
        });
        let element = self.eval.constant(matrix, &[k, n]);
        let bias = match ops.bias.and_then(at) {
            Some(bias) => Some(self.eval.element(bias, &[n])?),
            None => None,
        };
        self.product(output, x, element, n, bias)
    }

    /// The scales of the matrix, and the node that has the result: `Cast(sums) * (scale of the rounding * scales)`.
    fn scaled_back(&self, sums: NodeId, rounding: NodeId) -> Option<(Value, NodeId)> {
        let graph = self.eval.graph;
        let cast = self.only_user(sums, "Cast")?;
        let product = self.only_user(cast, "Mul")?;
        let of_cast = Value { node: cast, result: 0 };
        let factor = |node: NodeId, other: Value| match graph.operands(node)[..] {
            [Some(a), Some(b)] if a == other => Some(b),
            [Some(a), Some(b)] if b == other => Some(a),
            _ => None,
        };
        let both = factor(product, of_cast).filter(|both| self.is_call(both.node, "Mul"))?;
        Some((factor(both.node, Value { node: rounding, result: SCALE })?, product))
    }

    /// The nodes that say what a value's integers stand for, all alike, if nobody else reads them.
    pub(super) fn dequantizers(&self, node: NodeId) -> Vec<NodeId> {
        let graph = self.eval.graph;
        let readers: Vec<NodeId> = graph.users(Value { node, result: 0 }).into_iter().map(|(reader, _)| reader).collect();
        let alike = |reader: &NodeId| {
            self.is_call(*reader, "DequantizeLinear") && graph.operands(*reader) == graph.operands(readers[0])
        };
        if readers.iter().all(alike) { readers } else { Vec::new() }
    }

    /// The element at an index of the integers in `table`, as `dequantizer` has it.
    pub(super) fn dequantized(&mut self, dequantizer: NodeId, table: Value, index: &[Id]) -> Res<Id> {
        let [scales, zero_points] = [1, 2].map(|at| self.eval.graph.operand(dequantizer, at));
        let (rank, axis) =
            (self.eval.shape(Value { node: dequantizer, result: 0 })?.len(), self.eval.call(dequantizer)?.int("axis", 1));
        // Of the rows that were picked, the last axis is the table's.
        let own = self.eval.axis(dequantizer, axis.min(rank as i64 - 1), rank)? + index.len();
        let axis = if own >= rank { (own - rank) as i64 } else { return self.fault("is dequantized token by token") };
        let elements = dequantize::integers(&self.eval, dequantizer, [Some(table), scales, zero_points], axis, 0)?;
        Ok(self.eval.constant(elements, index))
    }

    /// The one reader of a node's first result, if it is such an op.
    fn only_user(&self, node: NodeId, op: &str) -> Option<NodeId> {
        let users = self.eval.graph.users(Value { node, result: 0 });
        let &[(user, 0 | 1)] = &users[..] else { return None };
        self.is_call(user, op).then_some(user)
    }
}

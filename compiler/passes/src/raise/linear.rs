//! Products with a constant matrix.
//!
//! A linear layer is not added to the model where the source has it but where its columns are read: a packed q/k/v product whose columns go
//! three ways becomes three layers over slices of one weight.

use super::activation::Columns;
use super::{BTreeMap, HashMap, Raised, Raiser, Res};
use crate::sym::{Combine, Id};
use q35_dialects::q35::{ExpertLinear, Linear};
use q35_dialects::{Param, ParamRole};
use q35_graph::{Axis, BlockQuantized, Elements, NodeId, Tensor, Value, WeightView};

/// Sizes of quantized matrices stay below this.
const LARGEST: i64 = 1 << 28;

/// Which operands of an op hold a matrix in blocks.
#[derive(Clone, Copy)]
pub(super) struct BlockOperands {
    pub data: usize,
    pub scales: usize,
    pub zero_points: usize,
    pub group_index: Option<usize>,
}

/// A linear layer whose columns nobody has read yet, and those parts that were made.
pub(super) struct PendingLinear {
    input: Value,
    weight: WeightView,
    origin: String,
    node: NodeId,
    /// The choice of experts, if the weight is a stack of theirs.
    routing: Option<Value>,
    /// By columns and bias.
    made: BTreeMap<(Columns, Option<Id>), Value>,
}

impl PendingLinear {
    /// A layer that nobody has read yet.
    pub(super) fn new(input: Value, weight: WeightView, origin: String, node: NodeId, routing: Option<Value>) -> Self {
        Self { input, weight, origin, node, routing, made: BTreeMap::new() }
    }

    /// The choice of experts, if the weight is a stack of theirs.
    pub(super) fn routing(&self) -> Option<Value> {
        self.routing
    }

    /// What it is the layer of.
    pub(super) fn input(&self) -> Value {
        self.input
    }

    /// Where the source has it.
    pub(super) fn node(&self) -> NodeId {
        self.node
    }

    /// Its whole weight, and the name that it has in the model.
    pub(super) fn weight(&self) -> (&WeightView, &str) {
        (&self.weight, &self.origin)
    }

    /// Output channels, of one expert.
    pub(super) fn width(&self) -> u64 {
        self.weight.rows() / self.weight.matrices()
    }
}

impl Raiser<'_> {
    /// `x W` with a constant `W`.
    pub(super) fn matmul(&mut self, node: NodeId) -> Res<()> {
        let (x, w) = (self.eval.operand(node, 0)?, self.eval.operand(node, 1)?);
        let (dims_x, dims_w) = (self.eval.shape(x)?, self.eval.shape(w)?);
        let one = self.eval.sym.int(1);
        if self.is_constant(node, 0) || dims_x.last() == Some(&one) {
            return Ok(());
        }
        let leading = dims_w.len().saturating_sub(2);
        let (Some(&outputs), true) = (dims_w.last(), dims_w.len() >= 2 && dims_w[..leading].iter().all(|d| *d == one)) else {
            return self.fault("multiplies with a stack of matrices");
        };
        let column = self.eval.sym.var("n", outputs);
        let inner = self.eval.sym.var("k", dims_w[leading]);
        let zero = self.eval.sym.int(0);
        let at = [vec![zero; leading], vec![inner, column]].concat();
        let element = self.eval.element(w, &at)?;
        let mut at_x = self.eval.index_vars(x, "row")?;
        if let Some(last) = at_x.last_mut() {
            *last = inner;
        }
        let of_x = self.eval.element(x, &at_x)?;
        if self.reads_cache(of_x) {
            // For whoever attends with it.
            let body = self.eval.sym.mul(of_x, element);
            let sum = self.eval.sym.fold(Combine::Sum, inner, dims_w[leading], body);
            let index = [&at_x[..at_x.len() - 1], &[column]].concat();
            self.eval.cut(Value { node, result: 0 }, index, sum);
            return Ok(());
        }
        self.product(node, x, element, column, None)
    }

    /// `alpha A B + beta C`, matrices transposed at will.
    pub(super) fn gemm(&mut self, node: NodeId) -> Res<()> {
        let (x, w) = (self.eval.operand(node, 0)?, self.eval.operand(node, 1)?);
        let call = self.eval.call(node)?;
        if !self.is_constant(node, 1) || call.int("transA", 0) != 0 {
            return self.fault("is no product of activations with a constant matrix");
        }
        let dims = self.eval.shape(w)?;
        let transposed = call.int("transB", 0) != 0;
        let (outputs, inputs) = if transposed { (dims[0], dims[1]) } else { (dims[1], dims[0]) };
        let (column, inner) = (self.eval.sym.var("n", outputs), self.eval.sym.var("k", inputs));
        let at = if transposed { [column, inner] } else { [inner, column] };
        let element = self.eval.element(w, &at)?;
        let element = self.eval.sym.scaled(element, call.float("alpha", 1.0).into());
        let bias = match self.eval.graph.operand(node, 2) {
            Some(c) => {
                let dims = self.eval.shape(c)?;
                let zero = self.eval.sym.int(0);
                let at = match dims.len() {
                    0 => vec![],
                    n => {
                        [vec![zero; n - 1], vec![if self.eval.sym.as_number(dims[n - 1]) == Some(1.0) { zero } else { column }]]
                            .concat()
                    }
                };
                let c = self.eval.element(c, &at)?;
                Some(self.eval.sym.scaled(c, call.float("beta", 1.0).into()))
            }
            None => None,
        };
        self.product(node, x, element, column, bias)
    }

    /// `alpha x W`, or `alpha x W^T`.
    pub(super) fn fused_matmul(&mut self, node: NodeId) -> Res<()> {
        let (x, w) = (self.eval.operand(node, 0)?, self.eval.operand(node, 1)?);
        let call = self.eval.call(node)?;
        let dims = self.eval.shape(w)?;
        let (&[first, second], 0) = (&dims[..], call.int("transA", 0)) else {
            return self.fault("is no product of activations with a constant matrix");
        };
        let transposed = call.int("transB", 0) != 0;
        let (outputs, inputs) = if transposed { (first, second) } else { (second, first) };
        let (column, inner) = (self.eval.sym.var("n", outputs), self.eval.sym.var("k", inputs));
        let at = if transposed { [column, inner] } else { [inner, column] };
        let element = self.eval.element(w, &at)?;
        let element = self.eval.sym.scaled(element, call.float("alpha", 1.0).into());
        self.product(node, x, element, column, None)
    }

    /// Cuts a node that multiplies `x` with the matrix whose element at (inner `k`, `column`) is given, and adds a bias.
    pub(super) fn product(&mut self, node: NodeId, x: Value, element: Id, column: Id, bias: Option<Id>) -> Res<()> {
        let (factor, load) = self.eval.sym.coefficient(element);
        let shape = self.eval.shape(x)?;
        let inner_dim = shape.last().copied();
        let output = Value { node, result: 0 };
        let Some((_, width)) = self.row_index(output, "n")? else { return self.fault("has outputs of unknown width") };
        let Some((inputs, cols)) = inner_dim.and_then(|d| Some((self.eval.sym.var("k", d), self.eval.sym.as_int(d)?))) else {
            return self.fault("has inputs of unknown width");
        };
        let Some((view, origin)) = self.matrix_view(load, column, inputs, width, cols as u64) else {
            return self.fault("multiplies with a computed matrix");
        };
        self.layer(node, x, view, origin, factor, bias)
    }

    /// Cuts a node that is a linear layer with this weight, times a factor, plus a bias per column `n`.
    fn layer(&mut self, node: NodeId, x: Value, weight: WeightView, origin: String, factor: f64, bias: Option<Id>) -> Res<()> {
        let Some((at, cols)) = self.row_index(x, "k")? else { return self.fault("has inputs of unknown width") };
        let Some(&column) = at.last() else { return self.fault("has no inputs") };
        let element = self.eval.element(x, &at)?;
        let (element, row, choice) = self.settle_routed(element)?;
        let (input, scale) = self.activation(element, column, cols)?;
        let width = weight.rows();
        let pending = PendingLinear::new(input, weight, origin, node, None);
        let base = self.raise_base(Raised::Linear(Box::new(pending)));
        let columns = self.eval.sym.number(width as f64);
        let n = self.eval.sym.var("n", columns);
        let load = self.eval.sym.load(base, &[row[0], row[1]].into_iter().chain(choice).chain([n]).collect::<Vec<_>>());
        let mut result = self.eval.sym.scaled(load, factor * scale);
        if let Some(bias) = bias {
            result = self.eval.sym.add(result, bias);
        }
        let index = [&at[..at.len() - 1], &[n]].concat();
        self.eval.cut(Value { node, result: 0 }, index, result);
        Ok(())
    }

    /// `MatMulNBits(x, integers, scales, zero points, group index, bias)`.
    pub(super) fn block_matmul(&mut self, node: NodeId) -> Res<()> {
        let call = self.eval.call(node)?;
        let (inputs, outputs) = (call.int("K", 0), call.int("N", 0));
        if ![inputs, outputs].iter().all(|n| (1..LARGEST).contains(n)) {
            return self.fault("has no plausible sizes");
        }
        let (bits, block) = (call.int("bits", 4), call.int("block_size", 32));
        let at = BlockOperands { data: 1, scales: 2, zero_points: 3, group_index: Some(4) };
        let (view, origin) = self.block_view(node, at, [bits, block], inputs as u64)?;
        if view.rows() < outputs as u64 {
            return self.fault("has fewer rows than outputs");
        }
        let x = self.eval.operand(node, 0)?;
        let columns = self.eval.sym.int(outputs);
        let n = self.eval.sym.var("n", columns);
        let bias = match self.eval.graph.operand(node, 5) {
            Some(bias) => Some(self.eval.element(bias, &[n])?),
            None => None,
        };
        self.layer(node, x, view.slice_rows(0..outputs as u64), origin, 1.0, bias)
    }

    /// The matrix of all rows behind operands that hold integers of so many bits, in blocks of so many columns.
    pub(super) fn block_view(
        &mut self,
        node: NodeId,
        at: BlockOperands,
        [bits, block]: [i64; 2],
        cols: u64,
    ) -> Res<(WeightView, String)> {
        let (data, origin) = match self.plain_constant(node, at.data)? {
            Some(found) => found,
            None => return self.fault("has no integers"),
        };
        let Some((scales, _)) = self.plain_constant(node, at.scales)? else { return self.fault("has no scales") };
        let zero_points = self.plain_constant(node, at.zero_points)?.map(|(t, _)| t);
        let group_index = match at.group_index {
            Some(at) => self.plain_constant(node, at)?.map(|(t, _)| t),
            None => None,
        };
        if ![2, 4, 8].contains(&bits) || !(1..LARGEST).contains(&block) || cols >= LARGEST as u64 {
            return self.fault("has blocks of no known form");
        }
        let per_row = cols.div_ceil(block as u64);
        let bytes = (per_row * block as u64 * bits as u64).div_ceil(8);
        let rows = data.count() / bytes.max(1);
        let blocks = BlockQuantized { bits: bits as u32, block: block as u64, cols, data, scales, zero_points, group_index };
        match WeightView::blocks(blocks, 0, Axis { len: rows, stride: cols as i64 }, Axis { len: cols, stride: 1 }) {
            Some(view) => Ok((view, origin)),
            None => self.fault("has integers and scales that do not fit its sizes"),
        }
    }

    /// A constant operand, seen through reshapes.
    fn plain_constant(&mut self, node: NodeId, at: usize) -> Res<Option<(Tensor, String)>> {
        let Some(value) = self.eval.graph.operand(node, at) else { return Ok(None) };
        let index = self.eval.index_vars(value, "raw")?;
        let element = self.eval.element(value, &index)?;
        let dims = self.eval.shape(value)?;
        let mut row_major = vec![1i64; dims.len()];
        for i in (1..dims.len()).rev() {
            let Some(dim) = self.eval.sym.as_int(dims[i]) else { return self.fault("has constants of unknown size") };
            row_major[i - 1] = row_major[i] * dim;
        }
        let vars: Vec<(Id, i64)> =
            index.into_iter().zip(row_major).filter(|(v, _)| self.eval.sym.as_number(*v).is_none()).collect();
        let names: Vec<Id> = vars.iter().map(|(v, _)| *v).collect();
        match self.strided(element, &names) {
            Some((Elements::Plain(tensor), name, 0, strides)) if strides.iter().zip(&vars).all(|(s, (_, want))| s == want) => {
                Ok(Some((tensor, name)))
            }
            _ => self.fault(format!("has an operand {at} that is no plain constant")),
        }
    }

    /// The value of some columns of a linear layer, which has them, with a bias per `column`.
    pub(super) fn linear_columns(&mut self, base: crate::sym::BaseId, columns: Columns, bias: Option<(Id, Id)>) -> Res<Value> {
        let Some(Raised::Linear(pending)) = self.raised.get(&base) else { return self.consequence() };
        // The bias is remembered as a function of the first column variable it came with.
        let len = columns.count;
        let key = (columns, bias.map(|(element, _)| element));
        if let Some(&value) = pending.made.get(&key) {
            return Ok(value);
        }
        let (input, origin, node, routing) = (pending.input, pending.origin.clone(), pending.node, pending.routing);
        let Some(weight) = pending.weight.clone().step_rows(columns.first, columns.step, len) else {
            return self.fault("reads columns that are not there");
        };
        let experts = weight.matrices();
        let bias = match (bias, routing) {
            (Some((element, column)), Some(_)) => self.picked_bias(element, column, [experts, len])?,
            (Some((element, column)), None) => Some(self.vector(element, column, len, "a bias")?),
            (None, _) => None,
        };
        let weight = self.param(Param::new(weight, ParamRole::Linear, origin));
        let here = std::mem::replace(&mut self.node, node);
        let value = match routing {
            Some(routing) => self.add(ExpertLinear { weight, bias }, &[input, routing]),
            None => self.add(Linear { weight, bias }, &[input]),
        };
        self.node = here;
        let value = value?;
        if let Some(Raised::Linear(pending)) = self.raised.get_mut(&base) {
            pending.made.insert(key, value);
        }
        Ok(value)
    }
}

/// Substitution of one expression.
pub(super) fn one(from: Id, to: Id) -> HashMap<Id, Id> {
    HashMap::from([(from, to)])
}

//! Lookups in the table of embeddings.

use super::linear::BlockOperands;
use super::{Raised, Raiser, Res};
use crate::eval::dequantize;
use crate::sym::{Id, Node};
use q35_dialects::q35::{Embed, Tokens};
use q35_dialects::{Param, ParamRole};
use q35_graph::source::SourceOp;
use q35_graph::{DType, NodeId, Value, WeightView};

impl Raiser<'_> {
    /// The row (sequence, token) whose id an element of a node's indices is, if it is one.
    fn token_at(&mut self, node: NodeId) -> Res<Option<(Vec<Id>, [Id; 2])>> {
        let indices = self.eval.operand(node, 1)?;
        let at = self.eval.index_vars(indices, "id")?;
        let element = self.eval.element(indices, &at)?;
        let ids = self.grid.ids;
        Ok(match self.eval.sym.node(element) {
            Node::Load(base, index) if self.eval.value_of(*base) == Some(ids) => match index[..] {
                [b, s] => Some((at, [b, s])),
                _ => None,
            },
            _ => None,
        })
    }

    /// `Gather(table, token ids)`. Other gathers are views.
    pub(super) fn embed(&mut self, node: NodeId) -> Res<()> {
        let table = self.eval.operand(node, 0)?;
        if !self.is_constant(node, 0) || self.eval.call(node)?.int("axis", 0) != 0 {
            return Ok(());
        }
        let Some((at, row)) = self.token_at(node)? else { return Ok(()) };
        let dims = self.eval.shape(table)?;
        let &[vocab, width] = &dims[..] else { return self.fault("picks rows of what is no matrix") };
        let (v, h) = (self.eval.sym.var("v", vocab), self.eval.sym.var("h", width));
        // Rows of integers are no rows until they are dequantized.
        let dequantizers = self.dequantizers(node);
        let (nodes, element) = match dequantizers.first() {
            Some(first) => (&dequantizers[..], self.dequantized(*first, table, &[v, h])?),
            None => (&[node][..], self.eval.element(table, &[v, h])?),
        };
        let (Some(rows), Some(cols)) = (self.eval.sym.as_int(vocab), self.eval.sym.as_int(width)) else {
            return self.fault("has a table of unknown size");
        };
        match self.matrix_view(element, v, h, rows as u64, cols as u64) {
            Some((view, origin)) => self.embed_from(nodes, at, row, view, origin),
            None => self.fault("picks rows of a computed table"),
        }
    }

    /// Adds the lookup and cuts the nodes that have its result.
    pub(super) fn embed_from(
        &mut self,
        nodes: &[NodeId],
        at: Vec<Id>,
        row: [Id; 2],
        view: WeightView,
        origin: String,
    ) -> Res<()> {
        let width = view.cols();
        let table = self.param(Param::new(view, ParamRole::Embedding, origin));
        let tokens = self.once("tokens", Tokens {}, &[])?;
        let value = self.add(Embed { table }, &[tokens])?;
        let columns = self.eval.sym.number(width as f64);
        let h = self.eval.sym.var("h", columns);
        let index = [at, vec![h]].concat();
        let base = self.raise_base(Raised::Whole(value, width));
        let load = self.eval.sym.load(base, &[row[0], row[1], h]);
        nodes.iter().for_each(|node| self.eval.cut(Value { node: *node, result: 0 }, index.clone(), load));
        Ok(())
    }

    /// `GatherBlockQuantized(table, token ids, scales, zero points)`, of bytes that hold integers or of integers as such.
    pub(super) fn block_embed(&mut self, node: NodeId) -> Res<()> {
        let Some((at, row)) = self.token_at(node)? else {
            return self.fault("picks rows of a quantized table, but not by token");
        };
        let shape = self.eval.shape(Value { node, result: 0 })?;
        let Some(width) = shape.last().and_then(|w| self.eval.sym.as_int(*w)) else {
            return self.fault("has a table of unknown width");
        };
        let call = self.eval.call(node)?;
        let (bits, block) = (call.int("bits", 4), call.int("block_size", 128));
        let (view, origin) = match self.block_table(node, block)? {
            Some(found) => found,
            None => {
                let table = BlockOperands { data: 0, scales: 2, zero_points: 3, group_index: None };
                self.block_view(node, table, [bits, block], width as u64)?
            }
        };
        self.embed_from(&[node], at, row, view, origin)
    }

    /// A table of integers narrower than a byte, which are elements of their own.
    fn block_table(&mut self, node: NodeId, block: i64) -> Res<Option<(WeightView, String)>> {
        let table = self.eval.operand(node, 0)?;
        let SourceOp::Const(tensor) = &self.eval.graph.node(table.node).op else { return Ok(None) };
        if !matches!(tensor.dtype(), DType::I4 | DType::U4) {
            return Ok(None);
        }
        let call = self.eval.call(node)?;
        if call.int("quantize_axis", 1) != 1 {
            return self.fault("has a table that is quantized along its rows");
        }
        let [scales, zero_points] = [2, 3].map(|at| self.eval.graph.operand(node, at));
        let elements = dequantize::integers(&self.eval, node, [Some(table), scales, zero_points], 1, block)?;
        let &[rows, cols] = elements.1.dims() else { return self.fault("picks rows of what is no matrix") };
        let [v, h] = [(rows, "v"), (cols, "h")].map(|(extent, name)| {
            let extent = self.eval.sym.number(extent as f64);
            self.eval.sym.var(name, extent)
        });
        let element = self.eval.constant(elements, &[v, h]);
        match self.matrix_view(element, v, h, rows, cols) {
            Some(found) => Ok(Some(found)),
            None => self.fault("picks rows of a computed table"),
        }
    }
}

//! Shape rules shared by many ops.

use super::{Eval, Res};
use crate::sym::Id;
use q35_graph::NodeId;

impl Eval<'_> {
    /// Dimensions of an operand.
    pub(super) fn dims(&mut self, node: NodeId, at: usize) -> Res<Vec<Id>> {
        let value = self.operand(node, at)?;
        self.shape(value)
    }

    /// The common shape of two, by the standard's broadcasting.
    pub(super) fn broadcast(&mut self, node: NodeId, a: &[Id], b: &[Id]) -> Res<Vec<Id>> {
        let one = self.sym.int(1);
        let rank = a.len().max(b.len());
        let at = |dims: &[Id], i: usize| (i + dims.len()).checked_sub(rank).map_or(one, |i| dims[i]);
        (0..rank)
            .map(|i| match (at(a, i), at(b, i)) {
                (x, y) if x == y || y == one => Ok(x),
                (x, y) if x == one => Ok(y),
                (x, y) => {
                    let (x, y) = (self.sym.show(x), self.sym.show(y));
                    self.fault(node, format!("combines dimensions {x} and {y}"))
                }
            })
            .collect()
    }

    /// The index into an operand of `node` with dimensions `dims`, for an index of the broadcast result.
    pub(crate) fn unbroadcast(&mut self, node: NodeId, dims: &[Id], index: &[Id]) -> Res<Vec<Id>> {
        let Some(skip) = index.len().checked_sub(dims.len()) else {
            return self.fault(node, "has an operand of higher rank than its result");
        };
        let (zero, one) = (self.sym.int(0), self.sym.int(1));
        Ok(dims.iter().zip(&index[skip..]).map(|(d, i)| if *d == one { zero } else { *i }).collect())
    }

    /// Product of dimensions.
    pub(super) fn volume(&mut self, dims: &[Id]) -> Id {
        let one = self.sym.int(1);
        dims.iter().fold(one, |product, d| self.sym.mul(product, *d))
    }
}

/// The broadcast shape of all operands.
pub(super) fn broadcast_all(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    let mut shape = Vec::new();
    for value in eval.graph.operands(node).into_iter().flatten() {
        let dims = eval.shape(value)?;
        shape = eval.broadcast(node, &shape, &dims)?;
    }
    Ok(vec![shape])
}

/// The shape of operand 0.
pub(super) fn same_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    Ok(vec![eval.dims(node, 0)?])
}

/// `[.., m, k] x [.., k, n]`, vectors included.
pub(super) fn product_shape(eval: &mut Eval, node: NodeId) -> Res<Vec<Vec<Id>>> {
    let (a, b) = (eval.dims(node, 0)?, eval.dims(node, 1)?);
    Ok(vec![product_of(eval, node, &a, &b)?])
}

/// The same of given dimensions.
pub(super) fn product_of(eval: &mut Eval, node: NodeId, a: &[Id], b: &[Id]) -> Res<Vec<Id>> {
    let (Some(&inner), false) = (a.last(), b.is_empty()) else {
        return eval.fault(node, "multiplies a scalar");
    };
    let of_b = b[b.len().saturating_sub(2)];
    if inner != of_b {
        let (x, y) = (eval.sym.show(inner), eval.sym.show(of_b));
        return eval.fault(node, format!("contracts dimensions {x} and {y}"));
    }
    let mut shape = eval.broadcast(node, &a[..a.len().saturating_sub(2)], &b[..b.len().saturating_sub(2)])?;
    if a.len() >= 2 {
        shape.push(a[a.len() - 2]);
    }
    if b.len() >= 2 {
        shape.push(b[b.len() - 1]);
    }
    Ok(shape)
}

//! `RotaryEmbedding`, the standard's and ONNX Runtime's, by their definitions.

use super::{Eval, Res};
use crate::sym::Id;
use q35_graph::NodeId;

/// Which operands hold cosines, sines and positions.
struct Operands {
    cos: usize,
    sin: usize,
    positions: usize,
}

pub(super) fn standard(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    let heads = eval.call(node)?.int("num_heads", 0);
    rotated(eval, node, index, heads, Operands { cos: 1, sin: 2, positions: 3 })
}

/// Without a number of heads, tables as wide as half a head tell it.
pub(super) fn contrib(eval: &mut Eval, node: NodeId, _: u16, index: &[Id]) -> Res<Id> {
    let call = eval.call(node)?;
    if call.float("scale", 1.0) != 1.0 || call.int("is_packed_batching", 0) != 0 {
        return eval.fault(node, "scales its result, or packs its batch, which is not supported");
    }
    let (dims, tables) = (eval.dims(node, 0)?, eval.dims(node, 2)?);
    let heads = match (call.int("num_heads", 0), &dims[..], &tables[..]) {
        (0, &[_, _, width], &[_, half]) => {
            let head = eval.sym.scaled(half, 2.0);
            eval.sym.exact_quotient(width, head).and_then(|heads| eval.sym.as_int(heads)).unwrap_or(0)
        }
        (heads, ..) => heads,
    };
    rotated(eval, node, index, heads, Operands { cos: 2, sin: 3, positions: 1 })
}

/// Rotates the first columns of every head: operand 0 is `[B, heads, S, width]`, or `[B, S, heads * width]` with a number of heads;
/// cosines and sines are `[B, S, half]`, or tables `[positions, half]` of which positions, `[B, S]` or that of the first token, pick rows.
fn rotated(eval: &mut Eval, node: NodeId, index: &[Id], heads: i64, operands: Operands) -> Res<Id> {
    let call = eval.call(node)?;
    let x = eval.operand(node, 0)?;
    let dims = eval.shape(x)?;
    let (batch, token, column, width) = match (dims.len(), heads) {
        (4, _) => (index[0], index[2], index[3], dims[3]),
        (3, 1..) => {
            let heads = eval.sym.int(heads);
            let Some(width) = eval.sym.exact_quotient(dims[2], heads) else {
                return eval.fault(node, "has a width that its heads do not divide");
            };
            (index[0], index[1], eval.sym.div_mod(index[2], width).1, width)
        }
        _ => return eval.fault(node, "has an operand of unknown layout"),
    };
    let here = eval.element(x, index)?;
    let (width, rotated) = match (eval.sym.as_int(width), call.int("rotary_embedding_dim", 0)) {
        (Some(width), 0) => (width, width),
        (Some(width), rotated) if (1..=width).contains(&rotated) => (width, rotated),
        _ => return eval.fault(node, "has heads of unknown width"),
    };
    let half = eval.sym.int(rotated / 2);
    // Which angle this column has, whether it is the first of its pair, and how far its partner is.
    let (angle, first, step) = if call.int("interleaved", 0) != 0 {
        let two = eval.sym.int(2);
        let (angle, parity) = eval.sym.div_mod(column, two);
        (angle, eval.sym.zero(parity), 1)
    } else {
        let first = eval.sym.less(column, half);
        let second = eval.sym.sub(column, half);
        (eval.sym.select(first, column, second), first, rotated / 2)
    };
    let mut with = |at: usize| -> Res<Id> {
        let table = eval.operand(node, at)?;
        let tables = eval.shape(table)?;
        let row = match eval.graph.operand(node, operands.positions) {
            Some(positions) if eval.shape(positions)?.len() == 1 => {
                let zero = eval.sym.int(0);
                let first = eval.element(positions, &[zero])?;
                vec![eval.sym.add(first, token)]
            }
            Some(positions) => vec![eval.element(positions, &[batch, token])?],
            None => vec![batch, token],
        };
        let at = [&row[..], &[angle]].concat();
        let at = eval.unbroadcast(node, &tables, &at)?;
        eval.element(table, &at)
    };
    let (cos, sin) = (with(operands.cos)?, with(operands.sin)?);
    let mut partner = |step: i64| -> Res<Id> {
        let mut at = index.to_vec();
        if let Some(last) = at.last_mut() {
            *last = eval.sym.plus(*last, step as f64);
        }
        eval.element(x, &at)
    };
    let (after, before) = (partner(step)?, partner(-step)?);
    let kept = eval.sym.mul(here, cos);
    let (minus, plus) = (eval.sym.mul(after, sin), eval.sym.mul(before, sin));
    let (low, high) = (eval.sym.sub(kept, minus), eval.sym.add(kept, plus));
    let turned = eval.sym.select(first, low, high);
    if rotated == width {
        return Ok(turned);
    }
    let rotated = eval.sym.int(rotated);
    let inside = eval.sym.less(column, rotated);
    Ok(eval.sym.select(inside, turned, here))
}

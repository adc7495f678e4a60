//! What has a lowering: one row per op, with the forms of it that have none.

use super::heads::attention_heads;
use super::layout::LANES;
use super::linear::{Q8_COLUMNS, SPLIT_COLUMNS};
use super::pointwise::has_activation;
use q35_bundle::CacheDtype;
use q35_dialects::q35::{Op, Scoring};
use q35_dialects::{Graph, Ty};
use q35_format::{Codec, Group};
use q35_graph::NodeId;
use q35_target::Request;

/// Names of the ops that have a lowering.
pub(crate) const OPS: &[&str] = &[
    "tokens",
    "positions",
    "embed",
    "rms_norm",
    "hadamard",
    "quantize",
    "linear",
    "rotary",
    "rope",
    "append",
    "attention",
    "glu",
    "activate",
    "add",
    "mul",
    "scale",
    "softcap",
    "select",
    "route",
    "expert_linear",
    "combine",
];

fn operand(graph: &Graph, id: NodeId, at: usize) -> Ty {
    graph.operand(id, at).map_or(Ty::Ids { rows: q35_dialects::Rows::Tokens }, |value| *graph.ty(value))
}

fn width(graph: &Graph, id: NodeId, at: usize) -> u64 {
    operand(graph, id, at).matrix().map_or(0, |(_, width)| width)
}

/// Whether heads of so many columns lie in runs of lanes that butterflies can reach.
fn head_fits(columns: u64) -> bool {
    columns.is_power_of_two() && (2..=2 * LANES as u64).contains(&columns)
}

/// Why a node has no lowering; `None` if it has one.
pub(crate) fn refusal(request: &Request<'_>, id: NodeId) -> Option<String> {
    let graph = request.graph;
    let node = graph.node(id);
    if !OPS.contains(&node.op.name()) {
        return Some(format!("op '{}' has no lowering", node.op.name()));
    }
    let unless = |holds: bool, what: String| (!holds).then_some(what);
    match &node.op {
        Op::Linear(op) if !request.params.get(&op.weight)?.codec.has_scales() => {
            let (packed, users) = (request.params.get(&op.weight)?, graph.users(q35_graph::Value { node: id, result: 0 }));
            let routes = users.iter().all(|(user, _)| matches!(graph.node(*user).op, Op::Route(_)));
            unless(
                routes,
                format!(
                    "a layer in codec '{}' that is no router: only 'split' and 'q8' can be multiplied as bytes",
                    packed.codec
                ),
            )
            .or_else(|| unless(packed.rows <= 2 * LANES as u64, format!("a router of {} experts", packed.rows)))
        }
        Op::Route(op) => {
            let from = graph.operand(id, 0).map(|value| &graph.node(value.node).op);
            unless(op.groups == 1, format!("experts that are chosen from {} groups", op.groups))
                .or_else(|| unless(op.scoring != Scoring::Mixer, "experts that a sparse mixer chooses".to_owned()))
                .or_else(|| {
                    unless(matches!(from, Some(Op::Linear(_))), "a routing by something else than a layer's outputs".to_owned())
                })
        }
        Op::Linear(_) | Op::ExpertLinear(_) => {
            let packed = request.params.get(node.op.layer_weight()?)?;
            let most = match packed.codec {
                Codec::Split => SPLIT_COLUMNS,
                Codec::Q8 => Q8_COLUMNS,
                other => return Some(format!("a layer in codec '{other}': only 'split' and 'q8' can be multiplied as bytes")),
            };
            unless(matches!(operand(graph, id, 0), Ty::Quant { .. }), "a layer on activations that are not rounded".to_owned())
                .or_else(|| {
                    unless(packed.group == Group::Row, format!("a scale per {} columns: only one per row", packed.group))
                })
                .or_else(|| {
                    unless(
                        packed.cols <= most,
                        format!("{} columns, of which {most} at most sum up within 32 bits", packed.cols),
                    )
                })
        }
        Op::RmsNorm(op) => {
            let whole = op.group == width(graph, id, 0);
            unless(whole || head_fits(op.group), format!("groups of {} columns", op.group))
        }
        Op::Rope(op) => {
            let whole = matches!(operand(graph, id, 1), Ty::Rotary { half } if 2 * half == op.head_dim);
            unless(
                whole && op.head_dim >= 4 && head_fits(op.head_dim),
                format!("heads of {} columns that are not turned whole, or are no power of two", op.head_dim),
            )
        }
        Op::Append(op) if op.dtype != CacheDtype::F32 => Some(format!("a KV cache in {}: it is kept in f32", op.dtype)),
        Op::Append(op) => match operand(graph, id, 0).matrix() {
            Some((_, keys)) if keys == width(graph, id, 1) => {
                let dim = keys / op.kv_heads;
                let heads = attention_heads(graph, id);
                unless(head_fits(dim), format!("heads of {dim} columns"))
                    .or_else(|| unless(heads.is_some(), "a cache that is read with several numbers of heads".to_owned()))
            }
            _ => Some("keys and values of different widths".to_owned()),
        },
        Op::Glu(op) => unless(has_activation(op.activation), "the exact 'gelu'".to_owned()),
        Op::Activate(op) => unless(has_activation(op.kind), "the exact 'gelu'".to_owned()),
        Op::Add(_) | Op::Mul(_) => {
            unless(width(graph, id, 0) == width(graph, id, 1), "operands of different widths".to_owned())
        }
        _ => None,
    }
}

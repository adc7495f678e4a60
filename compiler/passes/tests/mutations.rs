//! Damaged graphs never make the raising panic: whatever a file may hold ends in a model or in diagnostics.
#![allow(clippy::unwrap_used)] // a test may panic

#[allow(dead_code)]
mod common;

use common::decoder::{PLAIN, decoder};
use common::present;
use common::random::Random;
use q35_graph::source::{Attr, Dim, SourceGraph, SourceOp};
use q35_graph::{NodeId, Tensor, Value};
use q35_passes::raise::{Options, raise};

fn int(random: &mut Random) -> i64 {
    *random.pick(&[i64::MIN, -(1 << 40), -7, -2, -1, 0, 1, 2, 3, 4, 16, 64, 1000, 1 << 31, 1 << 40, i64::MAX])
}

/// Changes one thing somewhere.
fn damage(graph: &mut SourceGraph, random: &mut Random) {
    const OPS: &[&str] = &[
        "Add",
        "Mul",
        "Div",
        "Sub",
        "Mod",
        "Pow",
        "Reshape",
        "Transpose",
        "Slice",
        "Split",
        "Concat",
        "Gather",
        "GatherND",
        "Expand",
        "Tile",
        "Squeeze",
        "Unsqueeze",
        "Range",
        "Shape",
        "Where",
        "Cast",
        "CumSum",
        "ReduceSum",
        "ReduceMean",
        "MatMul",
        "Gemm",
        "Softmax",
        "Attention",
        "RotaryEmbedding",
        "RMSNormalization",
        "Trilu",
        "Clip",
        "ConstantOfShape",
        "Equal",
        "And",
        "Not",
        "Max",
        "Sigmoid",
        "Flatten",
        "Identity",
        "MatMulInteger",
        "DynamicQuantizeLinear",
        "DequantizeLinear",
        "MatMulNBits",
        "GatherBlockQuantized",
        "GroupQueryAttention",
        "SkipSimplifiedLayerNormalization",
        "TopK",
        "NonZero",
        "GatherElements",
        "ScatterElements",
        "ScatterND",
        "OneHot",
        "MoE",
        "QMoE",
    ];
    let ids: Vec<NodeId> = graph.ids().collect();
    let id = *random.pick(&ids);
    let other = *random.pick(&ids);
    let operands = graph.operands(id).len();
    match random.below(7) {
        0 if operands > 0 => graph.clear_operand(id, random.below(operands)),
        1 if operands > 0 && other < id => graph.set_operand(id, random.below(operands + 1), Value { node: other, result: 0 }),
        2 => {
            if let SourceOp::Call(call) = &mut graph.node_mut(id).op {
                call.op = (*random.pick(OPS)).to_owned();
                call.domain = if call.op.ends_with("Quantized")
                    || call.op.starts_with("Group")
                    || call.op.ends_with("NBits")
                    || call.op.starts_with("Skip")
                    || call.op.ends_with("MoE")
                {
                    "com.microsoft".into()
                } else {
                    String::new()
                };
            }
        }
        3 => {
            let (int, list) = (int(random), vec![int(random), int(random), int(random)]);
            let name = *random.pick(&[
                "axis",
                "axes",
                "perm",
                "to",
                "keepdims",
                "start",
                "end",
                "num_heads",
                "kv_num_heads",
                "q_num_heads",
                "K",
                "N",
                "bits",
                "block_size",
                "split",
                "transB",
                "rotary_embedding_dim",
                "interleaved",
                "batch_dims",
                "local_window_size",
                "k",
                "largest",
                "sorted",
                "exclusive",
                "expert_weight_bits",
            ]);
            if let SourceOp::Call(call) = &mut graph.node_mut(id).op {
                let attr =
                    if name.ends_with("es") || name == "perm" || name == "split" { Attr::Ints(list) } else { Attr::Int(int) };
                call.attrs.insert(name.to_owned(), attr);
            }
        }
        4 => {
            let int = int(random);
            if let SourceOp::Const(tensor) = &mut graph.node_mut(id).op
                && !tensor.dtype().is_float()
            {
                *tensor = Tensor::from_i64(tensor.dims().to_vec(), &vec![int; tensor.count() as usize]);
            }
        }
        5 => {
            let dim = int(random).unsigned_abs() >> 20;
            let ty = graph.node_mut(id);
            if matches!(ty.op, SourceOp::Input)
                && let Some(dims) = &mut ty.results[0].dims
            {
                let at = random.below(dims.len() + 1);
                dims.insert(at, Dim::Fixed(dim));
            }
        }
        _ => {
            if let SourceOp::Const(tensor) = &mut graph.node_mut(id).op
                && tensor.count() > 0
            {
                let mut dims = tensor.dims().to_vec();
                dims.reverse();
                dims.push(1);
                *tensor = tensor.reshaped(dims);
            }
        }
    }
}

fn survive(graph: &SourceGraph, times: usize, seed: u64) {
    let mut random = Random(seed);
    for _ in 0..times {
        let mut damaged = graph.clone();
        for _ in 0..=random.below(3) {
            damage(&mut damaged, &mut random);
        }
        let _ = raise(&damaged, &Options::default());
    }
}

#[test]
fn a_damaged_decoder_never_panics() {
    survive(&decoder(&PLAIN), 300, 1);
}

#[test]
fn damaged_exports_never_panic() {
    for (seed, case) in present().iter().enumerate().filter(|(_, c)| !c.name.starts_with("rustdoc")) {
        let imported = q35_import::open(&case.graph).unwrap();
        survive(&imported.graph, 4, seed as u64);
    }
}

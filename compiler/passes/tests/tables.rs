//! A table of embeddings in 4 bits is the same model whether its integers are packed into bytes or elements of their own.
#![allow(clippy::unwrap_used)] // a test may panic

#[allow(dead_code)]
mod common;

use q35_dialects::q35::Op;
use q35_graph::source::{SourceGraph, SourceOp, SourceType};
use q35_graph::{DType, Tensor, Value};
use q35_passes::raise::{Options, raise};

/// What flips the highest bit of both nibbles: a byte counts from 8 where nothing else is said, an integer with a sign from 0.
const SIGNS: u8 = 0x88;

#[test]
fn nibbles_are_integers() {
    let present = common::present();
    let case = present.iter().find(|case| case.name == "llama3-rope-tied--genai-int4").unwrap();
    let mut graph = q35_import::open(&case.graph).unwrap().graph;
    let raised = |graph: &SourceGraph| {
        let model = raise(graph, &Options::default()).unwrap_or_else(|errors| panic!("{errors}"));
        let table = model.graph.ids().find_map(|id| match &model.graph.node(id).op {
            Op::Embed(embed) => Some(model.params[&embed.table].source.clone()),
            _ => None,
        });
        let table = table.unwrap();
        let mut numbers = vec![0.0; (table.rows() * table.cols()) as usize];
        table.read_rows(0..table.rows(), &mut numbers);
        (q35_dialects::print::graph(&model.graph), [table.rows(), table.cols()], numbers)
    };
    let packed = raised(&graph);
    let is_lookup = |op: &SourceOp| matches!(op, SourceOp::Call(call) if call.op == "GatherBlockQuantized");
    let lookup = graph.ids().find(|id| is_lookup(&graph.node(*id).op)).unwrap();
    let bytes = graph.ids().find_map(|id| match &graph.node(id).op {
        SourceOp::Const(tensor) if graph.node(id).results[0].name == "lm_head.MatMul.weight_Q4" => {
            Some(tensor.bytes().to_vec())
        }
        _ => None,
    });
    let integers: Vec<u8> = bytes.unwrap().iter().map(|byte| byte ^ SIGNS).collect();
    let tensor = Tensor::new(DType::I4, packed.1.to_vec(), integers.into(), 0).unwrap();
    let ty = SourceType { name: "table".into(), dtype: Some(DType::I4), dims: None };
    let node = graph.add("table", SourceOp::Const(tensor), &[], vec![ty]);
    graph.set_operand(lookup, 0, Value { node, result: 0 });
    assert_eq!(raised(&graph), packed);
}

//! A sparse mixer as an exporter writes it, and graphs that are nearly one.
#![allow(clippy::unwrap_used)] // a test may panic

use q35_dialects::q35::{Op, Route, Scoring};
use q35_graph::Tensor;
use q35_graph::source::{SourceGraph, SourceOp};
use q35_passes::raise::{Options, raise};
use std::path::Path;

fn graph() -> SourceGraph {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/phimoe--dynamo-batched/model.onnx");
    q35_import::open(&path).unwrap().graph
}

/// The graph with one number for another, wherever it stands.
fn with(from: f32, to: f32) -> SourceGraph {
    let mut graph = graph();
    for id in graph.ids().collect::<Vec<_>>() {
        if let SourceOp::Const(tensor) = &mut graph.node_mut(id).op
            && tensor.dtype().is_float()
            && tensor.count() == 1
            && tensor.number(0) == f64::from(from)
        {
            *tensor = Tensor::from_f32(tensor.dims().to_vec(), &[to]);
        }
    }
    graph
}

fn route(graph: &SourceGraph) -> Result<Route, String> {
    let model = raise(graph, &Options::default()).map_err(|e| e.to_string())?;
    let route = |id| if let Op::Route(route) = &model.graph.node(id).op { Some(route.clone()) } else { None };
    Ok(model.graph.ids().find_map(route).unwrap())
}

#[test]
fn its_margin_is_what_the_graph_says() {
    let plain = Route::plain(Scoring::Mixer, 2);
    assert_eq!(route(&graph()), Ok(Route { margin: 0.6, ..plain.clone() }));
    assert_eq!(route(&with(0.6, 0.02)), Ok(Route { margin: 0.02, ..plain }));
}

/// What is far, or chosen already, has to be left out altogether.
#[test]
fn what_is_no_mixer_is_refused() {
    for other in [with(f32::NEG_INFINITY, -1e4), with(0.6, -0.6)] {
        let why = route(&other).unwrap_err();
        assert!(why.contains("weighs experts in no known way") || why.contains("weighs experts"), "{why}");
    }
    let mut graph = graph();
    let second =
        graph.ids().filter(|id| matches!(&graph.node(*id).op, SourceOp::Call(call) if call.op == "ArgMax")).nth(1).unwrap();
    let scores = graph.ids().find(|id| matches!(&graph.node(*id).op, SourceOp::Call(call) if call.op == "ArgMax")).unwrap();
    // The second choice sees what the first took.
    let all = graph.operand(scores, 0).unwrap();
    graph.set_operand(second, 0, all);
    assert!(route(&graph).is_err());
}

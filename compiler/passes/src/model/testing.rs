//! A small model, and whether two models are the same function.

use super::WeightOptions;
use q35_bundle::{CacheDtype, Interface, ModelFacts, PositionRule};
use q35_dialects::Activations;
use q35_dialects::attr::ParamName;
use q35_dialects::data::{Matrix, ParamValue};
use q35_dialects::interp::{Session, StepInput};
use q35_dialects::model::{LOGITS, Model, Param, ParamRole, Transform};
use q35_dialects::q35::{
    Activation, Add, Append, Attention, Combine, Embed, ExpertLinear, Glu, Linear, Op, Positions, RmsNorm, Rope, RopeStyle,
    Rotary, Route, Scoring, Select, Tokens,
};
use q35_format::{Codec, Group, gauss::Gauss, rotate};
use q35_graph::{Axis, Tensor, Value, WeightView};
use std::collections::BTreeMap;
use std::sync::Arc;

const HIDDEN: u64 = 16;
const HEADS: u64 = 4;
const KV_HEADS: u64 = 2;
const HEAD: u64 = 8;
const FFN: u64 = 24;
const EXPERTS: u64 = 3;
const VOCAB: u64 = 11;

pub(super) fn options(codec: Codec) -> WeightOptions {
    WeightOptions { codec, group: Group::Row, rotate: true, activations: Activations::Int8, kv_cache: CacheDtype::F32 }
}

pub(super) fn count(model: &Model, op: &str) -> usize {
    model.graph.ids().filter(|id| model.graph.node(*id).op.name() == op).count()
}

struct Builder {
    model: Model,
    random: Gauss,
}

impl Builder {
    fn param(&mut self, name: &str, role: ParamRole, rows: u64, cols: u64) -> ParamName {
        let values: Vec<f32> = self
            .random
            .by_ref()
            .take((rows * cols) as usize)
            .map(|x| x * 0.4 + f32::from(u8::from(role == ParamRole::Vector)))
            .collect();
        let tensor = Tensor::from_f32(vec![rows, cols], &values);
        let axes = (Axis { len: rows, stride: cols as i64 }, Axis { len: cols, stride: 1 });
        let view = WeightView::dense(tensor, 0, axes.0, axes.1).unwrap();
        self.model.params.insert(name.into(), Param::new(view, role, name));
        name.into()
    }

    fn add(&mut self, name: &str, op: impl Into<Op>, operands: &[Value]) -> Value {
        self.model.add(name, op, operands).unwrap()
    }

    fn linear(&mut self, name: &str, x: Value, outputs: u64, inputs: u64, bias: bool) -> Value {
        let weight = self.param(name, ParamRole::Linear, outputs, inputs);
        let bias = bias.then(|| self.param(&format!("{name}.bias"), ParamRole::Vector, 1, outputs));
        self.add(name, Linear { weight, bias }, &[x])
    }

    fn norm(&mut self, name: &str, x: Value) -> Value {
        let weight = Some(self.param(name, ParamRole::Vector, 1, HIDDEN));
        self.add(name, RmsNorm { weight, eps: 1e-5, group: HIDDEN }, &[x])
    }
}

/// A decoder of one layer with random weights, biases on values and output projection.
pub(super) fn model(tied: bool) -> Model {
    decoder(tied, |b, n| {
        let gate = b.linear("gate", n, FFN, HIDDEN, false);
        let up = b.linear("up", n, FFN, HIDDEN, false);
        let y = b.add("glu", Glu::plain(Activation::Silu), &[gate, up]);
        b.linear("down", y, HIDDEN, FFN, false)
    })
}

/// The same with a choice of two of three experts in place of the feed-forward layer.
pub(super) fn experts(tied: bool) -> Model {
    decoder(tied, |b, n| {
        let logits = b.param("router", ParamRole::Router, EXPERTS, HIDDEN);
        let logits = b.add("router", Linear { weight: logits, bias: None }, &[n]);
        let route = Route { normalize: true, ..Route::plain(Scoring::Softmax, 2) };
        let routing = b.add("route", route, &[logits]);
        let layer = |b: &mut Builder, name: &str, x: Value, outputs: u64, inputs: u64| {
            let weight = b.param(name, ParamRole::Linear, EXPERTS * outputs, inputs);
            b.add(name, ExpertLinear { weight, bias: None }, &[x, routing])
        };
        let gate = layer(b, "gate", n, FFN, HIDDEN);
        let up = layer(b, "up", n, FFN, HIDDEN);
        let y = b.add("glu", Glu::plain(Activation::Silu), &[gate, up]);
        let y = layer(b, "down", y, HIDDEN, FFN);
        b.add("combine", Combine {}, &[y, routing])
    })
}

fn decoder(tied: bool, feed_forward: impl FnOnce(&mut Builder, Value) -> Value) -> Model {
    let facts = ModelFacts { name: "m".into(), vocab: VOCAB, hidden: HIDDEN, layers: 1, context: 64, parameters: 0 };
    let interface = Interface { inputs: vec![], outputs: vec![], positions: PositionRule::Given };
    let model = Model { graph: Default::default(), params: BTreeMap::new(), facts, interface };
    let mut b = Builder { model, random: Gauss::new(5) };
    let tokens = b.add("tokens", Tokens {}, &[]);
    let positions = b.add("positions", Positions {}, &[]);
    let table = b.param("embed", ParamRole::Embedding, VOCAB, HIDDEN);
    let x = b.add("embed", Embed { table: table.clone() }, &[tokens]);
    let n = b.norm("norm", x);
    let q = b.linear("q", n, HEADS * HEAD, HIDDEN, false);
    let k = b.linear("k", n, KV_HEADS * HEAD, HIDDEN, false);
    let v = b.linear("v", n, KV_HEADS * HEAD, HIDDEN, true);
    let inv_freq = b.param("inv_freq", ParamRole::Vector, 1, HEAD / 2);
    let rotary = b.add("rotary", Rotary { inv_freq, scale: 1.0 }, &[positions]);
    let q = b.add("rope_q", Rope { head_dim: HEAD, style: RopeStyle::Halves }, &[q, rotary]);
    let k = b.add("rope_k", Rope { head_dim: HEAD, style: RopeStyle::Halves }, &[k, rotary]);
    let cache = b.add("append", Append::plain(0, KV_HEADS), &[k, v]);
    let attention = Attention { heads: HEADS, scale: 0.35, window: None, softcap: None, sinks: None };
    let a = b.add("attention", attention, &[q, cache]);
    let o = b.linear("o", a, HIDDEN, HEADS * HEAD, true);
    let x = b.add("residual", Add {}, &[x, o]);
    let n = b.norm("norm2", x);
    let y = feed_forward(&mut b, n);
    let x = b.add("residual2", Add {}, &[x, y]);
    let x = b.add("select", Select {}, &[x]);
    let n = b.norm("norm3", x);
    let head = if tied { table } else { b.param("head", ParamRole::Head, VOCAB, HIDDEN) };
    let logits = b.add("head", Linear { weight: head, bias: None }, &[n]);
    b.model.graph.outputs.push((LOGITS.to_owned(), logits));
    b.model
}

/// The numbers of a parameter after its transforms, unquantized.
fn numbers(param: &Param) -> Matrix {
    let (rows, cols) = (param.source.rows() as usize, param.source.cols() as usize);
    let mut w = vec![0.0; rows * cols];
    param.source.read_rows(0..rows as u64, &mut w);
    for transform in &param.transforms {
        match transform {
            Transform::ScaleColumns(by) => w.iter_mut().enumerate().for_each(|(i, w)| *w *= by.get(0, (i % cols) as u64)),
            Transform::ScaleRows(by) => w.iter_mut().enumerate().for_each(|(i, w)| *w *= by.get(0, (i / cols) as u64)),
            Transform::Scale(factor) => w.iter_mut().for_each(|w| *w *= factor),
            Transform::RotateInput { block, seed } => {
                w.chunks_mut(cols).for_each(|row| rotate::forward(row, *block as usize, *seed))
            }
            Transform::RotateOutput { block, seed } => {
                for col in 0..cols {
                    let mut column: Vec<f32> = w.iter().skip(col).step_by(cols).copied().collect();
                    rotate::forward(&mut column, *block as usize, *seed);
                    w.iter_mut().skip(col).step_by(cols).zip(column).for_each(|(w, y)| *w = y);
                }
            }
        }
    }
    Matrix::new(cols, w)
}

/// Fails unless both models give the same logits, up to rounding.
pub(super) fn assert_same_function(a: &Model, b: &Model) {
    let run = |model: &Model| {
        let values: BTreeMap<ParamName, Arc<ParamValue>> =
            model.params.iter().map(|(name, param)| (name.clone(), Arc::new(ParamValue::Float(numbers(param))))).collect();
        Session::new(&model.graph, &values).step(&StepInput::sequence(&[3, 1, 4, 1, 5], 0)).unwrap()
    };
    let (a, b) = (run(a), run(b));
    let spread = a.data.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    for (a, b) in a.data.iter().zip(&b.data) {
        assert!((a - b).abs() < 1e-5 * spread, "{a} {b}");
    }
}

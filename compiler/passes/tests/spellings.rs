//! One decoder in many spellings: each must raise to the same ops, or say what is wrong with it.
#![allow(clippy::unwrap_used)] // a test may panic

#[allow(dead_code)]
mod common;

use common::decoder::{
    FREQUENCIES, HEADS, HIDDEN, PLAIN, Spelling, WIDTH, Writer, angles, causal, decoder, plain_attention, plain_norm,
    plain_rope,
};
use q35_dialects::Model;
use q35_dialects::q35::{Activation, Op, RopeStyle};
use q35_graph::source::Attr;
use q35_graph::{DType, Tensor, Value};
use q35_passes::raise::{Options, raise};

fn model(spelling: &Spelling) -> Model {
    raise(&decoder(spelling), &Options::default()).unwrap_or_else(|errors| panic!("{errors}"))
}

fn errors(spelling: &Spelling) -> String {
    match raise(&decoder(spelling), &Options::default()) {
        Ok(model) => panic!("raises:\n{}", q35_dialects::print::graph(&model.graph)),
        Err(errors) => errors.to_string(),
    }
}

/// The ops, without names.
fn ops(model: &Model) -> String {
    let text = q35_dialects::print::graph(&model.graph);
    text.lines().map(|line| line.split(" '").next().unwrap_or_default().to_owned() + "\n").collect()
}

/// The one op that `pick` finds.
fn the<T>(model: &Model, pick: impl Fn(&Op) -> Option<T>) -> T {
    let mut found: Vec<T> = model.graph.ids().filter_map(|id| pick(&model.graph.node(id).op)).collect();
    assert_eq!(found.len(), 1);
    found.remove(0)
}

#[test]
fn the_plain_spelling_is_what_it_should_be() {
    let wanted = "\
%0 = tokens : ids<tokens>
%1 = embed(%0) {table = @embed.weight} : act<tokens, 16>
%2 = rms_norm(%1) {eps = 1e-5, group = 16, weight = @layers.0.attention.norm.weight} : act<tokens, 16>
%3 = linear(%2) {weight = @layers.0.attention.q.weight} : act<tokens, 16>
%4 = linear(%2) {weight = @layers.0.attention.k.weight} : act<tokens, 16>
%5 = linear(%2) {weight = @layers.0.attention.v.weight} : act<tokens, 16>
%6 = positions : ids<tokens>
%7 = rotary(%6) {inv_freq = @rotary.inv_freq, scale = 1.0} : angles<4>
%8 = rope(%3, %7) {head_dim = 8, style = halves} : act<tokens, 16>
%9 = rope(%4, %7) {head_dim = 8, style = halves} : act<tokens, 16>
%10 = append(%9, %5) {dtype = f32, kv_heads = 2, layer = 0} : cache<0, 2, 8, 8, f32>
%11 = attention(%8, %10) {heads = 2, scale = 0.5} : act<tokens, 16>
%12 = select(%11) : act<logits, 16>
%13 = linear(%12) {weight = @layers.0.attention.out.weight} : act<logits, 16>
%14 = select(%1) : act<logits, 16>
%15 = add(%14, %13) : act<logits, 16>
%16 = rms_norm(%15) {eps = 1e-5, group = 16, weight = @layers.0.mlp.norm.weight} : act<logits, 16>
%17 = linear(%16) {weight = @layers.0.mlp.gate.weight} : act<logits, 12>
%18 = linear(%16) {weight = @layers.0.mlp.up.weight} : act<logits, 12>
%19 = glu(%17, %18) {activation = silu, alpha = 1.0, offset = 0.0} : act<logits, 12>
%20 = linear(%19) {weight = @layers.0.mlp.down.weight} : act<logits, 16>
%21 = add(%15, %20) : act<logits, 16>
%22 = rms_norm(%21) {eps = 1e-5, group = 16, weight = @norm.weight} : act<logits, 16>
%23 = linear(%22) {weight = @head.weight} : act<logits, 32>
output logits = %23
";
    assert_eq!(ops(&model(&PLAIN)), wanted);
}

#[test]
fn norms_have_many_spellings() {
    let by_products = |w: &mut Writer, x: Value, weight: Value| {
        let (eps, axis) = (w.number(1e-5), w.ints(&[-1]));
        let square = w.op("Mul", &[x, x]);
        let sum = w.op("ReduceSum", &[square, axis]);
        let count = w.number(HIDDEN as f32);
        let mean = w.op("Div", &[sum, count]);
        let shifted = w.op("Add", &[eps, mean]);
        let root = w.op("Sqrt", &[shifted]);
        let normal = w.op("Div", &[x, root]);
        w.op("Mul", &[normal, weight])
    };
    let by_power = |w: &mut Writer, x: Value, weight: Value| {
        let (two, half, eps, axis) = (w.number(2.0), w.number(-0.5), w.number(1e-5), w.ints(&[-1]));
        let square = w.op("Pow", &[x, two]);
        let mean = w.op("ReduceMean", &[square, axis]);
        let shifted = w.op("Add", &[mean, eps]);
        let inverse = w.op("Pow", &[shifted, half]);
        let scaled = w.op("Mul", &[weight, inverse]);
        w.op("Mul", &[scaled, x])
    };
    let fused = |w: &mut Writer, x: Value, weight: Value| {
        w.call("SimplifiedLayerNormalization", &[x, weight], &[("epsilon", Attr::Float(1e-5))])
    };
    let wanted = ops(&model(&PLAIN));
    for norm in [by_products, by_power, fused] {
        assert_eq!(ops(&model(&Spelling { norm, ..PLAIN })), wanted);
    }
}

#[test]
fn a_norm_of_a_norm_is_two_norms() {
    let norm = |w: &mut Writer, x: Value, weight: Value| {
        let ones = w.constant(Tensor::from_f32(vec![1], &[1.0]));
        let x = plain_norm(w, x, ones);
        plain_norm(w, x, weight)
    };
    let twice = ops(&model(&Spelling { norm, ..PLAIN }));
    let without_weight = |line: &&str| line.contains("rms_norm") && line.contains("{eps = 1e-5, group = 16} ");
    assert_eq!(twice.lines().filter(|line| line.contains("rms_norm")).count(), 6);
    assert_eq!(twice.lines().filter(without_weight).count(), 3, "{twice}");
}

#[test]
fn queries_may_grow_by_steps_that_the_context_does_not_reach() {
    // x (1 + 0.1 ln(1 + floor(position / 32))) before the rotation of it.
    let rope = |w: &mut Writer, x: Value, ids: Value, frequencies: Value| {
        let (range, axis, length) = (w.token_range(ids), w.ints(&[1]), w.number(32.0));
        let position = w.call("Cast", &[range], &[("to", Attr::Int(1))]);
        let position = w.op("Unsqueeze", &[position, axis]);
        let step = w.op("Div", &[position, length]);
        let (step, one, tenth) = (w.op("Floor", &[step]), w.number(1.0), w.number(0.1));
        let step = w.op("Add", &[step, one]);
        let step = w.op("Log", &[step]);
        let step = w.op("Mul", &[step, tenth]);
        let factor = w.op("Add", &[step, one]);
        let turned = plain_rope(w, x, ids, frequencies);
        w.op("Mul", &[turned, factor])
    };
    let graph = decoder(&Spelling { rope, ..PLAIN });
    let raised = |context: u64| raise(&graph, &Options { context: Some(context), ..Options::default() });
    assert_eq!(ops(&raised(32).unwrap()), ops(&model(&PLAIN)));
    let text = raised(33).unwrap_err().to_string();
    let wanted = "scales by a step of the position, of which the first ends after 32 tokens: use --context 32 or less";
    assert!(text.contains(wanted), "{text}");
}

#[test]
fn a_norm_may_add_one_to_its_weight() {
    let norm = |w: &mut Writer, x: Value, weight: Value| {
        let one = w.number(1.0);
        let weight = w.op("Add", &[weight, one]);
        plain_norm(w, x, weight)
    };
    let (plain, shifted) = (model(&PLAIN), model(&Spelling { norm, ..PLAIN }));
    assert_eq!(ops(&plain), ops(&shifted));
    let weight = |m: &Model| m.params[&"norm.weight".into()].source.get(0, 3);
    assert_eq!(weight(&shifted), weight(&plain) + 1.0);
}

#[test]
fn linear_layers_have_many_spellings() {
    let flat = |w: &mut Writer, x: Value, weight: Value| {
        let shape = w.op("Shape", &[x]);
        let (start, end, open) = (w.ints(&[0]), w.ints(&[2]), w.ints(&[-1]));
        let leading = w.op("Slice", &[shape, start, end]);
        let target = w.concat(&[leading, open], 0);
        let last = w.call("Shape", &[x], &[("start", Attr::Int(2))]);
        let matrix = w.concat(&[open, last], 0);
        let x = w.op("Reshape", &[x, matrix]);
        let weight = w.transpose(weight, &[1, 0]);
        let y = w.call("Gemm", &[x, weight], &[("transB", Attr::Int(1))]);
        w.op("Reshape", &[y, target])
    };
    let wrapped = |w: &mut Writer, x: Value, weight: Value| {
        let weight = w.op("Identity", &[weight]);
        let y = w.op("MatMul", &[x, weight]);
        w.op("Identity", &[y])
    };
    let alike = |w: &mut Writer, x: Value, weight: Value| {
        let weight = w.op("CastLike", &[weight, x]);
        w.op("MatMul", &[x, weight])
    };
    let fused = |w: &mut Writer, x: Value, weight: Value| {
        let weight = w.transpose(weight, &[1, 0]);
        w.call("com.microsoft:FusedMatMul", &[x, weight], &[("transB", Attr::Int(1))])
    };
    let wanted = ops(&model(&PLAIN));
    for linear in [flat, wrapped, alike, fused] {
        assert_eq!(ops(&model(&Spelling { linear, ..PLAIN })), wanted);
    }
}

#[test]
fn weights_may_lie_in_chunks() {
    // The outputs of every layer, the rows of the embedding, are two constants.
    let chunked = |w: &mut Writer, x: Value, weight: Value| {
        let halves = [(0, 5), (5, i64::MAX)].map(|(from, to)| w.columns(weight, from, to, 1));
        let whole = w.concat(&halves, -1);
        w.op("MatMul", &[x, whole])
    };
    let parts = |w: &mut Writer, x: Value, weight: Value| {
        let tensor = match &w.graph.node(weight.node).op {
            q35_graph::source::SourceOp::Const(tensor) => tensor.clone(),
            _ => unreachable!(),
        };
        let (rows, cols) = (tensor.dims()[0], tensor.dims()[1]);
        let part = |w: &mut Writer, from: u64, to: u64| {
            let at = |i: u64| tensor.number(i / (to - from) * cols + from + i % (to - from)) as f32;
            let numbers: Vec<f32> = (0..rows * (to - from)).map(at).collect();
            w.constant(Tensor::from_f32(vec![rows, to - from], &numbers))
        };
        let halves = [part(w, 0, 5), part(w, 5, cols)];
        let whole = w.concat(&halves, 1);
        w.op("MatMul", &[x, whole])
    };
    let plain = model(&PLAIN);
    for linear in [chunked, parts] {
        let raised = model(&Spelling { linear, ..PLAIN });
        assert_eq!(ops(&raised), ops(&plain));
        let read = |m: &Model| {
            let view = m.params[&"layers.0.mlp.down.weight".into()].source.clone();
            let mut out = vec![0.0; (view.rows() * view.cols()) as usize];
            view.read_rows(0..view.rows(), &mut out);
            out
        };
        assert_eq!(read(&raised), read(&plain));
    }
}

#[test]
fn rotations_have_many_spellings() {
    let halves = |w: &mut Writer, x: Value, ids: Value, frequencies: Value| {
        let angles = angles(w, ids, frequencies);
        let (cos, sin) = (w.op("Cos", &[angles]), w.op("Sin", &[angles]));
        let (a, b) = (w.columns(x, 0, WIDTH / 2, 1), w.columns(x, WIDTH / 2, WIDTH, 1));
        let (ac, bs, bc, r) = (w.op("Mul", &[a, cos]), w.op("Mul", &[b, sin]), w.op("Mul", &[b, cos]), w.op("Mul", &[a, sin]));
        let (low, high) = (w.op("Sub", &[ac, bs]), w.op("Add", &[bc, r]));
        w.concat(&[low, high], -1)
    };
    let by_product = |w: &mut Writer, x: Value, ids: Value, frequencies: Value| {
        let (range, to_column, to_row) = (w.token_range(ids), w.ints(&[1]), w.ints(&[0]));
        let column = w.op("Unsqueeze", &[frequencies, to_column]);
        let row = w.op("Unsqueeze", &[range, to_row]);
        let row = w.call("Cast", &[row], &[("to", Attr::Int(1))]);
        let angles = w.op("MatMul", &[column, row]);
        let angles = w.transpose(angles, &[1, 0]);
        let (cos, sin) = (w.op("Cos", &[angles]), w.op("Sin", &[angles]));
        let axis = w.ints(&[0]);
        let (cos, sin) = (w.op("Unsqueeze", &[cos, axis]), w.op("Unsqueeze", &[sin, axis]));
        w.call("RotaryEmbedding", &[x, cos, sin], &[])
    };
    let wanted = ops(&model(&PLAIN));
    for rope in [halves, by_product] {
        assert_eq!(ops(&model(&Spelling { rope, ..PLAIN })), wanted);
    }
}

#[test]
fn tables_of_cosines_become_frequencies() {
    let rope = |w: &mut Writer, x: Value, ids: Value, _: Value| {
        let table = |w: &mut Writer, f: fn(f64) -> f64| {
            let numbers: Vec<f32> = (0..64)
                .flat_map(|p| FREQUENCIES.iter().chain(&FREQUENCIES).map(move |a| f(f64::from(p as f32 * a)) as f32))
                .collect();
            w.constant(Tensor::from_f32(vec![64, 8], &numbers))
        };
        let (cos, sin, range) = (table(w, f64::cos), table(w, f64::sin), w.token_range(ids));
        let (cos, sin) = (w.op("Gather", &[cos, range]), w.op("Gather", &[sin, range]));
        let (low, high) = (w.columns(x, 0, WIDTH / 2, 1), w.columns(x, WIDTH / 2, i64::MAX, 1));
        let minus = w.op("Neg", &[high]);
        let turned = w.concat(&[minus, low], -1);
        let (a, b) = (w.op("Mul", &[x, cos]), w.op("Mul", &[turned, sin]));
        w.op("Add", &[a, b])
    };
    let raised = model(&Spelling { rope, ..PLAIN });
    assert_eq!(ops(&raised), ops(&model(&PLAIN)));
    let frequencies = &raised.params[&"rotary.inv_freq".into()].source;
    assert!(FREQUENCIES.iter().enumerate().all(|(i, f)| (frequencies.get(0, i as u64) / f - 1.0).abs() < 1e-6));
    assert_eq!(raised.facts.context, 64);
}

/// Rotates by the cosine and sine of rows of a table of 64 angles, the table's element at (position, pair) given.
fn by_angles(w: &mut Writer, x: Value, ids: Value, angle: fn(u32, f32) -> f32) -> Value {
    let numbers: Vec<f32> = (0..64).flat_map(|p| FREQUENCIES.iter().chain(&FREQUENCIES).map(move |f| angle(p, *f))).collect();
    let (table, range) = (w.constant(Tensor::from_f32(vec![64, 8], &numbers)), w.token_range(ids));
    let angles = w.op("Gather", &[table, range]);
    let (cos, sin) = (w.op("Cos", &[angles]), w.op("Sin", &[angles]));
    let (low, high) = (w.columns(x, 0, WIDTH / 2, 1), w.columns(x, WIDTH / 2, i64::MAX, 1));
    let minus = w.op("Neg", &[high]);
    let turned = w.concat(&[minus, low], -1);
    let (a, b) = (w.op("Mul", &[x, cos]), w.op("Mul", &[turned, sin]));
    w.op("Add", &[a, b])
}

#[test]
fn tables_of_angles_become_frequencies() {
    let rope = |w: &mut Writer, x: Value, ids: Value, _: Value| by_angles(w, x, ids, |p, f| p as f32 * f);
    let raised = model(&Spelling { rope, ..PLAIN });
    assert_eq!(ops(&raised), ops(&model(&PLAIN)));
    let frequencies = &raised.params[&"rotary.inv_freq".into()].source;
    assert!(FREQUENCIES.iter().enumerate().all(|(i, f)| (frequencies.get(0, i as u64) / f - 1.0).abs() < 1e-6));
    assert_eq!(raised.facts.context, 64);
    let bent = |w: &mut Writer, x: Value, ids: Value, _: Value| by_angles(w, x, ids, |p, f| (p * p) as f32 * f);
    let text = errors(&Spelling { rope: bent, ..PLAIN });
    assert!(text.starts_with("error[Q35-0202]: Mul rotates by a table 'c13' that holds no angles of positions"), "{text}");
}

#[test]
fn pairs_may_be_interleaved_and_rotations_partial_or_scaled() {
    let interleaved = |w: &mut Writer, x: Value, ids: Value, frequencies: Value| {
        let angles = angles(w, ids, frequencies);
        let (cos, sin) = (w.op("Cos", &[angles]), w.op("Sin", &[angles]));
        let (a, b) = (w.columns(x, 0, WIDTH, 2), w.columns(x, 1, WIDTH, 2));
        let (ac, bs, bc, r) = (w.op("Mul", &[a, cos]), w.op("Mul", &[b, sin]), w.op("Mul", &[b, cos]), w.op("Mul", &[a, sin]));
        let (low, high) = (w.op("Sub", &[ac, bs]), w.op("Add", &[bc, r]));
        let axis = w.ints(&[-1]);
        let (low, high) = (w.op("Unsqueeze", &[low, axis]), w.op("Unsqueeze", &[high, axis]));
        let pairs = w.concat(&[low, high], -1);
        w.reshape(pairs, &[0, 0, 0, WIDTH])
    };
    let raised = model(&Spelling { rope: interleaved, ..PLAIN });
    assert!(
        raised.graph.ids().all(|id| !matches!(&raised.graph.node(id).op, Op::Rope(r) if r.style != RopeStyle::Interleaved))
    );
    let fused = |w: &mut Writer, x: Value, ids: Value, frequencies: Value| {
        let angles = angles(w, ids, frequencies);
        let axis = w.ints(&[0]);
        let (cos, sin) = (w.op("Cos", &[angles]), w.op("Sin", &[angles]));
        let (cos, sin) = (w.op("Unsqueeze", &[cos, axis]), w.op("Unsqueeze", &[sin, axis]));
        w.call("RotaryEmbedding", &[x, cos, sin], &[("interleaved", Attr::Int(1))])
    };
    assert_eq!(ops(&model(&Spelling { rope: fused, ..PLAIN })), ops(&raised));

    // Four of eight columns are turned, by cosines and sines times 1.25.
    let partial = |w: &mut Writer, x: Value, ids: Value, frequencies: Value| {
        let two = w.columns(frequencies, 1, 3, 1);
        let (angles, length) = (angles(w, ids, two), w.number(1.25));
        let (cos, sin) = (w.op("Cos", &[angles]), w.op("Sin", &[angles]));
        let (cos, sin) = (w.op("Mul", &[cos, length]), w.op("Mul", &[sin, length]));
        let (a, b, rest) = (w.columns(x, 0, 2, 1), w.columns(x, 2, 4, 1), w.columns(x, 4, i64::MAX, 1));
        let (ac, bs, bc, r) = (w.op("Mul", &[a, cos]), w.op("Mul", &[b, sin]), w.op("Mul", &[b, cos]), w.op("Mul", &[a, sin]));
        let (low, high) = (w.op("Sub", &[ac, bs]), w.op("Add", &[bc, r]));
        w.concat(&[low, high, rest], -1)
    };
    let raised = model(&Spelling { rope: partial, ..PLAIN });
    assert_eq!(the(&raised, |op| if let Op::Rotary(r) = op { Some(r.scale) } else { None }), 1.25);
    assert_eq!(the(&raised, |op| if let Op::Attention(a) = op { Some(a.scale) } else { None }), 0.5);
    assert!(ops(&raised).contains("angles<2>"));
}

#[test]
fn a_part_of_the_columns_may_turn_in_neighbouring_pairs() {
    // The first or the last four of eight columns, in pairs of neighbours.
    fn turned(w: &mut Writer, x: Value, ids: Value, frequencies: Value, first: i64) -> Value {
        let two = w.columns(frequencies, 1, 3, 1);
        let angles = angles(w, ids, two);
        let (cos, sin) = (w.op("Cos", &[angles]), w.op("Sin", &[angles]));
        let (a, b) = (w.columns(x, first, first + 4, 2), w.columns(x, first + 1, first + 4, 2));
        let (ac, bs, bc, r) = (w.op("Mul", &[a, cos]), w.op("Mul", &[b, sin]), w.op("Mul", &[b, cos]), w.op("Mul", &[a, sin]));
        let (low, high) = (w.op("Sub", &[ac, bs]), w.op("Add", &[bc, r]));
        let axis = w.ints(&[-1]);
        let (low, high) = (w.op("Unsqueeze", &[low, axis]), w.op("Unsqueeze", &[high, axis]));
        let pairs = w.concat(&[low, high], -1);
        let pairs = w.reshape(pairs, &[0, 0, 0, 4]);
        let rest = w.columns(x, 4 - first, 8 - first, 1);
        let parts = if first == 0 { [pairs, rest] } else { [rest, pairs] };
        w.concat(&parts, -1)
    }
    let first = |w: &mut Writer, x: Value, ids: Value, frequencies: Value| turned(w, x, ids, frequencies, 0);
    let last = |w: &mut Writer, x: Value, ids: Value, frequencies: Value| turned(w, x, ids, frequencies, 4);
    for raised in [model(&Spelling { rope: first, ..PLAIN }), model(&Spelling { rope: last, ..PLAIN })] {
        assert!(ops(&raised).contains("angles<2>"));
        assert!(
            raised.graph.ids().all(|id| !matches!(&raised.graph.node(id).op, Op::Rope(r) if r.style != RopeStyle::Interleaved))
        );
    }
}

/// Queries and keys may be normalized after they rotated, before they go into the cache.
#[test]
fn norms_may_follow_rotations() {
    let normed = |w: &mut Writer, x: Value, ids: Value, frequencies: Value| {
        let turned = plain_rope(w, x, ids, frequencies);
        let weight = w.weights(&[WIDTH]);
        plain_norm(w, turned, weight)
    };
    let found = model(&Spelling { rope: normed, ..PLAIN });
    let text = ops(&found);
    for wanted in [
        "%7 = rope(%3, %6) {head_dim = 8, style = halves} : act<tokens, 16>\n%8 = rms_norm(%7) {eps = 1e-5, group = 8, weight = ",
        "%9 = rope(%4, %6) {head_dim = 8, style = halves} : act<tokens, 16>\n%10 = rms_norm(%9) {eps = 1e-5, group = 8, weight = ",
        "%12 = append(%10, %11) {dtype = f32, kv_heads = 2, layer = 0}",
        "%13 = attention(%8, %12) {heads = 2, scale = 0.5}",
    ] {
        assert!(text.contains(wanted), "{wanted}\nis not in\n{text}");
    }
    // Without a weight, and of a length that the cosines have.
    let plain = |w: &mut Writer, x: Value, ids: Value, frequencies: Value| {
        let (half, one) = (w.number(0.5), w.weights(&[1]));
        let turned = plain_rope(w, x, ids, frequencies);
        let turned = w.op("Mul", &[turned, half]);
        plain_norm(w, turned, one)
    };
    assert!(ops(&model(&Spelling { rope: plain, ..PLAIN })).contains("rms_norm(%7) {eps = 4e-5, group = 8}"));
    let of_another = |w: &mut Writer, x: Value, ids: Value, frequencies: Value| {
        let (turned, two, eps, axis) = (plain_rope(w, x, ids, frequencies), w.number(2.0), w.number(1e-5), w.ints(&[-1]));
        let other = w.op("Add", &[turned, x]);
        let square = w.op("Pow", &[other, two]);
        let mean = w.op("ReduceMean", &[square, axis]);
        let shifted = w.op("Add", &[mean, eps]);
        let root = w.op("Sqrt", &[shifted]);
        w.op("Div", &[turned, root])
    };
    assert!(errors(&Spelling { rope: of_another, ..PLAIN }).contains("scales rotated columns by a norm of something else"));
}

#[test]
fn a_rotation_by_other_rules_is_refused() {
    // The sine's sign is turned round in both halves.
    let backwards = |w: &mut Writer, x: Value, ids: Value, frequencies: Value| {
        let minus = w.op("Neg", &[frequencies]);
        plain_rope(w, x, ids, minus)
    };
    // Turning backwards is turning by negative frequencies.
    assert!(model(&Spelling { rope: backwards, ..PLAIN }).params[&"rotary.inv_freq".into()].source.get(0, 0) < 0.0);
    // So is the other half with the sign.
    let round = |w: &mut Writer, x: Value, ids: Value, frequencies: Value| {
        let angles = angles(w, ids, frequencies);
        let both = w.concat(&[angles, angles], -1);
        let (cos, sin) = (w.op("Cos", &[both]), w.op("Sin", &[both]));
        let (low, high) = (w.columns(x, 0, WIDTH / 2, 1), w.columns(x, WIDTH / 2, i64::MAX, 1));
        let minus = w.op("Neg", &[low]);
        let turned = w.concat(&[high, minus], -1);
        let (a, b) = (w.op("Mul", &[x, cos]), w.op("Mul", &[turned, sin]));
        w.op("Add", &[a, b])
    };
    let raised = model(&Spelling { rope: round, ..PLAIN });
    assert_eq!(ops(&raised), ops(&model(&PLAIN)));
    assert_eq!(raised.params[&"rotary.inv_freq".into()].source.get(0, 1), -FREQUENCIES[1]);
    let crooked = |w: &mut Writer, x: Value, ids: Value, frequencies: Value| {
        let angles = angles(w, ids, frequencies);
        let both = w.concat(&[angles, angles], -1);
        let (cos, sin) = (w.op("Cos", &[both]), w.op("Sin", &[both]));
        let (low, high) = (w.columns(x, 0, WIDTH / 2, 1), w.columns(x, WIDTH / 2, i64::MAX, 1));
        let turned = w.concat(&[high, low], -1);
        let (a, b) = (w.op("Mul", &[x, cos]), w.op("Mul", &[turned, sin]));
        w.op("Add", &[a, b])
    };
    assert!(errors(&Spelling { rope: crooked, ..PLAIN }).contains("rotates columns in no regular way"));
}

#[test]
fn attention_has_many_spellings() {
    let eager = |w: &mut Writer, q: Value, k: Value, v: Value, ids: Value| {
        let k = w.transpose(k, &[0, 1, 3, 2]);
        let scores = w.op("MatMul", &[q, k]);
        let root = w.number(2.0);
        let scores = w.op("Div", &[scores, root]);
        let (seen, low) = (causal(w, ids), w.number(f32::MIN));
        let scores = w.op("Where", &[seen, scores, low]);
        let p = w.call("Softmax", &[scores], &[("axis", Attr::Int(3))]);
        w.op("MatMul", &[p, v])
    };
    let stacked = |w: &mut Writer, q: Value, k: Value, v: Value, ids: Value| {
        let shape = w.op("Shape", &[q]);
        let stack = |w: &mut Writer, x: Value| {
            let (open, tail) = (w.ints(&[-1]), w.call("Shape", &[q], &[("start", Attr::Int(2))]));
            let target = w.concat(&[open, tail], 0);
            w.op("Reshape", &[x, target])
        };
        let [q, k, v] = [q, k, v].map(|x| stack(w, x));
        let k = w.transpose(k, &[0, 2, 1]);
        let scale = w.number(0.5);
        let scores = w.op("MatMul", &[q, k]);
        let scores = w.op("Mul", &[scale, scores]);
        let (low, one) = (w.constant(Tensor::from_f32(vec![1], &[f32::MIN])), w.int(1));
        let range = w.call("Shape", &[q], &[("start", Attr::Int(1)), ("end", Attr::Int(2))]);
        let square = w.concat(&[range, range], 0);
        let filled = w.call("ConstantOfShape", &[square], &[("value", Attr::Tensor(Tensor::from_f32(vec![1], &[f32::MIN])))]);
        let _ = (low, ids);
        let mask = w.call("Trilu", &[filled, one], &[("upper", Attr::Int(1))]);
        let scores = w.op("Add", &[scores, mask]);
        let p = w.op("Softmax", &[scores]);
        let y = w.op("MatMul", &[p, v]);
        w.op("Reshape", &[y, shape])
    };
    let by_number = |w: &mut Writer, q: Value, k: Value, v: Value, ids: Value| {
        let k = w.transpose(k, &[0, 1, 3, 2]);
        let scores = w.op("MatMul", &[q, k]);
        let half = w.number(0.5);
        let scores = w.op("Mul", &[scores, half]);
        let seen = causal(w, ids);
        let seen = w.call("Cast", &[seen], &[("to", Attr::Int(1))]);
        let (one, low) = (w.number(1.0), w.number(-10000.0));
        let unseen = w.op("Sub", &[one, seen]);
        let bias = w.op("Mul", &[unseen, low]);
        let scores = w.op("Add", &[scores, bias]);
        let p = w.op("Softmax", &[scores]);
        let (guard, zero) = (w.op("IsNaN", &[p]), w.number(0.0));
        let p = w.op("Where", &[guard, zero, p]);
        w.op("MatMul", &[p, v])
    };
    let fused = |w: &mut Writer, q: Value, k: Value, v: Value, _: Value| {
        w.call("Attention", &[q, k, v], &[("is_causal", Attr::Int(1)), ("scale", Attr::Float(0.5))])
    };
    let wanted = ops(&model(&PLAIN));
    for attention in [eager, stacked, by_number, fused] {
        assert_eq!(ops(&model(&Spelling { attention, ..PLAIN })), wanted);
    }
}

#[test]
fn scores_may_be_capped_and_windows_narrow() {
    let attention = |w: &mut Writer, q: Value, k: Value, v: Value, ids: Value| {
        let k = w.transpose(k, &[0, 1, 3, 2]);
        let scores = w.op("MatMul", &[q, k]);
        let (half, cap) = (w.number(0.5), w.number(30.0));
        let scores = w.op("Mul", &[scores, half]);
        let scores = w.op("Div", &[scores, cap]);
        let scores = w.op("Tanh", &[scores]);
        let scores = w.op("Mul", &[scores, cap]);
        let (range, axis, three) = (w.token_range(ids), w.ints(&[1]), w.int(3));
        let rows = w.op("Unsqueeze", &[range, axis]);
        let distance = w.op("Sub", &[rows, range]);
        let near = w.op("Less", &[distance, three]);
        let seen = causal(w, ids);
        let seen = w.op("And", &[near, seen]);
        let (zero, low) = (w.number(0.0), w.number(f32::NEG_INFINITY));
        let bias = w.op("Where", &[seen, zero, low]);
        let scores = w.op("Add", &[scores, bias]);
        let p = w.op("Softmax", &[scores]);
        w.op("MatMul", &[p, v])
    };
    let raised = model(&Spelling { attention, ..PLAIN });
    let found = the(&raised, |op| if let Op::Attention(a) = op { Some((a.scale, a.window, a.softcap)) } else { None });
    assert_eq!(found, (0.5, Some(3), Some(30.0)));
}

/// Attention with a mask that is made for it, `[S, S]` or more, and whatever puts it on the scores.
fn masked(w: &mut Writer, q: Value, k: Value, v: Value, put: impl Fn(&mut Writer, Value) -> Value) -> Value {
    let k = w.transpose(k, &[0, 1, 3, 2]);
    let scores = w.op("MatMul", &[q, k]);
    let half = w.number(0.5);
    let scores = w.op("Mul", &[scores, half]);
    let scores = put(w, scores);
    let p = w.op("Softmax", &[scores]);
    w.op("MatMul", &[p, v])
}

/// `x` at all pairs of tokens, as the one that is looked at and as the one that looks, each `[B, 1, S, S]` or to be made so.
fn pairs(w: &mut Writer, x: Value) -> (Value, Value) {
    let (entry, own) = (w.ints(&[1, 2]), w.ints(&[1, 3]));
    (w.op("Unsqueeze", &[x, entry]), w.op("Unsqueeze", &[x, own]))
}

/// `positions[t] <= positions[s]`, within the same run of positions that rise by one.
fn by_positions(w: &mut Writer, scores: Value) -> Value {
    let positions = w.input("position_ids", DType::I64, &["batch", "sequence"]);
    let (one, axis, low) = (w.int(1), w.int(1), w.number(f32::NEG_INFINITY));
    let (first, all_but_last) = (w.columns(positions, 0, 1, 1), w.columns(positions, 0, -1, 1));
    let before = w.op("Sub", &[first, one]);
    let before = w.concat(&[before, all_but_last], 1);
    let step = w.op("Sub", &[positions, before]);
    let goes_on = w.op("Equal", &[step, one]);
    let starts = w.op("Not", &[goes_on]);
    let starts = w.call("Cast", &[starts], &[("to", Attr::Int(7))]);
    let sequence = w.op("CumSum", &[starts, axis]);
    let ((entry, own), (of_entry, of_own)) = (pairs(w, positions), pairs(w, sequence));
    let (earlier, same) = (w.op("LessOrEqual", &[entry, own]), w.op("Equal", &[of_own, of_entry]));
    let seen = w.op("And", &[earlier, same]);
    w.op("Where", &[seen, scores, low])
}

#[test]
fn masks_may_compare_positions_that_are_given() {
    let attention = |w: &mut Writer, q: Value, k: Value, v: Value, _: Value| masked(w, q, k, v, by_positions);
    assert_eq!(ops(&model(&Spelling { attention, ..PLAIN })), ops(&model(&PLAIN)));
    // Beside padding, a position says nothing of an index.
    let beside = |w: &mut Writer, q: Value, k: Value, v: Value, _: Value| {
        masked(w, q, k, v, |w, scores| {
            let padding = w.input("attention_mask", DType::I64, &["batch", "sequence"]);
            let (entry, zero, low) = (pairs(w, padding).0, w.int(0), w.number(f32::NEG_INFINITY));
            let unseen = w.op("Equal", &[entry, zero]);
            let scores = by_positions(w, scores);
            w.op("Where", &[unseen, low, scores])
        })
    };
    let text = errors(&Spelling { attention: beside, ..PLAIN });
    assert!(text.contains("has a mask that is neither causal, nor a window, nor padding"), "{text}");
    // Later ones are none that may be seen.
    let future = |w: &mut Writer, q: Value, k: Value, v: Value, _: Value| {
        masked(w, q, k, v, |w, scores| {
            let positions = w.input("position_ids", DType::I64, &["batch", "sequence"]);
            let ((entry, own), low) = (pairs(w, positions), w.number(f32::NEG_INFINITY));
            let seen = w.op("LessOrEqual", &[own, entry]);
            w.op("Where", &[seen, scores, low])
        })
    };
    let text = errors(&Spelling { attention: future, ..PLAIN });
    assert!(text.contains("lets tokens see tokens that come after them"), "{text}");
}

/// Numbers of a table of 48 by 48 tokens.
fn square(w: &mut Writer, ids: Value, dtype: DType, f: fn(i64, i64) -> f32) -> Value {
    let numbers: Vec<f32> = (0..48 * 48).map(|i| f(i / 48, i % 48)).collect();
    let table = match dtype {
        DType::Bool => {
            Tensor::new(dtype, vec![48, 48], numbers.iter().map(|x| *x as u8).collect::<Vec<u8>>().into(), 0).unwrap()
        }
        _ => Tensor::from_f32(vec![48, 48], &numbers),
    };
    let (table, range) = (w.constant(table), w.token_range(ids));
    let rows = w.op("Gather", &[table, range]);
    w.call("Gather", &[rows, range], &[("axis", Attr::Int(1))])
}

#[test]
fn masks_may_be_constants() {
    let added = |w: &mut Writer, q: Value, k: Value, v: Value, ids: Value| {
        masked(w, q, k, v, |w, scores| {
            let table = square(w, ids, DType::F32, |s, t| if t <= s && t > s - 7 { 0.0 } else { f32::MIN });
            w.op("Add", &[scores, table])
        })
    };
    // The window by itself is no causal mask, and both together are one.
    let apart = |w: &mut Writer, q: Value, k: Value, v: Value, ids: Value| {
        masked(w, q, k, v, |w, scores| {
            let window = square(w, ids, DType::Bool, |s, t| f32::from(u8::from(t > s - 7)));
            let (causal, low) = (causal(w, ids), w.number(f32::NEG_INFINITY));
            let seen = w.op("And", &[window, causal]);
            w.op("Where", &[seen, scores, low])
        })
    };
    for attention in [added, apart] {
        let raised = model(&Spelling { attention, ..PLAIN });
        assert_eq!(the(&raised, |op| if let Op::Attention(a) = op { Some((a.scale, a.window)) } else { None }), (0.5, Some(7)));
        assert_eq!(raised.facts.context, 48);
    }
    let slanted = |w: &mut Writer, q: Value, k: Value, v: Value, ids: Value| {
        masked(w, q, k, v, |w, scores| {
            let table = square(w, ids, DType::F32, |s, t| if 2 * t <= s { 0.0 } else { f32::MIN });
            w.op("Add", &[scores, table])
        })
    };
    let text = errors(&Spelling { attention: slanted, ..PLAIN });
    assert!(text.contains("that is neither causal nor a window"), "{text}");
    let smooth = |w: &mut Writer, q: Value, k: Value, v: Value, ids: Value| {
        masked(w, q, k, v, |w, scores| {
            let table = square(w, ids, DType::F32, |s, t| if t <= s { (t - s) as f32 } else { f32::MIN });
            w.op("Add", &[scores, table])
        })
    };
    let text = errors(&Spelling { attention: smooth, ..PLAIN });
    assert!(text.contains("weighs values with scores of no known form"), "{text}");
}

#[test]
fn a_mask_that_shows_the_future_is_refused() {
    let attention = |w: &mut Writer, q: Value, k: Value, v: Value, _: Value| {
        let k = w.transpose(k, &[0, 1, 3, 2]);
        let scores = w.op("MatMul", &[q, k]);
        let p = w.op("Softmax", &[scores]);
        w.op("MatMul", &[p, v])
    };
    let text = errors(&Spelling { attention, ..PLAIN });
    assert_eq!(text, "error[Q35-0202]: MatMul lets tokens see tokens that come after them\n  at node 'MatMul_4'");
}

#[test]
fn gates_have_many_functions() {
    let spelled = |w: &mut Writer, gate: Value, up: Value| {
        let (minus, one) = (w.op("Neg", &[gate]), w.number(1.0));
        let exp = w.op("Exp", &[minus]);
        let bottom = w.op("Add", &[one, exp]);
        let silu = w.op("Div", &[gate, bottom]);
        w.op("Mul", &[up, silu])
    };
    assert_eq!(ops(&model(&Spelling { gate: spelled, ..PLAIN })), ops(&model(&PLAIN)));
    let gelu = |w: &mut Writer, gate: Value, up: Value| {
        let (root, one, half) = (w.number(std::f32::consts::SQRT_2), w.number(1.0), w.number(0.5));
        let inner = w.op("Div", &[gate, root]);
        let erf = w.op("Erf", &[inner]);
        let sum = w.op("Add", &[erf, one]);
        let product = w.op("Mul", &[gate, sum]);
        let gelu = w.op("Mul", &[product, half]);
        w.op("Mul", &[gelu, up])
    };
    let by_tanh = |w: &mut Writer, gate: Value, up: Value| {
        let gelu = w.call("Gelu", &[gate], &[("approximate", Attr::Str("tanh".to_owned()))]);
        w.op("Mul", &[gelu, up])
    };
    let relu = |w: &mut Writer, gate: Value, up: Value| {
        let relu = w.op("Relu", &[gate]);
        w.op("Mul", &[relu, up])
    };
    let quick = |w: &mut Writer, gate: Value, up: Value| {
        let silu = w.call("com.microsoft:QuickGelu", &[gate], &[("alpha", Attr::Float(1.0))]);
        w.op("Mul", &[silu, up])
    };
    assert_eq!(ops(&model(&Spelling { gate: quick, ..PLAIN })), ops(&model(&PLAIN)));
    let of = |gate| the(&model(&Spelling { gate, ..PLAIN }), |op| if let Op::Glu(g) = op { Some(g.activation) } else { None });
    assert_eq!(of(gelu), Activation::Gelu);
    assert_eq!(of(by_tanh), Activation::GeluTanh);
    assert_eq!(of(relu), Activation::Relu);
}

#[test]
fn embeddings_may_be_scaled_and_logits_capped() {
    let embedding = |w: &mut Writer, x: Value| {
        let root = w.number(3.0);
        w.op("Mul", &[x, root])
    };
    let logits = |w: &mut Writer, x: Value| {
        let cap = w.number(20.0);
        let x = w.op("Div", &[x, cap]);
        let x = w.op("Tanh", &[x]);
        w.op("Mul", &[x, cap])
    };
    let raised = model(&Spelling { embedding, logits, ..PLAIN });
    assert_eq!(the(&raised, |op| if let Op::Softcap(c) = op { Some(c.cap) } else { None }), 20.0);
    assert_eq!(the(&raised, |op| if let Op::Scale(s) = op { Some(s.factor) } else { None }), 3.0);
}

#[test]
fn every_problem_is_named_at_once() {
    let gate = |w: &mut Writer, gate: Value, up: Value| {
        let s = w.op("Sin", &[gate]);
        w.op("Mul", &[s, up])
    };
    let logits = |w: &mut Writer, x: Value| w.op("Exp", &[x]);
    let text = errors(&Spelling { gate, logits, ..PLAIN });
    assert_eq!(text.matches("error[Q35-0202]").count(), 2, "{text}");
    assert!(text.contains("Exp") && text.contains("Sin"), "{text}");
    let unknown = |w: &mut Writer, x: Value, weight: Value| w.op("GroupNormalization", &[x, weight]);
    let text = errors(&Spelling { norm: unknown, ..PLAIN });
    assert_eq!(
        text,
        "error[Q35-0201]: op 'GroupNormalization' is not supported; the model uses it 3 times\n  \
         at nodes 'GroupNormalization_0', 'GroupNormalization_1', 'GroupNormalization_2'"
    );
    // Ops that nobody knows and known ones that make no sense, in one list.
    let logits = |w: &mut Writer, x: Value| w.op("Foo", &[x]);
    let text = errors(&Spelling { gate, logits, ..PLAIN });
    assert!(text.starts_with("error[Q35-0201]: op 'Foo' is not supported; the model uses it once\n  at node 'Foo_"), "{text}");
    assert!(text.matches("error[").count() == 2 && text.contains("Sin"), "{text}");
}

#[test]
fn a_graph_without_tokens_is_no_decoder() {
    let mut w = Writer::default();
    let image = w.input("pixels", DType::F32, &["1", "3", "8", "8"]);
    let weight = w.weights(&[4, 3, 3, 3]);
    let y = w.op("Conv", &[image, weight]);
    w.graph.outputs.push(("y".to_owned(), y));
    let Err(errors) = raise(&w.graph, &Options::default()) else { panic!("raises") };
    assert_eq!(
        errors.to_string(),
        "error[Q35-0205]: this graph is not a decoder that maps tokens to logits: no input of whole numbers picks rows of an embedding table\n  \
         help: export the model for text generation, with token ids as input and logits as output"
    );
}

#[test]
fn heads_are_shared_by_blocks() {
    // Keys and values of one head serve both query heads.
    let attention = |w: &mut Writer, q: Value, k: Value, v: Value, ids: Value| {
        let one = |w: &mut Writer, x: Value| {
            let (start, end, axis) = (w.ints(&[0]), w.ints(&[1]), w.ints(&[1]));
            let x = w.op("Slice", &[x, start, end, axis]);
            let shape = w.ints(&[1, HEADS, 1, 1]);
            w.op("Expand", &[x, shape])
        };
        let (k, v) = (one(w, k), one(w, v));
        plain_attention(w, q, k, v, ids)
    };
    let raised = model(&Spelling { attention, ..PLAIN });
    assert_eq!(the(&raised, |op| if let Op::Append(a) = op { Some(a.kv_heads) } else { None }), 1);
    assert_eq!(raised.params[&"layers.0.attention.k.weight".into()].source.rows(), WIDTH as u64);
}

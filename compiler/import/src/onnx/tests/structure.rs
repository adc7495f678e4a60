//! What leaves the importer for each construct of the format, as printed graphs.

use super::*;
use q35_graph::source::{Attr, SourceOp};

#[test]
fn constants_in_every_form() {
    let constant =
        |name: &str, attribute: Attribute| Node { attribute: vec![attribute], ..node("Constant", name, &[], &[name]) };
    let typed = |data_type, dims: &[i64]| Tensor { data_type, dims: dims.to_vec(), ..Tensor::default() };
    let nodes = vec![
        constant("i", Attribute::int("value_int", -7)),
        constant("is", Attribute::ints("value_ints", &[1, 2])),
        constant("f", Attribute { f: 0.5, ..Attribute::of_kind("value_float", kind::FLOAT) }),
        constant("fs", Attribute { floats: vec![1.5], ..Attribute::of_kind("value_floats", kind::FLOATS) }),
        constant(
            "t",
            Attribute {
                t: Some(Box::new(Tensor::raw("", 10, &[2], vec![0x00, 0x3C, 0x00, 0xC0]))),
                ..Attribute::of_kind("value", kind::TENSOR)
            },
        ),
    ];
    let initializers = vec![
        Tensor { name: "f32".into(), float_data: vec![1.0, -2.0], ..typed(1, &[2, 1]) },
        Tensor { name: "f16".into(), int32_data: vec![0x3C00], ..typed(10, &[1]) },
        Tensor { name: "bf16".into(), int32_data: vec![0xBF80], ..typed(16, &[]) },
        Tensor { name: "u8".into(), int32_data: vec![255], ..typed(2, &[1]) },
        Tensor { name: "i8".into(), int32_data: vec![-3], ..typed(3, &[1]) },
        Tensor { name: "bool".into(), int32_data: vec![1, 0], ..typed(9, &[2]) },
        Tensor { name: "i4".into(), int32_data: vec![0x1F, 0x02], ..typed(22, &[3]) },
        Tensor { name: "i32".into(), int32_data: vec![i32::MIN], ..typed(6, &[1]) },
        Tensor { name: "i64".into(), int64_data: vec![i64::MIN], ..typed(7, &[1]) },
        Tensor { name: "u32".into(), uint64_data: vec![u32::MAX.into()], ..typed(12, &[1]) },
        Tensor { name: "u64".into(), uint64_data: vec![1 << 40], ..typed(13, &[1]) },
        Tensor { name: "f64".into(), double_data: vec![0.1], ..typed(11, &[1]) },
        Tensor { name: "none".into(), ..typed(7, &[0]) },
    ];
    let graph = Graph { initializer: initializers, ..graph(&["f32"], nodes, &["t"]) };
    assert_eq!(
        printed(&model(graph)),
        "\
%0 = const {[1.0, -2.0]} : f32[2,1] @ f32
%1 = const {[1.0]} : f16[1] @ f16
%2 = const {[-1.0]} : bf16[] @ bf16
%3 = const {[255]} : u8[1] @ u8
%4 = const {[-3]} : i8[1] @ i8
%5 = const {[1, 0]} : bool[2] @ bool
%6 = const {[-1, 1, 2]} : i4[3] @ i4
%7 = const {[-2147483648]} : i32[1] @ i32
%8 = const {[-9223372036854775808]} : i64[1] @ i64
%9 = const {[4294967295]} : u32[1] @ u32
%10 = const {[1099511627776]} : u64[1] @ u64
%11 = const {[0.1]} : f64[1] @ f64
%12 = const {[]} : i64[0] @ none
%13 = const {[-7]} : i64[] @ i
%14 = const {[1, 2]} : i64[2] @ is
%15 = const {[0.5]} : f32[] @ f
%16 = const {[1.5]} : f32[1] @ fs
%17 = const {[1.0, -2.0]} : f16[2] @ t
return t=%17
"
    );
}

#[test]
fn nodes_may_come_in_any_order_and_without_names() {
    let nodes = vec![
        node("Mul", "last", &["b", "", "x"], &["y"]),
        node("Split", "", &["a"], &["", "b"]),
        Node { domain: "ai.onnx".into(), ..node("Neg", "first", &["x"], &["a"]) },
    ];
    let mut graph = graph(&[], nodes, &["y"]);
    graph.input = vec![ValueInfo::tensor("x", FLOAT, &["batch", "7", "16"])];
    graph.value_info = vec![ValueInfo::tensor("b", FLOAT, &["batch + 1"])];
    assert_eq!(
        printed(&model(graph)),
        "\
%0 = input : f32[batch,7,16] @ x
%1 = Neg(%0) : ? @ first
%2, %3 = Split(%1) : ?, f32[batch + 1] @ Split_1(b)
%4 = Mul(%3, _, %0) : ? @ last
return y=%4
"
    );
}

/// `outer(x; scale=3) = inner(x, absent; k=scale)`, `inner(a, b; k, j=default) = Op(a, b; k, j)`, `pass(x) = x`.
#[test]
fn functions_are_inlined_with_their_attributes() {
    let reference = |name: &str, to: &str| Attribute { ref_attr_name: to.into(), ..Attribute::of_kind(name, kind::INT) };
    let inner_node = Node {
        attribute: vec![reference("k", "k"), reference("j", "j"), reference("left_out", "l")],
        ..node("Op", "op", &["a", "b"], &["r"])
    };
    let inner =
        Function { attribute_proto: vec![Attribute::int("j", 9)], ..function("inner", &["a", "b"], vec![inner_node], &["r"]) };
    let inner_call = Node { attribute: vec![reference("k", "scale")], ..call("inner", "in", &["x"], &["t"]) };
    let outer = function("outer", &["x"], vec![node("Exp", "", &["t"], &["u"]), inner_call], &["u", "t"]);
    let pass = function("pass", &["x"], vec![], &["x"]);
    let outer_call = Node { attribute: vec![Attribute::int("scale", 3)], ..call("outer", "out", &["p"], &["y", "z"]) };
    let mut graph = graph(&["x"], vec![outer_call, call("pass", "id", &["x"], &["p"])], &["y", "z", "p"]);
    graph.value_info = vec![ValueInfo::tensor("z", FLOAT, &["5"])];
    let model = Model { functions: vec![inner, outer, pass], ..model(graph) };
    assert_eq!(
        printed(&model),
        "\
%0 = input : ? @ x
%1 = Op(%0) {j=9, k=3} : f32[5] @ out/in/op
%2 = Exp(%1) : ? @ out/Exp_0(u)
return y=%2, z=%1, p=%0
"
    );
    let graph = open(&model).unwrap().graph;
    let named: Vec<_> = graph.ids().map(|id| graph.node(id).results[0].name.clone()).collect();
    assert_eq!(named, ["x", "z", "y"]);
}

/// Values that the bodies of one node read from outside become its operands and inputs of every body.
#[test]
fn captured_values_become_inputs() {
    let deep = graph(&[], vec![node("Add", "deep", &["w", "inner"], &["d"])], &["d"]);
    let deep_if = Node { attribute: vec![graph_attribute("then_branch", deep)], ..node("If", "nested", &["c"], &["n"]) };
    let then_branch = graph(&[], vec![node("Neg", "neg", &["x"], &["inner"]), deep_if], &["n"]);
    let mut else_branch = graph(&[], vec![], &["k"]);
    else_branch.initializer = vec![Tensor::i64s("k", &[], &[5])];
    let branches = vec![graph_attribute("then_branch", then_branch), graph_attribute("else_branch", else_branch)];
    let choose = Node { attribute: branches, ..node("If", "choose", &["c"], &["y"]) };
    assert_eq!(
        printed(&model(graph(&["c", "x", "w"], vec![choose], &["y"]))),
        "\
%0 = input : ? @ c
%1 = input : ? @ x
%2 = input : ? @ w
%3 = If(%0, %1, %0, %2) {else_branch={
  %0 = input : ? @ x
  %1 = input : ? @ c
  %2 = input : ? @ w
  %3 = const {[5]} : i64[] @ k
  return k=%3
}, then_branch={
  %0 = input : ? @ x
  %1 = input : ? @ c
  %2 = input : ? @ w
  %3 = Neg(%0) : ? @ neg
  %4 = If(%1, %2, %3) {then_branch={
    %0 = input : ? @ w
    %1 = input : ? @ inner
    %2 = Add(%0, %1) : ? @ deep
    return d=%2
  }} : ? @ nested
  return n=%4
}} : ? @ choose
return y=%3
"
    );
}

/// A body's own inputs come before the captured ones, which are counted; absent ones are not.
#[test]
fn captured_values_are_counted() {
    let step = graph(&["i", "go", "state"], vec![node("Add", "add", &["state", "x", "b"], &["next"])], &["go", "next"]);
    let body = graph_attribute("body", step);
    let again = Node { attribute: vec![body], ..node("Loop", "loop", &["n", "", "x"], &["r"]) };
    let functions = vec![function("f", &["n", "x", "b"], vec![again], &["r"])];
    let model = Model { functions, ..model(graph(&["n", "x"], vec![call("f", "c", &["n", "x"], &["y"])], &["y"])) };
    let graph = open(&model).unwrap().graph;
    let bodies: Vec<_> = graph
        .ids()
        .filter_map(|id| match &graph.node(id).op {
            SourceOp::Call(call) => call.attrs.get("body"),
            _ => None,
        })
        .collect();
    let [Attr::Graph(body)] = bodies[..] else { panic!("{bodies:?}") };
    assert_eq!(body.captured, 1);
    assert!(
        body.graph
            .to_string()
            .starts_with("%0 = input : ? @ c/i\n%1 = input : ? @ c/go\n%2 = input : ? @ c/state\n%3 = input : ? @ x\n"),
        "{}",
        body.graph
    );
}

/// What the caller of a function leaves out is absent in the function's subgraphs too.
#[test]
fn absent_values_stay_absent_in_subgraphs() {
    let body = graph(&[], vec![node("Op", "op", &["b", "a"], &["o"])], &["o"]);
    let choose = Node { attribute: vec![graph_attribute("then_branch", body)], ..node("If", "if", &["a"], &["r"]) };
    let functions = vec![function("f", &["a", "b"], vec![choose], &["r"])];
    assert_eq!(
        printed(&Model { functions, ..model(graph(&["x"], vec![call("f", "c", &["x"], &["y"])], &["y"])) }),
        "\
%0 = input : ? @ x
%1 = If(%0, %0) {then_branch={
  %0 = input : ? @ x
  %1 = Op(_, %0) : ? @ c/op
  return o=%1
}} : ? @ c/if
return y=%1
"
    );
}

#[test]
fn tensors_of_one_external_file_share_one_mapping() {
    let dir = tempfile::tempdir().unwrap();
    let data: Vec<u8> = [1f32, 2.0, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    std::fs::write(dir.path().join("sub/w.bin"), [&[0u8; 3], data.as_slice()].concat()).unwrap();
    let mut graph = graph(&[], vec![], &["a"]);
    graph.initializer = vec![
        external("a", &[3], &[("location", "./sub/w.bin"), ("offset", "3"), ("length", "12")]),
        external("b", &[1], &[("location", "sub/w.bin"), ("offset", "15"), ("checksum", "0")]),
    ];
    let graph = open_in(dir.path(), &model(graph)).unwrap().graph;
    assert_eq!(graph.to_string(), "%0 = const {[1.0, 2.0, 3.0]} : f32[3] @ a\n%1 = const {[4.0]} : f32[1] @ b\nreturn a=%0\n");
    let identities: Vec<usize> = graph
        .ids()
        .map(|id| match &graph.node(id).op {
            SourceOp::Const(tensor) => tensor.identity().0,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(identities[0], identities[1]);
}

/// Caches of downloaded models keep a folder of links into a folder of blobs.
#[cfg(unix)]
#[test]
fn a_model_behind_links_finds_its_data_behind_links() {
    let dir = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (dir.path().join("blobs"), dir.path().join("snapshot"));
    [&blobs, &snapshot].iter().for_each(|d| std::fs::create_dir(d).unwrap());
    let mut graph = graph(&[], vec![], &["a"]);
    graph.initializer = vec![external("a", &[1], &[("location", "model.onnx_data")])];
    std::fs::write(blobs.join("1"), model(graph).encode_to_vec()).unwrap();
    std::fs::write(blobs.join("2"), 2f32.to_le_bytes()).unwrap();
    std::os::unix::fs::symlink("../blobs/1", snapshot.join("model.onnx")).unwrap();
    std::os::unix::fs::symlink("../blobs/2", snapshot.join("model.onnx_data")).unwrap();
    let imported = crate::open(&snapshot.join("model.onnx")).unwrap();
    assert_eq!(imported.graph.to_string(), "%0 = const {[2.0]} : f32[1] @ a\nreturn a=%0\n");
}

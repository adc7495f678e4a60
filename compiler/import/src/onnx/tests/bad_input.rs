//! Everything that can be wrong with a file, and the exact words for it.

use super::super::proto::SparseTensor;
use super::*;

/// The diagnostics of a file with these bytes; the folder's path is written as `DIR`.
fn refused_bytes(bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.onnx");
    std::fs::write(&path, bytes).unwrap();
    refused_path(&path, dir.path())
}

fn refused_path(path: &Path, dir: &Path) -> String {
    let text = crate::open(path).map(|m| m.graph.to_string()).unwrap_err().to_string();
    text.replace(&*dir.to_string_lossy(), "DIR")
}

/// A graph that is nothing but these initializers, and an output that is the first.
fn holding(initializers: Vec<Tensor>) -> Model {
    let first = initializers[0].name.clone();
    model(Graph { initializer: initializers, ..graph(&[], vec![], &[&first]) })
}

const LFS_POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 12345\n";

#[test]
fn files_that_are_no_model() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(
        refused_path(&dir.path().join("x.onnx"), dir.path()),
        "error[Q35-0101]: there is no such file\n  at file 'DIR/x.onnx'"
    );
    assert_eq!(
        refused_path(dir.path(), dir.path()),
        "error[Q35-0103]: the folder holds no config.json, so it is no checkpoint\n  at folder 'DIR'\n  \
         help: name a folder with config.json and *.safetensors, or an .onnx or .gguf file"
    );
    assert_eq!(
        refused_bytes(b""),
        "error[Q35-0102]: the file is empty\n  at file 'DIR/model.onnx'\n  help: download or export it again"
    );
    assert_eq!(
        refused_bytes(LFS_POINTER.as_bytes()),
        "error[Q35-0104]: the file is a Git LFS pointer, not the data it stands for\n  at file 'DIR/model.onnx'\n  \
         help: run 'git lfs install && git lfs pull' in the model's repository"
    );
    assert_eq!(
        refused_bytes(b"GGUF\x03\0\0\0"),
        "error[Q35-0103]: this is a GGUF file, not an ONNX model\n  at file 'DIR/model.onnx'\n  help: export the original model to ONNX"
    );
    assert_eq!(
        refused_bytes(b"\x40\0\0\0\0\0\0\0{\"w\":"),
        "error[Q35-0103]: this is a safetensors file, not an ONNX model\n  at file 'DIR/model.onnx'\n  \
         help: name the checkpoint's folder, or an .onnx file"
    );
    let noise: Vec<u8> = (0..4000u32).map(|i| (i.wrapping_mul(2654435761) >> 13) as u8 | 0x80).collect();
    assert_eq!(refused_bytes(&noise), "error[Q35-0103]: the file is not an ONNX model\n  at file 'DIR/model.onnx'");
    assert_eq!(refused_bytes(&[8, 10, 66, 2, 16, 20]), "error[Q35-0103]: the file holds no graph\n  at file 'DIR/model.onnx'");
    let damaged = [8, 10, 58, 2, 10, 9, 66, 2, 16, 20];
    assert_eq!(
        refused_bytes(&damaged),
        "error[Q35-0103]: the file is damaged, or not an ONNX model\n  at file 'DIR/model.onnx'"
    );
}

#[test]
fn truncated_files() {
    let bytes = holding(vec![Tensor::raw("w", 1, &[25], vec![0; 100])]).encode_to_vec();
    assert_eq!(
        refused_bytes(&bytes[..bytes.len() - 40]),
        "error[Q35-0105]: the file ends 36 bytes before its content does\n  at file 'DIR/model.onnx'\n  \
         help: download or export it again, completely"
    );
    assert_eq!(
        refused_bytes(&bytes[..bytes.len() - 4]),
        "error[Q35-0105]: the file names no operator set, so its end is probably missing\n  at file 'DIR/model.onnx'\n  \
         help: download or export it again, completely"
    );
}

#[test]
fn external_files() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("short.bin"), [0; 10]).unwrap();
    std::fs::write(dir.path().join("empty.bin"), []).unwrap();
    std::fs::write(dir.path().join("lfs.bin"), LFS_POINTER).unwrap();
    std::fs::create_dir(dir.path().join("folder.bin")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link.bin")).unwrap();
    let at = |name: &str, location: &str| external(name, &[2], &[("location", location)]);
    let model = holding(vec![
        at("a", "short.bin"),
        external("b", &[2], &[("location", "short.bin"), ("offset", "4")]),
        external("c", &[2], &[("location", "short.bin"), ("offset", "4000")]),
        at("d", "missing.bin"),
        at("e", "missing.bin"),
        at("f", "empty.bin"),
        at("g", "lfs.bin"),
        at("h", "../up.bin"),
        at("i", "/etc/passwd"),
        at("j", "link.bin"),
        at("k", "a\\..\\..\\b.bin"),
        at("l", "folder.bin"),
        external("m", &[2], &[("offset", "0")]),
        external("n", &[2], &[("location", "short.bin"), ("offset", "many")]),
        external("o", &[2], &[("location", "short.bin"), ("length", "9")]),
        external("p", &[2], &[("location", "short.bin"), ("offset", "18446744073709551615")]),
    ]);
    let text = open_in(dir.path(), &model).map(|m| m.graph.to_string()).unwrap_err().to_string();
    let escapes = |file: &str, tensor: &str| {
        format!(
            "error[Q35-0106]: an external-data location leaves the model's folder (data of tensor '{tensor}')\n  at file '{file}'\n  \
             help: keep external data beside the model file; a location must be a relative path without '..'\n"
        )
    };
    let expected = "\
error[Q35-0109]: its data is external, but no location is given
  at tensor 'm'
error[Q35-0109]: the offset of its external data is 'many', which is not a number of bytes
  at tensor 'n'
error[Q35-0109]: its type takes 8 bytes, but 9 bytes of external data are given
  at tensor 'o'
error[Q35-0107]: its data starts at byte 18446744073709551615 of 'short.bin', further than any file reaches
  at tensor 'p'
"
    .to_owned()
        + &escapes("../up.bin", "h")
        + &escapes("/etc/passwd", "i")
        + &escapes("a\\..\\..\\b.bin", "k")
        + "\
error[Q35-0102]: the file is empty (data of tensor 'f')
  at file 'empty.bin'
  help: download or export it again
error[Q35-0101]: this is not a regular file (data of tensor 'l')
  at file 'folder.bin'
error[Q35-0104]: the file is a Git LFS pointer, not the data it stands for (data of tensor 'g')
  at file 'lfs.bin'
  help: run 'git lfs install && git lfs pull' in the model's repository
" + &escapes("link.bin", "j")
        + "\
error[Q35-0110]: there is no such file (data of 2 tensors, first 'd')
  at file 'missing.bin'
error[Q35-0105]: the file ends at byte 10, but the model needs it up to byte 4008 (2 tensors, first 'b')
  at file 'short.bin'
  help: download or export it again, completely";
    assert_eq!(text, expected);
}

#[test]
fn tensors_that_contradict_themselves() {
    let sparse = SparseTensor { values: Some(Tensor::raw("s", 1, &[], vec![0; 4])) };
    let mut model = holding(vec![
        Tensor::raw("a", 1, &[2, 2], vec![0; 12]),
        Tensor::raw("b", 1, &[1 << 40], vec![0; 4]),
        Tensor::raw("c", 1, &[i64::MAX, i64::MAX], vec![0; 4]),
        Tensor::raw("d", 1, &[-1], vec![0; 4]),
        Tensor::raw("e", 8, &[1], vec![0; 4]),
        Tensor::raw("f", 99, &[1], vec![0; 4]),
        Tensor { name: "g".into(), data_type: 7, dims: vec![2], int64_data: vec![1], ..Tensor::default() },
        Tensor { name: "h".into(), data_type: 1, dims: vec![1 << 36], ..Tensor::default() },
    ]);
    model.graph.as_mut().unwrap().sparse_initializer.push(sparse);
    assert_eq!(
        refused(&model),
        "\
error[Q35-0207]: sparse initializers are not supported
  at tensor 's'
error[Q35-0109]: its type f32[2, 2] takes 16 bytes, but it has 12 bytes of data
  at tensor 'a'
error[Q35-0108]: its type f32[1099511627776] is larger than any tensor can be
  at tensor 'b'
error[Q35-0108]: its type f32[9223372036854775807, 9223372036854775807] is larger than any tensor can be
  at tensor 'c'
error[Q35-0109]: its dimensions are [-1], and one is negative
  at tensor 'd'
error[Q35-0207]: its element type 'string' is not supported
  at tensor 'e'
error[Q35-0109]: its element type has number 99, which means nothing
  at tensor 'f'
error[Q35-0109]: its type i64[2] takes 16 bytes, but it has 8 bytes of data
  at tensor 'g'
error[Q35-0109]: its type f32[68719476736] takes 274877906944 bytes, but it has 0 bytes of data
  at tensor 'h'"
    );
}

#[test]
fn graphs_that_contradict_themselves() {
    let nodes = vec![
        node("Add", "one", &["x", "nowhere"], &["a"]),
        node("Neg", "two", &["x"], &["a"]),
        node("Neg", "in", &["r2"], &["r1"]),
        node("Exp", "circle", &["r1"], &["r2"]),
        node("Log", "after", &["r2"], &["after"]),
        Node {
            attribute: vec![Attribute { ref_attr_name: "q".into(), ..Attribute::of_kind("p", kind::INT) }],
            ..node("Cast", "three", &["x"], &["c"])
        },
        Node { attribute: vec![Attribute::of_kind("value", kind::TENSOR)], ..node("Constant", "four", &[], &["d"]) },
        Node { attribute: vec![Attribute::of_kind("sparse_value", 11)], ..node("Constant", "five", &[], &["e"]) },
        Node {
            attribute: vec![Attribute { s: vec![0xFF].into(), ..Attribute::of_kind("mode", kind::STRING) }],
            ..node("Cast", "six", &["x"], &["f"])
        },
    ];
    assert_eq!(
        refused(&model(graph(&["x", "x"], nodes, &["y"]))),
        "\
error[Q35-0203]: the value is defined twice
  at value 'x'
error[Q35-0203]: the value is defined twice
  at value 'a'
error[Q35-0203]: input 'nowhere' is made by nothing
  at node 'one'
error[Q35-0203]: attribute 'p' refers to 'q', but the node is in no function
  at node 'three'
error[Q35-0203]: attribute 'value' has no value
  at node 'four'
error[Q35-0207]: attribute 'sparse_value' has kind 11, which is not supported
  at node 'five'
error[Q35-0207]: attribute 'mode' holds bytes that are not text
  at node 'six'
error[Q35-0203]: nothing makes this output of the graph
  at output 'y'
error[Q35-0203]: nodes depend on themselves: 'circle', 'in'"
    );
}

#[test]
fn operator_sets_out_of_range() {
    let with = |sets: Vec<OperatorSet>| {
        let nodes =
            vec![node("Neg", "a", &["x"], &["y"]), Node { domain: "com.microsoft".into(), ..node("MoE", "b", &["y"], &["z"]) }];
        Model { opset_import: sets, ..model(graph(&["x"], nodes, &["z"])) }
    };
    let error = |what: &str| {
        format!("error[Q35-0204]: the model uses {what} supported\n  help: export the model again with another opset version")
    };
    assert_eq!(refused(&with(vec![opset("ai.onnx", 6)])), error("version 6 of operator set 'ai.onnx'; versions 7 to 24 are"));
    assert_eq!(refused(&with(vec![opset("", 999)])), error("version 999 of operator set 'ai.onnx'; versions 7 to 24 are"));
    assert_eq!(
        refused(&with(vec![opset("", 20), opset("com.microsoft", 2)])),
        error("version 2 of operator set 'com.microsoft'; version 1 is")
    );
    assert!(open(&with(vec![opset("", 20), opset("not.used", 77)])).is_ok());
}

#[test]
fn functions_that_never_end() {
    let ping = function("ping", &["x"], vec![call("pong", "to pong", &["x"], &["y"])], &["y"]);
    let pong = function("pong", &["x"], vec![call("ping", "to ping", &["x"], &["y"])], &["y"]);
    let start = graph(&["x"], vec![call("ping", "start", &["x"], &["y"])], &["y"]);
    assert_eq!(
        refused(&Model { functions: vec![ping, pong], ..model(start) }),
        "error[Q35-0203]: function 'ping' calls itself\n  at node 'start/to pong/to ping'"
    );
    let id = || function("id", &["x"], vec![], &["x"]);
    let circle = graph(&[], vec![call("id", "a", &["y"], &["y"])], &["y"]);
    assert_eq!(
        refused(&Model { functions: vec![id(), id()], ..model(circle) }),
        "error[Q35-0203]: the function is defined twice\n  at function 'id'\n\
         error[Q35-0203]: the value is only another name of itself\n  at value 'y'"
    );
    let wrong = function("wrong", &["x"], vec![], &["z"]);
    let calls = vec![call("wrong", "a", &["x"], &["y"]), call("wrong", "b", &["x", "x"], &["w"])];
    assert_eq!(
        refused(&Model { functions: vec![wrong], ..model(graph(&["x"], calls, &["y"])) }),
        "error[Q35-0203]: function 'wrong' does not make its output 'z'\n  at node 'a'\n\
         error[Q35-0203]: more inputs or outputs than function 'wrong' has\n  at node 'b'"
    );
}

/// Ten calls of a function that makes ten calls of a function ...: small on disk, boundless in memory.
#[test]
fn functions_that_explode() {
    let chain = |depth: usize, calls: usize| {
        let body = |level: usize| {
            let callee = format!("f{}", level + 1);
            (0..calls)
                .map(|i| {
                    if level + 1 < depth {
                        call(&callee, "c", &["x"], &[&format!("y{i}")])
                    } else {
                        node("Neg", "n", &["x"], &[&format!("y{i}")])
                    }
                })
                .collect()
        };
        let functions = (0..depth).map(|level| function(&format!("f{level}"), &["x"], body(level), &["y0"])).collect();
        Model { functions, ..model(graph(&["x"], vec![call("f0", "start", &["x"], &["y"])], &["y"])) }
    };
    assert_eq!(refused(&chain(12, 10)), "error[Q35-0108]: the graph grows beyond all measure when its functions are inlined");
    let deep = refused(&chain(70, 1));
    assert!(
        deep.starts_with(
            "error[Q35-0108]: functions and subgraphs lie more than 64 deep within each other\n  at node 'start/c/c/"
        ),
        "{deep}"
    );
}

/// Branches within branches end where the format's own reader ends, whatever is in the innermost.
#[test]
fn branches_within_branches_end() {
    let nested = |depth: usize| {
        let innermost = graph(&[], vec![node("Neg", "neg", &["x"], &["y"])], &["y"]);
        let whole = (0..depth).fold(innermost, |inside, _| {
            let branch = graph_attribute("then_branch", inside);
            graph(&[], vec![Node { attribute: vec![branch], ..node("If", "if", &["c"], &["y"]) }], &["y"])
        });
        let input = graph(&["c", "x"], vec![], &[]).input;
        model(Graph { input, ..whole })
    };
    assert!(printed(&nested(30)).contains("Neg"));
    assert!(refused(&nested(70)).starts_with("error[Q35-0103]: the file is damaged, or not an ONNX model"));
}

#[test]
fn only_the_first_problems_are_shown() {
    let nodes = (0..150).map(|i| node("Neg", &format!("n{i}"), &["nowhere"], &[&format!("y{i}")])).collect();
    let text = refused(&model(graph(&[], nodes, &["y0"])));
    assert_eq!(text.matches("error[").count(), 101);
    assert!(text.ends_with("error[Q35-0203]: 50 further problems are not shown"));
}

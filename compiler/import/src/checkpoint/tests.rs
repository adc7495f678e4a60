//! Checkpoints written tensor by tensor, and everything that can be wrong with them.

use super::config::{Config, Rope};
use super::rope::{Setting, rotation};
use crate::testing::Random;
use q35_graph::source::SourceOp;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, serialize_to_file};
use std::path::Path;

const CONFIG: &str = r#"{"model_type": "llama", "vocab_size": 10, "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true"#;

/// The tensors that `CONFIG` asks for.
const TENSORS: &[(&str, &[usize])] = &[
    ("model.embed_tokens.weight", &[10, 8]),
    ("model.layers.0.input_layernorm.weight", &[8]),
    ("model.layers.0.self_attn.q_proj.weight", &[8, 8]),
    ("model.layers.0.self_attn.k_proj.weight", &[4, 8]),
    ("model.layers.0.self_attn.v_proj.weight", &[4, 8]),
    ("model.layers.0.self_attn.o_proj.weight", &[8, 8]),
    ("model.layers.0.post_attention_layernorm.weight", &[8]),
    ("model.layers.0.mlp.gate_proj.weight", &[6, 8]),
    ("model.layers.0.mlp.up_proj.weight", &[6, 8]),
    ("model.layers.0.mlp.down_proj.weight", &[8, 6]),
    ("model.norm.weight", &[8]),
];

/// Frequencies and factor for a head of so many columns.
fn frequencies(config: &Config, head_dim: u64, context: Option<u64>) -> (Vec<f32>, f32) {
    let rotation = rotation(&config.rope(), Setting { config, head_dim, partial: 1.0, context }).unwrap();
    (rotation.inv_freq, rotation.scale)
}

fn write_tensors(path: &Path, tensors: &[(&str, &[usize])]) {
    let zeros = vec![0u8; 4096];
    let view = |dims: &[usize]| {
        let bytes = dims.iter().product::<usize>() * 4;
        TensorView::new(Dtype::F32, dims.to_vec(), &zeros[..bytes]).unwrap()
    };
    serialize_to_file(tensors.iter().map(|(name, dims)| (*name, view(dims))), None, path).unwrap();
}

/// A folder with `CONFIG` plus `more`, and these tensors in one file.
fn folder(more: &str, tensors: &[(&str, &[usize])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), format!("{CONFIG}{more}}}")).unwrap();
    write_tensors(&dir.path().join("model.safetensors"), tensors);
    dir
}

fn refused(dir: &Path) -> String {
    let text = crate::open(dir).map(|m| m.graph.to_string()).unwrap_err().to_string();
    text.replace(&*dir.to_string_lossy(), "DIR")
}

#[test]
fn a_checkpoint_becomes_a_graph_over_its_own_file() {
    let dir = folder("", TENSORS);
    let model = crate::open(dir.path()).unwrap();
    assert_eq!(model.kind, crate::ModelKind::Checkpoint { architecture: "llama".into() });
    assert_eq!(model.sidecars.config, Some(dir.path().join("config.json")));
    model.graph.check().unwrap();
    let mut found: Vec<(&str, Vec<usize>)> = Vec::new();
    for id in model.graph.ids() {
        let node = model.graph.node(id);
        if let SourceOp::Const(tensor) = &node.op
            && node.name.ends_with(".weight")
        {
            found.push((&node.name, tensor.dims().iter().map(|&d| d as usize).collect()));
        }
    }
    found.sort();
    let mut expected: Vec<(&str, Vec<usize>)> = TENSORS.iter().map(|(name, dims)| (*name, dims.to_vec())).collect();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn configurations_that_are_refused() {
    let with = |more: &str| {
        let text = refused(folder(more, TENSORS).path());
        text.strip_suffix("\n  at file 'DIR/config.json'").unwrap_or(&text).to_owned()
    };
    let cases = [
        (r#", "hidden_act": "xielu""#, "error[Q35-0207]: activation 'xielu' is not supported in a checkpoint"),
        (r#", "layer_types": []"#, "error[Q35-0111]: layer_types has 0 entries for 1 layers"),
        (r#", "layer_types": ["mamba"]"#, "error[Q35-0111]: layer type 'mamba' is not known"),
        (
            r#", "layer_types": ["sliding_attention"]"#,
            "error[Q35-0111]: layer_types has a layer with a window, but sliding_window is not given",
        ),
        (r#", "rope_scaling": {"type": "linear"}"#, "error[Q35-0111]: the rope's factor is missing or not positive"),
        (r#", "rope_scaling": {"rope_type": "new"}"#, "error[Q35-0111]: rope_type 'new' is not known"),
        (
            r#", "partial_rotary_factor": 0.1"#,
            "error[Q35-0111]: rope_theta 10000 with partial_rotary_factor 0.1 rotates nothing",
        ),
        (r#", "head_dim": 3"#, "error[Q35-0111]: 2 heads of 3 columns and 1 key heads are no attention"),
        (
            r#", "rope_scaling": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [], "factor": 2.0,
                "original_max_position_embeddings": 8}"#,
            "error[Q35-0111]: the rope's short_factor is not 2 positive numbers, one for each frequency",
        ),
        (
            r#", "rope_scaling": {"rope_type": "dynamic", "alpha": -1.0}"#,
            "error[Q35-0111]: the rope's alpha is missing or not positive",
        ),
        (
            r#", "use_parallel_residual": true"#,
            "error[Q35-0207]: use_parallel_residual is set, which model type 'llama' is not known to have",
        ),
        (
            r#", "layer_rope_theta": [1e4, 1e4, 5e5]"#,
            "error[Q35-0207]: layer_rope_theta gives layers different bases, but layers of a kind have one",
        ),
        (
            r#", "max_position_embeddings": 128, "rope_parameters": {"llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 64}"#,
            "error[Q35-0207]: llama_4_scaling_beta scales queries from position 64 on, but there is no op for that\n  at file \
             'DIR/config.json'\n  help: use --context 64 or less, where nothing is scaled",
        ),
        (r#", "clip_qkv": 8.0"#, "error[Q35-0207]: clip_qkv is 8, but there is no op for bounds of queries, keys and values"),
        (
            r#", "quantization_config": {"quant_method": "fp8", "weight_block_size": [128]}"#,
            "error[Q35-0111]: weight_block_size is [128]",
        ),
    ];
    for (more, expected) in cases {
        assert_eq!(with(more), expected, "{more}");
    }
    assert_eq!(
        refused(folder(r#", "quantization_config": {"quant_method": "awq"}"#, TENSORS).path()),
        "error[Q35-0207]: the checkpoint's weights are quantized already, by a method that is not supported: 'awq'\n  \
         at file 'DIR/config.json'\n  help: use the checkpoint it was made from"
    );
    let dir = folder("", TENSORS);
    let rewrite = |text: &str| {
        std::fs::write(dir.path().join("config.json"), text).unwrap();
        refused(dir.path())
    };
    assert_eq!(
        rewrite(r#"{"model_type": "bert"}"#),
        "error[Q35-0208]: checkpoints of model type 'bert' are not known; afmoe, arcee, cohere, cohere2, cwm, deepseek_v2, deepseek_v3, dots1, \
         ernie4_5, ernie4_5_moe, exaone, exaone4, exaone_moe, flex_olmo, gemma, gemma2, gemma3_text, glm, glm4, glm4_moe, glm4_moe_lite, \
         gpt_neox, gpt_oss, granite, granite_swa, granitemoe, granitemoeshared, helium, hunyuan_v1_dense, hunyuan_v1_moe, hyperclovax, internlm3, \
         iquestcoder, jais2, lfm2_moe, llama, mellum, minimax_m2, ministral, ministral3, mistral, mixtral, nanochat, nemotron, olmo, olmo2, \
         olmo3, olmoe, persimmon, phi, phi3, phimoe, qwen2, qwen2_moe, qwen3, qwen3_moe, sarvam_moe, seed_oss, smollm3, solar_open, stablelm, \
         starcoder2, vaultgemma, youtu are\n  \
         at file 'DIR/config.json'\n  help: export the model to ONNX and compile that"
    );
    assert_eq!(
        rewrite(
            r#"{"model_type": "lfm2_moe", "num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 1, "layer_types": ["conv"]}"#
        ),
        "error[Q35-0207]: layer_types has layers of type 'conv', but there is no op for short convolutions\n  \
         at file 'DIR/config.json'"
    );
    assert_eq!(
        rewrite(r#"{"model_type": "bamba"}"#),
        "error[Q35-0208]: model type 'bamba' cannot be compiled: there is no op for state space layers\n  \
         at file 'DIR/config.json'"
    );
    assert_eq!(
        rewrite(
            r#"{"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 3, "num_key_value_heads": 2}"#
        ),
        "error[Q35-0111]: 3 heads of 2 columns and 2 key heads are no attention\n  at file 'DIR/config.json'"
    );
    assert_eq!(
        rewrite(r#"{"model_type": "hunyuan_v1_moe", "moe_topk": [2, 3]}"#),
        "error[Q35-0111]: the configuration cannot be read: [2, 3] differs from layer to layer, which is not supported at line 1 \
         column 52\n  at file 'DIR/config.json'"
    );
    assert_eq!(
        rewrite(r#"{"model_type": "llama"}"#),
        "error[Q35-0111]: num_hidden_layers is not given\n  at file 'DIR/config.json'"
    );
    assert_eq!(
        rewrite(r#"{"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 1000000000000}"#),
        "error[Q35-0111]: hidden_size is 1000000000000\n  at file 'DIR/config.json'"
    );
    assert_eq!(
        rewrite("{"),
        "error[Q35-0111]: the configuration cannot be read: EOF while parsing an object at line 1 column 1\n  \
         at file 'DIR/config.json'"
    );
}

/// Ways to choose experts that are not their family's: an error by the field's name, and no other way instead.
#[test]
fn routings_that_are_refused() {
    let why = |family: &str, more: &str| {
        let text = format!(
            r#"{{"model_type": "{family}", "vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
            "q_lora_rank": 4, "kv_lora_rank": 4, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 4, "rms_norm_eps": 1e-5,
            "intermediate_size": 8, "moe_intermediate_size": 8, "num_local_experts": 32, "moe_k": 2{more}}}"#
        );
        let config = super::config::read(text.as_bytes()).unwrap();
        super::families::decoder(&config, None).err().map_or("none".to_owned(), |d| d.to_string())
    };
    let cases = [
        ("deepseek_v3", "", "none"),
        (
            "deepseek_v3",
            r#", "scoring_func": "softmax""#,
            "error[Q35-0207]: scoring_func 'softmax' is not supported for model type 'deepseek_v3'",
        ),
        (
            "deepseek_v3",
            r#", "topk_method": "greedy""#,
            "error[Q35-0207]: topk_method 'greedy' is not supported for model type 'deepseek_v3'",
        ),
        (
            "mixtral",
            r#", "topk_method": "noaux_tc""#,
            "error[Q35-0207]: topk_method 'noaux_tc' is not supported for model type 'mixtral'",
        ),
        (
            "deepseek_v3",
            r#", "n_group": 3, "topk_group": 1"#,
            "error[Q35-0111]: 32 experts in 3 groups, 1 of them chosen, are no routing",
        ),
        (
            "mixtral",
            r#", "num_experts_per_tok": 33"#,
            "error[Q35-0111]: 33 experts are chosen for each token, but there are 32 to choose from",
        ),
        ("hunyuan_v1_moe", "", "none"),
        ("mellum", r#", "mlp_layer_types": ["sparse"]"#, "none"),
        ("mellum", r#", "mlp_layer_types": ["linear"]"#, "error[Q35-0111]: mlp_layer_types has 'linear', which is not known"),
        ("mellum", r#", "mlp_layer_types": []"#, "error[Q35-0111]: mlp_layer_types has 0 entries, which are too few"),
        ("phimoe", "", "none"),
        ("phimoe", r#", "router_jitter_noise": 0.0"#, "error[Q35-0111]: router_jitter_noise is 0"),
        (
            "phimoe",
            r#", "num_experts_per_tok": 17"#,
            "error[Q35-0207]: 17 experts are chosen one after the other for each token, 16 are the most",
        ),
    ];
    for (family, more, expected) in cases {
        assert_eq!(why(family, more), expected, "{family} {more}");
    }
}

/// One of two scales of cosines and sines comes with one of two lists of factors.
#[test]
fn longrope_may_have_a_scale_for_each_list() {
    let rope = Rope {
        rope_type: Some("longrope".into()),
        rope_theta: Some(100.0),
        short_factor: Some(vec![1.0, 2.0]),
        long_factor: Some(vec![4.0, 5.0]),
        short_mscale: Some(1.25),
        long_mscale: Some(1.5),
        original_max_position_embeddings: Some(16),
        ..Rope::default()
    };
    let config = Config { rope_parameters: Some(rope), max_position_embeddings: Some(64), ..Config::default() };
    assert_eq!(frequencies(&config, 4, Some(16)), (vec![1.0, 0.05], 1.25));
    assert_eq!(frequencies(&config, 4, Some(17)), (vec![0.25, 0.02], 1.5));
    assert_eq!(super::rope::by_length(&config, Some(16)), None);
    let text = "warning[Q35-0210]: frequencies of rotations depend on how long a text is; those for 64 tokens are used for all\n  \
        help: use --context 16 for the frequencies that texts of up to 16 tokens have";
    assert_eq!(super::rope::by_length(&config, None).map(|d| d.to_string()).as_deref(), Some(text));
}

#[test]
fn tensors_that_do_not_fit() {
    let mut tensors = TENSORS.to_vec();
    tensors[2].1 = &[8, 4];
    tensors[10].0 = "model.norm.bias";
    tensors.push(("model.layers.0.self_attn.rotary_emb.inv_freq", &[2]));
    tensors.push(("lm_head.weight", &[10, 8]));
    assert_eq!(
        refused(folder("", &tensors).path()),
        "\
error[Q35-0111]: the tensor is [8, 4], but the configuration makes it [8, 8]
  at tensor 'model.layers.0.self_attn.q_proj.weight'
error[Q35-0112]: the checkpoint has no such tensor
  at tensor 'model.norm.weight'
error[Q35-0113]: the tensor has no place in the model
  at tensor 'model.norm.bias'"
    );
}

#[test]
fn files_that_are_damaged_or_missing() {
    let dir = folder("", TENSORS);
    let weights = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(
        refused(dir.path()),
        "error[Q35-0105]: the file's length is not what its header says\n  at file 'model.safetensors'\n  \
         help: download it again, completely"
    );
    std::fs::write(&weights, [b"\x10\0\0\0\0\0\0\0", [b'x'; 16].as_slice()].concat()).unwrap();
    assert_eq!(
        refused(dir.path()),
        "error[Q35-0103]: the file is damaged, or not a safetensors file\n  at file 'model.safetensors'"
    );
    std::fs::write(&weights, "version https://git-lfs.github.com/spec/v1\n").unwrap();
    assert!(refused(dir.path()).starts_with("error[Q35-0104]: the file is a Git LFS pointer"));
    std::fs::remove_file(&weights).unwrap();
    assert_eq!(
        refused(dir.path()),
        "error[Q35-0110]: the folder holds no model.safetensors\n  at folder 'DIR'\n  help: download the *.safetensors files"
    );
    let index = |map: &str| {
        std::fs::write(dir.path().join("model.safetensors.index.json"), format!(r#"{{"weight_map": {{{map}}}}}"#)).unwrap()
    };
    write_tensors(&dir.path().join("a.safetensors"), &TENSORS[..5]);
    index(r#""model.norm.weight": "b.safetensors", "x": "../../etc/passwd", "model.embed_tokens.weight": "a.safetensors""#);
    assert_eq!(
        refused(dir.path()),
        "\
error[Q35-0106]: an external-data location leaves the model's folder
  at file '../../etc/passwd'
  help: keep external data beside the model file; a location must be a relative path without '..'
error[Q35-0110]: there is no such file
  at file 'b.safetensors'"
    );
    write_tensors(&dir.path().join("b.safetensors"), &TENSORS[5..]);
    index(r#""model.norm.weight": "b.safetensors", "model.embed_tokens.weight": "a.safetensors""#);
    assert!(crate::open(dir.path()).is_ok());
    index(r#""y": "b.safetensors", "model.embed_tokens.weight": "a.safetensors""#);
    assert_eq!(
        refused(dir.path()),
        "error[Q35-0112]: the index says that 'b.safetensors' holds the tensor, but it does not\n  at tensor 'y'"
    );
}

/// Against the tables `cos_cache` and `sin_cache` that another program computed for a model with YaRN.
#[test]
fn yarn_agrees_with_exported_tables() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models/gptoss--genai-fp32");
    if !folder.is_dir() {
        return println!("skipped: no corpus");
    }
    let config = super::config::read(&std::fs::read(folder.join("hf/config.json")).unwrap()).unwrap();
    let (inv_freq, scale) = frequencies(&config, 64, None);
    let graph = crate::open(&folder.join("model.onnx")).unwrap().graph;
    let table = |name: &str| {
        graph.ids().find_map(|id| match &graph.node(id).op {
            SourceOp::Const(tensor) if graph.node(id).name.contains(name) => Some(tensor.clone()),
            _ => None,
        })
    };
    let (cos, sin) = (table("cos_cache").unwrap(), table("sin_cache").unwrap());
    assert_eq!(cos.dims()[1], inv_freq.len() as u64);
    for (i, f) in inv_freq.iter().enumerate() {
        // Row 1: one position, so the angle is the frequency itself.
        let (c, s) = (cos.number(cos.dims()[1] + i as u64), sin.number(cos.dims()[1] + i as u64));
        assert!((s.atan2(c) - f64::from(*f)).abs() < 2e-7 && (c.hypot(s) - f64::from(scale)).abs() < 2e-7, "frequency {i}");
    }
}

/// Divided below, kept above, and in between the share of turns that lies above: three frequencies computed by hand.
#[test]
fn llama3_blends_by_turns() {
    let rope = Rope {
        rope_type: Some("llama3".into()),
        rope_theta: Some(1e6),
        factor: Some(4.0),
        low_freq_factor: Some(1.0),
        high_freq_factor: Some(3.0),
        original_max_position_embeddings: Some(1257),
        ..Rope::default()
    };
    let config = Config { rope_parameters: Some(rope), ..Config::default() };
    let (inv_freq, scale) = frequencies(&config, 6, None);
    // Turns within 1257 positions: 200.06, 2.0006, 0.02.
    assert_eq!((inv_freq[0], scale), (1.0, 1.0));
    assert!((inv_freq[1] - 0.01 * (0.5003 + 0.4997 / 4.0)).abs() < 1e-6);
    assert!((inv_freq[2] - 0.0001 / 4.0).abs() < 1e-11);
}

/// The ramp from kept to divided, with its ends rounded outwards: four frequencies computed by hand.
#[test]
fn yarn_ramps_between_whole_indices() {
    let rope = Rope {
        rope_type: Some("yarn".into()),
        rope_theta: Some(1e4),
        factor: Some(4.0),
        original_max_position_embeddings: Some(628),
        ..Rope::default()
    };
    let config = Config { rope_parameters: Some(rope), ..Config::default() };
    let (inv_freq, scale) = frequencies(&config, 8, None);
    // 32 turns at index 0.49, one turn at index 1.9998: the ramp runs from 0 to 2.
    let expected = [1.0, 0.1 * (0.5 + 0.5 / 4.0), 0.01 / 4.0, 0.001 / 4.0];
    assert!(inv_freq.iter().zip(expected).all(|(a, b): (&f32, f32)| (a / b - 1.0).abs() < 1e-6), "{inv_freq:?}");
    assert!((scale - (1.0 + 0.1 * 4f32.ln())).abs() < 1e-6);
}

#[test]
fn damaged_checkpoints_never_panic() {
    let dir = folder(r#", "layer_types": ["full_attention"], "rope_scaling": {"type": "linear", "factor": 2.0}"#, TENSORS);
    let mut random = Random(3);
    let (mut opened, mut refused) = (0, 0);
    for file in ["config.json", "model.safetensors"] {
        let path = dir.path().join(file);
        let original = std::fs::read(&path).unwrap();
        // Only the header of the tensors' file is structure: damage stays in the first 1200 bytes.
        let structure = original.len().min(1200);
        for _ in 0..300 {
            let damaged = [&random.damage(&original[..structure]), &original[structure..]].concat();
            std::fs::write(&path, damaged).unwrap();
            match crate::open(dir.path()) {
                Ok(model) => {
                    model.graph.check().unwrap();
                    opened += 1;
                }
                Err(_) => refused += 1,
            }
        }
        std::fs::write(&path, original).unwrap();
    }
    assert!(opened > 100 && refused > 100, "{opened} opened, {refused} refused");
}

/// Factors are chosen by the context that is compiled for.
#[test]
fn longrope_has_two_lists_of_factors() {
    let rope = Rope {
        rope_type: Some("longrope".into()),
        rope_theta: Some(100.0),
        short_factor: Some(vec![1.0, 2.0]),
        long_factor: Some(vec![4.0, 5.0]),
        original_max_position_embeddings: Some(16),
        ..Rope::default()
    };
    let config = Config { rope_parameters: Some(rope), max_position_embeddings: Some(64), ..Config::default() };
    // sqrt(1 + ln 4 / ln 16)
    let scale = 1.5f32.sqrt();
    assert_eq!(frequencies(&config, 4, Some(16)), (vec![1.0, 0.05], scale));
    assert_eq!(frequencies(&config, 4, Some(17)), (vec![0.25, 0.02], scale));
    assert_eq!(frequencies(&config, 4, None), (vec![0.25, 0.02], scale));
}

/// Up to the longest context that a model was made for, `dynamic` scales nothing.
#[test]
fn dynamic_frequencies_are_plain_within_the_longest_context() {
    let rope = Rope { rope_type: Some("dynamic".into()), rope_theta: Some(100.0), factor: Some(2.0), ..Rope::default() };
    let config = Config { rope_parameters: Some(rope), max_position_embeddings: Some(64), ..Config::default() };
    assert_eq!(frequencies(&config, 4, None), (vec![1.0, 0.1], 1.0));
}

#[test]
fn tensors_that_only_guess_ahead_are_left_out() {
    let further = [("model.layers.1.eh_proj.weight", &[8usize, 16][..]), ("model.layers.1.mlp.up_proj.weight", &[6, 8])];
    let tensors = [TENSORS, &further].concat();
    assert!(crate::open(folder(r#", "num_nextn_predict_layers": 1"#, &tensors).path()).is_ok());
    assert!(refused(folder("", &tensors).path()).contains("error[Q35-0113]: the tensor has no place in the model"));
}

/// Weights in few bits whose scales are not there, or are those of another matrix.
#[test]
fn scales_that_do_not_fit() {
    let with = |scales: Option<&[usize]>| {
        let dir = folder(r#", "quantization_config": {"quant_method": "fp8", "weight_block_size": [4, 4]}"#, &[]);
        let zeros = vec![0u8; 4096];
        let view = |dtype, width: usize, dims: &[usize]| {
            TensorView::new(dtype, dims.to_vec(), &zeros[..dims.iter().product::<usize>() * width]).unwrap()
        };
        let name = "model.layers.0.mlp.up_proj.weight";
        let mut tensors: Vec<(String, TensorView)> = Vec::new();
        for (tensor, dims) in TENSORS {
            let (dtype, width) = if *tensor == name { (Dtype::F8_E4M3, 1) } else { (Dtype::F32, 4) };
            tensors.push(((*tensor).to_owned(), view(dtype, width, dims)));
        }
        tensors.extend(scales.map(|dims| (format!("{name}_scale_inv"), view(Dtype::F32, 4, dims))));
        serialize_to_file(tensors, None, &dir.path().join("model.safetensors")).unwrap();
        match crate::open(dir.path()) {
            Ok(_) => String::new(),
            Err(e) => e.to_string(),
        }
    };
    let place = "\n  at tensor 'model.layers.0.mlp.up_proj.weight'";
    assert_eq!(with(Some(&[2, 2])), "");
    assert_eq!(with(None), format!("error[Q35-0112]: it is quantized, but the checkpoint has no scales for it{place}"));
    assert_eq!(
        with(Some(&[2, 3])),
        format!("error[Q35-0111]: it is [6, 8] in tiles of 4 by 4, but its scales are [2, 3]{place}")
    );
}

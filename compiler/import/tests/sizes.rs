//! Opening the largest models there are costs what their headers cost. They are opened in a process of their own, which has its peak to itself.
#![allow(clippy::unwrap_used)] // a test may panic

use q35_import::synth::{Stored, write_checkpoint};
use std::path::Path;
use std::process::Command;

/// Makes this program open a folder.
const OPEN: &str = "Q35_TEST_OPEN";

/// DeepSeek-V3's own configuration, as far as it says what is computed.
const DEEPSEEK_V3: &str = r#"{"model_type": "deepseek_v3", "vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432,
    "moe_intermediate_size": 2048, "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128, "n_shared_experts": 1,
    "n_routed_experts": 256, "routed_scaling_factor": 2.5, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64,
    "v_head_dim": 128, "qk_nope_head_dim": 128, "n_group": 8, "topk_group": 4, "num_experts_per_tok": 8, "first_k_dense_replace": 3,
    "norm_topk_prob": true, "scoring_func": "sigmoid", "topk_method": "noaux_tc", "max_position_embeddings": 163840, "rms_norm_eps": 1e-6,
    "rope_theta": 10000, "rope_scaling": {"type": "yarn", "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0, "beta_fast": 32,
    "beta_slow": 1, "original_max_position_embeddings": 4096}, "tie_word_embeddings": false,
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}"#;

/// LLaMA 3.1 405B's.
const LLAMA_405B: &str = r#"{"model_type": "llama", "vocab_size": 128256, "hidden_size": 16384, "intermediate_size": 53248,
    "num_hidden_layers": 126, "num_attention_heads": 128, "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192}, "tie_word_embeddings": false}"#;

/// Bytes that a graph may take, beside those of the headers' text.
const ALLOWED: u64 = 100 << 20;

/// The largest resident set this process ever had.
fn peak() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// Opens a model, and says what it took.
fn open(folder: &Path) {
    let model = q35_import::open(folder).unwrap_or_else(|e| panic!("{e}"));
    model.graph.check().unwrap();
    println!("{} nodes, peak {:?} MiB", model.graph.len(), peak().map(|p| p >> 20));
    assert!(peak().is_none_or(|peak| peak < ALLOWED), "{:?}", peak());
}

#[test]
fn the_largest_models_open_for_the_price_of_their_headers() {
    if let Some(folder) = std::env::var_os(OPEN) {
        return open(Path::new(&folder));
    }
    for (name, config, stored, bytes) in
        [("LLaMA 405B", LLAMA_405B, Stored::Bf16, 811 << 30), ("DeepSeek-V3", DEEPSEEK_V3, Stored::Fp8, 671 << 30)]
    {
        let dir = tempfile::tempdir().unwrap();
        let total = write_checkpoint(config, dir.path(), stored, 5 << 30).unwrap();
        assert!(total.abs_diff(bytes) < bytes / 8, "{name} has {total} bytes");
        let program = std::env::current_exe().unwrap();
        let child = Command::new(program).arg("--nocapture").env(OPEN, dir.path()).output().unwrap();
        let said = [child.stdout, child.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        println!("{name}: {said}");
        assert!(child.status.success(), "{name}: {said}");
    }
}

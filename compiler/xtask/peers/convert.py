"""A Hugging Face checkpoint to a GGUF file in f32: `convert.py CHECKPOINT OUT.gguf`.

Llama and Mixtral. The file has no vocabulary, since it is given tokens. Both kinds are llama.cpp's architecture `llama`, which rotates neighbouring columns of a
head where the checkpoint rotates its two halves against each other: rows of the query and key projections change places.
"""

import json
import pathlib
import sys

import gguf
import numpy as np
from safetensors import safe_open

VECTORS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
ATTENTION = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
DENSE = {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
EXPERTS = {"w1": "ffn_gate_exps", "w3": "ffn_up_exps", "w2": "ffn_down_exps"}


def tensors(folder):
    """All tensors by name, in f32."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            found.update({name: file.get_tensor(name).astype(np.float32) for name in file.keys()})
    return found


def neighbours(weight, heads):
    """Rows of each head from halves to neighbours."""
    width = weight.shape[1]
    return np.ascontiguousarray(weight.reshape(heads, 2, -1, width).transpose(0, 2, 1, 3)).reshape(-1, width)


def layer(source, config, index):
    """GGUF name and numbers of every tensor of a layer."""
    take = lambda name: source[f"model.layers.{index}.{name}.weight"]
    for theirs, ours in VECTORS.items():
        yield ours, take(theirs)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for theirs, ours in ATTENTION.items():
        weight = take(f"self_attn.{theirs}")
        yield ours, neighbours(weight, heads[theirs]) if theirs in heads else weight
    experts = config.get("num_local_experts")
    if experts is None:
        for theirs, ours in DENSE.items():
            yield ours, take(f"mlp.{theirs}")
        return
    moe = f"model.layers.{index}.block_sparse_moe"
    yield "ffn_gate_inp", source[f"{moe}.gate.weight"]
    for theirs, ours in EXPERTS.items():
        yield ours, np.stack([source[f"{moe}.experts.{expert}.{theirs}.weight"] for expert in range(experts)])


def main(checkpoint, out):
    folder = pathlib.Path(checkpoint)
    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] not in ("llama", "mixtral"):
        raise SystemExit(f"no conversion for model type {config['model_type']}")
    source = tensors(folder)
    heads = config["num_attention_heads"]
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config.get("head_dim") or config["hidden_size"] // heads)
    theta = config.get("rope_theta") or config.get("rope_parameters", {}).get("rope_theta", 10000.0)
    writer.add_rope_freq_base(theta)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    if "num_local_experts" in config:
        writer.add_expert_count(config["num_local_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_tensor("token_embd.weight", source["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", source["model.norm.weight"])
    if not config.get("tie_word_embeddings", False):
        writer.add_tensor("output.weight", source["lm_head.weight"])
    for index in range(config["num_hidden_layers"]):
        for name, numbers in layer(source, config, index):
            writer.add_tensor(f"blk.{index}.{name}.weight", numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Writes gguf/FAMILY.gguf from checkpoints/FAMILY, for quantized ones the logits of what the blocks stand for, and vocabulary/KIND.gguf with texts
and their tokens.

The names of tensors come from the tables of the `gguf` package. What converters do beside renaming is done here: rows of q and k reordered for
rotations of neighbours, factors of norms made whole, experts stacked. Usage: python make_gguf.py [FAMILY...]
"""
import json
import re
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as T
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

root = Path(__file__).parent

# Architecture; whether rows of q and k are reordered; what is added to norms.
CASES = {
    "dots1": (gguf.MODEL_ARCH.DOTS1, False, 0.0),
    "ernie4_5_moe": (gguf.MODEL_ARCH.ERNIE4_5_MOE, False, 0.0),
    "gemma2": (gguf.MODEL_ARCH.GEMMA2, False, 1.0),
    "glm4_moe": (gguf.MODEL_ARCH.GLM4_MOE, False, 0.0),
    "gpt_oss": (gguf.MODEL_ARCH.GPT_OSS, False, 0.0),
    "granitemoe": (gguf.MODEL_ARCH.GRANITE_MOE, True, 0.0),
    "llama": (gguf.MODEL_ARCH.LLAMA, True, 0.0),
    "minimax_m2": (gguf.MODEL_ARCH.MINIMAXM2, False, 0.0),
    "olmo2": (gguf.MODEL_ARCH.OLMO2, False, 0.0),
    "phimoe_longrope": (gguf.MODEL_ARCH.PHIMOE, False, 0.0),
    "phi3_longrope": (gguf.MODEL_ARCH.PHI3, False, 0.0),
    "smollm3": (gguf.MODEL_ARCH.SMOLLM3, True, 0.0),
}
# What the values of a file have no place for, and so are as they always are: such files have logits of their own.
ALWAYS = {"ernie4_5_moe": dict(moe_norm_min=1e-12)}


def reordered(w, heads):
    """Halves of a head's rows become neighbours."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def values(writer, c, arch):
    rope = c.get("rope_parameters") or {}
    writer.add_context_length(c["max_position_embeddings"])
    writer.add_embedding_length(c["hidden_size"])
    writer.add_block_count(c["num_hidden_layers"])
    writer.add_feed_forward_length(c["intermediate_size"])
    writer.add_head_count(c["num_attention_heads"])
    writer.add_head_count_kv(c["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(c["rms_norm_eps"])
    if c.get("head_dim"):
        writer.add_key_length(c["head_dim"])
        writer.add_value_length(c["head_dim"])
    writer.add_rope_freq_base(rope.get("rope_theta", c.get("rope_theta", 10000.0)))
    if rope.get("rope_type") == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if rope.get("rope_type") == "longrope":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        writer.add_rope_scaling_attn_factors(rope.get("short_mscale", 1.0))
        writer.add_tensor("rope_factors_short.weight", np.array(rope["short_factor"], np.float32))
        writer.add_tensor("rope_factors_long.weight", np.array(rope["long_factor"], np.float32))
    if c.get("sliding_window"):
        writer.add_sliding_window(c["sliding_window"])
    experts = c.get("num_local_experts") or c.get("n_routed_experts") or c.get("moe_num_experts")
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(c.get("num_experts_per_tok") or c["moe_k"])
        writer.add_expert_feed_forward_length(c.get("moe_intermediate_size") or c["intermediate_size"])
    if arch in (gguf.MODEL_ARCH.DOTS1, gguf.MODEL_ARCH.GLM4_MOE):
        writer.add_leading_dense_block_count(c["first_k_dense_replace"])
        writer.add_expert_shared_count(c["n_shared_experts"])
        writer.add_expert_weights_scale(c["routed_scaling_factor"])
        writer.add_expert_weights_norm(c["norm_topk_prob"])
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    if arch == gguf.MODEL_ARCH.MINIMAXM2:
        writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    if arch == gguf.MODEL_ARCH.ERNIE4_5_MOE:
        writer.add_leading_dense_block_count(c["moe_layer_start_index"])
        writer.add_interleave_moe_layer_step(c["moe_layer_interval"])
        writer.add_expert_shared_count(c["moe_num_shared_experts"])
    share = rope.get("partial_rotary_factor") or c.get("partial_rotary_factor")
    if share or c.get("rotary_dim"):
        writer.add_rope_dimension_count(c.get("rotary_dim") or int(c["head_dim"] * share))
    if arch == gguf.MODEL_ARCH.GEMMA2:
        writer.add_attn_logit_softcapping(c["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(c["final_logit_softcapping"])
    if arch == gguf.MODEL_ARCH.GRANITE_MOE:
        writer.add_embedding_scale(c["embedding_multiplier"])
        writer.add_residual_scale(c["residual_multiplier"])
        writer.add_logit_scale(c["logits_scaling"])
        writer.add_attention_scale(c["attention_multiplier"])


def tensors(c, stored, permuted, offset):
    """Names of the checkpoint, but experts stacked under the names that the package knows."""
    stacks = {}
    for name, w in stored.items():
        w = w.float().numpy()
        found = re.fullmatch(r"(.*\.experts)\.(\d+)\.(.*)", name)
        if found:
            stacks.setdefault(f"{found[1]}.{found[3]}", {})[int(found[2])] = w
            continue
        if "e_score_correction_bias" in name:
            yield name.replace("_bias", "") + ".bias", w.reshape(-1)
            continue
        if permuted and ("q_proj" in name or "k_proj" in name):
            w = reordered(w, c["num_attention_heads"] if "q_proj" in name else c["num_key_value_heads"])
        if offset and "norm" in name:
            w = w + offset
        if "block_sparse_moe.input_linear" in name:
            gate, up = np.split(w, 2, axis=1)
            yield name.replace("input_linear", "experts.w1"), gate
            yield name.replace("input_linear", "experts.w3"), up
        elif "block_sparse_moe.output_linear" in name:
            yield name.replace("output_linear", "experts.w2"), w
        elif ".experts.gate_up_proj" in name:
            bias = "_bias" in name
            stem, end = name.replace("_bias", "").replace("gate_up_proj", "{}"), ".bias" if bias else ".weight"
            for part, at in (("gate_proj", 0), ("up_proj", 1)):
                yield stem.format(part) + end, w[..., at::2] if bias else w[..., at::2].swapaxes(1, 2)
        elif ".experts.down_proj" in name:
            yield name.replace("_bias", "") + (".bias" if "_bias" in name else ".weight"), w if "_bias" in name else w.swapaxes(1, 2)
        elif name.endswith("sinks"):
            yield name + ".weight", w
        else:
            yield name, w
    for name, parts in stacks.items():
        yield name, np.stack([parts[expert] for expert in sorted(parts)])


def write(name, quantized=None):
    arch, permuted, offset = CASES[name]
    c = json.loads((root / "checkpoints" / name / "config.json").read_text())
    stored = load_file(root / "checkpoints" / name / "model.safetensors")
    path = root / "gguf" / (name + (f"_{quantized.name.lower()}" if quantized else "") + ".gguf")
    path.parent.mkdir(exist_ok=True)
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    values(writer, c, arch)
    names = gguf.get_tensor_name_map(arch, c["num_hidden_layers"])
    for source, w in tensors(c, stored, permuted, offset):
        ours = names.get_name(source, try_suffixes=(".weight", ".bias")) or source
        w = np.ascontiguousarray(w, np.float32)
        if w.ndim < 2:
            writer.add_tensor(ours, w)
        elif quantized and w.shape[-1] % 32 == 0:
            writer.add_tensor(ours, gguf.quants.quantize(w, quantized), raw_dtype=quantized)
        else:
            writer.add_tensor(ours, w.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(path.name, path.stat().st_size // 1024, "kB")
    if quantized or name in ALWAYS:
        wide = {}
        for source, w in stored.items():
            w = w.float().numpy()
            if quantized and w.ndim == 2 and w.shape[-1] % 32 == 0:
                w = gguf.quants.dequantize(gguf.quants.quantize(np.ascontiguousarray(w), quantized), quantized)
            wide[source] = torch.tensor(w)
        config = AutoConfig.from_pretrained(root / "checkpoints" / name, **ALWAYS.get(name, {}))
        if quantized:
            model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
            print(model.eval().float().load_state_dict(wide, strict=False))
        else:
            model = AutoModelForCausalLM.from_pretrained(root / "checkpoints" / name, config=config, dtype=torch.float32).eval()
        model.tie_weights()
        ids = load_file(root / "checkpoints" / name / "io_0.safetensors")["input_ids"]
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits
        save_file({"input_ids": ids, "logits": logits.contiguous()}, path.with_suffix(".safetensors"))


# Texts with what tokenizers get wrong: spaces in a row and at the ends, digits, line ends, endings, other scripts, what no token covers.
TEXTS = ["Ownership is Rust's most unique feature", "  two  spaces ", "x=12345;\n\n\tfn main() {}\r\n", "don't WE'LL I'm", "a<b>c</b>", "naïve Ünïcode 中文 ☂ 🦀", ""]


def corpus():
    return (root / "../../../../examples/tiny-llama/test.txt").resolve().read_text()[:200_000]


def with_text(kind, tokens, types, settings, ids, scores=None, merges=None):
    """A model of one small layer with a vocabulary, and beside it the tokens that the vocabulary's own library gives for some texts."""
    hidden, vocab = 16, len(tokens)
    rng = np.random.default_rng(7)
    writer = gguf.GGUFWriter(root / "vocabulary" / (kind + ".gguf"), "llama")
    c = dict(max_position_embeddings=64, hidden_size=hidden, num_hidden_layers=1, intermediate_size=16, num_attention_heads=2,
             num_key_value_heads=2, rms_norm_eps=1e-5)
    values(writer, c, gguf.MODEL_ARCH.LLAMA)
    writer.add_tokenizer_model(kind)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if scores:
        writer.add_token_scores(scores)
    if merges:
        writer.add_token_merges(merges)
    for add, value in settings:
        getattr(writer, add)(value)
    weights = {"token_embd": (vocab, hidden), "output_norm": (hidden,), "blk.0.attn_norm": (hidden,), "blk.0.ffn_norm": (hidden,)}
    weights |= {f"blk.0.{n}": (hidden, hidden) for n in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")}
    for weight, dims in weights.items():
        w = rng.standard_normal(dims, np.float32) * 0.4 if len(dims) == 2 else np.ones(dims, np.float32)
        writer.add_tensor(weight + ".weight", w.astype(np.float16) if len(dims) == 2 else w)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    cases = [dict(text=text, ids=ids(text)) for text in TEXTS]
    (root / "vocabulary" / (kind + ".json")).write_text(json.dumps(cases, ensure_ascii=False, indent=1) + "\n")


def text_bpe():
    from tokenizers import ByteLevelBPETokenizer, pre_tokenizers, Regex

    trained = ByteLevelBPETokenizer()
    trained._tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    trained.train_from_iterator([corpus()], vocab_size=512, special_tokens=["<s>", "</s>"], show_progress=False)
    own = json.loads(trained._tokenizer.to_str())["model"]
    tokens = sorted(own["vocab"], key=own["vocab"].get)
    with_text("gpt2", tokens, [3, 3] + [1] * (len(tokens) - 2),
              [("add_tokenizer_pre", "qwen2"), ("add_bos_token_id", 0), ("add_eos_token_id", 1), ("add_add_bos_token", True)],
              lambda text: [0] + trained.encode(text).ids, merges=[" ".join(m) for m in own["merges"]])


def text_spm():
    import io
    import sentencepiece as spm

    out = io.BytesIO()
    spm.SentencePieceTrainer.train(sentence_iterator=iter(corpus().split("\n")), model_writer=out, vocab_size=640, model_type="bpe", byte_fallback=True,
                                   character_coverage=0.99,
                                   normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True, minloglevel=2)
    p = spm.SentencePieceProcessor(model_proto=out.getvalue())
    kinds = [(p.is_unknown, 2), (p.is_control, 3), (p.is_byte, 6)]
    types = [next((ty for is_so, ty in kinds if is_so(i)), 1) for i in range(len(p))]

    with_text("llama", [p.id_to_piece(i) for i in range(len(p))], types,
              [("add_bos_token_id", p.bos_id()), ("add_eos_token_id", p.eos_id()), ("add_unk_token_id", p.unk_id())],
              lambda text: [p.bos_id()] + p.encode(text), scores=[p.get_score(i) for i in range(len(p))])


for case in sys.argv[1:] or CASES:
    write(case)
if not sys.argv[1:]:
    text_bpe()
    text_spm()
    write("llama", T.Q8_0)
    write("smollm3", T.Q4_0)

"""Writes checkpoints/FAMILY: config.json, model.safetensors in f16, and io_0.safetensors with tokens and the logits that transformers gives in f32.

Weights are random, sized so that a mistake anywhere moves logits by far more than rounding does. Usage: python checkpoints.py [FAMILY...]
"""
import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

SMALL = dict(vocab_size=96, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=128, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, pad_token_id=0)
HEADS = dict(head_dim=16)
EXPERTS = dict(moe_intermediate_size=24, num_experts_per_tok=2)
MLA = dict(q_lora_rank=16, kv_lora_rank=12, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=12, num_key_value_heads=4, head_dim=8,
           first_k_dense_replace=1, n_shared_experts=1, n_routed_experts=8, **EXPERTS)
WINDOW = dict(sliding_window=4)
TINY = dict(hidden_size=24, intermediate_size=16, num_attention_heads=3, num_key_value_heads=1, head_dim=8)
LONG = dict(rope_type="longrope", rope_theta=10000.0, short_factor=[1.0, 1.1, 1.2, 1.3], long_factor=[1.0, 2.0, 4.0, 8.0],
            original_max_position_embeddings=32)

# Name of the folder: model type, and what differs from SMALL.
CASES = {
    "afmoe": ("afmoe", dict(TINY, **WINDOW, num_experts=4, num_shared_experts=1, num_dense_layers=1, moe_intermediate_size=8, mup_enabled=True,
                            num_experts_per_tok=2, route_scale=1.5, layer_types=["sliding_attention", "full_attention"])),
    "arcee": ("arcee", {}),
    "cohere": ("cohere", dict(logit_scale=0.25)),
    "cohere_qk": ("cohere", dict(hidden_size=24, head_dim=6, intermediate_size=16, use_qk_norm=True)),
    "cohere2": ("cohere2", dict(WINDOW, logit_scale=0.25, layer_types=["sliding_attention", "full_attention"])),
    "cwm": ("cwm", dict(TINY, **WINDOW, layer_types=["sliding_attention", "full_attention"])),
    "deepseek_v2": ("deepseek_v2", dict(MLA, topk_method="group_limited_greedy", n_group=4, topk_group=2, norm_topk_prob=False,
                                        routed_scaling_factor=1.5)),
    "deepseek_v3": ("deepseek_v3", dict(MLA, n_group=4, topk_group=2, num_experts_per_tok=3, num_nextn_predict_layers=0)),
    "dots1": ("dots1", dict(HEADS, n_routed_experts=8, n_shared_experts=1, first_k_dense_replace=1, n_group=1, topk_group=1, **EXPERTS)),
    "ernie4_5": ("ernie4_5", dict(HEADS, use_bias=True)),
    "ernie4_5_moe": ("ernie4_5_moe", dict(moe_num_experts=6, moe_k=2, moe_intermediate_size=16, moe_num_shared_experts=1,
                                          moe_layer_start_index=1, moe_layer_end_index=1, moe_layer_interval=1,
                                          moe_norm_min=0.6)),
    "exaone": ("exaone", dict(TINY)),
    "exaone4": ("exaone4", dict(HEADS, **WINDOW, layer_types=["sliding_attention", "full_attention"])),
    "exaone_moe": ("exaone_moe", dict(TINY, **WINDOW, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8, num_shared_experts=2,
                                      layer_types=["sliding_attention", "full_attention"])),
    "flex_olmo": ("flex_olmo", dict(hidden_size=24, num_experts=4, num_experts_per_tok=2, intermediate_size=16)),
    "gemma": ("gemma", HEADS),
    "gemma2": ("gemma2", dict(HEADS, **WINDOW, query_pre_attn_scalar=16, attn_logit_softcapping=5.0, final_logit_softcapping=3.0)),
    "gemma3_text": ("gemma3_text", dict(HEADS, **WINDOW, query_pre_attn_scalar=24, layer_types=["sliding_attention", "full_attention"])),
    "glm": ("glm", dict(HEADS, attention_bias=True)),
    "glm4": ("glm4", dict(HEADS, attention_bias=True)),
    "glm4_moe": ("glm4_moe", dict(HEADS, attention_bias=True, use_qk_norm=True, n_routed_experts=8, n_shared_experts=1,
                                  first_k_dense_replace=1, n_group=1, topk_group=1, **EXPERTS)),
    "glm4_moe_lite": ("glm4_moe_lite", dict(TINY, q_lora_rank=8, kv_lora_rank=8, qk_nope_head_dim=4, qk_rope_head_dim=4, v_head_dim=4,
                                            num_key_value_heads=3, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=8)),
    "gpt_oss": ("gpt_oss", dict(HEADS, **WINDOW, num_local_experts=4, num_experts_per_tok=2)),
    "gpt_neox": ("gpt_neox", dict(TINY)),
    "granite_swa": ("granite_swa", dict(hidden_size=24, intermediate_size=16, **WINDOW, embedding_multiplier=6.0, residual_multiplier=0.4,
                                        attention_multiplier=0.25, logits_scaling=2.0)),
    "granite": ("granite", dict(embedding_multiplier=6.0, residual_multiplier=0.4, attention_multiplier=0.25, logits_scaling=2.0)),
    "granitemoe": ("granitemoe", dict(embedding_multiplier=6.0, residual_multiplier=0.4, attention_multiplier=0.25, logits_scaling=2.0,
                                      num_local_experts=6, num_experts_per_tok=2, intermediate_size=24)),
    "granitemoeshared": ("granitemoeshared", dict(hidden_size=24, intermediate_size=8, embedding_multiplier=6.0, residual_multiplier=0.4,
                                                  attention_multiplier=0.25, logits_scaling=2.0, num_local_experts=4, num_experts_per_tok=2,
                                                  shared_intermediate_size=16)),
    "helium": ("helium", dict(head_dim=8)),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", dict(hidden_size=24, head_dim=8, rope_parameters=dict(rope_type="dynamic", alpha=50.0, factor=1.0,
                                                                                                   rope_theta=10000.0))),
    "hunyuan_v1_moe": ("hunyuan_v1_moe", dict(TINY, intermediate_size=8, num_experts=4, moe_topk=2)),
    "hyperclovax": ("hyperclovax", dict(TINY, use_post_norm=True, residual_multiplier=0.4, embedding_multiplier=6.0, logits_scaling=0.5)),
    "internlm3": ("internlm3", dict(TINY, bias=True, qkv_bias=True, rope_parameters=dict(rope_type="default", rope_theta=10000.0))),
    "iquestcoder": ("iquestcoder", dict(TINY)),
    "jais2": ("jais2", dict(hidden_size=24, head_dim=8, intermediate_size=24, layer_norm_eps=1e-5)),
    "lfm2_moe": ("lfm2_moe", dict(hidden_size=24, intermediate_size=24, num_attention_heads=3, num_key_value_heads=1, moe_intermediate_size=16,
                                  num_experts=4, num_experts_per_tok=2, num_dense_layers=1, norm_eps=1e-5, routed_scaling_factor=1.5,
                                  layer_types=["full_attention", "full_attention"])),
    "llama": ("llama", dict(HEADS, attention_bias=True, mlp_bias=True, tie_word_embeddings=True)),
    "mellum": ("mellum", dict(TINY, **WINDOW, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8, mlp_layer_types=["sparse", "dense"],
                              layer_types=["sliding_attention", "full_attention"])),
    "minimax_m2": ("minimax_m2", dict(hidden_size=24, head_dim=8, intermediate_size=16, num_local_experts=4, num_experts_per_tok=2, rotary_dim=4)),
    "ministral": ("ministral", dict(HEADS, **WINDOW, rope_parameters=dict(rope_type="default", rope_theta=10000.0),
                                    layer_types=["sliding_attention", "full_attention"])),
    "ministral3": ("ministral3", dict(TINY)),
    "nanochat": ("nanochat", dict(hidden_size=24, head_dim=8, intermediate_size=16, num_key_value_heads=2)),
    "nemotron": ("nemotron", {}),
    "olmo": ("olmo", {}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", dict(WINDOW, num_hidden_layers=4, hidden_size=24, intermediate_size=24, head_dim=8)),
    "olmoe": ("olmoe", dict(num_experts=6, num_experts_per_tok=2, intermediate_size=24, norm_topk_prob=True)),
    "persimmon": ("persimmon", dict(TINY)),
    "phi_qk": ("phi", dict(TINY, qk_layernorm=True)),
    "phi": ("phi", {}),
    "phi3_longrope": ("phi3", dict(rope_parameters=LONG, max_position_embeddings=32, original_max_position_embeddings=32)),
    "phimoe": ("phimoe", dict(num_hidden_layers=1, num_local_experts=5, num_experts_per_tok=2, intermediate_size=16, attention_bias=True,
                              lm_head_bias=True, router_jitter_noise=0.3)),
    "phimoe_longrope": ("phimoe", dict(num_hidden_layers=1, num_local_experts=2, num_experts_per_tok=2, intermediate_size=24,
                                       rope_parameters=dict(LONG, short_mscale=1.25, long_mscale=1.5), max_position_embeddings=32)),
    "qwen3": ("qwen3", dict(HEADS, intermediate_size=16)),
    "sarvam_moe": ("sarvam_moe", dict(TINY, n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2, moe_intermediate_size=8)),
    "seed_oss": ("seed_oss", HEADS),
    "smollm3": ("smollm3", dict(num_hidden_layers=4, hidden_size=32, intermediate_size=32)),
    "solar_open": ("solar_open", dict(TINY, n_routed_experts=4, n_shared_experts=1, first_k_dense_replace=1, n_group=1, topk_group=1,
                                      num_experts_per_tok=2, moe_intermediate_size=16)),
    "stablelm_parallel": ("stablelm", dict(TINY, use_parallel_residual=True)),
    "stablelm_qk": ("stablelm", dict(hidden_size=32, intermediate_size=16, num_attention_heads=2, num_key_value_heads=1, qk_layernorm=True)),
    "stablelm": ("stablelm", dict(use_qkv_bias=True)),
    "starcoder2": ("starcoder2", dict(WINDOW, use_bias=True)),
    "vaultgemma": ("vaultgemma", dict(hidden_size=24, head_dim=8, intermediate_size=24, **WINDOW, query_pre_attn_scalar=16,
                                      attn_logit_softcapping=5.0, final_logit_softcapping=3.0)),
    "youtu": ("youtu", dict(hidden_size=24, intermediate_size=24, q_lora_rank=16, kv_lora_rank=12, qk_nope_head_dim=8, qk_rope_head_dim=8,
                            v_head_dim=12, num_key_value_heads=4, head_dim=8, tie_word_embeddings=True)),
}


def fill(model):
    generator = torch.Generator().manual_seed(5)
    corrections = [(name, b) for name, b in model.named_buffers() if "e_score_correction_bias" in name or "expert_bias" in name]
    for name, p in list(model.named_parameters()) + corrections:
        noise = torch.randn(p.shape, generator=generator)
        if "e_score_correction_bias" in name or "expert_bias" in name:
            p.data = noise * 0.3
        elif p.dim() >= 2:
            p.data = noise * (0.5 if "embed" in name else 1.3 / p.shape[-1] ** 0.5)
        elif "norm" in name:
            # Some families store what a norm's factor is above 1.
            around = 0.0 if "bias" in name or type(model).__name__.startswith(("Gemma", "Nemotron", "VaultGemma")) else 1.0
            p.data = around + 0.2 * noise
        else:
            p.data = 0.3 * noise
        p.data = p.data.to(torch.float16).to(torch.float32)


def write(folder, kind, change):
    torch.manual_seed(3)
    config = AutoConfig.for_model(kind, **{**SMALL, **change})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().to(torch.float32)
    fill(model)
    model.tie_weights()
    ids = torch.randint(3, SMALL["vocab_size"], (2, 11))
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
    shutil.rmtree(folder, ignore_errors=True)
    model.to(torch.float16).save_pretrained(folder)
    for extra in folder.iterdir():
        if extra.name not in ("config.json", "model.safetensors"):
            extra.unlink()
    save_file({"input_ids": ids, "logits": logits.contiguous()}, folder / "io_0.safetensors")
    print(folder.name, f"logits {logits.std():.3f}", sum(f.stat().st_size for f in folder.iterdir()) // 1024, "kB")


def write_fp8(folder, source):
    """The same checkpoint with its linear layers in e4m3, tiles of 16 by 16, and the logits of what those stand for."""
    tensors, tile, wide = load_file(source / "model.safetensors"), 16, {}
    config = json.loads((source / "config.json").read_text())
    for name, w in list(tensors.items()):
        wide[name] = w.float()
        if w.dim() != 2 or "proj" not in name:
            continue
        rows, cols = w.shape
        tiles = torch.nn.functional.pad(w.float(), (0, -cols % tile, 0, -rows % tile))
        tiles = tiles.reshape(tiles.shape[0] // tile, tile, -1, tile)
        scale = tiles.abs().amax((1, 3)) / 448
        quantized = (tiles / scale[:, None, :, None]).to(torch.float8_e4m3fn)
        back = (quantized.float() * scale[:, None, :, None]).reshape(quantized.shape[0] * tile, -1)[:rows, :cols]
        wide[name] = back
        tensors[name] = quantized.reshape(quantized.shape[0] * tile, -1)[:rows, :cols].contiguous()
        tensors[name + "_scale_inv"] = scale.contiguous()
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source), attn_implementation="eager").eval().float()
    print(model.load_state_dict(wide, strict=False))
    model.tie_weights()
    ids = load_file(source / "io_0.safetensors")["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [tile, tile]}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    save_file(tensors, folder / "model.safetensors")
    save_file({"input_ids": ids, "logits": logits.contiguous()}, folder / "io_0.safetensors")


# The values of a 4-bit float with one bit of mantissa, by its code.
E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
E2M1 = torch.cat([E2M1, -E2M1])


def write_mxfp4(folder):
    """GPT-OSS as it is published: experts in blocks of 32 4-bit floats with an exponent, and the logits of what those stand for."""
    torch.manual_seed(3)
    config = AutoConfig.for_model("gpt_oss", **{**SMALL, **CASES["gpt_oss"][1], "intermediate_size": 64, "max_position_embeddings": 128})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().float()
    fill(model)
    tensors = {}
    for name, p in model.state_dict().items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            tensors[name] = p.to(torch.float16)
            continue
        blocks = p.transpose(1, 2).reshape(p.shape[0], p.shape[2], -1, 32)
        exponent = (blocks.abs().amax(-1, keepdim=True) / 6).log2().ceil().clamp(-127, 127)
        codes = ((blocks / 2**exponent)[..., None] - E2M1).abs().argmin(-1)
        p.copy_((E2M1[codes] * 2**exponent).reshape(p.shape[0], p.shape[2], -1).transpose(1, 2))
        tensors[name + "_blocks"] = (codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8)
        tensors[name + "_scales"] = (exponent[..., 0] + 127).to(torch.uint8)
    ids = torch.randint(3, SMALL["vocab_size"], (2, 11))
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
    shutil.rmtree(folder, ignore_errors=True)
    config.quantization_config = {"quant_method": "mxfp4"}
    config.save_pretrained(folder)
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "model.safetensors")
    save_file({"input_ids": ids, "logits": logits.contiguous()}, folder / "io_0.safetensors")


root = Path(__file__).parent / "checkpoints"
for name, (kind, change) in CASES.items():
    if len(sys.argv) == 1 or name in sys.argv[1:]:
        write(root / name, kind, change)
if len(sys.argv) == 1:
    write_fp8(root / "llama_fp8", root / "llama")
    write_mxfp4(root / "gpt_oss_mxfp4")

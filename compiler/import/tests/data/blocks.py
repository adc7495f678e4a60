"""Writes blocks.safetensors: random blocks of every format, and the numbers that the `gguf` package decodes them to."""
import numpy as np
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as T
from safetensors.numpy import save_file

random = np.random.default_rng(7)
tensors = {}
for kind in [T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q2_K, T.Q3_K, T.Q4_K, T.Q5_K, T.Q6_K, T.IQ4_NL, T.IQ4_XS, T.MXFP4]:
    numbers, size = GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (4, size), dtype=np.uint8)
    # Scales in half precision must be numbers: their exponents are made small wherever they stand.
    halves = {T.Q2_K: [80, 82], T.Q3_K: [108], T.Q6_K: [208], T.Q4_1: [0, 2], T.Q5_1: [0, 2], T.Q4_K: [0, 2], T.Q5_K: [0, 2]}
    for at in halves.get(kind, [] if kind == T.MXFP4 else [0]):
        blocks[:, at + 1] &= 0xBF
    tensors[f"{kind.name}.bytes"] = blocks.reshape(-1)
    tensors[f"{kind.name}.numbers"] = quants.dequantize(blocks.reshape(1, -1), kind).astype(np.float32).reshape(-1)
save_file(tensors, "blocks.safetensors")

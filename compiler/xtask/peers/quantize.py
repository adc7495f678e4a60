"""A GGUF file in one of llama.cpp's types: `quantize.py F32.gguf IMPORTANCE.npz|- TYPE OUT.gguf`.

llama.cpp's own quantizer chooses the type of each tensor, as its command does, but for embedding and head: those are Q8_0 for every type.
"""

import ctypes
import sys
import time

import engine
import gguf
import llama_cpp as llama
import numpy as np


def importance(path):
    """The matrix as the quantizer takes it: an array that ends with a nameless element."""
    if path == "-":
        return None, None
    loaded = {name: np.ascontiguousarray(data, dtype=np.float32) for name, data in np.load(path).items()}
    array = (llama.llama_model_imatrix_data * (len(loaded) + 1))()
    for at, (name, data) in enumerate(loaded.items()):
        array[at] = llama.llama_model_imatrix_data(name.encode(), data.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), data.size)
    return array, loaded


def size(path):
    """Bytes and bits per weight of the layers' matrices, routers left out; bytes of all tensors; types of the matrices."""
    tensors = gguf.GGUFReader(path).tensors
    matrices = [t for t in tensors if t.name.startswith("blk.") and len(t.shape) > 1 and "ffn_gate_inp" not in t.name]
    stored = sum(int(t.n_bytes) for t in matrices)
    types = sorted({t.tensor_type.name for t in matrices})
    return stored, 8 * stored / sum(int(t.n_elements) for t in matrices), sum(int(t.n_bytes) for t in tensors), types


def main(source, matrix, kind, out):
    params = llama.llama_model_quantize_default_params()
    params.ftype = getattr(llama, "LLAMA_FTYPE_ALL_F32" if kind == "F32" else f"LLAMA_FTYPE_MOSTLY_{kind}")
    if kind != "F32":
        params.output_tensor_type = params.token_embedding_type = llama.GGML_TYPE_Q8_0
    # Both are kept until the quantizer is through.
    array, loaded = importance(matrix)
    if array is not None:
        params.imatrix = ctypes.cast(array, type(params.imatrix))
    started = time.monotonic()
    if llama.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(params)) != 0:
        raise SystemExit(f"llama.cpp cannot quantize to {kind}")
    seconds = time.monotonic() - started
    linear_bytes, linear_bits, stored, types = size(out)
    engine.emit(linear_bytes=linear_bytes, linear_bits=linear_bits, bytes=stored, types=types, seconds=seconds)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""llama.cpp's importance matrix: `importance.py F32.gguf TOKENIZER TEXT LENGTH COUNT OUT.npz`.

For every matrix product of the model, the mean over tokens of the square of each input column; for the products of experts one row per expert, over the tokens that
reached it. The evaluation callback sees every node of llama.cpp's graph: asked first whether it wants the node's data, then shown the node.
"""

import ctypes
import sys

import numpy as np
from engine import Model, spread, tokens


class Tensor(ctypes.Structure):
    """`struct ggml_tensor` of the version in requirements.txt."""


Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(Tensor) * 10),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
    ("extra", ctypes.c_void_p),
    ("padding", ctypes.c_char * 8),
]


def array(tensor, dtype):
    """The numbers of a tensor in memory, `[ne2, ne1, ne0]`, whatever its strides."""
    shape, strides = tuple(tensor.ne[2::-1]), tuple(tensor.nb[2::-1])
    span = sum((n - 1) * stride for n, stride in zip(shape, strides)) + np.dtype(dtype).itemsize
    raw = np.ctypeslib.as_array(ctypes.cast(tensor.data, ctypes.POINTER(ctypes.c_uint8)), shape=(span,))
    return np.lib.stride_tricks.as_strided(raw.view(np.uint8)[: span // 4 * 4].view(dtype), shape, strides)


class Collector:
    """Sums of squares and counts, by the weight's name."""

    def __init__(self):
        self.sums, self.counts = {}, {}

    def watch(self, pointer, ask, _):
        node = ctypes.cast(pointer, ctypes.POINTER(Tensor)).contents
        weight = node.src[0].contents.name.decode() if node.src[0] and node.src[1] else ""
        if not (weight.startswith("blk.") and weight.endswith(".weight") and node.src[0].contents.ne[1] > 1):
            return not ask
        if ask:
            return True
        x = array(node.src[1].contents, np.float32).astype(np.float64) ** 2
        experts = node.src[0].contents.ne[2]
        sums = self.sums.setdefault(weight, np.zeros((experts, x.shape[-1])))
        counts = self.counts.setdefault(weight, np.zeros(experts))
        if node.src[2] and experts > 1:
            chosen = array(node.src[2].contents, np.int32)[0]
            for token, row in enumerate(chosen):
                for slot, expert in enumerate(row):
                    sums[expert] += x[token, slot % x.shape[1]]
                    counts[expert] += 1
        else:
            sums[0] += x.sum(axis=(0, 1))
            counts[0] += x.shape[0] * x.shape[1]
        return True


def main(path, tokenizer, text, length, count, out):
    collector = Collector()
    model = Model(path, int(length), collector.watch)
    for window in spread(tokens(tokenizer, text), int(length), int(count)):
        model.logits(window)
    # An expert that no token reached counts all columns alike, as llama.cpp's own tool has it.
    mean = lambda name: np.where(collector.counts[name][:, None] > 0, collector.sums[name], 1.0) / np.maximum(
        collector.counts[name][:, None], 1
    )
    np.savez(out, **{name: mean(name).astype(np.float32).reshape(-1) for name in collector.sums})


if __name__ == "__main__":
    main(*sys.argv[1:])

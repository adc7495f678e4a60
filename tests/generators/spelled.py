"""Small decoders spelled out op by op, with ONNX Runtime's results beside them.

They hold what no export of the corpus has: ONNX Runtime's own attention, rotation and products, weights behind DequantizeLinear, attention
sinks and bounded gates in plain ops, norms before and after a layer, capped scores, scalars, layers that share their matrices. Weights are
random with a fixed seed.

    pip install onnx onnxruntime safetensors numpy
    python tests/generators/spelled.py tests/data            # all of them
    python tests/generators/spelled.py tests/data blockwise  # some
"""
import json
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

VOCAB, HIDDEN, HEADS, WIDTH = 64, 32, 4, 8


class Graph:
    """A graph being written. Values are names; numbers and arrays become initializers."""

    def __init__(self, seed, exact=False):
        self.exact = exact
        self.nodes, self.constants, self.random, self.count = [], [], np.random.default_rng(seed), 0
        self.inputs, self.outputs = [], []

    def name(self, op):
        self.count += 1
        return f"{op}_{self.count}"

    def constant(self, value, dtype=np.float32, kind=None):
        name = self.name("c")
        if kind is not None:
            tensor = helper.make_tensor(name, kind, value.shape, value.flatten().tolist())
        else:
            tensor = numpy_helper.from_array(np.asarray(value, dtype), name)
        self.constants.append(tensor)
        return name

    def weights(self, *dims, scale=None):
        scale = scale or 1.5 / np.sqrt(dims[-2] if len(dims) > 1 else 4)
        return self.constant(self.random.normal(size=dims) * scale)

    def ints(self, *values):
        return self.constant(np.array(values, np.int64), np.int64)

    def op(self, op, *operands, outputs=1, **attrs):
        domain, _, op = op.rpartition(":")
        operands = [self.constant(x) if isinstance(x, (int, float)) else x for x in operands]
        results = [self.name(op) for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, operands, results, results[0], domain=domain, **attrs))
        return results[0] if outputs == 1 else results

    def input(self, name, kind, dims):
        self.inputs.append(helper.make_tensor_value_info(name, kind, dims))
        return name

    def output(self, value, name, dims):
        self.op_to(name, value)
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, dims))

    def op_to(self, name, value):
        self.nodes.append(helper.make_node("Identity", [value], [name], name))

    # Pieces that the families share.

    def columns(self, x, start, end, step=1):
        return self.op("Slice", x, self.ints(start), self.ints(end), self.ints(-1), self.ints(step))

    def norm(self, x, weight, eps=1e-5):
        mean = self.op("ReduceMean", self.op("Mul", x, x), self.ints(-1))
        root = self.op("Sqrt", self.op("Add", mean, eps))
        return self.op("Mul", self.op("Div", x, root), weight)

    def heads(self, x, count=HEADS):
        return self.op("Transpose", self.op("Reshape", x, self.ints(0, 0, count, -1)), perm=[0, 2, 1, 3])

    def positions(self, ids):
        tokens = self.op("Squeeze", self.op("Shape", ids, start=1, end=2))
        return self.op("Range", self.constant(0, np.int64), tokens, self.constant(1, np.int64))

    def rope(self, x, positions, rotated):
        """Halves of the first columns turn, the rest passes."""
        half = rotated // 2
        frequencies = self.constant(1000.0 ** (-np.arange(half) / half))
        angles = self.op("Mul", self.op("Cast", self.op("Unsqueeze", positions, self.ints(1)), to=1), frequencies)
        cos, sin = self.op("Cos", angles), self.op("Sin", angles)
        a, b = self.columns(x, 0, half), self.columns(x, half, rotated)
        low = self.op("Sub", self.op("Mul", a, cos), self.op("Mul", b, sin))
        high = self.op("Add", self.op("Mul", b, cos), self.op("Mul", a, sin))
        rest = [self.columns(x, rotated, 2**40)] if rotated < WIDTH else []
        return self.op("Concat", low, high, *rest, axis=-1)

    def mask(self, positions, window=None):
        rows = self.op("Unsqueeze", positions, self.ints(1))
        seen = self.op("LessOrEqual", positions, rows)
        if window:
            near = self.op("Less", self.op("Sub", rows, positions), self.constant(window, np.int64))
            seen = self.op("And", seen, near)
        return self.op("Where", seen, 0.0, float(np.finfo(np.float32).min))

    def scores(self, q, k, scale, cap=None):
        scores = self.op("Mul", self.op("MatMul", q, self.op("Transpose", k, perm=[0, 1, 3, 2])), scale)
        if cap:
            scores = self.op("Mul", self.op("Tanh", self.op("Div", scores, cap)), cap)
        return scores

    def repeat(self, x, kv_heads):
        groups = HEADS // kv_heads
        x = self.op("Unsqueeze", x, self.ints(2))
        x = self.op("Expand", x, self.ints(1, 1, groups, 1, 1))
        shape = self.op("Concat", self.ints(0, HEADS), self.ints(-1, WIDTH), axis=0)
        return self.op("Reshape", x, shape)

    def joined(self, x):
        return self.op("Reshape", self.op("Transpose", x, perm=[0, 2, 1, 3]), self.ints(0, 0, HEADS * WIDTH))

    def model(self, opset=21):
        graph = helper.make_graph(self.nodes, "decoder", self.inputs, self.outputs, self.constants)
        imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)


def blocks(g, rows, cols, bits, block):
    """Integers, scales and zero points of MatMulNBits."""
    count = -(-cols // block)
    data = g.random.integers(0, 256, (rows, count, block * bits // 8)).astype(np.uint8)
    scales = (g.random.uniform(0.5, 1.5, (rows * count)) * 2.0 / (2**bits * np.sqrt(cols)) * 1.7).astype(np.float32)
    zeros = g.random.integers(90, 160, (rows * count * bits // 8)).astype(np.uint8)
    return g.constant(data, np.uint8), g.constant(scales), g.constant(zeros, np.uint8)


def dequantized(g, shape, kind, axis, block=0):
    """A weight behind DequantizeLinear."""
    low, high = {TensorProto.INT8: (-127, 128), TensorProto.UINT4: (0, 16), TensorProto.UINT8: (0, 256)}[kind]
    data = g.random.integers(low, high, shape)
    scales = list(shape)
    scales[axis] = -(-shape[axis] // block) if block else shape[axis]
    scales = scales if block else [shape[axis]]
    spread = 2.5 / (high - low) / np.sqrt(shape[0])
    scale = g.constant(g.random.uniform(0.5, 1.5, scales) * spread * 1.5)
    zeros = g.constant(g.random.integers((low + high) // 2 - 1, (low + high) // 2 + 2, scales), kind=kind)
    attrs = {"axis": axis, **({"block_size": block} if block else {})}
    return g.op("DequantizeLinear", g.constant(data, kind=kind), scale, zeros, **attrs)


def experts(g, n, count=4, inner=16, block=16):
    """Experts in 8 bits with zero points and biases, gates and what they gate in turn. ONNX Runtime rounds what it multiplies them with, so
    results come from the same graph with the numbers that the integers stand for."""

    def layer(rows, cols):
        data = g.random.integers(0, 256, (count, rows, cols)).astype(np.uint8)
        scales = g.random.uniform(0.5, 1.5, (count, rows, cols // block)) / (73 * np.sqrt(cols))
        zeros = g.random.integers(118, 138, (count, rows, cols // block)).astype(np.uint8)
        bias = g.weights(count, rows, scale=0.3)
        if g.exact:
            spread = lambda x: np.repeat(np.float64(np.float32(x)), block, axis=2)
            return g.constant((data - spread(zeros)) * spread(scales)), bias
        return g.constant(data, np.uint8), g.constant(scales), bias, g.constant(zeros, np.uint8)

    first, second = layer(2 * inner, HIDDEN), layer(HIDDEN, inner)
    logits = g.op("MatMul", g.op("Reshape", n, g.ints(-1, HIDDEN)), g.weights(HIDDEN, count))
    swiglu = dict(activation_type="swiglu", swiglu_fusion=1, swiglu_limit=1.5, activation_alpha=1.702, activation_beta=1.0)
    swiglu |= dict(k=2, normalize_routing_weights=1)
    if g.exact:
        return g.op("com.microsoft:MoE", n, logits, *first, *second, **swiglu)
    operands = [*first[:3], *second[:3], "", "", "", first[3], second[3]]
    return g.op("com.microsoft:QMoE", n, logits, *operands, expert_weight_bits=8, block_size=block, **swiglu)


def fused(exact=False):
    """ONNX Runtime's ops, weights in integers, a cache, positions given, a padding mask."""
    g = Graph(1, exact)
    ids = g.input("input_ids", TensorProto.INT64, ["batch", "tokens"])
    mask = g.input("attention_mask", TensorProto.INT32, ["batch", "total"])
    places = g.input("position_ids", TensorProto.INT64, ["batch", "tokens"])
    x = g.op("Gather", dequantized(g, (VOCAB, HIDDEN), TensorProto.INT8, 0), ids)
    angles = np.outer(np.arange(64), 1000.0 ** (-np.arange(WIDTH // 2) / (WIDTH // 2)))
    cos, sin = g.constant(np.cos(angles)), g.constant(np.sin(angles))
    for layer in range(3):
        past = [g.input(f"past.{layer}.{part}", TensorProto.FLOAT, ["batch", HEADS, "past", WIDTH]) for part in ("key", "value")]
        n = g.op("SimplifiedLayerNormalization", x, g.weights(HIDDEN), axis=-1, epsilon=1e-5)
        q = g.op("com.microsoft:MatMulNBits", n, *blocks(g, HIDDEN, HIDDEN, 8, 16), K=HIDDEN, N=HIDDEN, bits=8, block_size=16)
        k = g.op("com.microsoft:FusedMatMul", n, g.weights(HIDDEN, HIDDEN), alpha=0.75, transB=1)
        v = g.op("MatMul", n, dequantized(g, (HIDDEN, HIDDEN), TensorProto.UINT8, 1))
        if layer < 2:
            q, k = [
                g.op("com.microsoft:RotaryEmbedding", y, places, cos, sin, num_heads=HEADS, interleaved=layer) for y in (q, k)
            ]
        bias = g.weights(3 * HIDDEN) if layer == 2 else ""
        attend = dict(num_heads=HEADS, unidirectional=1, **({"scale": 0.3} if layer else {}))
        y, key, value = g.op("com.microsoft:MultiHeadAttention", q, k, v, bias, mask, "", *past, outputs=3, **attend)
        g.output(key, f"present.{layer}.key", ["batch", HEADS, "total", WIDTH])
        g.output(value, f"present.{layer}.value", ["batch", HEADS, "total", WIDTH])
        flat = g.op("Reshape", y, g.ints(-1, HIDDEN))
        y = g.op("Gemm", flat, g.weights(HIDDEN, HIDDEN), g.weights(HIDDEN, scale=0.3), transB=1)
        y = g.op("Reshape", y, g.op("Shape", x))
        n, _, _, x = g.op("com.microsoft:SkipSimplifiedLayerNormalization", x, y, g.weights(HIDDEN), outputs=4, epsilon=1e-5)
        if layer == 1:
            y = experts(g, n)
        else:
            up = g.op("com.microsoft:QuickGelu", g.op("MatMul", n, g.weights(HIDDEN, 48)))
            y = g.op("MatMul", up, dequantized(g, (48, HIDDEN), TensorProto.UINT4, 0, block=16))
        x = g.op("Add", x, y)
    n = g.norm(x, g.weights(HIDDEN))
    g.output(g.op("MatMul", n, g.weights(HIDDEN, VOCAB)), "logits", ["batch", "tokens", VOCAB])
    return g.model()


def sinks():
    """Attention sinks, bounded gates, experts that a choice picks with their biases: as GPT-OSS is written out."""
    g, experts, inner, kv_heads = Graph(2), 4, 16, 2
    ids = g.input("input_ids", TensorProto.INT64, ["batch", "tokens"])
    places = g.positions(ids)
    x = g.op("Gather", g.weights(VOCAB, HIDDEN, scale=1.0), ids)
    for layer in range(2):
        n = g.norm(x, g.weights(HIDDEN))
        q = g.heads(g.op("Add", g.op("MatMul", n, g.weights(HIDDEN, HIDDEN)), g.weights(HIDDEN)))
        k = g.heads(g.op("Add", g.op("MatMul", n, g.weights(HIDDEN, kv_heads * WIDTH)), g.weights(kv_heads * WIDTH)), kv_heads)
        v = g.heads(g.op("MatMul", n, g.weights(HIDDEN, kv_heads * WIDTH)), kv_heads)
        q, k = g.rope(q, places, WIDTH), g.rope(k, places, WIDTH)
        k, v = g.repeat(k, kv_heads), g.repeat(v, kv_heads)
        scores = g.op("Add", g.scores(q, k, WIDTH**-0.5), g.mask(places, window=None if layer else 4))
        shape = g.op("Concat", g.op("Shape", scores, end=3), g.ints(1), axis=0)
        sink = g.op("Expand", g.op("Reshape", g.weights(HEADS, scale=2.0), g.ints(1, HEADS, 1, 1)), shape)
        both = g.op("Concat", scores, sink, axis=-1)
        both = g.op("Sub", both, g.op("ReduceMax", both, g.ints(-1)))
        p = g.columns(g.op("Softmax", both, axis=-1), 0, -1)
        y = g.op("MatMul", g.joined(g.op("MatMul", p, v)), g.weights(HIDDEN, HIDDEN))
        x = g.op("Add", x, y)
        n = g.op("Reshape", g.norm(x, g.weights(HIDDEN)), g.ints(-1, HIDDEN))
        logits = g.op("Gemm", n, g.weights(experts, HIDDEN), g.weights(experts), transB=1)
        best, which = g.op("TopK", logits, g.ints(2), outputs=2, axis=-1)
        weight = g.op("Softmax", best, axis=-1)
        repeated = g.op("Expand", g.op("Unsqueeze", n, g.ints(1)), g.ints(1, 2, 1))
        rows = g.op("Unsqueeze", g.op("Reshape", repeated, g.ints(-1, HIDDEN)), g.ints(1))
        which = g.op("Reshape", which, g.ints(-1))
        up = g.op("MatMul", rows, g.op("Gather", g.weights(experts, HIDDEN, 2 * inner, scale=0.8), which))
        up = g.op("Add", g.op("Squeeze", up, g.ints(1)), g.op("Gather", g.weights(experts, 2 * inner), which))
        gate, up = g.columns(up, 0, 2**40, 2), g.columns(up, 1, 2**40, 2)
        gate, up = g.op("Clip", gate, "", 1.5), g.op("Clip", up, -1.5, 1.5)
        unit = g.op("Mul", gate, g.op("Sigmoid", g.op("Mul", gate, 1.702)))
        unit = g.op("Unsqueeze", g.op("Mul", g.op("Add", up, 1.0), unit), g.ints(1))
        down = g.op("Squeeze", g.op("MatMul", unit, g.op("Gather", g.weights(experts, inner, HIDDEN), which)), g.ints(1))
        down = g.op("Add", down, g.op("Gather", g.weights(experts, HIDDEN), which))
        weighed = g.op("Mul", down, g.op("Reshape", weight, g.ints(-1, 1)))
        y = g.op("ReduceSum", g.op("Reshape", weighed, g.ints(-1, 2, HIDDEN)), g.ints(1), keepdims=0)
        x = g.op("Add", x, g.op("Reshape", y, g.op("Shape", x)))
    n = g.norm(x, g.weights(HIDDEN))
    g.output(g.op("MatMul", n, g.weights(HIDDEN, VOCAB)), "logits", ["batch", "tokens", VOCAB])
    return g.model()


def gemma():
    """Scaled embeddings that are the head too, norms of 1 + w before and after each part, capped scores, every second window."""
    g = Graph(3)
    ids = g.input("input_ids", TensorProto.INT64, ["batch", "tokens"])
    places, table = g.positions(ids), g.weights(VOCAB, HIDDEN, scale=0.5)
    norm = lambda x: g.norm(x, g.op("Add", g.weights(HIDDEN), 1.0), 1e-6)
    x = g.op("Mul", g.op("Gather", table, ids), float(np.float32(HIDDEN**0.5)))
    for layer in range(2):
        n = norm(x)
        q, k, v = [g.heads(g.op("MatMul", n, g.weights(HIDDEN, HIDDEN))) for _ in range(3)]
        q, k = g.rope(q, places, WIDTH), g.rope(k, places, WIDTH)
        scores = g.op("Add", g.scores(q, k, 0.25, cap=5.0), g.mask(places, window=3 if layer == 0 else None))
        y = g.joined(g.op("MatMul", g.op("Softmax", scores, axis=-1), v))
        x = g.op("Add", x, norm(g.op("MatMul", y, g.weights(HIDDEN, HIDDEN))))
        n = norm(x)
        gate, up = g.op("MatMul", n, g.weights(HIDDEN, 48)), g.op("MatMul", n, g.weights(HIDDEN, 48))
        cube = g.op("Add", gate, g.op("Mul", g.op("Pow", gate, 3.0), 0.044715))
        tanh = g.op("Tanh", g.op("Mul", cube, float(np.sqrt(2 / np.pi))))
        gelu = g.op("Mul", g.op("Mul", gate, 0.5), g.op("Add", tanh, 1.0))
        x = g.op("Add", x, norm(g.op("MatMul", g.op("Mul", gelu, up), g.weights(48, HIDDEN))))
    logits = g.op("MatMul", norm(x), g.op("Transpose", table, perm=[1, 0]))
    logits = g.op("Mul", g.op("Tanh", g.op("Div", logits, 8.0)), 8.0)
    g.output(logits, "logits", ["batch", "tokens", VOCAB])
    return g.model()


def olmo():
    """Norms only behind each part, of queries and keys over all heads; half of each head is rotated; scalars as Granite has them; logits
    of the last token only."""
    g, kv_heads = Graph(4), 2
    ids = g.input("input_ids", TensorProto.INT64, ["batch", "tokens"])
    places = g.positions(ids)
    x = g.op("Mul", g.op("Gather", g.weights(VOCAB, HIDDEN, scale=0.3), ids), 6.0)
    for layer in range(2):
        q = g.heads(g.norm(g.op("MatMul", x, g.weights(HIDDEN, HIDDEN)), g.weights(HIDDEN)))
        k = g.heads(g.norm(g.op("MatMul", x, g.weights(HIDDEN, kv_heads * WIDTH)), g.weights(kv_heads * WIDTH)), kv_heads)
        v = g.heads(g.op("MatMul", x, g.weights(HIDDEN, kv_heads * WIDTH)), kv_heads)
        q, k = g.rope(q, places, WIDTH // 2), g.rope(k, places, WIDTH // 2)
        k, v = g.repeat(k, kv_heads), g.repeat(v, kv_heads)
        scores = g.op("Add", g.scores(q, k, 0.2), g.mask(places))
        y = g.joined(g.op("MatMul", g.op("Softmax", scores, axis=-1), v))
        y = g.norm(g.op("MatMul", y, g.weights(HIDDEN, HIDDEN)), g.weights(HIDDEN))
        x = g.op("Add", x, g.op("Mul", y, 0.22))
        gate, up = g.op("MatMul", x, g.weights(HIDDEN, 48)), g.op("MatMul", x, g.weights(HIDDEN, 48))
        unit = g.op("Mul", g.op("Mul", gate, g.op("Sigmoid", gate)), up)
        y = g.norm(g.op("MatMul", unit, g.weights(48, HIDDEN)), g.weights(HIDDEN))
        x = g.op("Add", x, g.op("Mul", y, 0.22))
    last = g.op("Slice", g.norm(x, g.weights(HIDDEN)), g.ints(-1), g.ints(2**40), g.ints(1))
    logits = g.op("Div", g.op("MatMul", last, g.weights(HIDDEN, VOCAB)), 3.0)
    g.output(logits, "logits", ["batch", 1, VOCAB])
    return g.model()


def blockwise():
    """Two layers in turn read the same matrices, each with norms of its own, as MobileLLM shares them block by block; tied to the embedding."""
    g = Graph(5)
    ids = g.input("input_ids", TensorProto.INT64, ["batch", "tokens"])
    places, table = g.positions(ids), g.weights(VOCAB, HIDDEN, scale=0.5)
    x = g.op("Gather", table, ids)
    for layer in range(4):
        if layer % 2 == 0:
            query, key, value, out = [g.weights(HIDDEN, HIDDEN) for _ in range(4)]
            first, second, third = g.weights(HIDDEN, 48), g.weights(HIDDEN, 48), g.weights(48, HIDDEN)
        n = g.norm(x, g.weights(HIDDEN))
        q, k, v = [g.heads(g.op("MatMul", n, w)) for w in (query, key, value)]
        q, k = g.rope(q, places, WIDTH), g.rope(k, places, WIDTH)
        scores = g.op("Add", g.scores(q, k, WIDTH**-0.5), g.mask(places))
        y = g.joined(g.op("MatMul", g.op("Softmax", scores, axis=-1), v))
        x = g.op("Add", x, g.op("MatMul", y, out))
        n = g.norm(x, g.weights(HIDDEN))
        gate, up = g.op("MatMul", n, first), g.op("MatMul", n, second)
        unit = g.op("Mul", g.op("Mul", gate, g.op("Sigmoid", gate)), up)
        x = g.op("Add", x, g.op("MatMul", unit, third))
    logits = g.op("MatMul", g.norm(x, g.weights(HIDDEN)), g.op("Transpose", table, perm=[1, 0]))
    g.output(logits, "logits", ["batch", "tokens", VOCAB])
    return g.model()


def feeds(session, random, ids, past):
    """Inputs for some tokens after `past` others."""
    batch, tokens = ids.shape
    values = {}
    for port in session.get_inputs():
        if port.name == "input_ids":
            values[port.name] = ids
        elif port.name == "attention_mask":
            values[port.name] = np.ones((batch, past + tokens), np.int32)
            # Some of the cache of the first sequence is padding.
            values[port.name][0, : past // 2] = batch == 1
        elif port.name == "position_ids":
            values[port.name] = np.tile(np.arange(past, past + tokens), (batch, 1))
        else:
            values[port.name] = random.normal(size=(batch, HEADS, past, WIDTH)).astype(np.float32)
    return values


def store(folder, model, reference):
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(reference.SerializeToString(), options, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(7)
    cached = len(session.get_inputs()) > 1
    for case, (batch, tokens, past) in enumerate([(1, 1, 5 * cached), (2, 3, 4 * cached), (2, 7, 0)]):
        ids = random.integers(0, VOCAB, (batch, tokens))
        values = feeds(session, random, ids, past)
        names = [port.name for port in session.get_outputs()]
        results = dict(zip(names, session.run(names, values)))
        logits = results["logits"]
        valid = np.ones((batch, tokens), np.uint8)
        if logits.shape[1] < tokens:
            valid[:, :-1] = 0
            logits = np.concatenate([np.zeros((batch, tokens - 1, VOCAB), np.float32), logits], 1)
        tensors = {**values, **results, "ref.logits": logits, "valid": valid}
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, folder / f"io_{case}.safetensors")
    prompt = random.integers(0, VOCAB, (1, 6))
    ids, tokens, rows = prompt, [], []
    for _ in range(8):
        logits = session.run(["logits"], feeds(session, random, ids, 0))[0][0, -1]
        tokens.append(int(logits.argmax()))
        rows.append(logits)
        ids = np.concatenate([ids, [[tokens[-1]]]], 1)
    stored = {"prompt": prompt, "ref.tokens": np.array([tokens]), "ref.logits": np.array([rows])}
    save_file({k: np.ascontiguousarray(v) for k, v in stored.items()}, folder / "gen.safetensors")
    types = sorted({TensorProto.DataType.Name(tensor.data_type) for tensor in model.graph.initializer})
    facts = {"opset_import": {"ai.onnx": model.opset_import[0].version}, "initializer_dtypes": {name: True for name in types}}
    meta = {"oracle": f"onnxruntime {ort.__version__}", "generator": "tests/generators/spelled.py", "suggested_atol": 1e-4, "graph": facts}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")


if __name__ == "__main__":
    for build in (fused, sinks, gemma, olmo, blockwise):
        if sys.argv[2:] and build.__name__ not in sys.argv[2:]:
            continue
        reference = build(exact=True) if build is fused else build()
        store(pathlib.Path(sys.argv[1]) / f"{build.__name__}--spelled", build(), reference)

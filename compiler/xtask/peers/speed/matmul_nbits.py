"""ONNX Runtime's 4-bit matrix products on a LLaMA's sizes, without what lies between them and without the head: an upper bound of its speed.

    matmul_nbits.py make CONFIG.json FOLDER      a graph with random weights, and FOLDER/bench, which runs it
    matmul_nbits.py bytes FOLDER                 bytes of weights that a token reads
    FOLDER/bench FOLDER THREADS PROMPT DECODE    tokens per second

Blocks of 32 with f32 scales, the int8 compute level: the form in which its generators write models for CPUs.
"""

import json
import os
import pathlib
import stat
import sys
import time

import numpy as np

BLOCK = 32
INT8 = 4


def layers(config):
    """Name, inputs and outputs of every linear layer; each reads what fits of what is there."""
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    width = config.get("head_dim") or hidden // config["num_attention_heads"]
    queries = config["num_attention_heads"] * width
    both = 2 * config["num_key_value_heads"] * width
    for index in range(config["num_hidden_layers"]):
        yield index, [("qkv", hidden, queries + both), ("o", queries, hidden), ("gate_up", hidden, 2 * ffn), ("down", ffn, hidden)]


def make(config_path, folder):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    config = json.loads(pathlib.Path(config_path).read_text())
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    nodes, tensors, x, stored = [], [], "x", 0

    def product(name, x, inputs, outputs):
        nonlocal stored
        blocks = inputs // BLOCK
        codes = rng.integers(0, 256, (outputs, blocks, BLOCK // 2), dtype=np.uint8)
        scales = np.full(outputs * blocks, 0.2 / np.sqrt(inputs), dtype=np.float32)
        stored += codes.nbytes + scales.nbytes
        tensors.extend([numpy_helper.from_array(codes, f"{name}.codes"), numpy_helper.from_array(scales, f"{name}.scales")])
        sizes = {"K": inputs, "N": outputs, "bits": 4, "block_size": BLOCK, "accuracy_level": INT8}
        inputs = [x, f"{name}.codes", f"{name}.scales"]
        nodes.append(helper.make_node("MatMulNBits", inputs, [name], name=name, domain="com.microsoft", **sizes))
        return name

    def columns(x, count, name):
        for at, value in ((f"{name}.from", [0]), (f"{name}.to", [count]), (f"{name}.axis", [1])):
            tensors.append(numpy_helper.from_array(np.array(value, dtype=np.int64), at))
        nodes.append(helper.make_node("Slice", [x, f"{name}.from", f"{name}.to", f"{name}.axis"], [name]))
        return name

    for index, parts in layers(config):
        for part, inputs, outputs in parts:
            name = f"layers.{index}.{part}"
            source = columns(x, inputs, f"{name}.in") if part in ("o", "down") else x
            x = product(name, source, inputs, outputs)
    hidden = config["hidden_size"]
    value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["tokens", hidden])
    graph = helper.make_graph(nodes, "layers", [value("x")], [value(x)], tensors)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="model.data")
    (folder / "facts.json").write_text(json.dumps({"decode_bytes": stored, "hidden": hidden}))
    start = folder / "bench"
    start.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{os.path.abspath(__file__)}" run "$@"\n')
    start.chmod(start.stat().st_mode | stat.S_IXUSR)


def run(folder, threads, prompt, decode):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(threads)
    options.inter_op_num_threads = 1
    folder = pathlib.Path(folder)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    hidden = json.loads((folder / "facts.json").read_text())["hidden"]

    def rate(tokens, times):
        x = np.ones((tokens, hidden), dtype=np.float32)
        session.run(None, {"x": x})
        begin = time.perf_counter()
        for _ in range(times):
            session.run(None, {"x": x})
        return tokens * times / (time.perf_counter() - begin)

    prefill = rate(int(prompt), 1) if int(prompt) else None
    print(json.dumps({"decode": rate(1, int(decode)), "prefill": prefill, "read": None}))


def stored_bytes(folder):
    print((pathlib.Path(folder) / "facts.json").read_text())


if __name__ == "__main__":
    {"make": make, "run": run, "bytes": stored_bytes}[sys.argv[1]](*sys.argv[2:])

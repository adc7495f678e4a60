"""What ONNX Runtime's dynamic quantization makes of a graph in tests/data, as it writes it and as its optimizer fuses it.

The stored results are those of the same graph with the matrices as the numbers that their integers stand for, so activations are not rounded in them:
how activations are rounded is the compiler's own affair.

    pip install onnx onnxruntime safetensors
    python tests/generators/rounded.py tests/data
"""
import json
import pathlib
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from safetensors.numpy import load_file, save_file

SOURCE = "qwen3--dynamo-positions"
FORMS = {
    "qwen3--dynamic8": ({"weight_type": QuantType.QUInt8}, False),
    "qwen3--dynamic8-fused": ({"weight_type": QuantType.QInt8, "per_channel": True}, True),
}
TOKENS = 8


def session(path, optimized=None):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def unrounded(model):
    """The same model with products of floats."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    readers = lambda name: next(node for node in model.graph.node if name in node.input)
    other = lambda node, name: next(found for found in node.input if found != name)
    products = {}
    for node in [node for node in model.graph.node if node.op_type == "MatMulInteger"]:
        cast = readers(node.output[0])
        product = readers(cast.output[0])
        rounding = makers[node.input[0]]
        scales = constants[other(makers[other(product, cast.output[0])], rounding.output[1])]
        matrix = (constants[node.input[1]].astype(np.float64) - constants[node.input[3]]) * scales
        model.graph.initializer.append(numpy_helper.from_array(matrix.astype(np.float32), node.name + ".matrix"))
        operands = [rounding.input[0], node.name + ".matrix"]
        products[product.output[0]] = helper.make_node("MatMul", operands, product.output, name=node.name + ".float")
    nodes = [products.get(node.output[0], node) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def build(data, name):
    (options, fused), source, out = FORMS[name], data / SOURCE, data / name
    out.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        rounded, plain = pathlib.Path(scratch) / "rounded.onnx", pathlib.Path(scratch) / "plain.onnx"
        quantize_dynamic(source / "model.onnx", rounded, **options)
        onnx.save(unrounded(onnx.load(rounded)), plain)
        reference = session(plain)
        if fused:
            session(rounded, out / "model.onnx")
        else:
            onnx.save(onnx.load(rounded), out / "model.onnx")
    run = lambda ids, positions: reference.run(["logits"], {"input_ids": ids, "position_ids": positions})[0]
    for case in range(3):
        tensors = load_file(source / f"io_{case}.safetensors")
        logits = run(tensors["input_ids"], tensors["position_ids"])
        save_file({**tensors, "ref.logits": logits}, out / f"io_{case}.safetensors")
    ids = prompt = load_file(source / "gen.safetensors")["prompt"]
    tokens, rows = [], []
    for _ in range(TOKENS):
        rows.append(run(ids, np.arange(ids.shape[1])[None])[0, -1])
        tokens.append(int(rows[-1].argmax()))
        ids = np.concatenate([ids, [[tokens[-1]]]], 1)
    save_file({"prompt": prompt, "ref.tokens": np.array([tokens]), "ref.logits": np.array([rows])}, out / "gen.safetensors")
    (out / "config.json").write_text((source / "config.json").read_text())
    model = onnx.load(out / "model.onnx")
    types = sorted({onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in model.graph.initializer})
    facts = {"opset_import": {"ai.onnx": model.opset_import[0].version}, "initializer_dtypes": {name: True for name in types}, "weight_bits": 8}
    meta = {"oracle": f"onnxruntime {ort.__version__}", "exporter": "onnxruntime.quantization.quantize_dynamic",
            "generator": "tests/generators/rounded.py", "suggested_atol": 1e-4, "graph": facts}
    (out / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")


if __name__ == "__main__":
    for name in FORMS:
        build(pathlib.Path(sys.argv[1]), name)

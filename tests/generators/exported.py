"""Graphs that exporters make of checkpoints in compiler/import/tests/data, with the original library's results beside them.

They hold what no export of the corpus has: a gate behind attention, sinks as a factor behind it, norms of heads one by one, a sparse mixer, a
floor under the sum of routing weights, frequencies chosen by the length of the text; positions without a mask, axes of fixed length, two decoders
behind one input, norms inside a fused attention. Graph and checkpoint are one model, so both ways into the compiler can be compared.

    pip install torch transformers onnx onnxscript safetensors onnxruntime-genai optimum-onnx
    python tests/generators/exported.py tests/data [NAME...]
"""
import json
import pathlib
import shutil
import sys
import tempfile

import onnx
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

CHECKPOINTS = pathlib.Path(__file__).parents[2] / "compiler/import/tests/data/checkpoints"

# Rows, new tokens, padding, earlier tokens.
PLAIN = [(1, 1, 0, 0), (2, 6, 2, 0), (2, 9, 0, 0)]
CACHED = [(1, 1, 0, 3), (2, 4, 2, 3), (2, 9, 0, 0)]
UNPADDED = [(1, 1, 0, 0), (2, 6, 0, 0), (2, 9, 0, 0)]
# Rows and tokens that graphs are traced with; those that have no others.
TRACED, FIXED = (2, 5), (2, 7)


class Form(torch.nn.Module):
    """A signature: the named inputs, then the cache; logits come out, then the cache."""

    def __init__(self, model, inputs, cached):
        super().__init__()
        self.model, self.inputs, self.cached = model, inputs, cached

    def forward(self, *args):
        given, past = dict(zip(self.inputs, args)), args[len(self.inputs):]
        if not self.cached:
            return self.model(**given, use_cache=False).logits
        cache = DynamicCache(ddp_cache_data=list(zip(past[::2], past[1::2]))) if past else DynamicCache()
        out = self.model(**given, past_key_values=cache, use_cache=True)
        return out.logits, *[t for layer in out.past_key_values.layers for t in (layer.keys, layer.values)]


def entries(layers, prefix):
    return [f"{prefix}.{layer}.{part}" for layer in range(layers) for part in ("key", "value")]


def example(model, inputs, past, shape=TRACED):
    rows, tokens = shape
    of = {"input_ids": torch.randint(3, 60, (rows, tokens)), "attention_mask": torch.ones(rows, past + tokens, dtype=torch.int64),
          "position_ids": torch.arange(past, past + tokens)[None].repeat(rows, 1)}
    args = [of[name] for name in inputs]
    if past:
        cache = model(input_ids=of["input_ids"][:, :past], use_cache=True, past_key_values=DynamicCache()).past_key_values
        args += [t for layer in cache.layers for t in (layer.keys, layer.values)]
    return tuple(args)


def dynamo(model, path, inputs, past):
    """torch.onnx.export(dynamo=True)"""
    assert not past, "caches of dynamo's exports are in the corpus"
    dims = [{0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}] * len(inputs)
    program = torch.onnx.export(Form(model, inputs, False), example(model, inputs, 0), dynamo=True, input_names=inputs, output_names=["logits"],
                                dynamic_shapes=(tuple(dims),), external_data=False, verbose=False)
    onnx.save(program.model_proto, path)


def torchscript(model, path, inputs, past, fixed=False, first=False):
    """torch.onnx.export(dynamo=False)"""
    args = example(model, inputs, past, FIXED if fixed else TRACED)
    layers = model.config.num_hidden_layers if past or first else 0
    before, after = entries(layers if past else 0, "past_key_values"), entries(layers, "present")
    axes = {name: {0: "batch", 1: "total" if name == "attention_mask" and past else "sequence"} for name in inputs + ["logits"]}
    axes |= {name: {0: "batch", 2: "past"} for name in before} | {name: {0: "batch", 2: "total"} for name in after}
    torch.onnx.export(Form(model, inputs, layers > 0).eval(), args, str(path), dynamo=False, input_names=inputs + before,
                      output_names=["logits"] + after, opset_version=17, **({} if fixed else {"dynamic_axes": axes}))


def static(model, path, inputs, past):
    """torch.onnx.export(dynamo=False), no dynamic axes"""
    torchscript(model, path, inputs, past, fixed=True)


def merged(model, path, inputs, past):
    """optimum's merge_decoders of two graphs of torch.onnx.export(dynamo=False)"""
    from optimum.onnx.graph_transformations import merge_decoders
    with tempfile.TemporaryDirectory() as folder:
        first, later = pathlib.Path(folder, "first.onnx"), pathlib.Path(folder, "later.onnx")
        torchscript(model, first, inputs, 0, first=True)
        torchscript(model, later, inputs, past)
        merge_decoders(str(first), str(later), save_path=str(path), strict=False)


def genai(model, path, inputs, past):
    """onnxruntime-genai's model builder, fp32"""
    from onnxruntime_genai.models.builder import create_model, parse_extra_options
    import tokenizers
    with tempfile.TemporaryDirectory() as folder:
        source, made = pathlib.Path(folder, "hf"), pathlib.Path(folder, "made")
        model.save_pretrained(source)
        tokenizers.Tokenizer(tokenizers.models.WordLevel({f"w{i}": i for i in range(96)}, unk_token="w0")).save(str(source / "tokenizer.json"))
        (source / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
        (source / "generation_config.json").write_text("{}")
        extra = parse_extra_options("", str(source), str(made), "fp32", "cpu", folder, [])
        create_model("", str(source), str(made), "fp32", "cpu", folder, **extra)
        onnx.save(onnx.load(made / "model.onnx"), path)


# Name of the folder: checkpoint, exporter, the graph's inputs, and cases.
CASES = {
    "afmoe--dynamo-batched": ("afmoe", dynamo, ["input_ids", "attention_mask"], PLAIN),
    "cwm--ts-static": ("cwm", static, ["input_ids", "attention_mask"], [(*FIXED, 2, 0)]),
    "ernie-moe--dynamo-batched": ("ernie4_5_moe", dynamo, ["input_ids", "attention_mask"], PLAIN),
    "granite_swa--dynamo": ("granite_swa", dynamo, ["input_ids", "attention_mask"], PLAIN),
    "phi3-longrope--dynamo": ("phi3_longrope", dynamo, ["input_ids", "attention_mask"], PLAIN),
    "phimoe--dynamo-batched": ("phimoe", dynamo, ["input_ids", "attention_mask"], PLAIN),
    "qwen3--dynamo-positions": ("qwen3", dynamo, ["input_ids", "position_ids"], UNPADDED),
    "qwen3--genai-normed": ("qwen3", genai, ["input_ids", "attention_mask"], [(1, 1, 0, 3), (2, 6, -2, 0), (2, 9, 0, 0)]),
    "qwen3--optimum-merged": ("qwen3", merged, ["input_ids", "attention_mask"], CACHED),
    "stablelm_qk--dynamo": ("stablelm_qk", dynamo, ["input_ids", "attention_mask"], PLAIN),
}


def facts(path):
    """The graph without what exporters note for themselves, and what is to be known of it."""
    graph = onnx.load(path)
    for part in [graph.graph, *graph.functions]:
        for item in [*part.node, *part.value_info]:
            del item.metadata_props[:]
            if isinstance(item, onnx.NodeProto):
                item.doc_string = ""
    onnx.save(graph, path)
    types = {onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in graph.graph.initializer}
    shape = [dim.dim_value or dim.dim_param for dim in graph.graph.input[0].type.tensor_type.shape.dim]
    return {"opset_import": {"ai.onnx": graph.opset_import[0].version}, "initializer_dtypes": {name: True for name in sorted(types)},
            "inputs": [{"name": graph.graph.input[0].name, "shape": shape}]}


def case(model, inputs, cached, rows, tokens, pad, past):
    """One stored case: some tokens in one run of the original, the last of them as the graph's new ones. Padding below 0 is at the end."""
    vocab, layers = model.config.vocab_size, model.config.num_hidden_layers
    ids, mask = torch.randint(3, vocab, (rows, past + tokens)), torch.ones(rows, past + tokens, dtype=torch.int64)
    mask[0, slice(pad, None) if pad < 0 else slice(pad)] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    where = {"position_ids": positions} if "position_ids" in inputs else {}
    run = model(input_ids=ids, attention_mask=mask, **where, use_cache=True, past_key_values=DynamicCache())
    given = {"input_ids": ids[:, past:], "attention_mask": mask, "position_ids": positions[:, past:]}
    stored = {name: tensor for name, tensor in given.items() if name in inputs}
    stored |= {"ref.logits": run.logits[:, past:], "valid": mask[:, past:].to(torch.uint8)}
    if cached:
        flat = [t for layer in run.past_key_values.layers for t in (layer.keys, layer.values)]
        stored |= {name: t[:, :, :past] for name, t in zip(entries(layers, "past_key_values"), flat)}
        stored |= {f"ref.{name}": t for name, t in zip(entries(layers, "present"), flat)}
    return {name: tensor.clone().contiguous() for name, tensor in stored.items()}


def store(folder, checkpoint, exporter, inputs, cases):
    torch.manual_seed(7)
    config = json.loads((CHECKPOINTS / checkpoint / "config.json").read_text())
    experts = dict(experts_implementation="batched_mm") if "num_experts_per_tok" in config or "moe_k" in config else {}
    # What has sinks knows no fused attention.
    attention = "eager" if checkpoint == "granite_swa" else "sdpa"
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINTS / checkpoint, dtype=torch.float32, attn_implementation=attention, **experts).eval()
    folder.mkdir(exist_ok=True)
    shutil.copy(CHECKPOINTS / checkpoint / "config.json", folder)
    cached = any(past for *_, past in cases)
    with torch.no_grad():
        exporter(model, folder / "model.onnx", inputs, 3 if cached else 0)
        for at, shape in enumerate(cases):
            save_file(case(model, inputs, cached, *shape), folder / f"io_{at}.safetensors")
        prompt = torch.randint(3, model.config.vocab_size, (1, 6))
        ids, rows = prompt, []
        for _ in range(8):
            rows.append(model(input_ids=ids, use_cache=False).logits[:, -1])
            ids = torch.cat([ids, rows[-1].argmax(-1, keepdim=True)], 1)
        save_file({"prompt": prompt, "ref.tokens": ids[:, 6:].contiguous(), "ref.logits": torch.stack(rows, 1)}, folder / "gen.safetensors")
    meta = {"checkpoint": checkpoint, "exporter": exporter.__doc__, "generator": "tests/generators/exported.py",
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__}, "suggested_atol": 1e-3,
            "graph": facts(folder / "model.onnx")}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")


if __name__ == "__main__":
    for name, of in CASES.items():
        if len(sys.argv) == 2 or name in sys.argv[2:]:
            store(pathlib.Path(sys.argv[1]) / name, *of)

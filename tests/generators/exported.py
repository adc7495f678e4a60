"""Graphs that torch.onnx makes of checkpoints in compiler/import/tests/data, with the original library's results beside them.

They hold what no export of the corpus has: a sparse mixer, a floor under the sum of routing weights, frequencies chosen by the length of the
text. Graph and checkpoint are one model, so both ways into the compiler can be compared.

    pip install torch transformers onnx onnxscript safetensors
    python tests/generators/exported.py tests/data [NAME...]
"""
import json
import pathlib
import shutil
import sys

import onnx
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

CHECKPOINTS = pathlib.Path(__file__).parents[2] / "compiler/import/tests/data/checkpoints"

# Name of the folder: checkpoint, and options of the export.
CASES = {
    "ernie-moe--dynamo-batched": ("ernie4_5_moe", {}),
    "phi3-longrope--dynamo": ("phi3_longrope", {}),
    "phimoe--dynamo-batched": ("phimoe", {}),
}


class Plain(torch.nn.Module):
    """Tokens and mask to logits, without a cache."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits


def export(model, path, options):
    ids = torch.randint(3, 60, (2, 5))
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    program = torch.onnx.export(Plain(model), (ids, torch.ones_like(ids)), dynamo=True, input_names=["input_ids", "attention_mask"],
                                output_names=["logits"], dynamic_shapes=(dims, dims), external_data=False, verbose=False, **options)
    graph = program.model_proto
    for part in [graph.graph, *graph.functions]:
        for item in [*part.node, *part.value_info]:
            del item.metadata_props[:]
            if isinstance(item, onnx.NodeProto):
                item.doc_string = ""
    onnx.save(graph, path)
    types = {onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in graph.graph.initializer}
    return {"opset_import": {"ai.onnx": graph.opset_import[0].version}, "initializer_dtypes": {name: True for name in sorted(types)}}


def store(folder, checkpoint, options):
    torch.manual_seed(7)
    config = json.loads((CHECKPOINTS / checkpoint / "config.json").read_text())
    experts = dict(experts_implementation="batched_mm") if "num_experts_per_tok" in config or "moe_k" in config else {}
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINTS / checkpoint, dtype=torch.float32, attn_implementation="sdpa", **experts).eval()
    folder.mkdir(exist_ok=True)
    shutil.copy(CHECKPOINTS / checkpoint / "config.json", folder)
    with torch.no_grad():
        facts = export(model, folder / "model.onnx", options)
        vocab = model.config.vocab_size
        for case, (batch, tokens, pad) in enumerate([(1, 1, 0), (2, 6, 2), (2, 9, 0)]):
            ids, mask = torch.randint(3, vocab, (batch, tokens)), torch.ones(batch, tokens, dtype=torch.int64)
            mask[0, :pad] = 0
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            save_file({"input_ids": ids, "attention_mask": mask, "ref.logits": logits.contiguous(), "valid": mask.to(torch.uint8)},
                      folder / f"io_{case}.safetensors")
        prompt = torch.randint(3, vocab, (1, 6))
        ids, rows = prompt, []
        for _ in range(8):
            rows.append(model(input_ids=ids, use_cache=False).logits[:, -1])
            ids = torch.cat([ids, rows[-1].argmax(-1, keepdim=True)], 1)
        save_file({"prompt": prompt, "ref.tokens": ids[:, 6:].contiguous(), "ref.logits": torch.stack(rows, 1)}, folder / "gen.safetensors")
    meta = {"checkpoint": checkpoint, "exporter": "torch.onnx.export(dynamo=True)", "generator": "tests/generators/exported.py",
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__}, "suggested_atol": 1e-3, "graph": facts}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")


if __name__ == "__main__":
    for name, (checkpoint, options) in CASES.items():
        if len(sys.argv) == 2 or name in sys.argv[2:]:
            store(pathlib.Path(sys.argv[1]) / name, checkpoint, options)

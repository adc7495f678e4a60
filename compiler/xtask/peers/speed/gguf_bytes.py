"""Bytes of weights that decoding a token reads: `gguf_bytes.py FILE.gguf`.

All tensors but the embedding, of which it is one row, unless the head has no tensor of its own; of stacked experts the share that a token goes to.
"""

import json
import sys

import gguf


def main(path):
    reader = gguf.GGUFReader(path)
    number = lambda name: next((int(f.contents()) for key, f in reader.fields.items() if key.endswith(name)), 1)
    share = number(".expert_used_count") / number(".expert_count")
    tied = all(t.name != "output.weight" for t in reader.tensors)
    total = 0
    for tensor in reader.tensors:
        if tensor.name == "token_embd.weight" and not tied:
            total += int(tensor.n_bytes) // int(tensor.shape[1])
        elif "_exps" in tensor.name:
            total += int(int(tensor.n_bytes) * share)
        else:
            total += int(tensor.n_bytes)
    print(json.dumps({"decode_bytes": total}))


if __name__ == "__main__":
    main(*sys.argv[1:])

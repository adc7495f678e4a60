"""Continues a prompt with a model's shared object: the interface of model.h through ctypes.

    python3 examples/python/generate.py tiny.q35 16 2707 291 271
"""
import ctypes as c
import mmap
import sys

bundle, count, prompt = sys.argv[1], int(sys.argv[2]), [int(token) for token in sys.argv[3:]]
model = c.CDLL(f"{bundle}/cpu/model.so")
model.q35_status_text.restype = c.c_char_p
for name in ("vocab", "weights_size", "context_size"):
    getattr(model, f"q35_{name}").restype = c.c_int64


def check(status):
    if status != 0:
        sys.exit(model.q35_status_text(status).decode())


with open(f"{bundle}/weights.safetensors", "rb") as file:
    weights = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
config = (c.c_int32 * 4)(1, 256, 32, 1)  # slots, capacity, max_tokens, max_rows
size = model.q35_context_size(config)
memory = mmap.mmap(-1, size)  # page-aligned, as the weights are
address = lambda block: c.c_void_p(c.addressof(c.c_char.from_buffer(block)))
context = c.c_void_p()
check(model.q35_open(config, address(memory), c.c_int64(size), address(weights), c.c_int64(len(weights)), c.byref(context)))

logits = (c.c_float * model.q35_vocab())()
new = []
while len(new) < count:
    tokens = new[-1:] or prompt
    check(model.q35_step(context, 0, (c.c_int32 * len(tokens))(*tokens), len(tokens), logits))
    new.append(max(range(len(logits)), key=logits.__getitem__))
print(*new, sep=",")

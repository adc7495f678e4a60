"""llama.cpp as a library: tokens, windows, models and contexts.

Windows are those of `q35 eval`: the text's tokens in pieces of equal length, what is left over at the end unused; each piece starts from an empty
cache, its last token is predicted and not read.
"""

import ctypes
import json
import os

# Threads that wait sleep: a busy machine is measured too. Read when the library is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import llama_cpp as llama
import numpy as np
from tokenizers import Tokenizer

LOG_ERROR = 4


@llama.llama_log_callback
def _errors_only(level, text, _):
    if level == LOG_ERROR:
        os.write(2, text)


llama.llama_log_set(_errors_only, ctypes.c_void_p())
llama.llama_backend_init()


def tokens(tokenizer, text):
    """Token ids of a text file, with the special tokens that the tokenizer puts around it."""
    with open(text, encoding="utf-8") as file:
        return Tokenizer.from_file(tokenizer).encode(file.read()).ids


def windows(ids, length):
    """All whole windows, `[count, length]`."""
    count = len(ids) // length
    return np.asarray(ids[: count * length], dtype=np.int32).reshape(count, length)


def spread(ids, length, count):
    """At most `count` whole windows, evenly spread over the text: those that `q35c compile --calibrate` takes."""
    whole = windows(ids, length)
    count = min(count, len(whole))
    return whole[[n * len(whole) // count for n in range(count)]]


class Model:
    """A GGUF file and a context of one window."""

    def __init__(self, path, length, watch=None):
        self.model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        params = llama.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = length
        params.n_seq_max = 1
        params.n_threads = params.n_threads_batch = os.cpu_count()
        params.type_k = params.type_v = llama.GGML_TYPE_F32
        params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.no_perf = True
        if watch is not None:
            # Kept: the library holds no reference to it.
            self.watch = llama.ggml_backend_sched_eval_callback(watch)
            params.cb_eval = self.watch
        self.context = llama.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit(f"llama.cpp cannot run {path}")
        self.vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.model))
        self.batch = llama.llama_batch_init(length, 0, 1)

    def logits(self, window):
        """Logits after every token of a window, `[tokens, vocab]`, from an empty cache. Good until the next call."""
        llama.llama_memory_clear(llama.llama_get_memory(self.context), True)
        batch = self.batch
        batch.n_tokens = len(window)
        for at, token in enumerate(window):
            batch.token[at] = int(token)
            batch.pos[at] = at
            batch.n_seq_id[at] = 1
            batch.seq_id[at][0] = 0
            batch.logits[at] = 1
        if llama.llama_decode(self.context, batch) != 0:
            raise SystemExit("llama.cpp cannot decode a window")
        flat = np.ctypeslib.as_array(llama.llama_get_logits(self.context), shape=(len(window) * self.vocab,))
        return flat.reshape(len(window), self.vocab)


def emit(**result):
    """The result of a script: one JSON object on stdout."""
    print(json.dumps(result))

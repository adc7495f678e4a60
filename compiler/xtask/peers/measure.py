"""How far a GGUF file is from another: `measure.py F32.gguf OTHER.gguf TOKENIZER TEXT LENGTH`.

The same figures as `q35 eval --against`: mean Kullback-Leibler divergence from the first to the second over tokens, its standard error over windows, how often both put the
same token first, and the perplexity of the second. Logits live for one window.
"""

import sys

import numpy as np
from engine import Model, emit, tokens, windows


def log_softmax(logits):
    x = logits.astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def main(reference, other, tokenizer, text, length):
    pieces = windows(tokens(tokenizer, text), int(length))
    reference, other = (Model(path, int(length)) for path in (reference, other))
    divergence, surprise, same = [], 0.0, 0
    for piece in pieces:
        p, q = (log_softmax(model.logits(piece[:-1])) for model in (reference, other))
        divergence.append(float((np.exp(p) * (p - q)).sum(axis=1).mean()))
        surprise -= q[np.arange(len(q)), piece[1:]].sum()
        same += int((p.argmax(axis=1) == q.argmax(axis=1)).sum())
    scored = pieces.shape[0] * (pieces.shape[1] - 1)
    emit(
        kl_x1000=1000 * float(np.mean(divergence)),
        standard_error_x1000=1000 * float(np.std(divergence, ddof=1) / np.sqrt(len(divergence))) if len(divergence) > 1 else None,
        agreement=same / scored,
        perplexity=float(np.exp(surprise / scored)),
        scored=scored,
        window=int(length),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])

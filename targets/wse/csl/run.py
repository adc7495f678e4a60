#!/usr/bin/env cs_python
"""Loads a compiled program's weights and decodes greedily.

Usage, in the folder wse/ of a bundle, after commands_wse3.sh has made out/:

    cs_python run.py --name out --tokens 1,2,3 --new 16 [--cmaddr IP:PORT]

fabric.json says which bytes of which tensor go into which memory; ../weights.safetensors has the tensors. For each token the host
sends its row of the embedding table, cosines and sines of its position, and its index in the cache to every row of the first region;
one launch later the logits lie in the first column of the last region.
"""

import argparse
import json
import struct
from pathlib import Path

import numpy as np
from cerebras.sdk.runtime.sdkruntimepybind import MemcpyDataType, MemcpyOrder, SdkRuntime


class Tensors:
    """The tensors of a safetensors file, as bytes."""

    def __init__(self, path):
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            self.header = json.loads(file.read(length))
        self.data = np.memmap(path, dtype=np.uint8, mode="r", offset=8 + length)

    def bytes(self, name):
        start, end = self.header[name]["data_offsets"]
        return self.data[start:end]


def region_words(array, height, width, tensors):
    """What an array holds on every PE of a region: uint16 of shape (height, width, words)."""
    out = np.zeros((height, width, array["words"]), dtype=np.uint16)
    for piece in array["pieces"]:
        source = tensors.bytes(piece["tensor"])
        first, words = piece["to"], piece["words"]
        for row in range(height):
            for column in range(width):
                at = column * piece["column"] + row // piece["share"] * piece["row"]
                found = source[at : at + 2 * words]
                padded = np.zeros(2 * words, dtype=np.uint8)
                padded[: len(found)] = found
                out[row, column, first : first + words] = padded.view("<u2")
    return out


class Wafer:
    """The program on its fabric."""

    def __init__(self, name, cmaddr, device, tensors):
        self.device, self.tensors = device, tensors
        self.width = device["width"]
        self.runner = SdkRuntime(name, cmaddr=cmaddr)
        self.symbols = {symbol: self.runner.get_id(symbol) for symbol in ("weights", "scales", "vectors", "stream", "result")}
        self.runner.load()
        self.runner.run()
        for region in device["regions"]:
            for array in region["arrays"]:
                if array["pieces"]:
                    self.fill(region, array)

    def fill(self, region, array):
        height, symbol = region["height"], self.symbols[array["symbol"]]
        words = region_words(array, height, self.width, self.tensors)
        if array["symbol"] == "vectors":
            data, kind = words.view("<u4"), MemcpyDataType.MEMCPY_32BIT
        else:
            # One 16-bit datum in each 32-bit element
            data, kind = words.astype(np.uint32), MemcpyDataType.MEMCPY_16BIT
        self.runner.memcpy_h2d(
            symbol, data.ravel(), 0, region["top"], self.width, height, data.shape[-1],
            streaming=False, order=MemcpyOrder.ROW_MAJOR, data_type=kind, nonblock=False,
        )

    def stream(self, token, index):
        """The stream of every column: a piece of the residual, cosines, sines, the index."""
        source = self.device["input"]
        hidden, piece = source["hidden"], source["piece"]
        row = self.tensors.bytes(source["table"])[token * hidden : (token + 1) * hidden].view(np.int8)
        scale = self.tensors.bytes(source["scales"])[2 * token : 2 * token + 2].view("<f2")[0]
        residual = np.zeros(self.width * piece, dtype=np.float32)
        residual[:hidden] = row.astype(np.float32) * np.float32(scale)
        angles = np.zeros(0, dtype=np.float32)
        if source["inv_freq"] is not None:
            inv_freq = self.tensors.bytes(source["inv_freq"])[: 4 * source["half"]].view("<f4")
            angle = (np.float32(index) * inv_freq).astype(np.float64)
            angles = np.concatenate([np.cos(angle), np.sin(angle)]).astype(np.float32) * np.float32(source["rotary_scale"])
        tail = np.concatenate([angles, np.array([index], dtype=np.float32)])
        return np.concatenate([residual.reshape(self.width, piece), np.tile(tail, (self.width, 1))], axis=1)

    def step(self, token, index):
        """Runs one token; returns its logits, padding included."""
        first, last = self.device["regions"][0], self.device["regions"][-1]
        stream = np.tile(self.stream(token, index), (first["height"], 1, 1)).astype(np.float32)
        self.runner.memcpy_h2d(
            self.symbols["stream"], stream.ravel(), 0, first["top"], self.width, first["height"], stream.shape[-1],
            streaming=False, order=MemcpyOrder.ROW_MAJOR, data_type=MemcpyDataType.MEMCPY_32BIT, nonblock=False,
        )
        self.runner.launch("step", nonblock=False)
        logits = np.zeros(last["height"] * self.device["logits"], dtype=np.float32)
        self.runner.memcpy_d2h(
            logits, self.symbols["result"], 0, last["top"], 1, last["height"], self.device["logits"],
            streaming=False, order=MemcpyOrder.ROW_MAJOR, data_type=MemcpyDataType.MEMCPY_32BIT, nonblock=False,
        )
        return logits


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", default="out", help="folder of the compiled program")
    parser.add_argument("--cmaddr", help="IP:port of a system; absent: the simulator")
    parser.add_argument("--tokens", required=True, help="the prompt, as token ids")
    parser.add_argument("--new", type=int, default=16, help="tokens to add")
    args = parser.parse_args()

    device = json.loads(Path("fabric.json").read_text())
    tensors = Tensors("../weights.safetensors")
    vocab = len(tensors.bytes(device["input"]["scales"])) // 2
    wafer = Wafer(args.name, args.cmaddr, device, tensors)
    tokens = [int(token) for token in args.tokens.split(",")]
    length = len(tokens) + args.new
    if length > device["context"]:
        raise SystemExit(f"{length} tokens exceed the context of {device['context']}")
    for index in range(length - 1):
        logits = wafer.step(tokens[index], index)
        if index + 1 == len(tokens):
            tokens.append(int(np.argmax(logits[:vocab])))
    wafer.runner.stop()
    print(",".join(map(str, tokens)))
    print("SUCCESS")


if __name__ == "__main__":
    main()

#!/usr/bin/env cs_python
"""Loads a compiled program's weights and decodes greedily.

Usage, in the folder wse/ of a bundle, after commands_wse3.sh has made out/:

    cs_python run.py --name out --tokens 1,2,3 --new 16 [--cmaddr IP:PORT]

fabric.json says which bytes of which tensor go into which memory; ../weights.safetensors has the tensors. A step takes one token, or many
of a prompt. For each of them the host sends its row of the embedding table, cosines and sines of its position, and its index in the cache to
the first region, a piece of each to a column; one launch later the logits of the last one lie in the first column of the last region. A model on several
wafers has a program for each; the host carries the stream from the last region of one to the first of the next.
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
                at = piece["from"] + column * piece["column"] + row // piece["share"] * piece["row"]
                found = source[at : at + 2 * words]
                padded = np.zeros(2 * words, dtype=np.uint8)
                padded[: len(found)] = found
                out[row, column, first : first + words] = padded.view("<u2")
    return out


class Wafer:
    """A program on its fabric."""

    SYMBOLS = ("weights", "scales", "vectors", "stream", "result")

    def __init__(self, name, cmaddr, width, wafer, tensors):
        self.width, self.regions = width, wafer["regions"]
        self.runner = SdkRuntime(name, cmaddr=cmaddr)
        self.symbols = {symbol: self.runner.get_id(symbol) for symbol in self.SYMBOLS}
        self.runner.load()
        self.runner.run()
        for region in self.regions:
            for array in region["arrays"]:
                if array["pieces"]:
                    self.fill(region, array, tensors)

    def fill(self, region, array, tensors):
        height, symbol = region["height"], self.symbols[array["symbol"]]
        words = region_words(array, height, self.width, tensors)
        if array["symbol"] == "vectors":
            data, kind = words.view("<u4"), MemcpyDataType.MEMCPY_32BIT
        else:
            # One 16-bit datum in each 32-bit element
            data, kind = words.astype(np.uint32), MemcpyDataType.MEMCPY_16BIT
        self.runner.memcpy_h2d(
            symbol, data.ravel(), 0, region["top"], self.width, height, data.shape[-1],
            streaming=False, order=MemcpyOrder.ROW_MAJOR, data_type=kind, nonblock=False,
        )

    def step(self, stream):
        """Runs the streams of several tokens, shape (width, tokens, numbers)."""
        first, count = self.regions[0], stream.shape[1]
        data = np.tile(stream.reshape(self.width, -1), (first["height"], 1, 1)).astype(np.float32)
        self.runner.memcpy_h2d(
            self.symbols["stream"], data.ravel(), 0, first["top"], self.width, first["height"], data.shape[-1],
            streaming=False, order=MemcpyOrder.ROW_MAJOR, data_type=MemcpyDataType.MEMCPY_32BIT, nonblock=False,
        )
        self.runner.launch("step", np.uint16(count), nonblock=False)

    def read(self, symbol, width, height, count):
        """What PEs at the top left of the last region hold, shape (height, width, count)."""
        data = np.zeros(height * width * count, dtype=np.float32)
        self.runner.memcpy_d2h(
            data, self.symbols[symbol], 0, self.regions[-1]["top"], width, height, count,
            streaming=False, order=MemcpyOrder.ROW_MAJOR, data_type=MemcpyDataType.MEMCPY_32BIT, nonblock=False,
        )
        return data.reshape(height, width, count)


class Model:
    """All wafers of a model, in the order of its layers."""

    def __init__(self, name, cmaddrs, device, tensors):
        self.device, self.tensors = device, tensors
        self.wafers = []
        for wafer, cmaddr in zip(device["wafers"], cmaddrs):
            folder = Path(*Path(wafer["folder"]).parts[1:], name)
            self.wafers.append(Wafer(str(folder), cmaddr, device["width"], wafer, tensors))

    def stream(self, token, index):
        """A token's stream of every column: a piece of the residual, a share of cosines and sines, the index."""
        source, width = self.device["input"], self.device["width"]
        hidden, piece = source["hidden"], source["piece"]
        row = self.tensors.bytes(source["table"])[token * hidden : (token + 1) * hidden].view(np.int8)
        scale = self.tensors.bytes(source["scales"])[2 * token : 2 * token + 2].view("<f2")[0]
        residual = np.zeros(width * piece, dtype=np.float32)
        residual[:hidden] = row.astype(np.float32) * np.float32(scale)
        angles = np.zeros(0, dtype=np.float32)
        if source["inv_freq"] is not None:
            inv_freq = self.tensors.bytes(source["inv_freq"])[: 4 * source["half"]].view("<f4")
            angle = (np.float32(index) * inv_freq).astype(np.float64)
            angles = np.concatenate([np.cos(angle), np.sin(angle)]).astype(np.float32) * np.float32(source["rotary_scale"])
        share = -(-angles.size // width)
        angles = np.pad(angles, (0, width * share - angles.size)).reshape(width, share)
        return np.concatenate([residual.reshape(width, piece), angles, np.full((width, 1), index, dtype=np.float32)], axis=1)

    def step(self, tokens, index):
        """Runs several tokens, the first of which has this index; returns the logits of the last one, padding included."""
        stream = np.stack([self.stream(token, index + at) for at, token in enumerate(tokens)], axis=1)
        for wafer in self.wafers[:-1]:
            wafer.step(stream)
            left = wafer.read("stream", self.device["width"], 1, stream[0].size)
            stream = left.reshape(stream.shape)
        last = self.wafers[-1]
        last.step(stream)
        return last.read("result", 1, last.regions[-1]["height"], self.device["logits"]).ravel()

    def stop(self):
        for wafer in self.wafers:
            wafer.runner.stop()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", default="out", help="folder of the compiled program")
    parser.add_argument("--cmaddr", help="IP:port of each system, separated by commas; absent: the simulator")
    parser.add_argument("--tokens", required=True, help="the prompt, as token ids")
    parser.add_argument("--new", type=int, default=16, help="tokens to add")
    args = parser.parse_args()

    device = json.loads(Path("fabric.json").read_text())
    tensors = Tensors("../weights.safetensors")
    vocab = len(tensors.bytes(device["input"]["scales"])) // 2
    cmaddrs = args.cmaddr.split(",") if args.cmaddr else [None] * len(device["wafers"])
    if len(cmaddrs) != len(device["wafers"]):
        raise SystemExit(f"{len(device['wafers'])} programs for {len(cmaddrs)} systems")
    tokens = [int(token) for token in args.tokens.split(",")]
    length = len(tokens) + args.new
    if length > device["context"]:
        raise SystemExit(f"{length} tokens exceed the context of {device['context']}")
    model = Model(args.name, cmaddrs, device, tensors)
    done = 0
    while len(tokens) < length:
        some = tokens[done : done + device["tokens"]]
        logits = model.step(some, done)
        done += len(some)
        if done == len(tokens):
            tokens.append(int(np.argmax(logits[:vocab])))
    model.stop()
    print(",".join(map(str, tokens)))
    print("SUCCESS")


if __name__ == "__main__":
    main()

"""Writes a weight of random numbers as a safetensors file, for layers without a model.

    python3 examples/python/weight.py ROWS COLUMNS FILE
"""
import array
import json
import random
import struct
import sys

rows, cols, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
numbers = random.Random(1)
data = array.array("f", (numbers.gauss(0, 0.05) for _ in range(rows * cols))).tobytes()
header = json.dumps({"weight": {"dtype": "F32", "shape": [rows, cols], "data_offsets": [0, len(data)]}}).encode()
with open(path, "wb") as file:
    file.write(struct.pack("<Q", len(header)) + header + data)

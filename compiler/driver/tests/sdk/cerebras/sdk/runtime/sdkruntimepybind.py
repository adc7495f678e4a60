"""A stand-in for the host runtime of the SDK, as far as run.py uses it: every call goes to a model of the fabric that listens on the socket
Q35_FABRIC. It is stricter than it needs to be: what the runtime's documentation asks of arguments is checked, and every mistake raises."""

import enum
import json
import os
import socket
import struct

import numpy as np


class MemcpyDataType(enum.Enum):
    MEMCPY_16BIT = 16
    MEMCPY_32BIT = 32


class MemcpyOrder(enum.Enum):
    ROW_MAJOR = 0
    COL_MAJOR = 1


class SdkRuntime:
    def __init__(self, bindir, **options):
        unknown = set(options) - {"cmaddr", "suppress_simfab_trace", "simfab_numthreads"}
        if unknown:
            raise TypeError(f"unknown options {unknown}")
        with open(os.path.join(bindir, "out.json")) as file:
            json.load(file)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(os.environ["Q35_FABRIC"])
        self._ask({"op": "open", "symbol": str(bindir)})
        self.symbols = []
        self.state = "made"

    def _ask(self, request, data=b"", reply=0):
        request["bytes"] = len(data)
        head = json.dumps(request).encode()
        self.socket.sendall(struct.pack("<I", len(head)) + head + data)
        (length,) = struct.unpack("<I", self._receive(4))
        error = self._receive(length).decode()
        if error:
            raise RuntimeError(error)
        return self._receive(reply)

    def _receive(self, count):
        data = bytearray()
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise RuntimeError("the fabric is gone")
            data += part
        return bytes(data)

    def _in(self, state):
        if self.state != state:
            raise RuntimeError(f"the runtime is {self.state}, not {state}")

    def get_id(self, symbol):
        self._ask({"op": "id", "symbol": symbol})
        self.symbols.append(symbol)
        return len(self.symbols) - 1

    def load(self):
        self._in("made")
        self.state = "loaded"

    def run(self):
        self._in("loaded")
        self.state = "running"

    def stop(self):
        self._in("running")
        self.state = "stopped"
        self._ask({"op": "stop"})

    def launch(self, function, *args, nonblock):
        self._in("running")
        if nonblock or not all(isinstance(arg, np.uint16) for arg in args):
            raise TypeError("this stand-in launches functions of uint16 arguments, and waits")
        self._ask({"op": "launch", "symbol": function, "args": [int(arg) for arg in args]})

    def _copy(self, op, array, symbol, x, y, width, height, count, streaming, order, data_type, nonblock):
        self._in("running")
        if streaming or nonblock or order is not MemcpyOrder.ROW_MAJOR:
            raise TypeError("this stand-in copies in row-major order, and waits")
        if array.ndim != 1 or array.size != width * height * count:
            raise ValueError(f"an array of shape {array.shape} for {width} x {height} x {count} elements")
        if array.dtype not in (np.uint32, np.int32, np.float32):
            raise TypeError(f"an array of {array.dtype}")
        request = {"op": op, "symbol": self.symbols[symbol], "bits": data_type.value}
        request |= {"x": x, "y": y, "width": width, "height": height, "count": count}
        return request

    def memcpy_h2d(self, dest, src, px, py, w, h, elem_per_pe, *, streaming, order, data_type, nonblock):
        request = self._copy("h2d", src, dest, px, py, w, h, elem_per_pe, streaming, order, data_type, nonblock)
        self._ask(request, src.tobytes())

    def memcpy_d2h(self, dest, src, px, py, w, h, elem_per_pe, *, streaming, order, data_type, nonblock):
        request = self._copy("d2h", dest, src, px, py, w, h, elem_per_pe, streaming, order, data_type, nonblock)
        data = self._ask(request, reply=4 * dest.size)
        dest[:] = np.frombuffer(data, dtype=dest.dtype)

"""A bare process that moves as many bytes as storing does, at the same times: memory to memory, memory to a file.

`python -m objectcache.bench.store.bare_mover` reads a JSON line {"path", "layer_bytes"}, then for each line {"layers",
"every_s"} writes so many layers, each no sooner than it is due, into a new file, and answers when that is gone again.
"""

from __future__ import annotations

import json
import os
import sys
import time

import numpy as np

from objectcache.storing.process import LOOK_S, NICENESS

_STAGED_LAYERS = 4


def _move(path: str, layers: int, every_s: float, source: memoryview, staging: memoryview) -> None:
    size = len(source)
    target = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    start_s = time.perf_counter()
    try:
        for layer in range(layers):
            while time.perf_counter() < start_s + (layer + 1) * every_s:
                time.sleep(LOOK_S)
            at = layer % _STAGED_LAYERS * size
            staged = staging[at : at + size]
            np.copyto(np.frombuffer(staged, np.uint8), np.frombuffer(source, np.uint8))
            written = 0
            while written < size:
                written += os.write(target, staged[written:])
    finally:
        os.close(target)
        os.unlink(path)


def main() -> None:
    job = json.loads(sys.stdin.readline())
    os.nice(NICENESS)
    source = memoryview(np.random.default_rng(0).bytes(job["layer_bytes"]))
    staging = memoryview(bytearray(job["layer_bytes"] * _STAGED_LAYERS))
    print("{}", flush=True)
    while line := sys.stdin.readline():
        order = json.loads(line)
        _move(job["path"], order["layers"], order["every_s"], source, staging)
        print("{}", flush=True)


if __name__ == "__main__":
    main()

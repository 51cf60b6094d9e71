"""The process of a `Getter`.

`python -m objectcache.bench.peers.getting` reads one JSON line {"url", "environment", "parallel", "fd", "chunks",
"layers", "slice_bytes", "sampled"} and says {"ready"}. {"put"} stores the chunks that the memory of `fd` holds;
{"client", "what"} is answered by what a fetch into it took. It ends when standard input does.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import time
from dataclasses import asdict

import numpy as np

from objectcache.bench.peers.gathering import GatheredGets
from objectcache.bench.peers.getter import CHUNKS, GATHER, SLICES, THREADS, chunk_key
from objectcache.bench.stores.gets import Gets, chunk_ranges, slice_ranges
from objectcache.stores.s3.options import parse_s3_url


def main() -> None:
    job = json.loads(sys.stdin.readline())
    os.environ.update(job["environment"])
    chunk_bytes = job["layers"] * job["slice_bytes"]
    memory = memoryview(mmap.mmap(job["fd"], job["chunks"] * chunk_bytes))
    buffer = np.frombuffer(memory, np.uint8)
    options = parse_s3_url(job["url"], {})
    clients = {
        THREADS: Gets(options, job["parallel"], buffer),
        GATHER: GatheredGets(options, job["parallel"], buffer),
    }
    keys = [chunk_key(chunk) for chunk in range(job["chunks"])]
    ranges = {
        CHUNKS: chunk_ranges(keys, chunk_bytes),
        SLICES: slice_ranges(keys, job["sampled"], job["slice_bytes"]),
    }
    _say({"ready": True})
    while line := sys.stdin.readline():
        asked = json.loads(line)
        if "put" in asked:
            for item in ranges[CHUNKS]:
                clients[THREADS].put(item.key, bytes(memory[item.at : item.at + item.length]))
            _say({"put": len(keys)})
        else:
            before_s = time.process_time()
            fetch = clients[asked["client"]].fetch(ranges[asked["what"]])
            _say({"fetch": asdict(fetch), "cpu_s": time.process_time() - before_s})
    os._exit(0)  # see GatheredGets


def _say(answer: dict[str, object]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

"""The side of lmcache.py that has LMCache. It imports nothing of ours: its interpreter need not have any of that.

Reads one JSON line {"endpoint", "fd", "size_bytes", "object_bytes"}, says {"version", "objects": [[name, begin, end],
…]}, and answers each further line by what loading all of them into the memory of `fd` took.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import sys
import time
from importlib.metadata import version
from typing import Any

_TIMEOUT_MS = 120_000
_IO_THREADS = 4
"""Its default of 64 is for large machines."""


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    os.environ.update(LMCACHE_TRACK_USAGE="false", DO_NOT_TRACK="1", LMCACHE_DISABLE_BANNER="1")
    job = json.loads(sys.stdin.readline())

    import torch
    from lmcache.v1.distributed.api import ObjectKey
    from lmcache.v1.distributed.l2_adapters.s3_l2_adapter import (
        S3L2Adapter,
        S3L2AdapterConfig,
        _object_key_to_string,
    )
    from lmcache.v1.memory_management import MemoryFormat, MemoryObjMetadata, TensorMemoryObj

    def say(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    def memory_object(begin: int, end: int) -> Any:
        about = MemoryObjMetadata(
            shape=torch.Size([end - begin]),
            dtype=torch.uint8,
            address=begin,
            phy_size=end - begin,
            fmt=MemoryFormat.KV_2LTD,
            ref_count=1,
        )
        return TensorMemoryObj(raw_data=memory[begin:end], metadata=about, parent_allocator=None)

    size = job["size_bytes"]
    memory = torch.frombuffer(mmap.mmap(job["fd"], size), dtype=torch.uint8)
    spans = [(at, min(size, at + job["object_bytes"])) for at in range(0, size, job["object_bytes"])]
    keys = [ObjectKey(chunk_hash=at.to_bytes(16, "big"), model_name="bench", kv_rank=0) for at in range(len(spans))]
    objects = [memory_object(*span) for span in spans]
    adapter = S3L2Adapter(
        S3L2AdapterConfig(
            s3_endpoint=job["endpoint"],
            s3_region="us-east-1",
            s3_num_io_threads=_IO_THREADS,
            s3_prefer_http2=False,
            disable_tls=True,
            aws_access_key_id="bench",
            aws_secret_access_key="bench",
        )
    )
    loaded = select.poll()
    loaded.register(adapter.get_load_event_fd(), select.POLLIN)
    names = [_object_key_to_string(key) for key in keys]
    say({"version": version("lmcache"), "objects": [[name, *span] for name, span in zip(names, spans, strict=True)]})
    while sys.stdin.readline():
        before_s, start_s = time.process_time(), time.perf_counter()
        task = adapter.submit_load_task(keys, objects)
        while (arrived := adapter.query_load_result(task)) is None:
            if not loaded.poll(_TIMEOUT_MS):
                raise TimeoutError("the adapter did not finish")
            os.eventfd_read(adapter.get_load_event_fd())
        total_s = time.perf_counter() - start_s
        if arrived.popcount() < len(keys):  # it tells of no error
            raise RuntimeError(f"only {arrived.popcount()} of {len(keys)} objects were loaded")
        cpu_s = time.process_time() - before_s
        say({"started_s": start_s, "total_s": total_s, "payload_bytes": size, "cpu_s": cpu_s})
    answers.flush()
    os._exit(0)  # its threads would be waited for


if __name__ == "__main__":
    main()

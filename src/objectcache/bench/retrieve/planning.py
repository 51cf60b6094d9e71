"""What the control process does before a byte moves: match, resolve, plan. In this process, over a filled catalog."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgpack
import numpy as np

from objectcache.bench.result import Row, sample_row
from objectcache.bench.retrieve.settings import RetrieveSettings
from objectcache.bench.retrieve.workload import PART, bench_namespace, random_chain
from objectcache.cache.core import CacheCore
from objectcache.catalog import Catalog
from objectcache.descriptor import Descriptor, DescriptorPart, Target, TargetKind, decode_descriptor
from objectcache.keys import KeyChain, Namespace
from objectcache.layout import DIGEST_BYTES
from objectcache.logrecord import CommitEntry, LogRecord
from objectcache.names import segment_name
from objectcache.plan import Plan
from objectcache.segment import SegmentHeader
from objectcache.stores import MemoryStore

_WRITER = "bench"
PLAN = "plan: resolve, and all layer runs"
PLAN_STEPS = 4


def planning_rows(settings: RetrieveSettings, directory: Path, measured: Callable[[], None]) -> list[Row]:
    """Milliseconds for a prefix of `plan_segments` segments, of which only the catalog knows."""
    namespace = bench_namespace(settings.shapes[0], settings.seed)
    chunks = settings.plan_segments * settings.plan_segment_chunks
    chain = random_chain(namespace, chunks, settings.seed)
    catalog = Catalog.open(directory / "plan-catalog")
    catalog.apply([_record(settings, namespace, chain)])
    core = CacheCore(MemoryStore(), catalog)
    try:
        core.learn(namespace)
        part = DescriptorPart.of(PART, 0, chunks, chain[-1], namespace.layout)
        descriptor = Descriptor(namespace.digest, (part,), Target(TargetKind.HTTP), delivery=1)
        encoded = descriptor.encode()
        plan = core.plan(descriptor)

        def match() -> None:
            lease = core.match(namespace.digest, chain).lease
            assert lease is not None
            core.release(lease.id)

        about = {"chunks": chunks, "segments": settings.plan_segments, "layer_runs": len(list(plan.layer_runs()))}
        steps: dict[str, Callable[[], object]] = {
            "match of the whole chain": match,
            "decode the descriptor": lambda: decode_descriptor(encoded),
            PLAN: lambda: list(core.plan(descriptor).layer_runs()),
            "the plan to a worker: encode, decode": lambda: Plan.from_wire(
                msgpack.unpackb(msgpack.packb(plan.to_wire()), strict_map_key=False)
            ),
        }
        rows = []
        for name, step in steps.items():
            rows.append(sample_row(name, "ms", _times_ms(step, settings.plan_rounds), **about))
            measured()
        return rows
    finally:
        core.close()


def _times_ms(step: Callable[[], object], rounds: int) -> list[float]:
    times_ms = []
    for _ in range(rounds):
        start_s = time.perf_counter()
        step()
        times_ms.append((time.perf_counter() - start_s) * 1e3)
    return times_ms


def _record(settings: RetrieveSettings, namespace: Namespace, chain: KeyChain) -> LogRecord:
    """One commit of all segments. Their digests are random: nothing is read."""
    random = np.random.default_rng(settings.seed)
    size = settings.plan_segment_chunks
    entries = []
    for index in range(settings.plan_segments):
        header = SegmentHeader.for_layout(
            namespace.layout,
            name=segment_name(_WRITER, index + 1),
            namespace=namespace.digest,
            group=PART.group,
            shard=PART.shard,
            chain=chain,
            first=index * size,
            stop=(index + 1) * size,
        )
        entries.append(CommitEntry(header, tuple(random.bytes(DIGEST_BYTES) for _ in header.layers)))
    return LogRecord(_WRITER, 1, time.time(), tuple(entries))

"""Ways to retrieve, and the ceilings beside which they are measured. A new one is a line in `comparisons`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from objectcache.bench.raw_loop import RawLoop
from objectcache.bench.retrieve.compared import Compared, Retrieve, Way
from objectcache.bench.retrieve.layerwise import LayerwiseClient
from objectcache.bench.retrieve.over_nixl import nixl_comparisons
from objectcache.bench.retrieve.settings import RetrieveSettings
from objectcache.bench.retrieve.subject import Subject


def comparisons(settings: RetrieveSettings) -> list[Compared]:
    if settings.target == "nixl":
        return nixl_comparisons(settings.verify)
    return [Compared(*_LAYERWISE[level], RAW_LOOP) for level in settings.verify]


@contextmanager
def _open_layerwise(subject: Subject, *, verify: str) -> Iterator[Retrieve]:
    cache = subject.client(verify=verify)
    try:
        client = LayerwiseClient(cache, subject.gateway, subject.prefix).warmed()
        yield lambda context: client.retrieve(subject.sampled.shape.chunks(context))
    finally:
        cache.close()


@contextmanager
def _open_raw_loop(subject: Subject) -> Iterator[Retrieve]:
    """Over the very bytes that a retrieval of each context delivers, in the same order."""
    contexts = subject.sampled.contexts
    with ExitStack() as stack:
        store = stack.enter_context(subject.gateway.open_store())
        fds = []
        for header in subject.prefix.headers:
            reader = stack.enter_context(store.open(header.name))
            ranges = stack.enter_context(reader.files(0, header.total_bytes))
            assert ranges is not None
            fds.append(ranges[0].descriptor)
        sets = []
        for context in contexts:
            chunks = subject.sampled.shape.chunks(context)
            sets.append(
                [
                    (fd, header.geometry.slice_offset(position, 0), taken * header.slice_bytes[position])
                    for position in range(subject.sampled.shape.num_layers)
                    for fd, header in zip(fds, subject.prefix.headers, strict=True)
                    if (taken := min(header.num_chunks, chunks - header.depth)) > 0
                ]
            )
        raw = stack.enter_context(RawLoop(sets, subject.settings.connections))
        raw.run(len(sets) - 1)  # its memory is written, as the clients' is
        yield lambda context: raw.run(contexts.index(context))


RAW_LOOP = Way("raw loop", _open_raw_loop)
LAYERWISE = Way("layerwise", partial(_open_layerwise, verify="all"))
_LAYERWISE = {
    "all": ("tcp_ratio", LAYERWISE),
    "sampled": ("tcp_ratio_sampled", Way("layerwise, sampled", partial(_open_layerwise, verify="sampled"))),
    "off": ("tcp_ratio_unverified", Way("layerwise, unverified", partial(_open_layerwise, verify="off"))),
}

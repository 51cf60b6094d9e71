"""NIXL as a target, over each of UCX's fabrics that every machine has, beside what NIXL itself does over it.

UCX is told by its environment, when an agent is made: each fabric has a gateway of its own over the same data, and its
client's agent is made meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial

from objectcache.bench.gateway import BenchGateway
from objectcache.bench.nixl_loop import FABRICS, Fabric, NixlLoop
from objectcache.bench.retrieve.compared import Compared, Retrieve, Way
from objectcache.bench.retrieve.layerwise import LayerwiseClient
from objectcache.bench.retrieve.subject import Subject

_LEVELS = {"all": ("", ""), "sampled": (", sampled", "_sampled"), "off": (", unverified", "_unverified")}
"""What names of ways, and keys, end with."""


def nixl_comparisons(levels: Sequence[str]) -> list[Compared]:
    """For each fabric, its ceiling and right after that each of `levels` of checking digests."""
    found = []
    for fabric in FABRICS:
        bare = Way(f"bare NIXL, {fabric.name}", partial(_open_bare, fabric=fabric))
        for level in levels:
            text, key = _LEVELS[level]
            way = Way(f"layerwise NIXL, {fabric.name}{text}", partial(_open_layerwise, fabric=fabric, verify=level))
            found.append(Compared(f"nixl_ratio_{fabric.name}{key}", way, bare))
    return found


@contextmanager
def environment_of(fabric: Fabric) -> Iterator[None]:
    """Agents that this process makes meanwhile use it."""
    before = {name: os.environ.get(name) for name in fabric.environment}
    os.environ.update(fabric.environment)
    try:
        yield
    finally:
        _restore(before)


def _restore(before: Mapping[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def _open_layerwise(subject: Subject, *, fabric: Fabric, verify: str) -> Iterator[Retrieve]:
    with ExitStack() as stack:
        gateway = stack.enter_context(BenchGateway(subject.gateway.data, environment=fabric.environment))
        cache = replace(subject, gateway=gateway).client(verify=verify)
        stack.callback(cache.close)
        with environment_of(fabric):
            client = LayerwiseClient(cache, gateway, subject.prefix).warmed()
        yield lambda context: client.retrieve(subject.sampled.shape.chunks(context))


@contextmanager
def _open_bare(subject: Subject, *, fabric: Fabric) -> Iterator[Retrieve]:
    """The same layers of the same contexts."""
    shape, contexts = subject.sampled.shape, subject.sampled.contexts
    sets = [[shape.chunks(context) * shape.slice_bytes] * shape.num_layers for context in contexts]
    with NixlLoop(sets, fabric) as loop:
        yield lambda context: loop.run(contexts.index(context))

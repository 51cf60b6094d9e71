"""What one process of an engine tells of itself: its status file, and the namespaces that it asks in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from objectcache.cache.base import PartId
from objectcache.connectors.status import EngineStatus, StatusWriter, default_folder
from objectcache.connectors.vllm.facts import EngineFacts
from objectcache.connectors.vllm.identity import CachedGroup, Identity
from objectcache.connectors.vllm.messages import Adapter
from objectcache.connectors.vllm.options import VllmOptions
from objectcache.connectors.vllm.safety import AFTER, BEFORE, safety
from objectcache.connectors.vllm.stats import status_counters
from objectcache.errors import ObjectCacheError
from objectcache.keys import Namespace
from objectcache.layout import KVLayout


class Telling:
    """Thread-safe; nothing waits for the disk but `close`."""

    def __init__(self, options: VllmOptions, facts: EngineFacts, role: str, *, idle_reason: str = "") -> None:
        safe = safety(facts)
        self._writer = StatusWriter(
            Path(options.status_dir).expanduser() if options.status_dir else default_folder(),
            EngineStatus(
                engine=f"vllm {facts.version} {facts.weights.name}",
                url=options.url,
                role=role,
                rank=facts.rank,
                ranks=facts.ranks,
                chunk_tokens=max((group.block_tokens for group in facts.groups), default=0),
                announced=BEFORE if safe.layerwise else AFTER,
                announced_why=safe.reason,
                idle_reason=idle_reason,
            ),
        )

    def count(self, stats: Mapping[str, float], *, left_alone: bool | None = None) -> None:
        """`left_alone`: the storage side failed lately, and nothing is asked of it."""
        self._writer.count(status_counters(stats))
        if left_alone is not None:
            self._writer.tell(breaker_open=left_alone)

    def watched(self, identity: Identity) -> Identity:
        """The same, and told of."""
        return _Watched(identity, self._writer)

    def close(self) -> None:
        self._writer.close()


class _Watched:
    def __init__(self, identity: Identity, writer: StatusWriter) -> None:
        self._identity = identity
        self._writer = writer

    @property
    def layout(self) -> KVLayout:
        return self._identity.layout

    @property
    def groups(self) -> Sequence[CachedGroup]:
        return self._identity.groups

    @property
    def parts(self) -> Sequence[PartId]:
        return self._identity.parts

    @property
    def saves(self) -> bool:
        return self._identity.saves

    def namespace(self, epoch: int, none_hash: bytes, adapter: Adapter | None) -> Namespace:
        try:
            namespace = self._identity.namespace(epoch, none_hash, adapter)
        except ObjectCacheError as error:
            self._writer.failed(str(error))
            raise
        self._writer.asked_in(namespace)
        return namespace

"""One process of an engine, watched: what it counts and the namespaces that it asks in go to its status file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from objectcache.cache.base import PartId
from objectcache.connectors.status import StatusWriter, default_folder
from objectcache.connectors.vllm.messages import Adapter
from objectcache.connectors.vllm.naming.facts import EngineFacts
from objectcache.connectors.vllm.naming.identity import CachedGroup, Identity
from objectcache.connectors.vllm.options import VllmOptions
from objectcache.connectors.vllm.telling import engine_status
from objectcache.errors import ObjectCacheError
from objectcache.keys import Namespace
from objectcache.layout import KVLayout


class Watching:
    """Thread-safe; nothing waits for the disk but `close`."""

    def __init__(self, options: VllmOptions, facts: EngineFacts, *, worker: bool) -> None:
        folder = Path(options.status_dir).expanduser() if options.status_dir else default_folder()
        self._writer = StatusWriter(folder, engine_status(facts, options, worker=worker))

    def count(self, counts: Mapping[str, float], *, left_alone: bool = False) -> None:
        """`left_alone`: the storage side failed lately, and nothing is asked of it."""
        if counts:
            self._writer.count(counts)
        self._writer.tell(breaker_open=left_alone)

    def failed(self, error: ObjectCacheError) -> None:
        self._writer.failed(str(error))

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
    def writes(self) -> Sequence[bool]:
        return self._identity.writes

    def namespace(self, epoch: int, none_hash: bytes, adapter: Adapter | None) -> Namespace:
        try:
            namespace = self._identity.namespace(epoch, none_hash, adapter)
        except ObjectCacheError as error:
            self._writer.failed(str(error))
            raise
        self._writer.asked_in(namespace)
        return namespace

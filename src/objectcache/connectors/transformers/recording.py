"""Storing a prompt's KV layer by layer while the forward that computes it runs."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType

import torch

from objectcache.cache.base import PartId
from objectcache.connectors.transformers.accelerator import layer_source
from objectcache.connectors.transformers.slices import KVShape
from objectcache.connectors.transformers.stats import StatsCounter
from objectcache.errors import ObjectCacheError, RequestError
from objectcache.keys import KeyChain, Namespace
from objectcache.storing import Reason, StoreHandle, StoreQueue

_PART = PartId(0, 0)
_ROOM_S = 600.0


class Recording(AbstractContextManager["Recording"]):
    """The KV of chunks [first, len(chain)) of one prompt on its way into the cache.

    `offer` takes layers in ascending order and never raises or blocks. Nothing is visible before `commit`; leaving the
    context commits, or aborts on an exception. Whatever goes wrong drops the recording and counts it.
    """

    def __init__(
        self,
        queue: StoreQueue,
        namespace: Namespace,
        chain: KeyChain,
        first: int,
        *,
        shape: KVShape,
        stats: StatsCounter,
    ) -> None:
        self._shape = shape
        self._stats = stats
        self._chunk_tokens = namespace.layout.key_tokens
        self._first, self._stop = first, len(chain)
        self._handle: StoreHandle | None = None
        if first < len(chain):
            self._handle = queue.begin(namespace, chain, _PART, first=first, on_settled=self._settled)
        if self._handle is not None:  # of what others are storing at this moment, the rest
            self._first, self._stop = self._handle.first, self._handle.stop

    @property
    def first_token(self) -> int:
        """Tokens before this one are stored already."""
        return self._first * self._chunk_tokens

    @property
    def stop_token(self) -> int:
        """Where the last full chunk of the prompt ends."""
        return self._stop * self._chunk_tokens

    @property
    def stored_tokens(self) -> int:
        """Tokens made visible by this recording. Final once `wait` returns true."""
        return 0 if self._handle is None else self._handle.stored_chunks * self._chunk_tokens

    @property
    def error(self) -> ObjectCacheError | None:
        """What made it fail, or None."""
        return None if self._handle is None else self._handle.error

    def wait(self, timeout_s: float) -> bool:
        """Whether it is committed, dropped or aborted within `timeout_s`."""
        return self._handle is None or self._handle.wait(timeout_s)

    def offer(self, layer: int, keys: torch.Tensor, values: torch.Tensor, *, wait: bool = False) -> None:
        """K and V of the whole sequence up to at least `stop_token`, [1, kv_heads, tokens, head_dim], at `layer`.

        They must not be written to afterwards. With `wait` it blocks while too much is pending, instead of dropping.
        """
        if self._handle is None:
            return
        if not self._shape.holds(keys) or not self._shape.holds(values) or keys.shape[2] < self.stop_token:
            what = f"layer {layer} has K {list(keys.shape)} {keys.dtype}: not what the model stores"
            self._handle.drop(Reason.FAILED, RequestError(what))
            return
        keys = keys.detach()[:, :, self.first_token : self.stop_token]
        values = values.detach()[:, :, self.first_token : self.stop_token]
        source = layer_source(keys, values, self._chunk_tokens)
        self._handle.layer(layer, source, wait_s=_ROOM_S if wait else 0.0)

    def commit(self) -> None:
        """The forward was clean: make it visible, in the background."""
        if self._handle is not None:
            self._handle.finish()

    def abort(self) -> None:
        """Store nothing of it. Harmless after `commit`."""
        if self._handle is not None:
            self._handle.abandon()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.abort()

    def _settled(self, handle: StoreHandle) -> None:
        if handle.stored:
            tokens = handle.stored_chunks * self._chunk_tokens
            self._stats.add(stored_tokens=tokens, stored_bytes=handle.payload_bytes)
        elif handle.reason is Reason.ABANDONED:
            self._stats.add(aborted=1)
        elif handle.reason is Reason.BACKLOG:
            self._stats.add(dropped_backlog=1)
        elif handle.reason is Reason.FULL:
            self._stats.add(dropped_full=1)
        elif handle.reason is not None and handle.reason.lost:
            self._stats.add(dropped_failed=1)

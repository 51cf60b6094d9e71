"""Storing a prompt's KV layer by layer while the forward that computes it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

import numpy as np
import numpy.typing as npt
import torch

from objectcache.cache.base import KVCache, PartId, SegmentUpload, UploadTicket
from objectcache.connectors.transformers.accelerator import slices_later
from objectcache.connectors.transformers.background import BackgroundThread
from objectcache.connectors.transformers.slices import KVShape
from objectcache.connectors.transformers.stats import StatsCounter
from objectcache.errors import ObjectCacheError, RequestError, StoreFullError
from objectcache.keys import KeyChain, Namespace

_PART = PartId(0, 0)


class Recording(AbstractContextManager["Recording"]):
    """The KV of chunks [first, len(chain)) of one prompt on its way into the cache.

    `offer` takes layers in ascending order and never raises or blocks. Nothing is visible before `commit`; leaving the
    context commits, or aborts on an exception. Whatever goes wrong drops the recording and counts it.
    """

    def __init__(
        self,
        cache: KVCache,
        namespace: Namespace,
        chain: KeyChain,
        first: int,
        *,
        shape: KVShape,
        segment_chunks: int,
        background: BackgroundThread,
        stats: StatsCounter,
    ) -> None:
        self._cache = cache
        self._namespace = namespace
        self._chain = chain
        self._first = first
        self._shape = shape
        self._segment_chunks = segment_chunks
        self._background = background
        self._stats = stats
        self._chunk_tokens = namespace.layout.key_tokens
        self._uploads: list[SegmentUpload] = []
        self._tickets: list[UploadTicket] = []
        self._next_layer = 0
        self._ended = first >= len(chain)  # takes no more layers
        self._dropped = threading.Lock()  # taken for good by whoever drops it
        self._done = threading.Event()
        self._error: ObjectCacheError | None = None
        self._stored_tokens = 0
        if self._ended:
            self._done.set()

    @property
    def first_token(self) -> int:
        """Tokens before this one are stored already."""
        return self._first * self._chunk_tokens

    @property
    def stop_token(self) -> int:
        """Where the last full chunk of the prompt ends."""
        return len(self._chain) * self._chunk_tokens

    @property
    def stored_tokens(self) -> int:
        """Tokens made visible by this recording. Final once `wait` returns true."""
        return self._stored_tokens

    @property
    def error(self) -> ObjectCacheError | None:
        """Why it was dropped, or None."""
        return self._error

    def wait(self, timeout_s: float) -> bool:
        """Whether it is committed, dropped or aborted within `timeout_s`."""
        return self._done.wait(timeout_s)

    # -- for the forward --------------------------------------------------------------------------

    def offer(self, layer: int, keys: torch.Tensor, values: torch.Tensor, *, wait: bool = False) -> None:
        """K and V of the whole sequence up to at least `stop_token`, [1, kv_heads, tokens, head_dim], at `layer`.

        They must not be written to afterwards. With `wait` it blocks while too much is pending, instead of dropping.
        """
        if self._ended:
            return
        if not self._shape.holds(keys) or not self._shape.holds(values) or keys.shape[2] < self.stop_token:
            self._drop(RequestError(f"layer {layer} has K {list(keys.shape)} {keys.dtype}: not what the model stores"))
            self._queue_discard()
            return
        keys = keys.detach()[:, :, self.first_token : self.stop_token]
        values = values.detach()[:, :, self.first_token : self.stop_token]
        slices = slices_later(keys, values, self._chunk_tokens)
        num_bytes = 2 * keys.numel() * keys.element_size()
        job = self._guarded(lambda: self._write_layer(layer, slices))
        if not self._background.submit(job, num_bytes, wait=wait):
            self._drop(None)
            self._queue_discard()

    def commit(self) -> None:
        """The forward was clean: make it visible, in the background."""
        if not self._ended:
            self._ended = True
            if not self._background.submit(self._guarded(self._commit)):
                self._drop(None)
                self._queue_discard()

    def abort(self) -> None:
        """Store nothing of it. Harmless after `commit`."""
        if not self._ended:
            self._ended = True
            self._stats.add(aborted=1)
            self._queue_discard()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.abort()

    def _drop(self, error: ObjectCacheError | None) -> None:
        """Count it, once, by its first reason. None: too much is pending."""
        self._ended = True
        if not self._dropped.acquire(blocking=False):
            return
        self._error = error
        if error is None:
            self._stats.add(dropped_backlog=1)
        elif isinstance(error, StoreFullError):
            self._stats.add(dropped_full=1)
        else:
            self._stats.add(dropped_failed=1)

    def _queue_discard(self) -> None:
        if not self._background.submit(self._discard):
            self._discard()  # the thread has ended, and holds nothing of this any more

    # -- in the background ------------------------------------------------------------------------

    def _guarded(self, step: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            if self._dropped.locked() or self._done.is_set():
                return
            try:
                step()
            except Exception as error:  # noqa: BLE001 - nothing that storing does may reach the forward
                self._drop(error if isinstance(error, ObjectCacheError) else ObjectCacheError(repr(error)))
                self._discard()

        return run

    def _write_layer(self, layer: int, slices_of: Callable[[], npt.NDArray[np.uint8]]) -> None:
        if layer != self._next_layer:
            raise RequestError(f"layer {layer} came where {self._next_layer} was expected")
        if layer == 0:
            self._open_uploads()
        if self._uploads:
            slices = slices_of()
        for upload in self._uploads:
            start = upload.header.depth - self._first
            upload.write_layer(slices[start : start + upload.header.num_chunks].data.cast("B"))
        self._next_layer += 1

    def _open_uploads(self) -> None:
        """One per segment, side by side: a segment is layer-major, so that each gets its part of every layer."""
        for first in range(self._first, len(self._chain), self._segment_chunks):
            stop = min(first + self._segment_chunks, len(self._chain))
            upload = self._cache.store(self._namespace, self._chain, _PART, first=first, stop=stop)
            if upload is not None:
                self._uploads.append(upload)

    def _commit(self) -> None:
        if self._next_layer != self._shape.num_layers:
            raise RequestError(f"{self._next_layer} of {self._shape.num_layers} layers were computed")
        while self._uploads:
            self._tickets.append(self._uploads[0].finish())
            self._uploads.pop(0)
        if self._tickets:
            self._cache.commit(self._tickets)
        chunks = sum(ticket.header.num_chunks for ticket in self._tickets)
        self._stored_tokens = chunks * self._chunk_tokens
        self._stats.add(
            stored_tokens=self._stored_tokens, stored_bytes=sum(ticket.total_bytes for ticket in self._tickets)
        )
        self._tickets.clear()
        self._done.set()

    def _discard(self) -> None:
        uploads, self._uploads = self._uploads, []
        tickets, self._tickets = self._tickets, []
        try:
            for upload in uploads:
                upload.abort()
            if tickets:
                self._cache.commit([], discard=tickets)
        except Exception:  # noqa: BLE001 - what cannot be dropped now was never visible and expires
            pass
        finally:
            self._done.set()

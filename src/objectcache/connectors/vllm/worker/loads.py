"""Loads of a step: what was staged goes to its blocks layer by layer, and the step waits for each layer on its own."""

from __future__ import annotations

from time import perf_counter

from objectcache.connectors.vllm.messages import Load
from objectcache.connectors.vllm.naming.identity import Identity
from objectcache.connectors.vllm.worker.attempts import Fetch, Watch
from objectcache.connectors.vllm.worker.paged_caches import PagedCaches
from objectcache.device import DeviceLoader, DeviceRetrieval, Place, block_table
from objectcache.errors import DeliveryTimeoutError, LayoutError, ObjectCacheError

NULL_BLOCK = 0
"""vLLM's block that stands for nothing: never written."""
LOOK_S = 0.02
LONGEST_WAIT_S = 15.0
"""For which a load may keep its step, however slowly it comes."""


class Loading:
    """One load under way. For the engine's thread only."""

    def __init__(self, load: Load, fetch: Fetch, moving: DeviceRetrieval) -> None:
        self.load = load
        self.fetch = fetch
        self.moving = moving
        self.error: ObjectCacheError | None = None
        self._missing = set(fetch.layers)
        self._watch = Watch(perf_counter())
        self._waited_s = 0.0

    @property
    def complete(self) -> bool:
        """Whether everything has been waited for."""
        return not self._missing and self.error is None

    def wait(self, layer: int, deadline_s: float) -> float:
        """What the current stream is given from here on finds `layer` in its blocks; how long the host stood for it.

        Never raises: `error` is why it will not come.
        """
        if self.error is not None or layer not in self._missing:
            return 0.0
        begin_s = perf_counter()
        try:
            self._await(layer, deadline_s)
            self._missing.discard(layer)
        except ObjectCacheError as error:
            self.fail(error)
        waited_s = perf_counter() - begin_s
        self._waited_s += waited_s
        return waited_s

    def _await(self, layer: int, deadline_s: float) -> None:
        # What came before the step began to wait is no progress of this wait.
        begin_s = perf_counter()
        self._watch = Watch(begin_s)
        while True:
            try:
                self.moving.wait(layer, timeout_s=min(LOOK_S, deadline_s))
            except DeliveryTimeoutError:
                arrived_bytes = self.fetch.retrieval.arrived_bytes()
                now_s = perf_counter()
                late = self._waited_s + now_s - begin_s >= LONGEST_WAIT_S
                if late or self.moving.error is not None or self._watch.stalled_s(arrived_bytes, now_s) >= deadline_s:
                    raise
            else:
                return

    def look(self, deadline_s: float) -> None:
        """Of one that nobody waits for: whether it has failed, or nothing has come for `deadline_s`."""
        if self.moving.error is not None:
            self.fail(self.moving.error)
        elif not self.fetch.retrieval.complete:
            arrived_bytes = self.fetch.retrieval.arrived_bytes()
            if self._watch.stalled_s(arrived_bytes, perf_counter()) >= deadline_s:
                self.fail(DeliveryTimeoutError(f"nothing came for {deadline_s:g} s"))

    def fail(self, error: ObjectCacheError) -> None:
        """It will not be complete, and writes nothing from here on."""
        if self.error is None:
            self.error = self.moving.error or error
            self.moving.forbid()

    def drop(self) -> None:
        """Nobody wants it any more. Writes nothing from here on."""
        self.moving.forbid()

    @property
    def over(self) -> bool:
        """Whether its thread has ended: everything is in its blocks, or nothing writes them any more."""
        return self.moving.join(0)


def blocks_of(load: Load, identity: Identity) -> set[int]:
    """All that `load` is to fill."""
    found: set[int] = set()
    for group, table in zip(identity.groups, load.block_ids, strict=False):
        tokens = group.block_tokens
        found.update(table[load.first_token // tokens : -(-load.stop_token // tokens)])
    return found - {NULL_BLOCK}


class BlockLoader:
    """Starts loads to the paged caches of one rank."""

    def __init__(self, identity: Identity, caches: PagedCaches) -> None:
        self._identity = identity
        self._caches = caches
        self._loader = DeviceLoader(caches.device)

    def start(self, load: Load, fetch: Fetch) -> Loading:
        """Nothing is written before what the current stream holds by now is done.

        Raises LayoutError where what was fetched does not cover the load, or has no blocks to go to.
        """
        places: dict[tuple[int, int], Place] = {}
        spans: dict[int, tuple[int, int]] = {}
        if not fetch.match.have_tokens <= load.first_token < load.stop_token <= fetch.match.tokens:
            raise LayoutError(
                f"tokens [{load.first_token}, {load.stop_token}) are not among those fetched, "
                f"[{fetch.match.have_tokens}, {fetch.match.tokens})"
            )
        if load.stop_token < fetch.match.tokens and not fetch.match.boundary_tokens:
            raise LayoutError(f"of {fetch.match.tokens} tokens no shorter prefix can be loaded")
        for index, part in enumerate(fetch.match.parts):
            tokens = self._identity.layout.group(part.part.group).chunk_tokens
            if load.first_token % tokens or load.stop_token % tokens:
                raise LayoutError(
                    f"blocks of {tokens} tokens do not begin and end at {load.first_token}, {load.stop_token}"
                )
            first, stop = load.first_token // tokens, load.stop_token // tokens
            blocks = load.block_ids[part.part.group][first:stop]
            while blocks and blocks[0] == NULL_BLOCK:  # what a window does not see any more
                blocks, first = blocks[1:], first + 1
            if not blocks:
                continue
            if first < part.first or len(blocks) != stop - first or NULL_BLOCK in blocks:
                raise LayoutError(f"chunks [{first}, {stop}) of {part.part} are not those that have blocks and came")
            table = block_table(blocks)
            spans[index] = (first - part.first, stop - part.first)
            for layer in part.shape.layers:
                places[index, layer] = self._caches.layers[part.part, layer].at(table)
        moving = self._loader.load(fetch.retrieval, places, spans=spans)
        return Loading(load, fetch, moving)

    def close(self) -> None:
        self._loader.close()

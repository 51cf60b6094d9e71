"""What a prefix-KV cache does, in this process or through a gateway: match, retrieve, store, commit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from math import inf, lcm
from types import TracebackType
from typing import Any, NamedTuple, Self

from objectcache.cache.ahead import Ahead
from objectcache.cache.retrieval import Retrieval
from objectcache.errors import LayoutError, NotSupportedError, ObjectCacheError, RequestError
from objectcache.integrity import Buffer
from objectcache.keys import KeyChain, Namespace
from objectcache.layout import PartShape, delivery_geometry
from objectcache.scheduling.advice import Advice, Offer, advise, model_compute
from objectcache.scheduling.windows import WindowModel
from objectcache.segment import SegmentHeader


class PartId(NamedTuple):
    """One shard of one group, by their indices in the layout."""

    group: int
    shard: int


def all_parts(namespace: Namespace) -> list[PartId]:
    """Every shard of every group of a namespace's layout."""
    return [
        PartId(group, shard) for group, held in enumerate(namespace.layout.groups) for shard in range(len(held.shards))
    ]


@dataclass(frozen=True, slots=True)
class MatchedPart:
    """Chunks [first, stop) of one shard, counted in the group's own chunks; `keys` are theirs.

    For full attention `first` is 0; a sliding window or a recurrent state needs less.
    """

    part: PartId
    first: int
    stop: int
    keys: KeyChain
    shape: PartShape

    @property
    def leaf(self) -> bytes:
        return self.keys[-1]

    def shortened(self, stop: int) -> MatchedPart:
        """Without chunks from `stop` on."""
        shape = PartShape(self.shape.layers, self.shape.slice_bytes, stop - self.first)
        return replace(self, stop=stop, keys=self.keys[: stop - self.first], shape=shape)

    def after(self, first: int) -> MatchedPart:
        """Without chunks before `first`."""
        if first <= self.first:
            return self
        shape = PartShape(self.shape.layers, self.shape.slice_bytes, self.stop - first)
        return replace(self, first=first, keys=self.keys[first - self.first :], shape=shape)


@dataclass(frozen=True, slots=True)
class Lease:
    """Pins what was matched for `ttl_s` seconds from the answer; `rate_bytes_s` is the rate to expect, if known."""

    id: bytes
    ttl_s: float
    rate_bytes_s: float | None = None
    layers_per_unit: int = 1


@dataclass(frozen=True, slots=True)
class Match:
    """The longest stored prefix of a chain: `tokens` long, held by all parts asked for. Empty when `tokens` is 0.

    The first `have_tokens` of it are the engine's already: parts are of what comes after them.
    """

    namespace: Namespace
    tokens: int
    parts: tuple[MatchedPart, ...] = ()
    lease: Lease | None = None
    have_tokens: int = 0

    @property
    def payload_bytes(self) -> int:
        return sum(part.shape.num_chunks * sum(part.shape.slice_bytes) for part in self.parts)

    @property
    def boundary_tokens(self) -> int:
        """Shorter prefixes of it end at multiples of this; 0: there are none, as with windows and states."""
        if not self.parts or any(part.first * self._chunk_tokens(part) > self.have_tokens for part in self.parts):
            return 0
        return lcm(*map(self._chunk_tokens, self.parts))

    def _chunk_tokens(self, part: MatchedPart) -> int:
        return self.namespace.layout.group(part.part.group).chunk_tokens

    def shortened(self, tokens: int) -> Match:
        """Its first `tokens` only, under the same lease. Raises RequestError for what is no prefix of it."""
        boundary = self.boundary_tokens
        whole = tokens == self.tokens
        if not self.have_tokens < tokens <= self.tokens or (not whole and (not boundary or tokens % boundary)):
            raise RequestError(f"{tokens} tokens are no prefix of {self.tokens} that match, in steps of {boundary}")
        if whole:
            return self
        return replace(
            self,
            tokens=tokens,
            parts=tuple(part.shortened(tokens // self._chunk_tokens(part)) for part in self.parts),
        )

    def bounded(self, most_tokens: int | None) -> Match:
        """Its longest prefix of at most `most_tokens`; all of it for None, or where none is so short."""
        if most_tokens is None:
            return self
        boundary = self.boundary_tokens
        tokens = most_tokens // boundary * boundary if boundary else 0
        return self.shortened(tokens) if self.have_tokens < tokens < self.tokens else self

    def after(self, tokens: int) -> Match:
        """What the engine lacks of it, that has its first `tokens`, under the same lease.

        Raises RequestError where chunks of a part do not end there, or nothing is left.
        """
        if not 0 <= tokens < self.tokens or any(tokens % self._chunk_tokens(part) for part in self.parts):
            raise RequestError(f"nothing of {self.tokens} tokens that match begins after {tokens}")
        if tokens <= self.have_tokens:
            return self
        return replace(
            self,
            have_tokens=tokens,
            parts=tuple(part.after(tokens // self._chunk_tokens(part)) for part in self.parts),
        )

    def offer(self, prompt_tokens: int, *, step_tokens: int = 0) -> Offer:
        """What it offers to a prompt of `prompt_tokens` (`scheduling.advice.advise`), counted from where it begins.

        Raises RequestError without."""
        shapes = tuple(part.shape for part in self.parts)
        sizes = delivery_geometry(shapes, 1).unit_bytes if shapes else ()
        have = self.have_tokens  # a multiple of every chunk, and so of the boundary
        return Offer(prompt_tokens - have, self.tokens - have, sizes, self.boundary_tokens, step_tokens, have)

    def advice(
        self,
        prompt_tokens: int,
        windows: WindowModel,
        *,
        rate_bytes_s: float | None = None,
        step_tokens: int = 0,
        may_hold: bool = False,
    ) -> Advice | None:
        """What to do with it, at the rate that the lease says, or else `rate_bytes_s`, or else any: `advice.advise`.

        None while `windows` knows nothing. Raises RequestError when nothing matched.
        """
        compute = model_compute(windows)
        if compute is None:
            return None
        promised = self.lease.rate_bytes_s if self.lease is not None else None
        rate = promised if promised is not None else rate_bytes_s
        return advise(
            self.offer(prompt_tokens, step_tokens=step_tokens),
            compute,
            rate_bytes_s=inf if rate is None else rate,
            may_hold=may_hold,
        )


@dataclass(frozen=True, slots=True)
class RetrieveOptions:
    """How to deliver.

    `layers_per_unit`: 0 leaves it to the storage side, 1 is layerwise, `CHUNKWISE` is everything as one unit.
    `windows_s`: compute seconds per layer that hide the next layer's transfer. `deadline_s`: seconds from now after
    which waits raise DeliveryTimeoutError. `gang`, `trace`: what an engine step waits for together; an id to follow.
    """

    layers_per_unit: int = 0
    windows_s: tuple[float, ...] = ()
    deadline_s: float = 30.0
    gang: str = ""
    trace: str = ""


CHUNKWISE = 1 << 20
"""`layers_per_unit` for delivering all layers as one unit."""


@dataclass(frozen=True, slots=True)
class UploadTicket:
    """A finished upload, invisible until `commit`."""

    header: SegmentHeader
    total_bytes: int
    row_digests: tuple[bytes, ...] = field(repr=False)


def group_chain(namespace: Namespace, chain: KeyChain, group: int) -> KeyChain:
    """The keys of a group's own chunks, from the chain at the layout's `key_tokens`."""
    layout = namespace.layout
    return chain.coarsen(layout.group(group).chunk_tokens // layout.key_tokens)


def matched_part(namespace: Namespace, chain: KeyChain, part: PartId, first: int, stop: int) -> MatchedPart:
    """Chunks [first, stop) of `part`, with keys and shape. Raises LayoutError for what the layout does not have."""
    shard = namespace.layout.shard(part.group, part.shard)
    keys = group_chain(namespace, chain, part.group)[first:stop]
    if len(keys) != stop - first or not keys:
        raise LayoutError(f"chunks [{first}, {stop}) of {part} are not in the chain that was asked for")
    return MatchedPart(part, first, stop, keys, PartShape(shard.layers, shard.slice_bytes, stop - first))


def whole_match(namespace: Namespace, chain: KeyChain, parts: Sequence[PartId] | None = None) -> Match:
    """A match of all of `chain`, as if all `parts` (None: all) of it were stored; empty where it is too short for one.
    Without a lease. Raises LayoutError for parts that the layout does not have."""
    layout = namespace.layout
    tokens = len(chain) * layout.key_tokens // layout.boundary_tokens * layout.boundary_tokens
    if not tokens:
        return Match(namespace, 0)
    matched = []
    for part in all_parts(namespace) if parts is None else parts:
        group = layout.group(part.group)
        stop = tokens // group.chunk_tokens
        matched.append(matched_part(namespace, chain, part, max(0, stop - (group.needed_chunks or stop)), stop))
    return Match(namespace, tokens, tuple(matched))


def check_most_tokens(most_tokens: int | None) -> None:
    """Raises RequestError."""
    if most_tokens is not None and most_tokens < 1:
        raise RequestError(f"most_tokens must be at least 1, got {most_tokens}: to retrieve nothing, `match`")


def select_parts(match: Match, parts: Sequence[PartId] | None) -> list[MatchedPart]:
    """The matched parts that are asked for (None: all), in the match's order. Raises RequestError for others."""
    if not match.parts:
        raise RequestError("nothing matched, so there is nothing to retrieve")
    if parts is None:
        return list(match.parts)
    selected = [part for part in match.parts if part.part in set(parts)]
    if not parts or len(selected) != len(set(parts)):
        raise RequestError(f"parts {list(parts)} are not all among the matched {[p.part for p in match.parts]}")
    return selected


class SegmentUpload(AbstractContextManager["SegmentUpload"], ABC):
    """One segment on its way. Leaving the context without `finish` aborts it."""

    header: SegmentHeader

    @abstractmethod
    def write_layer(self, data: Buffer) -> None:
        """The next layer (in `header.layers` order): slices of all chunks, contiguous."""

    @abstractmethod
    def finish(self) -> UploadTicket:
        """All layers are written: the segment is whole in the store, and still invisible."""

    @abstractmethod
    def abort(self) -> None:
        """Drop it. Harmless after `finish`."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()


class ForeignUpload(ABC):
    """One segment that another process of this host writes, by `recipe` (what msgpack can carry)."""

    header: SegmentHeader
    recipe: Mapping[str, Any]

    @abstractmethod
    def finished(self, row_digests: Sequence[bytes]) -> UploadTicket:
        """It is whole; these are the digests of its rows."""

    @abstractmethod
    def close(self, error: ObjectCacheError | None = None) -> None:
        """Nothing writes it any more; `error` is why it is not whole, if it is not."""


class KVCache(AbstractContextManager["KVCache"], ABC):
    """Prefix KV by key. Calls block, may be made from any thread, and raise ObjectCacheError.

    `chain` always is the keys of the prompt from its start, at `namespace.layout.key_tokens` tokens a key.
    """

    @abstractmethod
    def match(self, namespace: Namespace, chain: KeyChain, *, parts: Sequence[PartId] | None = None) -> Match:
        """The longest stored prefix that all `parts` (default: all of the layout) hold, under a lease."""

    @abstractmethod
    def retrieve(
        self, match: Match, *, parts: Sequence[PartId] | None = None, options: RetrieveOptions | None = None
    ) -> Retrieval:
        """Start delivering what was matched (or only `parts` of it). The destination is allocated before anything is
        asked for. Raises RequestError, LeaseExpiredError, StoreError, BufferPoolExhaustedError.
        """

    def match_and_retrieve(
        self,
        namespace: Namespace,
        chain: KeyChain,
        *,
        parts: Sequence[PartId] | None = None,
        options: RetrieveOptions | None = None,
        most_tokens: int | None = None,
        ahead: Ahead | None = None,
    ) -> tuple[Match, Retrieval | None]:
        """`match`, and `retrieve` of what matched, `bounded` to `most_tokens` if given: in one round trip where there
        is one to be saved. None when nothing matched.

        Whoever wants less of it in the end closes the retrieval, and retrieves the match shortened. Where a local tier
        holds the beginning of it, `ahead` may be given that while the storage side is asked. Raises like both, and
        RequestError for `most_tokens` below 1; nothing is leased then.
        """
        check_most_tokens(most_tokens)
        match = self.match(namespace, chain, parts=parts)
        if not match.tokens:
            return match, None
        try:
            return match, self.retrieve(match.bounded(most_tokens), options=options)
        except BaseException:
            with suppress(ObjectCacheError):  # it expires by itself
                self.release(match)
            raise

    @abstractmethod
    def store(
        self, namespace: Namespace, chain: KeyChain, part: PartId, *, first: int = 0, stop: int | None = None
    ) -> SegmentUpload | None:
        """Begin storing chunks [first, stop) of `part`, counted in its group's chunks; None when all are there already.

        Raises StoreFullError when there is no room even after evicting.
        """

    stores_elsewhere = False
    """Whether `store_elsewhere` can be had."""

    def store_elsewhere(
        self, namespace: Namespace, chain: KeyChain, part: PartId, *, first: int = 0, stop: int | None = None
    ) -> ForeignUpload | None:
        """As `store`, for another process to write. Raises NotSupportedError where only this process can."""
        raise NotSupportedError("what this cache stores can only be written by its own process")

    @abstractmethod
    def commit(self, tickets: Sequence[UploadTicket], *, discard: Sequence[UploadTicket] = ()) -> None:
        """Make finished uploads visible, all at once; drop those in `discard`. Raises UploadNotFoundError."""

    @abstractmethod
    def release(self, match: Match) -> None:
        """Give the lease back before its time."""

    def register_buffers(self, registrar: Callable[[int, int], Callable[[], None]]) -> None:
        """Have the memory that deliveries land in registered: `registrar(address, size_bytes)` returns what undoes it.
        A cache without such memory has nothing to register. What a local tier holds is mapped and registered too, in
        the background, as it is used. Raises what the registrar raises.
        """

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

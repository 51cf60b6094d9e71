"""Synthetic KV: bytes that follow from chunk key, part and layer, so that every slice can be checked by itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from objectcache.cache import (
    KVCache,
    Match,
    MatchedPart,
    PartId,
    Retrieval,
    RetrieveOptions,
    SegmentUpload,
    UploadTicket,
)
from objectcache.keys import KeyChain, Namespace, chain_keys, salt_digest
from objectcache.layout import KVGroup, KVLayout, KVShard
from objectcache.segment import SegmentHeader

FIRST = PartId(0, 0)
LAYERWISE = RetrieveOptions(layers_per_unit=1)
"""For what is about single layers: left to itself, the storage side announces small layers together."""


def new_namespace(layout: KVLayout, *, model: str = "", salt: str = "") -> Namespace:
    """A namespace that nobody has used before, unless `model` names one."""
    return Namespace(
        model=model or f"synthetic-{uuid4().hex}", layout=layout, kv_dtype="uint8", salt_sha256=salt_digest(salt)
    )


def flat_layout(num_layers: int, slice_bytes: int, chunk_tokens: int = 16) -> KVLayout:
    """One full-attention group of one shard, with slices of just this size."""
    shard = KVShard(0, tuple(range(num_layers)), (slice_bytes,) * num_layers)
    return KVLayout((KVGroup("full", chunk_tokens, (shard,)),))


def prompt(namespace: Namespace, num_keys: int, *, seed: int = 0, shared: int = 0) -> KeyChain:
    """A chain of `num_keys` keys. The first `shared` are those of seed 0, whatever the seed."""
    size = namespace.layout.key_tokens
    tokens = np.random.default_rng(seed).integers(0, 1 << 20, num_keys * size)
    tokens[: shared * size] = np.random.default_rng(0).integers(0, 1 << 20, num_keys * size)[: shared * size]
    return chain_keys(namespace, tokens)


def slice_bytes_of(key: bytes, part: PartId, layer: int, size_bytes: int) -> bytes:
    """The KV of one chunk at one layer of one shard."""
    seed = hashlib.sha256(key + bytes([part.group]) + part.shard.to_bytes(2) + layer.to_bytes(2)).digest()
    return np.random.Generator(np.random.SFC64(int.from_bytes(seed[:8]))).bytes(size_bytes)


def layer_bytes_of(header: SegmentHeader, position: int) -> bytes:
    """All slices of the layer at `position` of a segment, contiguous."""
    part = PartId(header.group, header.shard)
    layer, size = header.layers[position], header.slice_bytes[position]
    return b"".join(slice_bytes_of(key, part, layer, size) for key in header.keys)


def fill(upload: SegmentUpload) -> UploadTicket:
    """Write all layers of an upload, and finish it."""
    with upload:
        for position in range(len(upload.header.layers)):
            upload.write_layer(layer_bytes_of(upload.header, position))
        return upload.finish()


def upload_part(
    cache: KVCache,
    namespace: Namespace,
    chain: KeyChain,
    part: PartId = FIRST,
    *,
    first: int = 0,
    stop: int | None = None,
) -> UploadTicket:
    """Chunks [first, stop) of a part, in the store and not committed."""
    upload = cache.store(namespace, chain, part, first=first, stop=stop)
    assert upload is not None, "these chunks are there already"
    return fill(upload)


def store_parts(
    cache: KVCache,
    namespace: Namespace,
    chain: KeyChain,
    parts: Sequence[PartId] = (FIRST,),
    *,
    cuts: Sequence[int] = (),
) -> list[UploadTicket]:
    """All chunks of `parts`, committed at once; `cuts` are where one segment ends and the next begins."""
    tickets = []
    for part in parts:
        chunks = len(chain) * namespace.layout.key_tokens // namespace.layout.group(part.group).chunk_tokens
        ends = [*cuts, chunks]
        for first, stop in zip([0, *cuts], ends, strict=True):
            tickets.append(upload_part(cache, namespace, chain, part, first=first, stop=stop))
    cache.commit(tickets)
    return tickets


def expected_layer(part: MatchedPart, layer: int) -> npt.NDArray[np.uint8]:
    """What `Retrieval.view` must show of a matched part at a layer: (num_chunks, slice_bytes)."""
    size = part.shape.slice_bytes[part.shape.layers.index(layer)]
    data = b"".join(slice_bytes_of(key, part.part, layer, size) for key in part.keys)
    return np.frombuffer(data, np.uint8).reshape(part.shape.num_chunks, size)


def check_layer(retrieval: Retrieval, parts: Sequence[MatchedPart], layer: int) -> None:
    """Every part that holds `layer` has been delivered with the right bytes."""
    for index, part in enumerate(parts):
        if layer in part.shape.layers:
            view = retrieval.view(layer, index)
            assert view.shape == (part.shape.num_chunks, part.shape.slice_bytes[part.shape.layers.index(layer)])
            wrong = np.flatnonzero((view != expected_layer(part, layer)).any(axis=1))
            assert not wrong.size, f"layer {layer} of {part.part}: chunks {wrong.tolist()} are not what was stored"


def check_delivery(retrieval: Retrieval, match: Match, parts: Sequence[PartId] | None = None) -> list[tuple[int, ...]]:
    """Wait for all units, in order, and check every byte; which layers each unit had."""
    selected = [part for part in match.parts if parts is None or part.part in parts]
    units: list[tuple[int, ...]] = []
    for group in retrieval:
        assert group.unit == len(units)
        units.append(group.layers)
        for layer in group.layers:
            check_layer(retrieval, selected, layer)
    assert retrieval.complete
    return units


def retrieve_and_check(cache: KVCache, namespace: Namespace, chain: KeyChain) -> Match:
    """Match, retrieve all of it, check every byte."""
    match = cache.match(namespace, chain)
    if match.tokens:
        with cache.retrieve(match) as retrieval:
            check_delivery(retrieval, match)
    return match

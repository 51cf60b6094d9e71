"""Small caches on disk in the states that there are reasons for, and how tests ask about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import objectcache
from objectcache import KVGroup, KVLayout, KVShard, MatchRule, Namespace, PartId, UploadTicket, chain_keys
from objectcache.cache.explain import Explanation, WhyRequest, open_explainer
from objectcache.cache.local import LocalCache

CHUNK = 4
FULL = PartId(0, 0)


def flat_layout(shards: int = 1) -> KVLayout:
    """Full attention, two layers, chunks of 4 tokens."""
    held = tuple(KVShard(index, (0, 1), (64, 64), (index,)) for index in range(shards))
    return KVLayout((KVGroup("full", CHUNK, held),))


def hybrid_layout() -> KVLayout:
    """Full attention in two shards, a window of 8 tokens, and a state every 8 tokens."""
    full = (KVShard(0, (0,), (64,)), KVShard(1, (0,), (64,), (1,)))
    return KVLayout(
        (
            KVGroup("full", CHUNK, full),
            KVGroup("window", CHUNK, (KVShard(0, (1,), (32,)),), MatchRule.WINDOW, 8),
            KVGroup("state", 2 * CHUNK, (KVShard(0, (2,), (96,)),), MatchRule.STATE),
        )
    )


def namespace_of(layout: KVLayout | None = None, **fields: object) -> Namespace:
    plain = Namespace(model="sha256:weights", layout=layout or flat_layout(), kv_dtype="bfloat16")
    return replace(plain, **fields)  # type: ignore[arg-type]


def prompt(chunks: int, *, other_from: int | None = None) -> list[int]:
    """Tokens of `chunks` chunks; from chunk `other_from` on they are another prompt's."""
    tokens = list(range(1, chunks * CHUNK + 1))
    if other_from is not None:
        tokens[other_from * CHUNK :] = [token + 1000 for token in tokens[other_from * CHUNK :]]
    return tokens


class World:
    """A cache in `root`, opened for each change and closed again."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self) -> LocalCache:
        cache = objectcache.open(self.root.as_uri())
        assert isinstance(cache, LocalCache)
        return cache

    def upload(
        self, namespace: Namespace, tokens: Sequence[int], first: int, stop: int, part: PartId, *, commit: bool = True
    ) -> UploadTicket:
        """Chunks [first, stop) of `part`, counted in its group's chunks."""
        with self.open() as cache:
            upload = cache.store(namespace, chain_keys(namespace, tokens), part, first=first, stop=stop)
            assert upload is not None, "stored before"
            with upload:
                for layer, size in zip(upload.header.layers, upload.header.slice_bytes, strict=True):
                    upload.write_layer(bytes([layer + 1]) * size * (stop - first))
                ticket = upload.finish()
            if commit:
                cache.commit([ticket])
            return ticket

    def store(
        self, namespace: Namespace, tokens: Sequence[int], cuts: Sequence[int] = (), part: PartId = FULL
    ) -> list[str]:
        """Names of the segments between `cuts` (default: one segment of all whole chunks)."""
        size = namespace.layout.group(part.group).chunk_tokens
        ends = cuts or (0, len(tokens) // size)
        return [self.upload(namespace, tokens, first, stop, part).header.name for first, stop in pairwise(ends)]

    def remove(self, *names: str) -> None:
        """As eviction does: a log record, and the object is gone."""
        with self.open() as cache:
            for name in names:
                cache.core.forget(name)

    def object_path(self, name: str) -> Path:
        *directories, last = name.split("/")
        return self.root.joinpath("objects", "objects", *("%2Ekv" if d == ".kv" else d for d in directories)) / (
            f"{last}.obj"
        )

    def why(self, namespace: Namespace | str, tokens: Sequence[int]) -> Explanation:
        """Asked with tokens; what it says of the match is what matching says."""
        given = namespace if isinstance(namespace, str) else namespace.to_json().decode()
        with open_explainer(self.root) as explainer:
            found = explainer.why(WhyRequest(namespace=given, tokens=tuple(tokens)))
        if isinstance(namespace, Namespace):
            with self.open() as cache:
                match = cache.match(namespace, chain_keys(namespace, tokens))
            assert found.matched_tokens == match.tokens
            assert f"matches {match.tokens:,} of {len(tokens):,} tokens" in found.sentence
        return found

    def why_key(self, key: bytes | str) -> Explanation:
        with open_explainer(self.root) as explainer:
            return explainer.why(WhyRequest(key=key if isinstance(key, str) else key.hex()))

"""Which stores and targets are combined, and how often each is measured."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from objectcache.bench.nixl_loop import FABRICS
from objectcache.bench.result import MIN_PAIRS
from objectcache.bench.shapes import LLAMA_31_8B, ModelShape
from objectcache.client import ClientOptions
from objectcache.errors import ConfigError
from objectcache.transports.nixl import is_installed

FILES = "files"
"""The gateway's own: a store without a URL."""
DIRECT = "direct"
"""Instead of a target: no gateway, the engine's process reads the store."""
NIXL = {f"nixl, {fabric.name}": fabric for fabric in FABRICS}
"""Targets, by what UCX travels over."""
TARGETS = ("shm", *NIXL, "tcp", "http", DIRECT)
_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*)=([a-z0-9]+://.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class NamedStore:
    """`url` is what `objectcache serve --store` takes, "" for the gateway's own files. `cached`: by way of a read cache
    on the gateway's disk, which holds all of it."""

    name: str
    url: str = ""
    cached: bool = False

    @classmethod
    def parse(cls, text: str) -> NamedStore:
        """From "files", a URL, or NAME=URL. Raises ConfigError."""
        if text == FILES:
            return cls(FILES)
        named = _NAMED.fullmatch(text)
        name, url = (named[1], named[2]) if named else ("", text)
        parts = urlsplit(url)
        if parts.scheme not in ("s3", "rados", "file"):
            raise ConfigError(
                f"--store takes files, a service to start, or [NAME=]URL with s3, rados or file: {text!r}"
            )
        return cls(name or parts.netloc or "mount", url)


def expanded(stores: Sequence[NamedStore]) -> tuple[NamedStore, ...]:
    """Stores that gateways keep a read cache for are measured without and with it."""
    found = []
    for store in stores:
        found.append(store)
        if store.url.startswith("s3://"):
            found.append(NamedStore(f"{store.name}, read cache", store.url, cached=True))
    return tuple(found)


def targets_here(names: Sequence[str]) -> tuple[str, ...]:
    """Those that `names` of the command line mean: "nixl" is one for each fabric. None: all that this machine has."""
    wanted = names or [name for name in TARGETS if name not in NIXL or is_installed()]
    found: list[str] = []
    for name in wanted:
        found += NIXL if name == "nixl" else [name]
    return tuple(found)


@dataclass(frozen=True)
class CombinedSettings:
    """`context` in tokens, of a shape with so many layers that it fits into memory once for each combination. `data`
    is where temporary directories are made (None: the system's). A quick run has fewer rounds than figures need, and
    says so. Raises ConfigError."""

    stores: tuple[NamedStore, ...]
    targets: tuple[str, ...]
    shape: ModelShape = LLAMA_31_8B
    context: int = 4096
    rounds: int = MIN_PAIRS
    streams: int = field(default_factory=lambda: ClientOptions().streams)
    segment_chunks: int = 256
    data: Path | None = None
    quick: bool = False
    seed: int = field(default=1, repr=False)

    def __post_init__(self) -> None:
        names = [store.name for store in self.stores]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"stores need names of their own (--store NAME=URL), got {', '.join(names) or 'none'}")
        unknown = [target for target in self.targets if target not in TARGETS]
        if unknown or not self.targets or len(set(self.targets)) < len(self.targets):
            raise ConfigError(f"name each target once, some of {', '.join(TARGETS)}; got {', '.join(self.targets)}")
        tokens = self.shape.chunk_tokens
        if self.context < tokens or self.context % tokens:
            raise ConfigError(f"the context must be a multiple of a chunk's {tokens} tokens, got {self.context}")
        if self.rounds < 1 or (self.rounds < MIN_PAIRS and not self.quick):
            raise ConfigError(f"at least {MIN_PAIRS} rounds are needed, got {self.rounds} (fewer only in a quick run)")
        if self.segment_chunks < 1:
            raise ConfigError(f"a segment has at least one chunk, got {self.segment_chunks}")

    def targets_of(self, store: NamedStore) -> tuple[str, ...]:
        """A gateway's read cache is nothing to who reads the store directly."""
        return tuple(target for target in self.targets if not (store.cached and target == DIRECT))

    @property
    def chunks(self) -> int:
        return self.context // self.shape.chunk_tokens

    def to_dict(self) -> dict[str, Any]:
        """What a reader needs to repeat it: no paths, no addresses."""
        kept = {name: value for name, value in asdict(self).items() if name not in ("data", "quick", "stores")}
        return {"stores": [store.name for store in self.stores]} | kept

"""What `bench stores` measures, on which stores, and how often."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from objectcache.bench.result import MIN_PAIRS
from objectcache.bench.shapes import LLAMA_31_8B, ModelShape
from objectcache.errors import ConfigError
from objectcache.stores import child_url
from objectcache.stores.s3.options import S3Options, parse_s3_url

_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*)=(s3://.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class BenchStore:
    """An S3 store, and what results call it. `rados` is the URL of a pool of the same cluster, to compare; or ""."""

    name: str
    options: S3Options
    rados: str = ""

    @classmethod
    def parse(cls, text: str) -> BenchStore:
        """From `s3://bucket/prefix?endpoint=…`, or `NAME=` and that; without a name it is the bucket's. ConfigError."""
        named = _NAMED.fullmatch(text)
        options = parse_s3_url(named[2] if named else text, os.environ)
        return cls(named[1] if named else options.bucket, options)

    def below(self, directory: str) -> BenchStore:
        """The part of it below `directory`."""
        prefix = "/".join(filter(None, (self.options.prefix, directory)))
        rados = child_url(self.rados, directory) if self.rados else ""
        return replace(self, options=replace(self.options, prefix=prefix), rados=rados)

    @property
    def can_be_delayed(self) -> bool:
        """Whether a proxy can stand before it: neither a certificate nor the bucket is in its host name."""
        return self.options.endpoint.startswith("http://") and not self.options.virtual


@dataclass(frozen=True)
class StoresSettings:
    """`context` in tokens. `data` is where the gateways' temporary directory is made (None: the system's).

    `parallel` GETs are in flight in the baselines; `ceiling_parallel` of `ceiling_bytes` for what the service can do.
    `delay_s` is the latency that requests to the store are given in the delayed part. `only_rados` leaves out all but
    RADOS beside the S3 gateway of its cluster: contexts can then be longer, without a GET for each of their slices. A
    quick run has fewer pairs than a ratio needs and says so. Raises ConfigError.
    """

    stores: tuple[BenchStore, ...]
    context: int = 4096
    pairs: int = MIN_PAIRS
    delay_s: float = 0.030
    segment_chunks: int = 256
    only_rados: bool = False
    data: Path | None = None
    quick: bool = False
    shape: ModelShape = LLAMA_31_8B
    parallel: int = 32
    ceiling_parallel: int = 8
    ceiling_bytes: int = 4 << 20
    seed: int = field(default=1, repr=False)

    def __post_init__(self) -> None:
        names = [store.name for store in self.stores]
        if not names:
            raise ConfigError("no store to measure: give --url s3://bucket/prefix?endpoint=…, or --start rgw,seaweedfs")
        if len(set(names)) < len(names):
            raise ConfigError(f"stores need names of their own (--url NAME=URL), got {', '.join(names)}")
        tokens = self.shape.chunk_tokens
        if self.context < tokens or self.context % tokens:
            raise ConfigError(f"the context must be a multiple of a chunk's {tokens} tokens, got {self.context}")
        if self.pairs < 1 or (self.pairs < MIN_PAIRS and not self.quick):
            raise ConfigError(f"a ratio needs at least {MIN_PAIRS} pairs, got {self.pairs} (fewer only in a quick run)")
        if self.only_rados and not all(store.rados for store in self.stores):
            raise ConfigError(
                "RADOS is compared where a pool of the store's cluster is given, and python3-rados is there"
            )
        if self.segment_chunks < 1:
            raise ConfigError(f"a segment has at least one chunk, got {self.segment_chunks}")

    @property
    def chunks(self) -> int:
        return self.context // self.shape.chunk_tokens

    def to_dict(self) -> dict[str, Any]:
        """What a reader needs to repeat it: no paths, no addresses."""
        left_out = ("data", "quick", "stores")
        kept = {name: value for name, value in asdict(self).items() if name not in left_out}
        return {"stores": [store.name for store in self.stores]} | kept

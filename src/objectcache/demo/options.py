"""What the demonstration is asked to do, and what it found."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """Defaults take about two minutes on two cores."""

    url: str = ""
    """A cache that is there already (any URL of `objectcache.open`), used as it is: nothing is started or stopped."""
    direct: bool = False
    """No gateway: the store, opened by the engine processes themselves."""
    store: str = ""
    """Where objects are: `s3://bucket/prefix?endpoint=…`, `rados://pool/prefix`; default: files in `data`."""
    target: str = "http"
    """How layers come from the gateway: "http", in the response, "tcp", over data connections, or "shm": one of its
    workers copies them into the engine's memory."""
    data: Path | None = None
    """Directory of the store; default: a temporary one, removed at the end."""
    out: Path = Path("demo-out")
    """Where the picture goes, unless `png_file` says."""
    png_file: Path | None = None
    json_file: Path | None = None
    """Where the figures go, if anywhere."""
    layers: int | None = None
    """Layers of the model; default 12."""
    short: bool = False
    """For CI: a small model, few repetitions; about half a minute."""


@dataclass(frozen=True, slots=True)
class ModelSize:
    """A Llama architecture: grouped-query attention, RoPE, float32."""

    layers: int = 12
    hidden: int = 512
    heads: int = 8
    kv_heads: int = 4
    head_dim: int = 128
    intermediate: int = 1408
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """What an engine process is told. `rounds` are repetitions with the cache."""

    role: str
    url: str
    target: str
    size: ModelSize
    rounds: int

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        fields = json.loads(text)
        return cls(**{**fields, "size": ModelSize(**fields["size"])})


@dataclass(frozen=True, slots=True)
class DemoResult:
    """`figures` is what goes to the JSON file; `broken` says, with figures, which promises did not hold."""

    figures: dict[str, Any]
    broken: tuple[str, ...]
    files: tuple[Path, ...] = field(default=())

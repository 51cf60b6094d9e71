"""A cache in a directory, and connectors over it that are closed again."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import objectcache
from objectcache.cache import KVCache, RetrieveOptions
from objectcache.storing import ALL, StoreOptions

if TYPE_CHECKING:
    from tests.connectors.tiny import Connect

if find_spec("torch") is None or find_spec("transformers") is None:
    collect_ignore_glob = ["test_transformers*.py"]


@pytest.fixture(scope="module")
def model() -> Any:
    from tests.connectors.tiny import tiny_llama

    return tiny_llama()


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[KVCache]:
    with objectcache.open(f"file://{tmp_path}/kv") as opened:
        yield opened


@pytest.fixture
def connect(cache: KVCache) -> Iterator[Connect]:
    from objectcache.connectors.transformers import TransformersConnector

    made: list[TransformersConnector] = []

    def make(
        model: Any,
        over: KVCache | None = None,
        *,
        segment_chunks: int = 256,
        staging_bytes: int = 1 << 30,
        **more: Any,
    ) -> TransformersConnector:
        # By threads: a process for each connector of each test would take longer than all else.
        storing = StoreOptions(ALL, staging_bytes=staging_bytes, writer="threads", segment_chunks=segment_chunks)
        more.setdefault("storing", storing)
        more.setdefault("load_or_recompute", False)  # models this small are computed as fast as loaded
        more.setdefault("options", RetrieveOptions(layers_per_unit=1))
        more.setdefault("deadline_s", 30.0)  # on a busy machine, too
        made.append(TransformersConnector(over or cache, model, **more))
        return made[-1]

    yield make
    for connector in made:
        connector.close()

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from objectcache.tier import cutting, holding
from tests.tier.world import EXTENT, STEP


@pytest.fixture
def short_extents(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is a few chunks."""
    monkeypatch.setattr(cutting, "MIN_STEP_CHUNKS", STEP)
    monkeypatch.setattr(cutting, "STEP_BYTES", EXTENT)


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture
def short_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer of a file is read by several tasks."""
    monkeypatch.setattr(holding, "_READ_PIECES", 1)
    monkeypatch.setattr(holding, "piece_chunks", lambda slice_bytes: 3)

"""How many data workers there are, and how many of them send to one client, where nobody says so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from objectcache.config import GatewayConfig


@pytest.mark.parametrize(
    ("cores", "workers", "per_session"),
    [(None, 1, 1), (1, 1, 1), (2, 1, 1), (8, 2, 1), (15, 3, 1), (16, 4, 3), (22, 5, 4), (32, 8, 4), (128, 32, 4)],
)
def test_cores_decide(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cores: int | None, workers: int, per_session: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    config = GatewayConfig(tmp_path)
    assert (config.workers, config.workers_per_session) == (workers, per_session)

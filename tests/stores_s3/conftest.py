"""Real services for all tests here."""

from __future__ import annotations

import pytest

from tests.services import rgw, s3_environment, seaweedfs, service

__all__ = ["rgw", "seaweedfs", "service"]


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    s3_environment(monkeypatch)

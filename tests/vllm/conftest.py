"""vLLM, gateways and stores for all tests here; without vLLM there is nothing to test (`make test-vllm` has it)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.gateway.fixtures import gateway, own_gateway
from tests.services import s3_environment, seaweedfs
from tests.vllm.pool import Engines, Taken
from tests.vllm.prompts import References
from tests.vllm.support import MODELS

__all__ = ["gateway", "own_gateway", "seaweedfs"]

os.environ.setdefault("UCX_NET_DEVICES", "lo")  # what NIXL listens on is for this host

if find_spec("vllm") is None:
    collect_ignore_glob = ["test_*", "*/test_*"]

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One model after another: engines are started anew for each."""
    items.sort(key=_model)


def _model(item: pytest.Item) -> int:
    if not isinstance(item, pytest.Function) or HERE not in item.path.parents:
        return -1
    model = item.callspec.params.get("model", MODELS[0]) if hasattr(item, "callspec") else MODELS[0]
    return MODELS.index(model) if model in MODELS else -1


@pytest.fixture(scope="session")
def _pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    pool = Engines(tmp_path_factory.mktemp("vllm"))
    yield pool
    pool.close()


@pytest.fixture
def engine(_pool: Engines) -> Iterator[Taken]:
    """`engine(model, {"url": …}, **settings)`: vLLM with the connector; without one, where it says None."""
    with _pool.taken() as taken:
        yield taken


@pytest.fixture(scope="session")
def references(_pool: Engines) -> References:
    """`references(model, prompts)`: what vLLM says without the connector."""
    return References(_pool)


@pytest.fixture
def s3_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    s3_environment(monkeypatch)

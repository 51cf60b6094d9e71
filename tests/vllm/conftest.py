"""vLLM, gateways and stores for all tests here; without vLLM there is nothing to test (`make test-vllm` has it)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec

import pytest

from tests.gateway.fixtures import gateway, own_gateway
from tests.services import s3_environment, seaweedfs
from tests.vllm.engines import Engines, Output, Taken
from tests.vllm.prompts import References

__all__ = ["gateway", "own_gateway", "seaweedfs"]

if find_spec("vllm") is None:
    collect_ignore_glob = ["test_*", "*/test_*"]

Reference = Callable[..., list[Output]]


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

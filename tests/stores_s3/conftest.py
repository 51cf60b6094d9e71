"""Real services for all tests here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from objectcache.stores.s3 import S3Store, S3Timing, parse_s3_url
from tests.fault_proxy import FaultProxy
from tests.services import S3Service, rgw, s3_environment, seaweedfs, service

__all__ = ["rgw", "seaweedfs", "service"]

PART_BYTES = 5 << 20
"""The least that S3 takes."""
HASTY = S3Timing(connect_timeout_s=0.5, request_timeout_s=1, max_retries=1, retry_timeout_s=1, max_backoff_s=0.1)

OpenStore = Callable[..., S3Store]


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    s3_environment(monkeypatch)


@pytest.fixture
def open_s3() -> Iterator[OpenStore]:
    """`open_s3(bucket, endpoint, …)`: a store under the prefix "kv", with small parts."""
    stores = []

    def make(bucket: str, endpoint: str, **options: Any) -> S3Store:
        where = parse_s3_url(f"s3://{bucket}/kv?endpoint={endpoint}", os.environ)
        stores.append(S3Store(where, **{"part_bytes": PART_BYTES, **options}))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def bucket(service: S3Service) -> str:
    return service.make_bucket()


@pytest.fixture
def store(service: S3Service, bucket: str, open_s3: OpenStore) -> S3Store:
    return open_s3(bucket, service.endpoint)


@pytest.fixture
def proxy(service: S3Service) -> Iterator[FaultProxy]:
    with FaultProxy(service.port) as proxy:
        yield proxy

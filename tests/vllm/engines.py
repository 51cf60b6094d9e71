"""vLLM engines in processes of their own, as tests ask them; each process is used for many tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "INFO",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    # Otherwise vLLM takes other numbers of threads with a connector than without, and the same core for all engines.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
}
MAX_TOKENS = 8
LOG_END = 6000


class EngineError(AssertionError):
    """What an engine raised; `kind` is its class."""

    def __init__(self, message: str, log: str) -> None:
        super().__init__(f"{message}\n{log}")
        self.kind = message.partition(":")[0]
        self.message = message


@dataclass(frozen=True)
class Output:
    """Of one request. `cached` tokens of its prompt were not computed; `times_s` is when each token came."""

    tokens: list[int]
    logprobs: list[float]
    cached: int
    times_s: list[float]


@dataclass(frozen=True)
class Run:
    """Of all requests at once; None for those that were aborted. `counted` grew meanwhile, `waits` are by layer, in
    seconds, as they came."""

    outputs: list[Output | None]
    counted: Mapping[str, float]
    waits: list[tuple[str, float]]
    seconds: float

    @property
    def loaded(self) -> int:
        """Tokens that the connector brought, as vLLM counts them."""
        return int(self.counted["external_hits"])

    @property
    def kept(self) -> int:
        """Tokens that vLLM's own prefix cache had."""
        return int(self.counted["local_hits"])

    def of(self, counter: str) -> float:
        """The connector's counter, over all reasons."""
        return sum(count for name, count in self.counted.items() if name.partition(".")[0] == counter)


@dataclass(frozen=True)
class Settings:
    """What an engine is started with; see `engine.EngineHost.start`."""

    model: str
    connector: str
    engine: str
    environment: str

    @classmethod
    def of(
        cls,
        model: str,
        connector: Mapping[str, Any] | None,
        engine: Mapping[str, Any],
        environment: Mapping[str, str | None] | None,
    ) -> Settings:
        connector_text, engine_text = (json.dumps(what, sort_keys=True) for what in (connector, dict(engine)))
        return cls(model, connector_text, engine_text, environment_text(environment))


def environment_text(environment: Mapping[str, str | None] | None) -> str:
    """What differs from the others'; None: not set."""
    return json.dumps(dict(environment or {}), sort_keys=True)


class Engine:
    """One process; `start` may follow `stop`."""

    def __init__(self, models: Path, log: Path, environment: Mapping[str, str | None]) -> None:
        self.settings: Settings | None = None
        self.environment = environment_text(environment)
        self._models = models
        self._log = log
        self._asked = False
        whole = {**os.environ, **ENVIRONMENT, **environment}
        with log.open("ab") as written:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.vllm.engine"],
                cwd=ROOT,
                env={name: value for name, value in whole.items() if value is not None},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=written,
                text=True,
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def start(self, settings: Settings) -> None:
        connector, engine = json.loads(settings.connector), json.loads(settings.engine)
        self.ask("start", model=settings.model, folder=str(self._models), connector=connector, settings=engine)
        self.settings = settings

    def made(self, model: str, connector: Mapping[str, Any], *, version: str = "", **settings: Any) -> None:
        """The connector alone. Raises EngineError."""
        self.ask(
            "made",
            model=model,
            folder=str(self._models),
            connector=dict(connector),
            settings=settings,
            version=version,
        )

    def begin(self, what: str, **more: Any) -> None:
        """Ask, and go on: `end` has the answer."""
        assert self._process.stdin is not None
        assert not self._asked
        self._process.stdin.write(json.dumps({"do": what, **more}) + "\n")
        self._process.stdin.flush()
        self._asked = True

    def end(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self._asked = False
        if not line:
            raise EngineError(f"the engine's process ended with {self._process.wait()}", self.log[-LOG_END:])
        answer = json.loads(line)
        if "error" in answer:
            raise EngineError(answer["error"], answer["traceback"] + self.log[-LOG_END:])
        return answer["result"]

    def ask(self, what: str, **more: Any) -> Any:
        self.begin(what, **more)
        return self.end()

    def begin_run(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int = MAX_TOKENS,
        abort: Sequence[int] = (),
        abort_after_s: float = 0.0,
        arrive_s: Sequence[float] = (),
        salt: str | None = None,
        transfer_params: Mapping[str, Any] | None = None,
    ) -> None:
        self.begin(
            "run",
            prompts=[list(prompt) for prompt in prompts],
            max_tokens=max_tokens,
            abort=list(abort),
            abort_after_s=abort_after_s,
            arrive_s=list(arrive_s),
            salt=salt,
            transfer_params=transfer_params,
        )

    def end_run(self) -> Run:
        answer = self.end()
        return Run(
            [Output(**told) if told else None for told in answer["outputs"]],
            answer["counted"],
            [(layer, wait_s) for layer, wait_s in answer["waits"]],
            answer["seconds"],
        )

    def run(self, prompts: Sequence[Sequence[int]], **more: Any) -> Run:
        self.begin_run(prompts, **more)
        return self.end_run()

    def settle(self) -> None:
        self.ask("settle")

    def reset(self) -> None:
        assert self.ask("reset")

    def stop(self) -> None:
        self.ask("stop")
        self.settings = None

    def close(self) -> None:
        """However it is."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    @property
    def usable(self) -> bool:
        return self._process.poll() is None and not self._asked

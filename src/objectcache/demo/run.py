"""The demonstration from its beginning to its end."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from objectcache.demo.checks import broken_promises
from objectcache.demo.gateway import BUCKET, GatewayProcess
from objectcache.demo.options import DemoOptions, DemoResult, Job, ModelSize
from objectcache.errors import ConfigError, ObjectCacheError
from objectcache.stores import child_url

Runner = Callable[[Job, Callable[[str], None]], dict[str, Any]]
T = TypeVar("T")
_SHORT = ModelSize(layers=4, hidden=128, intermediate=256)


def run_demo(options: DemoOptions, console: Console | None = None, runner: Runner | None = None) -> DemoResult:
    """Store with one process, restart the gateway, ask with another; print what happened, and write the files.

    `runner` does an engine's job: by default in a new process each. Raises ConfigError when packages are missing, and
    ObjectCacheError when a step fails.
    """
    missing = [name for name in ("torch", "transformers", "matplotlib") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"the demo needs {', '.join(missing)}: pip install 'objectcache[demo]'")
    console = console or Console()
    start_s = time.perf_counter()
    with _place(options) as data, _storage(options, data) as storage:
        run = runner or partial(in_new_process, environment=storage.environment)
        steps = _Steps(console)
        prefill_job = _job("prefill", storage.url, options)
        prefill = steps.do("A process answers question A", lambda say: run(prefill_job, say))
        steps.note(
            f"stored {prefill['stored_tokens']:,} of {prefill['tokens']:,} tokens "
            f"({prefill['stored_bytes'] / 1e6:,.1f} MB), {prefill['matched_tokens']:,} were there; "
            f"prefill {prefill['prefill_ms'] / 1e3:.1f} s, "
            f"all visible {prefill['stored_after_ms'] - prefill['prefill_ms']:.0f} ms after it"
        )
        if isinstance(storage, GatewayProcess):
            stopped_s = steps.do("The gateway is told to stop", lambda _say: storage.stop())
            started_s = steps.do("and is started again", lambda _say: storage.start())
            steps.note(f"SIGTERM, ended after {stopped_s:.1f} s; ready after {started_s:.1f} s, at {storage.url}")
        ask_job = _job("ask", storage.url, options)
        figures = steps.do("A new process answers question B, several times", lambda say: run(ask_job, say))
    figures |= {
        "prefill": prefill,
        "target": options.target if ask_job.url.startswith("http") else "direct",
        "url": ask_job.url,
        "gateway_restarted": isinstance(storage, GatewayProcess),
        "machine": _machine(),
        "took_s": time.perf_counter() - start_s,
    }
    return _finish(options, console, figures)


def _finish(options: DemoOptions, console: Console, figures: dict[str, Any]) -> DemoResult:
    from objectcache.demo.picture import draw
    from objectcache.demo.report import show

    show(console, figures)
    broken = broken_promises(figures)
    png = options.png_file or options.out / "timeline.png"
    png.parent.mkdir(parents=True, exist_ok=True)
    draw(figures, png)
    files = [png]
    if options.json_file is not None:
        options.json_file.parent.mkdir(parents=True, exist_ok=True)
        options.json_file.write_text(json.dumps(figures | {"broken": broken}, indent=1) + "\n")
        files.append(options.json_file)
    console.print(f"Wrote {' and '.join(str(path) for path in files)}; took {figures['took_s']:.0f} s.")
    for text in broken:
        console.print(f"[red]Not as promised:[/] {text}")
    return DemoResult(figures, broken, tuple(files))


def _job(role: str, url: str, options: DemoOptions) -> Job:
    size = _SHORT if options.short else ModelSize()
    if options.layers is not None:
        size = replace(size, layers=options.layers)
    return Job(role, url, options.target, size, rounds=4 if options.short else 7)


def in_new_process(
    job: Job, say: Callable[[str], None], environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Do `job` in a fresh interpreter, whose environment has these variables besides.

    Raises ObjectCacheError with what it printed when it fails.
    """
    command = [sys.executable, "-m", "objectcache.demo.engine", job.to_json()]
    result: dict[str, Any] | None = None
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **(environment or {})},
        ) as process:
            try:
                for line in process.stdout or ():
                    message = json.loads(line)
                    if "say" in message:
                        say(message["say"])
                    result = message.get("result", result)
                process.wait()
            finally:
                process.kill()
        if process.returncode or result is None:
            errors.seek(0)
            raise ObjectCacheError(f"the {job.role} process failed:\n{errors.read()[-3000:].strip()}")
    return result


@contextmanager
def _place(options: DemoOptions) -> Iterator[Path]:
    if options.data is not None:
        options.data.mkdir(parents=True, exist_ok=True)
        yield options.data.absolute()
    else:
        with tempfile.TemporaryDirectory(prefix="objectcache-demo-") as made:
            yield Path(made)


@dataclass(frozen=True, slots=True)
class _Given:
    """A cache that the demo neither starts nor stops."""

    url: str
    environment: dict[str, str] = field(default_factory=dict)


@contextmanager
def _storage(options: DemoOptions, data: Path) -> Iterator[_Given | GatewayProcess]:
    if options.url or options.direct:
        own = child_url(options.store, BUCKET) if options.store else f"file://{data / 'store'}"
        # Catalogs of buckets are the demo's own, too, and go with it.
        yield _Given(options.url or own, {"XDG_CACHE_HOME": str(data / "state")})
        return
    with GatewayProcess(data, options.store) as gateway:
        gateway.start()
        yield gateway


class _Steps:
    """A line per step, with a spinner and what it is at while it runs."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def do(self, title: str, step: Callable[[Callable[[str], None]], T]) -> T:
        start_s = time.perf_counter()
        with self._console.status(title) as status:
            result = step(lambda text: status.update(f"{title}: [dim]{text}[/]"))
        self._console.print(f"[bold]{title}[/] [dim]({time.perf_counter() - start_s:.1f} s)[/]")
        return result

    def note(self, text: str) -> None:
        self._console.print(f"  {text}")


def _machine() -> dict[str, Any]:
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    return {"cpu": cpu, "cores": os.cpu_count(), "system": f"{platform.system()} {platform.release()}"}

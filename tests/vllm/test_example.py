"""examples/vllm/README.md, followed line by line."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from objectcache.bench.guarding import free_ports
from objectcache.connectors.vllm.naming.versions import NEWEST, text_of

vllm = pytest.importorskip("vllm")
if tuple(map(int, vllm.__version__.split(".")[:2])) != NEWEST:
    pytest.skip(f"the README is about vLLM {text_of(NEWEST)}", allow_module_level=True)

EXAMPLE = Path(__file__).parents[2] / "examples" / "vllm"
PORTS = (9000, 8000, 8001)
TIMEOUT_S = 600
BEGIN = "=== block "


def blocks() -> list[str]:
    """What a reader is told to run, in order."""
    return re.findall(r"<!-- run -->\n```bash\n(.*?)```", (EXAMPLE / "README.md").read_text(), re.DOTALL)


def commands(folder: Path) -> str:
    """`python` and `objectcache` of this environment, for those who run it by name; the PATH that has them."""
    for name, what in (("python", ""), ("objectcache", " -m objectcache")):
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{what} "$@"\n')
        script.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def follow(folder: Path) -> list[str]:
    """What each block prints, in a copy of the example."""
    shutil.copytree(EXAMPLE, folder / "vllm", ignore=shutil.ignore_patterns("model", "kv", "*.log"))
    (folder / "bin").mkdir()
    script = "trap 'echo \"FAILED: $BASH_COMMAND\"' ERR\n"
    for number, block in enumerate(blocks()):
        script += f"echo; echo '{BEGIN}{number}'\n{block}"  # some end without a newline
    for port, free in zip(PORTS, _free(len(PORTS)), strict=True):
        assert str(port) in script
        script = script.replace(str(port), str(free))
    environment = {
        **os.environ,
        "PATH": commands(folder / "bin"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    output = folder / "vllm" / "shell.log"
    with (
        output.open("w") as out,
        subprocess.Popen(
            ["bash", "-c", script],
            cwd=folder / "vllm",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as shell,
    ):
        try:
            shell.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"not within {TIMEOUT_S} s:\n{_logs(folder)}")
        finally:
            _end(shell.pid)
    told = re.split(rf"^{BEGIN}\d+\n", output.read_text(), flags=re.MULTILINE)[1:]
    assert len(told) == len(blocks()), _logs(folder)
    return told


def _free(count: int) -> list[int]:
    first = free_ports(count)
    return list(range(first, first + count))


def _end(session: int) -> None:
    """Whatever the shell has left running."""
    with suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)


def _logs(folder: Path) -> str:
    return "".join(f"--- {log.name}\n{log.read_text()[-9000:]}" for log in sorted((folder / "vllm").glob("*.log")))


def tokens(told: str) -> tuple[int, int, int]:
    """Of the prompt, from vLLM's own cache, from the store."""
    found = re.search(r"prompt: (\d+) tokens, (\d+) from vLLM's own cache, (\d+) from the store", told)
    assert found is not None, told
    whole, own, store = map(int, found.groups())
    return whole, own, store


def answer(told: str) -> str:
    return told.partition("answer: ")[2].splitlines()[0]


@pytest.mark.timeout(TIMEOUT_S + 30)
def test_a_newcomer_sees_a_hit(tmp_path: Path) -> None:
    told = follow(tmp_path)
    everything = _logs(tmp_path)
    failed = [line for line in everything.splitlines() if line.startswith("FAILED:")]
    assert {line.split()[1] for line in failed} <= {"wait"}, everything  # for those that were killed
    cold, hit, metrics, curl, doctor, again = told[3:]
    assert tokens(cold)[1:] == (0, 0), everything
    assert float(cold.partition("stored: ")[2].split()[0]) > 0, everything
    assert tokens(hit)[1:] == (0, 2048), everything
    assert answer(hit) == answer(cold)
    assert re.search(r"^vllm:external_prefix_cache_hits_total\{.*\} 2048\.0$", metrics, re.MULTILINE), metrics
    assert re.search(r"^vllm:objectcache_loaded_tokens_total\{.*\} 2048\.0$", metrics, re.MULTILINE), metrics
    assert "tokens" in metrics  # what `ls` says of the namespace
    assert '"text"' in curl
    assert re.search(r"^ok +look-ups: \d+ look-ups, 1 hits", doctor, re.MULTILINE), doctor
    assert tokens(again)[1:] == (0, 2048), everything

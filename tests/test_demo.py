"""The demonstration: its figures, its promises, and its processes."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from objectcache.demo import DemoOptions, run_demo
from objectcache.demo import run as run_module
from objectcache.demo.checks import broken_promises
from objectcache.demo.options import Job, ModelSize
from objectcache.demo.prompts import VOCABULARY, prompt, shared_tokens, tokens
from objectcache.errors import ConfigError, ObjectCacheError
from objectcache.transports.nixl import is_installed

needs_packages = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("torch", "transformers", "matplotlib")), reason="needs objectcache[demo]"
)
needs_nixl = pytest.mark.skipif(not is_installed(), reason="NIXL is not installed: pip install 'objectcache[nixl]'")

# The whole document through a model that is smaller than the short demo's, which .ci/run has.
SIZE = ModelSize(hidden=32, heads=2, kv_heads=1, head_dim=64, intermediate=64)

KEPT: dict[str, Any] = {
    "tokens": 1000,
    "expected_tokens": 960,
    "matched_tokens": 960,
    "computed_tokens": 40,
    "prefill": {"stored_tokens": 976, "matched_tokens": 0},
    "in_order": True,
    "first_layer_share": 1.1,
    "first_layer_excess_ms": -3.0,
    "logits_equal": True,
    "max_abs_diff": 1e-6,
    "max_abs_diff_bound": 1e-4,
    "next_token_equal": True,
    "ttft_ms": {"recompute": 900.0, "chunkwise": 60.0, "layerwise": 40.0, "memory": 30.0},
}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, None),
        ({"prefill": {"stored_tokens": 16, "matched_tokens": 0}}, "stored 16 tokens of at least 960"),
        ({"prefill": {"stored_tokens": 16, "matched_tokens": 960}}, None),
        ({"matched_tokens": 944}, "944 tokens matched, 960"),
        ({"computed_tokens": 1000}, "1,000 tokens were computed, the unmatched tail is 40"),
        ({"in_order": False}, "delivery order"),
        ({"first_layer_share": 1.9, "first_layer_excess_ms": 10.1}, "10.1 ms after 1.3 × its share"),
        ({"logits_equal": False}, "in memory"),
        ({"max_abs_diff": 1e-3}, "1.0e-03, the bound is 1.0e-04"),
        ({"next_token_equal": False}, "first token"),
        ({"ttft_ms": {"recompute": 900.0, "chunkwise": 60.0, "layerwise": 901.0}}, "901 ms layerwise"),
    ],
)
def test_broken_promises_are_told_with_figures(changed: dict[str, Any], says: str | None) -> None:
    broken = broken_promises(KEPT | changed)
    assert len(broken) == (0 if says is None else 1)
    assert says is None or says in broken[0]


def test_prompts_share_a_document_of_more_than_4096_tokens() -> None:
    assert tokens("aé") == [1, 97 + 3, 0xC3 + 3, 0xA9 + 3]
    assert max(prompt("A")) < VOCABULARY
    assert shared_tokens() > 4096
    assert prompt("A")[: shared_tokens()] == prompt("B")[: shared_tokens()]
    assert prompt("A")[shared_tokens()] != prompt("B")[shared_tokens()]


def test_a_job_survives_the_command_line() -> None:
    job = Job("ask", "file:///tmp/x y", "tcp", ModelSize(layers=3), rounds=2)
    assert Job.from_json(job.to_json()) == job


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "find_spec", lambda name: None if name == "transformers" else object())
    with pytest.raises(ConfigError, match=r"transformers: pip install 'objectcache\[demo\]'"):
        run_demo(DemoOptions())


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "_SHORT", SIZE)


@needs_packages
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("small")
def test_the_short_demo_in_this_process(tmp_path: Path) -> None:
    import torch

    from objectcache.demo.engine import run_job

    torch.set_num_threads(1)
    text = io.StringIO()
    options = DemoOptions(
        direct=True,
        short=True,
        layers=2,
        data=tmp_path / "data",
        out=tmp_path / "out",
        json_file=tmp_path / "demo.json",
    )
    result = run_demo(options, Console(file=text, width=100), run_job)
    figures = json.loads((tmp_path / "demo.json").read_text())
    assert figures == json.loads(json.dumps(result.figures | {"broken": result.broken}))
    assert figures["matched_tokens"] == figures["expected_tokens"] == shared_tokens() // 16 * 16
    assert figures["computed_tokens"] == figures["tokens"] - figures["matched_tokens"]
    # layers × K and V × head_dim × bytes of a float32
    assert figures["matched_bytes"] == figures["matched_tokens"] * 2 * 2 * 64 * 4
    assert figures["logits_equal"]
    assert figures["next_token_equal"]
    assert figures["max_abs_diff"] <= figures["max_abs_diff_bound"]
    assert figures["target"] == "direct"
    assert {"recompute", "chunkwise", "layerwise", "memory"} == figures["ttft_ms"].keys()
    assert [row["layer"] for row in figures["layers"]] == [0, 1]
    for row in figures["layers"]:
        assert 0 < row["arrival_ms"] <= row["asked_ms"] + row["waited_ms"] <= row["compute_end_ms"]
    assert (tmp_path / "out" / "timeline.png").read_bytes().startswith(b"\x89PNG")
    printed = text.getvalue()
    assert "layerwise" in printed
    assert "bit for bit those with the same prefix kept in memory" in printed
    job = Job("prefill", figures["url"], "", replace(SIZE, layers=2), rounds=1)
    again = run_job(job, lambda text: None)
    assert (again["matched_tokens"], again["stored_tokens"]) == (again["tokens"] // 16 * 16, 0)


@needs_packages
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("target", ["tcp", pytest.param("nixl", marks=needs_nixl)])
def test_two_processes_and_a_gateway_between_them(tmp_path: Path, target: str) -> None:
    options = DemoOptions(short=True, layers=1, target=target, out=tmp_path)
    figures = run_demo(options, Console(file=io.StringIO())).figures
    assert figures["target"] == target
    assert figures["gateway_restarted"]
    assert figures["pid"] != figures["prefill"]["pid"]
    assert figures["matched_tokens"] == figures["expected_tokens"]
    assert figures["logits_equal"]


FAILING = Job("ask", "http://127.0.0.1:1/demo", "http", replace(SIZE, layers=1), rounds=1)


@needs_packages
def test_an_engine_that_fails_says_why(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from objectcache.demo import engine

    monkeypatch.setattr(sys, "argv", ["engine", FAILING.to_json()])
    assert engine.main() == 1
    assert capsys.readouterr().err.startswith("GatewayUnavailableError: ")


@pytest.mark.parametrize("status", [0, 1])
def test_what_a_failed_process_said_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    """Also of one that ends well, and without a result."""
    engine = tmp_path / "python"
    engine.write_text(f"#!/bin/sh\necho 'no such \"thing\"' >&2\nexit {status}\n")
    engine.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(engine))
    with pytest.raises(ObjectCacheError, match='the ask process failed:\nno such "thing"'):
        run_module.in_new_process(FAILING, lambda text: None)

"""The demonstration on a pool: straight from its engine processes and through a gateway, by NIXL too."""

from __future__ import annotations

import io
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import pytest
from rich.console import Console

from objectcache.demo import DemoOptions, run_demo
from objectcache.demo import run as run_module
from objectcache.demo.options import ModelSize
from objectcache.demo.prompts import shared_tokens
from objectcache.transports.nixl import is_installed
from tests.services import Cluster

_numbers = count()

needs_nixl = pytest.mark.skipif(not is_installed(), reason="NIXL is not installed: pip install 'objectcache[nixl]'")


@pytest.mark.skipif(
    any(find_spec(name) is None for name in ("torch", "transformers", "matplotlib")), reason="needs objectcache[demo]"
)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("target", ["direct", "tcp", "shm", pytest.param("nixl", marks=needs_nixl)])
def test_logits_are_those_with_the_prefix_in_memory(
    cluster: Cluster, pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.setattr(run_module, "_SHORT", ModelSize(hidden=32, heads=2, kv_heads=1, head_dim=64, intermediate=64))
    options = DemoOptions(
        store=cluster.url(pool, f"demo/{next(_numbers)}"),
        direct=target == "direct",
        target="http" if target == "direct" else target,
        short=True,
        layers=2,
        data=tmp_path / "data",
        out=tmp_path / "out",
    )
    figures = run_demo(options, Console(file=io.StringIO())).figures
    assert figures["target"] == target
    assert figures["gateway_restarted"] is (target != "direct")
    assert figures["prefill"]["stored_tokens"] >= figures["expected_tokens"] == shared_tokens() // 16 * 16
    assert figures["matched_tokens"] == figures["expected_tokens"]
    assert figures["logits_equal"]
    assert figures["next_token_equal"]
    assert figures["max_abs_diff"] <= figures["max_abs_diff_bound"]

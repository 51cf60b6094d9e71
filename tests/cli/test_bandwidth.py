"""`objectcache bandwidth`, as it is typed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from objectcache.cli.main import app
from objectcache.errors import ConfigError, RequestError
from tests.gateway.arrivals import make


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    data: Path = tmp_path_factory.mktemp("gateway")
    gateway = make(data)
    yield f"http://127.0.0.1:{gateway.port}"
    assert gateway.stop() == 0


def run(*words: str) -> str:
    result = CliRunner().invoke(app, ["bandwidth", *words])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_caps_are_set_shown_and_taken_away(url: str) -> None:
    assert "no link has a cap" in run(url)
    run(url, "--link", "client:10.*", "--set", "25Gbps")
    shown = run(url, "--set", "8Gbps", "--policy", "slack", "--weight", "alice=2")
    for text in ("policy slack", "gateway", "(8 Gbps)", "client:10.*", "(25 Gbps)", "alice: weight 2"):
        assert text in shown
    assert json.loads(run(url, "--set", "none", "--json"))["caps"] == {"client:10.*": 25e9 / 8}


@pytest.mark.parametrize(
    "words", [["--set", "fast"], ["--weight", "alice"], ["--policy", "luck"], ["--link", "moon", "--set", "1GB/s"]]
)
def test_what_is_wrong_is_said(url: str, words: list[str]) -> None:
    with pytest.raises((ConfigError, RequestError)):
        run(url, *words)


def test_a_gateway_is_needed() -> None:
    with pytest.raises(ConfigError, match="which gateway"):
        run("/var/lib/objectcache")

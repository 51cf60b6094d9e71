"""What is checked of every benchmark's result."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from objectcache.bench.bars import Bar, judge
from objectcache.bench.report import show, show_verdicts
from objectcache.bench.result import BenchmarkResult
from objectcache.cli.bench import app, options
from objectcache.errors import ConfigError


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def written(result: BenchmarkResult, tmp_path: Path) -> dict[str, Any]:
    """Its JSON: rows are told apart and summed up rightly, and nothing says where it was measured."""
    result.write(tmp_path / "result.json")
    text = (tmp_path / "result.json").read_text()
    assert "127.0.0.1" not in text
    assert str(tmp_path.parent) not in text
    data: dict[str, Any] = json.loads(text)
    names = [row["name"] for row in data["rows"]]
    assert len(set(names)) == len(names)
    assert all(row["min"] <= row["median"] <= row["max"] for row in data["rows"] if "not_run" not in row)
    return data


def check_turns(result: BenchmarkResult, rows: Sequence[str], pairs: int) -> None:
    """Each pair of measurements was taken of all of them, one after the other."""
    at_s = [result.row(name)["at_s"] for name in rows]
    in_turn = [times[pair] for pair in range(pairs) for times in at_s]
    assert in_turn == sorted(in_turn)
    assert in_turn[0] == 0.0


def shown(result: BenchmarkResult, bars: Sequence[Bar]) -> str:
    """What is printed of it, which has all rows."""
    console = quiet()
    show(console, result)
    show_verdicts(console, judge(bars, result.summary))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert all(row["name"] in text for row in result.rows)
    return text


def check_drawn(benchmark: str, result: BenchmarkResult, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    import_module(f"objectcache.bench.{benchmark}.plot").draw(result, tmp_path / "result.png")
    assert (tmp_path / "result.png").read_bytes().startswith(b"\x89PNG")


def check_needs_s3(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """The command names what is missing before it measures."""
    monkeypatch.setattr(options, "find_spec", lambda name: None)
    ended = CliRunner().invoke(app, [*arguments])
    assert isinstance(ended.exception, ConfigError)
    assert "objectcache[s3]" in str(ended.exception)

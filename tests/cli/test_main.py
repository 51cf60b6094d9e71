"""What every command has in common."""

from __future__ import annotations

import sys

import pytest

from objectcache.cli.bench import options
from objectcache.cli.main import main


def test_errors_are_one_line_as_written(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(options, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["objectcache", "bench", "retrieve", "--plot", "x.png"])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "pip install 'objectcache[plot]'" in said, "brackets are no markup"

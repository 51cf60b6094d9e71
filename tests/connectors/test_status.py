from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from objectcache import Namespace
from objectcache.connectors.status import (
    KEPT_ERRORS,
    KEPT_NAMESPACES,
    EngineStatus,
    StatusWriter,
    default_folder,
    read_statuses,
)
from objectcache.errors import RequestError
from tests.cache.explaining import namespace_of


def status(**fields: object) -> EngineStatus:
    return replace(EngineStatus(engine="vllm 0.32.0", url="memory://x"), **fields)  # type: ignore[arg-type]


def until(folder: Path, holds: Callable[[EngineStatus], bool], *, within_s: float = 10.0) -> EngineStatus:
    end_s = time.monotonic() + within_s
    while time.monotonic() < end_s:
        for found in read_statuses(folder):
            if holds(found):
                return found
        time.sleep(0.02)
    raise AssertionError(f"not within {within_s} s: {read_statuses(folder)}")


def test_it_survives_json() -> None:
    one = status(namespaces=(namespace_of().to_dict(),), counters={"hits": 1.0}, errors=("late",), started_s=1.5)
    assert EngineStatus.from_json(one.to_json()) == one
    assert one.known_namespaces() == [namespace_of()]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "other"}', '{"format": "objectcache-engine-status-1"}'])
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(RequestError):
        EngineStatus.from_json(text)


def test_namespaces_of_another_version_are_passed_over() -> None:
    assert status(namespaces=({"format": "objectcache-namespace-9"},)).known_namespaces() == []


def test_what_is_told_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    writer = StatusWriter(folder, status(rank=1, ranks=2))
    try:
        first = until(folder, lambda found: True)
        assert (first.pid, first.rank, first.counters) == (os.getpid(), 1, {})
        assert first.started_s <= first.written_s
        writer.count({"hits": 1, "bytes": 10})
        writer.count({"hits": 2})
        writer.asked_in(namespace_of())
        writer.failed("late")
        writer.failed("late")
        writer.tell(breaker_open=True)
        found = until(folder, lambda found: found.breaker_open)
        assert found.counters == {"hits": 3, "bytes": 10}
        assert found.errors == ("late",)
        assert found.known_namespaces() == [namespace_of()]
        assert folder.stat().st_mode & 0o077 == 0
    finally:
        writer.close()
    assert list(folder.iterdir()) == [], "a process that ended well leaves nothing"


def test_only_the_latest_are_kept(tmp_path: Path) -> None:
    writer = StatusWriter(tmp_path, status())
    asked: list[Namespace] = [namespace_of(epoch=epoch) for epoch in range(KEPT_NAMESPACES + 2)]
    try:
        for namespace in asked:
            writer.asked_in(namespace)
        writer.asked_in(asked[5])
        for number in range(KEPT_ERRORS + 2):
            writer.failed(str(number))
        writer.tell(idle_reason="because")
        found = until(tmp_path, lambda found: bool(found.idle_reason))
        assert found.known_namespaces()[-1] == asked[5]
        assert len(found.namespaces) == KEPT_NAMESPACES
        assert found.errors == tuple(str(number) for number in range(2, KEPT_ERRORS + 2))
    finally:
        writer.close()


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    writer = StatusWriter(tmp_path / "file" / "engines", status())
    time.sleep(0.1)
    writer.count({"hits": 1})
    time.sleep(1.2)
    writer.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text(json.dumps({"format": "x"}))
    (tmp_path / "c.txt").write_text(status().to_json())
    (tmp_path / "d.json").write_text(status(pid=7).to_json())
    assert [found.pid for found in read_statuses(tmp_path)] == [7]
    assert read_statuses(tmp_path / "nowhere") == []


def test_where_engines_write_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "objectcache" / "engines"

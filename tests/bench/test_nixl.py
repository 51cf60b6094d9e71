"""`bench retrieve --target nixl` on a shape so small that it takes seconds, and the bare loop that is its ceiling."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from objectcache.bench import nixl_end
from objectcache.bench.errors import BenchmarkError
from objectcache.bench.machine import child_pids
from objectcache.bench.nixl_end import WritePiece, pieces_of, write_pieces
from objectcache.bench.nixl_loop import FABRICS, SHARED_MEMORY, TCP, Fabric, NixlLoop
from objectcache.bench.result import ratio_row
from objectcache.bench.retrieve import BARS, NIXL_BARS, RetrieveSettings, bars_of, run_retrieve
from objectcache.bench.retrieve.over_nixl import environment_of
from objectcache.bench.shapes import ModelShape
from objectcache.transports.nixl import is_installed
from tests.bench.checking import check_drawn, quiet

TINY = ModelShape("tiny", "tiny", num_layers=3, num_kv_heads=1, head_dim=16, dtype_bytes=2)
SETTINGS = RetrieveSettings(
    shapes=(TINY,),
    contexts=(64, 192),
    pairs=2,
    target="nixl",
    streams=2,
    segment_chunks=8,
    quick=True,
)

needs_nixl = pytest.mark.skipif(not is_installed(), reason="NIXL is not installed: pip install 'objectcache[nixl]'")


def test_groups_are_cut_in_pieces_that_follow_one_another() -> None:
    pieces = write_pieces([10, 4, 8], 4)
    assert pieces == [
        *(WritePiece(0, 0, 4), WritePiece(0, 4, 4), WritePiece(0, 8, 2)),
        WritePiece(1, 10, 4),
        *(WritePiece(2, 14, 4), WritePiece(2, 18, 4)),
    ]
    assert [pieces_of(size, 4) for size in (10, 4, 8)] == [3, 1, 2]


def test_bars_are_of_what_is_measured() -> None:
    assert bars_of(SETTINGS) == NIXL_BARS
    assert bars_of(replace(SETTINGS, target="tcp")) == BARS
    assert [(bar.key, bar.limit) for bar in NIXL_BARS] == [("nixl_ratio_shm", 0.70), ("nixl_ratio_tcp", 0.80)]


def test_the_environment_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UCX_TLS", "rc")
    monkeypatch.delenv("UCX_NET_DEVICES", raising=False)
    with environment_of(TCP):
        assert (os.environ["UCX_TLS"], os.environ["UCX_NET_DEVICES"]) == ("tcp", "lo")
    assert os.environ["UCX_TLS"] == "rc"
    assert "UCX_NET_DEVICES" not in os.environ


@needs_nixl
@pytest.mark.parametrize("fabric", FABRICS, ids=lambda fabric: fabric.name)
def test_the_loop_lands_group_by_group(fabric: Fabric) -> None:
    before = child_pids(os.getpid())
    with NixlLoop([[70_000, 30_001], [1 << 20] * 3], replace(fabric, piece_bytes=1 << 16, window=2)) as loop:
        for index, sizes in ((0, [70_000, 30_001]), (1, [1 << 20] * 3)):
            transfer = loop.run(index)
            assert transfer.payload_bytes == sum(sizes)
            assert len(transfer.landed_s) == len(sizes)
            assert 0 < max(transfer.landed_s) == transfer.seconds
    assert child_pids(os.getpid()) == before


@needs_nixl
def test_a_loop_that_brings_something_else_is_no_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A sender that writes other bytes: a copy of the module, found first."""
    source = Path(nixl_end.__file__).read_text()
    changed = source.replace("end.memory[:] = np.arange(len(end.memory))", "end.memory[:] = 7")
    assert changed != source
    (tmp_path / "other_end.py").write_text(changed)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr("objectcache.bench.nixl_loop.END", "other_end")
    before = child_pids(os.getpid())
    with pytest.raises(BenchmarkError, match="is not what arrived"):
        NixlLoop([[1 << 16]], SHARED_MEMORY)
    assert child_pids(os.getpid()) == before


@needs_nixl
def test_nixl_beside_what_it_can_do(tmp_path: Path) -> None:
    before = child_pids(os.getpid())
    result = run_retrieve(replace(SETTINGS, data=tmp_path), quiet())
    assert child_pids(os.getpid()) == before
    assert list(tmp_path.iterdir()) == []
    assert result.summary.keys() == {
        f"nixl_ratio_{fabric}{level}" for fabric in ("shm", "tcp") for level in ("", "_unverified")
    }
    assert {bar.key for bar in NIXL_BARS} <= result.summary.keys()
    for fabric in ("shm", "tcp"):
        bare = f"bare NIXL, {fabric}"
        for key, way in (
            (f"nixl_ratio_{fabric}", f"layerwise NIXL, {fabric}"),
            (f"nixl_ratio_{fabric}_unverified", f"layerwise NIXL, {fabric}, unverified"),
        ):
            for name in ("tiny/64", "tiny/192"):
                expected = ratio_row("", result.row(f"{way}, {name}"), result.row(f"{bare}, {name}"))
                assert result.row(f"{way} / {bare}, {name}")["samples"] == expected["samples"]
                assert result.summary[key][name] == expected["median"]
                assert result.row(f"{way}, {name}: first layer")["median"] > 0
    in_turn = [result.row(f"{way}, tiny/64")["at_s"] for way in ("bare NIXL, shm", "layerwise NIXL, shm")]
    assert in_turn[0][0] < in_turn[1][0] < in_turn[0][1] < in_turn[1][1]
    check_drawn("retrieve", result, tmp_path)
    assert any(result.machine["versions"][name] != "not installed" for name in ("nixl-cu12", "nixl-cu13"))

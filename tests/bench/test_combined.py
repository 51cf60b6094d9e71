"""`bench retrieve --store` on a shape so small that it takes seconds; a gateway over a directory is the S3 service."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

pytest.importorskip("obstore", reason="needs the extra s3")

from objectcache.bench import combined
from objectcache.bench.combined import CombinedSettings, NamedStore, run_combined, settings
from objectcache.bench.combined.settings import NIXL, TARGETS, expanded, targets_here
from objectcache.bench.gateway import BUCKET, BenchGateway
from objectcache.bench.machine import child_pids
from objectcache.bench.result import MIN_PAIRS, BenchmarkResult
from objectcache.bench.shapes import ModelShape
from objectcache.bench.stores import BenchStore
from objectcache.cli.bench import app
from objectcache.errors import ConfigError
from objectcache.stores import open_store
from objectcache.transports.nixl import is_installed
from tests.bench.checking import check_drawn, check_turns, quiet, shown, written

TINY = ModelShape("tiny", "tiny", num_layers=3, num_kv_heads=1, head_dim=16, dtype_bytes=2)
FEW = ("shm", "tcp", "http", "direct")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an S3 store. Its credentials are in the environment, as a user's would be."""
    with BenchGateway(tmp_path_factory.mktemp("service")) as gateway, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", gateway.credentials.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", gateway.credentials.secret_key)
        yield f"s3://{BUCKET}/mine?endpoint=http://{gateway.host}:{gateway.port}"


def settings_for(stores: tuple[NamedStore, ...], targets: tuple[str, ...], **options: Any) -> CombinedSettings:
    return CombinedSettings(
        stores, targets, **{"shape": TINY, "context": 96, "rounds": 2, "segment_chunks": 4, "quick": True, **options}
    )


@pytest.fixture(scope="module")
def result(service: str, tmp_path_factory: pytest.TempPathFactory) -> BenchmarkResult:
    """One run; afterwards nothing of it is left, neither here nor on the store, but what was there before."""
    data = tmp_path_factory.mktemp("data")
    before = child_pids(os.getpid())
    with open_store(service) as store:
        store.put("another's", b"precious")
        stores = expanded((NamedStore("files"), NamedStore("there", service)))
        result = run_combined(settings_for(stores, FEW, data=data), quiet())
        assert [info.name for info in store.list()] == ["another's"]
    assert child_pids(os.getpid()) == before
    assert list(data.iterdir()) == []
    return result


def test_every_store_is_measured_with_every_target(result: BenchmarkResult, tmp_path: Path) -> None:
    data = written(result, tmp_path)
    assert data["options"]["stores"] == ["files", "there", "there, read cache"]
    combinations = [
        *(f"files: {target}" for target in FEW),
        *(f"there: {target}" for target in FEW),
        *(f"there, read cache: {target}" for target in FEW[:-1]),  # direct has nothing to do with a gateway's cache
    ]
    for key, figure in (("goodput_gb_s", "goodput"), ("first_layer_ms", "first layer")):
        assert list(data["summary"][key]) == combinations
        for name, median in data["summary"][key].items():
            row = result.row(f"{name}, {figure}")
            assert row["median"] == median > 0
            assert row["payload_bytes"] == 6 * TINY.slice_bytes * TINY.num_layers
    check_turns(result, [f"{name}, total" for name in combinations], pairs=2)
    shown(result, ())
    check_drawn("combined", result, tmp_path)


@pytest.mark.skipif(not is_installed(), reason="NIXL is not installed: pip install 'objectcache[nixl]'")
def test_nixl_over_each_fabric(tmp_path: Path) -> None:
    result = run_combined(settings_for((NamedStore("files"),), tuple(NIXL), data=tmp_path), quiet())
    assert set(result.summary["goodput_gb_s"]) == {"files: nixl, shm", "files: nixl, tcp"}
    assert any(result.machine["versions"][name] != "not installed" for name in ("nixl-cu12", "nixl-cu13"))


def test_stores_and_their_names() -> None:
    assert NamedStore.parse("files") == NamedStore("files")
    assert NamedStore.parse("rados://pool/x?conf=/a=b") == NamedStore("pool", "rados://pool/x?conf=/a=b")
    assert NamedStore.parse("ceph=s3://kv?endpoint=http://a:1") == NamedStore("ceph", "s3://kv?endpoint=http://a:1")
    assert NamedStore.parse("file:///mnt/kv?lacks=links").name == "mount"
    for wrong in ("minio", "http://a:1/kv", "/mnt/kv"):
        with pytest.raises(ConfigError, match="--store takes files"):
            NamedStore.parse(wrong)
    s3 = NamedStore("a", "s3://kv")
    assert expanded((s3, NamedStore("b", "rados://kv"))) == (
        *(s3, NamedStore("a, read cache", "s3://kv", cached=True)),
        NamedStore("b", "rados://kv"),
    )


@pytest.mark.parametrize("installed", [False, True])
def test_targets_that_are_here(monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    monkeypatch.setattr(settings, "is_installed", lambda: installed)
    assert targets_here([]) == (TARGETS if installed else ("shm", "tcp", "http", "direct"))
    assert targets_here(["tcp", "nixl"]) == ("tcp", "nixl, shm", "nixl, tcp")


def test_settings_that_cannot_be() -> None:
    good = settings_for((NamedStore("files"),), ("tcp",))
    for wrong in (
        {"stores": ()},
        {"stores": (NamedStore("a"), NamedStore("a", "s3://kv"))},
        {"targets": ()},
        {"targets": ("tcp", "tcp")},
        {"targets": ("nixl",)},
        {"context": 70},
        {"rounds": 0},
        {"segment_chunks": 0},
    ):
        with pytest.raises(ConfigError):
            replace(good, **wrong)
    with pytest.raises(ConfigError, match=f"at least {MIN_PAIRS} rounds"):
        replace(good, quick=False)


def test_the_command_starts_services_and_names_their_pools(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, result: BenchmarkResult
) -> None:
    seen: list[CombinedSettings] = []

    @contextmanager
    def start(name: str) -> Iterator[BenchStore]:
        yield replace(BenchStore.parse(f"{name}=s3://kv-1?endpoint=http://127.0.0.1:1"), rados="rados://kv-1")

    def run(settings: CombinedSettings, console: Console) -> BenchmarkResult:
        seen.append(settings)
        return result

    monkeypatch.setattr("objectcache.bench.stores.services.started", start)
    monkeypatch.setattr(combined, "run_combined", run)
    out = tmp_path / "out.json"
    arguments = ["retrieve", "--store", "files", "--store", "rgw", "--target", "tcp", "--target", "direct", "--quick"]
    ended = CliRunner().invoke(app, [*arguments, "--layers", "4", "--contexts", "64", "--json", str(out)])
    assert ended.exit_code == 0, ended.output
    assert [store.name for store in seen[0].stores] == ["files", "rgw", "rgw, read cache", "rados"]
    assert (seen[0].targets, seen[0].shape.num_layers, seen[0].context) == (("tcp", "direct"), 4, 64)
    assert json.loads(out.read_text())["summary"] == result.summary


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--store", "files", "--check"], "no bars"),
        (["--store", "files", "--contexts", "64,128"], "one shape and one context"),
        (["--target", "tcp", "--target", "shm"], "are for --store"),
        (["--target", "direct"], "are for --store"),
        (["--layers", "4"], "is for --store"),
    ],
)
def test_options_that_do_not_go_together(arguments: list[str], says: str) -> None:
    ended = CliRunner().invoke(app, ["retrieve", *arguments])
    assert isinstance(ended.exception, ConfigError)
    assert says in str(ended.exception)

"""`bench stores` on a shape so small that it takes seconds, with a gateway over a directory as the S3 service."""

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

from objectcache.bench import stores
from objectcache.bench.errors import BenchmarkError
from objectcache.bench.gateway import BUCKET, BenchGateway
from objectcache.bench.machine import child_pids
from objectcache.bench.result import MIN_PAIRS, BenchmarkResult, ratio_row
from objectcache.bench.shapes import ModelShape
from objectcache.bench.stores import BARS, RADOS_BARS, BenchStore, StoresSettings, bars_of, run_stores
from objectcache.bench.stores.fetch import Fetch
from objectcache.bench.stores.gets import Gets
from objectcache.bench.stores.rows import fetch_rows, ratio_rows
from objectcache.bench.stores.services import started, stores_of
from objectcache.cli.bench import app
from objectcache.errors import ConfigError
from objectcache.stores import open_store
from tests.bench.checking import check_drawn, check_needs_s3, check_turns, quiet, shown, written

TINY = ModelShape("tiny", "tiny", num_layers=3, num_kv_heads=1, head_dim=16, dtype_bytes=2)
CHUNKS = 6
SLICE_BYTES = 2 * 16 * 2 * 16  # K and V × head_dim × dtype bytes × tokens
WAYS = (
    *("the service's ceiling", "a GET per chunk", "a ranged GET per slice"),
    *("direct", "gateway cold", "gateway hot", "direct far", "gateway cold far"),
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BenchGateway]:
    """A gateway is an S3 service like others. Its credentials are in the environment, as a user's would be."""
    with BenchGateway(tmp_path_factory.mktemp("service")) as gateway, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", gateway.credentials.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", gateway.credentials.secret_key)
        yield gateway


def settings_for(service: BenchGateway, **options: Any) -> StoresSettings:
    store = BenchStore.parse(f"here={url_of(service)}")
    return StoresSettings(
        **{
            "stores": (store,),
            "context": CHUNKS * TINY.chunk_tokens,
            "pairs": 2,
            "delay_s": 0.02,
            "segment_chunks": 4,  # two segments, the second one short
            "quick": True,
            "shape": TINY,
            "parallel": 4,
            "ceiling_bytes": 5000,
            **options,
        }
    )


def url_of(service: BenchGateway) -> str:
    return f"s3://{BUCKET}/of/mine?endpoint=http://{service.host}:{service.port}"


@pytest.fixture(scope="module")
def result(service: BenchGateway, tmp_path_factory: pytest.TempPathFactory) -> BenchmarkResult:
    """One run; afterwards nothing of it is left, neither here nor on the store, but what was there before."""
    data = tmp_path_factory.mktemp("data")
    before = child_pids(os.getpid())
    store = open_store(url_of(service))
    with store.upload("another's") as upload:
        upload.write(b"precious")
        upload.publish()
    result = run_stores(settings_for(service, data=data), quiet())
    assert [info.name for info in store.list()] == ["another's"]
    assert child_pids(os.getpid()) == before
    assert list(data.iterdir()) == []
    store.close()
    return result


def test_the_json_has_rows_with_samples_and_a_summary(result: BenchmarkResult, tmp_path: Path) -> None:
    data = written(result, tmp_path)
    assert (data["benchmark"], data["quick"], data["options"]["stores"]) == ("stores", True, ["here"])
    assert data["summary"].keys() >= {bar.key for bar in BARS} | {"requests_per_retrieve"}
    assert all(figures.keys() == {"here"} for figures in data["summary"].values())


def test_all_ways_were_measured_in_turn(result: BenchmarkResult) -> None:
    check_turns(result, [f"here: {way}, total" for way in WAYS], pairs=2)
    for way in WAYS:
        assert result.row(f"here: {way}, total")["payload_bytes"] == CHUNKS * TINY.num_layers * SLICE_BYTES
    for way in WAYS[1:]:
        total, first = (result.row(f"here: {way}, {figure}") for figure in ("total", "first layer"))
        assert all(0 < a <= b for a, b in zip(first["samples"], total["samples"], strict=True))


@pytest.mark.parametrize(
    ("key", "of", "over"),
    [
        ("descriptor_vs_range_per_slice", "a ranged GET per slice, total", "gateway cold, total"),
        ("descriptor_vs_range_per_slice_hot", "a ranged GET per slice, total", "gateway hot, total"),
        ("direct_first_layer_vs_chunk_get", "a GET per chunk, first layer", "direct, first layer"),
        ("direct_over_gateway_30ms", "direct far, total", "gateway cold far, total"),
    ],
)
def test_ratios_are_of_the_pairs(result: BenchmarkResult, key: str, of: str, over: str) -> None:
    expected = ratio_row("", result.row(f"here: {of}"), result.row(f"here: {over}"))
    (row,) = [row for row in result.rows if row.get("key") == key]
    assert row["samples"] == expected["samples"]
    assert result.summary[key] == {"here": row["median"]}


def test_requests_are_those_to_the_store(result: BenchmarkResult) -> None:
    assert result.row("here: a GET per chunk, requests")["median"] == CHUNKS
    assert result.row("here: a ranged GET per slice, requests")["median"] == CHUNKS * TINY.num_layers
    # Two segments of which all fits into one request each; the cold gateway fetches an extent of each.
    assert (
        result.row("here: direct, requests")["samples"] == [2, 2] == result.row("here: direct far, requests")["samples"]
    )
    assert result.row("here: gateway cold far, requests")["min"] >= 2
    assert result.summary["requests_per_retrieve"] == {"here": 2}


def test_the_far_part_is_far(result: BenchmarkResult) -> None:
    for way in ("direct far", "gateway cold far"):
        assert result.row(f"here: {way}, first layer")["min"] >= 20
    assert result.row("here: gateway hot, first layer")["min"] < 20


def test_it_can_be_shown_and_drawn(result: BenchmarkResult, tmp_path: Path) -> None:
    text = shown(result, BARS)
    assert all(f"{bar.rule}, here:" in text for bar in BARS)
    check_drawn("stores", result, tmp_path)


def test_gets_that_bring_something_else_are_no_result(
    service: BenchGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_all = Gets.put_all

    def damaged(self: Gets, objects: list[tuple[str, bytes]]) -> None:
        put_all(self, [(key, data[:-1] + bytes([data[-1] ^ 1])) for key, data in objects])

    monkeypatch.setattr(Gets, "put_all", damaged)
    with pytest.raises(BenchmarkError, match="is not what was stored"):
        run_stores(settings_for(service, data=tmp_path), quiet())
    assert list(tmp_path.iterdir()) == []


# -- settings -----------------------------------------------------------------------------------------


def test_stores_and_their_names() -> None:
    named = BenchStore.parse("aws=s3://kv-1/a/b?region=eu-west-1")
    assert (named.name, named.options.bucket, named.options.prefix) == ("aws", "kv-1", "a/b")
    assert named.below("c").options.prefix == "a/b/c"
    assert not named.can_be_delayed  # TLS
    plain = BenchStore.parse("s3://kv-1?endpoint=http://127.0.0.1:1")
    assert (plain.name, plain.below("c").options.prefix, plain.can_be_delayed) == ("kv-1", "c", True)
    assert not BenchStore.parse("s3://kv-1?endpoint=http://a:1&addressing=virtual").can_be_delayed
    with pytest.raises(ConfigError):
        BenchStore.parse("file:///tmp")


def test_settings_that_cannot_be() -> None:
    store = BenchStore.parse("s3://kv-1")
    for wrong in (
        {"stores": ()},
        {"stores": (store, store)},
        {"context": 70},
        {"pairs": 0},
        {"segment_chunks": 0},
        {"pairs": MIN_PAIRS - 1},
    ):
        with pytest.raises(ConfigError):
            replace(StoresSettings((store,)), **wrong)
    assert replace(StoresSettings((store,)), pairs=1, quick=True).chunks == 256
    with pytest.raises(ConfigError, match="python3-rados"):
        StoresSettings((store,), only_rados=True)


def test_bars_are_of_what_is_measured() -> None:
    plain = BenchStore.parse("s3://kv-1")
    beside = replace(plain, name="ceph", rados="rados://kv-1")
    assert bars_of(StoresSettings((plain,))) == BARS
    assert bars_of(StoresSettings((plain, beside))) == BARS + RADOS_BARS
    assert bars_of(StoresSettings((beside,), only_rados=True)) == RADOS_BARS


def test_services_that_are_not_known() -> None:
    with pytest.raises(ConfigError, match="known are rgw, seaweedfs"), started("minio"):
        pass


# -- arithmetic ---------------------------------------------------------------------------------------


def test_rows_and_ratios_of_fetches() -> None:
    measured = {
        "a ranged GET per slice": [Fetch(10.0, 4.0, 10**9, 1.0, 8), Fetch(20.0, 6.0, 10**9, 1.0, 8)],
        "gateway cold": [Fetch(15.0, 2.0, 10**9, 0.5), Fetch(27.0, 2.0, 10**9, 0.25)],
    }
    rows = fetch_rows("x", measured, 10.0)
    assert [row["name"] for row in rows] == [
        *(f"x: a ranged GET per slice, {figure}" for figure in ("total", "first layer", "goodput", "requests")),
        *(f"x: gateway cold, {figure}" for figure in ("total", "first layer", "goodput")),
    ]
    assert rows[4]["samples"] == [2000.0, 2000.0]
    assert rows[4]["at_s"] == [5.0, 17.0]
    assert rows[2]["samples"] == [0.25, pytest.approx(1 / 6)]
    (ratio,) = ratio_rows("x", rows)
    assert (ratio["key"], ratio["of_store"]) == ("descriptor_vs_range_per_slice", "x")
    assert ratio["samples"] == [2.0, 3.0]


# -- the command line ---------------------------------------------------------------------------------


def test_the_command_names_what_is_missing_before_it_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    check_needs_s3(monkeypatch, "stores", "--url", "s3://kv-1")


@pytest.mark.parametrize(
    ("summary", "code"),
    [
        ({bar.key: {"a": bar.limit, "b": bar.limit} for bar in BARS}, 0),
        ({bar.key: {"a": bar.limit, "b": 2.0} for bar in BARS}, 1),
        ({bar.key: {"a": bar.limit} for bar in BARS[:-1]}, 1),  # not measured is not met
    ],
)
def test_check_decides_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, result: BenchmarkResult, summary: dict[str, Any], code: int
) -> None:
    seen: list[StoresSettings] = []

    def run(settings: StoresSettings, console: Console) -> BenchmarkResult:
        seen.append(settings)
        return replace(result, summary=summary)

    monkeypatch.setattr(stores, "run_stores", run)
    out = tmp_path / "out.json"
    arguments = ["stores", "--url", "a=s3://kv-1", "--url", "s3://kv-2", "--layers", "4", "--quick", "--check"]
    ended = CliRunner().invoke(app, [*arguments, "--json", str(out)])
    assert ended.exit_code == code
    assert [store.name for store in seen[0].stores] == ["a", "kv-2"]
    assert (seen[0].shape.num_layers, seen[0].quick, seen[0].delay_s) == (4, True, 0.03)
    assert json.loads(out.read_text())["summary"] == summary


def test_services_are_started_where_no_url_is_given(monkeypatch: pytest.MonkeyPatch, result: BenchmarkResult) -> None:
    asked: list[str] = []

    @contextmanager
    def start(name: str) -> Iterator[BenchStore]:
        asked.append(name)
        yield BenchStore.parse(f"{name}=s3://kv-1?endpoint=http://127.0.0.1:1")

    monkeypatch.setattr("objectcache.bench.stores.services.started", start)
    monkeypatch.setattr(stores, "run_stores", lambda settings, console: result)
    assert CliRunner().invoke(app, ["stores", "--quick"]).exit_code == 0
    assert asked == ["rgw", "seaweedfs"]
    with stores_of(["s3://mine"], ["rgw"]) as found:
        assert [store.name for store in found] == ["mine", "rgw"]

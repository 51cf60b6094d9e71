"""`objectcache simulate`: its rows, and the comparison with a real gateway, of made-up figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from objectcache.bench.simulate.check import REQUESTS, compared, drawn_requests, simulated, summary
from objectcache.bench.simulate.rows import policy_rows
from objectcache.bench.simulate.rows import summary as policy_summary
from objectcache.bench.simulate.settings import SimulateSettings
from objectcache.cli.main import app
from objectcache.errors import ConfigError
from objectcache.layout import KVLayout
from objectcache.scheduling import DEFAULT_POLICY
from objectcache.simulation.node import Outcome
from objectcache.simulation.offered import offered_load
from objectcache.simulation.settings import Fabric

FEW = ["--requests", "30", "--nodes", "4", "--policy", "equal", "--policy", "slack"]


def invoked(*arguments: str) -> str:
    ended = CliRunner().invoke(app, ["simulate", *arguments], catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return ended.output


def test_a_run_shows_every_policy_and_is_the_same_again(tmp_path: Path) -> None:
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    picture = tmp_path / "ttft.png"
    output = invoked(*FEW, "--json", str(files[0]), "--plot", str(picture))
    assert "slack" in output
    assert picture.stat().st_size > 1000
    invoked(*FEW, "--json", str(files[1]))
    one, two = (json.loads(file.read_text()) for file in files)
    assert one["rows"] == two["rows"]
    assert one["summary"] == two["summary"]
    assert {row["name"] for row in one["rows"]} == {
        f"{figure}, {policy}" for figure in ("TTFT", "added TTFT") for policy in ("equal", "slack")
    }
    assert one["summary"]["gain"]["equal"] == 1.0
    assert one["summary"]["gain"]["slack"] > 1.0
    assert one["summary"]["requests"] == 30
    assert str(tmp_path) not in files[0].read_text()


def test_a_trace_is_served(tmp_path: Path) -> None:
    trace, out = tmp_path / "trace.jsonl", tmp_path / "out.json"
    lines = [
        {"timestamp": 10 * i, "input_length": 6144, "output_length": 5, "hash_ids": list(range(12))} for i in range(8)
    ]
    trace.write_text("\n".join(map(json.dumps, lines)))
    invoked(str(trace), "--policy", "equal", "--speed", "2", "--cache-tokens", "5120", "--json", str(out))
    result = json.loads(out.read_text())
    assert result["summary"]["span_s"] == pytest.approx(0.035)
    assert result["summary"]["sent_bytes"] == 7 * 5120 * 128 * 1024
    assert result["options"]["workload"] == "trace.jsonl"


def test_mixes_name_the_default_policy(tmp_path: Path) -> None:
    out = tmp_path / "mixes.json"
    invoked("--mixes", "2", "--policy", "slack", "--json", str(out))
    found = json.loads(out.read_text())
    assert {"gain_geomean", "gain_min", "p95_ratio_pooled", "max_ratio_worst"} <= found["summary"].keys()
    assert found["summary"]["default_policy"] == DEFAULT_POLICY
    by_policy = {row["policy"]: row for row in found["rows"]}
    assert list(by_policy) == ["equal", "slack", DEFAULT_POLICY]
    assert by_policy["equal"]["gain_geomean"] == 1.0
    assert by_policy["slack"]["mixes"] == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--policy", "fair"], "--policy is one of"),
        (["--shape", "gpt"], "--shape is one of"),
        (["--bandwidth", "fast"], "is not a rate"),
        (["--weight", "a"], "--weight is"),
        (["--gateways", "9"], "each of 9 gateways"),
        (["nowhere.jsonl"], "cannot be read"),
    ],
)
def test_what_is_wrong_is_said(arguments: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        CliRunner().invoke(app, ["simulate", *arguments], catch_exceptions=False)


def test_rows_are_distributions_and_ratios_are_over_equal() -> None:
    outcomes = {
        "equal": [Outcome(1.0, 1.0 + added_s) for added_s in (0.1, 0.2, 0.3)],
        "slack": [Outcome(1.0, 1.0 + added_s) for added_s in (0.1, 0.1, 0.1)],
    }
    rows = policy_rows(outcomes)
    added = next(row for row in rows if row["name"] == "added TTFT, equal")
    assert (added["mean"], added["p50"], added["max"]) == pytest.approx((200.0, 200.0, 300.0))
    assert added["quantiles"][0] == pytest.approx(100.0)
    assert len(added["quantiles"]) == 201
    figures = policy_summary(rows)
    assert figures["gain"] == pytest.approx({"equal": 1.0, "slack": 2.0})
    assert figures["max_ratio"]["slack"] == pytest.approx(1 / 3)
    assert "gain" not in policy_summary([row for row in rows if row["policy"] == "slack"])


@pytest.mark.parametrize("kind", ["poisson", "bursts", "conversations"])
def test_a_workload_that_is_drawn_loads_the_busiest_as_asked(kind: str) -> None:
    fabric = Fabric(nodes=64, gateways=2)
    settings = SimulateSettings(fabric, ("equal",), kind, requests=4000, load=0.5)
    assert max(offered_load(fabric, settings.arrivals()).values()) == pytest.approx(0.5, rel=0.35)


def test_an_error_may_be_a_tenth_or_three_ms_or_the_spread() -> None:
    request = drawn_requests(1, 12.5e9)[0]
    for real_ms, simulated_ms, tolerance_ms, within in (
        ([100.0, 100.0, 101.0], 109.0, 10.0, True),
        ([100.0, 100.0, 101.0], 111.0, 10.0, False),
        ([5.0, 5.0, 5.5], 2.5, 3.0, True),
        ([50.0, 60.0, 90.0], 99.0, 40.0, True),
    ):
        row = compared("one", request, real_ms, simulated_ms)
        assert (row["tolerance_ms"], row["within"]) == (tolerance_ms, within)
    rows = [compared("one", request, [5.0, 5.0], 7.0), compared("two", request, [50.0, 50.0], 70.0)]
    assert summary(rows) == {
        "within_tolerance": 0.5,
        "per_request_error_max": 20.0,
        "error_over_tolerance_max": 4.0,
        "spread_max": 0.0,
    }


def test_what_is_checked_are_20_requests_that_meet() -> None:
    requests = drawn_requests(1, 12.5e9)
    assert len(requests) == REQUESTS
    assert requests == drawn_requests(1, 12.5e9)
    assert requests != drawn_requests(2, 12.5e9)
    layouts = [
        KVLayout.attention(num_layers=32, num_kv_heads=8, head_dim=head_dim, dtype_bytes=2) for head_dim in (128, 2)
    ]
    whole = simulated(requests, "equal", layouts[0], 12.5e9)
    scaled = simulated(requests, "equal", layouts[1], 12.5e9 / 64)
    assert scaled == pytest.approx(whole)
    alone = simulated(requests, "equal", layouts[0], 1e15)
    assert max(alone) < 2e-3
    assert sum(whole) / REQUESTS > 0.05

"""`bench contention`: its arithmetic, and a run so small that it takes seconds."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from objectcache.bench.contention import BARS, ContentionSettings
from objectcache.bench.contention.real import added_s, prefix_tokens, scaled
from objectcache.bench.contention.rows import EQUAL, REAL, SIMULATED, Measured, compare, jain, row, summary
from objectcache.bench.contention.run import wrong_summary, wrong_windows
from objectcache.bench.machine import child_pids
from objectcache.bench.shapes import LLAMA_31_8B
from objectcache.cli.bench import app, contention
from objectcache.errors import ConfigError
from objectcache.scheduling import DEFAULT_POLICY
from objectcache.simulation.mixes import LAYERS, WINDOWS_S, Mix, MixRequest, draw_mixes

MIXES = draw_mixes(1, 2)
times = st.floats(0.0, 10.0)


def measured(number: int, policy: str, added: list[list[float]], windows: str = "") -> Measured:
    shapes = list(WINDOWS_S.items())[: len(added[0])]
    requests = tuple(MixRequest(0.0, context, hit, LAYERS, 1 << 20, window) for (context, hit), window in shapes)
    kind = REAL if number % 2 else SIMULATED
    return Measured(number, Mix(requests, 1e9), policy, kind, added, windows)


@given(st.lists(times, min_size=1, max_size=40), st.floats(0.0, 1.0))
def test_added_is_what_an_engine_waits_beyond_its_windows(landed: list[float], window: float) -> None:
    landed.sort()
    computed = 0.0
    for at in landed:
        computed = max(computed, at) + window
    assert added_s(landed, window) == pytest.approx(computed - window * len(landed), abs=1e-9)


@given(st.lists(st.floats(0.01, 100.0), min_size=1, max_size=20))
def test_fairness_is_between_one_for_all_and_all_alike(shares: list[float]) -> None:
    assert 1 / len(shares) - 1e-9 <= jain(shares) <= 1 + 1e-9
    assert jain([3.0] * len(shares)) == pytest.approx(1.0)
    assert jain([1.0, *([0.0] * len(shares))]) == pytest.approx(1 / (len(shares) + 1))


def test_a_policy_is_compared_mix_by_mix() -> None:
    equal = [measured(0, EQUAL, [[0.4, 0.2]]), measured(1, EQUAL, [[0.1, 0.1], [0.3, 0.1], [0.2, 0.1]])]
    ours = [measured(0, "slack", [[0.1, 0.05]]), measured(1, "slack", [[0.24, 0.06]] * 3)]
    found = compare(ours, equal)
    assert found.gain_min == pytest.approx(1.0)
    assert found.gain_geomean == pytest.approx(2.0)
    assert found.max_ratio_worst == pytest.approx(0.8)
    figures = summary([*equal, *ours, measured(0, "slack", [[9.0, 9.0]], "windows doubled")], "slack")
    assert figures["gain_geomean"] == pytest.approx(2.0)
    assert figures["gain_geomean_by_policy"][EQUAL] == 1.0
    assert figures["gain_geomean_real"] == pytest.approx(1.0)
    assert figures["gain_geomean_simulated"] == pytest.approx(4.0)
    assert (figures["mixes"], figures["mixes_real"]) == (2, 1)
    assert {bar.key for bar in BARS} <= figures.keys()


def test_a_row_has_a_sample_for_each_request_and_how_far_repeats_are_apart() -> None:
    found = row(measured(1, "slack", [[0.1, 0.2], [0.3, 0.1], [0.2, 0.1]]))
    assert found["samples"] == pytest.approx([200.0, 100.0])
    assert found["mean"] == pytest.approx(150.0)
    assert found["least_ms"] == pytest.approx([100.0, 100.0])
    assert found["most_ms"] == pytest.approx([300.0, 200.0])
    assert found["mean_ms"] == pytest.approx([150.0, 200.0, 150.0])
    assert 0.5 <= found["fairness"] <= 1


def test_windows_that_are_wrong_and_a_client_that_lies() -> None:
    wrong = wrong_windows([0.001, 0.03])
    assert wrong["windows halved"] == [0.0005, 0.015]
    assert wrong["one says 0"] == [0.001, 0.0]
    assert wrong["one says an hour"] == [0.001, 3600.0]


def test_a_scaled_shape_has_as_many_bytes_less() -> None:
    shape = scaled(LLAMA_31_8B, 64)
    request = MIXES[0].requests[0]
    assert shape.slice_bytes * 64 == LLAMA_31_8B.slice_bytes
    scaled_bytes = shape.chunks(prefix_tokens(request)) * shape.slice_bytes * shape.num_layers
    assert scaled_bytes * 64 == request.total_bytes
    with pytest.raises(ConfigError):
        scaled(LLAMA_31_8B, 3)


def test_settings_say_what_is_wrong() -> None:
    for wrong in ({"mixes": 12}, {"real_mixes": 3}, {"repeats": 0}, {"policies": ("slack",)}, {"wrong_mixes": 50}):
        with pytest.raises(ConfigError):
            ContentionSettings(**wrong)
    assert "data" not in ContentionSettings(data=Path("/somewhere")).to_dict()


def test_what_wrong_windows_gain_and_what_a_lie_costs() -> None:
    ours = DEFAULT_POLICY
    figures = wrong_summary(
        [
            measured(0, EQUAL, [[0.4, 0.4]]),
            measured(0, ours, [[0.1, 0.1]]),
            measured(0, ours, [[0.2, 0.2]], "windows doubled"),
            measured(0, ours, [[0.3, 0.12]], "one says 0"),
        ],
        ours,
    )
    liar = max(range(2), key=lambda index: list(WINDOWS_S.values())[index])
    assert figures["gain_wrong_windows"] == {"windows doubled": pytest.approx(2.0)}
    assert figures["liar_itself"]["one says 0"] == pytest.approx((3.0, 1.2)[liar])
    assert figures["others_beside_a_liar"]["one says 0"] == pytest.approx((1.2, 3.0)[liar])


def test_a_quick_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Windows are real: each run of the mix takes the seconds that it takes.
    short = replace(contention._QUICK, mixes=2, policies=(EQUAL, DEFAULT_POLICY), wrong_mixes=0)
    monkeypatch.setattr(contention, "_QUICK", short)
    before = child_pids(os.getpid())
    out, data = tmp_path / "contention.json", tmp_path / "data"
    ended = CliRunner().invoke(app, ["contention", "--quick", "--json", str(out), "--data", str(data)])
    assert ended.exit_code == 0, ended.output
    result = json.loads(out.read_text())
    assert result["benchmark"] == "contention"
    assert result["quick"]
    kinds = {one["name"]: one["kind"] for one in result["rows"] if "kind" in one}
    assert kinds[f"mix 0, {DEFAULT_POLICY}"] == REAL
    assert kinds["mix 1, equal"] == SIMULATED
    assert {bar.key for bar in BARS} <= result["summary"].keys()
    # What the cap gives, and not what the machine could: loosely, it may be busy.
    equal = next(one for one in result["rows"] if one["name"] == "mix 0, equal")
    assert max(equal["samples"]) > 0.5 * max(equal["simulated_ms"])
    assert str(tmp_path) not in out.read_text()
    assert list(data.iterdir()) == []
    assert child_pids(os.getpid()) == before

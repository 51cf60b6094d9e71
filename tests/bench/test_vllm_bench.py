"""`bench vllm` where vLLM is not needed: prompts, rows, ratios, hooks that are timed."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("obstore", reason="needs the extra s3")

from objectcache.bench.errors import BenchmarkError
from objectcache.bench.machine import describe_machine
from objectcache.bench.result import MIN_PAIRS, BenchmarkResult
from objectcache.bench.vllm import BARS, QUICK_LLAMA, Llama, VllmBenchSettings
from objectcache.bench.vllm.engine import Decoding, Prefill, engine_arguments
from objectcache.bench.vllm.hooks import Hooks
from objectcache.bench.vllm.paths import planned
from objectcache.bench.vllm.rows import ALONE, BESIDE, HOOKS, add_stalls, add_ttft
from objectcache.bench.vllm.settings import LMCACHE_CHUNK_TOKENS
from objectcache.errors import ConfigError
from tests.bench.checking import check_drawn, check_needs_s3, check_turns, shown, written

PATHS = ("cold", "gateway, layerwise", "gateway, whole prefix", "direct, layerwise", "direct, whole prefix", "LMCache")
TTFT_S = dict(zip(PATHS, (2.0, 0.5, 0.6, 0.4, 0.8, 1.0), strict=True))
PAIRS = 3
SETTINGS = VllmBenchSettings(llama=QUICK_LLAMA, pairs=PAIRS, stalls=2, quick=True)


def prefills(path: str, token: int = 7) -> list[Prefill]:
    place = PATHS.index(path)
    return [
        Prefill(100.0 + 10 * number + place, TTFT_S[path] + number / 10, [token], 0, 0 if path == "cold" else 2048)
        for number in range(PAIRS)
    ]


def decoding(p99_s: float, us: float) -> Decoding:
    return Decoding(
        [0.02] * 98 + [p99_s] * 2, {"steps": 100, "us_per_step": us, "median_us": us, "by_hook": {"start_load_kv": us}}
    )


def result_of(paths: tuple[str, ...] = PATHS) -> BenchmarkResult:
    result = BenchmarkResult("vllm", SETTINGS.to_dict(), describe_machine(Path("/"), ("numpy",)), quick=True)
    add_ttft(result, {path: prefills(path) for path in paths})
    add_stalls(result, [decoding(0.04, 30.0), decoding(0.05, 50.0)], [decoding(0.05, 0.0), decoding(0.05, 0.0)])
    return result


def test_every_bar_is_of_the_summary_and_both_ways_to_the_store_must_meet_it(tmp_path: Path) -> None:
    data = written(result_of(), tmp_path)
    assert data["summary"].keys() == {bar.key for bar in BARS}
    for key in ("cold_over_hit", "peer_over_hit", "whole_prefix_over_hit"):
        assert data["summary"][key].keys() == {"gateway", "direct"}


def test_ratios_are_of_pairs_and_over_the_layerwise_hit() -> None:
    result = result_of()
    # Of the prompts in turn: 2.0 / 0.5, 2.1 / 0.6, 2.2 / 0.7.
    assert result.summary["cold_over_hit"]["gateway"] == pytest.approx(2.1 / 0.6)
    assert result.summary["whole_prefix_over_hit"]["direct"] == pytest.approx(0.9 / 0.5)
    assert result.summary["peer_over_hit"]["direct"] == pytest.approx(1.1 / 0.5)
    row = next(row for row in result.rows if row.get("key") == "cold_over_hit")
    assert row["samples"] == pytest.approx([2.0 / 0.5, 2.1 / 0.6, 2.2 / 0.7])


def test_rows_say_in_which_order_they_were_measured_and_what_was_loaded() -> None:
    result = result_of()
    check_turns(result, [f"{path}: TTFT" for path in PATHS], PAIRS)
    assert [result.row(f"{path}: TTFT")["loaded_tokens"] for path in PATHS] == [0, *[2048] * 5]


def test_who_was_not_there_is_told_and_meets_no_bar() -> None:
    result = result_of(PATHS[:-1])
    assert result.row("LMCache")["not_run"] == "no --peer-python"
    assert "peer_over_hit" not in result.summary


def test_paths_that_compute_different_tokens_are_no_result() -> None:
    result = BenchmarkResult("vllm", {}, {}, quick=True)
    measured = {path: prefills(path) for path in PATHS} | {"LMCache": prefills("LMCache", token=8)}
    with pytest.raises(BenchmarkError, match="prompt 0 has different tokens"):
        add_ttft(result, measured)


def test_stalls_compare_the_tails_of_each_round() -> None:
    result = result_of()
    assert result.row(ALONE)["samples"] == pytest.approx([40.0, 50.0], rel=0.02)
    assert result.row(f"{BESIDE} / alone")["samples"] == pytest.approx([1.25, 1.0], rel=0.02)
    assert result.summary["hook_us_per_step"] == 40.0
    assert result.row(HOOKS)["steps"] == 200


def test_it_can_be_shown_and_drawn(tmp_path: Path) -> None:
    assert "hook_us_per_step" in shown(result_of(), BARS)
    check_drawn("vllm", result_of(), tmp_path)


# -- hooks --------------------------------------------------------------------------------------------


class Connector:
    def build_connector_meta(self, step: int) -> int:
        self.start_load_kv()
        return step

    def start_load_kv(self) -> None:
        time.sleep(0.002)

    def shutdown(self) -> None:
        time.sleep(0.1)


def test_hooks_are_timed_once_a_step_and_do_what_they_did() -> None:
    class Wrapped(Connector):
        pass

    hooks = Hooks()
    hooks.wrap(Wrapped, frozenset({"build_connector_meta", "start_load_kv", "absent"}))
    connector = Wrapped()
    connector.build_connector_meta(0)
    hooks.begin()
    assert [connector.build_connector_meta(step) for step in range(4)] == [0, 1, 2, 3]
    connector.start_load_kv()
    connector.shutdown()
    told = hooks.end()
    assert told["steps"] == 4
    assert told["by_hook"].keys() == {"build_connector_meta", "start_load_kv"}
    # Four within the step, one of its own, all of 2 ms; what was called inside is not counted twice.
    assert 2500 <= told["us_per_step"] < 20_000
    assert told["us_per_step"] == pytest.approx(sum(told["by_hook"].values()))
    assert 2000 <= told["median_us"] <= told["us_per_step"]
    assert not hasattr(Connector.build_connector_meta, "__wrapped__")


# -- settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"block_tokens": 16},
        {"block_tokens": 48},
        {"prefix_tokens": 2048 + 64},
        {"prefix_tokens": LMCACHE_CHUNK_TOKENS // 2},
        {"new_tokens": 0},
        {"decode_tokens": 0},
        {"pairs": 0},
        {"pairs": MIN_PAIRS - 1, "quick": False},
        {"stalls": MIN_PAIRS - 1, "pairs": MIN_PAIRS, "quick": False},
    ],
)
def test_settings_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        replace(SETTINGS, **wrong)


def test_prompts_begin_with_their_prefix_and_with_nobody_elses() -> None:
    prompts = [SETTINGS.prompt(number) for number in range(4)] + [SETTINGS.stranger(0)]
    assert [prompt[: SETTINGS.prefix_tokens] == SETTINGS.prefix(at) for at, prompt in enumerate(prompts[:4])] == [
        True
    ] * 4
    assert len({tuple(prompt[:32]) for prompt in prompts}) == 5
    assert {len(prompt) for prompt in prompts[:4]} == {SETTINGS.prefix_tokens + SETTINGS.new_tokens}
    assert prompts[0] == replace(SETTINGS, pairs=2).prompt(0)


def test_the_model_is_of_about_100m_parameters_and_results_name_no_paths() -> None:
    assert 90e6 < Llama().parameters < 110e6
    options = replace(SETTINGS, peer_python=Path("/a/python"), data=Path("/b")).to_dict()
    assert "/a/python" not in str(options)
    assert options["prefix_bytes"] == 2048 * 4 * 2 * 256 * 4


def test_paths_are_planned_with_lmcache_only_where_it_is() -> None:
    assert planned(SETTINGS) == list(PATHS[:-1])
    assert planned(replace(SETTINGS, peer_python=Path("python"))) == list(PATHS)


def test_engines_differ_in_the_connector_only() -> None:
    without, with_one = engine_arguments(SETTINGS, Path("m")), engine_arguments(SETTINGS, Path("m"), {"kv_role": "x"})
    assert with_one.pop("kv_transfer_config") == {"kv_role": "x"}
    assert without == with_one


def test_the_command_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    check_needs_s3(monkeypatch, "vllm", "--quick")

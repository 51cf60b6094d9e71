from __future__ import annotations

import pytest

from objectcache.connectors.vllm.naming.safety import AFTER, BEFORE, UNSAFE, policy_warning, rows, safety
from objectcache.connectors.vllm.naming.versions import check_version
from objectcache.connectors.vllm.options import VllmOptions
from objectcache.errors import ConfigError
from tests.connectors.vllm.described import engine, full, window


@pytest.mark.parametrize("version", ["0.28.0", "0.30.2", "0.32.0"])
def test_an_engine_that_recovers_rightly_may_wait_for_layers(version: str) -> None:
    assert safety(engine(version=version)).layerwise
    assert safety(engine(version=version, prefix_caching=False)).layerwise


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"groups": (full(0), window(1))}, "groups"),
        ({"recompute_failures": False}, "kv_load_failure_policy"),
        ({"new_runner": True}, "runner V2"),
        ({"async_scheduling": True}, "async scheduling"),
        ({"pipeline_parallel": 2}, "pipeline"),
        ({"draft_method": "ngram"}, "speculative"),
        ({"version": "0.33.0"}, "0.33"),
        ({"version": "0.27.1"}, "0.27"),
    ],
)
def test_elsewhere_only_what_is_verified_is_announced(change: dict[str, object], said: str) -> None:
    found = safety(engine(**change))
    assert not found.layerwise
    assert said in found.reason


def test_the_table_has_a_row_for_each_rule() -> None:
    table = rows()
    assert len(table) == len(UNSAFE) + 1
    assert [announced for _, _, announced, _ in table] == [AFTER] * len(UNSAFE) + [BEFORE]
    assert {versions for versions, *_ in table} == {"0.28 to 0.32"}
    assert all(why and where for _, where, _, why in table)


def test_the_failure_policy_is_warned_about() -> None:
    assert policy_warning(engine()) == ""
    assert "recompute" in policy_warning(engine(recompute_failures=False))


@pytest.mark.parametrize(("minor", "tested"), [((0, 27), False), ((0, 28), True), ((0, 32), True), ((0, 33), False)])
def test_versions_that_nobody_tested_are_an_error_that_says_what_to_do(minor: tuple[int, int], tested: bool) -> None:
    version = f"{minor[0]}.{minor[1]}.0"
    check_version(version, untested=True)
    if tested:
        check_version(version)
        return
    with pytest.raises(ConfigError, match="untested_vllm") as caught:
        check_version(version)
    assert version in str(caught.value)
    assert hasattr(VllmOptions, "untested_vllm")

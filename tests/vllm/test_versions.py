"""The connector says which vLLM it needs, and what is missing in its configuration, before anything is served."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vllm.engines import EngineError, Taken
from tests.vllm.support import VLLM, extra

pytestmark = pytest.mark.timeout(180)


def test_versions_that_nobody_tried_are_refused(engine: Taken, tmp_path: Path) -> None:
    for version in ("0.19.1", "0.99.0"):
        with pytest.raises(EngineError) as raised:
            engine("llama", extra(f"file://{tmp_path}"), environment={"OBJECTCACHE_TEST_VLLM_VERSION": version})
        assert raised.value.kind == "ConfigError"
        assert f"vLLM {version}" in raised.value.message
        assert "untested_vllm" in raised.value.message


def test_untested_versions_can_be_tried(engine: Taken, tmp_path: Path) -> None:
    settings = extra(f"file://{tmp_path}", untested_vllm=True)
    engine("llama", settings, environment={"OBJECTCACHE_TEST_VLLM_VERSION": "0.99.0"})


def test_wrong_options_are_named(engine: Taken, tmp_path: Path) -> None:
    with pytest.raises(EngineError) as raised:
        engine("llama", extra(f"file://{tmp_path}", dedline_s=1))
    assert raised.value.kind == "ConfigError"
    assert "dedline_s" in raised.value.message


def test_random_block_hashes_are_refused(engine: Taken, tmp_path: Path) -> None:
    """Other processes would never find what is stored under them."""
    random_seed = {"PYTHONHASHSEED": ""}
    if VLLM >= (0, 32):  # its seed is fixed, but for hashes that others can forge
        with pytest.raises(EngineError) as raised:
            engine("llama", extra(f"file://{tmp_path}"), prefix_caching_hash_algo="xxhash")
    else:
        with pytest.raises(EngineError) as raised:
            engine("llama", extra(f"file://{tmp_path}"), environment=random_seed)
    assert raised.value.kind == "ConfigError"

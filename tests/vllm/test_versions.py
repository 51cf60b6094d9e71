"""The connector says which vLLM it needs, and what is wrong in its configuration, before anything is served."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from objectcache.connectors.vllm.naming.versions import NEWEST, OLDEST, text_of
from objectcache.errors import ConfigError
from tests.vllm.engines import EngineError
from tests.vllm.pool import Taken
from tests.vllm.support import VLLM, extra

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize("version", ["0.19.1", "0.27.3", "0.33.0", "1.0.0"])
def test_versions_that_nobody_tried_are_refused(version: str, engine: Taken, tmp_path: Path) -> None:
    vllm, asked = engine.any(), extra(f"file://{tmp_path}")
    with pytest.raises(EngineError) as raised:
        vllm.made("llama", asked, version=version)
    assert raised.value.kind == "ConfigError"
    for said in (f"vLLM {version}", text_of(OLDEST), text_of(NEWEST), "untested_vllm"):
        assert said in raised.value.message
    vllm.made("llama", {**asked, "untested_vllm": True}, version=version)


@pytest.mark.filterwarnings("ignore")  # of what vLLM imports
def test_a_vllm_without_the_interface_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    base = importlib.import_module("vllm.distributed.kv_transfer.kv_connector.v1.base")
    monkeypatch.delattr(base, "SupportsHMA")
    monkeypatch.delitem(sys.modules, "objectcache.connectors.vllm.connector", raising=False)
    with pytest.raises(ConfigError, match="SupportsHMA") as raised:
        importlib.import_module("objectcache.connectors.vllm.connector")
    assert text_of(OLDEST) in str(raised.value)


def test_the_version_that_is_installed_is_taken(engine: Taken, tmp_path: Path) -> None:
    assert OLDEST <= VLLM <= NEWEST
    engine.any().made("llama", extra(f"file://{tmp_path}"))


def test_wrong_options_are_named(engine: Taken, tmp_path: Path) -> None:
    with pytest.raises(EngineError) as raised:
        engine.any().made("llama", extra(f"file://{tmp_path}", dedline_s=1))
    assert raised.value.kind == "ConfigError"
    assert "dedline_s" in raised.value.message


def test_hashes_that_others_can_forge_are_refused(engine: Taken, tmp_path: Path) -> None:
    with pytest.raises(EngineError) as raised:
        engine.any().made("llama", extra(f"file://{tmp_path}"), prefix_caching_hash_algo="xxhash")
    assert raised.value.kind == "ConfigError"
    assert "--prefix-caching-hash-algo sha256" in raised.value.message


@pytest.mark.skipif(VLLM >= (0, 32), reason="since then vLLM's hashes begin with the same everywhere")
def test_hashes_that_begin_with_chance_are_refused(engine: Taken, tmp_path: Path) -> None:
    with pytest.raises(EngineError) as raised:
        engine.any(environment={"PYTHONHASHSEED": None}).made("llama", extra(f"file://{tmp_path}"))
    assert raised.value.kind == "ConfigError"
    assert "PYTHONHASHSEED" in raised.value.message

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from objectcache.connectors.vllm.messages import Adapter
from objectcache.connectors.vllm.naming import weights as module
from objectcache.connectors.vllm.naming.facts import WeightsFacts
from objectcache.connectors.vllm.naming.weights import Weights
from objectcache.errors import ConfigError, NotReadyError


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


def folder(path: Path, data: bytes = b"weights", name: str = "model.safetensors") -> str:
    path.mkdir(exist_ok=True)
    (path / name).write_bytes(data)
    return str(path)


def facts(path: str = "", **fields: object) -> WeightsFacts:
    return WeightsFacts("acme/model", path, "{}", **fields)  # type: ignore[arg-type]


def test_models_and_drafts_are_named_by_their_files(tmp_path: Path) -> None:
    one, other = folder(tmp_path / "one"), folder(tmp_path / "other", b"WEIGHTS")
    found = Weights(facts(one), facts(other))
    assert found.model(10.0).startswith("sha256:")
    assert found.model() == Weights(facts(one)).model(10.0)
    assert found.draft() == Weights(facts(other)).model(10.0) != found.model()
    assert Weights(facts(one)).draft(10.0) == ""


def test_a_given_name_counts_instead(tmp_path: Path) -> None:
    found = Weights(facts(), facts(), given="v7")
    assert (found.model(10.0), found.draft(10.0)) == ("named:v7", "")


def test_look_ups_do_not_wait_for_long_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = threading.Event()

    def slowly(files: object, stop: object) -> str:
        read.wait(10.0)
        return "sha256:slow"

    monkeypatch.setattr(module, "fingerprint", slowly)
    found = Weights(facts(folder(tmp_path / "one")))
    start_s = time.monotonic()
    with pytest.raises(NotReadyError):
        found.model(0.01)
    assert time.monotonic() - start_s < 5.0
    read.set()
    assert found.model(10.0) == "sha256:slow"


def test_reading_ends_with_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("objectcache.connectors.fingerprint.PIECE_BYTES", 1)
    found = Weights(facts(folder(tmp_path / "one", bytes(1 << 20))))
    found.close()
    with pytest.raises(NotReadyError):
        found.model(10.0)


def test_weights_that_go_away_are_an_error_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(files: object, stop: object) -> str:
        raise ConfigError("gone")

    monkeypatch.setattr(module, "fingerprint", gone)
    found = Weights(facts(folder(tmp_path / "one")))
    for _ in range(2):
        with pytest.raises(ConfigError, match="gone"):
            found.model(10.0)


def test_dummy_weights_are_named_by_what_makes_them() -> None:
    names = {
        Weights(facts(load_format="dummy")).model(10.0),
        Weights(facts(load_format="dummy", device="cuda")).model(10.0),
        Weights(WeightsFacts("other", "", '{"a":1}', load_format="dummy")).model(10.0),
    }
    assert len(names) == 3
    assert all(name.startswith("dummy:") for name in names)


@pytest.mark.parametrize(
    "where",
    [
        facts(),
        facts("/nowhere"),
        facts(load_format="tensorizer"),
        facts(load_format="dummy", quantization="awq"),
    ],
)
def test_unknown_weights_are_an_error_that_says_what_to_set(where: WeightsFacts) -> None:
    with pytest.raises(ConfigError, match="model_fingerprint"):
        Weights(where)
    with pytest.raises(ConfigError, match="model_fingerprint"):
        Weights(facts(load_format="dummy"), where)


def test_adapters_are_those_of_their_files_when_they_were_first_seen(tmp_path: Path) -> None:
    weights = Weights(facts(load_format="dummy"))
    path = folder(tmp_path / "lora", name="adapter_model.safetensors")
    before = weights.adapter(Adapter("a", path, 1))
    assert weights.adapter(Adapter("b", path, 2)) == before == weights.adapter(Adapter("a", path, 1))
    folder(tmp_path / "lora", b"other weights", name="adapter_model.safetensors")
    with pytest.raises(ConfigError, match="have changed"):
        weights.adapter(Adapter("a", path, 1))
    assert weights.adapter(Adapter("a", path, 3)) != before
    assert weights.adapter(None) == ""
    with pytest.raises(ConfigError):
        weights.adapter(Adapter("a", "hub/name", 4))

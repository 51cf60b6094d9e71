"""`objectcache doctor`, on directories and at a running gateway."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import objectcache
from objectcache import Namespace, PartId, chain_keys
from objectcache.cli.main import app
from objectcache.connectors.status import OUTCOME, EngineStatus
from objectcache.errors import ConfigError
from tests.cache.explaining import namespace_of, prompt
from tests.gateway.arrivals import make


def store(url: str, namespace: Namespace) -> None:
    with objectcache.open(url) as cache:
        upload = cache.store(namespace, chain_keys(namespace, prompt(4)), PartId(0, 0), first=0, stop=4)
        assert upload is not None
        with upload:
            for size in upload.header.slice_bytes:
                upload.write_layer(bytes(size * upload.header.num_chunks))
            cache.commit([upload.finish()])


def write(folder: Path, url: str, namespace: Namespace, **fields: Any) -> Path:
    """The status of an engine that is this very process."""
    counters = fields.pop("counters", {"hits": 3.0, "saves": 1.0, "stored_bytes": 10.0})
    status = EngineStatus(
        "vllm 0.32.0", url, namespaces=(namespace.to_dict(),), counters=counters, written_s=time.time(), **fields
    )
    folder.mkdir(exist_ok=True)
    (folder / f"{status.pid}.json").write_text(status.to_json())
    return folder


def doctor(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["doctor", *words], env={"OBJECTCACHE_URL": None, "COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout


def problems(*words: str) -> dict[str, dict[str, Any]]:
    found = json.loads(doctor(*words, "--json", code=1))
    return {check["name"]: check for check in found["checks"] if not check["ok"]}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    running = make(tmp_path_factory.mktemp("gateway"))
    url = f"http://127.0.0.1:{running.port}/kvcache"
    store(url, namespace_of())
    yield url
    assert running.stop() == 0


@pytest.fixture(params=["directory", "gateway"])
def url(request: pytest.FixtureRequest, gateway: str, tmp_path: Path) -> str:
    if request.param == "gateway":
        return gateway
    url = (tmp_path / "cache").as_uri()
    store(url, namespace_of())
    return url


def test_where_all_is_well(url: str, tmp_path: Path) -> None:
    status = write(tmp_path / "engines", url, namespace_of())
    shown = doctor(url, "--status", str(status))
    assert "no problems" in shown
    assert "holds 16 tokens" in shown
    assert "no problems" in doctor("--status", str(status)), "the engine says which cache it is"
    assert {check["ok"] for check in json.loads(doctor(url, "--status", str(status), "--json"))["checks"]} == {True}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"hash_seed": "22"}, "hash_seed (22 here, (empty) stored)"),
        ({"kv_dtype": "float16"}, "kv_dtype (float16 here, bfloat16 stored)"),
        ({"epoch": 5}, "epoch (5 here, 0 stored)"),
        ({"model": "sha256:other"}, "model (sha256:other here, sha256:weights stored)"),
        ({"extra": {"engine": "vllm 0.28"}}, "extra.engine (vllm 0.28 here, (absent) stored)"),
    ],
)
def test_a_namespace_that_is_not_stored_is_compared(
    url: str, tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    status = write(tmp_path / "engines", url, namespace_of(**fields))
    found = problems(url, "--status", str(status))
    assert list(found) == ["namespace"]
    assert said in found["namespace"]["text"]
    assert f"PROBLEM namespace: {found['namespace']['text']}" in doctor(url, "--status", str(status), code=1)


def test_namespaces_of_an_engines_own_hashes_are_found_too(tmp_path: Path) -> None:
    url, namespace = (tmp_path / "cache").as_uri(), namespace_of(hash_algorithm="vllm sha256")
    store(url, namespace)
    assert "holds 16 tokens" in doctor(url, "--status", str(write(tmp_path / "engines", url, namespace)))


def test_an_engine_that_died(url: str, tmp_path: Path) -> None:
    process = os.fork()
    if not process:
        os._exit(0)
    os.waitpid(process, 0)
    status = write(tmp_path / "engines", url, namespace_of(), pid=process, host=socket.gethostname())
    assert list(problems(url, "--status", str(status))) == ["running"]


def test_look_ups_that_come_too_late(url: str, tmp_path: Path) -> None:
    counters = {f"{OUTCOME}late": 9.0, "saves": 1.0, "stored_bytes": 1.0}
    status = write(
        tmp_path / "engines", url, namespace_of(), counters=counters, errors=("after 2 s",), breaker_open=True
    )
    assert problems(url, "--status", str(status)).keys() == {"look-ups", "breaker", "error"}


def test_nobody_answers(tmp_path: Path) -> None:
    url = "http://127.0.0.1:9/kvcache"
    assert problems(url, "--status", str(write(tmp_path / "engines", url, namespace_of()))).keys() == {"reached"}


def test_there_is_nothing_at_all(tmp_path: Path) -> None:
    assert problems(str(tmp_path / "nowhere"), "--status", str(tmp_path)).keys() == {"bucket", "engines"}


def test_an_empty_cache(tmp_path: Path) -> None:
    url = (tmp_path / "cache").as_uri()
    objectcache.open(url).close()
    status = write(tmp_path / "engines", url, namespace_of(), counters={})
    assert problems(url, "--status", str(status)).keys() == {"stored", "namespace"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    url = (tmp_path / "cache").as_uri()
    store(url, namespace_of())
    objects = tmp_path / "cache" / "objects"
    objects.chmod(0o500)
    try:
        assert "room" in problems(url, "--status", str(write(tmp_path / "engines", url, namespace_of())))
    finally:
        objects.chmod(0o700)


def test_a_cache_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="which cache"):
        doctor("--status", str(tmp_path))


def test_help_has_examples() -> None:
    text = doctor("--help")
    assert "Examples" in text
    assert "objectcache doctor http://gateway:9000/kvcache" in text

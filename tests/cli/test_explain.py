"""`objectcache ls`, `inspect` and `why`, on directories, on a running gateway's data, and through the gateway."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import objectcache
from objectcache import Namespace, PartId, chain_keys, salt_digest
from objectcache.cli.main import app
from objectcache.errors import (
    BucketNotFoundError,
    ConfigError,
    GatewayUnavailableError,
    KeyNotFoundError,
    RequestError,
)
from tests.cache.explaining import FULL, World, flat_layout, namespace_of, prompt

START_S = 30.0


def run(*arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(app, arguments, input=text, env={"OBJECTCACHE_URL": None})


def shown(*arguments: str, text: str | None = None) -> str:
    result = run(*arguments, text=text)
    assert result.exit_code == 0, result.output
    return result.stdout


def as_json(*arguments: str, text: str | None = None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(shown(*arguments, "--json", text=text))
    return found


def refused(kind: type[Exception], *arguments: str, text: str | None = None) -> str:
    result = run(*arguments, text=text)
    assert result.exit_code
    assert isinstance(result.exception, kind), result.output
    return str(result.exception)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "cache")


@pytest.fixture
def ids(tmp_path: Path) -> str:
    path = tmp_path / "ids.json"
    path.write_text(json.dumps(prompt(6)))
    return str(path)


# -- on a directory -----------------------------------------------------------------------------------


def test_ls(world: World) -> None:
    namespace = namespace_of(adapter="lora [1]", epoch=7)
    names = world.store(namespace, prompt(6), cuts=(0, 2, 6))
    text = shown("ls", str(world.root), "--segments")
    for expected in (namespace.digest.hex()[:12], "lora [1]", "sha256:weights", "chunks of 4", *names, "(start)"):
        assert expected in text
    assert "1 namespace, 2 segments, 6 chunks" in text
    data = as_json("ls", world.root.as_uri())
    assert (data["total_segments"], data["total_chunks"], data["segments"]) == (2, 6, [])
    assert [found["digest"] for found in data["namespaces"]] == [namespace.digest.hex()[:16]]
    assert "and 1 more segments" in shown("ls", str(world.root), "-s", "--limit", "1")


def test_ls_of_nothing(world: World) -> None:
    world.open().close()
    assert "nothing is stored here" in shown("ls", str(world.root))


def test_inspect(world: World) -> None:
    namespace = namespace_of(salt_sha256=salt_digest("alice"))
    names = world.store(namespace, prompt(6), cuts=(0, 2, 6))
    key = chain_keys(namespace, prompt(6))[4].hex()
    url = str(world.root)
    assert "group full: rule prefix" in shown("inspect", namespace.digest.hex()[:8], url)
    for text in (shown("inspect", key[:8], url), shown("inspect", key, url)):
        assert all(name in text for name in names)
    assert "chunks" in shown("inspect", names[0], url)
    assert as_json("inspect", names[1].removeprefix(".kv/seg/"), url)["segment"]["first_chunk"] == 2
    assert "neither a namespace nor a stored chunk" in refused(KeyNotFoundError, "inspect", "0" * 8, url)


def test_inspect_and_verify(world: World) -> None:
    (name,) = world.store(namespace_of(), prompt(6))
    url = str(world.root)
    assert "verified: 2 layers" in shown("inspect", name, url, "--verify")
    assert [found["problem"] for found in as_json("inspect", name, url, "--verify")["verdicts"]] == ["", ""]
    path = world.object_path(name)
    data = bytearray(path.read_bytes())
    data[as_json("inspect", name, url)["layers"][1]["data_offset"]] ^= 1
    path.write_bytes(data)
    damaged = run("inspect", name, url, "--verify")
    assert damaged.exit_code == 1
    assert "layer 1: chunks 0 to 5 of a segment are not the committed ones" in damaged.stdout
    assert "damaged: 1 of 2 layers" in damaged.stdout
    digest = namespace_of().digest.hex()
    assert "give a segment's name" in refused(ConfigError, "inspect", digest, url, "--verify")


def test_why_with_tokens(world: World, ids: str, tmp_path: Path) -> None:
    namespace = namespace_of(flat_layout(shards=2))
    world.store(namespace, prompt(6))
    world.store(namespace, prompt(6), cuts=(0, 3), part=PartId(0, 1))
    url, digest = str(world.root), namespace.digest.hex()[:8]
    text = shown("why", url, "--tokens", ids, "--namespace", digest)
    assert "matches 12 of 24 tokens; stops at chunk 3 (tokens 12 to 15) because shard 1 of group full" in text
    assert "what each part holds of the prompt" in text
    words = " ".join(map(str, prompt(3)))
    for given in (words, json.dumps(prompt(3))):
        data = as_json("why", url, "--tokens", "-", "--namespace", digest, text=given)
        assert (data["reason"], data["matched_tokens"]) == ("all-matched", 12)
    path = tmp_path / "engine.json"
    path.write_bytes(namespace_of(flat_layout(shards=2), epoch=1).to_json())
    text = shown("why", url, "--tokens", ids, "--namespace", str(path))
    assert "differs in epoch (1 asked for, 0 stored)" in text
    assert "there the prompt matches 12 tokens" in text


def test_why_with_a_key(world: World) -> None:
    namespace = namespace_of()
    names = world.store(namespace, prompt(6), cuts=(0, 2, 4, 6))
    world.remove(names[1])
    key = chain_keys(namespace, prompt(6))[5].hex()
    text = shown("why", str(world.root), "--key", key[:12])
    assert "of a gap" in text
    assert "ask with the tokens" in text


def test_the_url_from_the_environment(world: World) -> None:
    world.store(namespace_of(), prompt(2))
    result = CliRunner().invoke(app, ["ls"], env={"OBJECTCACHE_URL": world.root.as_uri()})
    assert result.exit_code == 0
    assert "1 segment" in result.stdout
    assert "OBJECTCACHE_URL" in refused(ConfigError, "ls")


def test_what_is_asked_wrongly(world: World, ids: str, tmp_path: Path) -> None:
    world.store(namespace_of(), prompt(2))
    url = str(world.root)
    for url_, said in (
        ("ftp://bucket", "cannot be explained"),
        ("http://gateway:1", "http://host:port/bucket"),
        (str(tmp_path / "nowhere"), "there is no cache"),
    ):
        assert said in refused(ConfigError, "ls", url_)
    for arguments, said in (
        ((), "why what?"),
        (("--key", "0" * 8, "--tokens", ids), "why what?"),
        (("--tokens", ids), "--tokens needs --namespace"),
        (("--key", "0" * 8, "--namespace", "0" * 8), "needs no --namespace"),
        (("--tokens", str(tmp_path / "none"), "--namespace", "0" * 8), "cannot read the tokens"),
        (("--tokens", ids, "--namespace", "none.json"), "cannot read the namespace"),
    ):
        assert said in refused(ConfigError, "why", url, *arguments)
    for text, said in (
        ("1 2 x", "neither a JSON list"),
        ("[1, 2", "neither a JSON list"),
        ('[1, "2"]', "has '2' in it"),
        ("[[1]]", "has '[1]' in it"),
        ("[1, true]", "has 'True' in it"),
        (" ", "no token ids"),
    ):
        assert said in refused(ConfigError, "why", url, "--tokens", "-", "--namespace", "0" * 8, text=text)


@pytest.mark.parametrize("command", ["ls", "inspect", "why"])
def test_help_has_examples(command: str) -> None:
    text = shown(command, "--help")
    assert "Examples" in text
    assert f"objectcache {command} " in text


# -- beside and through a gateway ---------------------------------------------------------------------


@dataclass
class Running:
    data: Path
    address: str
    namespace: Namespace
    salted: Namespace
    names: list[str]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway that holds a prompt of six chunks in three segments, and two chunks of it under a salt."""
    data = tmp_path_factory.mktemp("gateway")
    command = [sys.executable, "-m", "objectcache", "serve", "--data", str(data), "--port", "0", "--ready-json"]
    command += ["--anonymous", "admin"]
    with subprocess.Popen([*command, "--workers", "1"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            address = f"http://{ready['host']}:{ready['port']}"
            namespace, salted = namespace_of(), namespace_of(salt_sha256=salt_digest("alice"))
            with objectcache.open(f"{address}/kvcache") as cache:
                tickets = []
                for owner, cuts in ((namespace, (0, 2, 4, 6)), (salted, (0, 2))):
                    for first, stop in pairwise(cuts):
                        upload = cache.store(owner, chain_keys(owner, prompt(6)), FULL, first=first, stop=stop)
                        assert upload is not None
                        with upload:
                            for size in upload.header.slice_bytes:
                                upload.write_layer(bytes(size * upload.header.num_chunks))
                            tickets.append(upload.finish())
                cache.commit(tickets)
            yield Running(data, address, namespace, salted, [ticket.header.name for ticket in tickets])
        finally:
            process.terminate()
            process.wait(START_S)


@pytest.fixture(params=["directory", "gateway"])
def url(request: pytest.FixtureRequest, running: Running) -> str:
    return str(running.data / "kvcache") if request.param == "directory" else f"{running.address}/kvcache"


def test_beside_and_through_a_gateway(running: Running, url: str, ids: str, tmp_path: Path) -> None:
    data = as_json("ls", url, "--segments")
    assert {item["name"] for item in data["segments"]} == set(running.names)
    assert [found["segments"] for found in data["namespaces"]] == [3, 1]
    assert all(found["last_used_s"] for found in data["namespaces"])
    assert "verified: 2 layers" in shown("inspect", running.names[0], url, "--verify")
    key = chain_keys(running.namespace, prompt(6))[3].hex()
    assert as_json("inspect", key[:10], url)["chains"][0]["runs"][-1]["segment"] == running.names[1]
    assert as_json("inspect", running.namespace.digest.hex()[:9], url)["fields"]["kv_dtype"] == "bfloat16"
    assert as_json("why", url, "--key", key)["reason"] == "all-matched"
    digest = running.namespace.digest.hex()
    assert as_json("why", url, "--tokens", ids, "--namespace", digest[:8])["reason"] == "all-matched"
    branch = json.dumps(prompt(6, other_from=4))
    found = as_json("why", url, "--tokens", "-", "--namespace", digest[:8], text=branch)
    assert (found["reason"], found["chunk"]) == ("branch", 4)
    path = tmp_path / "engine.json"
    path.write_bytes(namespace_of(epoch=5).to_json())
    found = as_json("why", url, "--tokens", ids, "--namespace", str(path))
    assert found["neighbours"][0]["differences"] == [{"field": "epoch", "asked": "5", "stored": "0"}]
    assert found["neighbours"][0]["matched_tokens"] == 24


def test_a_gateways_directory_with_one_bucket(running: Running) -> None:
    assert as_json("ls", str(running.data))["total_segments"] == 4


def test_through_the_gateway_keys_cannot_be_learnt(running: Running, ids: str) -> None:
    url, digest = f"{running.address}/kvcache", running.salted.digest.hex()
    assert "salted" in refused(RequestError, "why", url, "--tokens", ids, "--namespace", digest[:16])
    assert as_json("why", url, "--tokens", ids, "--namespace", digest)["matched_tokens"] == 8
    key = chain_keys(running.salted, prompt(6))[1].hex()
    told = [
        shown("ls", url, "--segments", "--json"),
        shown("inspect", digest[:12], url, "--json"),
        shown("inspect", key[:12], url, "--json"),
        shown("inspect", running.names[3], url, "--json"),
        shown("why", url, "--key", key[:12], "--json"),
    ]
    for text in told:
        assert key[:12] in text or digest[:12] in text
        assert not any(secret[:17] in text for secret in (key, digest, salt_digest("alice")))


def test_what_a_gateway_refuses(running: Running) -> None:
    assert "no bucket 'other'" in refused(BucketNotFoundError, "ls", f"{running.address}/other")
    assert "neither a namespace" in refused(KeyNotFoundError, "inspect", "0" * 8, f"{running.address}/kvcache")
    assert "no answer" in refused(GatewayUnavailableError, "ls", "http://127.0.0.1:1/kvcache")

"""What one vLLM stored, another one loads: after restarts, beside it, over other stores, on several ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from objectcache.transports.nixl import INSTALL, is_installed
from tests.gateway.fixtures import StartGateway
from tests.gateway.process import GatewayProcess
from tests.services import S3Service
from tests.vllm.pool import Taken
from tests.vllm.prompts import References, assert_hit, assert_same, full, tokens
from tests.vllm.stored import settle, stored_chunks
from tests.vllm.support import CACHED_MODELS, extra

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize("model", CACHED_MODELS)
def test_hit_after_vllm_and_gateway_restarted(
    model: str, engine: Taken, references: References, gateway: GatewayProcess
) -> None:
    asked = [tokens(f"restarted {model}", 310)]
    before = stored_chunks(gateway.url)
    vllm = engine(model, extra(gateway.url))
    assert_same(vllm.run(asked), references(model, asked))
    settle(vllm, gateway.url, more_than=before)
    gateway.restart()
    hit = engine.restart(vllm).run(asked)
    assert_same(hit, references(model, asked))
    assert_hit(hit, full(model, 310))


@pytest.mark.parametrize("model", CACHED_MODELS)
def test_two_vllms_share_a_gateway(model: str, engine: Taken, references: References, gateway: GatewayProcess) -> None:
    asked = [tokens(f"shared {model} {i}", 250) for i in range(2)]
    before = stored_chunks(gateway.url)
    one, other = engine(model, extra(gateway.url)), engine(model, extra(gateway.url))
    one.begin_run(asked[:1])
    other.begin_run(asked[1:])
    assert_same(one.end_run(), references(model, asked[:1]))
    assert_same(other.end_run(), references(model, asked[1:]))
    settle(other, gateway.url, more_than=settle(one, gateway.url, more_than=before) - 1)
    one.begin_run(asked)
    other.begin_run(asked)
    for hit in (one.end_run(), other.end_run()):
        assert_same(hit, references(model, asked))
        assert_hit(hit, 2 * full(model, 250))


@pytest.mark.skipif(not is_installed(), reason=INSTALL)
@pytest.mark.parametrize("model", CACHED_MODELS[:1])
def test_hit_that_nixl_writes(model: str, engine: Taken, references: References, gateway: GatewayProcess) -> None:
    asked = [tokens("written by NIXL", 290)]
    before = stored_chunks(gateway.url)
    vllm = engine(model, extra(gateway.url, target="nixl"))
    assert_same(vllm.run(asked), references(model, asked))
    settle(vllm, gateway.url, more_than=before)
    assert_same(hit := vllm.run(asked), references(model, asked))
    assert_hit(hit, full(model, 290))


@pytest.mark.parametrize("model", CACHED_MODELS)
def test_direct_to_files(model: str, engine: Taken, references: References, tmp_path: Path) -> None:
    asked = [tokens("to files", 290)]
    url = f"file://{tmp_path}/cache"
    vllm = engine(model, extra(url))
    assert_same(vllm.run(asked), references(model, asked))
    settle(vllm, url, more_than=0)
    assert_same(hit := vllm.run(asked), references(model, asked))
    assert_hit(hit, full(model, 290))
    hit = engine.restart(vllm).run(asked)
    assert_same(hit, references(model, asked))
    assert_hit(hit, full(model, 290))


def test_direct_to_a_bucket(
    engine: Taken, references: References, seaweedfs: S3Service, s3_credentials: None, tmp_path: Path
) -> None:
    asked = [tokens("to a bucket", 290)]
    url = f"s3://{seaweedfs.make_bucket()}/kv?endpoint={seaweedfs.endpoint}"
    environment = s3_environment_of(tmp_path)
    vllm = engine("llama", extra(url), environment=environment)
    assert_same(vllm.run(asked), references("llama", asked))
    settle(vllm, url, more_than=0)
    assert_same(hit := vllm.run(asked), references("llama", asked))
    assert_hit(hit, full("llama", 290))


def s3_environment_of(folder: Path) -> dict[str, str]:
    """For engines: who they are, and where catalogs of buckets are."""
    from tests.services import ACCESS_KEY, SECRET_KEY

    return {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "XDG_CACHE_HOME": str(folder / "state"),
        "VLLM_CACHE_ROOT": str(Path.home() / ".cache" / "vllm"),
    }


@pytest.mark.parametrize("ranks", [2])
def test_tensor_parallel(ranks: int, engine: Taken, references: References, own_gateway: StartGateway) -> None:
    """Each rank its shard; what one rank stored alone is no hit."""
    gateway = own_gateway()
    asked = [tokens(f"ranks {i}", 300) for i in range(2)]
    settings: dict[str, Any] = {"tensor_parallel_size": ranks, "distributed_executor_backend": "mp"}
    vllm = engine("llama", extra(gateway.url), **settings)
    cold = vllm.run(asked)
    assert_same(cold, references("llama", asked))
    assert cold.loaded == 0
    settle(vllm, gateway.url, more_than=0)
    hit = vllm.run(asked)
    assert_same(hit, references("llama", asked))
    assert_hit(hit, 2 * full("llama", 300))
    alone = engine("llama", extra(gateway.url)).run(asked[:1])
    assert_same(alone, references("llama", asked[:1]))
    assert alone.loaded == 0, "one rank alone has other shards"

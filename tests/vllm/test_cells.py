"""vLLM with the connector says what it says without: prompts seen before or not, in all ways in which they are run."""

from __future__ import annotations

import pytest

from tests.gateway.process import GatewayProcess
from tests.vllm.pool import Taken
from tests.vllm.prompts import References, assert_hit, assert_same, full, tokens
from tests.vllm.stored import settle, stored_chunks
from tests.vllm.support import CACHED_MODELS, CHUNKING_MODELS, MODELS, extra

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize("model", MODELS)
def test_what_is_said_depends_on_all_of_the_prompt(model: str, references: References) -> None:
    """Otherwise wrong KV would go unseen."""
    rest = tokens("rest", 288)
    first, other = references(model, [tokens("one", 32) + rest, tokens("other", 32) + rest])
    assert first.tokens != other.tokens or first.logprobs[0] != pytest.approx(other.logprobs[0], abs=0.01)


@pytest.mark.parametrize("model", MODELS)
def test_cold_then_hit(model: str, engine: Taken, references: References, gateway: GatewayProcess) -> None:
    asked = [tokens(f"cold {model}", 330)]
    before = stored_chunks(gateway.url)
    vllm = engine(model, extra(gateway.url))
    cold = vllm.run(asked)
    assert_same(cold, references(model, asked))
    assert cold.loaded == 0
    if model not in CACHED_MODELS:
        return
    settle(vllm, gateway.url, more_than=before)
    hit = vllm.run(asked)
    assert_same(hit, references(model, asked))
    assert_hit(hit, full(model, 330))
    assert hit.outputs[0] is not None
    assert hit.outputs[0].cached == full(model, 330)


@pytest.mark.parametrize("model", CACHED_MODELS)
def test_partial_hit(model: str, engine: Taken, references: References, gateway: GatewayProcess) -> None:
    shared = tokens(f"partial {model}", 200)
    first, second = shared + tokens("first", 120), shared + tokens("second", 90)
    before = stored_chunks(gateway.url)
    vllm = engine(model, extra(gateway.url))
    vllm.run([first])
    settle(vllm, gateway.url, more_than=before)
    hit = vllm.run([second])
    assert_same(hit, references(model, [second]))
    assert_hit(hit, full(model, 201))


@pytest.mark.parametrize("model", CACHED_MODELS)
def test_longer_prompts_and_generated_tokens_are_found(
    model: str, engine: Taken, references: References, gateway: GatewayProcess
) -> None:
    """As a conversation grows: what was generated is the next prompt's prefix."""
    asked = tokens(f"turns {model}", 150)
    before = stored_chunks(gateway.url)
    vllm = engine(model, extra(gateway.url))
    (said,) = references(model, [asked], max_tokens=40)
    first = vllm.run([asked], max_tokens=40)
    assert_same(first, [said])
    settle(vllm, gateway.url, more_than=before)
    longer = asked + said.tokens + tokens("next turn", 30)
    hit = vllm.run([longer])
    assert_same(hit, references(model, [longer]))
    # The last token that was said was never computed.
    assert_hit(hit, full(model, len(asked) + len(said.tokens)))


@pytest.mark.parametrize("model", CACHED_MODELS)
def test_batch_of_eight_with_shared_prefixes(
    model: str, engine: Taken, references: References, gateway: GatewayProcess
) -> None:
    shared = [tokens(f"batch {model} {i}", 160) for i in range(2)]
    asked = [shared[i % 2] + tokens(f"tail {i}", 20 + 11 * i) for i in range(8)]
    before = stored_chunks(gateway.url)
    vllm = engine(model, extra(gateway.url))
    cold = vllm.run(asked)
    assert_same(cold, references(model, asked))
    assert cold.loaded == 0
    settle(vllm, gateway.url, more_than=before)
    hit = vllm.run(asked)
    assert_same(hit, references(model, asked))
    assert_hit(hit, sum(full(model, len(prompt)) for prompt in asked))


@pytest.mark.parametrize("model", CACHED_MODELS)
def test_arriving_one_by_one(model: str, engine: Taken, references: References, gateway: GatewayProcess) -> None:
    """Some hit, some do not, some come while others decode."""
    stored = [tokens(f"known {model} {i}", 140 + 30 * i) for i in range(3)]
    asked = [*stored, *[tokens(f"unknown {model} {i}", 100 + 20 * i) for i in range(3)]]
    before = stored_chunks(gateway.url)
    vllm = engine(model, extra(gateway.url))
    vllm.run(stored)
    settle(vllm, gateway.url, more_than=before)
    run = vllm.run(asked, max_tokens=24, arrive_s=[0.03 * (5 - i) for i in range(6)])
    assert_same(run, references(model, asked, max_tokens=24))
    assert_hit(run, sum(full(model, len(prompt)) for prompt in stored))


@pytest.mark.parametrize("model", CACHED_MODELS)
def test_other_salts_and_requests_that_opt_out_load_nothing(
    model: str, engine: Taken, references: References, gateway: GatewayProcess
) -> None:
    asked = [tokens(f"apart {model}", 200)]
    before = stored_chunks(gateway.url)
    vllm = engine(model, extra(gateway.url))
    vllm.run(asked)
    settle(vllm, gateway.url, more_than=before)
    for run in (
        vllm.run(asked, salt="another tenant"),
        vllm.run(asked, transfer_params={"objectcache": {"load": False}}),
    ):
        assert_same(run, references(model, asked))
        assert run.loaded == 0


@pytest.mark.parametrize("model", [model for model in CHUNKING_MODELS if model in CACHED_MODELS])
def test_chunked_prefill(model: str, engine: Taken, references: References, gateway: GatewayProcess) -> None:
    shared = tokens(f"pieces {model}", 260)
    asked = [shared + tokens(f"pieces {i}", 180 + 40 * i) for i in range(3)]
    before = stored_chunks(gateway.url)
    vllm = engine(model, extra(gateway.url), max_num_batched_tokens=96, max_num_seqs=4)
    cold = vllm.run(asked)
    assert_same(cold, references(model, asked))
    settle(vllm, gateway.url, more_than=before)
    hit = vllm.run(asked)
    assert_same(hit, references(model, asked))
    assert_hit(hit, sum(full(model, len(prompt)) for prompt in asked))
    others = [shared + tokens(f"other pieces {i}", 200) for i in range(2)]
    partial = vllm.run(others)
    assert_same(partial, references(model, others))
    if model != "gemma3":  # vLLM has given most of a window's blocks away when the last piece is computed
        assert_hit(partial, 2 * full(model, 261))


@pytest.mark.parametrize("model", [model for model in CHUNKING_MODELS if model in CACHED_MODELS])
def test_prefix_caching_on_and_then_reset(
    model: str, engine: Taken, references: References, gateway: GatewayProcess
) -> None:
    asked = tokens(f"kept {model}", 300)
    before = stored_chunks(gateway.url)
    vllm = engine(model, extra(gateway.url), enable_prefix_caching=True)
    assert_same(vllm.run([asked]), references(model, [asked]))
    settle(vllm, gateway.url, more_than=before)
    kept = vllm.run([asked])
    assert_same(kept, references(model, [asked]))
    assert (kept.kept, kept.loaded) == (full(model, 300), 0)
    vllm.reset()
    loaded = vllm.run([asked])
    assert_same(loaded, references(model, [asked]))
    assert (loaded.kept, loaded.loaded) == (0, full(model, 300))
    kept = vllm.run([asked])
    assert_same(kept, references(model, [asked]))
    assert (kept.kept, kept.loaded) == (full(model, 300), 0), "what was loaded is in vLLM's prefix cache, too"


@pytest.mark.parametrize("model", [model for model in CHUNKING_MODELS if model in CACHED_MODELS])
def test_what_vllm_has_is_not_fetched(
    model: str, engine: Taken, references: References, gateway: GatewayProcess
) -> None:
    asked = tokens(f"begun {model}", 330)
    before = stored_chunks(gateway.url)
    vllm = engine(model, extra(gateway.url), enable_prefix_caching=True)
    vllm.run([asked])
    settle(vllm, gateway.url, more_than=before)
    vllm.reset()
    vllm.run([asked[:130]])
    delivered = gateway.metric("objectcache_delivered_bytes_total")
    run = vllm.run([asked])
    assert_same(run, references(model, [asked]))
    assert run.kept + run.loaded == full(model, 330)
    assert run.kept == full(model, 130 + 1)
    sent = gateway.metric("objectcache_delivered_bytes_total") - delivered
    whole = vllm_bytes(model, full(model, 330))
    assert 0 < sent <= whole * run.loaded / full(model, 330) * 1.02


def vllm_bytes(model: str, count: int) -> int:
    """KV of `count` tokens in float32: four layers of K and V, two heads of 32 numbers each."""
    assert model in CHUNKING_MODELS
    return count * 4 * 2 * 2 * 32 * 4


@pytest.mark.parametrize("model", CACHED_MODELS)
def test_preemption(model: str, engine: Taken, references: References, gateway: GatewayProcess) -> None:
    """Blocks for one request of the longest kind, and a few more; what is stored comes from an engine with room."""
    asked = [tokens(f"pressed {model} {i}", 150) for i in range(4)]
    expected = references(model, asked, max_tokens=64)
    blocks = {"llama": 21, "gemma3": 34, "deepseek2": 42}[model]
    pressed = engine(model, extra(gateway.url), num_gpu_blocks_override=blocks, max_model_len=512)
    free = pressed.ask("free_blocks")
    cold = pressed.run(asked, max_tokens=64)
    assert_same(cold, expected)
    assert cold.counted["preemptions"] > 0
    pressed.settle()
    before = stored_chunks(gateway.url)
    roomy = engine(model, extra(gateway.url))
    asked += [tokens(f"pressed later {model} {i}", 150) for i in range(4)]
    expected = references(model, asked, max_tokens=64)
    assert_same(roomy.run(asked, max_tokens=64), expected)
    settle(roomy, gateway.url, more_than=before)
    hit = pressed.run(asked, max_tokens=64)
    assert_same(hit, expected)
    assert hit.counted["preemptions"] > 0
    assert hit.loaded >= 8 * full(model, 150)
    assert hit.of("failures") == 0
    pressed.settle()
    assert pressed.ask("free_blocks") == free

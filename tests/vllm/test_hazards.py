"""Nothing wrong is read, nothing wrong is stored, nothing is kept: with vLLM's real scheduler."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from objectcache.connectors.vllm.options import AdmissionMode
from tests.vllm.hazards.engine import TELLS_TABLES, Setting
from tests.vllm.hazards.script import Script
from tests.vllm.hazards.world import World

PROMPT = list(range(1, 30))

SETTINGS = {
    "plain": Setting(safe=True),
    "plain-one-rank": Setting(safe=True, ranks=1),
    "plain-at-once": Setting(safe=True, mode=AdmissionMode.AT_ONCE),
    "plain-whole": Setting(safe=True, mode=AdmissionMode.WHOLE),
    "plain-verified": Setting(),
    "no-caching": Setting(safe=True, caching=False, mode=AdmissionMode.AT_ONCE),
    "long-prefills": Setting(safe=True, mode=AdmissionMode.AT_ONCE, longest_prefill=8),
    "windows": Setting(windowed=True),
    "windows-whole": Setting(windowed=True, mode=AdmissionMode.WHOLE),
    "async": Setting(asynchronous=True),
    "async-whole": Setting(asynchronous=True, mode=AdmissionMode.WHOLE),
    "async-no-caching": Setting(asynchronous=True, caching=False),
    "second": Setting(second=True),
    "drafts": Setting(safe=True, drafts=3, mode=AdmissionMode.AT_ONCE),
    "async-second": Setting(asynchronous=True, second=True, caching=False),
    "async-windows": Setting(asynchronous=True, windowed=True),
    "async-windows-whole": Setting(asynchronous=True, windowed=True, mode=AdmissionMode.WHOLE),
}
ROUGH = Script(fails=0.2, aborts=0.02, resets=0.002)


def drawn(setting: Setting, seed: str, script: Script = ROUGH) -> World:
    """A few families of prompts, in waves, so that later ones find what earlier ones stored."""
    draws = random.Random(seed)
    setting = replace(setting, blocks=draws.choice((26, 34, 64)) * setting.groups)
    world = World(setting, script, seed)
    families = [[100 * family + at for at in range(1, 41)] for family in (0, 1)]
    for wave in range(4):
        for number in range(draws.randint(1, 5)):
            prompt = draws.choice(families)[: draws.randint(3, 40)] + [450 + number] * draws.randint(0, 3)
            world.add(f"{wave}.{number}", prompt, draws.randint(1, 12))
            for _ in range(draws.randint(0, 3)):
                world.step()
        if draws.random() < 0.7:
            world.run()
            if draws.random() < 0.15:
                world.reset(new_weights=True)
            else:
                world.forget()
    world.run()
    world.check()
    return world


NO_TABLES = "this vLLM does not tell connectors which blocks windows have passed: nothing of them is stored"


@pytest.mark.parametrize("name", SETTINGS)
def test_nothing_wrong_is_read_or_stored_or_kept(name: str) -> None:
    seen: Counter[str] = Counter()
    for run in range(25):
        world = drawn(SETTINGS[name], f"{name}/{run}")
        seen += world.counts + world.side.counters
    setting = SETTINGS[name]
    if setting.windowed and not TELLS_TABLES:
        assert not seen["stored_chunks"]
        pytest.skip(NO_TABLES)
    wanted = {"hits", "look_ups", "missed", "aborts", "stored_chunks", "resets", "new_weights", "failed:scripted"}
    wanted |= {"failed_loads", "unclean_steps"} if setting.safe else set()
    wanted |= {"parked_loads" if setting.mode is AdmissionMode.WHOLE else "loads"}
    wanted |= {"rejected"} if setting.drafts else set()
    assert {one for one in wanted if not seen[one]} == set()


def stored(setting: Setting, script: Script | None = None, seed: str = "named") -> World:
    """PROMPT is stored, and vLLM has forgotten it."""
    world = World(setting, script, seed)
    world.add("first", PROMPT)
    world.run()
    world.forget()
    return world


def fail(world: World, rank: int) -> None:
    """Every transfer of a rank fails from here on."""
    world.ranks[rank].draws.script = replace(world.ranks[rank].draws.script, fails=1.0)


LAYERWISE = Setting(safe=True, mode=AdmissionMode.AT_ONCE)
SLOWLY = Script(look_up_steps=1, transfer_steps=6, copy_steps=6, exactly=True)


def test_what_was_stored_is_loaded() -> None:
    world = stored(LAYERWISE)
    world.add("again", [*PROMPT, 9, 9])
    world.run()
    world.check()
    assert world.side.counters["hit_tokens"] == 28
    assert world.counts["loads"] == 2


def test_a_load_that_fails_on_one_rank_is_computed_by_all() -> None:
    world = stored(LAYERWISE, SLOWLY)
    fail(world, 1)
    world.add("again", PROMPT)
    world.run()
    world.check()
    assert world.counts["failed_loads"] == 1
    assert world.side.counters["unclean_steps"] == 1


def test_who_would_share_blocks_that_are_being_loaded_waits_for_them() -> None:
    """vLLM has one of the two compute what failed, and the other read it. If that one goes, nobody computes it."""
    world = stored(LAYERWISE, SLOWLY)
    fail(world, 1)
    world.add("one", [*PROMPT, 1])
    world.add("other", [*PROMPT, 2])
    world.until("failed_loads")
    world.abort("one")
    world.run()
    world.check()
    assert world.side.counters["shared_open_load"] > 0


def test_blocks_of_a_failed_load_are_not_found() -> None:
    """vLLM leaves them in its prefix cache, for the one who computes them."""
    world = stored(LAYERWISE, SLOWLY)
    fail(world, 0)
    world.add("one", PROMPT)
    world.until("failed_loads")
    world.abort("one")
    world.add("other", PROMPT)
    world.run()
    world.check()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_blocks_are_held_while_they_are_copied(asynchronous: bool) -> None:
    world = World(Setting(asynchronous=asynchronous, caching=False, blocks=34), replace(SLOWLY, copy_steps=20))
    for number in range(6):
        world.add(str(number), [number, *PROMPT][:16], tokens=2)
    world.until("save_jobs")
    assert world.side.has_pending_push_work()
    world.run()
    world.check()
    assert world.counts["stored_chunks"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_preempted_request_is_looked_up_again(asynchronous: bool) -> None:
    world = World(Setting(asynchronous=asynchronous, caching=False, blocks=24), Script(copy_steps=0))
    for number in range(4):
        world.add(str(number), [100 + number, *PROMPT][:21], tokens=40)
    world.run()
    world.check()
    assert world.counts["preemptions"]
    assert world.side.counters["look_ups"] > 4
    assert world.side.counters["hits"]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("windowed", [False, True])
def test_a_request_that_ends_in_mid_load_gives_its_blocks_back(asynchronous: bool, windowed: bool) -> None:
    if windowed and not TELLS_TABLES:
        pytest.skip(NO_TABLES)
    world = stored(Setting(asynchronous=asynchronous, windowed=windowed, mode=AdmissionMode.WHOLE), SLOWLY)
    world.add("again", PROMPT)
    world.until("hits")
    world.abort("again")
    world.run()
    world.check()
    assert world.counts["dropped_in_mid_load"] == 2
    assert world.counts["parked_loads"] == 0


def test_a_request_that_ends_while_it_waits_is_dropped() -> None:
    world = stored(LAYERWISE, replace(SLOWLY, look_up_steps=5))
    world.add("again", PROMPT)
    world.step()
    world.abort("again")
    world.run()
    world.check()
    assert world.side.counters["hits"] == 0


def test_a_rank_that_says_nothing_costs_a_request_the_deadline_once() -> None:
    world = stored(LAYERWISE)
    world.ranks[1].draws.script = Script(look_up_steps=10_000, exactly=True)
    world.add("again", PROMPT)
    began = world.now
    world.run()
    world.check()
    assert world.side.counters["late"] == 1
    assert 1.0 <= world.now - began < 1.5


def test_after_a_reset_nothing_from_before_is_found() -> None:
    world = stored(LAYERWISE)
    world.reset(new_weights=True)
    world.add("again", PROMPT)
    world.run()
    world.check()
    assert world.side.counters["hits"] == 0


def test_what_is_on_its_way_when_weights_change_is_not_loaded() -> None:
    world = stored(Setting(), SLOWLY)
    world.add("again", PROMPT)
    world.until("look_ups", more_than=1)
    for _ in range(3):
        world.step()
    world.reset(new_weights=True)
    world.run()
    world.check()
    assert world.side.counters["look_ups"] == 3


@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_runs_across_a_reset_is_not_stored(asynchronous: bool) -> None:
    world = World(Setting(asynchronous=asynchronous))
    world.add("before", PROMPT, tokens=20)
    for _ in range(6):
        world.step()
    world.reset()
    world.run()
    world.check()
    assert not [key for key in world.store if key[0]], "under the new epoch"
    assert world.side.counters["not_saved"] > 0


def test_events_tell_what_became_visible_on_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.core.kv_cache_utils import maybe_convert_block_hash

    world = World(Setting(events=True), SLOWLY)
    seen: list[Any] = []
    take = world.side.take_events
    monkeypatch.setattr(world.side, "take_events", lambda: seen.extend(take()))
    world.add("first", PROMPT, tokens=40)
    hashes = world.scheduler.requests["first"].block_hashes  # more of them come as it decodes
    world.run()
    world.add("other", [9, 9], tokens=12)  # what is on its way into the store keeps no engine awake
    world.run()
    world.check()
    assert {(one.medium, one.block_size) for one in seen} == {("objectcache", 4)}
    named = [maybe_convert_block_hash(hash) for hash in hashes]
    assert [hash for one in seen[:2] for hash in one.block_hashes] == named[:17]
    assert [one.parent_block_hash for one in seen[:2]] == [None, named[6]]
    assert seen[0].token_ids == PROMPT[:28]


@pytest.mark.parametrize(
    ("wish", "hits", "stores"),
    [({"load": False}, 0, True), ({"store": False}, 1, False), ({}, 1, True), (True, 1, True)],
)
def test_a_request_may_opt_out(wish: object, hits: int, stores: bool) -> None:
    world = stored(LAYERWISE)
    kept = len(world.store)
    world.add("again", [*PROMPT, *range(60, 80)], params={"objectcache": wish})
    world.run()
    world.check()
    assert world.side.counters["hits"] == hits
    assert (len(world.store) > kept) is stores


def test_this_suite_sees_what_is_wrong() -> None:
    """Loads that are announced unverified, under asynchronous scheduling: vLLM's own recovery does not suffice."""
    world = stored(Setting(safe=True, asynchronous=True, mode=AdmissionMode.AT_ONCE), SLOWLY)
    fail(world, 1)
    world.add("again", PROMPT, tokens=8)

    def goes_on() -> None:
        world.run()
        world.check()

    with pytest.raises(AssertionError):
        goes_on()

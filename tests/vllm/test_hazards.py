"""Nothing wrong is read, nothing wrong is stored, nothing is kept: with vLLM's real scheduler."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from objectcache.connectors.vllm.options import AdmissionMode
from tests.vllm.hazards.engine import Setting
from tests.vllm.hazards.script import Script
from tests.vllm.hazards.world import World

PREFIX = list(range(1, 25))

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
    "async-windows": Setting(asynchronous=True, windowed=True),
    "async-windows-whole": Setting(asynchronous=True, windowed=True, mode=AdmissionMode.WHOLE),
}
ROUGH = Script(fails=0.2, aborts=0.04, resets=0.003)


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


@pytest.mark.parametrize("name", SETTINGS)
def test_nothing_wrong_is_read_or_stored_or_kept(name: str) -> None:
    seen: Counter[str] = Counter()
    for run in range(25):
        world = drawn(SETTINGS[name], f"{name}/{run}")
        seen += world.counts + world.side.counters
    print(name, dict(seen))
    assert seen["hits"] > 0

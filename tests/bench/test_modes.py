"""`bench modes` on prefixes so short that it takes seconds: what it writes, and that caps are obeyed."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from objectcache.bench.bars import judge
from objectcache.bench.modes import BARS, ModesSettings, run_modes
from objectcache.cache.base import CHUNKWISE
from objectcache.errors import ConfigError
from objectcache.scheduling.modes import Reason

SHAPE = "llama-70b-tp8"


def test_a_quick_run(tmp_path: Path) -> None:
    settings = ModesSettings(
        shapes=(SHAPE,),
        contexts=(256,),
        hits=(50.0,),
        caps=("none", "10MB/s"),
        fixed=(1, CHUNKWISE),
        rounds=2,
        quick=True,
    )
    result = run_modes(settings, Console(quiet=True), tmp_path)
    assert not list(tmp_path.iterdir())
    names = [f"{SHAPE}, 256 tokens, 50 %, cap {cap}" for cap in settings.caps]
    for name in names:
        assert [len(result.row(f"{name}: {way}")["samples"]) for way in ("1", "all", "chosen")] == [2, 2, 2]
        assert result.row(name)["reason"] in set(Reason)
        assert 1 <= result.row(name)["layers_per_unit"] <= 80
    # 5 MiB at 10 MB/s.
    assert result.row(f"{names[1]}: all")["min"] > 400
    assert result.summary["over_best_fixed"].keys() == set(names)
    (verdict,) = judge(BARS, result.summary)
    assert verdict.value == max(result.summary["over_best_fixed"].values())


def test_settings() -> None:
    for wrong in ({"shapes": ("other",)}, {"rounds": 1}):
        with pytest.raises(ConfigError):
            ModesSettings(**wrong)

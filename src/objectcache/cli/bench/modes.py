"""`objectcache bench modes`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from objectcache.bench.bars import judge
from objectcache.bench.modes import BARS, ModesSettings, run_modes
from objectcache.bench.report import show, show_verdicts
from objectcache.cli.bench.options import QUICK_PAIRS, CheckOption, JsonOption, PairsOption, QuickOption


def command(
    json: JsonOption = None,
    shape: Annotated[list[str] | None, typer.Option(help="Only these shapes.", show_default="all")] = None,
    context: Annotated[list[int] | None, typer.Option(help="Contexts, in tokens.", show_default="1024 4096")] = None,
    bandwidth: Annotated[
        list[str] | None, typer.Option(help="Caps, as 'serve --bandwidth' takes them, or 'none'.", show_default="none")
    ] = None,
    pairs: PairsOption = None,
    data: Annotated[
        Path | None, typer.Option(help="Directory for what is stored.", show_default="the system's temporary one")
    ] = None,
    quick: QuickOption = False,
    check: CheckOption = False,
) -> None:
    """The time to the first token with the gateway's choice of layers per unit, beside fixed ones, in turn.

    The engine waits its windows, which are those of an H100; bytes come from a gateway on this machine.

    [bold]Examples[/bold]

      objectcache bench modes --data /dev/shm --json modes.json --check
    """
    usual = ModesSettings()
    settings = ModesSettings(
        shapes=tuple(shape) if shape else usual.shapes,
        contexts=tuple(context) if context else usual.contexts,
        caps=tuple(bandwidth) if bandwidth else usual.caps,
        rounds=pairs or (QUICK_PAIRS if quick else usual.rounds),
        quick=quick,
    )
    console = Console()
    result = run_modes(settings, console, data)
    show(console, result)
    if json is not None:
        result.write(json)
    verdicts = judge(BARS, result.summary)
    show_verdicts(console, verdicts)
    if check and not all(verdict.met for verdict in verdicts):
        raise typer.Exit(1)

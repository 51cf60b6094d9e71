"""What the commands of `objectcache bench` share: options, and what is done with a result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from objectcache.bench.bars import Bar, judge
from objectcache.bench.report import show, show_verdicts
from objectcache.bench.result import MIN_PAIRS, BenchmarkResult
from objectcache.bench.shapes import LLAMA_31_8B
from objectcache.errors import ConfigError

QUICK_PAIRS = 3

JsonOption = Annotated[Path | None, typer.Option("--json", help="Write all samples there.", show_default=False)]
PlotOption = Annotated[
    Path | None, typer.Option("--plot", help="Draw a PNG; needs matplotlib (the extra 'plot').", show_default=False)
]
PairsOption = Annotated[
    int | None, typer.Option("--pairs", help="Pairs of measurements per ratio.", show_default=str(MIN_PAIRS))
]
LayersOption = Annotated[
    int | None, typer.Option("--layers", help="Layers of the model.", min=1, show_default=str(LLAMA_31_8B.num_layers))
]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="Where to store meanwhile.", show_default="the system's temporary directory"),
]
GatewayOption = Annotated[
    list[str] | None,
    typer.Option("--gateway", help="A setting of the gateway, as NAME=VALUE; may be repeated.", show_default=False),
]
QuickOption = Annotated[bool, typer.Option("--quick", help="Few measurements, marked as such: does it work?")]
CheckOption = Annotated[bool, typer.Option("--check", help="Exit with 1 unless every bar is met.")]


def gateway_settings(texts: Sequence[str] | None) -> dict[str, str]:
    """Raises ConfigError."""
    settings = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not (name.isidentifier() and equals):
            raise ConfigError(f"--gateway takes a setting as NAME=VALUE, got {text!r}")
        settings[name] = value
    return settings


def require(needed: bool, package: str, what: str, extra: str) -> None:
    """Before anything is measured. Raises ConfigError where `what` needs a package that is not installed."""
    if needed and find_spec(package) is None:
        raise ConfigError(f"{what} needs {package}: pip install 'objectcache[{extra}]'")


def finish(
    console: Console,
    result: BenchmarkResult,
    bars: Sequence[Bar],
    *,
    json: Path | None,
    plot: Path | None,
    draw: Callable[[], Callable[[BenchmarkResult, Path], None]],
    check: bool,
) -> None:
    """Show a result, write it, draw it and judge it. `draw()` imports what draws. Not measured is not met."""
    show(console, result)
    if json is not None:
        result.write(json)
    if plot is not None:
        draw()(result, plot)
    measured = [bar for bar in bars if bar.key in result.summary]
    verdicts = judge(measured, result.summary)
    show_verdicts(console, verdicts)
    if check and (len(measured) < len(bars) or not all(verdict.met for verdict in verdicts)):
        raise typer.Exit(1)

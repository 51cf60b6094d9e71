"""The ways from a request to its first token, each timed the same."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch

from objectcache.bench.machine import drop_page_cache
from objectcache.bench.ttft.settings import Cell
from objectcache.bench.ttft.timeline import Recorder, Timeline
from objectcache.bench.ttft.world import World
from objectcache.cache.base import CHUNKWISE, Match, RetrieveOptions, whole_match
from objectcache.client import GatewayCache
from objectcache.device import BlockTable, DeviceAhead, DeviceLoader, Places
from objectcache.keys import KeyChain

_CUDA: Any = torch.cuda  # untyped

RESIDENT = "resident"
LOCAL = "local DRAM"
LAYERWISE = "layerwise"
CHUNKWISE_PATH = "chunkwise"
SERVER_MODE = "server's mode"
LOCAL_FIRST = "first layers local"
SPLIT = "split"
SPLIT_AT = "split at"
RECOMPUTE = "recompute"


@dataclass(frozen=True)
class Run:
    """`ttft_ms` from the request to the first token's number on the host; `logits` that it was taken from."""

    ttft_ms: float
    logits: torch.Tensor
    timeline: Timeline


class Path(ABC):
    """A way, in one cell. `loads`: the prefix is not in place before it runs. `captured`: its first step is launched
    from graphs, as engines do it."""

    loads = True
    captured = True

    def __init__(self, world: World, cell: Cell) -> None:
        self.world = world
        self.cell = cell

    def run(self) -> Run:
        run = self._run()
        while self.world.model.capture_missing():  # launched kernel by kernel, its time is another one
            run = self._run()
        return run

    def _run(self) -> Run:
        world = self.world
        world.put_prefix(self.cell, there=not self.loads)
        self.prepare()
        world.sync()
        recorder = Recorder(world.device)
        logits = self.prefill(recorder)
        int(logits.argmax())  # the first token is on the host
        ttft_ms = recorder.now_ms()
        world.sync()
        timeline = recorder.finish()
        self.finish(recorder)
        return Run(ttft_ms, logits, timeline)

    def prepare(self) -> None:  # noqa: B027 - most have nothing to do
        """Before the clock starts."""

    @abstractmethod
    def prefill(self, recorder: Recorder) -> torch.Tensor:
        """Load what is to be loaded and compute the rest."""

    def finish(self, recorder: Recorder) -> None:  # noqa: B027 - most have nothing to do
        """After the clock has stopped."""

    def compute(self, recorder: Recorder, wait: Callable[[int], None], first: int | None = None) -> torch.Tensor:
        """The steps of the prefill from token `first` on (default: the stored prefix's end); the first step waits."""
        world, cell = self.world, self.cell
        steps = cell.steps(world.shape.chunk_tokens)
        if first is not None:
            steps = [(first, steps[0][1]), *steps[1:]]
        logits = torch.empty(0)
        for index, (start, stop) in enumerate(steps):
            tokens = world.tokens[start:stop]
            if index:
                logits = world.model.prefill(tokens, start)
            else:
                logits = world.model.prefill(
                    tokens,
                    start,
                    before_attention=recorder.waiting(wait),
                    after_layer=recorder.computed,
                    captured=self.captured,
                )
        return logits


class Resident(Path):
    """The prefix is in the device's cache: all of it, or its tokens before `first`."""

    loads = False

    def __init__(self, world: World, cell: Cell, first: int | None = None) -> None:
        super().__init__(world, cell)
        self._first = first

    def prefill(self, recorder: Recorder) -> torch.Tensor:
        return self.compute(recorder, lambda layer: None, first=self._first)


class Recompute(Path):
    """There is no prefix, and the host is always ahead of the device."""

    captured = False

    def prefill(self, recorder: Recorder) -> torch.Tensor:
        return self.compute(recorder, lambda layer: None, first=0)


class LocalDram(Path):
    """The prefix is in pinned memory, as the device wants it: two copies a layer, no scatter. The baseline."""

    def __init__(self, world: World, cell: Cell) -> None:
        super().__init__(world, cell)
        self._stream = new_stream(world.device)

    def prefill(self, recorder: Recorder) -> torch.Tensor:
        copied = copy_all(self.world, self.cell, self._stream)

        def wait(layer: int) -> None:
            if self._stream is not None:
                _CUDA.current_stream().wait_event(copied[layer])

        return self.compute(recorder, wait)


def new_stream(device: torch.device) -> Any:
    """None where there are none."""
    return _CUDA.Stream() if device.type == "cuda" else None


@torch.inference_mode()
def copy_all(world: World, cell: Cell, stream: Any) -> list[Any]:
    """Queue the copies of all layers from pinned memory; the moments when each is there."""
    prefix = cell.prefix_tokens(world.shape.chunk_tokens)
    copied: list[Any] = []
    with ExitStack() as stack:
        if stream is not None:
            stack.enter_context(_CUDA.stream(stream))
        for layer, held in enumerate(world.local):
            for states, host in zip(world.model.keys_values(layer), held, strict=True):
                states[:prefix].copy_(host[:prefix], non_blocking=True)
            copied.append(stream.record_event() if stream is not None else None)
    return copied


class Through(Path):
    """Through the gateway: match, retrieve, and layers to the device as they land."""

    def __init__(
        self,
        world: World,
        cell: Cell,
        cache: GatewayCache,
        loader: DeviceLoader,
        *,
        layers_per_unit: int = 1,
        windows_s: Sequence[float] = (),
        tiering: Any = None,
        load: Callable[[Match, float | None], int] | None = None,
    ) -> None:
        """`tiering`: the client's tier for this path; None for none. `load(whole, rate_bytes_s)` says how many tokens
        are loaded of the whole prefix at the rate that was promised last (None: none was), before anything is asked for
        (default: all); the rest is computed."""
        super().__init__(world, cell)
        self._cache = cache
        self._loader = loader
        self._options = RetrieveOptions(layers_per_unit=layers_per_unit, windows_s=tuple(windows_s))
        self._tiering = tiering
        self._load = load
        self._promised_bytes_s: float | None = None
        self._chunks = cell.prefix_tokens(world.shape.chunk_tokens) // world.shape.chunk_tokens
        self._tables: dict[int, BlockTable] = {}
        self._open: list[Any] = []
        self._trace = ""

    def prepare(self) -> None:
        self._trace = secrets.token_hex(8)
        self._cache.tiering = self._tiering
        if self.cell.stored == "disk":
            drop_page_cache(self.world.gateway("disk").data)

    def prefill(self, recorder: Recorder) -> torch.Tensor:
        tokens = self.begin(recorder)
        return self.compute(recorder, self.wait, first=tokens)

    def begin(self, recorder: Recorder) -> int:
        """Match, and have what is to be loaded sent, in one where that is all: its tokens."""
        world = self.world
        chain = world.chain[: self._chunks]
        options = replace(self._options, trace=self._trace)
        most_tokens = None
        if self._load is not None:
            most_tokens = self._load(whole_match(world.namespace, chain), self._promised_bytes_s)
        with ExitStack() as stack:
            ahead = None
            if self._tiering is not None:
                wanted = whole_match(world.namespace, chain).bounded(most_tokens)
                ahead = stack.enter_context(self._loader.ahead(self._places(wanted.tokens), idle=True))
            return self._ask(recorder, chain, options, most_tokens, ahead)

    def _ask(
        self,
        recorder: Recorder,
        chain: KeyChain,
        options: RetrieveOptions,
        most_tokens: int | None,
        ahead: DeviceAhead | None,
    ) -> int:
        world, cache = self.world, self._cache
        if most_tokens == 0:
            match, retrieval = cache.match(world.namespace, chain), None
        else:
            match, retrieval = cache.match_and_retrieve(
                world.namespace, chain, options=options, most_tokens=most_tokens, ahead=ahead
            )
        recorder.timeline.matched_ms = recorder.now_ms()
        tokens = match.bounded(most_tokens).tokens
        if match.lease is not None:
            self._promised_bytes_s = match.lease.rate_bytes_s
        if retrieval is None:
            self._open = [match, None, None]
            return 0
        recorder.timeline.answered_ms = recorder.now_ms()
        loading = self._loader.load(retrieval, self._places(tokens), ahead=ahead, idle=True)
        self._open = [match, retrieval, loading]
        return tokens

    def wait(self, layer: int) -> None:
        """Until the layer is in place, if it is loaded."""
        loading = self._open[2]
        if loading is not None:
            loading.wait(layer)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will land: all has, the load failed, or there is none."""
        _, retrieval, loading = self._open
        return retrieval is None or retrieval.complete or loading.error is not None

    def landed_s(self) -> list[float]:
        """When layers landed, as far as they have: seconds of time.perf_counter. A load must be under way."""
        retrieval = self._open[1]
        landed = (retrieval.landed_s(layer) for layer in range(len(self.world.layers)))
        return [at_s for at_s in landed if at_s is not None]

    def _places(self, tokens: int) -> Places:
        """Of the first `tokens`. The table is kept: it stands for what an engine has made by then."""
        if tokens not in self._tables:
            self._tables[tokens] = self.world.table(tokens)
        table = self._tables[tokens]
        return {(0, layer): paged.at(table) for layer, paged in enumerate(self.world.layers)}

    def finish(self, recorder: Recorder) -> None:
        match, retrieval, loading = self._open
        self._cache.release(match)
        if retrieval is None:
            return
        landed = [retrieval.landed_s(layer) for layer in range(len(self.world.layers))]
        recorder.timeline.landed_ms = [recorder.since_start_ms(at_s) for at_s in landed]
        if recorder.on_device:
            recorder.placed([loading.placed(layer) for layer in range(len(landed))])
        loading.close()
        sent_s = self.world.gateway(self.cell.stored).sent_s(self._trace)
        if len(sent_s) == len(landed):  # what the local tier had was not sent
            recorder.timeline.sent_ms = [recorder.since_start_ms(at_s) for _, at_s in sorted(sent_s.items())]

    def fill_tier(self) -> None:
        """Have the tier keep its first layers and map them, as a first request for the prefix would."""
        self.run()
        self._tiering.settle()


def path_of(name: str) -> dict[str, Any]:
    """What a path through the gateway is made with."""
    per_unit = {CHUNKWISE_PATH: CHUNKWISE, SERVER_MODE: 0}
    return {"layers_per_unit": per_unit.get(name, 1)}

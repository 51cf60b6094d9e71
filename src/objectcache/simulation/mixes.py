"""Mixes of requests that share one link: drawn with a fixed seed, so that policies are compared on the same ones."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

BYTES_PER_TOKEN = 128 * 1024  # Llama 3.1 8B in bf16
LAYERS = 32
H100_WINDOWS_S = {
    (4096, 0.5): 2.0e-3,
    (4096, 0.75): 1.2e-3,
    (4096, 0.875): 0.70e-3,
    (4096, 0.9375): 0.62e-3,
    (16384, 0.5): 11.1e-3,
    (16384, 0.75): 6.3e-3,
    (16384, 0.875): 3.4e-3,
    (16384, 0.9375): 1.9e-3,
    (65536, 0.5): 105.9e-3,
    (65536, 0.75): 60.1e-3,
    (65536, 0.875): 30.8e-3,
    (65536, 0.9375): 15.9e-3,
}
"""Seconds that a layer of Llama 3.1 8B computes beside a load of (context tokens, hit rate), as measured on an H100."""
WINDOWS_S = {shape: window_s for shape, window_s in H100_WINDOWS_S.items() if shape[1] in (0.5, 0.875)}
"""Those that mixes are drawn from."""
CAPS_BYTES_S = (12.5e9, 6.25e9, 3.125e9)
FEWEST_REQUESTS, MOST_REQUESTS = 4, 16
NEXT_TO_NOTHING_S = 5e-3


@dataclass(frozen=True, slots=True)
class MixRequest:
    """One retrieval, asked for at `arrival_s`: `layers` units of `layer_bytes`, each followed by `window_s` compute."""

    arrival_s: float
    context_tokens: int
    hit: float
    layers: int
    layer_bytes: int
    window_s: float

    @property
    def total_bytes(self) -> int:
        return self.layers * self.layer_bytes


@dataclass(frozen=True, slots=True)
class Mix:
    """Requests, by arrival, that share a link of `cap_bytes_s`."""

    requests: tuple[MixRequest, ...]
    cap_bytes_s: float


def draw_mixes(seed: int, count: int) -> tuple[Mix, ...]:
    """`count` mixes of 4 to 16 requests, caps and kinds of arrival in turn, so that any first few are balanced.

    Requests arrive at once, or spread evenly at random over half of the time that all their bytes take. Mixes to which
    equal sharing adds less than 5 ms a request on the mean are drawn anew: nothing is to be gained in them.
    """
    random = Random(seed)
    mixes: list[Mix] = []
    while len(mixes) < count:
        cap = CAPS_BYTES_S[len(mixes) % len(CAPS_BYTES_S)]
        spread = len(mixes) // len(CAPS_BYTES_S) % 2 == 1
        mix = _drawn(random, cap, spread)
        added = equally_shared_s(mix)
        if sum(added) / len(added) >= NEXT_TO_NOTHING_S:
            mixes.append(mix)
    return tuple(mixes)


def _drawn(random: Random, cap_bytes_s: float, spread: bool) -> Mix:
    shapes = [random.choice(list(WINDOWS_S)) for _ in range(random.randint(FEWEST_REQUESTS, MOST_REQUESTS))]
    span_s = sum(context * hit for context, hit in shapes) * BYTES_PER_TOKEN / cap_bytes_s / 2 if spread else 0.0
    arrivals = sorted(random.uniform(0.0, span_s) for _ in shapes)
    requests = (
        MixRequest(
            arrival_s=arrival - arrivals[0],
            context_tokens=context,
            hit=hit,
            layers=LAYERS,
            layer_bytes=int(context * hit) * BYTES_PER_TOKEN // LAYERS,
            window_s=WINDOWS_S[context, hit],
        )
        for arrival, (context, hit) in zip(arrivals, shapes, strict=True)
    )
    return Mix(tuple(requests), cap_bytes_s)


def equally_shared_s(mix: Mix) -> tuple[float, ...]:
    """Added TTFT of each request, were the link shared equally among those under way. In closed form, no scheduler."""
    waiting = list(enumerate(mix.requests))
    sent = [0.0] * len(waiting)
    added = [0.0] * len(waiting)
    active: list[int] = []
    now_s = 0.0
    while waiting or active:
        arrival_s = waiting[0][1].arrival_s if waiting else float("inf")
        rate = mix.cap_bytes_s / max(1, len(active))
        ends_s = [now_s + (mix.requests[number].total_bytes - sent[number]) / rate for number in active]
        until_s = min([arrival_s, *ends_s])
        for number, end_s in zip(list(active), ends_s, strict=True):
            request = mix.requests[number]
            before = int(sent[number] / request.layer_bytes + 1e-9)
            sent[number] += (until_s - now_s) * rate
            if end_s <= until_s:
                sent[number] = request.total_bytes
                active.remove(number)
            after = int(sent[number] / request.layer_bytes + 1e-9)
            for layer in {before, after - 1} if after > before else ():  # lateness is linear in between
                landed_s = until_s - (sent[number] - (layer + 1) * request.layer_bytes) / rate
                late_s = landed_s - request.arrival_s - layer * request.window_s
                added[number] = max(added[number], late_s)
        if until_s == arrival_s:
            active.append(waiting.pop(0)[0])
        now_s = until_s
    return tuple(added)

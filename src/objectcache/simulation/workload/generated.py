"""Workloads that are drawn: arrivals at random, in bursts, or as conversations of several turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from random import Random

from objectcache.errors import ConfigError
from objectcache.simulation.workload.arrival import Arrival

CONTEXTS = (4096, 16384, 65536)
HITS = (0.5, 0.875)
BURST_REQUESTS = 32
TURN_TOKENS, OUTPUT_TOKENS = (64, 4096), (32, 1024)
"""Fewest and most that a turn of a conversation adds: of the user's, or of a tool's, and the engine's own."""
THINK_S = 20.0
MEAN_TURNS = 6
"""Of a conversation whose context does not become too large before."""
_SAMPLED = 500


@dataclass(frozen=True, slots=True)
class Generated:
    """`requests` of them, `rate` a second on the long mean. `contexts` in tokens and `hits` as a fraction are drawn
    evenly; conversations begin with a context of `contexts`, whose hit is drawn, and grow up to the largest."""

    kind: str
    requests: int
    rate: float
    contexts: tuple[int, ...] = CONTEXTS
    hits: tuple[float, ...] = HITS
    seed: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"workloads that can be drawn are {', '.join(KINDS)}, got {self.kind!r}")
        if self.requests < 1 or self.rate <= 0:
            raise ConfigError(f"at least one request, at a positive rate: got {self.requests} at {self.rate}")
        if not self.contexts or min(self.contexts) < 2:
            raise ConfigError(f"contexts have at least two tokens, got {self.contexts}")
        if not self.hits or not all(0 <= hit <= 1 for hit in self.hits):
            raise ConfigError(f"hits are fractions, got {self.hits}")

    def arrivals(self) -> tuple[Arrival, ...]:
        """By arrival, the same for the same settings."""
        return KINDS[self.kind](self, Random(self.seed))

    def drawn(self, random: Random, arrival_s: float) -> Arrival:
        context, hit = random.choice(self.contexts), random.choice(self.hits)
        return Arrival(arrival_s, context, min(int(context * hit), context - 1), random.randint(*OUTPUT_TOKENS))


def _poisson(wanted: Generated, random: Random) -> tuple[Arrival, ...]:
    now_s = 0.0
    arrivals = []
    for _ in range(wanted.requests):
        arrivals.append(wanted.drawn(random, now_s))
        now_s += random.expovariate(wanted.rate)
    return tuple(arrivals)


def _bursts(wanted: Generated, random: Random) -> tuple[Arrival, ...]:
    """Bursts come at random, of 1 to twice `BURST_REQUESTS` - 1 requests at once."""
    now_s = 0.0
    arrivals: list[Arrival] = []
    while len(arrivals) < wanted.requests:
        count = min(random.randint(1, 2 * BURST_REQUESTS - 1), wanted.requests - len(arrivals))
        arrivals += [wanted.drawn(random, now_s) for _ in range(count)]
        now_s += random.expovariate(wanted.rate / BURST_REQUESTS)
    return tuple(arrivals)


def _conversations(wanted: Generated, random: Random) -> tuple[Arrival, ...]:
    """A turn's prefix is all that was said before. The next turn comes a pause after it, whatever became of it.

    Conversations have begun long before 0, so that turns come at the same rate from there on.
    """
    now_s = -2 * MEAN_TURNS * THINK_S
    sample = Random(wanted.seed)
    mean_turns = sum(1 for _ in range(_SAMPLED) for _ in _turns(wanted, sample, 0.0)) / _SAMPLED
    turns: list[tuple[float, int, Arrival]] = []  # still to come, of conversations that have begun
    arrivals: list[Arrival] = []
    count = 0
    while True:
        while turns and turns[0][0] < now_s:
            arrivals.append(heappop(turns)[2])
            if len(arrivals) == wanted.requests:
                return tuple(arrivals)
        source = f"conversation {count}"
        for at_s, turn in _turns(wanted, random, now_s):
            if at_s >= 0:
                heappush(turns, (at_s, count, replace(turn, arrival_s=at_s, source=source)))
        count += 1
        now_s += random.expovariate(wanted.rate / mean_turns)


def _turns(wanted: Generated, random: Random, now_s: float) -> Iterator[tuple[float, Arrival]]:
    turn = wanted.drawn(random, 0.0)
    for _ in range(1 + int(random.expovariate(1 / (MEAN_TURNS - 1)))):
        yield now_s, turn
        now_s += random.expovariate(1 / THINK_S)
        hit = turn.context_tokens + turn.output_tokens
        context = hit + random.randint(*TURN_TOKENS)
        if context > max(wanted.contexts):
            return
        turn = Arrival(0.0, context, hit, random.randint(*OUTPUT_TOKENS))


KINDS: Mapping[str, Callable[[Generated, Random], tuple[Arrival, ...]]] = {
    "poisson": _poisson,
    "bursts": _bursts,
    "conversations": _conversations,
}

"""What `bench vllm` measures: a model's shape, prompts, and how often."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from objectcache.bench.result import MIN_PAIRS
from objectcache.errors import ConfigError

LMCACHE_CHUNK_TOKENS = 256
"""Its default: a prefix of whole chunks can be found again."""
_FIRST_TOKEN = 3
"""Those before it have a meaning."""


@dataclass(frozen=True, slots=True)
class Llama:
    """A Llama's shape. Every query head has keys and values of its own."""

    hidden: int = 768
    layers: int = 12
    heads: int = 12
    intermediate: int = 2560
    vocabulary: int = 512

    @property
    def parameters(self) -> int:
        """Without the norms."""
        per_layer = 4 * self.hidden**2 + 3 * self.hidden * self.intermediate
        return self.layers * per_layer + 2 * self.vocabulary * self.hidden

    def kv_bytes(self, tokens: int) -> int:
        """In float32."""
        return tokens * self.layers * 2 * self.hidden * 4


QUICK_LLAMA = Llama(hidden=256, layers=4, heads=4, intermediate=512)


@dataclass(frozen=True)
class VllmBenchSettings:
    """Prompts are a stored prefix of `prefix_tokens` and `new_tokens` behind it; there are `pairs` of them, each is
    measured once on every path. `decode_tokens` are decoded beside a stalled store and without one, `stalls` times in
    turn. `peer_python` is an interpreter with vLLM and LMCache (None: there is none). All engines have blocks of
    `block_tokens` and float32, in which greedy tokens are equal on all paths, and are compared.

    A quick run has fewer pairs than a ratio needs and says so. Raises ConfigError.
    """

    llama: Llama = field(default_factory=Llama)
    prefix_tokens: int = 2048
    new_tokens: int = 512
    block_tokens: int = 128
    pairs: int = MIN_PAIRS
    decode_tokens: int = 300
    stalls: int = MIN_PAIRS
    peer_python: Path | None = None
    data: Path | None = None
    quick: bool = False
    seed: int = 1

    def __post_init__(self) -> None:
        if self.block_tokens < 32 or self.block_tokens % 32:
            raise ConfigError(f"vLLM's blocks on a CPU are multiples of 32 tokens, got {self.block_tokens}")
        for size, what in ((self.block_tokens, "blocks"), (LMCACHE_CHUNK_TOKENS, "LMCache's chunks")):
            if self.prefix_tokens < size or self.prefix_tokens % size:
                raise ConfigError(f"the prefix must be whole {what} of {size} tokens, got {self.prefix_tokens}")
        if self.new_tokens < 1 or self.decode_tokens < 1:
            raise ConfigError("at least one token must be computed")
        for number, what in ((self.pairs, "pairs"), (self.stalls, "stalls")):
            if number < 1 or (number < MIN_PAIRS and not self.quick):
                raise ConfigError(
                    f"a ratio needs at least {MIN_PAIRS} {what}, got {number} (fewer only in a quick run)"
                )

    def prefix(self, number: int) -> list[int]:
        """Tokens of a prefix that is stored."""
        return self._tokens(f"prefix {number}", self.prefix_tokens)

    def prompt(self, number: int) -> list[int]:
        """That prefix, and new tokens."""
        return self.prefix(number) + self._tokens(f"new {number}", self.new_tokens)

    def stranger(self, number: int) -> list[int]:
        """As many tokens as new ones, of which nothing is stored."""
        return self._tokens(f"stranger {number}", self.new_tokens)

    def _tokens(self, name: str, count: int) -> list[int]:
        numbers = random.Random(f"{self.seed} {name}")
        return [numbers.randrange(_FIRST_TOKEN, self.llama.vocabulary) for _ in range(count)]

    @property
    def max_tokens(self) -> int:
        """Of the longest request."""
        return self.prefix_tokens + self.new_tokens + self.decode_tokens + 1

    def to_dict(self) -> dict[str, Any]:
        """What a reader needs to repeat it: no paths."""
        left_out = ("data", "quick", "peer_python")
        kept = {name: value for name, value in asdict(self).items() if name not in left_out}
        return kept | {"parameters": self.llama.parameters, "prefix_bytes": self.llama.kv_bytes(self.prefix_tokens)}

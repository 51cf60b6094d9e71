"""What is asked, and what vLLM answers without the connector."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tests.vllm.engines import MAX_TOKENS, Output, Run
from tests.vllm.models import BLOCK_TOKENS, VOCABULARY
from tests.vllm.pool import Engines

LOGPROB_TOLERANCE = 2e-3
"""Of float32, computed in other pieces."""

Prompt = list[int]


def tokens(name: str, count: int) -> Prompt:
    """Always the same ones."""
    numbers = random.Random(name)
    return [numbers.randrange(3, VOCABULARY) for _ in range(count)]


def full(model: str, count: int) -> int:
    """Of a prompt of `count` tokens, those that a hit can bring: full blocks, and never the last token."""
    return (count - 1) // BLOCK_TOKENS[model] * BLOCK_TOKENS[model]


class References:
    """Each prompt is asked once."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines
        self._known: dict[tuple[str, int, tuple[int, ...]], Output] = {}

    def __call__(self, model: str, prompts: Sequence[Prompt], *, max_tokens: int = MAX_TOKENS) -> list[Output]:
        names = [(model, max_tokens, tuple(prompt)) for prompt in prompts]
        unknown = list({name: None for name in names if name not in self._known})
        if unknown:
            with self._engines.taken() as taken:
                run = taken(model).run([name[2] for name in unknown], max_tokens=max_tokens)
            for name, output in zip(unknown, run.outputs, strict=True):
                assert output is not None
                self._known[name] = output
        return [self._known[name] for name in names]


def assert_same(run: Run, expected: Sequence[Output | None]) -> None:
    """The same tokens, and as likely; None in `expected`: an aborted request, of which nothing is asked."""
    for number, (output, reference) in enumerate(zip(run.outputs, expected, strict=True)):
        if reference is None:
            continue
        assert output is not None, f"request {number} ended without an answer"
        assert output.tokens == reference.tokens, f"request {number}: {output} is not {reference}"
        apart = max(abs(one - other) for one, other in zip(output.logprobs, reference.logprobs, strict=True))
        assert apart < LOGPROB_TOLERANCE, f"request {number}: logprobs are {apart} apart"


def assert_hit(run: Run, count: int) -> None:
    """`count` tokens were loaded: vLLM also counts those that failed to come after they had been announced."""
    assert run.loaded == count, run.counted
    assert run.of("failures") == 0, run.counted
    assert run.of("loaded_bytes") > 0 or not count
